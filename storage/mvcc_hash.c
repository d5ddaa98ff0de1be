/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HashKV: one pass over k under a view, and the cache of the hashes that compactions left. Thread:
 * any but the request threads.
 *
 * Invariants: (1) compacted is the same before and after the view was opened, so the view belongs
 * to it. (2) The cache is ordered by revision and drops its lowest; it is asked before anything
 * else, also for revisions compacted long ago (etcd does so).
 */
#include "base/check.h"
#include "base/log.h"
#include "storage/mvcc_impl.h"

void mvcc_hash_store(struct mvcc *m, const struct mvcc_hash *hash)
{
    log_info("storing new hash", LOG_U64("hash", hash->hash), LOG_I64("revision", hash->revision),
             LOG_I64("compact-revision", hash->compact_revision));
    pthread_mutex_lock(&m->hash_lock);
    size_t at = m->n_hashes;
    while (at > 0 && m->hashes[at - 1].revision > hash->revision)
        at--;
    if (m->n_hashes == MVCC_HASH_CACHE_MAX && at > 0) {
        memmove(m->hashes, m->hashes + 1, (at - 1) * sizeof(*m->hashes));
        m->hashes[at - 1] = *hash;
    } else if (m->n_hashes < MVCC_HASH_CACHE_MAX) {
        memmove(m->hashes + at + 1, m->hashes + at, (m->n_hashes - at) * sizeof(*m->hashes));
        m->hashes[at] = *hash;
        m->n_hashes++;
    }
    pthread_mutex_unlock(&m->hash_lock);
}

static bool cache_get(struct mvcc *m, int64_t revision, struct mvcc_hash *ret)
{
    bool found = false;
    pthread_mutex_lock(&m->hash_lock);
    for (size_t i = 0; i < m->n_hashes && !found; i++) {
        found = m->hashes[i].revision == revision;
        if (found)
            *ret = m->hashes[i];
    }
    pthread_mutex_unlock(&m->hash_lock);
    if (found)
        ret->current = atomic_load(&m->revision);
    return found;
}

static int versions_hash(struct mvcc *m, const struct db_view *view, struct hash_scan *h)
{
    _cleanup_(buf_deinit) struct buf current = BUF_NULL;
    struct db_iter_options options = {.view = view, .upper = BYTES_LIT("l"), .no_cache = true};
    struct db_iter *it = db_iter_new(m->db, &options);
    bool seen = false;
    int r = 0;
    for (db_iter_seek(it, BYTES_LIT("k")); r == 0 && db_iter_valid(it); db_iter_next(it)) {
        struct bytes prefix;
        struct rev rev;
        if (!schema_split_k(db_iter_key(it), &prefix, &rev)) {
            r = mvcc_corrupt("version key", db_iter_key(it));
            break;
        }
        if (!bytes_equal(prefix, buf_bytes(&current))) {
            buf_clear(&current);
            buf_append_bytes(&current, prefix);
            seen = false;
        }
        if (rev.main > h->revision)
            continue;
        hash_scan_add(h, rev, !seen, db_iter_value(it));
        seen = true;
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

int mvcc_hash_kv(struct mvcc *m, int64_t revision, struct mvcc_hash *ret)
{
    if (cache_get(m, revision, ret))
        return 0;
    struct db_view *view = NULL;
    int64_t compacted, current;
    do { /* (1) */
        db_view_free(m->db, view);
        compacted = atomic_load(&m->compacted);
        current = atomic_load(&m->revision);
        view = db_view_new(m->db);
    } while (atomic_load(&m->compacted) != compacted);
    int r = revision > 0 && revision < compacted ? MVCC_E_COMPACTED
            : revision > current                 ? MVCC_E_FUTURE
                                                 : 0;
    struct hash_scan h;
    hash_scan_init(&h, revision == 0 ? current : revision, compacted, false);
    if (r == 0 && revision >= 0)
        r = versions_hash(m, view, &h);
    if (r == 0)
        *ret = (struct mvcc_hash){hash_scan_finish(&h), compacted, h.revision, current};
    hash_scan_deinit(&h);
    db_view_free(m->db, view);
    return r;
}
