/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The invariants that are looked at all the time. The taps (taps.c) call these when production code
 * calls from one of its modules to another. check_raft.c has consensus and the log, check_apply.c
 * what is applied, check_store.c what is stored in the end.
 */
#pragma once

#include "raft/raft.h"
#include "tests/sim/machine.h"

struct db_batch;

void checks_init(void);
void checks_deinit(void);

void check_member_died(struct machine *m);
/* Its disk was damaged, or is an older copy: what it promised is forgotten. */
void check_member_forget(struct machine *m);
/* What has been synced to its log. */
struct check_disk {
    uint64_t term, vote, last_index;
};
struct check_disk check_disk(const struct machine *m);

/* ---- consensus ---- */

void check_raft_new(struct machine *m, const struct raft_config *config);
void check_raft_step(struct machine *m, const struct raft_input *in);    /* before */
void check_raft_stepped(struct machine *m, const struct raft_input *in); /* after */
void check_raft_ready(struct machine *m, const struct raft_ready *rd);
/* A message leaves the member. */
void check_sent(struct machine *m, const struct raft_message *message);

/* ---- the log ---- */

void check_wal_append(struct machine *m, const struct raft_hard_state *hard_state,
                      const struct raft_entry *entries, size_t n);
void check_wal_snapshot(struct machine *m, uint64_t index, uint64_t term);
void check_wal_synced(struct machine *m);
void check_wal_release(struct machine *m, uint64_t index);
/* True: the entry is in the member's log, synced. */
bool check_is_durable(const struct machine *m, uint64_t index, uint64_t term);

/* ---- apply ---- */

void check_apply_init(void);
void check_apply_died(const struct machine *m);
/* A snapshot has replaced the state. */
void check_applied_snapshot(const struct machine *m, uint64_t index);
void check_apply_entry(struct machine *m, const struct raft_entry *entry);   /* before */
void check_entry_applied(struct machine *m, const struct raft_entry *entry); /* after */
/* A record goes into a batch. */
void check_batch_record(struct machine *m, const struct db_batch *batch, const struct bytes *key,
                        size_t n_key, const struct bytes *value, size_t n_value, bool deleted);
void check_batch_written(struct machine *m, struct db *db, const struct db_batch *batch);
/* All that a member has stored, when nothing is written any more. */
void check_store(const struct machine *m);
/* HashKV of a member at a revision. */
void check_hash_kv(const struct machine *m, int64_t revision, int64_t compacted, uint32_t hash);
