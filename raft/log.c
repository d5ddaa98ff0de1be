/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log, in memory, from the last compaction on.
 *
 *      base          applied      applying     committed      handed       last
 *   ----|---------------|------------|------------|--------------|-----------|
 *       first ...         persisted is below handed, on either side of committed
 *
 * An entry is handed out to be written, becomes persisted when the disk says so, is committed when
 * a quorum has it, is handed out to be applied when it is both, and is dropped by a compaction when
 * it is applied.
 *
 * Invariants
 *   (L1) entry i stands at entries[start + i - base_index - 1]; indices are consecutive, terms
 *        never fall.
 *   (L2) base_index <= applied <= applying <= committed <= last, but while a snapshot is pending
 *        applied and applying are below the base: nothing is applied until it is installed.
 *   (L3) persisted <= handed <= last; truncation moves both back, so what replaces an entry is
 *        written again.
 *   (L4) the entries are one contiguous array, so that a ready and a message can point into it.
 *        Compaction moves start; the hole is reclaimed when the array would have to grow.
 *
 * Thread: the raft thread.
 */
#include "raft/log.h"

#include "base/check.h"
#include "base/mem.h"
#include "raft/conf.h"
#include "raft/vec.h"

uint64_t raft_entry_bytes(const struct raft_entry *e)
{
    uint64_t n = 2 + varint_size(e->term) + varint_size(e->index);
    if (e->type != RAFT_ENTRY_NORMAL)
        n += 2;
    if (e->data)
        n += 1 + varint_size(e->data->len) + e->data->len;
    return n;
}

uint64_t raft_entries_bytes(const struct raft_entry *entries, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += raft_entry_bytes(&entries[i]);
    return bytes;
}

uint64_t raft_payload_bytes(const struct raft_entry *entries, size_t n)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += entries[i].data ? entries[i].data->len : 0;
    return bytes;
}

struct raft_snapshot *raft_snapshot_copy(const struct raft_snapshot *s)
{
    struct raft_snapshot *copy = mem_new(struct raft_snapshot);
    copy->index = s->index;
    copy->term = s->term;
    copy->data = blob_ref(s->data);
    conf_copy(&copy->conf, &s->conf);
    return copy;
}

struct raft_snapshot *raft_snapshot_free(struct raft_snapshot *s)
{
    if (!s)
        return NULL;
    conf_deinit(&s->conf);
    blob_unref(s->data);
    free(s);
    return NULL;
}

void raft_log_init(struct raft_log *l, uint64_t base_index, uint64_t base_term,
                   uint64_t applying_bytes_max)
{
    *l = (struct raft_log){
        .base_index = base_index,
        .base_term = base_term,
        .handed = base_index,
        .persisted = base_index,
        .committed = base_index,
        .applying = base_index,
        .applied = base_index,
        .applying_bytes_max = applying_bytes_max ? applying_bytes_max : UINT64_MAX,
    };
}

static void drop_entries(struct raft_log *l, size_t start, size_t n)
{
    for (size_t i = 0; i < n; i++)
        blob_unref(l->entries[start + i].data);
}

void raft_log_deinit(struct raft_log *l)
{
    drop_entries(l, l->start, l->len);
    free(l->entries);
    raft_snapshot_free(l->snapshot);
    *l = (struct raft_log){0};
}

uint64_t raft_log_last_term(const struct raft_log *l)
{
    return l->len ? l->entries[l->start + l->len - 1].term : l->base_term;
}

bool raft_log_term(const struct raft_log *l, uint64_t index, uint64_t *ret)
{
    if (index < l->base_index || index > raft_log_last(l))
        return false;
    *ret = index == l->base_index ? l->base_term : raft_log_at(l, index)->term;
    return true;
}

bool raft_log_matches(const struct raft_log *l, uint64_t index, uint64_t term)
{
    uint64_t t;
    return raft_log_term(l, index, &t) && t == term;
}

bool raft_log_up_to_date(const struct raft_log *l, uint64_t last_index, uint64_t last_term)
{
    uint64_t t = raft_log_last_term(l);
    return last_term > t || (last_term == t && last_index >= raft_log_last(l));
}

size_t raft_log_fit(const struct raft_log *l, uint64_t lo, uint64_t hi, uint64_t bytes_max)
{
    if (lo < raft_log_first(l) || hi > raft_log_last(l) || lo > hi)
        return 0;
    const struct raft_entry *e = raft_log_at(l, lo);
    size_t n = (size_t)(hi - lo + 1);
    if (bytes_max == UINT64_MAX)
        return n;
    uint64_t bytes = raft_entry_bytes(e);
    for (size_t i = 1; i < n; i++) {
        bytes += raft_entry_bytes(&e[i]);
        if (bytes > bytes_max)
            return i;
    }
    return n;
}

/* (L4): room for n more behind the last one; the hole in front is used before memory is. */
static void reserve(struct raft_log *l, size_t n)
{
    if (l->start + l->len + n <= l->cap)
        return;
    if (l->start > 0 && l->start >= l->len) {
        memmove(l->entries, l->entries + l->start, l->len * sizeof(*l->entries));
        l->start = 0;
    }
    l->entries = vec_reserve(l->entries, &l->cap, l->start + l->len + n, sizeof(*l->entries));
}

void raft_log_append(struct raft_log *l, const struct raft_entry *entries, size_t n)
{
    check(n == 0 || entries[0].index == raft_log_last(l) + 1);
    reserve(l, n);
    struct raft_entry *to = &l->entries[l->start + l->len];
    for (size_t i = 0; i < n; i++) {
        to[i] = entries[i];
        blob_ref(to[i].data);
    }
    l->len += n;
}

void raft_log_append_own(struct raft_log *l, const struct raft_entry *entries, size_t n,
                         uint64_t term)
{
    reserve(l, n);
    struct raft_entry *to = &l->entries[l->start + l->len];
    uint64_t index = raft_log_last(l);
    for (size_t i = 0; i < n; i++)
        to[i] = (struct raft_entry){term, ++index, entries[i].type, blob_ref(entries[i].data)};
    l->len += n;
}

void raft_log_truncate(struct raft_log *l, uint64_t index)
{
    check(index > l->committed && index > l->base_index && index <= raft_log_last(l) + 1);
    size_t keep = (size_t)(index - l->base_index - 1);
    drop_entries(l, l->start + keep, l->len - keep);
    l->len = keep;
    if (l->handed >= index)
        l->handed = index - 1;
    if (l->persisted >= index)
        l->persisted = index - 1;
}

void raft_log_compact(struct raft_log *l, uint64_t index)
{
    if (index <= l->base_index)
        return;
    check(index <= l->applied && index <= l->persisted);
    size_t n = (size_t)(index - l->base_index);
    l->base_term = raft_log_at(l, index)->term;
    l->base_index = index;
    drop_entries(l, l->start, n);
    l->start += n;
    l->len -= n;
    if (l->len == 0)
        l->start = 0;
}

void raft_log_restore(struct raft_log *l, const struct raft_snapshot *s)
{
    check(s->index > l->committed);
    drop_entries(l, l->start, l->len);
    l->start = l->len = 0;
    l->base_index = l->handed = l->persisted = l->committed = s->index;
    l->base_term = s->term;
    raft_snapshot_free(l->snapshot);
    l->snapshot = raft_snapshot_copy(s);
    l->snapshot_handed = false;
}

size_t raft_log_find_new(const struct raft_log *l, const struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!raft_log_matches(l, entries[i].index, entries[i].term))
            return i;
    return n;
}

uint64_t raft_log_find_by_term(const struct raft_log *l, uint64_t index, uint64_t term,
                               uint64_t *ret_term)
{
    for (; index > 0; index--) {
        uint64_t t;
        if (!raft_log_term(l, index, &t)) {
            *ret_term = 0;
            return index;
        }
        if (t <= term) {
            *ret_term = t;
            return index;
        }
    }
    *ret_term = 0;
    return 0;
}

bool raft_log_commit(struct raft_log *l, uint64_t index)
{
    if (index <= l->committed)
        return false;
    check(index <= raft_log_last(l));
    l->committed = index;
    return true;
}

void raft_log_persist(struct raft_log *l, uint64_t index, uint64_t term)
{
    if (index <= l->persisted || index <= l->base_index || !raft_log_matches(l, index, term))
        return;
    l->persisted = index;
    if (l->handed < index)
        l->handed = index;
}

void raft_log_snapshot_installed(struct raft_log *l, uint64_t index)
{
    if (l->snapshot && l->snapshot->index == index)
        l->snapshot = raft_snapshot_free(l->snapshot);
}

void raft_log_applied(struct raft_log *l, uint64_t index, uint64_t bytes)
{
    check(index >= l->applied && index <= l->committed);
    l->applied = index;
    if (l->applying < index)
        l->applying = index;
    l->applying_bytes -= bytes < l->applying_bytes ? bytes : l->applying_bytes;
    l->applying_paused = l->applying_bytes >= l->applying_bytes_max;
}

size_t raft_log_to_write(const struct raft_log *l, const struct raft_entry **ret)
{
    size_t n = (size_t)(raft_log_last(l) - l->handed);
    if (n > 0)
        *ret = raft_log_at(l, l->handed + 1);
    return n;
}

/*
 * Only what is durable here is applied: the applied state must never be ahead of this member's own
 * log.
 */
static uint64_t appliable(const struct raft_log *l)
{
    return l->committed < l->persisted ? l->committed : l->persisted;
}

size_t raft_log_to_apply(const struct raft_log *l, const struct raft_entry **ret)
{
    if (l->applying_paused || l->snapshot || l->applying >= appliable(l))
        return 0;
    *ret = raft_log_at(l, l->applying + 1);
    return raft_log_fit(l, l->applying + 1, appliable(l),
                        l->applying_bytes_max - l->applying_bytes);
}

void raft_log_advance_write(struct raft_log *l)
{
    l->handed = raft_log_last(l);
    if (l->snapshot)
        l->snapshot_handed = true;
}

void raft_log_advance_apply(struct raft_log *l, uint64_t index)
{
    check(index > l->applying && index <= appliable(l));
    l->applying_bytes +=
        raft_entries_bytes(raft_log_at(l, l->applying + 1), (size_t)(index - l->applying));
    l->applying = index;
    l->applying_paused = l->applying_bytes >= l->applying_bytes_max || index < appliable(l);
}

void raft_log_sanity(const struct raft_log *l)
{
    check(l->persisted <= l->handed && l->handed <= raft_log_last(l)); /* (L3) */
    check(l->applied <= l->applying && l->applying <= l->committed &&
          l->committed <= raft_log_last(l));
    check(l->base_index <= l->persisted);
    check(l->snapshot ? l->snapshot->index == l->base_index || l->base_index > l->snapshot->index
                      : l->base_index <= l->applied); /* (L2) */
    uint64_t term = l->base_term;
    for (uint64_t i = raft_log_first(l); i <= raft_log_last(l); i++) { /* (L1) */
        const struct raft_entry *e = raft_log_at(l, i);
        check(e->index == i && e->term >= term);
        term = e->term;
    }
}
