/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection on the loop: its socket and what is still to be written to it. It has one owner at a
 * time, who is called when the socket is ready, and may be passed on to another.
 *
 * Thread: the loop. A stream's writer (peer_writer.h) writes from another thread as well, under its
 * own lock.
 */
#pragma once

#include "api/peer_io.h"
#include "api/peer_loop.h"

struct peer_conn {
    struct peer_source source;
    struct peer_loop *loop;
    struct peer_io io;
    struct buf out;
    size_t sent;                                         /* of out */
    bool paused;                                         /* nothing is read now */
    void (*ready)(struct peer_conn *c, uint32_t events); /* the owner's */
    void *owner;
};

/* Takes the io, also on failure. */
int peer_conn_new(struct peer_conn **ret, struct peer_loop *l, const struct peer_io *io);
struct peer_conn *peer_conn_free(struct peer_conn *c); /* closes; accepts NULL */
/* The io goes to the caller, the rest is freed. */
struct peer_io peer_conn_release(struct peer_conn *c);
void peer_conn_own(struct peer_conn *c, void (*ready)(struct peer_conn *, uint32_t), void *owner);

enum { PEER_CONN_MORE = 1 }; /* outcome: not all is written, the loop goes on when it can */

static inline size_t peer_conn_pending(const struct peer_conn *c)
{
    return c->out.len - c->sent;
}
/* Writes what it can, at most bytes_max. Negative: the connection is over. */
int peer_conn_flush(struct peer_conn *c, size_t bytes_max);
/* As peer_io_ops.read. */
ssize_t peer_conn_read(struct peer_conn *c, void *data, size_t len);
void peer_conn_pause(struct peer_conn *c, bool paused);
