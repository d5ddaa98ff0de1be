/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The multi-version store against a naive model, over random histories: puts, deletes, range
 * deletes, entries of several operations with reads in between, several entries in one batch,
 * compactions accepted at any point and worked off bit by bit, restarts. Compared: current and
 * historic ranges with limits, counts, keys only, single keys, reads inside an entry, and HashKV at
 * many revisions.
 *
 * The model is a list of records in revision order, as etcd's file has them. Ranges scan it; hashes
 * feed it byte by byte through etcd's filters, with etcd's rule of generations for what is kept;
 * compaction removes from it. The seed of a history is printed if it fails; MODEL_SEED=n runs that
 * one alone.
 */
#include "storage/mvcc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/rng.h"
#include "storage/test_dir.h"

enum {
    KEYS = 10,
    HISTORIES = 60,
    STEPS = 220,
    RECORDS_MAX = 8192,
    ENTRIES_MAX = 3,
    CACHE_MAX = 10,
    VALUE_LEN_MAX = 13,
};

static const struct bytes keys[KEYS] = {
    /* in order */
    {(const uint8_t *)"\0", 1},       {(const uint8_t *)"\0\0", 2}, {(const uint8_t *)"\0\1", 2},
    {(const uint8_t *)"a", 1},        {(const uint8_t *)"a\0", 2},  {(const uint8_t *)"a\0b", 3},
    {(const uint8_t *)"a\1", 2},      {(const uint8_t *)"ab", 2},   {(const uint8_t *)"b\xFF", 2},
    {(const uint8_t *)"\xFF\xFF", 2},
};

struct record {
    struct rev rev;
    int key;
    bool tombstone;
    int64_t create;
    int64_t version;
    int64_t lease;
    uint32_t number; /* makes the value */
};

struct model {
    struct record records[RECORDS_MAX];
    size_t n;
    int64_t current;
    int64_t compacted;
    int64_t finished;
    struct mvcc_hash cache[CACHE_MAX + 1];
    size_t n_cache;
    bool hashed;           /* of the compaction accepted while nothing was unfinished */
    struct mvcc_hash hash; /* what that one will leave */
};

struct run {
    struct rng rng;
    char *dir;
    struct db *db;
    struct mvcc *m;
    struct db_batch *batch;
    struct arena arena; /* values, until the publication */
    struct model model;
    int64_t begin; /* current before the entry */
    uint32_t sub;
    uint32_t number;
    int64_t published;
    int64_t published_compacted;
};

static struct bytes value_make(uint32_t number, uint8_t out[VALUE_LEN_MAX])
{
    size_t len = number % VALUE_LEN_MAX;
    memset(out, (int)(number & 0xFF), len);
    return bytes_of(out, len);
}

/* ---- the model ---- */

/* The newest record of key at or below revision, put or not. */
static const struct record *model_newest(const struct model *m, int key, int64_t revision)
{
    for (size_t i = m->n; i-- > 0;)
        if (m->records[i].key == key && m->records[i].rev.main <= revision)
            return &m->records[i];
    return NULL;
}

static const struct record *model_live(const struct model *m, int key, int64_t revision)
{
    const struct record *r = model_newest(m, key, revision);
    return r && !r->tombstone ? r : NULL;
}

static void model_encode(const struct record *r, struct buf *out)
{
    uint8_t value[VALUE_LEN_MAX];
    struct kv kv = {.key = keys[r->key]};
    if (!r->tombstone)
        kv = (struct kv){
            keys[r->key], r->create, r->rev.main, r->version, value_make(r->number, value),
            r->lease};
    kv_encode(out, &kv);
}

static struct record *model_add(struct run *t, int key)
{
    check(t->model.n < RECORDS_MAX);
    struct record *r = &t->model.records[t->model.n++];
    *r = (struct record){.rev = {t->begin + 1, t->sub++}, .key = key};
    return r;
}

/*
 * etcd's choice for a key at revision: the generations (a tombstone ends one) are gone through from
 * the oldest; the first that is the last or ends at or above the revision is taken, and in it the
 * newest record at or below the revision. *ret_ended: that is the tombstone which ends the
 * generation.
 */
static const struct record *etcd_choice(const struct model *m, int key, int64_t revision,
                                        bool *ret_ended)
{
    const struct record *newest = NULL; /* of the generation under way */
    for (size_t i = 0; i < m->n; i++) {
        const struct record *r = &m->records[i];
        if (r->key != key)
            continue;
        if (r->rev.main <= revision)
            newest = r;
        if (!r->tombstone)
            continue;
        if (r->rev.main >= revision) {
            *ret_ended = newest == r;
            return newest;
        }
        newest = NULL;
    }
    *ret_ended = false;
    return newest;
}

/* The record of key that survives a compaction at revision (or, without tombstones, is kept for a
 * hash). */
static const struct record *model_kept(const struct model *m, int key, int64_t revision,
                                       bool tombstones)
{
    bool ended;
    const struct record *etcd = etcd_choice(m, key, revision, &ended);
    const struct record *newest = model_newest(m, key, revision);
    if (newest && newest->tombstone && newest->rev.main < revision)
        newest = NULL;
    /* Where etcd differs it loses a key: deleted and created again at the very revision. */
    bool recreated = etcd && newest && etcd != newest && ended && newest->rev.main == revision;
    assert_true(etcd == newest || recreated);
    return newest && newest->tombstone && !tombstones ? NULL : newest;
}

static uint32_t crc_record(uint32_t crc, const struct record *r)
{
    uint8_t key[18];
    u64_be_put(key, (uint64_t)r->rev.main);
    key[8] = '_';
    u64_be_put(key + 9, r->rev.sub);
    key[17] = 't';
    _cleanup_(buf_deinit) struct buf value = BUF_NULL;
    model_encode(r, &value);
    crc = crc32c(crc, key, r->tombstone ? 18 : 17);
    return crc32c(crc, value.data, value.len);
}

/* *ret_empty: nothing is kept, so that the result depends on how far a running compaction is. */
static uint32_t model_hash(const struct model *m, int64_t revision, int64_t compacted,
                           bool tombstones, bool *ret_empty)
{
    const struct record *kept[KEYS];
    bool any = false;
    for (int k = 0; k < KEYS; k++) {
        kept[k] = model_kept(m, k, revision, tombstones);
        any |= kept[k] != NULL;
    }
    uint32_t crc = crc32c(0, "key", 3);
    for (size_t i = 0; i < m->n; i++) {
        const struct record *r = &m->records[i];
        if (r->rev.main > revision || (r->rev.main <= compacted && any && kept[r->key] != r))
            continue;
        if (r->rev.main == compacted && r->tombstone)
            continue;
        crc = crc_record(crc, r);
    }
    *ret_empty = !any;
    return crc;
}

static void model_accept(struct model *m, int64_t revision)
{
    if (m->finished == m->compacted) {
        bool empty;
        m->hashed = true;
        m->hash = (struct mvcc_hash){model_hash(m, revision, m->compacted, true, &empty),
                                     m->compacted, revision, 0};
    }
    m->compacted = revision;
}

static void model_cache_add(struct model *m)
{
    size_t at = m->n_cache++;
    for (; at > 0 && m->cache[at - 1].revision > m->hash.revision; at--)
        m->cache[at] = m->cache[at - 1];
    m->cache[at] = m->hash;
    if (m->n_cache > CACHE_MAX)
        memmove(m->cache, m->cache + 1, --m->n_cache * sizeof(*m->cache));
}

static void model_finish(struct model *m, int64_t revision)
{
    if (revision == m->finished)
        return;
    size_t n = 0;
    bool keep[RECORDS_MAX];
    for (size_t i = 0; i < m->n; i++) {
        const struct record *r = &m->records[i];
        keep[i] = r->rev.main > revision || model_kept(m, r->key, revision, true) == r;
    }
    for (size_t i = 0; i < m->n; i++)
        if (keep[i])
            m->records[n++] = m->records[i];
    m->n = n;
    m->finished = revision;
    if (m->hashed && m->hash.revision <= revision) {
        model_cache_add(m);
        m->hashed = false;
    }
}

/* ---- comparing ---- */

struct expect {
    const struct run *t;
    const struct mvcc_range_options *o;
    int64_t revision;
    int next; /* key */
    int64_t n;
};

static int visit_compare(void *arg, const struct mvcc_item *item)
{
    struct expect *e = arg;
    const struct record *r = NULL;
    while (e->next < KEYS && !r) {
        if (interval_contains(&e->o->interval, keys[e->next]))
            r = model_live(&e->t->model, e->next, e->revision);
        e->next++;
    }
    assert_non_null(r);
    assert_true(bytes_equal(item->key, keys[r->key]));
    assert_int_equal(rev_compare(item->mod, r->rev), 0);
    assert_int_equal(item->create, r->create);
    assert_int_equal(item->version, r->version);
    assert_int_equal(item->lease, r->lease);
    _cleanup_(buf_deinit) struct buf encoded = BUF_NULL;
    if (!e->o->keys_only)
        model_encode(r, &encoded);
    assert_true(bytes_equal(item->encoded, buf_bytes(&encoded)));
    e->n++;
    return 0;
}

static int64_t model_count(const struct model *m, const struct interval *interval, int64_t revision)
{
    int64_t n = 0;
    for (int k = 0; k < KEYS; k++)
        n += interval_contains(interval, keys[k]) && model_live(m, k, revision);
    return n;
}

static struct interval random_interval(struct run *t)
{
    struct bytes from = keys[rng_below(&t->rng, KEYS)];
    uint64_t kind = rng_below(&t->rng, 4);
    if (kind == 0)
        return interval_parse(from, BYTES_NULL);
    if (kind == 1)
        return interval_parse(from, BYTES_LIT("\0"));
    if (kind == 2)
        return interval_parse(BYTES_LIT("\0"), BYTES_LIT("\0"));
    return interval_parse(from, keys[rng_below(&t->rng, KEYS)]);
}

static struct mvcc_range_options random_options(struct run *t)
{
    struct mvcc_range_options o = {.interval = random_interval(t)};
    o.limit = rng_below(&t->rng, 2) ? (int64_t)rng_below(&t->rng, 5) : 0;
    o.keys_only = rng_below(&t->rng, 4) == 0;
    o.no_count = rng_below(&t->rng, 4) == 0;
    o.count_only = rng_below(&t->rng, 5) == 0;
    if (rng_below(&t->rng, 2))
        o.revision = (int64_t)rng_below(&t->rng, (uint64_t)t->model.current + 3) - 1;
    return o;
}

/* current: what the reader takes for the current revision. */
static void range_compare(struct run *t, bool in_txn, int64_t current)
{
    struct mvcc_range_options o = random_options(t);
    struct expect e = {.t = t, .o = &o, .revision = o.revision > 0 ? o.revision : current};
    struct mvcc_range_result result = {0};
    int r = in_txn ? mvcc_txn_range(t->m, &o, visit_compare, &e, &result)
                   : mvcc_range(t->m, &o, visit_compare, &e, &result);
    if (e.revision > current) {
        assert_int_equal(r, MVCC_E_FUTURE);
        return;
    }
    if (e.revision < (in_txn ? t->model.compacted : t->published_compacted)) {
        assert_int_equal(r, MVCC_E_COMPACTED);
        return;
    }
    assert_int_equal(r, 0);
    assert_int_equal(result.current, current);
    assert_int_equal(result.revision, e.revision);
    int64_t count = model_count(&t->model, &o.interval, e.revision);
    int64_t fetched = o.limit > 0 && count > o.limit ? o.limit : count;
    if (o.interval.kind == INTERVAL_POINT && o.count_only)
        fetched = 0;
    assert_int_equal(e.n, o.count_only ? 0 : fetched);
    assert_int_equal(result.count, o.no_count && !o.count_only ? fetched : count);
}

static bool cached(const struct model *m, int64_t revision, struct mvcc_hash *ret)
{
    for (size_t i = 0; i < m->n_cache; i++) {
        if (m->cache[i].revision == revision) {
            *ret = m->cache[i];
            return true;
        }
    }
    return false;
}

static void hash_compare(struct run *t, int64_t revision)
{
    const struct model *m = &t->model;
    struct mvcc_hash h, want = {0};
    int r = mvcc_hash_kv(t->m, revision, &h);
    if (!cached(m, revision, &want)) {
        if (revision > 0 && revision < m->compacted) {
            assert_int_equal(r, MVCC_E_COMPACTED);
            return;
        }
        if (revision > m->current) {
            assert_int_equal(r, MVCC_E_FUTURE);
            return;
        }
        bool empty;
        want.revision = revision ? revision : m->current;
        want.compact_revision = m->compacted;
        want.hash = model_hash(m, want.revision, m->compacted, false, &empty);
        if (empty && m->finished != m->compacted)
            want.hash = h.hash;
    }
    assert_int_equal(r, 0);
    assert_int_equal(h.hash, want.hash);
    assert_int_equal(h.revision, want.revision);
    assert_int_equal(h.compact_revision, want.compact_revision);
    assert_int_equal(h.current, m->current);
}

/* ---- doing ---- */

static void random_put(struct run *t)
{
    int key = (int)rng_below(&t->rng, KEYS);
    const struct record *old = model_live(&t->model, key, INT64_MAX);
    struct record *r = model_add(t, key);
    r->create = old ? old->create : r->rev.main;
    r->version = old ? old->version + 1 : 1;
    r->lease = rng_below(&t->rng, 3) == 0 ? (int64_t)rng_below(&t->rng, 3) - 1 : 0;
    r->number = ++t->number;
    struct bytes value = value_make(r->number, arena_alloc(&t->arena, VALUE_LEN_MAX));
    assert_int_equal(mvcc_put(t->m, keys[key], value, r->lease), 0);
}

static void delete_key(struct run *t, int key)
{
    bool live = model_live(&t->model, key, INT64_MAX) != NULL;
    bool deleted = !live;
    assert_int_equal(mvcc_delete(t->m, keys[key], &deleted), 0);
    assert_int_equal(deleted, live);
    if (live)
        model_add(t, key)->tombstone = true;
}

static void random_lookup(struct run *t)
{
    int key = (int)rng_below(&t->rng, KEYS);
    const struct record *live = model_live(&t->model, key, INT64_MAX);
    bool found = !live;
    struct mvcc_item item;
    bool want_value = rng_below(&t->rng, 2);
    assert_int_equal(mvcc_lookup(t->m, keys[key], want_value, &found, &item), 0);
    assert_int_equal(found, live != NULL);
    if (!live)
        return;
    _cleanup_(buf_deinit) struct buf encoded = BUF_NULL;
    model_encode(live, &encoded);
    assert_int_equal(rev_compare(item.mod, live->rev), 0);
    assert_int_equal(item.lease, live->lease);
    assert_true(!want_value || bytes_equal(item.encoded, buf_bytes(&encoded)));
}

static void publish(struct run *t)
{
    mvcc_seal(t->m);
    assert_int_equal(db_write(t->db, t->batch), 0);
    db_batch_clear(t->batch);
    if (rng_below(&t->rng, 4) == 0) /* written, not published */
        for (int i = 0; i < 5; i++)
            range_compare(t, false, t->published);
    mvcc_publish(t->m);
    arena_reset(&t->arena);
    t->published = t->model.current;
    t->published_compacted = t->model.compacted;
    assert_int_equal(mvcc_revision(t->m), t->published);
}

static void random_entry(struct run *t)
{
    bool with_ranges = rng_below(&t->rng, 2) == 0;
    if (with_ranges && mvcc_range_needs_flush(t->m))
        publish(t);
    mvcc_begin(t->m);
    t->begin = t->model.current;
    t->sub = 0;
    uint64_t n = rng_below(&t->rng, 3) ? 1 : 1 + rng_below(&t->rng, 6);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t what = rng_below(&t->rng, 10);
        struct interval gone = random_interval(t);
        if (what < 5)
            random_put(t);
        else if (what < 7)
            delete_key(t, (int)rng_below(&t->rng, KEYS));
        else if (what == 7 && n > 1)
            random_lookup(t);
        for (int k = 0; what == 8 && k < KEYS; k++)
            if (interval_contains(&gone, keys[k]))
                delete_key(t, k);
        assert_int_equal(mvcc_changed(t->m), t->sub > 0);
        if (with_ranges)
            range_compare(t, true, t->begin + mvcc_changed(t->m));
    }
    t->model.current += t->sub > 0;
    assert_int_equal(mvcc_end(t->m), t->model.current);
}

static void random_turn(struct run *t)
{
    uint64_t n = 1 + rng_below(&t->rng, ENTRIES_MAX);
    for (uint64_t i = 0; i < n; i++)
        random_entry(t);
    publish(t);
}

static void random_compaction(struct run *t)
{
    struct model *m = &t->model;
    int64_t revision =
        m->compacted - 1 + (int64_t)rng_below(&t->rng, (uint64_t)(m->current - m->compacted) + 4);
    int r = mvcc_compact(t->m, revision, false);
    assert_int_equal(r, revision <= m->compacted ? MVCC_E_COMPACTED
                        : revision > m->current  ? MVCC_E_FUTURE
                                                 : 0);
    if (r == 0)
        model_accept(m, revision);
    publish(t);
    assert_int_equal(mvcc_compacted(t->m), m->compacted);
}

static void compaction_steps(struct run *t, int n)
{
    bool done = false;
    int64_t finished = 0;
    for (int i = 0; i < n && !done; i++) {
        assert_int_equal(mvcc_compact_step(t->m, &done, &finished), 0);
        model_finish(&t->model, finished);
    }
    assert_true(!done || t->model.finished == t->model.compacted);
}

static void store_open(struct run *t)
{
    struct mvcc_options options = {.db = t->db,
                                   .compaction_batch_max = 1 + (uint32_t)rng_below(&t->rng, 6)};
    assert_int_equal(mvcc_open(&t->m, &options), 0);
    mvcc_batch(t->m, t->batch);
    assert_int_equal(mvcc_revision(t->m), t->model.current);
    assert_int_equal(mvcc_compacted(t->m), t->model.compacted);
}

static void reopen(struct run *t, bool durable)
{
    t->m = mvcc_close(t->m);
    if (durable) {
        assert_int_equal(db_flush(t->db), 0);
        t->db = db_close(t->db);
        t->db = test_db_open(t->dir);
    }
    t->model.n_cache = 0;
    t->model.hashed = false;
    store_open(t);
}

static void compare(struct run *t)
{
    for (int i = 0; i < 6; i++)
        range_compare(t, false, t->model.current);
    hash_compare(t, 0);
    for (int i = 0; i < 2; i++)
        hash_compare(t, (int64_t)rng_below(&t->rng, (uint64_t)t->model.current + 3) - 1);
    hash_compare(t, t->model.compacted);
}

static void history(uint64_t seed, bool durable)
{
    struct run *t = mem_new(struct run);
    rng_init(&t->rng, seed);
    t->dir = test_dir_new();
    t->db = test_db_open(t->dir);
    t->batch = db_batch_new();
    arena_init(&t->arena);
    t->model.current = t->published = 1;
    t->model.compacted = t->model.finished = t->published_compacted = -1;
    store_open(t);
    for (int step = 0; step < STEPS; step++) {
        uint64_t what = rng_below(&t->rng, 40);
        if (what < 32)
            random_turn(t);
        else if (what < 35)
            random_compaction(t);
        else if (what < 39)
            compaction_steps(t, (int)rng_below(&t->rng, 12));
        else if (rng_below(&t->rng, 3) == 0)
            reopen(t, durable);
        compare(t);
    }
    compaction_steps(t, INT32_MAX);
    compare(t);
    mvcc_close(t->m);
    db_batch_free(t->batch);
    db_close(t->db);
    arena_deinit(&t->arena);
    test_dir_remove(t->dir);
    free(t);
}

static bool durable(void)
{
    char *dir = test_dir_new();
    char *copy = mem_printf("%s/copy", dir);
    struct db *db = test_db_open(dir);
    bool is_durable = db_checkpoint(db, copy) == 0;
    db_close(db);
    test_dir_remove(dir);
    free(copy);
    return is_durable;
}

static void test_histories(void **state)
{
    bool is_durable = durable();
    const char *one = getenv("MODEL_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t last = one ? first : HISTORIES;
    log_level_min = LOG_WARN;
    for (uint64_t seed = first; seed <= last; seed++) {
        print_message("MODEL_SEED=%llu\n", (unsigned long long)seed);
        history(seed, is_durable);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
