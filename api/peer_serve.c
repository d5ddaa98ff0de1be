/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer port: listening sockets, and the connections that come in (see peer_serve.h for their
 * states). peer_route.c makes the answers.
 *
 * etcd's patience, which a dialler of either kind knows: 5 s for the first byte and between two
 * pieces of a request, 10 s between requests, 5 s for an answer to be taken. Ours is stricter in
 * one place: a head is complete 5 s after its first byte.
 *
 * I1. While an answer is made or sent nothing is read.
 * I2. In PEER_SERVE_WAITING the server holds the request or the job of the connection: it is not
 * freed before the server has given it back. Its socket may be closed earlier (gone).
 * I3. What is kept of requests' bodies is at most PEER_BODIES_BYTES_MAX, of all connections.
 *
 * Thread: the loop; peer_listen_open() and peer_listen_close() the root's, peer_serve_resume() any.
 */
#include "api/peer_serve.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/bind.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    ACCEPT_BATCH_MAX = 16,
    ACCEPT_PAUSE_MS = 100, /* without descriptors */
    LINGER_MS = 2000,
    READ_OVER_BYTES_MAX = 256 << 10, /* of a body that nobody wants, as Go */
};

struct peer_listener {
    struct peer_source source;
    struct peer_timer pause;
    struct peer *peer;
    const struct url *url;
};

/* ---- life ---- */

static void state_set(struct peer_serve *s, enum peer_serve_state state, uint64_t patience_ms)
{
    struct peer *p = s->peer;

    s->state = state;
    list_remove(&s->link);
    list_push(&p->served, &s->link);
    peer_conn_pause(s->conn, state == PEER_SERVE_WAITING || state == PEER_SERVE_SENDING);
    if (state == PEER_SERVE_WAITING)
        peer_timer_clear(&p->loop, &s->timer);
    else
        peer_timer_set(&p->loop, &s->timer, clock_mono_ms() + patience_ms);
}

static void body_forget(struct peer_serve *s)
{
    check(s->peer->bodies_bytes >= s->body_bytes.len);
    s->peer->bodies_bytes -= s->body_bytes.len;
    buf_deinit(&s->body_bytes);
}

static void serve_free(struct peer_serve *s)
{
    struct buf *bufs[] = {&s->in, &s->head_bytes, &s->path, &s->result, &s->request.response};
    struct peer *p = s->peer;

    body_forget(s);
    for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++)
        buf_deinit(bufs[i]);
    peer_timer_clear(&p->loop, &s->timer);
    peer_conn_free(s->conn);
    list_remove(&s->link);
    p->n_served--;
    free(s);
    peer_stop_go_on(p);
}

/* Closes; what the server holds is freed when it comes back. */
static void serve_close(struct peer_serve *s)
{
    bool lent = s->state == PEER_SERVE_WAITING;

    if (lent && s->request.finish && server_cancel(s->peer->server, &s->request))
        lent = false;
    if (!lent) {
        serve_free(s);
        return;
    }
    s->gone = true;
    s->conn = peer_conn_free(s->conn);
}

struct peer_conn *peer_serve_take(struct peer_serve *s, struct buf *ret_rest)
{
    struct peer_conn *conn = s->conn;

    *ret_rest = BUF_NULL;
    buf_append(ret_rest, s->in.data + s->in_used, s->in.len - s->in_used);
    s->conn = NULL;
    return conn;
}

/* ---- a request's head ---- */

static struct bytes input(const struct peer_serve *s)
{
    return bytes_of(s->in.data + s->in_used, s->in.len - s->in_used);
}

static void input_used(struct peer_serve *s, size_t n)
{
    s->in_used += n;
    check(s->in_used <= s->in.len);
    if (s->in_used == s->in.len) {
        buf_clear(&s->in);
        s->in_used = 0;
    }
}

static int head_wrong(struct http_error *ret_error)
{
    *ret_error = (struct http_error){400, ""};
    return HTTP_WRONG;
}

/* 0, HTTP_MORE or HTTP_WRONG. The head is parsed once more where its bytes stay. */
static int head_read(struct peer_serve *s, struct http_error *ret_error)
{
    struct bytes in = input(s);
    size_t scanned = 0;
    int r = http_head_parse(in, &s->scanned, &s->head, ret_error);

    if (r != 0)
        return r;
    size_t len = s->head.len;
    buf_clear(&s->head_bytes);
    buf_append(&s->head_bytes, in.data, len);
    check(http_head_parse(buf_bytes(&s->head_bytes), &scanned, &s->head, ret_error) == 0);
    input_used(s, len);
    s->scanned = 0;
    s->keep_alive = s->head.keep_alive;
    buf_clear(&s->path);
    if (!http_unescape(s->head.path, false, &s->path) ||
        (s->path.len > 0 && memchr(s->path.data, '\0', s->path.len)))
        return head_wrong(ret_error);
    buf_cstr(&s->path);
    http_body_init(&s->body, &s->head);
    return 0;
}

/* ---- what an endpoint wants ---- */

static bool has_body(const struct peer_serve *s)
{
    return s->head.is_chunked || s->head.content_length > 0;
}

/* The answer stands; a body that was not read is read over, or costs the connection. */
static void answered(struct peer_serve *s, bool body_read)
{
    uint64_t patience_ms = s->peer->timing.request;
    bool short_body = !s->head.is_chunked && s->head.content_length <= READ_OVER_BYTES_MAX;

    if (body_read || !has_body(s)) {
        state_set(s, PEER_SERVE_SENDING, patience_ms);
    } else if (short_body && s->keep_alive && !s->head.expect_continue) {
        s->endpoint = NULL;
        (void)peer_conn_flush(s->conn, SIZE_MAX);
        state_set(s, PEER_SERVE_BODY, patience_ms);
    } else {
        s->keep_alive = false;
        state_set(s, PEER_SERVE_SENDING, patience_ms);
    }
}

static void body_begin(struct peer_serve *s)
{
    if (s->head.expect_continue) {
        buf_append_str(&s->conn->out, "HTTP/1.1 100 Continue\r\n\r\n");
        (void)peer_conn_flush(s->conn, SIZE_MAX);
    }
    state_set(s, PEER_SERVE_BODY, s->peer->timing.request);
}

/* False: the connection is over or somebody else's, and the serve is freed. */
static bool step_take(struct peer_serve *s, enum peer_step step, bool body_read)
{
    switch (step) {
    case PEER_STEP_BODY: body_begin(s); return true;
    case PEER_STEP_ANSWERED: answered(s, body_read); return true;
    case PEER_STEP_WAIT: state_set(s, PEER_SERVE_WAITING, 0); return true;
    case PEER_STEP_TAKEN:
    case PEER_STEP_CUT: break;
    }
    serve_free(s);
    return false;
}

/* ---- states ---- */

/* False: more bytes are needed, or there is no serve any more. */
static bool head_go_on(struct peer_serve *s)
{
    struct http_error error;
    int r = head_read(s, &error);

    if (r == HTTP_MORE)
        return false;
    if (r == HTTP_WRONG) {
        peer_route_wrong(s, &error);
        s->keep_alive = false;
        state_set(s, PEER_SERVE_SENDING, s->peer->timing.request);
        return true;
    }
    return step_take(s, peer_route_head(s), false);
}

/* As http_body_read(). *ret_grown: bytes that were kept. */
static int body_read(struct peer_serve *s, size_t *ret_grown)
{
    struct http_error error;
    struct bytes in = input(s);
    size_t before = in.len, had = s->body_bytes.len;
    int r = http_body_read(&s->body, &in, s->endpoint ? &s->body_bytes : NULL, &error);

    input_used(s, before - in.len);
    *ret_grown = s->body_bytes.len - had;
    return r;
}

static bool body_go_on(struct peer_serve *s)
{
    size_t grown, max = s->endpoint ? s->endpoint->body_bytes_max : READ_OVER_BYTES_MAX;
    int r = body_read(s, &grown);

    s->peer->bodies_bytes += grown;
    if (r == HTTP_WRONG || s->peer->bodies_bytes > PEER_BODIES_BYTES_MAX)
        return step_take(s, PEER_STEP_CUT, false);
    if (s->endpoint && s->body_bytes.len > max) {
        s->keep_alive = false;
        return step_take(s, peer_route_body_too_long(s), true);
    }
    if (r == HTTP_MORE) {
        peer_timer_set(&s->peer->loop, &s->timer, clock_mono_ms() + s->peer->timing.request);
        return false;
    }
    return step_take(s, s->endpoint ? s->endpoint->finish(s) : PEER_STEP_ANSWERED, true);
}

static void request_end(struct peer_serve *s)
{
    body_forget(s);
    buf_deinit(&s->result);
    s->request = (struct request){0};
    s->answered = true;
    if (s->keep_alive) {
        state_set(s, PEER_SERVE_HEAD, s->peer->timing.idle);
        return;
    }
    s->conn->io.ops->finish(&s->conn->io);
    state_set(s, PEER_SERVE_LINGERING, LINGER_MS);
}

static bool sending_go_on(struct peer_serve *s)
{
    size_t before = peer_conn_pending(s->conn);
    int r = peer_conn_flush(s->conn, SIZE_MAX);

    if (r < 0 || (r == 0 && s->cut)) {
        serve_free(s);
        return false;
    }
    if (r == PEER_CONN_MORE) {
        if (peer_conn_pending(s->conn) < before)
            peer_timer_set(&s->peer->loop, &s->timer, clock_mono_ms() + s->peer->timing.request);
        return false;
    }
    request_end(s);
    return true;
}

/* Goes as far as the bytes at hand allow. */
static void serve_advance(struct peer_serve *s)
{
    bool go_on = true;

    while (go_on) {
        switch (s->state) {
        case PEER_SERVE_HEAD: go_on = s->in.len > s->in_used && head_go_on(s); break;
        case PEER_SERVE_BODY: go_on = body_go_on(s); break;
        case PEER_SERVE_SENDING: go_on = sending_go_on(s); break;
        case PEER_SERVE_WAITING:
        case PEER_SERVE_LINGERING: go_on = false; break;
        }
    }
}

/* ---- the socket ---- */

/* The first byte of a request starts the clock for its head. */
static void bytes_came(struct peer_serve *s, const uint8_t *data, size_t len)
{
    if (s->state == PEER_SERVE_HEAD && s->in.len == s->in_used)
        state_set(s, PEER_SERVE_HEAD, s->peer->timing.request);
    buf_append(&s->in, data, len);
    serve_advance(s);
}

static void linger(struct peer_serve *s)
{
    ssize_t n = peer_conn_read(s->conn, s->peer->loop.scratch, PEER_SCRATCH_BYTES);

    if (n > 0)
        s->dropped_bytes += (size_t)n;
    if ((n <= 0 && n != -EAGAIN) || s->dropped_bytes > READ_OVER_BYTES_MAX)
        serve_free(s);
}

static void input_ready(struct peer_serve *s)
{
    uint8_t *scratch = s->peer->loop.scratch;

    if (peer_conn_pending(s->conn) > 0 && peer_conn_flush(s->conn, SIZE_MAX) < 0) {
        serve_free(s);
        return;
    }
    ssize_t n = peer_conn_read(s->conn, scratch, PEER_SCRATCH_BYTES);
    if (n > 0)
        bytes_came(s, scratch, (size_t)n);
    else if (n != -EAGAIN)
        serve_free(s);
}

static void serve_ready(struct peer_conn *conn, uint32_t events)
{
    struct peer_serve *s = conn->owner;
    bool closed = events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);

    switch (s->state) {
    case PEER_SERVE_LINGERING: linger(s); break;
    case PEER_SERVE_HEAD:
    case PEER_SERVE_BODY: input_ready(s); break;
    case PEER_SERVE_WAITING:
    case PEER_SERVE_SENDING:
        if (closed)
            serve_close(s);
        else
            serve_advance(s);
    }
}

static void serve_expired(struct peer_timer *timer)
{
    struct peer_serve *s = container_of(timer, struct peer_serve, timer);

    if (s->state != PEER_SERVE_BODY || !s->endpoint) {
        serve_close(s);
        return;
    }
    s->keep_alive = false;
    if (step_take(s, peer_route_body_stalled(s), true))
        serve_advance(s);
}

/* ---- the server's answers ---- */

static void resumed(struct peer_task *task)
{
    struct peer_serve *s = container_of(task, struct peer_serve, task);

    check(s->state == PEER_SERVE_WAITING);
    if (s->gone) {
        serve_free(s);
        return;
    }
    s->endpoint->resume(s);
    state_set(s, PEER_SERVE_SENDING, s->peer->timing.request);
    serve_advance(s);
}

void peer_serve_resume(struct peer_serve *s)
{
    peer_loop_post(&s->peer->loop, &s->task);
}

/* ---- new connections ---- */

/* Full: the one that has waited longest without a request makes room. */
static bool room_make(struct peer *p)
{
    if (p->n_served < PEER_SERVED_MAX)
        return true;
    list_for_each (it, &p->served) {
        struct peer_serve *s = container_of(it, struct peer_serve, link);
        if (s->state == PEER_SERVE_HEAD && s->in.len == s->in_used) {
            serve_free(s);
            return true;
        }
    }
    return false;
}

static void serve_new(struct peer_listener *l, int fd)
{
    struct peer *p = l->peer;
    struct peer_conn *conn;
    struct peer_io io;

    if (!room_make(p) || peer_io_server(&io, l->url, fd) != 0) {
        close(fd);
        return;
    }
    if (peer_conn_new(&conn, &p->loop, &io) < 0)
        return;
    struct peer_serve *s = mem_new(struct peer_serve);
    *s = (struct peer_serve){.peer = p,
                             .conn = conn,
                             .url = l->url,
                             .timer = {.expired = serve_expired},
                             .task = {.run = resumed}};
    p->n_served++;
    peer_conn_own(conn, serve_ready, s);
    state_set(s, PEER_SERVE_HEAD, p->timing.request);
}

static void accept_paused(struct peer_listener *l)
{
    peer_source_set(&l->peer->loop, &l->source, 0);
    peer_timer_set(&l->peer->loop, &l->pause, clock_mono_ms() + ACCEPT_PAUSE_MS);
}

static void accept_again(struct peer_timer *timer)
{
    struct peer_listener *l = container_of(timer, struct peer_listener, pause);

    peer_source_set(&l->peer->loop, &l->source, EPOLLIN);
}

static void listener_ready(struct peer_source *source, uint32_t events)
{
    struct peer_listener *l = container_of(source, struct peer_listener, source);

    for (int i = 0; i < ACCEPT_BATCH_MAX; i++) {
        int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            serve_new(l, fd);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            accept_paused(l);
        return;
    }
}

/* ---- start and stop ---- */

static int listen_one(struct peer *p, const struct url *url)
{
    struct peer_listener *l = &p->listeners[p->n_listeners];
    struct bind_options options = {.reuse_port = p->config->socket_reuse_port};
    char *error = NULL;

    *l = (struct peer_listener){.source = {.ready = listener_ready, .fd = -1},
                                .pause = {.expired = accept_again},
                                .peer = p,
                                .url = url};
    if (peer_url_wants_tls(url) || bind_url(url, &options, &l->source.fd, &error) != 0) {
        log_error("can't listen for peers", LOG_STR("url", url->text),
                  LOG_STR("error", error ? error : "TLS is not supported yet"));
        free(error);
        return 1;
    }
    p->n_listeners++;
    log_info("serving peer traffic", LOG_STR("address", url->text));
    return 0;
}

int peer_listen_open(struct peer *p)
{
    const struct url_list *urls = &p->config->listen_peer_urls;
    int r = 0;

    p->listeners = mem_alloc((urls->len + 1) * sizeof(struct peer_listener));
    for (size_t i = 0; i < urls->len && r == 0; i++)
        r = listen_one(p, &urls->items[i]);
    return r;
}

void peer_listen_start(struct peer *p)
{
    for (size_t i = 0; i < p->n_listeners; i++)
        check(peer_source_add(&p->loop, &p->listeners[i].source, EPOLLIN) == 0);
}

void peer_listen_close(struct peer *p)
{
    for (size_t i = 0; i < p->n_listeners; i++) {
        close(p->listeners[i].source.fd);
        bind_unlink(p->listeners[i].url);
    }
    free(p->listeners);
    p->listeners = NULL;
    p->n_listeners = 0;
}

uint16_t peer_port(const struct peer *p, size_t i)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    uint16_t port;

    check(i < p->n_listeners);
    check(getsockname(p->listeners[i].source.fd, (struct sockaddr *)&a, &len) == 0);
    port = a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port
                                  : ((struct sockaddr_in6 *)&a)->sin6_port;
    return ntohs(port);
}

void peer_serve_stop(struct peer *p)
{
    for (size_t i = 0; i < p->n_listeners && p->started; i++) {
        peer_timer_clear(&p->loop, &p->listeners[i].pause);
        peer_source_remove(&p->loop, &p->listeners[i].source);
    }
    list_for_each_safe (it, tmp, &p->served) {
        struct peer_serve *s = container_of(it, struct peer_serve, link);
        if (!s->gone)
            serve_close(s);
    }
}

bool peer_serve_idle(const struct peer *p)
{
    return p->n_served == 0;
}
