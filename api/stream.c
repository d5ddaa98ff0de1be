/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What gRPC is asked for: one message to be received, one to be sent. The notice that the call is
 * over is not asked for while the client may send, because a receive that fails says the same:
 * Debian's gRPC looks through all that was asked for at each event, and of streams there may be
 * many thousands. It is asked for when the client has half-closed, or else nobody would see it go;
 * and mostly it comes at once, because a client that is done half-closes and cancels in one breath.
 *
 * A stream is in phase CALL_OPEN from its start to its answer, so client and server can end it at
 * any time (call_end_early()). gRPC wants no status behind a message that is under way; the answer
 * waits for that.
 *
 * Thread: the call's queue. Invariants:
 *  1. Each of the two events is under way at most once, and counted in call->n_events.
 *  2. No handler function is called after ended().
 */
#include "api/stream.h"

#include "base/check.h"
#include "base/mem.h"

struct stream {
    struct call *call;
    const struct stream_handler *handler;
    struct queue_event received, sent;
    bool receiving;
    bool sending;
};

static void stream_lose_client(struct call *call)
{
    call->cancelled = true;
    call_end_early(call, OUTCOME_CANCELED);
}

/* It ends as the handler says, also if the client has gone away by now, as most have. */
static void stream_half_close(struct call *call)
{
    call->phase = CALL_RUNS; /* call_watch() ends what waits */
    call_watch(call);
    call->phase = CALL_OPEN;
    call->stream->handler->half_closed(call);
    if (call->cancelled)
        call_end_early(call, OUTCOME_CANCELED);
}

static void stream_over(struct call *call)
{
    if (grpc_call_failed_before_recv_message(call->grpc))
        stream_lose_client(call);
    else
        stream_half_close(call);
}

bool stream_take(struct call *call)
{
    if (!call->received) {
        stream_over(call);
        return false;
    }
    if (!call_decode(call))
        return false;
    call->stream->handler->received(call);
    return true;
}

static void stream_received(struct stream *s)
{
    s->receiving = false;
    s->call->n_events--;
}

static void on_received(struct queue_event *event, bool ok)
{
    struct stream *s = container_of(event, struct stream, received);
    struct call *call = s->call;
    stream_received(s);
    if (call->phase == CALL_OPEN)
        stream_take(call);
    else
        call_let_go(call);
}

static grpc_op stream_receive_op(struct call *call)
{
    struct stream *s = call->stream;
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    check(!s->receiving && call->phase == CALL_OPEN);
    s->receiving = true;
    call->message = NULL;
    grpc_byte_buffer_destroy(call->received);
    call->received = NULL;
    call_trim(call);
    op.data.recv_message.recv_message = &call->received;
    call->n_events++;
    return op;
}

void stream_receive(struct call *call)
{
    grpc_op op = stream_receive_op(call);
    check(grpc_call_start_batch(call->grpc, &op, 1, &call->stream->received, NULL) == GRPC_CALL_OK);
}

bool stream_receive_now(struct call *call)
{
    struct stream *s = call->stream;
    grpc_op op = stream_receive_op(call);
    if (!queue_try_batch(call->queue, call->grpc, &op, 1, &s->received))
        return false;
    stream_received(s);
    return true;
}

static void stream_sent(struct stream *s)
{
    s->sending = false;
    s->call->n_events--;
    grpc_byte_buffer_destroy(s->call->sent);
    s->call->sent = NULL;
}

static void on_sent(struct queue_event *event, bool ok)
{
    struct stream *s = container_of(event, struct stream, sent);
    struct call *call = s->call;
    stream_sent(s);
    if (call->phase == CALL_ANSWERED) {
        queue_answer(call->queue, call);
    } else if (!ok) {
        stream_lose_client(call);
    } else {
        s->handler->sent(call);
    }
}

bool stream_send(struct call *call, enum stream_more more)
{
    struct stream *s = call->stream;
    grpc_op ops[CALL_MESSAGE_OPS_MAX];
    check(!s->sending && call->phase == CALL_OPEN);
    s->sending = true;
    size_t n = call_message_ops(call, ops, more == STREAM_FLUSH);
    if (!queue_try_batch(call->queue, call->grpc, ops, n, &s->sent))
        return false;
    stream_sent(s);
    return true;
}

bool stream_is_sending(const struct call *call)
{
    return call->stream->sending;
}

void stream_wake(struct call *call)
{
    call->stream->handler->woken(call);
}

/* ---- life ---- */

void stream_start(struct call *call, const struct stream_handler *handler)
{
    struct stream *s = mem_new(struct stream);
    s->call = call;
    s->handler = handler;
    s->received.run = on_received;
    s->sent.run = on_sent;
    call->stream = s;
    call->phase = CALL_OPEN;
    queue_count_streams(call->queue, 1);
}

bool stream_stop(struct call *call)
{
    queue_count_streams(call->queue, -1);
    call->stream->handler->ended(call);
    return !call->stream->sending;
}

struct stream *stream_free(struct stream *s)
{
    free(s);
    return NULL;
}
