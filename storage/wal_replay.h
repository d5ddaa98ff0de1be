/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meaning of the raft log's records in order: what a log is after each of them, and which of
 * them can't be. Only storage/wal_*.c include this.
 */
#pragma once

#include "storage/wal_format.h"

struct wal_replay {
    uint64_t keep_above; /* entries up to this index are looked at but not kept */
    uint64_t applied;    /* of those kept up to here ... */
    uint64_t applied_bytes_max; /* ... the payloads take no more than this: the first ones go */
    uint64_t applied_bytes;
    struct raft_hard_state hard_state;
    uint64_t first_index;
    uint64_t last_index;
    uint64_t last_term;
    uint64_t snapshot_index;
    uint64_t snapshot_term;
    uint64_t keep_above_term;   /* term of the entry at keep_above; 0 = not seen */
    struct raft_entry *entries; /* consecutive, up to last_index */
    size_t n_entries;
    size_t cap_entries;
};

/* The state where a segment begins. keep_above <= applied. */
void wal_replay_start(struct wal_replay *p, const struct wal_header *h, uint64_t keep_above,
                      uint64_t applied, uint64_t applied_bytes_max);
/* The bound holds exactly. */
void wal_replay_end(struct wal_replay *p);
void wal_replay_deinit(struct wal_replay *p);
/* NULL, or what is impossible about the record. The payload is copied as needed. */
const char *wal_replay_frame(struct wal_replay *p, const struct wal_frame *f);
/* NULL, or how the state at a segment's end contradicts the header of the next. */
const char *wal_replay_compare(const struct wal_replay *p, const struct wal_header *next);
