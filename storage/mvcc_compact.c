/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compaction. Accepting is the apply turn's: it writes "scheduled" with the entry, and readers
 * below are refused from the publication on. Deleting is the compactor thread's, in bounded steps:
 *
 *   pass over k   under one view, in key order. Of each key everything at or below the revision
 *                 goes but its newest record, and that stays if it is a put, or a tombstone exactly
 *                 at the revision.
 *   pass over r   revisions from the last finished compaction up to, not including, this one.
 *   the end       "finished" is written; the hash of what was scanned enters the cache if it
 *                 covers everything since the compaction before.
 *
 * After a restart an unfinished compaction starts again from the beginning: deleting twice is
 * harmless.
 *
 * Invariants: (1) a deletion is written after its compaction was published and after "scheduled"
 * was. (2) The pass looks at one unchanging view, so its own deletions and the writes of others
 * don't disturb it. (3) The queue holds at most MVCC_COMPACTIONS_MAX: one that waits and is not
 * hashed is replaced by a later one, whose deletions include its own. (4) A tombstone goes after
 * the versions that it covers, in the same batch or a later one: a reader between two batches would
 * see them again.
 */
#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "storage/mvcc_impl.h"

/* ---- accepting ---- */

static void counter_put(struct db_batch *batch, const char *name, int64_t v)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    uint8_t value[8];
    schema_meta(&key, name);
    u64_be_put(value, (uint64_t)v);
    db_batch_put(batch, buf_bytes(&key), bytes_of(value, sizeof(value)));
}

/* Adds c behind list, or in place of its last, which must be one that has not started and is not
 * hashed (3). */
static void queue_add(struct compaction *list, size_t *n, bool first_started, struct compaction c)
{
    if (*n > first_started && !list[*n - 1].hashed && !c.hashed) {
        list[*n - 1].revision = c.revision;
        return;
    }
    check(*n < MVCC_COMPACTIONS_MAX);
    list[(*n)++] = c;
}

int mvcc_compact(struct mvcc *m, int64_t revision, bool replayed)
{
    check(m->batch && !m->in_entry);
    if (revision <= m->writer_compacted)
        return MVCC_E_COMPACTED;
    if (revision > m->writer_revision)
        return MVCC_E_FUTURE;
    struct compaction c = {
        .revision = revision,
        .previous = m->writer_compacted,
        .hashed = !replayed && atomic_load(&m->finished) == m->writer_compacted,
    };
    queue_add(m->accepted, &m->n_accepted, false, c);
    m->writer_compacted = revision;
    m->unpublished = true;
    counter_put(m->batch, MVCC_META_SCHEDULED, revision);
    return 0;
}

void mvcc_compactions_publish(struct mvcc *m)
{
    if (m->n_accepted == 0)
        return;
    atomic_store(&m->compacted, m->writer_compacted);
    struct compactor *c = &m->compactor;
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < m->n_accepted; i++)
        queue_add(c->queue, &c->n_queued, c->running, m->accepted[i]);
    pthread_mutex_unlock(&c->lock);
    m->n_accepted = 0;
}

int mvcc_compactor_init(struct mvcc *m, int64_t scheduled, int64_t finished)
{
    m->compactor.batch = db_batch_new();
    if (scheduled > finished)
        m->compactor.queue[m->compactor.n_queued++] =
            (struct compaction){scheduled, finished, false};
    return 0;
}

static void pass_end(struct mvcc *m)
{
    struct compactor *c = &m->compactor;
    c->view = db_view_free(m->db, c->view);
    hash_scan_deinit(&c->hash);
}

void mvcc_compactor_deinit(struct mvcc *m)
{
    struct compactor *c = &m->compactor;
    pass_end(m);
    c->batch = db_batch_free(c->batch);
    buf_deinit(&c->resume);
    buf_deinit(&c->prefix);
    buf_deinit(&c->tombstone);
}

/* ---- deleting ---- */

static void pass_begin(struct mvcc *m)
{
    struct compactor *c = &m->compactor;
    c->view = db_view_new(m->db);
    c->in_revisions = false;
    c->seen = false;
    buf_clear(&c->prefix);
    buf_clear(&c->tombstone);
    buf_clear(&c->resume);
    buf_append_u8(&c->resume, 'k');
    hash_scan_init(&c->hash, c->now.revision, c->now.previous, true);
}

/* (4) */
static void tombstone_delete(struct compactor *c)
{
    if (c->tombstone.len)
        db_batch_delete(c->batch, buf_bytes(&c->tombstone));
    buf_clear(&c->tombstone);
}

/* One record of k: hashed, and deleted unless it is above the revision or the one to keep. */
static int version_visit(struct mvcc *m, struct bytes key, struct bytes value)
{
    struct compactor *c = &m->compactor;
    struct bytes prefix;
    struct rev rev;
    if (!schema_split_k(key, &prefix, &rev))
        return mvcc_corrupt("version key", key);
    if (!bytes_equal(prefix, buf_bytes(&c->prefix))) {
        tombstone_delete(c);
        buf_clear(&c->prefix);
        buf_append_bytes(&c->prefix, prefix);
        c->seen = false;
    }
    if (rev.main > c->now.revision)
        return 0;
    bool newest = !c->seen;
    c->seen = true;
    if (c->now.hashed)
        hash_scan_add(&c->hash, rev, newest, value);
    if (newest && (rev.main == c->now.revision || !kv_is_tombstone(value)))
        return 0;
    if (newest)
        buf_append_bytes(&c->tombstone, key);
    else
        db_batch_delete(c->batch, key);
    return 0;
}

static int revision_visit(struct mvcc *m, struct bytes key)
{
    struct rev rev;
    if (!schema_parse_r(key, &rev))
        return mvcc_corrupt("revision key", key);
    db_batch_delete(m->compactor.batch, key);
    return 0;
}

/* Looks at no more than a batch of records from resume on, below upper. *ret_done: there are no
 * more. */
static int records_visit(struct mvcc *m, struct bytes upper, bool *ret_done)
{
    struct compactor *c = &m->compactor;
    struct db_iter_options options = {.view = c->view, .upper = upper, .no_cache = true};
    struct db_iter *it = db_iter_new(m->db, &options);
    uint32_t left = m->compaction_batch_max;
    int r = 0;
    for (db_iter_seek(it, buf_bytes(&c->resume)); db_iter_valid(it) && r == 0 && left > 0;
         db_iter_next(it), left--) {
        struct bytes key = db_iter_key(it);
        r = c->in_revisions ? revision_visit(m, key) : version_visit(m, key, db_iter_value(it));
    }
    if (r == 0)
        r = db_iter_error(it);
    bool done = r == 0 && !db_iter_valid(it);
    if (r == 0 && !done) {
        buf_clear(&c->resume);
        buf_append_bytes(&c->resume, db_iter_key(it));
    }
    db_iter_free(it);
    if (r == 0)
        *ret_done = done;
    return r;
}

static int finish(struct mvcc *m)
{
    struct compactor *c = &m->compactor;
    counter_put(c->batch, MVCC_META_FINISHED, c->now.revision);
    int r = db_write(m->db, c->batch);
    if (r < 0)
        return r;
    if (c->now.hashed)
        mvcc_hash_store(m, &(struct mvcc_hash){hash_scan_finish(&c->hash), c->now.previous,
                                               c->now.revision, 0});
    log_info("finished scheduled compaction", LOG_I64("compact-revision", c->now.revision));
    pthread_mutex_lock(&c->lock);
    c->running = false;
    c->n_queued--;
    memmove(c->queue, c->queue + 1, c->n_queued * sizeof(*c->queue));
    pthread_mutex_unlock(&c->lock);
    /* The hash is in the cache and the queue is short before anyone sees that it is finished. */
    atomic_store(&m->finished, c->now.revision);
    pass_end(m);
    return 0;
}

static int step(struct mvcc *m)
{
    struct compactor *c = &m->compactor;
    db_batch_clear(c->batch);
    _cleanup_(buf_deinit) struct buf upper = BUF_NULL;
    if (c->in_revisions)
        schema_r(&upper, (struct rev){c->now.revision, 0});
    else
        buf_append_u8(&upper, 'k' + 1);
    bool done = false;
    int r = records_visit(m, buf_bytes(&upper), &done);
    if (r < 0)
        return r;
    if (done && c->in_revisions)
        return finish(m);
    if (done) {
        tombstone_delete(c);
        int64_t from = atomic_load(&m->finished);
        c->in_revisions = true;
        buf_clear(&c->resume);
        schema_r(&c->resume, (struct rev){from > 0 ? from : 0, 0});
    }
    return db_batch_count(c->batch) > 0 ? db_write(m->db, c->batch) : 0;
}

int mvcc_compact_step(struct mvcc *m, bool *ret_done, int64_t *ret_finished)
{
    struct compactor *c = &m->compactor;
    pthread_mutex_lock(&c->lock);
    bool begin = !c->running && c->n_queued > 0;
    if (begin) {
        c->running = true;
        c->now = c->queue[0];
    }
    bool running = c->running;
    pthread_mutex_unlock(&c->lock);
    if (begin)
        pass_begin(m);
    int r = running ? step(m) : 0;
    if (r < 0)
        return r;
    pthread_mutex_lock(&c->lock);
    *ret_done = c->n_queued == 0;
    pthread_mutex_unlock(&c->lock);
    *ret_finished = atomic_load(&m->finished);
    return 0;
}
