/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges as the current entry sees them: the store at the revision before the entry, with the
 * entry's own changes merged in.
 *
 * Invariants: (1) the store holds all earlier entries (mvcc_range_needs_flush() is false) for any
 * range but one key at the current revision, which the overlay answers. (2) Each key changed by the
 * entry is in `changed` once, with its state before the entry and now; so the merge takes a key
 * from the store only if it is not there, and the count is the store's plus the differences.
 *
 * Thread: the apply turn (one at a time, under apply's turn lock).
 */
#include <stdlib.h>

#include "base/check.h"
#include "storage/mvcc_impl.h"

enum { MERGE_FULL = 102 };

struct merge {
    struct mvcc *m;
    const struct mvcc_range_options *options;
    mvcc_visit visit;
    void *arg;
    size_t next; /* in m->changed, sorted */
    int64_t fetched;
};

static int changed_compare(const void *a, const void *b)
{
    const struct overlay_key *const *x = a, *const *y = b;
    return bytes_compare((*x)->key, (*y)->key);
}

static int merge_emit(struct merge *g, const struct mvcc_item *item)
{
    int r = g->visit(g->arg, item);
    if (r != 0)
        return r;
    g->fetched++;
    return g->options->limit > 0 && g->fetched >= g->options->limit ? MERGE_FULL : 0;
}

static int merge_changed(struct merge *g, const struct overlay_key *o)
{
    if (!o->live || !interval_contains(&g->options->interval, o->key))
        return 0;
    struct mvcc_item item;
    int r = mvcc_overlay_item(g->m, o, !g->options->keys_only, &item);
    return r < 0 ? r : merge_emit(g, &item);
}

/* An item of the store: first what the entry changed before it, then itself unless the entry
 * changed it. */
static int merge_visit(void *arg, const struct mvcc_item *item)
{
    struct merge *g = arg;
    while (g->next < g->m->n_changed) {
        const struct overlay_key *o = g->m->changed[g->next];
        int order = bytes_compare(o->key, item->key);
        if (order > 0)
            break;
        g->next++;
        int r = merge_changed(g, o);
        if (r != 0 || order == 0)
            return r;
    }
    return merge_emit(g, item);
}

static int merge_rest(struct merge *g)
{
    int r = 0;
    while (r == 0 && g->next < g->m->n_changed)
        r = merge_changed(g, g->m->changed[g->next++]);
    return r;
}

static int count_merged(struct mvcc *m, const struct mvcc_range_options *options, int64_t *ret)
{
    struct mvcc_range_options all = {.interval = options->interval, .count_only = true};
    int64_t count = 0;
    int r = mvcc_read_at(m, &all, m->writer_revision, mvcc_visit_nothing, NULL, &count);
    if (r != 0)
        return r;
    for (size_t i = 0; i < m->n_changed; i++)
        if (interval_contains(&options->interval, m->changed[i]->key))
            count += m->changed[i]->live - m->changed[i]->live_before;
    *ret = count;
    return 0;
}

static int range_merged(struct mvcc *m, const struct mvcc_range_options *options, mvcc_visit visit,
                        void *arg, int64_t *ret_count)
{
    check(!m->unpublished); /* (1) */
    if (options->count_only)
        return count_merged(m, options, ret_count);
    qsort(m->changed, m->n_changed, sizeof(*m->changed), changed_compare);
    struct merge g = {m, options, visit, arg, 0, 0};
    struct mvcc_range_options all = {
        .interval = options->interval,
        .keys_only = options->keys_only,
    };
    int64_t count = 0;
    int r = mvcc_read_at(m, &all, m->writer_revision, merge_visit, &g, &count);
    if (r == 0)
        r = merge_rest(&g);
    if (r == MERGE_FULL && !options->no_count)
        return count_merged(m, options, ret_count);
    if (r != 0 && r != MERGE_FULL)
        return r;
    *ret_count = g.fetched;
    return 0;
}

static int point_current(struct mvcc *m, const struct mvcc_range_options *options, mvcc_visit visit,
                         void *arg, int64_t *ret_count)
{
    bool found;
    struct mvcc_item item;
    bool want_value = !options->keys_only && !options->count_only;
    int r = mvcc_lookup(m, options->interval.key, want_value, &found, &item);
    if (r == 0 && found && !options->count_only)
        r = visit(arg, &item);
    if (r == 0)
        *ret_count = found;
    return r;
}

int mvcc_txn_range(struct mvcc *m, const struct mvcc_range_options *options,
                   int (*visit)(void *arg, const struct mvcc_item *item), void *arg,
                   struct mvcc_range_result *ret)
{
    check(m->in_entry);
    int64_t current = m->writer_revision + mvcc_changed(m);
    int64_t revision = options->revision > 0 ? options->revision : current;
    if (revision > current)
        return MVCC_E_FUTURE;
    if (revision < m->writer_compacted)
        return MVCC_E_COMPACTED;
    int64_t count = 0;
    int r = 0;
    if (options->interval.kind == INTERVAL_EMPTY) {
        count = 0;
    } else if (options->interval.kind == INTERVAL_POINT && revision == current) {
        r = point_current(m, options, visit, arg, &count);
    } else if (revision == current && mvcc_changed(m)) {
        r = range_merged(m, options, visit, arg, &count);
    } else {
        check(!m->unpublished); /* (1) */
        r = mvcc_read_at(m, options, revision, visit, arg, &count);
    }
    if (r == 0)
        *ret = (struct mvcc_range_result){revision, current, count};
    return r;
}
