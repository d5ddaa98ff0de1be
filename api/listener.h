/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front door: accepts, looks at the first bytes without reading them, and hands the socket to
 * gRPC or to the HTTP side.
 *
 *   "PRI * HTTP/2.0"            gRPC
 *   anything else in plain text HTTP/1.1
 *   0x16 (TLS)                  closed with a log line: TLS comes with the security work
 *                               (then the ClientHello's ALPN decides)
 *
 * With --listen-client-http-urls the client URLs are gRPC only, and what is no gRPC is closed
 * there. It also holds the limits that gRPC lacks: connections in all and per address
 * (conn_limit.h), connections whose first bytes have not come, 10 s for them. Thread: its own (one
 * for all listeners, epoll).
 */
#pragma once

#include "server/config.h"

struct listener;

enum {
    LISTENER_CONNECTIONS_MAX = 50000,
    LISTENER_ADDRESS_CONNECTIONS_MAX = 25000,
    LISTENER_PENDING_MAX = 4096, /* the oldest is closed for a new one */
    LISTENER_FIRST_BYTES_MS = 10000,
};

struct listener_handlers {
    /* Take over a connected, non-blocking socket; called on the listener's thread. */
    void (*grpc)(void *arg, int fd);
    void (*http)(void *arg, int fd, bool metrics_only);
    void *arg;
};

/*
 * config is borrowed until listener_free(). Outcome 1: can't bind (logged, with etcd's text "listen
 * tcp 127.0.0.1:2379: bind: address already in use").
 */
int listener_start(struct listener **ret, const struct config *config,
                   const struct listener_handlers *handlers);
void listener_stop(
    struct listener *l); /* closes the listening sockets and joins the thread; accepts NULL */
struct listener *listener_free(struct listener *l);

struct listener_stats {
    uint64_t accepted; /* since start */
    uint64_t refused;  /* over a limit */
    uint64_t dropped;  /* no first bytes in time, or pushed out by newer ones */
    size_t pending;
    size_t connections; /* handed over and, as far as is known, still open */
};
void listener_stats(struct listener *l,
                    struct listener_stats *ret); /* any thread; a little behind */

/* The parts of which start and stop are made, for tests: no thread, turns by hand. */
struct listener_limits {
    size_t connections;
    size_t address_connections;
    size_t pending;
};
int listener_open(struct listener **ret, const struct config *config,
                  const struct listener_handlers *handlers, const struct listener_limits *limits);
/* Waits at most timeout_ms for sockets and does what is to do at now_ms (monotonic). */
void listener_turn(struct listener *l, uint64_t now_ms, int timeout_ms);
uint16_t listener_port(const struct listener *l,
                       size_t i); /* of socket i in the order client, client http, metrics */
