/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that a request has left open, kept for the next to the same place. One that the other
 * side closes leaves the pool at once. Thread: the loop.
 */
#pragma once

#include "api/peer_conn.h"
#include "base/list.h"

enum {
    PEER_IDLE_MAX = 64,      /* in all; the oldest makes room */
    PEER_IDLE_HOST_MAX = 8,  /* to one place: four of the pipeline, probes, other requests */
    PEER_POOL_IDLE_MS = 8000 /* etcd's side waits for a request from 5 to 10 s */
};

struct peer_pool {
    struct peer_loop *loop;
    struct list idle; /* the latest first */
    size_t len;
};

void peer_pool_init(struct peer_pool *p, struct peer_loop *l);
void peer_pool_close(struct peer_pool *p); /* all of them; may be used again */
/* where: the text of the URL. NULL: there is none. */
struct peer_conn *peer_pool_take(struct peer_pool *p, const char *where);
void peer_pool_put(struct peer_pool *p, const char *where, struct peer_conn *conn);
