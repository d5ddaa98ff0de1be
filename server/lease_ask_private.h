/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lease_ask.c, lease_answer.c and lease_forward.c share: one question under way. Thread: see
 * lease_ask.c.
 */
#pragma once

#include "server/lease_ask.h"

struct lease_ask {
    struct lease_asks *all;
    struct list link; /* in one of the lists of `all`, or in none */
    uint64_t request_id;
    uint64_t expires_ms;

    bool renews;    /* else: how much is left */
    bool keys;      /* and of what */
    bool from_peer; /* another member asks: answered here or not at all */
    int64_t id;

    uint64_t index; /* that must be applied first, */
    uint64_t applied_until_ms;
    bool confirmed;  /* that this member leads */
    uint32_t serial; /* of the lease that has expired */

    struct request inner; /* a read index, or the proposal of that reset */
    struct buf payload;   /* of inner, or of fetch */
    struct scan_job job;
    struct member leader; /* its URLs */
    struct transport_fetch fetch;
};

struct lease_asks {
    struct server *server;
    bool fast;                     /* the feature gate FastLeaseKeepAlive */
    pthread_mutex_t lock;          /* guards the lists and what follows them */
    struct list parked;            /* looked at again at each tick */
    struct list unapplied;         /* and these also when something was applied */
    struct list forwards;          /* for their turn at the leader */
    size_t n_forwards;             /* there now */
    bool forwarding;               /* one thread takes from the list */
    _Atomic uint64_t wanted_index; /* the smallest of `unapplied`; UINT64_MAX: none */
    _Atomic unsigned n;
};

/* Goes on as far as it can now, and passes it on or ends it. */
void lease_ask_step(struct lease_ask *a);
/* Until the next tick. */
void lease_ask_park(struct lease_ask *a);
void lease_ask_free(struct lease_ask *a);
/* Somebody else has finished its request: time-out, client, stop. */
bool lease_ask_is_gone(const struct lease_ask *a);

/* Goes on when a read index has said that this member leads, or fails. */
void lease_ask_confirm(struct lease_ask *a);
/* The request, which is the caller's to finish from here on; NULL: it is gone. */
struct request *lease_ask_take(struct lease_ask *a);
/* Finishes the request, if it is still there, and frees; as do those of lease_answer.c. */
void lease_ask_fail(struct lease_ask *a, enum outcome outcome);

/* ---- lease_answer.c ---- */

struct lease_wire_left;
void lease_ask_renewed(struct lease_ask *a, int64_t ttl_s);
void lease_ask_left(struct lease_ask *a, const struct lease_wire_left *left);
void lease_ask_missing(struct lease_ask *a);
/* This member leads, and has applied what must be. */
void lease_answer(struct lease_ask *a);
/* id is the caller's; an outcome of lease_renew(). */
int lease_answer_renew(struct server *s, struct lease_renew *r);

/* ---- lease_forward.c ---- */

/* To the leader, if one is known. */
void lease_forward(struct lease_ask *a);
