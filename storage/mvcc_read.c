/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads at a published revision. Thread: any; no locks.
 *
 *   one key   its head (h), then the version it names (k) by exact key; if the head is newer than
 *             the revision, or gone while a newer change may be in the store, a seek in k.
 *   a range   one walk over k; keys only at the head: over h.
 *   a count   key_count, all under one view.
 *
 * Invariants: (1) a reader first takes the revision, then opens its view or iterator, and only then
 * looks at compacted: deletions are written after compacted is published, so an iterator that
 * misses something belongs to a reader who sees that. (2) The store may hold changes above the
 * revision (written, not yet published), and every path leaves them out. (3) Nothing is visited
 * before (1) is settled. (4) If ended equals the revision after the iterator was opened, the
 * iterator holds nothing above the revision.
 */
#include "storage/mvcc.h"

#include "base/check.h"
#include "base/err.h"
#include "storage/key_count.h"
#include "storage/mvcc_impl.h"

enum { READ_INEXACT = 101 };

static bool overtaken(const struct mvcc *m, int64_t revision)
{
    return atomic_load(&m->compacted) > revision;
}

static bool exact(const struct mvcc *m, int64_t revision)
{
    return atomic_load(&m->ended) == revision;
}

/* ---- one key ---- */

struct point {
    struct bytes key;
    int64_t revision;
    bool keys_only;
};

static int visit_head(struct bytes key, const struct head *head, mvcc_visit visit, void *arg)
{
    struct mvcc_item item = {
        .key = key,
        .mod = head->mod,
        .create = head->create,
        .version = head->version,
        .lease = head->lease,
    };
    return visit(arg, &item);
}

static int point_seek(struct mvcc *m, const struct point *p, mvcc_visit visit, void *arg,
                      int64_t *ret_count)
{
    struct interval interval = {INTERVAL_POINT, p->key, BYTES_NULL};
    struct mvcc_walk_options options = {.interval = &interval, .revision = p->revision};
    struct mvcc_walk w;
    mvcc_walk_open(&w, m, &options);
    bool found = false;
    struct rev rev;
    struct mvcc_item item;
    int r = overtaken(m, p->revision) ? MVCC_READ_OVERTAKEN : mvcc_walk_next(&w, &found, &rev);
    if (r == 0 && found)
        r = mvcc_walk_item(&w, rev, &item);
    if (r == 0 && found) {
        if (p->keys_only)
            item.encoded = BYTES_NULL;
        r = visit(arg, &item);
    }
    if (r == 0)
        *ret_count = found;
    mvcc_walk_close(&w);
    return r;
}

/* The version that the head names. A compaction may have taken it away since. */
static int point_value(struct mvcc *m, const struct point *p, const struct head *head,
                       mvcc_visit visit, void *arg)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    schema_k(&key, p->key, head->mod);
    _cleanup_(db_value_release) struct db_value value = {0};
    int r = db_get(m->db, NULL, buf_bytes(&key), &value);
    if (r == DB_E_NOT_FOUND)
        return overtaken(m, p->revision)
                   ? MVCC_READ_OVERTAKEN
                   : mvcc_corrupt("head without its version", buf_bytes(&key));
    struct mvcc_item item;
    if (r == 0)
        r = mvcc_item_decode(p->key, head->mod, value.bytes, &item);
    return r < 0 ? r : visit(arg, &item);
}

static int point_read(struct mvcc *m, const struct point *p, mvcc_visit visit, void *arg,
                      int64_t *ret_count)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    schema_h(&key, p->key);
    _cleanup_(db_value_release) struct db_value value = {0};
    int r = db_get(m->db, NULL, buf_bytes(&key), &value);
    if (r < 0)
        return r;
    if (r == DB_E_NOT_FOUND) {
        if (!exact(m, p->revision))
            return point_seek(m, p, visit, arg, ret_count);
        *ret_count = 0;
        return 0;
    }
    struct head head;
    if (!schema_head_decode(value.bytes, &head))
        return mvcc_corrupt("head", buf_bytes(&key));
    if (head.mod.main > p->revision)
        return point_seek(m, p, visit, arg, ret_count);
    r = p->keys_only ? visit_head(p->key, &head, visit, arg) : point_value(m, p, &head, visit, arg);
    if (r == 0)
        *ret_count = 1;
    return r;
}

/* ---- ranges ---- */

struct range {
    const struct mvcc_range_options *options;
    struct mvcc_seen seen; /* a view if a count is wanted, too */
    int64_t revision;
    mvcc_visit visit;
    void *arg;
    int64_t fetched;
    bool cut;        /* ended by the limit */
    struct buf last; /* the last key fetched, if cut */
    /* The one before: the last that the client sees, who asked for one less than is fetched. */
    struct buf shown;
};

/* An item was visited: is the limit reached? */
static bool range_full(struct range *g, struct bytes key)
{
    g->fetched++;
    if (g->fetched == g->options->limit - 1)
        buf_append_bytes(&g->shown, key);
    if (g->options->limit <= 0 || g->fetched < g->options->limit)
        return false;
    buf_append_bytes(&g->last, key);
    g->cut = true;
    return true;
}

static int range_versions(struct mvcc *m, struct range *g)
{
    struct mvcc_walk_options options = {
        .view = g->seen.view,
        .interval = &g->options->interval,
        .revision = g->revision,
    };
    struct mvcc_walk w;
    mvcc_walk_open(&w, m, &options);
    int r = overtaken(m, g->revision) ? MVCC_READ_OVERTAKEN : 0;
    bool found = true;
    while (r == 0 && found) {
        struct rev rev;
        struct mvcc_item item;
        r = mvcc_walk_next(&w, &found, &rev);
        if (r < 0 || !found)
            break;
        r = mvcc_walk_item(&w, rev, &item);
        if (r < 0)
            break;
        if (g->options->keys_only)
            item.encoded = BYTES_NULL;
        r = g->visit(g->arg, &item);
        if (r == 0 && range_full(g, item.key))
            break;
    }
    mvcc_walk_close(&w);
    return r;
}

static int range_head_visit(struct range *g, struct db_iter *it, bool *ret_full)
{
    struct bytes record = db_iter_key(it);
    struct head head;
    if (!schema_head_decode(db_iter_value(it), &head) || head.mod.main > g->revision)
        return mvcc_corrupt("head", record);
    struct bytes key = bytes_of(record.data + 1, record.len - 1);
    int r = visit_head(key, &head, g->visit, g->arg);
    *ret_full = r == 0 && range_full(g, key);
    return r;
}

/* READ_INEXACT: the store is ahead of the revision; nothing was visited. */
static int range_heads(struct mvcc *m, struct range *g)
{
    _cleanup_(buf_deinit) struct buf lower = BUF_NULL, upper = BUF_NULL;
    key_count_bounds(&g->options->interval, &lower, &upper);
    struct db_iter_options options = {.view = g->seen.view, .upper = buf_bytes(&upper)};
    struct db_iter *it = db_iter_new(m->db, &options);
    int r = exact(m, g->revision) ? 0 : READ_INEXACT; /* (4) */
    bool full = false;
    if (r == 0)
        db_iter_seek(it, buf_bytes(&lower));
    while (r == 0 && !full && db_iter_valid(it)) {
        r = range_head_visit(g, it, &full);
        if (r == 0 && !full)
            db_iter_next(it);
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

/* ---- counts ---- */

/* The next page begins behind the last key shown: its count is what this one's leaves. */
static void remember_next_page(struct mvcc *m, struct range *g, int64_t whole)
{
    struct interval next = g->options->interval;

    if (g->shown.len == 0)
        return;
    buf_append_u8(&g->shown, 0);
    next.key = buf_bytes(&g->shown);
    mvcc_count_store(m, &next, g->revision, whole - (g->fetched - 1));
}

/* How many keys the interval has in all, of a walk that was cut. */
static int count_whole(struct mvcc *m, struct range *g, int64_t *ret_count)
{
    const struct interval *whole = &g->options->interval;
    struct interval rest = *whole;
    buf_append_u8(&g->last, 0);
    rest.key = buf_bytes(&g->last);
    if (rest.kind == INTERVAL_RANGE && bytes_compare(rest.key, rest.end) >= 0) {
        *ret_count = g->fetched;
        return 0;
    }
    bool known;
    int64_t n = 0;
    int r = mvcc_count_known(m, &g->seen, whole, g->revision, &known, &n);
    if (r == 0 && known) {
        if (n < g->fetched)
            return mvcc_corrupt("fewer keys than were read", whole->key);
    } else if (r == 0) {
        r = mvcc_count(m, &g->seen, &rest, g->revision, &n);
        n += g->fetched;
    }
    if (r != 0)
        return r;
    mvcc_count_store(m, whole, g->revision, n);
    remember_next_page(m, g, n);
    *ret_count = n;
    return 0;
}

static int range_read(struct mvcc *m, struct range *g, bool count_wanted, int64_t *ret_count)
{
    bool view_exact = exact(m, g->revision);
    if (overtaken(m, g->revision))
        return MVCC_READ_OVERTAKEN;
    if (g->options->count_only)
        return mvcc_count(m, &g->seen, &g->options->interval, g->revision, ret_count);
    int r = g->options->keys_only && view_exact ? range_heads(m, g) : READ_INEXACT;
    if (r == READ_INEXACT)
        r = range_versions(m, g);
    if (r != 0)
        return r;
    if (g->cut && count_wanted)
        return count_whole(m, g, ret_count);
    *ret_count = g->fetched;
    return 0;
}

int mvcc_read_at(struct mvcc *m, const struct mvcc_range_options *options, int64_t revision,
                 mvcc_visit visit, void *arg, int64_t *ret_count)
{
    if (options->interval.kind == INTERVAL_EMPTY) {
        *ret_count = 0;
        return 0;
    }
    if (options->interval.kind == INTERVAL_POINT) {
        struct point p = {options->interval.key, revision,
                          options->keys_only || options->count_only};
        return point_read(m, &p, options->count_only ? mvcc_visit_nothing : visit, arg, ret_count);
    }
    struct range g = {.options = options, .revision = revision, .visit = visit, .arg = arg};
    bool count_wanted = options->count_only || (options->limit > 0 && !options->no_count);
    g.seen.revision = atomic_load(&m->revision);
    struct db_view *view = count_wanted ? db_view_new(m->db) : NULL;
    g.seen.view = view;
    g.seen.exact = exact(m, g.seen.revision);
    int r = range_read(m, &g, count_wanted, ret_count);
    db_view_free(m->db, view);
    buf_deinit(&g.last);
    buf_deinit(&g.shown);
    return r;
}

int mvcc_visit_nothing(void *arg, const struct mvcc_item *item)
{
    return 0;
}

int mvcc_range(struct mvcc *m, const struct mvcc_range_options *options,
               int (*visit)(void *arg, const struct mvcc_item *item), void *arg,
               struct mvcc_range_result *ret)
{
    for (;;) {
        int64_t current = atomic_load(&m->revision);
        int64_t revision = options->revision > 0 ? options->revision : current;
        if (revision > current)
            return MVCC_E_FUTURE;
        if (overtaken(m, revision) && options->revision > 0)
            return MVCC_E_COMPACTED;
        int64_t count = 0;
        int r = mvcc_read_at(m, options, revision, visit, arg, &count);
        if (r == MVCC_READ_OVERTAKEN && options->revision > 0)
            return MVCC_E_COMPACTED;
        if (r == MVCC_READ_OVERTAKEN)
            continue;
        if (r == 0)
            *ret = (struct mvcc_range_result){revision, current, count};
        return r;
    }
}
