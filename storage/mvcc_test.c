/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The multi-version store, case by case: etcd's worked hash examples, the rules of create revision
 * and version inside one entry, reads inside an entry, revisions above and below, compaction at its
 * edges, restarts, lease attachments, damaged records, and readers beside a writer.
 * mvcc_model_test.c has the random histories.
 */
#include "storage/mvcc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "storage/test_dir.h"

#define B(s) BYTES_LIT(s)
#define ALL interval_parse(B("\0"), B("\0"))

struct fixture {
    char *dir;
    struct db *db;
    struct mvcc *m;
    struct db_batch *batch;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    f->dir = test_dir_new();
    f->db = test_db_open(f->dir);
    f->batch = db_batch_new();
    assert_int_equal(
        mvcc_open(&f->m, &(struct mvcc_options){.db = f->db, .compaction_batch_max = 2}), 0);
    mvcc_batch(f->m, f->batch);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    mvcc_close(f->m);
    db_batch_free(f->batch);
    db_close(f->db);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    f->m = mvcc_close(f->m);
    assert_int_equal(
        mvcc_open(&f->m, &(struct mvcc_options){.db = f->db, .compaction_batch_max = 2}), 0);
    mvcc_batch(f->m, f->batch);
}

static void flush(struct fixture *f)
{
    mvcc_seal(f->m);
    assert_int_equal(db_write(f->db, f->batch), 0);
    db_batch_clear(f->batch);
    mvcc_publish(f->m);
}

static void tput(struct fixture *f, struct bytes key, struct bytes value, int64_t lease)
{
    assert_int_equal(mvcc_put(f->m, key, value, lease), 0);
}

static bool tdel(struct fixture *f, struct bytes key)
{
    bool deleted = false;
    assert_int_equal(mvcc_delete(f->m, key, &deleted), 0);
    return deleted;
}

static int64_t end(struct fixture *f)
{
    int64_t revision = mvcc_end(f->m);
    flush(f);
    return revision;
}

static int64_t put(struct fixture *f, struct bytes key, struct bytes value)
{
    mvcc_begin(f->m);
    tput(f, key, value, 0);
    return end(f);
}

static int64_t del(struct fixture *f, struct bytes key)
{
    mvcc_begin(f->m);
    tdel(f, key);
    return end(f);
}

static int64_t compact_work(struct fixture *f)
{
    bool done = false;
    int64_t finished = 0;
    while (!done)
        assert_int_equal(mvcc_compact_step(f->m, &done, &finished), 0);
    return finished;
}

static void compact(struct fixture *f, int64_t revision)
{
    assert_int_equal(mvcc_compact(f->m, revision, false), 0);
    flush(f);
    assert_int_equal(compact_work(f), revision);
}

static void hash_is(struct fixture *f, int64_t request, uint32_t hash, int64_t compacted,
                    int64_t revision)
{
    struct mvcc_hash h;
    assert_int_equal(mvcc_hash_kv(f->m, request, &h), 0);
    assert_int_equal(h.hash, hash);
    assert_int_equal(h.compact_revision, compacted);
    assert_int_equal(h.revision, revision);
    assert_int_equal(h.current, mvcc_revision(f->m));
}

/* ---- what a range gives, as text: "key=value@mod/create/version/lease ..." ---- */

static int visit_text(void *arg, const struct mvcc_item *item)
{
    struct buf *out = arg;
    struct kv kv = {0};
    assert_true(kv_decode(item->encoded, &kv));
    if (out->len)
        buf_append_str(out, " ");
    buf_append_bytes(out, item->key);
    if (item->encoded.len) {
        assert_int_equal(kv.mod, item->mod.main);
        assert_int_equal(kv.version, item->version);
        assert_int_equal(kv.create, item->create);
        assert_int_equal(kv.lease, item->lease);
        buf_append_str(out, "=");
        buf_append_bytes(out, kv.value);
    }
    buf_printf(out, "@%lld.%u/%lld/%lld", (long long)item->mod.main, item->mod.sub,
               (long long)item->create, (long long)item->version);
    if (item->lease)
        buf_printf(out, "/%lld", (long long)item->lease);
    return 0;
}

static void range_is(struct fixture *f, bool in_txn, struct mvcc_range_options o, const char *want,
                     int64_t count)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct mvcc_range_result result = {0};
    int r = in_txn ? mvcc_txn_range(f->m, &o, visit_text, &out, &result)
                   : mvcc_range(f->m, &o, visit_text, &out, &result);
    assert_int_equal(r, 0);
    assert_string_equal(buf_cstr(&out), want);
    assert_int_equal(result.count, count);
    assert_int_equal(result.current, mvcc_writer_revision(f->m) + (in_txn && mvcc_changed(f->m)));
}

#define range(...) ((struct mvcc_range_options){__VA_ARGS__})

static void range_fails(struct fixture *f, int64_t revision, int want)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct mvcc_range_result result;
    struct mvcc_range_options o = {.interval = ALL, .revision = revision};
    assert_int_equal(mvcc_range(f->m, &o, visit_text, &out, &result), want);
    o.interval = interval_parse(B("a"), BYTES_NULL);
    assert_int_equal(mvcc_range(f->m, &o, visit_text, &out, &result), want);
    assert_int_equal(out.len, 0);
}

/* ---- etcd's worked examples ---- */

static void test_hash_examples(void **state)
{
    struct fixture *f = *state;
    hash_is(f, 0, 1084519789, -1, 1);
    put(f, B("a"), B("1"));
    hash_is(f, 0, 2587454935, -1, 2);
    put(f, B("a"), B("2"));
    hash_is(f, 0, 535221974, -1, 3);
    put(f, B("b"), B("x"));
    hash_is(f, 0, 1523780942, -1, 4);
    assert_int_equal(del(f, B("a")), 5);
    hash_is(f, 0, 3909293975, -1, 5);
    hash_is(f, 4, 1523780942, -1, 4);
    put(f, B("c"), B("y"));
    hash_is(f, 0, 180387283, -1, 6);
    compact(f, 5);
    hash_is(f, 0, 2618167811, 5, 6);
    hash_is(f, 6, 2618167811, 5, 6);
    hash_is(f, 5, 3909293975, -1, 5);
    struct mvcc_hash h;
    assert_int_equal(mvcc_hash_kv(f->m, 4, &h), MVCC_E_COMPACTED);
    assert_int_equal(mvcc_hash_kv(f->m, 7, &h), MVCC_E_FUTURE);
    hash_is(f, -1, 1084519789, 5, -1);
    assert_int_equal(put(f, B("a"), B("3")), 7);
    hash_is(f, 0, 3721109742, 5, 7);
    mvcc_begin(f->m);
    assert_true(tdel(f, B("a")) && tdel(f, B("b")) && tdel(f, B("c")));
    assert_int_equal(end(f), 8);
    hash_is(f, 0, 3572419029, 5, 8);
    compact(f, 8);
    hash_is(f, 0, 1084519789, 8, 8);
    hash_is(f, 8, 4252656001, 5, 8);
    reopen(f);
    hash_is(f, 0, 1084519789, 8, 8);
}

static void test_hash_after_restart(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    put(f, B("a"), B("2"));
    put(f, B("b"), B("x"));
    del(f, B("a"));
    put(f, B("c"), B("y"));
    compact(f, 5);
    reopen(f);
    assert_int_equal(mvcc_compacted(f->m), 5);
    hash_is(f, 5, 3966414695, 5, 5);
    hash_is(f, 0, 2618167811, 5, 6);
}

/* D: no key is live at the revision, so nothing is filtered. */
static void test_hash_empty_keep(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    compact(f, 2);
    del(f, B("a"));
    hash_is(f, 0, 3520211144, 2, 3);
}

/* E: deleting and creating a key in one entry. */
static void test_hash_generations(void **state)
{
    struct fixture *f = *state;
    struct bytes n = B("n");
    for (int i = 0; i < 2; i++) {
        mvcc_begin(f->m);
        tput(f, n, i ? B("2") : B("1"), 5);
        end(f);
    }
    mvcc_begin(f->m);
    assert_true(tdel(f, n));
    tput(f, n, B("3"), 0);
    end(f);
    mvcc_begin(f->m);
    tput(f, n, B("4"), 0);
    assert_true(tdel(f, n));
    end(f);
    put(f, n, B("5"));
    mvcc_begin(f->m);
    assert_true(tdel(f, n));
    tput(f, n, B("3"), 0);
    assert_true(tdel(f, n));
    end(f);
    put(f, B("o"), B("5"));
    assert_int_equal(put(f, n, B("6")), 9);
    hash_is(f, 0, 3649426182, -1, 9);
    mvcc_begin(f->m);
    assert_true(tdel(f, n) && tdel(f, B("o"))); /* from n on */
    tput(f, n, B("7"), 0);
    assert_int_equal(end(f), 10);
    hash_is(f, 0, 389787376, -1, 10);
    range_is(f, false, range(.interval = ALL), "n=7@10.2/10/1", 1);
    range_is(f, false, range(.interval = ALL, .revision = 9), "n=6@9.0/9/1 o=5@8.0/8/1", 2);
    range_is(f, false, range(.interval = ALL, .revision = 7), "", 0);
    /* A key deleted and created again at the very revision of a compaction stays (etcd loses it).
     */
    compact(f, 10);
    range_is(f, false, range(.interval = ALL), "n=7@10.2/10/1", 1);
}

/* After "compact 0" the cached hash answers for request 0, until ten others have pushed it out. */
static void test_hash_cache(void **state)
{
    struct fixture *f = *state;
    compact(f, 0);
    hash_is(f, 0, 1084519789, -1, 0);
    for (int i = 0; i < 10; i++) {
        int64_t revision = put(f, B("a"), B("1"));
        struct mvcc_hash before;
        assert_int_equal(mvcc_hash_kv(f->m, revision, &before), 0);
        compact(f, revision);
        hash_is(f, revision, before.hash, i ? revision - 1 : 0, revision);
        if (i < 9)
            hash_is(f, 0, 1084519789, -1, 0);
    }
    struct mvcc_hash h;
    assert_int_equal(mvcc_hash_kv(f->m, 0, &h), 0);
    assert_int_equal(h.revision, 11);
}

/* ---- entries ---- */

static void test_versions(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(mvcc_revision(f->m), 1);
    put(f, B("a"), B("1"));
    assert_int_equal(put(f, B("a"), B("2")), 3);
    range_is(f, false, range(.interval = ALL), "a=2@3.0/2/2", 1);
    assert_int_equal(del(f, B("x")), 3); /* nothing changed */
    mvcc_begin(f->m);                    /* put, delete, put, put: subs 0 to 3 */
    tput(f, B("a"), B("3"), 0);
    assert_true(tdel(f, B("a")));
    assert_false(tdel(f, B("a")));
    tput(f, B("a"), B("4"), 0);
    tput(f, B("a"), B("5"), 0);
    assert_int_equal(end(f), 4);
    range_is(f, false, range(.interval = ALL), "a=5@4.3/4/2", 1);
    range_is(f, false, range(.interval = ALL, .revision = 3), "a=2@3.0/2/2", 1);
    range_is(f, false, range(.interval = ALL, .revision = 2), "a=1@2.0/2/1", 1);
    range_is(f, false, range(.interval = ALL, .revision = 1), "", 0);
    range_is(f, false, range(.interval = ALL, .revision = -5), "a=5@4.3/4/2", 1);
    range_fails(f, 5, MVCC_E_FUTURE);
    put(f, B("e"), BYTES_NULL);
    range_is(f, false, range(.interval = interval_parse(B("e"), BYTES_NULL)), "e=@5.0/5/1", 1);
}

static void test_limits_and_counts(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 9; i++) {
        static const char keys[] = "abcdefghi";
        put(f, bytes_of(keys + i, 1), B("v"));
    }
    del(f, B("c"));
    range_is(f, false, range(.interval = ALL, .limit = 2), "a=v@2.0/2/1 b=v@3.0/3/1", 8);
    range_is(f, false, range(.interval = ALL, .limit = 2, .no_count = true),
             "a=v@2.0/2/1 b=v@3.0/3/1", 2);
    range_is(f, false, range(.interval = ALL, .limit = 2, .keys_only = true), "a@2.0/2/1 b@3.0/3/1",
             8);
    range_is(f, false, range(.interval = ALL, .limit = 2, .revision = 10),
             "a=v@2.0/2/1 b=v@3.0/3/1", 9);
    range_is(f, false, range(.interval = ALL, .limit = 2, .revision = 4, .keys_only = true),
             "a@2.0/2/1 b@3.0/3/1", 3);
    range_is(f, false, range(.interval = ALL, .count_only = true), "", 8);
    range_is(f, false, range(.interval = ALL, .count_only = true, .revision = 10), "", 9);
    range_is(f, false, range(.interval = interval_parse(B("b"), B("e")), .count_only = true), "",
             2);
    range_is(f, false, range(.interval = interval_parse(B("b"), B("e")), .limit = 5),
             "b=v@3.0/3/1 d=v@5.0/5/1", 2);
    range_is(f, false, range(.interval = interval_parse(B("b"), B("b"))), "", 0);
    range_is(f, false, range(.interval = interval_parse(B("b"), BYTES_NULL), .count_only = true),
             "", 1);
    range_is(f, false, range(.interval = interval_parse(B("c"), BYTES_NULL), .count_only = true),
             "", 0);
    range_is(f, false, range(.interval = interval_parse(B("c"), BYTES_NULL), .revision = 10),
             "c=v@4.0/4/1", 1);
    range_is(
        f, false,
        range(.interval = interval_parse(B("c"), BYTES_NULL), .keys_only = true, .revision = 10),
        "c@4.0/4/1", 1);
}

/* One key with far more versions than a walk steps over. */
static void test_hot_key(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("v"));
    for (int i = 0; i < 100; i++)
        put(f, B("hot"), B("v"));
    put(f, B("z"), B("v"));
    range_is(f, false, range(.interval = ALL), "a=v@2.0/2/1 hot=v@102.0/3/100 z=v@103.0/103/1", 3);
    range_is(f, false, range(.interval = ALL, .revision = 7), "a=v@2.0/2/1 hot=v@7.0/3/5", 2);
    range_is(f, false, range(.interval = ALL, .revision = 90), "a=v@2.0/2/1 hot=v@90.0/3/88", 2);
    range_is(f, false, range(.interval = ALL, .count_only = true, .revision = 2), "", 1);
}

static void test_reads_inside(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    put(f, B("c"), B("1"));
    put(f, B("e"), B("1"));
    mvcc_begin(f->m);
    range_is(f, true, range(.interval = ALL, .limit = 1), "a=1@2.0/2/1", 3);
    tput(f, B("b"), B("2"), 0);
    assert_true(tdel(f, B("c")));
    tput(f, B("a"), B("2"), 7);
    tput(f, B("x"), B("2"), 0);
    range_is(f, true, range(.interval = ALL), "a=2@5.2/2/2/7 b=2@5.0/5/1 e=1@4.0/4/1 x=2@5.3/5/1",
             4);
    range_is(f, true, range(.interval = ALL, .limit = 2), "a=2@5.2/2/2/7 b=2@5.0/5/1", 4);
    range_is(f, true, range(.interval = ALL, .limit = 2, .no_count = true),
             "a=2@5.2/2/2/7 b=2@5.0/5/1", 2);
    range_is(f, true, range(.interval = ALL, .limit = 4, .keys_only = true),
             "a@5.2/2/2/7 b@5.0/5/1 e@4.0/4/1 x@5.3/5/1", 4);
    range_is(f, true, range(.interval = ALL, .count_only = true), "", 4);
    range_is(f, true, range(.interval = interval_parse(B("b"), B("d"))), "b=2@5.0/5/1", 1);
    range_is(f, true, range(.interval = interval_parse(B("c"), BYTES_NULL)), "", 0);
    range_is(f, true, range(.interval = interval_parse(B("a"), BYTES_NULL)), "a=2@5.2/2/2/7", 1);
    range_is(f, true, range(.interval = ALL, .revision = 4), "a=1@2.0/2/1 c=1@3.0/3/1 e=1@4.0/4/1",
             3);
    range_is(f, true, range(.interval = ALL, .revision = 5, .limit = 1), "a=2@5.2/2/2/7", 4);
    struct mvcc_range_result result;
    assert_int_equal(
        mvcc_txn_range(f->m, &range(.interval = ALL, .revision = 6), visit_text, NULL, &result),
        MVCC_E_FUTURE);
    assert_int_equal(end(f), 5);
    range_is(f, false, range(.interval = ALL), "a=2@5.2/2/2/7 b=2@5.0/5/1 e=1@4.0/4/1 x=2@5.3/5/1",
             4);
}

/* Several entries in one batch: the later see the earlier, readers see none before the publication.
 */
static void test_turn(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    mvcc_begin(f->m);
    tput(f, B("a"), B("2"), 0);
    tput(f, B("b"), B("2"), 0);
    assert_int_equal(mvcc_end(f->m), 3);
    mvcc_begin(f->m);
    bool found;
    struct mvcc_item item;
    assert_int_equal(mvcc_lookup(f->m, B("a"), true, &found, &item), 0);
    assert_true(found);
    assert_int_equal(item.version, 2);
    assert_true(mvcc_range_needs_flush(f->m));
    range_is(f, true, range(.interval = interval_parse(B("b"), BYTES_NULL)), "b=2@3.1/3/1", 1);
    assert_true(tdel(f, B("b")));
    assert_int_equal(mvcc_end(f->m), 4);
    assert_int_equal(mvcc_revision(f->m), 2);
    assert_int_equal(mvcc_writer_revision(f->m), 4);
    mvcc_seal(f->m);
    assert_int_equal(db_write(f->db, f->batch), 0); /* in the store, not yet published */
    db_batch_clear(f->batch);
    struct mvcc_range_result result;
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    const struct mvcc_range_options reads[] = {
        {.interval = ALL},
        {.interval = ALL, .keys_only = true},
        {.interval = ALL, .limit = 1},
        {.interval = interval_parse(B("a"), BYTES_NULL)},
        {.interval = ALL, .count_only = true},
    };
    for (size_t i = 0; i < sizeof(reads) / sizeof(*reads); i++) {
        assert_int_equal(mvcc_range(f->m, &reads[i], visit_text, &out, &result), 0);
        assert_int_equal(result.revision, 2);
        assert_int_equal(result.count, 1);
    }
    assert_string_equal(buf_cstr(&out), "a=1@2.0/2/1 a@2.0/2/1 a=1@2.0/2/1 a=1@2.0/2/1");
    struct mvcc_range_options gone = {.interval = interval_parse(B("b"), BYTES_NULL)};
    assert_int_equal(mvcc_range(f->m, &gone, visit_text, &out, &result), 0);
    assert_int_equal(result.count, 0);
    mvcc_publish(f->m);
    assert_false(mvcc_range_needs_flush(f->m));
    range_is(f, false, range(.interval = ALL), "a=2@3.0/2/2", 1);
}

/* ---- leases ---- */

static int visit_key(void *arg, struct bytes key)
{
    buf_append_bytes(arg, key);
    buf_append_str(arg, " ");
    return 0;
}

static void attached_are(struct fixture *f, int64_t lease, const char *want)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    assert_int_equal(mvcc_lease_keys(f->m, lease, visit_key, &out), 0);
    assert_string_equal(buf_cstr(&out), want);
}

static void test_attachments(void **state)
{
    struct fixture *f = *state;
    mvcc_begin(f->m);
    tput(f, B("b"), B("1"), 5);
    tput(f, B("a"), B("1"), 5);
    tput(f, B("c"), B("1"), -5);
    tput(f, B("d"), B("1"), 6);
    end(f);
    attached_are(f, 5, "a b ");
    attached_are(f, -5, "c ");
    mvcc_begin(f->m);
    tput(f, B("a"), B("2"), 0);
    tput(f, B("b"), B("2"), 5);
    assert_true(tdel(f, B("c")));
    tput(f, B("d"), B("2"), 5);
    end(f);
    attached_are(f, 5, "b d ");
    attached_are(f, -5, "");
    attached_are(f, 6, "");
    mvcc_begin(f->m);
    assert_true(tdel(f, B("b")));
    tput(f, B("b"), B("3"), 6);
    tput(f, B("b"), B("3"), 5);
    end(f);
    attached_are(f, 5, "b d ");
    attached_are(f, 6, "");
}

/* Whose keys were moved since the last publication must be written before they are asked for. */
static void test_attachments_unwritten(void **state)
{
    struct fixture *f = *state;
    mvcc_begin(f->m);
    tput(f, B("a"), B("1"), 5);
    tput(f, B("b"), B("1"), 6);
    end(f);
    assert_false(mvcc_lease_needs_flush(f->m, 5));
    mvcc_begin(f->m);
    tput(f, B("a"), B("2"), 5); /* stays where it was */
    assert_int_equal(mvcc_end(f->m), 3);
    assert_false(mvcc_lease_needs_flush(f->m, 5));
    mvcc_begin(f->m);
    tput(f, B("a"), B("3"), 7);
    assert_true(tdel(f, B("b")));
    assert_int_equal(mvcc_end(f->m), 4);
    assert_true(mvcc_lease_needs_flush(f->m, 5));
    assert_true(mvcc_lease_needs_flush(f->m, 6));
    assert_true(mvcc_lease_needs_flush(f->m, 7));
    assert_false(mvcc_lease_needs_flush(f->m, 8));
    flush(f);
    for (int64_t lease = 5; lease < 8; lease++)
        assert_false(mvcc_lease_needs_flush(f->m, lease));
}

/* ---- compaction and restarts ---- */

static size_t records(struct fixture *f, const char *prefix)
{
    struct db_iter *it = db_iter_new(f->db, &(struct db_iter_options){0});
    size_t n = 0;
    for (db_iter_seek(it, bytes_str(prefix)); db_iter_valid(it); db_iter_next(it))
        n += bytes_has_prefix(db_iter_key(it), bytes_str(prefix));
    db_iter_free(it);
    return n;
}

static void test_compaction_edges(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(mvcc_compact(f->m, -1, false), MVCC_E_COMPACTED);
    assert_int_equal(mvcc_compact(f->m, 2, false), MVCC_E_FUTURE);
    put(f, B("a"), B("1"));
    put(f, B("a"), B("2"));
    del(f, B("a"));
    put(f, B("b"), B("1"));
    put(f, B("b"), B("2"));
    assert_int_equal(mvcc_compact(f->m, 4, false), 0);
    assert_int_equal(mvcc_compact(f->m, 4, false), MVCC_E_COMPACTED);
    range_is(f, false, range(.interval = ALL, .revision = 3), "a=2@3.0/2/2",
             1); /* not published yet */
    flush(f);
    range_fails(f, 3, MVCC_E_COMPACTED);
    range_is(f, false, range(.interval = ALL, .revision = 4), "", 0);
    assert_int_equal(records(f, "k"), 5);
    assert_int_equal(compact_work(f), 4);
    assert_int_equal(records(f, "k"), 3); /* the tombstone at 4, b twice */
    assert_int_equal(records(f, "r"), 3);
    range_is(f, false, range(.interval = ALL, .revision = 4), "", 0);
    range_is(f, false, range(.interval = ALL, .revision = 5), "b=1@5.0/5/1", 1);
    compact(f, 6);
    assert_int_equal(records(f, "k"), 1);
    assert_int_equal(records(f, "r"), 1);
    range_is(f, false, range(.interval = ALL, .revision = 6), "b=2@6.0/5/2", 1);
    mvcc_begin(f->m);
    struct mvcc_range_result result;
    assert_int_equal(
        mvcc_txn_range(f->m, &range(.interval = ALL, .revision = 5), visit_text, NULL, &result),
        MVCC_E_COMPACTED);
    mvcc_end(f->m);
}

static void test_restart_revision(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    del(f, B("a"));
    compact(f, 3);
    put(f, B("b"), B("1"));
    del(f, B("b"));
    assert_int_equal(mvcc_compact(f->m, 5, false), 0);
    flush(f);
    bool done;
    int64_t finished;
    assert_int_equal(mvcc_compact_step(f->m, &done, &finished), 0);
    assert_false(done);
    assert_int_equal(finished, 3);
    reopen(f); /* half done */
    assert_int_equal(mvcc_revision(f->m), 5);
    assert_int_equal(mvcc_compacted(f->m), 5);
    range_fails(f, 4, MVCC_E_COMPACTED);
    assert_int_equal(compact_work(f), 5);
    assert_int_equal(records(f, "k"), 1);
    reopen(f);
    assert_int_equal(mvcc_revision(f->m), 5);
    hash_is(f, 0, 1084519789, 5, 5);
    struct mvcc_hash h;
    assert_int_equal(mvcc_hash_kv(f->m, 5, &h), 0);
    assert_int_equal(h.compact_revision, 5); /* a resumed compaction leaves no hash */
}

/* A store whose newest records were compacted away before it was restored from elsewhere: only the
 * markers know the revision. */
static void test_restart_markers(void **state)
{
    struct fixture *f = *state;
    db_batch_put(f->batch, B("mcompact_finished"), B("\0\0\0\0\0\0\0\7"));
    assert_int_equal(db_write(f->db, f->batch), 0);
    reopen(f);
    assert_int_equal(mvcc_revision(f->m), 7);
    assert_int_equal(mvcc_compacted(f->m), 7);
    db_batch_put(f->batch, B("mcompact_scheduled"), B("\0\0\0\0\0\0\0\11"));
    assert_int_equal(db_write(f->db, f->batch), 0);
    db_batch_clear(f->batch);
    reopen(f);
    assert_int_equal(mvcc_revision(f->m), 9);
    assert_int_equal(mvcc_compacted(f->m), 9);
    assert_int_equal(compact_work(f), 9);
    assert_int_equal(put(f, B("a"), B("1")), 10);
}

/* Compactions that pile up are worked off in order, the ones between together. */
static void test_compaction_queue(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 20; i++)
        put(f, B("a"), B("1"));
    bool done;
    int64_t finished;
    for (int64_t revision = 2; revision < 20; revision++) {
        assert_int_equal(mvcc_compact(f->m, revision, false), 0);
        if (revision % 3 == 0)
            flush(f);
        if (revision % 5 == 0)
            assert_int_equal(mvcc_compact_step(f->m, &done, &finished), 0);
    }
    flush(f);
    assert_int_equal(compact_work(f), 19);
    assert_int_equal(records(f, "k"), 3);
    range_is(f, false, range(.interval = ALL, .revision = 19), "a=1@19.0/2/18", 1);
}

/* ---- damage: an error and a log line, never an abort ---- */

static void overwrite(struct fixture *f, char prefix, struct bytes value)
{
    struct db_iter *it = db_iter_new(f->db, &(struct db_iter_options){0});
    struct db_batch *b = db_batch_new();
    db_iter_seek(it, bytes_of(&prefix, 1));
    assert_true(db_iter_valid(it) && db_iter_key(it).data[0] == prefix);
    db_batch_put(b, db_iter_key(it), value);
    db_iter_free(it);
    assert_int_equal(db_write(f->db, b), 0);
    db_batch_free(b);
}

static int range_result(struct fixture *f, struct mvcc_range_options o)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct mvcc_range_result result;
    return mvcc_range(f->m, &o, visit_text, &out, &result);
}

static void test_damaged_records(void **state)
{
    struct fixture *f = *state;
    struct interval a = interval_parse(B("a"), BYTES_NULL);
    put(f, B("a"), B("1"));
    overwrite(f, 'k', B("\x0A\x01z\x10\x02\x18\x02\x20\x01")); /* another key's value */
    assert_int_equal(range_result(f, range(.interval = ALL)), -EBADMSG);
    assert_int_equal(range_result(f, range(.interval = a)), -EBADMSG);
    overwrite(f, 'k', B("\x0A\x05"));
    assert_int_equal(range_result(f, range(.interval = ALL)), -EBADMSG);
    put(f, B("a"), B("2"));
    overwrite(f, 'r', B("\x09"));
    assert_int_equal(range_result(f, range(.interval = ALL, .count_only = true, .revision = 1)),
                     -EBADMSG);
    overwrite(f, 'h', B("\xFF"));
    assert_int_equal(range_result(f, range(.interval = a)), -EBADMSG);
    assert_int_equal(range_result(f, range(.interval = ALL, .keys_only = true)), -EBADMSG);
    struct db_batch *b = db_batch_new();
    db_batch_put(b, B("hq"), B("\xFF")); /* of a key whose head is not in the cache */
    assert_int_equal(db_write(f->db, b), 0);
    mvcc_begin(f->m);
    assert_int_equal(mvcc_put(f->m, B("q"), B("3"), 0), -EBADMSG);
    mvcc_end(f->m);
    mvcc_publish(f->m);
    db_batch_put(b, B("kbad"), B("x"));
    assert_int_equal(db_write(f->db, b), 0);
    db_batch_free(b);
    struct mvcc_hash h;
    assert_int_equal(mvcc_hash_kv(f->m, 0, &h), -EBADMSG);
    assert_int_equal(range_result(f, range(.interval = ALL)), -EBADMSG);
    assert_int_equal(mvcc_compact(f->m, 2, false), 0);
    flush(f);
    bool done;
    int64_t finished;
    int r = 0;
    for (int i = 0; i < 5 && r == 0; i++)
        r = mvcc_compact_step(f->m, &done, &finished);
    assert_int_equal(r, -EBADMSG);
}

static void test_damaged_counters(void **state)
{
    struct fixture *f = *state;
    put(f, B("a"), B("1"));
    put(f, B("a"), B("1"));
    struct db_batch *b = db_batch_new();
    db_batch_put(b, B("mrevision"), B("\0\0\0\0\0\0\0\2"));
    assert_int_equal(db_write(f->db, b), 0);
    struct mvcc *m = NULL;
    assert_int_equal(mvcc_open(&m, &(struct mvcc_options){.db = f->db}), -EBADMSG);
    db_batch_put(b, B("mrevision"), B("\2"));
    assert_int_equal(db_write(f->db, b), 0);
    assert_int_equal(mvcc_open(&m, &(struct mvcc_options){.db = f->db}), -EBADMSG);
    assert_null(m);
    db_batch_free(b);
}

/* ---- readers beside a writer and the compactor ---- */

enum { SHUTTLES = 8, WRITES = 4000, READERS = 2, KEYS_ALWAYS = 2 + SHUTTLES };

struct crowd {
    struct fixture *f;
    atomic_bool stop;
};

struct seen {
    int64_t x;
    int64_t y;
    int64_t n;
    int64_t mod_max;
};

static int visit_seen(void *arg, const struct mvcc_item *item)
{
    struct seen *s = arg;
    s->n++;
    if (item->mod.main > s->mod_max)
        s->mod_max = item->mod.main;
    if (bytes_equal(item->key, B("x")))
        s->x = item->mod.main;
    if (bytes_equal(item->key, B("y")))
        s->y = item->mod.main;
    return 0;
}

/* Every entry writes x and y, deletes one shuttle key of a pair and creates the other: the number
 * of keys never changes. */
static void *crowd_reader(void *arg)
{
    struct crowd *c = arg;
    int64_t last = 0;
    for (uint64_t i = 0; !atomic_load(&c->stop); i++) {
        struct mvcc_range_options o = {
            .interval = i % 5 == 4 ? interval_parse(B("x"), BYTES_NULL) : ALL,
            .keys_only = i % 5 == 1,
            .count_only = i % 5 == 2,
            .limit = i % 5 == 3 ? 3 : 0,
            .revision = i % 7 == 6 && last > 5 ? last - (int64_t)(i % 4) : 0,
        };
        struct seen s = {0};
        struct mvcc_range_result result;
        int r = mvcc_range(c->f->m, &o, visit_seen, &s, &result);
        if (r == MVCC_E_COMPACTED && o.revision > 0)
            continue;
        check(r == 0);
        check(result.current >= last);
        last = result.current;
        check(o.interval.kind == INTERVAL_POINT ? result.count == 1 : result.count == KEYS_ALWAYS);
        check(s.mod_max <= result.revision);
        if (i % 5 < 2)
            check(s.n == KEYS_ALWAYS && s.x == result.revision && s.y == result.revision);
        if (i % 5 == 4)
            check(s.x == result.revision);
    }
    return NULL;
}

static void *crowd_compactor(void *arg)
{
    struct crowd *c = arg;
    bool done = false;
    int64_t finished;
    while (!done || !atomic_load(&c->stop))
        check(mvcc_compact_step(c->f->m, &done, &finished) == 0);
    return NULL;
}

static void crowd_entry(struct fixture *f, int i, bool first)
{
    static uint8_t keys[SHUTTLES][2];
    mvcc_begin(f->m);
    tput(f, B("x"), B("v"), 0);
    for (int s = 0; s < SHUTTLES; s++) {
        if (!first && s != i % SHUTTLES)
            continue;
        uint8_t gone[2] = {(uint8_t)('a' + s), (uint8_t)('A' + (i / SHUTTLES + 1) % 2)};
        keys[s][0] = (uint8_t)('a' + s);
        keys[s][1] = (uint8_t)('A' + i / SHUTTLES % 2);
        tdel(f, bytes_of(gone, 2));
        tput(f, bytes_of(keys[s], 2), B("v"), 0);
    }
    tput(f, B("y"), B("v"), 0);
    mvcc_end(f->m);
    flush(f);
}

static void test_crowd(void **state)
{
    struct crowd c = {.f = *state};
    pthread_t readers[READERS], compactor;
    crowd_entry(c.f, 0, true);
    for (size_t i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, crowd_reader, &c);
    pthread_create(&compactor, NULL, crowd_compactor, &c);
    for (int i = SHUTTLES; i < SHUTTLES + WRITES - 1; i++) {
        crowd_entry(c.f, i, false);
        if (i % 20 == 0) {
            int r = mvcc_compact(c.f->m, mvcc_writer_revision(c.f->m) - i % 2, false);
            assert_true(r == 0 || r == MVCC_E_COMPACTED);
            flush(c.f);
        }
    }
    atomic_store(&c.stop, true);
    for (size_t i = 0; i < READERS; i++)
        pthread_join(readers[i], NULL);
    pthread_join(compactor, NULL);
    assert_int_equal(mvcc_revision(c.f->m), 1 + WRITES);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_hash_examples),
        CASE(test_hash_after_restart),
        CASE(test_hash_empty_keep),
        CASE(test_hash_generations),
        CASE(test_hash_cache),
        CASE(test_versions),
        CASE(test_limits_and_counts),
        CASE(test_hot_key),
        CASE(test_reads_inside),
        CASE(test_turn),
        CASE(test_attachments),
        CASE(test_attachments_unwritten),
        CASE(test_compaction_edges),
        CASE(test_restart_revision),
        CASE(test_restart_markers),
        CASE(test_compaction_queue),
        CASE(test_damaged_records),
        CASE(test_damaged_counters),
        CASE(test_crowd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
