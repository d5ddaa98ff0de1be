/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP/1.1 side of the client port and of the metrics URLs: /version /health /livez /readyz /metrics, etcd's answers. (The JSON gateway joins it
 * with a later issue.) Thread: its own.
 */
#pragma once

#include "server/server.h"

struct http;

int http_start(struct http **ret, struct server *server);
void http_adopt(struct http *h, int fd, bool metrics_only);    /* any thread; takes the socket */
void http_stop(struct http *h);
struct http *http_free(struct http *h);
