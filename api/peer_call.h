/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HTTP request to another member and its answer, which for a stream has no end. Thread: the
 * loop.
 */
#pragma once

#include "api/peer_dial.h"
#include "api/peer_header.h"
#include "api/peer_pool.h"

struct peer_call_options {
    const struct url *url; /* copied */
    /* host is filled in here. Borrowed during the start. */
    struct peer_request request;
    struct bytes body;
    uint64_t dial_ms;   /* for a connection to be made */
    uint64_t answer_ms; /* for the whole answer; of a stream: between its bytes */
    uint64_t answer_bytes_max;
    bool reuse;  /* a connection that is open already, and keep it open */
    bool repeat; /* once, if such a connection turns out to be closed */
};

enum { PEER_REFUSAL_BYTES_MAX = 4096 }; /* of an answer to a stream's request that is none */

struct peer_call {
    /* Once. NULL: there is an answer, in reply.head and answer; of a stream: it has come to its
     * orderly end, or was refused. The call may be started again from within. */
    void (*done)(struct peer_call *c, const char *error);
    /*
     * Streams only: when the head of an answer 200 has come, and whenever there are bytes in
     * answer, which is to be cleared. False: the caller wants no more of it; it is over, without
     * done().
     */
    bool (*arrived)(struct peer_call *c);

    struct peer_pool *pool;
    struct url url;
    char *where;
    struct buf request;
    struct peer_dial dial;
    struct peer_conn *conn;
    struct peer_timer timer;
    uint64_t dial_ms, answer_ms, answer_bytes_max;
    bool reuse, repeat;
    bool reused; /* the connection was open before */
    bool active;
    struct peer_reply reply;
    struct buf answer;
    char error[PEER_ERROR_BYTES_MAX];
};

void peer_call_start(struct peer_call *c, struct peer_pool *pool,
                     const struct peer_call_options *options);
/* Ends it without done(); also one that is not under way. Frees what it holds. */
void peer_call_cancel(struct peer_call *c);
