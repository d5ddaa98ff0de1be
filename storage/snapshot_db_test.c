/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A random history in one store, exported, imported into another: the two then hold the same
 * records, give the same hashes, and stay the same when the history goes on. Then files that
 * etcd would not write, and what neither form has a place for. That etcd takes and gives such
 * files is tested in tests/bbolt.
 *
 * SNAPSHOT_SEED=n plays one history.
 */
#include "storage/snapshot_db.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/arena.h"
#include "base/log.h"
#include "base/rng.h"
#include "storage/bbolt_format.h"
#include "storage/bbolt_write.h"
#include "storage/file.h"
#include "storage/lease.h"
#include "storage/mvcc.h"
#include "storage/test_dir.h"

enum { HISTORIES = 30, STEPS = 150, KEYS = 24, LEASES = 4, FLIPS = 500, SORT_BYTES = 2000 };

/* One store and what stands on it. */
struct side {
    char *dir;
    struct db *db;
    struct mvcc *m;
    struct lease_table *leases;
    struct db_batch *batch;
    struct arena arena;
    uint64_t index;
};

static void side_stand(struct side *s)
{
    struct mvcc_options options = {.db = s->db, .compaction_batch_max = 7};
    assert_int_equal(mvcc_open(&s->m, &options), 0);
    assert_int_equal(lease_table_open(&s->leases, s->db, 2), 0);
    mvcc_batch(s->m, s->batch);
}

static void side_open(struct side *s)
{
    *s = (struct side){.dir = test_dir_new()};
    s->db = test_db_open(s->dir);
    s->batch = db_batch_new();
    arena_init(&s->arena);
}

static void side_close(struct side *s)
{
    mvcc_close(s->m);
    lease_table_close(s->leases);
    db_batch_free(s->batch);
    arena_deinit(&s->arena);
    db_close(s->db);
    test_dir_remove(s->dir);
}

/* ---- a history ---- */

static struct bytes random_key(struct rng *rng, struct arena *arena)
{
    uint64_t n = rng_below(rng, KEYS);
    uint8_t key[4] = {(uint8_t)("ab\0\xff"[n % 4]), 0, (uint8_t)n, (uint8_t)n};
    return arena_copy(arena, bytes_of(key, 1 + n % 4));
}

static struct bytes random_value(struct rng *rng, struct arena *arena)
{
    size_t len = rng_below(rng, rng_below(rng, 30) ? 40 : 5000);
    uint8_t *value = arena_alloc(arena, len + 1);
    memset(value, (int)rng_below(rng, 256), len);
    return bytes_of(value, len);
}

static void random_put(struct side *s, struct rng *rng)
{
    int64_t lease = (int64_t)rng_below(rng, LEASES) - 1;
    struct bytes key = random_key(rng, &s->arena);
    struct bytes value = random_value(rng, &s->arena);
    if (lease != 0 && !lease_exists(s->leases, lease))
        lease = 0;
    assert_int_equal(mvcc_put(s->m, key, value, lease), 0);
}

static void turn_end(struct side *s)
{
    uint8_t applied[16];
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    u64_be_put(applied, ++s->index);
    u64_be_put(applied + 8, 3);
    schema_meta(&key, "applied");
    db_batch_put(s->batch, buf_bytes(&key), bytes_of(applied, sizeof(applied)));
    mvcc_seal(s->m);
    assert_int_equal(db_write(s->db, s->batch), 0);
    db_batch_clear(s->batch);
    mvcc_publish(s->m);
    arena_reset(&s->arena);
}

static int delete_attached(void *arg, struct bytes key)
{
    struct side *s = arg;
    bool deleted = false;
    assert_int_equal(mvcc_delete(s->m, arena_copy(&s->arena, key), &deleted), 0);
    assert_true(deleted);
    return 0;
}

static void random_lease(struct side *s, struct rng *rng)
{
    int64_t id = (int64_t)rng_below(rng, LEASES) - 1, ttl;
    if (!lease_exists(s->leases, id)) {
        (void)lease_grant(s->leases, s->batch, id, 100 + id, &ttl);
        return;
    }
    mvcc_begin(s->m);
    assert_int_equal(mvcc_lease_keys(s->m, id, delete_attached, s), 0);
    (void)mvcc_end(s->m);
    assert_int_equal(lease_revoke(s->leases, s->batch, id), 0);
}

static void random_entry(struct side *s, struct rng *rng)
{
    mvcc_begin(s->m);
    for (uint64_t n = 1 + rng_below(rng, 4); n > 0; n--) {
        bool deleted;
        if (rng_below(rng, 3))
            random_put(s, rng);
        else
            assert_int_equal(mvcc_delete(s->m, random_key(rng, &s->arena), &deleted), 0);
    }
    (void)mvcc_end(s->m);
}

static void compaction_steps(struct side *s, uint64_t n)
{
    bool done = false;
    int64_t finished;
    for (; n > 0 && !done; n--)
        assert_int_equal(mvcc_compact_step(s->m, &done, &finished), 0);
}

static void random_compaction(struct side *s, struct rng *rng)
{
    int64_t from = mvcc_compacted(s->m), to = mvcc_revision(s->m);
    if (to > from)
        assert_int_equal(
            mvcc_compact(s->m, to - (int64_t)rng_below(rng, (uint64_t)(to - from)), true), 0);
}

static void play(struct side *s, struct rng *rng, int steps)
{
    for (int i = 0; i < steps; i++) {
        uint64_t what = rng_below(rng, 40);
        if (what < 34)
            random_entry(s, rng);
        else if (what < 38)
            random_lease(s, rng);
        else if (what < 39)
            random_compaction(s, rng);
        turn_end(s);
        compaction_steps(s, rng_below(rng, 4));
    }
}

static void record_put(struct side *s, struct bytes key, struct bytes value)
{
    db_batch_put(s->batch, key, value);
}

/* What other parts of the server keep. */
static void rest_put(struct side *s)
{
    static const uint64_t ids[] = {1, 0xa, 0x9f00, 0xa1, UINT64_MAX, 0x8000000000000000};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++) {
        _cleanup_(buf_deinit) struct buf key = BUF_NULL, value = BUF_NULL;
        schema_member(&key, ids[i]);
        buf_printf(&value, "{\"id\":%llu}", (unsigned long long)ids[i]);
        record_put(s, buf_bytes(&key), buf_bytes(&value));
        buf_clear(&key);
        schema_removed(&key, ids[i] + 7);
        record_put(s, buf_bytes(&key), BYTES_NULL);
    }
    record_put(s, BYTES_LIT("s\x08\xa9\xa6\xda\xf6\xc5\xd5\xd4\xc6\x1e\x10\x01"), BYTES_NULL);
    record_put(s, BYTES_LIT("mcluster_version"), BYTES_LIT("3.7.0"));
    record_put(s, BYTES_LIT("mdowngrade"), BYTES_LIT("{\"target-version\":\"\"}"));
}

/* ---- there and back ---- */

static struct raft_conf_state conf;

static int export(struct side *s, const char *path, struct snapshot_facts *ret, char **ret_error)
{
    struct db_view *view = db_view_new(s->db);
    struct snapshot_export_options o = {s->db, view, path, "3.7.0", &conf, SORT_BYTES, NULL};
    int r = snapshot_export(&o, ret, ret_error);
    db_view_free(s->db, view);
    return r;
}

static int import(struct side *s, const char *path, struct snapshot_facts *ret, char **ret_error)
{
    _cleanup_(mem_freep) char *sort = mem_printf("%s/../sort-%d", s->dir, getpid());
    struct snapshot_import_options o = {s->db, path, sort, false, SORT_BYTES, NULL};
    return snapshot_import(&o, ret, ret_error);
}

static bool has(struct side *s, struct bytes key)
{
    struct db_value value = {0};
    int r = db_get(s->db, NULL, key, &value);
    db_value_release(&value);
    return r == 0;
}

/* Not to be compared: while a compaction is under way, r records that it deletes; and the change of
 * an entry that a later one of the same entry undid, exactly at the compaction. */
static bool excused(struct side *s, struct bytes record, bool settled)
{
    struct rev rev;
    enum schema_kind kind;
    struct bytes user_key;
    struct db_value value = {0};
    _cleanup_(buf_deinit) struct buf k = BUF_NULL;
    if (!schema_parse_r(record, &rev) || rev.main > mvcc_compacted(s->m))
        return false;
    if (!settled)
        return true;
    assert_int_equal(db_get(s->db, NULL, record, &value), 0);
    assert_true(schema_parse_r_value(value.bytes, &kind, &user_key));
    schema_k(&k, user_key, rev);
    db_value_release(&value);
    return !has(s, buf_bytes(&k));
}

static void pass_excused(struct db_iter *it, struct side *s, bool settled)
{
    while (db_iter_valid(it) && excused(s, db_iter_key(it), settled))
        db_iter_next(it);
}

static void assert_same(struct side *a, struct side *b, bool settled)
{
    struct db_iter *x = db_iter_new(a->db, &(struct db_iter_options){0});
    struct db_iter *y = db_iter_new(b->db, &(struct db_iter_options){0});
    db_iter_seek(x, BYTES_LIT("\0"));
    db_iter_seek(y, BYTES_LIT("\0"));
    for (;;) {
        pass_excused(x, a, settled);
        pass_excused(y, b, settled);
        if (!db_iter_valid(x))
            break;
        struct bytes key = db_iter_key(x);
        if (!db_iter_valid(y) || !bytes_equal(key, db_iter_key(y)))
            fail_msg("only one has the record %.*s", (int)key.len, (const char *)key.data);
        assert_true(bytes_equal(db_iter_value(x), db_iter_value(y)));
        db_iter_next(x);
        db_iter_next(y);
    }
    assert_false(db_iter_valid(y));
    db_iter_free(x);
    db_iter_free(y);
}

static void assert_hashes(struct side *a, struct side *b)
{
    int64_t first = mvcc_compacted(a->m), last = mvcc_revision(a->m);
    assert_int_equal(mvcc_compacted(b->m), first);
    assert_int_equal(mvcc_revision(b->m), last);
    for (int64_t rev = first < 0 ? 0 : first; rev <= last; rev += 1 + (last - first) / 7) {
        struct mvcc_hash x, y;
        assert_int_equal(mvcc_hash_kv(a->m, rev, &x), 0);
        assert_int_equal(mvcc_hash_kv(b->m, rev, &y), 0);
        assert_int_equal(x.hash, y.hash);
    }
}

static void history(uint64_t seed)
{
    struct side a, b;
    struct rng rng, rng_a, rng_b;
    struct snapshot_facts out = {0}, in = {0};
    char *error = NULL;
    rng_init(&rng, seed);
    side_open(&a);
    side_open(&b);
    side_stand(&a);
    rest_put(&a);
    play(&a, &rng, seed % 5 == 0 ? 1 : STEPS);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    assert_int_equal(export(&a, path, &out, &error), 0);
    assert_int_equal(import(&b, path, &in, &error), 0);
    assert_memory_equal(&out, &in, sizeof(in));
    assert_int_equal(in.applied, a.index);
    assert_int_equal(in.applied_term, 3);
    b.index = a.index;
    side_stand(&b);
    assert_same(&a, &b, false);
    assert_hashes(&a, &b);
    compaction_steps(&a, UINT64_MAX);
    compaction_steps(&b, UINT64_MAX);
    assert_same(&a, &b, true);
    rng_a = rng_b = rng;
    play(&a, &rng_a, STEPS / 2);
    play(&b, &rng_b, STEPS / 2);
    assert_same(&a, &b, false);
    assert_hashes(&a, &b);
    assert_int_equal(unlink(path), 0);
    side_close(&a);
    side_close(&b);
}

static void test_histories(void **state)
{
    const char *one = getenv("SNAPSHOT_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t last = one ? first : HISTORIES;
    for (uint64_t seed = first; seed <= last; seed++) {
        print_message("SNAPSHOT_SEED=%llu\n", (unsigned long long)seed);
        history(seed);
    }
}

static void assert_same_file(const char *path, const char *other)
{
    FILE *f = fopen(path, "r"), *g = fopen(other, "r");
    int c;
    assert_true(f && g);
    do {
        c = getc(f);
        assert_int_equal(c, getc(g));
    } while (c != EOF);
    fclose(f);
    fclose(g);
}

/* What happens after the view was taken is not in the file. */
static void test_view(void **state)
{
    struct side a;
    struct rng rng;
    struct snapshot_facts facts;
    char *error = NULL;
    rng_init(&rng, 9);
    side_open(&a);
    side_stand(&a);
    rest_put(&a);
    play(&a, &rng, STEPS);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    _cleanup_(mem_freep) char *later = mem_printf("%s.later", path);
    struct db_view *view = db_view_new(a.db);
    struct snapshot_export_options o = {a.db, view, later, "3.7.0", &conf, SORT_BYTES, NULL};
    assert_int_equal(export(&a, path, &facts, &error), 0);
    play(&a, &rng, STEPS);
    assert_int_equal(snapshot_export(&o, &facts, &error), 0);
    assert_same_file(path, later);
    db_view_free(a.db, view);
    assert_int_equal(unlink(path) | unlink(later), 0);
    side_close(&a);
}

static void test_temporary_file(void **state)
{
    struct side a, b;
    struct rng rng;
    struct snapshot_facts facts;
    char *error = NULL;
    rng_init(&rng, 10);
    side_open(&a);
    side_open(&b);
    side_stand(&a);
    play(&a, &rng, STEPS);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    _cleanup_(mem_freep) char *sort = mem_printf("%s.sort", path);
    assert_int_equal(export(&a, path, &facts, &error), 0);
    struct snapshot_import_options o = {b.db, path, "/no/such/folder/x", false, SORT_BYTES, NULL};
    assert_int_equal(snapshot_import(&o, &facts, &error), SNAPSHOT_E_FILE);
    assert_string_equal(error, "temporary file: no such file or directory");
    free(error);
    assert_int_equal(dir_make(sort), 0);
    assert_int_equal(export(&a, path, &facts, &error), SNAPSHOT_E_FILE);
    assert_string_equal(error, "temporary file: is a directory");
    free(error);
    assert_int_equal(rmdir(sort) | unlink(path), 0);
    side_close(&a);
    side_close(&b);
}

static void test_new_cluster(void **state)
{
    struct side a, b;
    struct rng rng;
    struct snapshot_facts facts;
    char *error = NULL;
    rng_init(&rng, 1);
    side_open(&a);
    side_open(&b);
    side_stand(&a);
    rest_put(&a);
    play(&a, &rng, 10);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    _cleanup_(mem_freep) char *sort = mem_printf("%s.sort", path);
    assert_int_equal(export(&a, path, &facts, &error), 0);
    struct snapshot_import_options o = {b.db, path, sort, true, 0, NULL};
    assert_int_equal(snapshot_import(&o, &facts, &error), 0);
    assert_true(has(&a, BYTES_LIT("mapplied")));
    assert_false(has(&b, BYTES_LIT("mapplied")));
    assert_true(has(&a, BYTES_LIT("c\0\0\0\0\0\0\0\1")));
    assert_false(has(&b, BYTES_LIT("c\0\0\0\0\0\0\0\1")));
    assert_true(has(&a, BYTES_LIT("x\0\0\0\0\0\0\0\x8")));
    assert_false(has(&b, BYTES_LIT("x\0\0\0\0\0\0\0\x8")));
    assert_true(has(&b, BYTES_LIT("mcluster_version")));
    assert_int_equal(snapshot_import(&o, &facts, &error), -EEXIST);
    assert_int_equal(unlink(path), 0);
    side_close(&a);
    side_close(&b);
}

static void test_cancel(void **state)
{
    struct side a, b;
    struct snapshot_facts facts;
    char *error = NULL;
    atomic_bool cancel = false;
    side_open(&a);
    side_open(&b);
    side_stand(&a);
    mvcc_begin(a.m);
    for (uint32_t i = 0; i < 5000; i++) {
        uint8_t key[4];
        u32_be_put(key, i);
        struct bytes copy = arena_copy(&a.arena, bytes_of(key, sizeof(key)));
        assert_int_equal(mvcc_put(a.m, copy, BYTES_NULL, 0), 0);
    }
    (void)mvcc_end(a.m);
    turn_end(&a);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    _cleanup_(mem_freep) char *sort = mem_printf("%s.sort", path);
    struct db_view *view = db_view_new(a.db);
    struct snapshot_export_options out = {a.db, view, path, "3.7.0", &conf, 0, &cancel};
    struct snapshot_import_options in = {b.db, path, sort, false, 0, &cancel};
    assert_int_equal(snapshot_export(&out, &facts, &error), 0);
    atomic_store(&cancel, true);
    assert_int_equal(snapshot_import(&in, &facts, &error), -ECANCELED);
    assert_int_equal(snapshot_export(&out, &facts, &error), -ECANCELED);
    db_view_free(a.db, view);
    assert_int_equal(unlink(path), 0);
    side_close(&a);
    side_close(&b);
}

/* ---- what has no place ---- */

static void export_refused(struct bytes key, const char *text)
{
    struct side a;
    struct snapshot_facts facts;
    char *error = NULL;
    side_open(&a);
    record_put(&a, key, BYTES_NULL);
    assert_int_equal(db_write(a.db, a.batch), 0);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    assert_int_equal(export(&a, path, &facts, &error), SNAPSHOT_E_UNSUPPORTED);
    assert_non_null(strstr(error, text));
    free(error);
    side_close(&a);
}

static void test_export_refused(void **state)
{
    export_refused(BYTES_LIT("auser"), "users and roles");
    export_refused(BYTES_LIT("mnovelty"), "record m novelty");
    export_refused(BYTES_LIT("\x01"), "unknown kind");
    export_refused(BYTES_LIT("nx"), "unknown kind");
    export_refused(BYTES_LIT("\xff"), "unknown kind");
}

#define REV(main) "\0\0\0\0\0\0\0" main "_\0\0\0\0\0\0\0\0"

struct odd {
    const char *bucket;
    struct bytes key;
    struct bytes value;
    int outcome;
    const char *text;
};

static const struct odd odd_ones[] = {
    {"members", BYTES_LIT("a1"), BYTES_LIT("{}"), 0, ""},
    {"auth", BYTES_LIT("authRevision"), BYTES_LIT("\0\0\0\0\0\0\0\1"), 0, ""},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT(""), 0, ""},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x0a\1k\x10\4\x18\5\x20\2"), 0, ""},
    {"auth", BYTES_LIT("authRevision"), BYTES_LIT("\0\0\0\0\0\0\0\2"), SNAPSHOT_E_UNSUPPORTED,
     "bucket auth, item authRevision: this version has no users"},
    {"auth", BYTES_LIT("authEnabled"), BYTES_LIT("\1"), SNAPSHOT_E_UNSUPPORTED, "authEnabled"},
    {"authUsers", BYTES_LIT("root"), BYTES_LIT("x"), SNAPSHOT_E_UNSUPPORTED,
     "bucket authUsers, item root"},
    {"authRoles", BYTES_LIT("r"), BYTES_LIT("x"), SNAPSHOT_E_UNSUPPORTED, "bucket authRoles"},
    {"zoo", BYTES_LIT("k"), BYTES_LIT("v"), SNAPSHOT_E_UNSUPPORTED, "bucket zoo, item k"},
    {"meta", BYTES_LIT("new"), BYTES_LIT("v"), SNAPSHOT_E_UNSUPPORTED, "bucket meta, item new"},
    {"meta", BYTES_LIT("storageVersion"), BYTES_LIT("3.8.0"), SNAPSHOT_E_UNSUPPORTED, "newer"},
    {"meta", BYTES_LIT("storageVersion"), BYTES_LIT("4.0.0"), SNAPSHOT_E_UNSUPPORTED, "newer"},
    {"cluster", BYTES_LIT("new"), BYTES_LIT("v"), SNAPSHOT_E_UNSUPPORTED, "bucket cluster"},
    {"meta", BYTES_LIT("term"), BYTES_LIT("1"), SNAPSHOT_E_DAMAGED, "no number"},
    {"meta", BYTES_LIT("scheduledCompactRev"), BYTES_LIT("1"), SNAPSHOT_E_DAMAGED, "no revision"},
    {"cluster", BYTES_LIT("clusterVersion"), BYTES_LIT("0123456789abcdef"), SNAPSHOT_E_DAMAGED,
     "no version"},
    {"members", BYTES_LIT("0a"), BYTES_LIT("{}"), SNAPSHOT_E_DAMAGED, "no member"},
    {"members", BYTES_LIT("A"), BYTES_LIT("{}"), SNAPSHOT_E_DAMAGED, "no member"},
    {"members_removed", BYTES_LIT("12345678123456789"), BYTES_LIT("removed"), SNAPSHOT_E_DAMAGED,
     "no member"},
    {"alarm", BYTES_LIT("\x18\1"), BYTES_LIT(""), SNAPSHOT_E_DAMAGED, "no alarm"},
    {"lease", BYTES_LIT("1"), BYTES_LIT("\x08\1"), SNAPSHOT_E_DAMAGED, "no lease"},
    {"lease", BYTES_LIT("\0\0\0\0\0\0\0\2"), BYTES_LIT("\x08\1"), SNAPSHOT_E_DAMAGED, "no lease"},
    {"key", BYTES_LIT("short"), BYTES_LIT("\x0a\1k"), SNAPSHOT_E_DAMAGED, "no revision"},
    {"key", BYTES_LIT(REV("\5") "u"), BYTES_LIT("\x0a\1k"), SNAPSHOT_E_DAMAGED, "no revision"},
    {"key", BYTES_LIT("\xff\0\0\0\0\0\0\1_\0\0\0\0\0\0\0\0"), BYTES_LIT("\x0a\1k"),
     SNAPSHOT_E_DAMAGED, "no revision"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\xff"), SNAPSHOT_E_DAMAGED, "no KeyValue"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x0a\1k"), SNAPSHOT_E_DAMAGED, "nothing but a key"},
    {"key", BYTES_LIT(REV("\5") "t"), BYTES_LIT("\x0a\1k\x10\1"), SNAPSHOT_E_DAMAGED,
     "more than a key"},
    {"key", BYTES_LIT(REV("\5") "t"), BYTES_LIT("\x0a\0"), SNAPSHOT_E_DAMAGED, "without a key"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x10\4\x18\5\x20\2"), SNAPSHOT_E_DAMAGED,
     "without a key"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x0a\1k\x10\4\x18\4\x20\2"), SNAPSHOT_E_DAMAGED,
     "contradict"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x0a\1k\x10\6\x18\5\x20\2"), SNAPSHOT_E_DAMAGED,
     "contradict"},
    {"key", BYTES_LIT(REV("\5")), BYTES_LIT("\x0a\1k\x10\4\x18\5"), SNAPSHOT_E_DAMAGED,
     "contradict"},
};

/* A file with one item. */
static void odd_file(const char *path, const struct odd *odd)
{
    struct bbolt_writer *w = NULL;
    uint64_t bytes;
    assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){.path = path}), 0);
    if (strcmp(odd->bucket, "key") < 0) {
        assert_int_equal(bbolt_write_bucket(w, odd->bucket), 0);
        assert_int_equal(bbolt_write_item(w, odd->key, odd->value), 0);
    }
    assert_int_equal(bbolt_write_bucket(w, "key"), 0);
    if (strcmp(odd->bucket, "key") > 0)
        assert_int_equal(bbolt_write_bucket(w, odd->bucket), 0);
    if (strcmp(odd->bucket, "key") >= 0)
        assert_int_equal(bbolt_write_item(w, odd->key, odd->value), 0);
    assert_int_equal(bbolt_write_finish(w, &bytes), 0);
    bbolt_write_close(w);
}

static void test_import_refused(void **state)
{
    char *dir = test_dir_new();
    _cleanup_(mem_freep) char *path = mem_printf("%s/file", dir);
    for (size_t i = 0; i < sizeof(odd_ones) / sizeof(*odd_ones); i++) {
        struct side b;
        struct snapshot_facts facts;
        char *error = NULL;
        side_open(&b);
        odd_file(path, &odd_ones[i]);
        int r = import(&b, path, &facts, &error);
        if (r != odd_ones[i].outcome || (r > 0 && !strstr(error, odd_ones[i].text)))
            fail_msg("case %zu: %d: %s", i, r, error ? error : "");
        if (r == 0)
            side_stand(&b);
        free(error);
        side_close(&b);
    }
    test_dir_remove(dir);
}

static void test_no_snapshot(void **state)
{
    struct side b;
    struct bbolt_writer *w = NULL;
    struct snapshot_facts facts;
    char *error = NULL;
    uint64_t bytes;
    side_open(&b);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", b.dir, getpid());
    assert_int_equal(import(&b, path, &facts, &error), SNAPSHOT_E_FILE);
    assert_string_equal(error, "no such file or directory");
    free(error);
    assert_int_equal(export(&b, "/no/such/folder/file", &facts, &error), SNAPSHOT_E_FILE);
    assert_string_equal(error, "no such file or directory");
    free(error);
    assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){.path = path}), 0);
    assert_int_equal(import(&b, path, &facts, &error), SNAPSHOT_E_DAMAGED);
    free(error);
    assert_int_equal(bbolt_write_finish(w, &bytes), 0);
    bbolt_write_close(w);
    assert_int_equal(import(&b, path, &facts, &error), SNAPSHOT_E_DAMAGED);
    assert_non_null(strstr(error, "no bucket key"));
    free(error);
    assert_int_equal(unlink(path), 0);
    side_close(&b);
}

static int visit_nothing(void *arg, const struct mvcc_item *item)
{
    return 0;
}

/* What was taken, a member can stand on: nothing in it is fatal to a reader. */
static void taken(struct side *b)
{
    struct mvcc_range_options all = {.interval = {INTERVAL_FROM, BYTES_LIT("\0"), BYTES_NULL}};
    struct mvcc_range_result result;
    struct mvcc_hash hash;
    side_stand(b);
    assert_int_equal(mvcc_range(b->m, &all, visit_nothing, NULL, &result), 0);
    assert_int_equal(mvcc_hash_kv(b->m, 0, &hash), 0);
    all.keys_only = true;
    assert_int_equal(mvcc_range(b->m, &all, visit_nothing, NULL, &result), 0);
}

static void file_flip(const char *path, uint64_t bit)
{
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, (long)(bit / 8), SEEK_SET), 0);
    int c = getc(f);
    assert_int_equal(fseek(f, (long)(bit / 8), SEEK_SET), 0);
    putc(c ^ 1 << bit % 8, f);
    fclose(f);
}

static void test_flips(void **state)
{
    struct side a;
    struct rng rng;
    struct snapshot_facts facts;
    char *error = NULL;
    unsigned outcomes[4] = {0};
    rng_init(&rng, 5);
    side_open(&a);
    side_stand(&a);
    rest_put(&a);
    play(&a, &rng, 40);
    _cleanup_(mem_freep) char *path = mem_printf("%s/../file-%d", a.dir, getpid());
    assert_int_equal(export(&a, path, &facts, &error), 0);
    for (int i = 0; i < FLIPS; i++) {
        struct side b;
        uint64_t page = rng_below(&rng, facts.file_bytes / BBOLT_PAGE_BYTES);
        uint64_t bit = (page * BBOLT_PAGE_BYTES + rng_below(&rng, 1000)) * 8 + rng_below(&rng, 8);
        side_open(&b);
        file_flip(path, bit);
        int r = import(&b, path, &facts, &error);
        if (r == 0)
            taken(&b);
        assert_true(r >= 0);
        outcomes[r]++;
        if (r > 0)
            free(error);
        file_flip(path, bit);
        side_close(&b);
    }
    print_message("%u taken, %u damaged, %u unsupported\n", outcomes[0], outcomes[1], outcomes[2]);
    assert_true(outcomes[0] > 50 && outcomes[1] > 50);
    assert_int_equal(unlink(path), 0);
    side_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),      cmocka_unit_test(test_view),
        cmocka_unit_test(test_temporary_file), cmocka_unit_test(test_new_cluster),
        cmocka_unit_test(test_cancel),         cmocka_unit_test(test_export_refused),
        cmocka_unit_test(test_import_refused), cmocka_unit_test(test_no_snapshot),
        cmocka_unit_test(test_flips),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
