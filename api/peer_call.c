/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to other members (see peer_call.h).
 *
 *   start ──idle connection──> request out ──> answer in ──complete──> done(NULL)
 *     └──> dial ──connected──────┘                 └── stream: arrived() until it ends
 *
 * I1. active from start to the end. Exactly one of dial (under way), conn and, for a failure that
 * is to be told from the loop, the timer alone stands behind it.
 * I2. done() is the last thing that is done with a call, because it may start it anew or free it.
 *
 * Thread: the loop.
 */
#include "api/peer_call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

/* ---- ends ---- */

static void url_free(struct url *url)
{
    free(url->scheme);
    free(url->host);
    free(url->text);
    *url = (struct url){0};
}

static void let_go(struct peer_call *c)
{
    c->active = false;
    peer_timer_clear(c->pool->loop, &c->timer);
    peer_dial_cancel(&c->dial);
    c->conn = peer_conn_free(c->conn);
    url_free(&c->url);
    buf_deinit(&c->request);
    free(c->where);
    c->where = NULL;
}

static void end(struct peer_call *c, const char *error)
{
    check(c->active);
    let_go(c);
    c->done(c, error);
}

void peer_call_cancel(struct peer_call *c)
{
    if (c->active)
        let_go(c);
    peer_reply_deinit(&c->reply);
    buf_deinit(&c->answer);
}

static void error_set(struct peer_call *c, const char *call, int error)
{
    if (error == -ECONNRESET || error == -EPIPE)
        snprintf(c->error, sizeof(c->error), "%s tcp %s: %s: %s", call, c->where, call,
                 error == -EPIPE ? "broken pipe" : "connection reset by peer");
    else
        snprintf(c->error, sizeof(c->error), "%s tcp %s: %s", call, c->where, err_text(error).text);
}

static void dial(struct peer_call *c);

/* The connection has failed. One from the pool may have been closed just before. */
static void conn_failed(struct peer_call *c)
{
    if (c->reused && c->repeat && !c->reply.has_head && c->reply.head_bytes.len == 0) {
        c->conn = peer_conn_free(c->conn);
        peer_timer_clear(c->pool->loop, &c->timer);
        dial(c);
        return;
    }
    end(c, c->error);
}

static void answer_complete(struct peer_call *c, bool nothing_behind)
{
    if (c->reuse && nothing_behind && c->reply.head.keep_alive && peer_conn_pending(c->conn) == 0) {
        peer_pool_put(c->pool, c->url.text, c->conn);
        c->conn = NULL;
    }
    end(c, NULL);
}

/* ---- the answer ---- */

static bool is_stream(const struct peer_call *c)
{
    return c->answer_bytes_max == PEER_REPLY_STREAM && c->reply.has_head &&
           c->reply.head.status == 200;
}

/* False: the call has ended. */
static bool tell_arrived(struct peer_call *c)
{
    if (c->arrived(c))
        return true;
    let_go(c);
    return false;
}

static void head_came(struct peer_call *c)
{
    if (c->answer_bytes_max == PEER_REPLY_STREAM && c->reply.head.status != 200)
        c->reply.body_bytes_max = PEER_REFUSAL_BYTES_MAX;
}

static void bytes_came(struct peer_call *c, struct bytes in)
{
    int r;

    do {
        r = peer_reply_read(&c->reply, &in, &c->answer);
        if (r == PEER_REPLY_HEAD)
            head_came(c);
        if (is_stream(c) && r != PEER_REPLY_WRONG && !tell_arrived(c))
            return;
    } while (r == PEER_REPLY_HEAD);
    if (r == PEER_REPLY_WRONG)
        end(c, "malformed HTTP response");
    else if (r == 0)
        answer_complete(c, in.len == 0);
    else if (is_stream(c))
        peer_timer_set(c->pool->loop, &c->timer, clock_mono_ms() + c->answer_ms);
}

static void answer_read(struct peer_call *c)
{
    uint8_t *scratch = c->pool->loop->scratch;
    ssize_t n = peer_conn_read(c->conn, scratch, PEER_SCRATCH_BYTES);

    if (n == -EAGAIN)
        return;
    if (n > 0) {
        bytes_came(c, bytes_of(scratch, (size_t)n));
    } else if (n == 0 && peer_reply_closed(&c->reply)) {
        answer_complete(c, false);
    } else {
        if (n < 0)
            error_set(c, "read", (int)n);
        else
            snprintf(c->error, sizeof(c->error), "unexpected EOF");
        conn_failed(c);
    }
}

/* ---- the request ---- */

static void conn_ready(struct peer_conn *conn, uint32_t events)
{
    struct peer_call *c = conn->owner;

    if (peer_conn_pending(conn) > 0) {
        int r = peer_conn_flush(conn, SIZE_MAX);
        if (r < 0) {
            error_set(c, "write", r);
            conn_failed(c);
            return;
        }
    }
    if ((events & ~(uint32_t)EPOLLOUT) || conn->io.read_waits != EPOLLIN)
        answer_read(c);
}

/* What fails here is told by the timer: this may be within start. */
static void conn_use(struct peer_call *c, struct peer_conn *conn, bool reused)
{
    c->conn = conn;
    c->reused = reused;
    peer_conn_own(conn, conn_ready, c);
    buf_append_bytes(&conn->out, buf_bytes(&c->request));
    snprintf(c->error, sizeof(c->error), "i/o timeout");
    int r = peer_conn_flush(conn, SIZE_MAX);
    if (r < 0)
        error_set(c, "write", r);
    peer_timer_set(c->pool->loop, &c->timer, r < 0 ? 0 : clock_mono_ms() + c->answer_ms);
}

static void expired(struct peer_timer *timer)
{
    struct peer_call *c = container_of(timer, struct peer_call, timer);

    if (peer_timer_deadline_ms(timer) == 0 && c->conn)
        conn_failed(c);
    else
        end(c, c->error);
}

static void fail_soon(struct peer_call *c)
{
    peer_timer_set(c->pool->loop, &c->timer, 0);
}

static void dialled(struct peer_dial *d, const char *error)
{
    struct peer_call *c = container_of(d, struct peer_call, dial);
    struct peer_conn *conn;

    if (error) {
        snprintf(c->error, sizeof(c->error), "%s", error);
        end(c, c->error);
        return;
    }
    struct peer_io io = peer_dial_take(d);
    int r = peer_conn_new(&conn, c->pool->loop, &io);
    if (r < 0) {
        error_set(c, "dial", r);
        end(c, c->error);
        return;
    }
    conn_use(c, conn, false);
}

static void dial(struct peer_call *c)
{
    c->dial.done = dialled;
    peer_dial_start(&c->dial, c->pool->loop, &c->url, c->dial_ms);
}

/* ---- start ---- */

static void call_init(struct peer_call *c, struct peer_pool *pool,
                      const struct peer_call_options *o)
{
    const char *slashes = strstr(o->url->text, "://");

    check(!c->active);
    c->active = true;
    c->pool = pool;
    c->url = *o->url;
    c->url.scheme = mem_strdup(o->url->scheme);
    c->url.host = mem_strdup(o->url->host);
    c->url.text = mem_strdup(o->url->text);
    c->where = mem_strdup(slashes ? slashes + 3 : o->url->text);
    c->dial_ms = o->dial_ms;
    c->answer_ms = o->answer_ms;
    c->answer_bytes_max = o->answer_bytes_max;
    c->reuse = o->reuse;
    c->repeat = o->repeat;
    c->timer.expired = expired;
    peer_reply_deinit(&c->reply);
    peer_reply_init(&c->reply, o->answer_bytes_max);
    buf_clear(&c->answer);
}

void peer_call_start(struct peer_call *c, struct peer_pool *pool, const struct peer_call_options *o)
{
    struct peer_request request = o->request;

    call_init(c, pool, o);
    request.host = peer_url_is_local(o->url) ? BYTES_LIT("localhost") : bytes_str(c->where);
    if (peer_request_head(&c->request, &request) != 0) {
        snprintf(c->error, sizeof(c->error), "the request can't be written");
        fail_soon(c);
        return;
    }
    buf_append_bytes(&c->request, o->body);
    struct peer_conn *conn = c->reuse ? peer_pool_take(pool, c->url.text) : NULL;
    if (conn)
        conn_use(c, conn, true);
    else
        dial(c);
}
