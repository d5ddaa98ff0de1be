/* SPDX-License-Identifier: Apache-2.0 */
/*
 * History: what changed from one revision on, for a watcher that is behind.
 *
 *   r   tells the changes in order: revision, kind, key
 *   k   has the versions, by key; so the caller collects a batch of changes, keeps those it wants,
 *       and has their versions read in the order of k: neighbours cost a Next instead of a Seek.
 *
 * Invariants: (1) as in mvcc_read.c: the iterator is opened first, then compacted is looked at;
 * a compaction publishes before it deletes, so whoever misses a record sees that. (2) From the
 * compaction's revision on, nothing is missing: r keeps what lies at or above it, and k the
 * versions that those records name. (3) What nobody has read for long must not drive out of the
 * cache what writes need: the blocks are not kept there.
 *
 * Thread: any; no locks.
 */
#include <stdlib.h>

#include "base/check.h"
#include "storage/mvcc_impl.h"

enum { NEXT_MAX = 4 }; /* records stepped over on the way to a version, before a Seek */

/* ---- changes ---- */

static int change_parse(struct db_iter *it, struct rev *ret_rev, enum schema_kind *ret_kind,
                        struct bytes *ret_key)
{
    struct bytes record = db_iter_key(it);

    if (!schema_parse_r(record, ret_rev) ||
        !schema_parse_r_value(db_iter_value(it), ret_kind, ret_key))
        return mvcc_corrupt("revision record", record);
    return 0;
}

static int changes_visit(struct db_iter *it, const struct mvcc_history_options *options,
                         int (*visit)(void *, struct rev, enum schema_kind, struct bytes),
                         void *arg, int64_t *ret_next)
{
    int64_t last = 0;
    int r = 0;

    for (size_t n = 0; db_iter_valid(it); n++, db_iter_next(it)) {
        struct rev rev;
        enum schema_kind kind;
        struct bytes key;

        r = change_parse(it, &rev, &kind, &key);
        if (r == 0 && n >= options->most && rev.main != last) {
            *ret_next = rev.main;
            return 0;
        }
        if (r == 0)
            r = visit(arg, rev, kind, key);
        if (r < 0)
            return r;
        last = rev.main;
    }
    *ret_next = options->upto + 1;
    return db_iter_error(it);
}

int mvcc_history(struct mvcc *m, const struct mvcc_history_options *options,
                 int (*visit)(void *arg, struct rev rev, enum schema_kind kind, struct bytes key),
                 void *arg, int64_t *ret_next)
{
    _cleanup_(buf_deinit) struct buf lower = BUF_NULL, upper = BUF_NULL;
    struct db_iter_options it_options;
    struct db_iter *it;
    int r;

    check(options->from > 0 && options->from <= options->upto && options->most > 0);
    check(options->upto <= mvcc_revision(m));
    schema_r(&lower, (struct rev){options->from, 0});
    schema_r(&upper, (struct rev){options->upto + 1, 0});
    it_options = (struct db_iter_options){.upper = buf_bytes(&upper), .no_cache = true};
    it = db_iter_new(m->db, &it_options);
    if (atomic_load(&m->compacted) > options->from) { /* (1) */
        r = MVCC_E_COMPACTED;
    } else {
        db_iter_seek(it, buf_bytes(&lower));
        r = changes_visit(it, options, visit, arg, ret_next);
    }
    db_iter_free(it);
    return r;
}

/* ---- versions ---- */

/* In the order of k: by key, the newest first. */
static int compare_versions(const void *a, const void *b)
{
    const struct mvcc_version *x = a, *y = b;
    int r = bytes_compare(x->key, y->key);

    return r != 0 ? r : rev_compare(y->rev, x->rev);
}

/* From wherever it stands to record, which lies ahead. False: there is no such record. */
static bool version_seek(struct db_iter *it, struct bytes record)
{
    int order = 0;

    for (int i = 0; i < NEXT_MAX && db_iter_valid(it); i++) {
        order = bytes_compare(db_iter_key(it), record);
        if (order >= 0)
            return order == 0;
        db_iter_next(it);
    }
    db_iter_seek(it, record);
    return db_iter_valid(it) && bytes_equal(db_iter_key(it), record);
}

int mvcc_versions(struct mvcc *m, struct mvcc_version *versions, size_t n,
                  void (*visit)(void *arg, size_t index, struct bytes encoded), void *arg)
{
    _cleanup_(buf_deinit) struct buf record = BUF_NULL;
    struct db_iter_options options = {.upper = BYTES_LIT("l"), .no_cache = true};
    struct db_iter *it = db_iter_new(m->db, &options);
    int64_t compacted = atomic_load(&m->compacted); /* (1) */
    int r = 0;

    qsort(versions, n, sizeof(*versions), compare_versions);
    for (size_t i = 0; r == 0 && i < n; i++) {
        struct mvcc_version *v = &versions[i];

        buf_clear(&record);
        schema_k(&record, v->key, v->rev);
        if (version_seek(it, buf_bytes(&record)))
            visit(arg, v->index, db_iter_value(it));
        else if (db_iter_error(it) < 0)
            r = db_iter_error(it);
        else
            r = compacted > v->rev.main ? MVCC_E_COMPACTED
                                        : mvcc_corrupt("change without its version", v->key);
    }
    db_iter_free(it);
    return r;
}
