/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bidirectional stream: a call that stays open while messages go both ways.
 *
 *   stream_start() ─> stream_receive() ─> received() ─> stream_receive() ...  one asked for
 *                     stream_send() ───> sent() ──────> stream_send() ...     one under way
 *                     call_wake() ─────> woken()                              from any thread
 *                          └─> call_answer(): by the handler, or because the client or the server
 *                              ends it; then ended(), and nothing comes any more
 *
 * The handler asks for each message, so a client is read no faster than it is served; what it has
 * sent beforehand waits in gRPC's window (512 KiB) and then in the client.
 *
 * Thread: the call's queue.
 */
#pragma once

#include "api/call.h"

struct stream_handler {
    /* The next message: call->message. It, and all that lies in the call's arena, lives until the
     * next stream_receive(). */
    void (*received)(struct call *call);
    /* Instead of a message: the client sends no more. It may go on listening. */
    void (*half_closed)(struct call *call);
    /* The message has left, or stands in the line to the client's socket. */
    void (*sent)(struct call *call);
    /* call_wake(), and nothing is under way; together with other calls that have something to send.
     */
    void (*woken)(struct call *call);
    /* The stream is being answered. */
    void (*ended)(struct call *call);
};

enum stream_more {
    STREAM_FLUSH,
    STREAM_MORE /* another message follows at once: gRPC may wait for it with its write */
};

void stream_start(struct call *call, const struct stream_handler *handler);
void stream_receive(struct call *call);
/* Asks for the next message, as stream_receive() does. True: it is there, or the end of the stream;
 * it waits for stream_take(). */
bool stream_receive_now(struct call *call);
/* Hands out what waits. False: it was no message but the end, of which the handler has heard; if it
 * answers the call then, with call->last, request.response goes out with the status. */
bool stream_take(struct call *call);
/* Sends request.response, which is empty then, or what call_set_message() got. True: it has left
 * already, and sent() is not called. */
bool stream_send(struct call *call, enum stream_more more);
bool stream_is_sending(const struct call *call);

/* ---- for call.c ---- */

void stream_wake(struct call *call);
/* The call is answered. False: not yet sent, because a message is under way. */
bool stream_stop(struct call *call);
struct stream *stream_free(struct stream *s);
