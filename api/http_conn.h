/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection of the HTTP side, as http.c (bytes and time) and http_route.c (answers) share it.
 * Thread: the HTTP side's.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "api/http.h"
#include "api/http_health.h"
#include "api/http_parse.h"
#include "base/inbox.h"
#include "base/list.h"

/*
 *   IDLE ──first byte──> HEAD ──> BODY ──> SENDING ──sent──> IDLE
 *                                  │        ▲   └──last answer──> LINGERING ──> closed
 *                                  └──> WAITING
 */
enum http_state {
    HTTP_IDLE,
    HTTP_HEAD,
    HTTP_BODY,
    HTTP_WAITING,
    HTTP_SENDING,
    HTTP_LINGERING,
    HTTP_STATE_COUNT
};

struct http_conn {
    struct inbox_item item; /* a new connection, or the end of its read */
    struct list link;       /* in the list of its state */
    struct http *http;
    int fd;
    bool metrics_only;
    bool added; /* in the epoll set */
    bool gone;  /* the client closed while we wait */
    enum http_state state;
    uint32_t events;
    uint64_t deadline_ms;

    struct buf in;
    size_t in_pos; /* what is before it is used up */
    size_t scanned;
    struct http_body body;
    size_t body_bytes; /* framing included */

    /* The request at hand. */
    struct buf method, path, raw_path, query, host, origin;
    bool is_http10;
    bool keep_alive;

    struct health health;
    bool has_health;
    enum outcome outcome; /* of the read */

    struct buf out;
    size_t out_pos;
    size_t dropped_bytes;
};

struct http {
    struct server *server;
    struct inbox inbox;
    struct list states[HTTP_STATE_COUNT];
    size_t n_conns;
    int epoll_fd;
    int wake_fd;
    atomic_bool stopping;
    bool started;
    pthread_t thread;
};

/*
 * Answers the request, or begins to: HEALTH_WAIT, then http_answer_resume() ends it. Afterwards out
 * has the answer.
 */
int http_answer(struct http_conn *c, struct server *server);
int http_answer_resume(struct http_conn *c, struct server *server);
/* An answer of Go's net/http to what is no request; the connection then closes. */
void http_answer_error(struct http_conn *c, const struct http_error *error);
/* Called from any thread by the server; in http.c. */
void http_read_finished(struct request *request, enum outcome outcome);
