/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP/1.1 side of the client port and of the metrics URLs: /version /health /livez /readyz
 * /metrics, etcd's answers. (The JSON gateway joins it with a later issue.)
 * docs/decisions/0004-http.md says why it is no library. Thread: its own.
 */
#pragma once

#include "server/server.h"

struct http;

enum {
    HTTP_CONNECTIONS_MAX = 4096,
    HTTP_HEAD_MS = 30000, /* from a request's first byte to its last header */
    HTTP_BODY_MS = 30000,
    HTTP_IDLE_MS = 300000,            /* without a request */
    HTTP_SEND_MS = 60000,             /* for an answer to be taken */
    HTTP_LINGER_MS = 2000,            /* for the client to close after the last answer */
    HTTP_BODY_BYTES_MAX = 256 * 1024, /* read over before an answer that does not want it */
};

int http_start(struct http **ret, struct server *server);
void http_adopt(struct http *h, int fd, bool metrics_only); /* any thread; takes the socket */
/*
 * Closes all connections and joins the thread; before server_drain() would leave it reads that
 * nobody finishes. Accepts NULL.
 */
void http_stop(struct http *h);
struct http *http_free(struct http *h);
