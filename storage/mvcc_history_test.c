/* SPDX-License-Identifier: Apache-2.0 */
/*
 * History by revision, on either database: what changed, in bounded pieces of whole revisions, the
 * versions of it, what a compaction leaves, and damaged records.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#include "storage/mvcc.h"
#include "storage/test_dir.h"

struct fixture {
    char *dir;
    struct db *db;
    struct mvcc *m;
    struct db_batch *batch;
    struct buf text;
    int64_t next;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->dir = test_dir_new();
    f->db = test_db_open(f->dir);
    f->batch = db_batch_new();
    assert_int_equal(mvcc_open(&f->m, &(struct mvcc_options){.db = f->db}), 0);
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
    buf_deinit(&f->text);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static void flush(struct fixture *f)
{
    mvcc_seal(f->m);
    assert_int_equal(db_write(f->db, f->batch), 0);
    db_batch_clear(f->batch);
    mvcc_publish(f->m);
}

/* "a=1 b -c": puts with a value that is the key's if none is given, and deletions. */
static void entry(struct fixture *f, const char *const *words)
{
    mvcc_begin(f->m);
    for (; *words; words++) {
        const char *word = *words, *equals = strchr(word, '=');
        bool deleted;

        if (word[0] == '-')
            assert_int_equal(mvcc_delete(f->m, bytes_str(word + 1), &deleted), 0);
        else
            assert_int_equal(
                mvcc_put(f->m, bytes_of(word, (size_t)(equals - word)), bytes_str(equals + 1), 0),
                0);
    }
    mvcc_end(f->m);
    flush(f);
}

#define ENTRY(f, ...) entry(f, (const char *const[]){__VA_ARGS__, NULL})

static int visit(void *arg, struct rev rev, enum schema_kind kind, struct bytes key)
{
    struct fixture *f = arg;
    const char *names[] = {[SCHEMA_CREATE] = "+", [SCHEMA_UPDATE] = "=", [SCHEMA_DELETE] = "-"};

    buf_printf(&f->text, " %" PRId64 ".%u%s%.*s", rev.main, rev.sub, names[kind], (int)key.len,
               (const char *)key.data);
    return 0;
}

static int history(struct fixture *f, int64_t from, int64_t upto, size_t most)
{
    struct mvcc_history_options options = {from, upto, most};

    buf_clear(&f->text);
    return mvcc_history(f->m, &options, visit, f, &f->next);
}

#define assert_history(f, from, upto, most, expected, behind)                                      \
    do {                                                                                           \
        assert_int_equal(history(f, from, upto, most), 0);                                         \
        assert_string_equal(buf_cstr(&(f)->text), expected);                                       \
        assert_int_equal((f)->next, behind);                                                       \
    } while (0)

static void write_some(struct fixture *f)
{
    ENTRY(f, "a=1");               /* 2 */
    ENTRY(f, "b=1", "c=1", "a=2"); /* 3 */
    ENTRY(f, "-a");                /* 4 */
    ENTRY(f, "a=3", "-b");         /* 5 */
    ENTRY(f, "c=2");               /* 6 */
}

static void test_changes(void **state)
{
    struct fixture *f = *state;

    write_some(f);
    assert_history(f, 1, 6, 100, " 2.0+a 3.0+b 3.1+c 3.2=a 4.0-a 5.0+a 5.1-b 6.0=c", 7);
    assert_history(f, 4, 5, 100, " 4.0-a 5.0+a 5.1-b", 6);
    assert_history(f, 2, 6, 1, " 2.0+a", 3);
    assert_history(f, 3, 6, 1, " 3.0+b 3.1+c 3.2=a", 4);
    assert_history(f, 3, 6, 4, " 3.0+b 3.1+c 3.2=a 4.0-a", 5);
    assert_history(f, 6, 6, 1, " 6.0=c", 7);
}

static void test_compacted(void **state)
{
    struct fixture *f = *state;
    bool done = false;
    int64_t finished;

    write_some(f);
    assert_int_equal(mvcc_compact(f->m, 4, false), 0);
    flush(f);
    assert_int_equal(history(f, 3, 6, 100), MVCC_E_COMPACTED);
    assert_int_equal(f->text.len, 0);
    while (!done)
        assert_int_equal(mvcc_compact_step(f->m, &done, &finished), 0);
    assert_history(f, 4, 6, 100, " 4.0-a 5.0+a 5.1-b 6.0=c", 7);
}

static void take(void *arg, size_t index, struct bytes encoded)
{
    struct fixture *f = arg;
    struct kv kv;

    assert_true(kv_decode(encoded, &kv));
    buf_printf(&f->text, " %zu:%.*s=%.*s@%" PRId64, index, (int)kv.key.len,
               (const char *)kv.key.data, (int)kv.value.len, (const char *)kv.value.data, kv.mod);
}

static void test_versions(void **state)
{
    struct fixture *f = *state;
    bool done = false;
    int64_t finished;

    write_some(f);
    struct mvcc_version versions[] = {{BYTES_LIT("c"), {6, 0}, 0}, {BYTES_LIT("a"), {2, 0}, 1},
                                      {BYTES_LIT("b"), {3, 0}, 2}, {BYTES_LIT("a"), {5, 0}, 3},
                                      {BYTES_LIT("a"), {3, 2}, 4}, {BYTES_LIT("c"), {3, 1}, 5}};
    assert_int_equal(mvcc_versions(f->m, versions, 6, take, f), 0);
    assert_string_equal(buf_cstr(&f->text), " 3:a=3@5 4:a=2@3 1:a=1@2 2:b=1@3 0:c=2@6 5:c=1@3");
    buf_clear(&f->text);
    assert_int_equal(mvcc_compact(f->m, 5, false), 0);
    flush(f);
    while (!done)
        assert_int_equal(mvcc_compact_step(f->m, &done, &finished), 0);
    assert_int_equal(mvcc_versions(f->m, versions, 6, take, f), MVCC_E_COMPACTED);
}

/* Beyond the neighbours that are stepped over. */
static void test_hot_key(void **state)
{
    enum { VERSIONS = 40 };
    struct fixture *f = *state;
    struct mvcc_version versions[] = {{BYTES_LIT("a"), {2, 0}, 0},
                                      {BYTES_LIT("a"), {VERSIONS + 1, 0}, 1},
                                      {BYTES_LIT("b"), {VERSIONS + 2, 0}, 2}};

    for (int i = 0; i < VERSIONS; i++)
        ENTRY(f, "a=1");
    ENTRY(f, "b=1");
    assert_int_equal(mvcc_versions(f->m, versions, 3, take, f), 0);
    assert_string_equal(buf_cstr(&f->text), " 1:a=1@41 0:a=1@2 2:b=1@42");
}

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    struct mvcc_version missing = {BYTES_LIT("a"), {3, 1}, 0};
    struct buf key = BUF_NULL;

    write_some(f);
    assert_int_equal(mvcc_versions(f->m, &missing, 1, take, f), -EBADMSG);
    schema_r(&key, (struct rev){4, 0});
    db_batch_put(f->batch, buf_bytes(&key), BYTES_LIT("\x07"));
    assert_int_equal(db_write(f->db, f->batch), 0);
    assert_int_equal(history(f, 2, 6, 100), -EBADMSG);
    buf_deinit(&key);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_changes), CASE(test_compacted), CASE(test_versions),
        CASE(test_hot_key), CASE(test_damaged),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
