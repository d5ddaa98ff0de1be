/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream to another member, which that member has dialled: what we say to it in raft's name, and
 * a link heartbeat every 5/3 s.
 *
 *   no stream ──attach──> stream ──write fails, 5 s without progress, or it ends──> no stream
 *                         │    ▲
 *                         └────┘ a newer one takes its place
 *
 * Raft's thread encodes a batch straight into the connection's buffer, as one chunk of the HTTP
 * body, and writes it itself: that saves the wake-up of another thread on the way from member to
 * member. Only what the socket does not take at once, or what is much, is left to the loop.
 *
 * I1. conn, codec and out change under the lock; the connection comes and goes on the loop. Raft's
 * thread never closes: it notes the error, shuts the socket down, and the loop does the rest.
 * I2. At most PEER_QUEUE_BYTES_MAX wait, and one message more. Beyond that a message is dropped,
 * and raft hears that the member is unreachable.
 *
 * Thread: the loop; begin, add and end raft's.
 */
#include "api/peer_private.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

static void timer_restart(struct peer_writer *w)
{
    struct peer *p = w->link->peer;

    peer_timer_set(&p->loop, &w->heartbeat, clock_mono_ms() + p->timing.heartbeat);
}

/* Under the lock. */
static int flush(struct peer_writer *w, size_t bytes_max)
{
    size_t before = peer_conn_pending(w->conn);
    int r = peer_conn_flush(w->conn, bytes_max);

    if (r == 0 || (r > 0 && peer_conn_pending(w->conn) < before))
        w->progress_ms = clock_mono_ms();
    return r;
}

/* ---- the end of a stream ---- */

static void log_end(const struct peer_writer *w, const char *msg, const char *error)
{
    log_warn(msg, LOG_STR("stream-writer-type", peer_stream_name(w->kind)),
             LOG_ID("local-member-id", w->link->peer->identity.member_id),
             LOG_ID("remote-peer-id", w->link->id), LOG_STR("error", error));
}

/* Takes the connection away from raft's thread. */
static struct peer_conn *detach(struct peer_writer *w, bool *ret_waiting)
{
    pthread_mutex_lock(&w->lock);
    struct peer_conn *conn = w->conn;
    *ret_waiting = conn && peer_conn_pending(conn) > 0;
    w->conn = NULL;
    w->error = 0;
    pthread_mutex_unlock(&w->lock);
    peer_timer_clear(&w->link->peer->loop, &w->heartbeat);
    return conn;
}

/* An orderly end, if no message is cut in two. What waits is lost. */
static void conn_finish(struct peer_conn *conn)
{
    if (peer_conn_pending(conn) == 0) {
        buf_append_bytes(&conn->out, PEER_CHUNK_LAST);
        (void)peer_conn_flush(conn, SIZE_MAX);
    }
    peer_conn_free(conn);
}

/* error NULL: the other member has closed, which says nothing about whether it can be reached. */
static void lost(struct peer_writer *w, const char *action, const char *error)
{
    struct peer_link *link = w->link;
    bool waiting;

    peer_conn_free(detach(w, &waiting));
    log_end(w, "lost TCP streaming connection with remote peer", error ? error : "EOF");
    if (error) {
        peer_link_deactivate(link, (struct peer_failure){peer_stream_name(w->kind), action, error});
        metric_add(&link->metrics->sent_failures, 1);
    }
    server_peer_unreachable(link->peer->server, link->id);
}

/* ---- the loop ---- */

static void conn_ready(struct peer_conn *conn, uint32_t events)
{
    struct peer_writer *w = conn->owner;
    uint8_t unasked[64];
    ssize_t n = -EAGAIN;

    pthread_mutex_lock(&w->lock);
    int error = w->error;
    if (error == 0 && peer_conn_pending(conn) > 0)
        error = flush(w, SIZE_MAX);
    if (error >= 0 && (events & ~(uint32_t)EPOLLOUT))
        n = peer_conn_read(conn, unasked, sizeof(unasked));
    pthread_mutex_unlock(&w->lock);
    if (error < 0)
        lost(w, "write", err_text(error).text);
    else if (n >= 0) /* what comes on a stream that we write is its end */
        lost(w, "write", NULL);
    else if (n != -EAGAIN)
        lost(w, "write", err_text((int)n).text);
}

static void heartbeat_due(struct peer_timer *timer)
{
    struct peer_writer *w = container_of(timer, struct peer_writer, heartbeat);
    const struct peer_timing *timing = &w->link->peer->timing;
    int r = -ETIMEDOUT;

    pthread_mutex_lock(&w->lock);
    if (w->error == 0 && clock_mono_ms() - w->progress_ms <= timing->silence) {
        size_t before = w->conn->out.len, chunk = peer_chunk_begin(&w->conn->out);
        peer_stream_write_heartbeat(&w->codec, &w->conn->out);
        peer_chunk_end(&w->conn->out, chunk);
        metric_add(&w->link->metrics->sent_bytes, w->conn->out.len - before);
        r = flush(w, SIZE_MAX);
    }
    pthread_mutex_unlock(&w->lock);
    if (r < 0)
        lost(w, "heartbeat", r == -ETIMEDOUT ? "i/o timeout" : err_text(r).text);
    else
        timer_restart(w);
}

void peer_writer_attach(struct peer_writer *w, struct peer_conn *conn)
{
    struct peer_link *link = w->link;
    bool waiting;
    struct peer_conn *old = detach(w, &waiting);

    if (old) {
        conn_finish(old);
        log_end(w, "closed TCP streaming connection with remote peer", "a newer one has come");
    }
    if (waiting)
        server_peer_unreachable(link->peer->server, link->id);
    peer_conn_own(conn, conn_ready, w);
    pthread_mutex_lock(&w->lock);
    w->conn = conn;
    w->error = 0;
    peer_stream_writer_init(&w->codec, w->kind);
    w->progress_ms = clock_mono_ms();
    int r = flush(w, SIZE_MAX);
    pthread_mutex_unlock(&w->lock);
    if (r < 0) {
        lost(w, "write", err_text(r).text);
        return;
    }
    timer_restart(w);
    peer_link_activate(link);
    log_info("established TCP streaming connection with remote peer",
             LOG_STR("stream-writer-type", peer_stream_name(w->kind)),
             LOG_ID("local-member-id", link->peer->identity.member_id),
             LOG_ID("remote-peer-id", link->id));
}

/* ---- raft's thread ---- */

bool peer_writer_begin(struct peer_writer *w)
{
    pthread_mutex_lock(&w->lock);
    if (!w->conn || w->error != 0) {
        pthread_mutex_unlock(&w->lock);
        return false;
    }
    w->chunk = peer_chunk_begin(&w->conn->out);
    return true;
}

int peer_writer_add(struct peer_writer *w, const struct raft_message *m)
{
    if (peer_conn_pending(w->conn) > PEER_QUEUE_BYTES_MAX)
        return PEER_WRITER_E_FULL;
    return peer_stream_write(&w->codec, m, &w->conn->out);
}

void peer_writer_end(struct peer_writer *w)
{
    struct peer_conn *conn = w->conn;

    peer_chunk_end(&conn->out, w->chunk);
    metric_add(&w->link->metrics->sent_bytes, conn->out.len - w->chunk);
    /* While the loop waits for room in the socket, it is the loop that goes on. */
    int r = conn->source.events & EPOLLOUT ? 0 : flush(w, PEER_DIRECT_BYTES_MAX);
    if (r < 0) {
        w->error = r;
        shutdown(conn->source.fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&w->lock);
}

/* ---- life ---- */

void peer_writer_init(struct peer_writer *w, struct peer_link *link, enum peer_stream_kind kind)
{
    *w = (struct peer_writer){.link = link, .kind = kind, .heartbeat = {.expired = heartbeat_due}};
    check(pthread_mutex_init(&w->lock, NULL) == 0);
}

void peer_writer_deinit(struct peer_writer *w)
{
    bool waiting;
    struct peer_conn *conn = detach(w, &waiting);

    if (conn) {
        conn_finish(conn);
        log_end(w, "closed TCP streaming connection with remote peer", "the peer was removed");
    }
    pthread_mutex_destroy(&w->lock);
}
