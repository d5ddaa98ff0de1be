/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The apply worker: committed entries in order, their effects and the applied index in one write
 * batch, then the answers.
 *
 * Thread: entries are applied in an *apply turn*: one at a time, under apply's turn lock.
 * apply_turn() runs one on the apply thread, apply_now() on the raft thread. Elsewhere "Thread: the
 * apply turn" means: inside of one, so by one thread at a time, and each sees what the last one
 * did. The push functions: the raft thread. apply_wait(): the apply thread. apply_wake(): any.
 */
#pragma once

#include "base/inbox.h"
#include "raft/types.h"
#include "server/state.h"
#include "server/store.h"
#include "server/wait.h"

struct apply;
struct node;
struct housekeeper;
struct lease_asks;
struct watch_hub;
struct received;
struct snapshots;

enum { APPLY_NOW_ENTRIES_MAX = 2, APPLY_NOW_BYTES_MAX = 4096 };
enum { APPLY_TURN_ENTRIES_MAX = 4096, APPLY_TURN_BYTES_MAX = 16 << 20 };
/* Answers that wait for the NOSPACE alarm; more than that don't wait for it. */
enum { APPLY_HELD_MAX = 32768 };

struct apply_options {
    struct store *store;
    struct wait_table *wait;
    struct server_state *state;
    struct housekeeper *housekeeper;
    struct snapshots *snapshots;
    struct lease_asks *lease_asks;
    struct watch_hub *watch_hub;
    uint64_t applied; /* what the database holds, and that entry's term */
    uint64_t applied_term;
    uint64_t replay_to; /* last index of the log at the start */
    int64_t warning_duration_ns;
    int64_t quota_bytes; /* negative: off */
    size_t learners_max; /* --max-learners, the same on every member */
    /* An entry went over the quota: proposes this member's NOSPACE alarm, if it isn't under way.
     * Called at the end of every write until the alarm has been applied. */
    void (*raise_alarm)(void *arg);
    void *raise_alarm_arg;
    /* A change of members was applied and written, or came with a snapshot. NULL: nobody is told.
     */
    void (*members_changed)(void *arg);
    void *members_changed_arg;
};

struct apply *apply_new(const struct apply_options *options);
struct apply *apply_free(struct apply *a);
void apply_set_node(struct apply *a, struct node *node); /* before the first turn */

/* Applies the entries at once, if they are few and small, no turn runs and nothing waits for one:
 * with one client that spares a change of threads. False: push them. *ret_error: as apply_turn().
 * */
bool apply_now(struct apply *a, const struct raft_entry *entries, size_t n, int *ret_error);
/* Take references. Entries must continue where the last push ended. */
void apply_push_entries(struct apply *a, const struct raft_entry *entries, size_t n);
/* A snapshot takes the place of everything up to its index. Takes it. */
void apply_push_snapshot(struct apply *a, struct received *received);
/* The requests are finished with OUTCOME_OK when everything up to index is applied: here and now,
 * if it is. */
void apply_reads(struct apply *a, uint64_t index, const uint64_t *ids, size_t n);

/* Negative: the store failed or an entry can't be applied; the member must stop. */
int apply_turn(struct apply *a);
void apply_wait(struct apply *a);
void apply_wake(struct apply *a);
