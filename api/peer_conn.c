/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections on the loop (see peer_conn.h).
 *
 * Invariant: the source waits for room in the socket exactly while out has bytes that were not
 * sent, and for bytes unless the connection is paused; for the end of the connection always.
 *
 * Thread: as the header says.
 */
#include "api/peer_conn.h"

#include <errno.h>

#include "base/list.h"
#include "base/mem.h"

enum { OUT_KEPT_BYTES_MAX = 1 << 20 }; /* memory that a connection with nothing to send keeps */

static void source_ready(struct peer_source *source, uint32_t events)
{
    struct peer_conn *c = container_of(source, struct peer_conn, source);

    c->ready(c, events);
}

static void interest_update(struct peer_conn *c)
{
    uint32_t events = EPOLLRDHUP;

    if (!c->paused)
        events |= c->io.read_waits;
    if (peer_conn_pending(c) > 0)
        events |= c->io.write_waits;
    peer_source_set(c->loop, &c->source, events);
}

int peer_conn_new(struct peer_conn **ret, struct peer_loop *l, const struct peer_io *io)
{
    struct peer_conn *c = mem_new(struct peer_conn);

    c->loop = l;
    c->io = *io;
    c->source = (struct peer_source){.ready = source_ready, .fd = io->fd};
    int r = peer_source_add(l, &c->source, EPOLLRDHUP | io->read_waits);
    if (r != 0) {
        peer_io_close(&c->io);
        free(c);
        return r;
    }
    *ret = c;
    return 0;
}

struct peer_io peer_conn_release(struct peer_conn *c)
{
    struct peer_io io = c->io;

    peer_source_remove(c->loop, &c->source);
    buf_deinit(&c->out);
    free(c);
    return io;
}

struct peer_conn *peer_conn_free(struct peer_conn *c)
{
    if (!c)
        return NULL;
    struct peer_io io = peer_conn_release(c);
    peer_io_close(&io);
    return NULL;
}

void peer_conn_own(struct peer_conn *c, void (*ready)(struct peer_conn *, uint32_t), void *owner)
{
    c->ready = ready;
    c->owner = owner;
}

/* Forgets what was sent: all of it, or the greater half. */
static void out_trim(struct peer_conn *c)
{
    size_t rest = peer_conn_pending(c);

    if (rest == 0) {
        buf_clear(&c->out);
        if (c->out.cap > OUT_KEPT_BYTES_MAX)
            buf_deinit(&c->out);
    } else if (c->sent >= rest) {
        memmove(c->out.data, c->out.data + c->sent, rest);
        c->out.len = rest;
    } else {
        return;
    }
    c->sent = 0;
}

int peer_conn_flush(struct peer_conn *c, size_t bytes_max)
{
    ssize_t n = 0;

    while (peer_conn_pending(c) > 0 && bytes_max > 0) {
        size_t len = peer_conn_pending(c) < bytes_max ? peer_conn_pending(c) : bytes_max;
        n = c->io.ops->write(&c->io, c->out.data + c->sent, len);
        if (n < 0)
            break;
        c->sent += (size_t)n;
        bytes_max -= (size_t)n;
    }
    if (n < 0 && n != -EAGAIN)
        return (int)n;
    out_trim(c);
    interest_update(c);
    return peer_conn_pending(c) > 0 ? PEER_CONN_MORE : 0;
}

ssize_t peer_conn_read(struct peer_conn *c, void *data, size_t len)
{
    uint32_t waits = c->io.read_waits;
    ssize_t n = c->io.ops->read(&c->io, data, len);

    if (c->io.read_waits != waits)
        interest_update(c);
    return n;
}

void peer_conn_pause(struct peer_conn *c, bool paused)
{
    c->paused = paused;
    interest_update(c);
}
