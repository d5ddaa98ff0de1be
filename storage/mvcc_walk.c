/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk over k that every range at a revision comes down to: for each key of an interval, in
 * order, its newest version at or below the revision, if that is a put. Thread: any; one walk
 * belongs to one thread.
 *
 * The versions of a key lie newest first. Those that are of no interest are stepped over with Next,
 * MVCC_NEXT_MAX times, and then jumped over with Seek: a Next costs a tenth of a Seek, and a hot
 * key may have tens of thousands of versions.
 *
 * Invariant: between two calls the iterator stands on the version that was returned (standing), on
 * the first version of a key not yet looked at, or at the end; prefix is that of the key in the
 * first case.
 */
#include <stdlib.h>

#include "base/check.h"
#include "storage/mvcc_impl.h"

static void bounds(const struct interval *interval, struct buf *lower, struct buf *upper)
{
    schema_k_from(lower, interval->key);
    if (interval->kind == INTERVAL_RANGE)
        schema_k_from(upper, interval->end);
    else if (interval->kind == INTERVAL_FROM)
        buf_append_u8(upper, 'k' + 1);
}

void mvcc_walk_open(struct mvcc_walk *w, struct mvcc *m, const struct mvcc_walk_options *options)
{
    check(options->interval->kind != INTERVAL_EMPTY);
    *w = (struct mvcc_walk){.revision = options->revision};
    w->one_prefix = options->interval->kind == INTERVAL_POINT;
    _cleanup_(buf_deinit) struct buf upper = BUF_NULL;
    bounds(options->interval, &w->seek, &upper);
    if (w->one_prefix) {
        buf_clear(&w->seek);
        schema_k(&w->seek, options->interval->key, (struct rev){options->revision, UINT32_MAX});
    }
    struct db_iter_options it = {
        .view = options->view,
        .upper = buf_bytes(&upper),
        .one_prefix = w->one_prefix,
    };
    w->it = db_iter_new(m->db, &it);
    db_iter_seek(w->it, buf_bytes(&w->seek));
}

void mvcc_walk_close(struct mvcc_walk *w)
{
    w->it = db_iter_free(w->it);
    buf_deinit(&w->prefix);
    buf_deinit(&w->seek);
    buf_deinit(&w->user_key);
}

static int split(struct mvcc_walk *w, struct bytes *ret_prefix, struct rev *ret_rev)
{
    struct bytes key = db_iter_key(w->it);
    return schema_split_k(key, ret_prefix, ret_rev) ? 0 : mvcc_corrupt("version key", key);
}

/* Behind the last version of the key in prefix. */
static int key_skip(struct mvcc_walk *w)
{
    struct bytes prefix;
    struct rev rev;
    for (int i = 0; i < MVCC_NEXT_MAX; i++) {
        db_iter_next(w->it);
        if (!db_iter_valid(w->it))
            return 0;
        int r = split(w, &prefix, &rev);
        if (r < 0)
            return r;
        if (!bytes_equal(prefix, buf_bytes(&w->prefix)))
            return 0;
    }
    buf_clear(&w->seek);
    buf_append_bytes(&w->seek, buf_bytes(&w->prefix));
    w->seek.data[w->seek.len - 1]++; /* the end mark 0x00 0x01 becomes 0x00 0x02 */
    db_iter_seek(w->it, buf_bytes(&w->seek));
    return 0;
}

/* From the first version of a key to its newest at or below the revision. *ret_found: there is one,
 * and the iterator stands on it; otherwise it stands behind the key. */
static int version_find(struct mvcc_walk *w, bool *ret_found, struct rev *ret_rev)
{
    struct bytes prefix;
    int r = split(w, &prefix, ret_rev);
    if (r < 0)
        return r;
    buf_clear(&w->prefix);
    buf_append_bytes(&w->prefix, prefix);
    for (int steps = 0; ret_rev->main > w->revision; steps++) {
        if (steps < MVCC_NEXT_MAX) {
            db_iter_next(w->it);
        } else {
            buf_clear(&w->seek);
            buf_append_bytes(&w->seek, buf_bytes(&w->prefix));
            schema_k_rev(&w->seek, (struct rev){w->revision, UINT32_MAX});
            db_iter_seek(w->it, buf_bytes(&w->seek));
        }
        *ret_found = db_iter_valid(w->it);
        if (!*ret_found)
            return 0;
        r = split(w, &prefix, ret_rev);
        if (r < 0)
            return r;
        *ret_found = bytes_equal(prefix, buf_bytes(&w->prefix));
        if (!*ret_found)
            return 0;
    }
    *ret_found = true;
    return 0;
}

int mvcc_walk_next(struct mvcc_walk *w, bool *ret_found, struct rev *ret_rev)
{
    int r = w->standing && !w->one_prefix ? key_skip(w) : 0;
    bool ended = w->standing && w->one_prefix;
    w->standing = false;
    while (r == 0 && !ended && db_iter_valid(w->it)) {
        bool found;
        r = version_find(w, &found, ret_rev);
        if (r < 0)
            return r;
        if (!found)
            continue;
        if (!kv_is_tombstone(db_iter_value(w->it))) {
            w->standing = *ret_found = true;
            return 0;
        }
        if (w->one_prefix)
            break;
        r = key_skip(w);
    }
    if (r == 0)
        r = db_iter_error(w->it);
    if (r == 0)
        *ret_found = false;
    return r;
}

int mvcc_item_decode(struct bytes user_key, struct rev rev, struct bytes encoded,
                     struct mvcc_item *ret)
{
    struct kv kv;
    if (!kv_decode(encoded, &kv) || kv.mod != rev.main || !bytes_equal(kv.key, user_key))
        return mvcc_corrupt("version value", user_key);
    *ret = (struct mvcc_item){
        .key = user_key,
        .mod = rev,
        .create = kv.create,
        .version = kv.version,
        .lease = kv.lease,
        .encoded = encoded,
    };
    return 0;
}

int mvcc_walk_item(struct mvcc_walk *w, struct rev rev, struct mvcc_item *ret)
{
    check(w->standing);
    struct bytes user_key;
    if (!schema_unescape(buf_bytes(&w->prefix), &w->user_key, &user_key))
        return mvcc_corrupt("version key", db_iter_key(w->it));
    return mvcc_item_decode(user_key, rev, db_iter_value(w->it), ret);
}
