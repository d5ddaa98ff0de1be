/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing side of the multi-version store: entries, the overlay of heads, puts and deletes.
 *
 * A put looks up the head of its key: in the overlay, in the cache of heads, else 20 bytes from the
 * store. Versions (k), heads (h) and revisions (r) wait for mvcc_seal(): a key changed twice in a
 * turn has its head written once, and keys in ascending order cost the store a fraction of
 * scattered ones. Puts and deletes keep the attachments of leases right.
 *
 * Invariants: (1) what the overlay says of a key is what the store would say if the batch were
 * written: the apply turn is the only writer of h. (2) Sub revisions are given out one per
 * change, in order; an entry without a change takes no revision. (3) An entry's changes carry
 * writer_revision + 1, and nothing else in the store has that revision. (4) key and value of a put
 * are borrowed from the request until mvcc_publish().
 *
 * Thread: the apply turn (one at a time, under apply's turn lock, whichever thread runs it).
 */
#include "storage/mvcc.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/mvcc_impl.h"

enum { COMPACTION_BATCH_MAX = 1000, OVERLAY_SLOTS_MIN = 64, LEASE_KEY_HEAD_BYTES = 10 };

int mvcc_corrupt(const char *what, struct bytes record)
{
    _cleanup_(buf_deinit) struct buf hex = BUF_NULL;
    for (size_t i = 0; i < record.len && i < 256; i++)
        buf_printf(&hex, "%02x", record.data[i]);
    log_error("corrupt record in the database", LOG_STR("what", what),
              LOG_BYTES("record-hex", buf_bytes(&hex)));
    return err_origin(-EBADMSG);
}

/* ---- opening ---- */

/* *ret is unchanged if there is no such counter. */
static int counter_get(struct db *db, const char *name, int64_t *ret)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    schema_meta(&key, name);
    struct db_value value;
    int r = db_get(db, NULL, buf_bytes(&key), &value);
    if (r == DB_E_NOT_FOUND)
        return 0;
    if (r < 0)
        return r;
    if (value.bytes.len == 8)
        *ret = (int64_t)u64_be_get(value.bytes.data);
    else
        r = mvcc_corrupt("counter", buf_bytes(&key));
    db_value_release(&value);
    return r;
}

/* No change may carry a revision above the stored one: the store would not be a prefix of what was
 * written. */
static int newest_change_check(struct mvcc *m)
{
    struct rev rev = {0, 0};
    struct db_iter_options options = {.upper = BYTES_LIT("s")};
    struct db_iter *it = db_iter_new(m->db, &options);
    db_iter_seek_last(it, BYTES_LIT("s"));
    int r = 0;
    if (db_iter_valid(it) && db_iter_key(it).data[0] == 'r' &&
        (!schema_parse_r(db_iter_key(it), &rev) || rev.main > m->writer_revision))
        r = mvcc_corrupt("revision above the current one", db_iter_key(it));
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

static int counters_load(struct mvcc *m)
{
    int64_t revision = 1, scheduled = -1, finished = -1;
    int r = counter_get(m->db, MVCC_META_REVISION, &revision);
    if (r == 0)
        r = counter_get(m->db, MVCC_META_SCHEDULED, &scheduled);
    if (r == 0)
        r = counter_get(m->db, MVCC_META_FINISHED, &finished);
    if (r < 0)
        return r;
    if (revision < 1)
        revision = 1;
    if (revision < scheduled)
        revision = scheduled;
    if (revision < finished)
        revision = finished;
    m->writer_revision = revision;
    m->writer_compacted = scheduled > finished ? scheduled : finished;
    atomic_store(&m->revision, revision);
    atomic_store(&m->ended, revision);
    atomic_store(&m->compacted, m->writer_compacted);
    atomic_store(&m->finished, finished);
    r = newest_change_check(m);
    return r < 0 ? r : mvcc_compactor_init(m, scheduled, finished);
}

int mvcc_open(struct mvcc **ret, const struct mvcc_options *options)
{
    check(ret && options && options->db);
    struct mvcc *m = mem_new(struct mvcc);
    m->db = options->db;
    m->compaction_batch_max =
        options->compaction_batch_max ? options->compaction_batch_max : COMPACTION_BATCH_MAX;
    m->heads = head_cache_new();
    arena_init(&m->arena);
    pthread_mutex_init(&m->hash_lock, NULL);
    pthread_mutex_init(&m->count_lock, NULL);
    pthread_mutex_init(&m->compactor.lock, NULL);
    int r = counters_load(m);
    if (r < 0) {
        mvcc_close(m);
        return r;
    }
    *ret = m;
    return 0;
}

struct mvcc *mvcc_close(struct mvcc *m)
{
    if (!m)
        return NULL;
    mvcc_compactor_deinit(m);
    pthread_mutex_destroy(&m->compactor.lock);
    pthread_mutex_destroy(&m->hash_lock);
    pthread_mutex_destroy(&m->count_lock);
    mvcc_count_deinit(m);
    map_bytes_deinit(&m->overlay);
    head_cache_free(m->heads);
    arena_deinit(&m->arena);
    buf_deinit(&m->k_key);
    buf_deinit(&m->scratch);
    free(m->changed);
    free(m->dirty);
    free(m->changes);
    free(m);
    return NULL;
}

int64_t mvcc_revision(const struct mvcc *m)
{
    return atomic_load(&m->revision);
}

int64_t mvcc_compacted(const struct mvcc *m)
{
    return atomic_load(&m->compacted);
}

int64_t mvcc_writer_revision(const struct mvcc *m)
{
    return m->writer_revision;
}

/* ---- entries ---- */

void mvcc_batch(struct mvcc *m, struct db_batch *batch)
{
    m->batch = batch;
}

void mvcc_begin(struct mvcc *m)
{
    check(!m->in_entry && m->batch);
    m->in_entry = true;
    m->entry++;
    m->sub = 0;
    m->n_changed = 0;
}

bool mvcc_changed(const struct mvcc *m)
{
    return m->sub > 0;
}

bool mvcc_range_needs_flush(const struct mvcc *m)
{
    return m->unpublished;
}

int64_t mvcc_end(struct mvcc *m)
{
    check(m->in_entry);
    m->in_entry = false;
    if (m->sub == 0)
        return m->writer_revision;
    m->writer_revision++;
    m->unpublished = true;
    m->sub = 0;
    m->n_changed = 0;
    atomic_store(&m->ended, m->writer_revision);
    return m->writer_revision;
}

static void overlay_drop(struct mvcc *m)
{
    /* Clearing touches every slot: a map that one big turn has blown up is given back. */
    if (m->overlay.cap > OVERLAY_SLOTS_MIN && m->overlay.cap > m->overlay.len * 8)
        map_bytes_deinit(&m->overlay);
    else
        map_bytes_clear(&m->overlay);
    arena_reset(&m->arena);
}

/* What was written is likely to be written again. */
static void heads_remember(struct mvcc *m)
{
    for (size_t i = 0; i < m->n_dirty; i++) {
        if (m->dirty[i]->live)
            head_cache_put(m->heads, m->dirty[i]->key, &m->dirty[i]->head);
        else
            head_cache_remove(m->heads, m->dirty[i]->key);
    }
}

void mvcc_publish(struct mvcc *m)
{
    check(m->sub == 0 && m->n_changes == 0); /* sealed */
    heads_remember(m);
    overlay_drop(m);
    m->n_dirty = 0;
    m->unpublished = false;
    memset(m->moved, 0, sizeof(m->moved));
    atomic_store(&m->revision, m->writer_revision);
    mvcc_compactions_publish(m);
}

/* ---- the overlay ---- */

static int head_load(struct mvcc *m, struct overlay_key *o)
{
    o->live = head_cache_get(m->heads, o->key, &o->head);
    if (o->live)
        return 0;
    buf_clear(&m->scratch);
    schema_h(&m->scratch, o->key);
    struct db_value value;
    int r = db_get(m->db, NULL, buf_bytes(&m->scratch), &value);
    if (r == DB_E_NOT_FOUND)
        return 0;
    if (r < 0)
        return r;
    o->live = schema_head_decode(value.bytes, &o->head);
    if (!o->live)
        r = mvcc_corrupt("head", buf_bytes(&m->scratch));
    db_value_release(&value);
    return r;
}

/* What is known of key, read from the store if it is the first time in this turn. lasting: key
 * lives until mvcc_publish(). */
static int overlay_find(struct mvcc *m, struct bytes key, bool lasting, struct overlay_key **ret)
{
    struct overlay_key *o = map_bytes_get(&m->overlay, key);
    if (!o) {
        o = arena_alloc(&m->arena, sizeof(*o));
        *o = (struct overlay_key){.key = key};
        int r = head_load(m, o);
        if (r < 0)
            return r;
        if (!lasting)
            o->key = arena_copy(&m->arena, key);
        map_bytes_put(&m->overlay, o->key, o);
    }
    *ret = o;
    return 0;
}

static int stored_value(struct mvcc *m, const struct overlay_key *o, struct bytes *ret)
{
    buf_clear(&m->k_key);
    schema_k(&m->k_key, o->key, o->head.mod);
    struct db_value value;
    int r = db_get(m->db, NULL, buf_bytes(&m->k_key), &value);
    if (r == DB_E_NOT_FOUND)
        return mvcc_corrupt("head without its version", buf_bytes(&m->k_key));
    if (r < 0)
        return r;
    *ret = arena_copy(&m->arena, value.bytes);
    db_value_release(&value);
    return 0;
}

static struct bytes changed_value(struct mvcc *m, const struct overlay_key *o)
{
    struct kv kv = {o->key,          o->head.create, o->head.mod.main,
                    o->head.version, o->value,       o->head.lease};
    uint8_t *encoded = arena_alloc(&m->arena, kv_size(&kv));
    return bytes_of(encoded, kv_write(encoded, &kv));
}

int mvcc_overlay_item(struct mvcc *m, const struct overlay_key *o, bool want_value,
                      struct mvcc_item *ret)
{
    check(o->live);
    struct bytes encoded = BYTES_NULL;
    if (want_value && o->dirty) {
        encoded = changed_value(m, o);
    } else if (want_value) {
        int r = stored_value(m, o, &encoded);
        if (r < 0)
            return r;
    }
    *ret = (struct mvcc_item){
        .key = o->key,
        .mod = o->head.mod,
        .create = o->head.create,
        .version = o->head.version,
        .lease = o->head.lease,
        .encoded = encoded,
    };
    return 0;
}

int mvcc_lookup(struct mvcc *m, struct bytes key, bool want_value, bool *ret_found,
                struct mvcc_item *ret)
{
    struct overlay_key *o;
    int r = overlay_find(m, key, false, &o);
    if (r == 0 && o->live)
        r = mvcc_overlay_item(m, o, want_value, ret);
    if (r == 0)
        *ret_found = o->live;
    return r;
}

/* ---- changes ---- */

/* Gives out the revision of the next change, and remembers how the entry found the key. */
static struct mvcc_change *change_begin(struct mvcc *m, struct overlay_key *o,
                                        enum schema_kind kind)
{
    check(m->in_entry && m->sub < UINT32_MAX);
    if (o->changed_in != m->entry) {
        o->changed_in = m->entry;
        o->live_before = o->live;
        if (m->n_changed == m->changed_cap) {
            m->changed_cap = m->changed_cap ? m->changed_cap * 2 : 16;
            m->changed = mem_realloc(m->changed, m->changed_cap * sizeof(*m->changed));
        }
        m->changed[m->n_changed++] = o;
    }
    if (!o->dirty) {
        o->dirty = true;
        if (m->n_dirty == m->dirty_cap) {
            m->dirty_cap = m->dirty_cap ? m->dirty_cap * 2 : 64;
            m->dirty = mem_realloc(m->dirty, m->dirty_cap * sizeof(*m->dirty));
        }
        m->dirty[m->n_dirty++] = o;
    }
    if (m->n_changes == m->changes_cap) {
        m->changes_cap = m->changes_cap ? m->changes_cap * 2 : 64;
        m->changes = mem_realloc(m->changes, m->changes_cap * sizeof(*m->changes));
    }
    struct rev rev = {m->writer_revision + 1, m->sub++};
    struct mvcc_change *change = &m->changes[m->n_changes++];
    *change = (struct mvcc_change){.rev = rev, .kind = kind, .kv = {.key = o->key}};
    return change;
}

/* Each lease has a bit, and shares it with some others. */
static size_t moved_bit(int64_t lease)
{
    return (uint64_t)lease * UINT64_C(0x9e3779b97f4a7c15) >> 32 & (MVCC_MOVED_BITS - 1);
}

static void moved_add(struct mvcc *m, int64_t lease)
{
    size_t bit = moved_bit(lease);
    m->moved[bit / 64] |= UINT64_C(1) << bit % 64;
}

bool mvcc_lease_needs_flush(const struct mvcc *m, int64_t lease)
{
    size_t bit = moved_bit(lease);
    return m->moved[bit / 64] >> bit % 64 & 1;
}

static void lease_move(struct mvcc *m, struct bytes key, int64_t from, int64_t to)
{
    if (from == to)
        return;
    moved_add(m, from);
    moved_add(m, to);
    if (from != 0) {
        buf_clear(&m->scratch);
        schema_lease_key(&m->scratch, from, key);
        db_batch_delete(m->batch, buf_bytes(&m->scratch));
    }
    if (to != 0) {
        buf_clear(&m->scratch);
        schema_lease_key(&m->scratch, to, key);
        db_batch_put(m->batch, buf_bytes(&m->scratch), BYTES_NULL);
    }
}

int mvcc_put(struct mvcc *m, struct bytes key, struct bytes value, int64_t lease)
{
    check(key.len > 0);
    struct overlay_key *o;
    int r = overlay_find(m, key, true, &o);
    if (r < 0)
        return r;
    bool update = o->live;
    struct mvcc_change *change = change_begin(m, o, update ? SCHEMA_UPDATE : SCHEMA_CREATE);
    struct rev rev = change->rev;
    struct head head = {rev, update ? o->head.create : rev.main, update ? o->head.version + 1 : 1,
                        lease};
    change->kv = (struct kv){o->key, head.create, rev.main, head.version, value, lease};
    lease_move(m, key, update ? o->head.lease : 0, lease);
    o->head = head;
    o->value = value;
    o->live = o->dirty = true;
    return 0;
}

int mvcc_delete(struct mvcc *m, struct bytes key, bool *ret_deleted)
{
    struct overlay_key *o;
    int r = overlay_find(m, key, false, &o);
    if (r < 0)
        return r;
    *ret_deleted = o->live;
    if (!o->live)
        return 0;
    (void)change_begin(m, o, SCHEMA_DELETE);
    lease_move(m, key, o->head.lease, 0);
    o->live = false;
    o->dirty = true;
    return 0;
}

static void revision_put(struct mvcc *m, const struct mvcc_change *c)
{
    uint8_t kind_byte = (uint8_t)c->kind;
    struct bytes value[] = {bytes_of(&kind_byte, 1), c->kv.key};
    buf_clear(&m->scratch);
    schema_r(&m->scratch, c->rev);
    struct bytes r_key = buf_bytes(&m->scratch);
    db_batch_putv(m->batch, &r_key, 1, value, 2);
}

static void head_put(struct mvcc *m, const struct overlay_key *o)
{
    struct bytes h_key[] = {BYTES_LIT("h"), o->key};
    buf_clear(&m->scratch);
    schema_head_encode(&m->scratch, &o->head);
    struct bytes value = buf_bytes(&m->scratch);
    db_batch_putv(m->batch, h_key, 2, &value, 1);
}

static void head_delete(struct mvcc *m, const struct overlay_key *o)
{
    buf_clear(&m->scratch);
    schema_h(&m->scratch, o->key);
    db_batch_delete(m->batch, buf_bytes(&m->scratch));
}

static void version_put(struct mvcc *m, const struct mvcc_change *c)
{
    struct kv_frame frame;
    struct bytes parts[KV_PARTS];
    size_t n_parts = kv_put_frame(&frame, &c->kv, parts);
    buf_clear(&m->k_key);
    schema_k(&m->k_key, c->kv.key, c->rev);
    struct bytes k_key = buf_bytes(&m->k_key);
    db_batch_putv(m->batch, &k_key, 1, parts, n_parts);
}

static int compare_heads(const void *a, const void *b)
{
    return bytes_compare((*(struct overlay_key *const *)a)->key,
                         (*(struct overlay_key *const *)b)->key);
}

/* In the order of k: by key, the newest first. */
static int compare_changes(const void *a, const void *b)
{
    const struct mvcc_change *x = a, *y = b;
    int r = bytes_compare(x->kv.key, y->kv.key);
    return r != 0 ? r : rev_compare(y->rev, x->rev);
}

const struct mvcc_change *mvcc_changes(const struct mvcc *m, size_t *ret_n)
{
    check(m->sub == 0);
    *ret_n = m->n_changes;
    return m->changes;
}

/* The store takes keys in ascending order for a fraction of what it takes them in any other. */
void mvcc_seal(struct mvcc *m)
{
    check(m->sub == 0);
    if (m->n_changes == 0)
        return;
    for (size_t i = 0; i < m->n_changes; i++)
        revision_put(m, &m->changes[i]);
    qsort(m->changes, m->n_changes, sizeof(*m->changes), compare_changes);
    for (size_t i = 0; i < m->n_changes; i++)
        version_put(m, &m->changes[i]);
    qsort(m->dirty, m->n_dirty, sizeof(struct overlay_key *), compare_heads);
    for (size_t i = 0; i < m->n_dirty; i++) {
        if (m->dirty[i]->live)
            head_put(m, m->dirty[i]);
        else
            head_delete(m, m->dirty[i]);
    }
    m->n_changes = 0;
    buf_clear(&m->scratch);
    schema_meta(&m->scratch, MVCC_META_REVISION);
    uint8_t value[8];
    u64_be_put(value, (uint64_t)m->writer_revision);
    db_batch_put(m->batch, buf_bytes(&m->scratch), bytes_of(value, sizeof(value)));
}

/* ---- keys of a lease ---- */

int mvcc_lease_keys(struct mvcc *m, int64_t lease, int (*visit)(void *arg, struct bytes key),
                    void *arg)
{
    _cleanup_(buf_deinit) struct buf prefix = BUF_NULL;
    schema_lease_key(&prefix, lease, BYTES_NULL);
    check(prefix.len == LEASE_KEY_HEAD_BYTES);
    struct db_iter_options options = {.upper = BYTES_LIT("m")};
    struct db_iter *it = db_iter_new(m->db, &options);
    int r = 0;
    for (db_iter_seek(it, buf_bytes(&prefix)); r == 0 && db_iter_valid(it); db_iter_next(it)) {
        struct bytes key = db_iter_key(it);
        if (!bytes_has_prefix(key, buf_bytes(&prefix)))
            break;
        r = visit(arg, bytes_of(key.data + prefix.len, key.len - prefix.len));
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}
