/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two files of apply share: apply.c, the turns, and apply_entry.c, what one entry does.
 *
 * Thread: the apply turn, but for inbox and turn, which any thread uses.
 */
#pragma once

#include <pthread.h>

#include "base/arena.h"
#include "server/apply.h"

/* Deliveries whose reads wait, oldest first. */
struct deliveries {
    struct delivery *first;
    struct delivery **last;
};

enum answer_time {
    ANSWER_WRITTEN,   /* when the batch is written */
    ANSWER_COMPACTED, /* when the physical compaction at revision is done */
    ANSWER_ALARMED,   /* when this member's NOSPACE alarm is active */
};

struct result {
    struct request *request;
    enum outcome outcome;
    enum answer_time time;
    int64_t revision;
};

/* Requests that are done but for an answer, back in the wait table, where they expire as any. */
struct held {
    uint64_t *ids;
    size_t len, cap;
};

struct apply {
    struct apply_options o;
    struct node *node;
    struct inbox inbox;
    pthread_mutex_t turn; /* held for the whole of a turn; guards all that follows */

    struct db_batch *batch;
    struct arena arena; /* what the turn decoded; keys and values live here until publish */
    struct result *results;
    size_t n_results, cap_results;
    size_t turn_entries;
    size_t turn_bytes;
    bool compaction_accepted; /* since the last write */
    bool conf_changed;        /* since the last write: conf is what raft is to be told */
    struct raft_conf_single conf;
    struct deliveries reads;
    bool alarm_due; /* an entry went over the quota, and this member's alarm is not applied yet */
    struct held held;
    uint64_t applied;
    uint64_t applied_term;
};

/* Writes what has been applied since the last time, publishes it, answers. The arena stays: an
 * entry may be half way. */
int apply_commit(struct apply *a);
/* The entry behind the last one: its effects go into the batch, its result to the results.
 * Negative: the store failed or the entry can't be applied; the member must stop. */
int apply_entry(struct apply *a, const struct raft_entry *entry);
