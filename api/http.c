/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side's loop: sockets, buffers, time. Owns its connections, each in the list of its
 * state; http_route.c makes the answers.
 *
 * I1. A list has the connections of one state in the order of their deadlines, because each state
 * has one timeout (WAITING has none: the server finishes every read).
 * I2. In HTTP_WAITING the server holds the connection's request: it is not freed before finish() or
 * a successful cancel.
 * I3. While an answer is made or sent nothing is read, so a client that pipelines waits in its own
 * socket buffer.
 *
 * Thread: its own; http_adopt() and http_read_finished() any: they hand over through the inbox and
 * the eventfd.
 */
#include "api/http_conn.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"

enum { EVENTS_MAX = 128, READ_BYTES = 16 * 1024 };

static const uint64_t timeouts_ms[HTTP_STATE_COUNT] = {[HTTP_IDLE] = HTTP_IDLE_MS,
                                                       [HTTP_HEAD] = HTTP_HEAD_MS,
                                                       [HTTP_BODY] = HTTP_BODY_MS,
                                                       [HTTP_SENDING] = HTTP_SEND_MS,
                                                       [HTTP_LINGERING] = HTTP_LINGER_MS};

static const uint32_t interest[HTTP_STATE_COUNT] = {
    [HTTP_IDLE] = EPOLLIN,       [HTTP_HEAD] = EPOLLIN,     [HTTP_BODY] = EPOLLIN,
    [HTTP_WAITING] = EPOLLRDHUP, [HTTP_SENDING] = EPOLLOUT, [HTTP_LINGERING] = EPOLLIN};

/* ---- states ---- */

static void state_set(struct http_conn *c, enum http_state state)
{
    c->state = state;
    c->deadline_ms = clock_mono_ms() + timeouts_ms[state];
    list_remove(&c->link);
    list_push(&c->http->states[state], &c->link);
}

static void interest_set(struct http_conn *c)
{
    struct epoll_event event = {.events = interest[c->state], .data.ptr = c};

    if (c->events == event.events)
        return;
    c->events = event.events;
    check(epoll_ctl(c->http->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) == 0);
}

static void conn_free(struct http_conn *c)
{
    struct buf *bufs[] = {&c->in,       &c->out,   &c->method, &c->path,
                          &c->raw_path, &c->query, &c->host,   &c->origin};

    check(c->state != HTTP_WAITING);
    for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++)
        buf_deinit(bufs[i]);
    if (c->has_health)
        health_deinit(&c->health);
    list_remove(&c->link);
    c->http->n_conns--;
    close(c->fd);
    free(c);
}

/* Closes, or lets go of the socket until the read under way has come back. */
static void conn_close(struct http_conn *c)
{
    if (c->state == HTTP_WAITING && !server_cancel(c->http->server, &c->health.request)) {
        c->gone = true;
        epoll_ctl(c->http->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
        return;
    }
    c->state = HTTP_IDLE;
    conn_free(c);
}

/* ---- one request ---- */

static void text_set(struct buf *b, struct bytes s)
{
    buf_clear(b);
    buf_append_bytes(b, s);
    buf_cstr(b);
}

static struct bytes input(const struct http_conn *c)
{
    return bytes_of(c->in.data + c->in_pos, c->in.len - c->in_pos);
}

static void input_used(struct http_conn *c, size_t n)
{
    c->in_pos += n;
    check(c->in_pos <= c->in.len);
    if (c->in_pos == c->in.len) {
        buf_clear(&c->in);
        c->in_pos = 0;
    }
}

static void head_keep(struct http_conn *c, const struct http_head *head)
{
    text_set(&c->method, head->method);
    text_set(&c->raw_path, head->path);
    text_set(&c->query, head->query);
    text_set(&c->host, head->host);
    text_set(&c->origin, head->origin);
    c->is_http10 = head->is_http10;
    c->body_bytes = 0;
    c->scanned = 0;
    /*
     * No endpoint here wants a body: a client that asks before it sends one gets the answer, and
     * the end of the connection.
     */
    c->keep_alive = head->keep_alive && !head->expect_continue;
    http_body_init(&c->body, head->expect_continue ? &(struct http_head){0} : head);
}

/* 0, HTTP_MORE or HTTP_WRONG as http_head_parse(). */
static int head_read(struct http_conn *c, struct http_error *ret_error)
{
    struct http_head head;

    int r = http_head_parse(input(c), &c->scanned, &head, ret_error);
    if (r)
        return r;
    head_keep(c, &head);
    buf_clear(&c->path);
    if (!http_unescape(head.path, false, &c->path) || memchr(c->path.data, '\0', c->path.len)) {
        *ret_error = (struct http_error){400, ""};
        return HTTP_WRONG;
    }
    buf_cstr(&c->path);
    input_used(c, head.len);
    state_set(c, HTTP_BODY);
    return 0;
}

/* Reads over the body; one that is too long is left where it is and costs the connection. */
static int body_read(struct http_conn *c, struct http_error *ret_error)
{
    struct bytes in = input(c);
    size_t before = in.len;
    int r = http_body_read(&c->body, &in, NULL, ret_error);

    c->body_bytes += before - in.len;
    input_used(c, before - in.len);
    if (r == HTTP_MORE &&
        (c->body_bytes > HTTP_BODY_BYTES_MAX || c->body.left > HTTP_BODY_BYTES_MAX)) {
        c->keep_alive = false;
        return 0;
    }
    return r;
}

static void answer_begin(struct http_conn *c)
{
    state_set(c, HTTP_SENDING);
    if (http_answer(c, c->http->server) == HEALTH_WAIT)
        state_set(c, HTTP_WAITING);
}

/* Goes as far as the bytes at hand allow: up to HTTP_WAITING or HTTP_SENDING. */
static void input_handle(struct http_conn *c)
{
    struct http_error error;
    int r = 0;

    if (c->state == HTTP_IDLE && c->in.len > c->in_pos)
        state_set(c, HTTP_HEAD);
    if (c->state == HTTP_HEAD)
        r = head_read(c, &error);
    if (r == 0 && c->state == HTTP_BODY) {
        r = body_read(c, &error);
        if (r == 0)
            answer_begin(c);
    }
    if (r == HTTP_WRONG) {
        state_set(c, HTTP_SENDING);
        http_answer_error(c, &error);
    }
}

/* ---- bytes in and out ---- */

/* False: the connection is over. */
static bool conn_read(struct http_conn *c)
{
    buf_reserve(&c->in, READ_BYTES);
    ssize_t n = recv(c->fd, c->in.data + c->in.len, READ_BYTES, 0);
    if (n > 0)
        c->in.len += (size_t)n;
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void buffers_shrink(struct http_conn *c)
{
    buf_deinit(&c->out);
    c->out_pos = 0;
    if (c->in.len == 0)
        buf_deinit(&c->in);
}

/*
 * After the last answer our side is closed and the client's bytes are read and dropped until it
 * closes too: closing with unread bytes would reset the connection, and the client might never see
 * the answer. False: the connection is over.
 */
static bool linger(struct http_conn *c)
{
    uint8_t dropped[4096];
    ssize_t n;

    while ((n = recv(c->fd, dropped, sizeof(dropped), 0)) > 0) {
        c->dropped_bytes += (size_t)n;
        if (c->dropped_bytes > HTTP_BODY_BYTES_MAX)
            return false;
    }
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

/* False: the connection is over. */
static bool conn_write(struct http_conn *c)
{
    while (c->out_pos < c->out.len) {
        ssize_t n = send(c->fd, c->out.data + c->out_pos, c->out.len - c->out_pos, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        c->out_pos += (size_t)n;
    }
    buffers_shrink(c);
    state_set(c, c->keep_alive ? HTTP_IDLE : HTTP_LINGERING);
    if (!c->keep_alive)
        shutdown(c->fd, SHUT_WR);
    return true;
}

/* Runs a connection on until it has to wait for its socket or for the server. False: it is over. */
static bool conn_advance(struct http_conn *c)
{
    enum http_state before;

    do {
        before = c->state;
        if (c->state == HTTP_SENDING && !conn_write(c))
            return false;
        if (c->state >= HTTP_WAITING)
            return true;
        input_handle(c);
    } while (c->state != before || c->state == HTTP_SENDING);
    return true;
}

static void conn_ready(struct http_conn *c, uint32_t events)
{
    bool alive = true;

    if (c->state == HTTP_WAITING)
        alive = !(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    else if (c->state == HTTP_LINGERING)
        alive = linger(c);
    else if (c->state == HTTP_SENDING)
        alive = conn_advance(c);
    else
        alive = conn_read(c) && conn_advance(c);
    if (alive)
        interest_set(c);
    else
        conn_close(c);
}

/* ---- hand-over from other threads ---- */

static void wake(struct http *h)
{
    uint64_t one = 1;

    check(write(h->wake_fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
}

void http_read_finished(struct request *request, enum outcome outcome)
{
    struct health *health = container_of(request, struct health, request);
    struct http_conn *c = container_of(health, struct http_conn, health);
    struct http *h = c->http;

    c->outcome = outcome;
    inbox_push_always(&h->inbox, &c->item);
    wake(h);
}

void http_adopt(struct http *h, int fd, bool metrics_only)
{
    struct http_conn *c = mem_new(struct http_conn);

    *c = (struct http_conn){.http = h, .fd = fd, .metrics_only = metrics_only};
    if (!inbox_push(&h->inbox, &c->item)) {
        close(fd);
        free(c);
        return;
    }
    wake(h);
}

static void conn_add(struct http *h, struct http_conn *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    /* Full: the one that has been idle for longest makes room. */
    if (h->n_conns >= HTTP_CONNECTIONS_MAX && !list_empty(&h->states[HTTP_IDLE]))
        conn_close(container_of(h->states[HTTP_IDLE].next, struct http_conn, link));
    bool full = h->n_conns >= HTTP_CONNECTIONS_MAX;
    h->n_conns++;
    c->added = true;
    c->events = event.events;
    state_set(c, HTTP_IDLE);
    if (full || epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
        conn_close(c);
}

static void read_finished(struct http_conn *c)
{
    check(c->state == HTTP_WAITING);
    state_set(c, HTTP_SENDING);
    if (c->gone) {
        conn_free(c);
        return;
    }
    if (http_answer_resume(c, c->http->server) == HEALTH_WAIT)
        state_set(c, HTTP_WAITING);
    if (!conn_advance(c))
        conn_close(c);
    else
        interest_set(c);
}

static void inbox_handle(struct http *h)
{
    struct inbox_item *item = inbox_drain(&h->inbox, NULL), *next;

    for (; item; item = next) {
        struct http_conn *c = container_of(item, struct http_conn, item);
        next = item->next;
        if (c->added)
            read_finished(c);
        else
            conn_add(h, c);
    }
}

/* ---- time ---- */

static void states_expire(struct http *h, uint64_t now_ms)
{
    for (int s = 0; s < HTTP_STATE_COUNT; s++) {
        while (s != HTTP_WAITING && !list_empty(&h->states[s])) {
            struct http_conn *c = container_of(h->states[s].next, struct http_conn, link);
            if (c->deadline_ms > now_ms)
                break;
            conn_close(c);
        }
    }
}

static int turn_timeout(const struct http *h, uint64_t now_ms)
{
    uint64_t first = UINT64_MAX;

    for (int s = 0; s < HTTP_STATE_COUNT; s++) {
        if (s == HTTP_WAITING || list_empty(&h->states[s]))
            continue;
        uint64_t deadline = container_of(h->states[s].next, struct http_conn, link)->deadline_ms;
        first = deadline < first ? deadline : first;
    }
    if (first == UINT64_MAX)
        return -1;
    return first <= now_ms ? 0 : (int)(first - now_ms);
}

/* ---- the thread ---- */

static void events_handle(struct http *h, const struct epoll_event *events, int n)
{
    uint64_t count;

    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr)
            conn_ready(events[i].data.ptr, events[i].events);
        else
            (void)!read(h->wake_fd, &count, sizeof(count));
    }
}

static bool conns_close(struct http *h)
{
    for (int s = 0; s < HTTP_STATE_COUNT; s++) {
        list_for_each_safe (it, tmp, &h->states[s]) {
            struct http_conn *c = container_of(it, struct http_conn, link);
            if (!c->gone)
                conn_close(c);
        }
    }
    return h->n_conns == 0;
}

static void *http_main(void *arg)
{
    struct epoll_event events[EVENTS_MAX];
    struct http *h = arg;

    pthread_setname_np(pthread_self(), "http");
    for (;;) {
        int n = epoll_wait(h->epoll_fd, events, EVENTS_MAX, turn_timeout(h, clock_mono_ms()));
        check(n >= 0 || errno == EINTR);
        events_handle(h, events, n);
        /*
         * Looked at when the eventfd is empty, or a stop's wake-up could have been taken with
         * another's and be lost; and before the inbox: what was adopted before the stop is then
         * closed with the rest.
         */
        bool stopping = atomic_load(&h->stopping);
        inbox_handle(h);
        states_expire(h, clock_mono_ms());
        if (stopping && conns_close(h))
            return NULL;
    }
}

int http_start(struct http **ret, struct server *server)
{
    struct http *h = mem_new(struct http);
    struct epoll_event event = {.events = EPOLLIN};

    h->server = server;
    inbox_init(&h->inbox, HTTP_CONNECTIONS_MAX);
    for (int s = 0; s < HTTP_STATE_COUNT; s++)
        list_init(&h->states[s]);
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    health_metrics_register();
    int r = h->epoll_fd < 0 || h->wake_fd < 0 ||
                    epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->wake_fd, &event) < 0
                ? -errno
                : 0;
    if (r == 0)
        r = -pthread_create(&h->thread, NULL, http_main, h);
    if (r) {
        http_free(h);
        return err_origin(r);
    }
    h->started = true;
    *ret = h;
    return 0;
}

void http_stop(struct http *h)
{
    if (!h || !h->started)
        return;
    inbox_close(&h->inbox);
    atomic_store(&h->stopping, true);
    wake(h);
    pthread_join(h->thread, NULL);
    h->started = false;
}

struct http *http_free(struct http *h)
{
    if (!h)
        return NULL;
    http_stop(h);
    inbox_deinit(&h->inbox);
    if (h->wake_fd >= 0)
        close(h->wake_fd);
    if (h->epoll_fd >= 0)
        close(h->epoll_fd);
    free(h);
    return NULL;
}
