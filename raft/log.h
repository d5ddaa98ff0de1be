/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raft's view of the log: every entry from the last compaction on, in memory, with the cursors that
 * say how far each of them has got. All functions are total: an index outside gives "no", never an
 * abort, because indices come from the network.
 */
#pragma once

#include "raft/types.h"

struct raft_log {
    struct raft_entry *entries;      /* the live ones are [start, start + len) */
    size_t start;
    size_t len;
    size_t cap;
    uint64_t base_index;  /* the entry before the first one: compacted, or covered by a snapshot */
    uint64_t base_term;

    uint64_t handed;                 /* handed out to be written */
    uint64_t persisted;
    uint64_t committed;
    uint64_t applying;               /* handed out to be applied */
    uint64_t applied;

    uint64_t applying_bytes;         /* of the entries in (applied, applying] */
    uint64_t applying_bytes_max;
    bool applying_paused;

    /* received and not yet installed; owned; base is its position */
    struct raft_snapshot *snapshot;
    bool snapshot_handed;
};

/* Bytes of an entry as raftpb encodes it; what the byte limits count. */
uint64_t raft_entry_bytes(const struct raft_entry *e);
uint64_t raft_entries_bytes(const struct raft_entry *entries, size_t n);
/* Bytes of the payloads alone: an empty entry counts nothing. */
uint64_t raft_payload_bytes(const struct raft_entry *entries, size_t n);

struct raft_snapshot *raft_snapshot_copy(const struct raft_snapshot *s);
struct raft_snapshot *raft_snapshot_free(struct raft_snapshot *s);

void raft_log_init(struct raft_log *l, uint64_t base_index, uint64_t base_term,
                   uint64_t applying_bytes_max);
void raft_log_deinit(struct raft_log *l);

static inline uint64_t raft_log_first(const struct raft_log *l)
{
    return l->base_index + 1;
}

static inline uint64_t raft_log_last(const struct raft_log *l)
{
    return l->base_index + l->len;
}

/* The entry itself: index in [first, last]. */
static inline struct raft_entry *raft_log_at(const struct raft_log *l, uint64_t index)
{
    return &l->entries[l->start + (size_t)(index - l->base_index - 1)];
}

uint64_t raft_log_last_term(const struct raft_log *l);
/* False if index is compacted or beyond the end; *ret untouched then. */
bool raft_log_term(const struct raft_log *l, uint64_t index, uint64_t *ret);
bool raft_log_matches(const struct raft_log *l, uint64_t index, uint64_t term);
bool raft_log_up_to_date(const struct raft_log *l, uint64_t last_index, uint64_t last_term);
/*
 * How many of the entries from lo to hi (both included) fit into bytes_max; at least one if there
 * is one.
 */
size_t raft_log_fit(const struct raft_log *l, uint64_t lo, uint64_t hi, uint64_t bytes_max);

/* Appends behind the last entry, with index and term as given, taking references. */
void raft_log_append(struct raft_log *l, const struct raft_entry *entries, size_t n);
/* The same for a leader's own new entries: they get the next indices and this term. */
void raft_log_append_own(struct raft_log *l, const struct raft_entry *entries, size_t n,
                         uint64_t term);
/* Drops the entries from index on; they are above committed. */
void raft_log_truncate(struct raft_log *l, uint64_t index);
/* Drops the entries up to index, which is applied. Below the first: nothing. */
void raft_log_compact(struct raft_log *l, uint64_t index);
/* The whole log is replaced by a snapshot beyond committed. */
void raft_log_restore(struct raft_log *l, const struct raft_snapshot *s);

/* Position in entries of the first that the log does not have; n if it has them all. */
size_t raft_log_find_new(const struct raft_log *l, const struct raft_entry *entries, size_t n);
/*
 * The largest position at or below index whose term is at most term: the best guess of where two
 * logs agree.
 */
uint64_t raft_log_find_by_term(const struct raft_log *l, uint64_t index, uint64_t term,
                               uint64_t *ret_term);

/* True if committed moved. index is at most the last one. */
bool raft_log_commit(struct raft_log *l, uint64_t index);
/*
 * The write that ended with this entry is durable and nothing older is under way. Unknown or
 * replaced entries are ignored.
 */
void raft_log_persist(struct raft_log *l, uint64_t index, uint64_t term);
void raft_log_snapshot_installed(struct raft_log *l, uint64_t index);
void raft_log_applied(struct raft_log *l, uint64_t index, uint64_t bytes);

/*
 * Entries to write, and committed entries to apply: borrowed until the log changes. Advance moves
 * the cursors.
 */
size_t raft_log_to_write(const struct raft_log *l, const struct raft_entry **ret);
size_t raft_log_to_apply(const struct raft_log *l, const struct raft_entry **ret);
void raft_log_advance_write(struct raft_log *l);
void raft_log_advance_apply(struct raft_log *l, uint64_t index);

void raft_log_sanity(const struct raft_log *l);
