/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts of whole intervals, remembered. A client that lists page by page asks for the same count
 * with every page, and one that watches the size of a prefix asks for it every minute.
 *
 * The count of an interval at a revision never changes. So what was counted once answers for that
 * revision for ever, and for another one after adding what was created and deleted in between,
 * which the r records tell. A page stores two counts: that of its interval, and that of the rest,
 * which is the interval that the next page will ask for.
 *
 * Invariants: (1) a remembered count is used only if the view is not behind its revision, and if
 * nothing after the older of the two revisions was compacted in the view. (2) At most
 * MVCC_COUNTED_MAX are remembered; the one used longest ago goes. Thread: any.
 */
#include "base/check.h"
#include "storage/key_count.h"
#include "storage/mvcc_impl.h"

enum { CHANGES_MIN = 256 };

static bool counted_is(const struct counted *c, const struct interval *i)
{
    return c->used && c->kind == i->kind && bytes_equal(buf_bytes(&c->key), i->key) &&
           (i->kind != INTERVAL_RANGE || bytes_equal(buf_bytes(&c->end), i->end));
}

/* Under the lock. The entry of the interval, or the one to overwrite. */
static struct counted *counted_find(struct mvcc *m, const struct interval *i, bool *ret_found)
{
    struct counted *oldest = &m->counted[0];
    for (size_t at = 0; at < MVCC_COUNTED_MAX; at++) {
        struct counted *c = &m->counted[at];
        *ret_found = counted_is(c, i);
        if (*ret_found)
            return c;
        if (c->used < oldest->used)
            oldest = c;
    }
    return oldest;
}

void mvcc_count_store(struct mvcc *m, const struct interval *interval, int64_t revision,
                      int64_t count)
{
    check(count >= 0);
    if (interval->key.len + interval->end.len > MVCC_COUNTED_KEY_BYTES_MAX)
        return;
    bool found;
    pthread_mutex_lock(&m->count_lock);
    struct counted *c = counted_find(m, interval, &found);
    if (!found) {
        buf_clear(&c->key);
        buf_append_bytes(&c->key, interval->key);
        buf_clear(&c->end);
        buf_append_bytes(&c->end, interval->end);
        c->kind = interval->kind;
    }
    c->revision = revision;
    c->count = count;
    c->used = ++m->count_clock;
    pthread_mutex_unlock(&m->count_lock);
}

int mvcc_count_known(struct mvcc *m, const struct mvcc_seen *seen, const struct interval *interval,
                     int64_t revision, bool *ret_known, int64_t *ret)
{
    check(revision <= seen->revision);
    bool found;
    pthread_mutex_lock(&m->count_lock);
    struct counted *c = counted_find(m, interval, &found);
    int64_t then = c->revision, count = c->count;
    if (found)
        c->used = ++m->count_clock;
    pthread_mutex_unlock(&m->count_lock);
    *ret_known = false;
    if (!found || then > seen->revision || then < atomic_load(&m->compacted)) /* (1) */
        return 0;
    int64_t change = 0;
    int r = 0;
    struct key_count_span span = {then, revision, CHANGES_MIN + count};
    if (then > revision)
        span = (struct key_count_span){revision, then, CHANGES_MIN + count};
    if (then != revision)
        r = key_count_changes(m->db, seen->view, interval, span, &change);
    if (r != 0)
        return r < 0 ? r : 0;
    count += then > revision ? -change : change;
    if (count < 0)
        return mvcc_corrupt("fewer keys than were deleted", interval->key);
    *ret = count;
    *ret_known = true;
    return 0;
}

static int count_versions(struct mvcc *m, const struct mvcc_walk_options *options, int64_t *ret)
{
    struct mvcc_walk w;
    mvcc_walk_open(&w, m, options);
    bool found = true;
    int64_t n = 0;
    int r = 0;
    while (r == 0 && found) {
        struct rev rev;
        r = mvcc_walk_next(&w, &found, &rev);
        n += r == 0 && found;
    }
    mvcc_walk_close(&w);
    if (r == 0)
        *ret = n;
    return r;
}

int mvcc_count(struct mvcc *m, const struct mvcc_seen *seen, const struct interval *interval,
               int64_t revision, int64_t *ret)
{
    bool known;
    int64_t count = 0;
    int r = mvcc_count_known(m, seen, interval, revision, &known, &count);
    if (r == 0 && !known) {
        bool exact = seen->exact && seen->revision == revision;
        r = key_count(m->db, seen->view, interval, revision, exact, &count);
    }
    if (r == KEY_COUNT_E_TOO_FAR) {
        struct mvcc_walk_options options = {
            .view = seen->view, .interval = interval, .revision = revision};
        r = count_versions(m, &options, &count);
    }
    if (r != 0)
        return r;
    mvcc_count_store(m, interval, revision, count);
    *ret = count;
    return 0;
}

void mvcc_count_deinit(struct mvcc *m)
{
    for (size_t i = 0; i < MVCC_COUNTED_MAX; i++) {
        buf_deinit(&m->counted[i].key);
        buf_deinit(&m->counted[i].end);
    }
}
