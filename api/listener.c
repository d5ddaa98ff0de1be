/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front door's loop. Owns: the listening sockets, the sockets whose first bytes have not come
 * (pending), one spare descriptor.
 *
 *   accept ──> limits ──> peek ──decided──> handed over (gRPC or HTTP) or closed
 *                          │ ▲
 *                 not yet  ▼ │ more bytes
 *                        pending ── 10 s, or pushed out by newer ones ──> closed
 *
 * I1. A pending socket is in the epoll set, edge-triggered, so that a client that sends four bytes
 * and waits costs nothing.
 * I2. `pending` is in the order of arrival, so the head is the first to expire.
 * I3. After the hand-over the descriptor is never touched again here, except by number in
 * conn_limit.
 *
 * Without descriptors accept() fails for ever while the backlog keeps the epoll set ready. So the
 * loop then spends its spare descriptor on taking one connection in and closing it, which the
 * client notices at once, and leaves the listeners alone for ACCEPT_PAUSE_MS.
 *
 * Thread: its own; listener_stats() any.
 */
#include "api/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "api/bind.h"
#include "api/conn_limit.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"

enum {
    ACCEPT_BATCH_MAX = 64, /* per listening socket and turn */
    EVENTS_MAX = 256,
    PEEK_BYTES_MAX = 24,
    ACCEPT_PAUSE_MS = 100,
    LOG_INTERVAL_MS = 1000,
    DESCRIPTORS_RESERVED_MIN = 256, /* for the store, the log and the rest of the process */
};

enum role { ROLE_CLIENT, ROLE_GRPC_ONLY, ROLE_HTTP_ONLY, ROLE_METRICS };
enum kind { KIND_LISTENING, KIND_PENDING, KIND_WAKE };
enum verdict { VERDICT_MORE, VERDICT_GRPC, VERDICT_HTTP, VERDICT_TLS, VERDICT_GONE };

struct socket {
    enum kind kind; /* first: epoll's pointer leads here or to a struct pending */
    enum role role;
    int fd;
    const struct url *url;
};

struct pending {
    enum kind kind;
    enum role role;
    int fd;
    uint64_t deadline_ms;
    struct list link;
};

struct listener {
    struct listener_handlers handlers;
    struct socket *sockets;
    size_t n_sockets;
    int epoll_fd;
    struct socket wake;
    int spare_fd;
    struct list pending;
    size_t n_pending;
    size_t pending_max;
    struct conn_limit *connections;
    uint64_t paused_until_ms; /* 0: accepting */
    uint64_t logged_ms;
    uint64_t log_suppressed;
    atomic_bool stopping;
    bool started;
    pthread_t thread;
    _Atomic uint64_t accepted, refused, dropped;
    _Atomic size_t pending_seen, connections_seen;
};

/* ---- looking at the first bytes ---- */

static enum verdict classify(const uint8_t *data, size_t len)
{
    static const char preface[] = "PRI * HTTP/2.0";
    size_t decisive = sizeof(preface) - 1, n = len < decisive ? len : decisive;

    check(len > 0);
    if (data[0] == 0x16)
        return VERDICT_TLS;
    if (memcmp(data, preface, n) != 0)
        return VERDICT_HTTP;
    return n == decisive ? VERDICT_GRPC : VERDICT_MORE;
}

static enum verdict peek(int fd)
{
    uint8_t data[PEEK_BYTES_MAX];
    ssize_t n = recv(fd, data, sizeof(data), MSG_PEEK | MSG_DONTWAIT);

    if (n > 0)
        return classify(data, (size_t)n);
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) ? VERDICT_MORE
                                                                                : VERDICT_GONE;
}

/* True once a second; the line then says how many were left out. */
static bool may_log(struct listener *l, uint64_t now_ms, uint64_t *ret_suppressed)
{
    if (l->logged_ms && now_ms - l->logged_ms < LOG_INTERVAL_MS) {
        l->log_suppressed++;
        return false;
    }
    *ret_suppressed = l->log_suppressed;
    l->logged_ms = now_ms;
    l->log_suppressed = 0;
    return true;
}

static void peer_text(int fd, char *ret, size_t size)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    char host[INET6_ADDRSTRLEN] = "";

    snprintf(ret, size, "@");
    if (getpeername(fd, (struct sockaddr *)&a, &len) < 0)
        return;
    if (a.ss_family == AF_INET) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(ret, size, "%s:%u", host, ntohs(v4->sin_port));
    } else if (a.ss_family == AF_INET6) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(ret, size, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
}

static void connection_close(struct listener *l, int fd)
{
    conn_limit_remove(l->connections, fd);
    close(fd);
}

static void connection_reject(struct listener *l, int fd, const char *why, uint64_t now_ms)
{
    char remote[64];
    uint64_t suppressed;

    if (may_log(l, now_ms, &suppressed)) {
        peer_text(fd, remote, sizeof(remote));
        log_warn("rejected connection on client endpoint", LOG_STR("remote-addr", remote),
                 LOG_STR("error", why), LOG_U64("suppressed", suppressed));
    }
    connection_close(l, fd);
}

/* Hands over or closes; VERDICT_MORE does not come here. */
static void connection_route(struct listener *l, int fd, enum role role, enum verdict verdict,
                             uint64_t now_ms)
{
    bool http = verdict == VERDICT_HTTP ||
                (verdict == VERDICT_GRPC && (role == ROLE_HTTP_ONLY || role == ROLE_METRICS));

    check(verdict != VERDICT_MORE);
    if (verdict == VERDICT_GONE)
        connection_close(l, fd);
    else if (verdict == VERDICT_TLS)
        connection_reject(l, fd, "TLS is not supported yet", now_ms);
    else if (http && role == ROLE_GRPC_ONLY)
        connection_reject(l, fd, "HTTP on a URL that is for gRPC only", now_ms);
    else if (http)
        l->handlers.http(l->handlers.arg, fd, role == ROLE_METRICS);
    else
        l->handlers.grpc(l->handlers.arg, fd);
}

/* ---- pending sockets ---- */

static void pending_end(struct listener *l, struct pending *p)
{
    check(l->n_pending > 0);
    list_remove(&p->link);
    l->n_pending--;
    free(p);
}

static void pending_drop(struct listener *l, struct pending *p)
{
    connection_close(l, p->fd); /* leaves the epoll set with its last descriptor */
    pending_end(l, p);
    atomic_fetch_add_explicit(&l->dropped, 1, memory_order_relaxed);
}

static void pending_add(struct listener *l, int fd, enum role role, uint64_t now_ms)
{
    struct pending *p = mem_new(struct pending);

    if (l->n_pending >= l->pending_max)
        pending_drop(l, container_of(l->pending.next, struct pending, link));
    *p = (struct pending){.kind = KIND_PENDING,
                          .role = role,
                          .fd = fd,
                          .deadline_ms = now_ms + LISTENER_FIRST_BYTES_MS};
    list_push(&l->pending, &p->link);
    l->n_pending++;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = p};
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        pending_drop(l, p);
}

static void pending_ready(struct listener *l, struct pending *p, uint64_t now_ms)
{
    enum verdict verdict = peek(p->fd);
    enum role role = p->role;
    int fd = p->fd;

    if (verdict == VERDICT_MORE)
        return;
    epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
    pending_end(l, p);
    connection_route(l, fd, role, verdict, now_ms);
}

static void pending_expire(struct listener *l, uint64_t now_ms)
{
    while (!list_empty(&l->pending)) {
        struct pending *p = container_of(l->pending.next, struct pending, link);
        if (p->deadline_ms > now_ms)
            return;
        pending_drop(l, p);
    }
}

/* ---- accepting ---- */

static void sockets_watch(struct listener *l, bool on)
{
    for (size_t i = 0; i < l->n_sockets; i++) {
        struct epoll_event event = {.events = on ? EPOLLIN : 0, .data.ptr = &l->sockets[i]};
        check(epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, l->sockets[i].fd, &event) == 0);
    }
}

static void accept_pause(struct listener *l, const struct socket *s, int error, uint64_t now_ms)
{
    uint64_t suppressed;

    if (may_log(l, now_ms, &suppressed))
        log_error("cannot accept connections", LOG_STR("url", s->url->text),
                  LOG_ERRNO("error", error), LOG_U64("suppressed", suppressed));
    if (l->spare_fd >= 0) {
        close(l->spare_fd);
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            close(fd);
        l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    l->paused_until_ms = now_ms + ACCEPT_PAUSE_MS;
    sockets_watch(l, false);
}

static void accept_resume(struct listener *l, uint64_t now_ms)
{
    if (!l->paused_until_ms || now_ms < l->paused_until_ms)
        return;
    l->paused_until_ms = 0;
    if (l->spare_fd < 0)
        l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    sockets_watch(l, true);
}

static void connection_new(struct listener *l, const struct socket *s, int fd,
                           const struct sockaddr *peer, uint64_t now_ms)
{
    atomic_fetch_add_explicit(&l->accepted, 1, memory_order_relaxed);
    if (!conn_limit_add(l->connections, fd, peer, now_ms)) {
        atomic_fetch_add_explicit(&l->refused, 1, memory_order_relaxed);
        connection_reject(l, fd, "too many connections", now_ms);
        return;
    }
    enum verdict verdict = peek(fd);
    if (verdict == VERDICT_MORE)
        pending_add(l, fd, s->role, now_ms);
    else
        connection_route(l, fd, s->role, verdict, now_ms);
}

static void socket_ready(struct listener *l, const struct socket *s, uint64_t now_ms)
{
    for (int i = 0; i < ACCEPT_BATCH_MAX && !l->paused_until_ms; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof(peer);
        int fd = accept4(s->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            connection_new(l, s, fd, (struct sockaddr *)&peer, now_ms);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            accept_pause(l, s, errno, now_ms);
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return;
        /* Anything else is the error of one connection that died in the backlog (accept(2)). */
    }
}

/* ---- the turn ---- */

/*
 * Pending sockets first: accepting may push out the oldest of them, whose event would then lead
 * nowhere.
 */
static void events_handle(struct listener *l, struct epoll_event *events, int n, uint64_t now_ms)
{
    for (int i = 0; i < n; i++) {
        if (*(enum kind *)events[i].data.ptr == KIND_PENDING) {
            pending_ready(l, events[i].data.ptr, now_ms);
            events[i].data.ptr = &l->wake;
        }
    }
    for (int i = 0; i < n; i++) {
        if (*(enum kind *)events[i].data.ptr == KIND_LISTENING)
            socket_ready(l, events[i].data.ptr, now_ms);
    }
}

static void turn(struct listener *l, struct epoll_event *events, int n, uint64_t now_ms)
{
    accept_resume(l, now_ms);
    events_handle(l, events, n, now_ms);
    pending_expire(l, now_ms);
    atomic_store_explicit(&l->pending_seen, l->n_pending, memory_order_relaxed);
    atomic_store_explicit(&l->connections_seen, conn_limit_count(l->connections),
                          memory_order_relaxed);
}

void listener_turn(struct listener *l, uint64_t now_ms, int timeout_ms)
{
    struct epoll_event events[EVENTS_MAX];

    turn(l, events, epoll_wait(l->epoll_fd, events, EVENTS_MAX, timeout_ms), now_ms);
}

static int turn_timeout(const struct listener *l, uint64_t now_ms)
{
    uint64_t until = l->paused_until_ms ? l->paused_until_ms : UINT64_MAX;

    if (!list_empty(&l->pending)) {
        uint64_t deadline = container_of(l->pending.next, struct pending, link)->deadline_ms;
        until = deadline < until ? deadline : until;
    }
    if (until == UINT64_MAX)
        return -1;
    return until <= now_ms ? 0 : (int)(until - now_ms);
}

static void *listener_main(void *arg)
{
    struct epoll_event events[EVENTS_MAX];
    struct listener *l = arg;

    pthread_setname_np(pthread_self(), "listener");
    while (!atomic_load(&l->stopping)) {
        int n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, turn_timeout(l, clock_mono_ms()));
        check(n >= 0 || errno == EINTR);
        turn(l, events, n, clock_mono_ms());
    }
    return NULL;
}

/* ---- start and stop ---- */

static int socket_open(struct listener *l, const struct url *url, enum role role,
                       const struct config *config)
{
    struct bind_options options = {.reuse_port = config->socket_reuse_port};
    struct socket *s = &l->sockets[l->n_sockets];
    _cleanup_(mem_freep) char *error = NULL;
    int fd;

    if (bind_url(url, &options, &fd, &error)) {
        log_fatal("discovery failed", LOG_STR("error", error));
        return 1;
    }
    *s = (struct socket){.kind = KIND_LISTENING, .role = role, .fd = fd, .url = url};
    l->n_sockets++;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? err_origin(-errno) : 0;
}

static int sockets_open(struct listener *l, const struct config *c)
{
    const struct url_list *lists[] = {&c->listen_client_urls, &c->listen_client_http_urls,
                                      &c->listen_metrics_urls};
    enum role roles[] = {c->listen_client_http_urls.len ? ROLE_GRPC_ONLY : ROLE_CLIENT,
                         ROLE_HTTP_ONLY, ROLE_METRICS};
    int r = 0;

    l->sockets =
        mem_alloc((lists[0]->len + lists[1]->len + lists[2]->len + 1) * sizeof(struct socket));
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < lists[i]->len && r == 0; j++)
            r = socket_open(l, &lists[i]->items[j], roles[i], c);
    }
    return r;
}

int listener_open(struct listener **ret, const struct config *config,
                  const struct listener_handlers *handlers, const struct listener_limits *limits)
{
    struct listener *l = mem_new(struct listener);

    l->handlers = *handlers;
    l->pending_max = limits->pending;
    l->connections = conn_limit_new(limits->connections, limits->address_connections);
    list_init(&l->pending);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    l->wake = (struct socket){.kind = KIND_WAKE, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &l->wake};
    int r = l->epoll_fd < 0 || l->wake.fd < 0 ||
                    epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, l->wake.fd, &event) < 0
                ? err_origin(-errno)
                : sockets_open(l, config);
    if (r) {
        listener_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

/*
 * Go programs raise their limit of descriptors to what they may have, and operators of etcd count
 * on it.
 */
static size_t descriptors_raise(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return LISTENER_CONNECTIONS_MAX;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur > SIZE_MAX ? SIZE_MAX : (size_t)limit.rlim_cur;
}

int listener_start(struct listener **ret, const struct config *config,
                   const struct listener_handlers *handlers)
{
    struct listener_limits limits = {LISTENER_CONNECTIONS_MAX, LISTENER_ADDRESS_CONNECTIONS_MAX,
                                     LISTENER_PENDING_MAX};
    size_t descriptors = descriptors_raise(), reserved = descriptors / 4;
    struct listener *l;

    if (reserved < DESCRIPTORS_RESERVED_MIN)
        reserved =
            descriptors / 2 < DESCRIPTORS_RESERVED_MIN ? descriptors / 2 : DESCRIPTORS_RESERVED_MIN;
    if (limits.connections > descriptors - reserved)
        limits.connections = descriptors - reserved;
    int r = listener_open(&l, config, handlers, &limits);
    if (r)
        return r;
    r = -pthread_create(&l->thread, NULL, listener_main, l);
    if (r) {
        listener_free(l);
        return err_origin(r);
    }
    l->started = true;
    *ret = l;
    return 0;
}

void listener_stop(struct listener *l)
{
    uint64_t one = 1;

    if (!l)
        return;
    atomic_store(&l->stopping, true);
    if (l->started) {
        check(write(l->wake.fd, &one, sizeof(one)) == sizeof(one));
        pthread_join(l->thread, NULL);
        l->started = false;
    }
    for (size_t i = 0; i < l->n_sockets; i++) {
        bind_unlink(l->sockets[i].url);
        close(l->sockets[i].fd);
    }
    l->n_sockets = 0;
    while (!list_empty(&l->pending))
        pending_drop(l, container_of(l->pending.next, struct pending, link));
}

struct listener *listener_free(struct listener *l)
{
    if (!l)
        return NULL;
    listener_stop(l);
    conn_limit_free(l->connections);
    if (l->spare_fd >= 0)
        close(l->spare_fd);
    if (l->wake.fd >= 0)
        close(l->wake.fd);
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    free(l->sockets);
    free(l);
    return NULL;
}

void listener_stats(struct listener *l, struct listener_stats *ret)
{
    *ret = (struct listener_stats){
        .accepted = atomic_load_explicit(&l->accepted, memory_order_relaxed),
        .refused = atomic_load_explicit(&l->refused, memory_order_relaxed),
        .dropped = atomic_load_explicit(&l->dropped, memory_order_relaxed),
        .pending = atomic_load_explicit(&l->pending_seen, memory_order_relaxed),
        .connections = atomic_load_explicit(&l->connections_seen, memory_order_relaxed),
    };
}

uint16_t listener_port(const struct listener *l, size_t i)
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof(a);

    check(i < l->n_sockets);
    check(getsockname(l->sockets[i].fd, (struct sockaddr *)&a, &len) == 0);
    if (a.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return a.ss_family == AF_INET ? ntohs(((struct sockaddr_in *)&a)->sin_port) : 0;
}
