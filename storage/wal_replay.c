/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replays the records of the raft log into a state. Pure but for the memory of the entries kept.
 * Thread: any.
 *
 * The rules, the same as wal.c follows when it writes:
 *  (I1) an entry has at most the next index; a lower one discards all stored entries from its
 *       index on. It never touches what is committed, nor what a snapshot has replaced.
 *  (I2) the last hard state counts; its commit is not above the last entry.
 *  (I3) a snapshot marker above the commit index replaces the log: the next entry is the one
 *       behind it, and never before an earlier one. One at or below the commit index changes
 *       nothing but the newest snapshot.
 * A record that breaks a rule has passed its checksums, so it was written wrongly: the log is
 * refused.
 */
#include "storage/wal_replay.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

void wal_replay_start(struct wal_replay *p, const struct wal_header *h, uint64_t keep_above,
                      uint64_t applied, uint64_t applied_bytes_max)
{
    *p = (struct wal_replay){
        .keep_above = keep_above,
        .applied = applied,
        .applied_bytes_max = applied_bytes_max,
        .hard_state = h->hard_state,
        .first_index = h->first_index,
        .last_index = h->last_index,
        .last_term = h->last_term,
        .snapshot_index = h->snapshot_index,
        .snapshot_term = h->snapshot_term,
        .keep_above_term = h->last_index == keep_above ? h->last_term : 0,
    };
}

/* The payload of an entry, as it counts against the bound. */
static uint64_t replay_weight(const struct wal_replay *p, const struct raft_entry *e)
{
    return e->index <= p->applied ? blob_bytes(e->data).len : 0;
}

static void replay_discard_from(struct wal_replay *p, uint64_t index)
{
    while (p->n_entries && p->entries[p->n_entries - 1].index >= index) {
        struct raft_entry *e = &p->entries[--p->n_entries];
        p->applied_bytes -= replay_weight(p, e);
        blob_unref(e->data);
    }
}

/* From the front. If one of those is overwritten later, the term at keep_above is seen again. */
static void replay_trim(struct wal_replay *p, uint64_t bytes_max)
{
    size_t n = 0;
    while (n < p->n_entries && p->applied_bytes > bytes_max) {
        struct raft_entry *e = &p->entries[n++];
        p->applied_bytes -= replay_weight(p, e);
        p->keep_above = e->index;
        p->keep_above_term = e->term;
        blob_unref(e->data);
    }
    p->n_entries -= n;
    if (n > 0)
        memmove(p->entries, p->entries + n, p->n_entries * sizeof(*p->entries));
}

void wal_replay_end(struct wal_replay *p)
{
    replay_trim(p, p->applied_bytes_max);
}

void wal_replay_deinit(struct wal_replay *p)
{
    replay_discard_from(p, 0);
    free(p->entries);
    *p = (struct wal_replay){0};
}

static void replay_keep(struct wal_replay *p, const struct raft_entry *e, struct bytes data)
{
    if (p->n_entries == p->cap_entries) {
        p->cap_entries = p->cap_entries ? 2 * p->cap_entries : 256;
        p->entries = mem_realloc(p->entries, p->cap_entries * sizeof(*p->entries));
    }
    struct raft_entry *kept = &p->entries[p->n_entries++];
    *kept = *e;
    kept->data = data.len ? blob_copy(data) : NULL;
    p->applied_bytes += replay_weight(p, kept);
    if (p->applied_bytes / 2 > p->applied_bytes_max) /* seldom, since it moves the others */
        replay_trim(p, p->applied_bytes_max);
}

static const char *replay_entry(struct wal_replay *p, const struct wal_frame *f)
{
    struct raft_entry e;
    struct bytes data;
    if (!wal_entry_get(f, &e, &data))
        return "an entry that can't be decoded";
    if (e.index == UINT64_MAX) /* nothing could follow it */
        return "an entry at the last index that there is";
    if (e.index > p->last_index + 1)
        return "entries are missing between two others";
    if (e.index <= p->hard_state.commit || e.index < p->first_index)
        return "an entry overwrites a committed one";
    if (e.index <= p->last_index)
        replay_discard_from(p, e.index);
    p->last_index = e.index;
    p->last_term = e.term;
    if (e.index == p->keep_above)
        p->keep_above_term = e.term;
    else if (e.index > p->keep_above)
        replay_keep(p, &e, data);
    check(!p->n_entries || p->entries[0].index + p->n_entries == p->last_index + 1);
    return NULL;
}

static const char *replay_hard_state(struct wal_replay *p, const struct wal_frame *f)
{
    struct raft_hard_state hs;
    if (!wal_hard_state_get(f->payload, &hs))
        return "a hard state that can't be decoded";
    if (hs.commit > p->last_index)
        return "the commit index lies behind the last entry";
    p->hard_state = hs;
    return NULL;
}

static const char *replay_snapshot(struct wal_replay *p, const struct wal_frame *f)
{
    uint64_t index, term;
    if (!wal_snapshot_get(f->payload, &index, &term))
        return "a snapshot marker that can't be decoded";
    if (index == UINT64_MAX)
        return "a snapshot at the last index that there is";
    if (index > p->hard_state.commit && index < p->snapshot_index)
        return "a snapshot replaces a log that begins behind it";
    if (index > p->snapshot_index) {
        p->snapshot_index = index;
        p->snapshot_term = term;
    }
    if (index <= p->hard_state.commit)
        return NULL;
    replay_discard_from(p, 0);
    p->first_index = index + 1;
    p->last_index = index;
    p->last_term = term;
    p->keep_above_term = index == p->keep_above ? term : 0;
    if (index > p->keep_above && index <= p->applied) {
        p->keep_above = index;
        p->keep_above_term = term;
    }
    return NULL;
}

const char *wal_replay_frame(struct wal_replay *p, const struct wal_frame *f)
{
    switch (f->type) {
    case WAL_TYPE_OPEN: return f->payload.len ? "an open record that can't be decoded" : NULL;
    case WAL_TYPE_ENTRY: return replay_entry(p, f);
    case WAL_TYPE_HARD_STATE: return replay_hard_state(p, f);
    case WAL_TYPE_SNAPSHOT: return replay_snapshot(p, f);
    case WAL_TYPE_SEGMENT: return "a segment header within a segment";
    }
    return "a record of unknown type: the log was written by a newer version";
}

const char *wal_replay_compare(const struct wal_replay *p, const struct wal_header *next)
{
    bool same = p->hard_state.term == next->hard_state.term &&
                p->hard_state.vote == next->hard_state.vote &&
                p->hard_state.commit == next->hard_state.commit &&
                p->hard_state.lost_tail_index == next->hard_state.lost_tail_index &&
                p->hard_state.lost_tail_term == next->hard_state.lost_tail_term &&
                p->first_index == next->first_index && p->last_index == next->last_index &&
                p->last_term == next->last_term && p->snapshot_index == next->snapshot_index &&
                p->snapshot_term == next->snapshot_term;
    return same ? NULL : "the header does not agree with the segment before it";
}
