/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wait table: id -> request that waits for its result. A request is in it from before its
 * proposal until it is taken by exactly one of: the apply turn (wait_take), the sweep (expired),
 * the client going away (wait_cancel), the stop (wait_stop). Whoever takes it finishes it, and
 * nobody else can; but the apply turn may put it back, when the answer has to wait. A result that
 * finds no request is dropped: it timed out, and may have been applied all the same.
 *
 * Thread: any; one mutex per shard, held for a few instructions.
 */
#pragma once

#include <pthread.h>

#include "server/request.h"

enum { WAIT_SHARDS = 64, WAIT_BUCKETS = 128 };

struct wait_shard {
    pthread_mutex_t lock;
    struct request *buckets[WAIT_BUCKETS];
    struct list
        by_expiry;      /* all requests get the same time, so order of arrival is order of expiry */
    size_t n_proposals; /* those that are not reads */
    bool stopped;
} __attribute__((aligned(64)));

struct wait_table {
    struct wait_shard shards[WAIT_SHARDS];
};

void wait_init(struct wait_table *w);
void wait_deinit(struct wait_table *w);
/* request->id and expires_ms are set. False: the table is stopped. */
bool wait_add(struct wait_table *w, struct request *request);
struct request *wait_take(struct wait_table *w, uint64_t id); /* NULL: nobody waits */
bool wait_contains(struct wait_table *w, uint64_t id);
/* how many wait for an entry of theirs; a sum over shards, not an instant */
size_t wait_proposals(struct wait_table *w);
bool wait_cancel(struct wait_table *w, struct request *request); /* true: taken back */
/* Takes every request whose time has come and finishes it with what outcome_of() says. */
void wait_expire(struct wait_table *w, uint64_t now_ms,
                 enum outcome (*outcome_of)(void *arg, const struct request *request), void *arg);
/* Refuses later ones and finishes all with OUTCOME_STOPPED. */
void wait_stop(struct wait_table *w);
