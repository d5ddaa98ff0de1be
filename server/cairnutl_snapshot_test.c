/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cairnutl snapshot: a data directory out, in and out again; what is refused, and that nothing is
 * left behind then. What the files hold, and what etcd's tools make of them, is tested in
 * storage/snapshot_db_test.c and tests/bbolt.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "server/cairnutl_snapshot.h"
#include "storage/file.h"
#include "storage/mvcc.h"
#include "storage/test_dir.h"
#include "storage/wal.h"

enum { APPLIED = 3, ARGUMENTS_MAX = 6 };

struct box {
    char *dir;
    char *data;
    char *file;
    char *text; /* what the last run printed */
};

static void box_open(struct box *b)
{
    *b = (struct box){.dir = test_dir_new()};
    b->data = mem_printf("%s/data", b->dir);
    b->file = mem_printf("%s/file", b->dir);
}

static void box_close(struct box *b)
{
    free(b->data);
    free(b->file);
    free(b->text);
    test_dir_remove(b->dir);
}

/* The exit code; b->text is what was printed, on either stream. */
static int run(struct box *b, const char *const *words)
{
    char *argv[ARGUMENTS_MAX + 1] = {NULL};
    size_t len;
    int argc = 0;
    free(b->text);
    FILE *out = open_memstream(&b->text, &len);
    for (; words[argc]; argc++)
        argv[argc] = (char *)words[argc];
    int r = cairnutl_snapshot(argc, argv, out, out);
    fclose(out);
    return r;
}

static int run_export(struct box *b, const char *data, const char *file, const char *flag)
{
    return run(b, (const char *const[]){"export", "--data-dir", data, file, flag, NULL});
}

static int run_import(struct box *b, const char *file, const char *data, const char *flag)
{
    return run(b, (const char *const[]){"import", file, "--data-dir", data, flag, NULL});
}

static void state_put(struct db *db)
{
    struct db_batch *batch = db_batch_new();
    struct mvcc *m = NULL;
    uint8_t applied[16] = {[7] = APPLIED, [15] = 1};
    assert_int_equal(mvcc_open(&m, &(struct mvcc_options){.db = db}), 0);
    mvcc_batch(m, batch);
    mvcc_begin(m);
    assert_int_equal(mvcc_put(m, BYTES_LIT("key"), BYTES_LIT("value"), 0), 0);
    (void)mvcc_end(m);
    mvcc_seal(m);
    db_batch_put(batch, BYTES_LIT("mapplied"), bytes_of(applied, sizeof(applied)));
    assert_int_equal(db_write(db, batch), 0);
    mvcc_publish(m);
    mvcc_close(m);
    db_batch_free(batch);
    assert_int_equal(db_flush(db), 0);
}

/* A log with entries up to last. */
static void log_make(const struct box *b, uint64_t last)
{
    _cleanup_(mem_freep) char *dir = mem_printf("%s/member/wal", b->data);
    struct wal_options o = {.dir = dir, .create = true, .segment_bytes = 4096};
    struct wal_recovery rec;
    struct wal *w = NULL;
    assert_int_equal(wal_open(&w, &o, &rec), 0);
    for (uint64_t i = 1; i <= last; i++)
        assert_int_equal(wal_append(w, NULL, &(struct raft_entry){.index = i, .term = 1}, 1), 0);
    wal_close(w);
}

static void data_make(const struct box *b, uint64_t last_entry)
{
    _cleanup_(mem_freep) char *member = mem_printf("%s/member", b->data),
                              *path = mem_printf("%s/member/db", b->data);
    assert_int_equal(dir_make(member), 0);
    struct db *db = test_db_open(path);
    state_put(db);
    db_close(db);
    log_make(b, last_entry);
}

static bool there(const char *format, const char *path)
{
    _cleanup_(mem_freep) char *name = mem_printf("%s%s", path, format);
    bool exists = false;
    assert_int_equal(file_exists(name, &exists), 0);
    return exists;
}

static void file_turn(const char *path, uint64_t offset)
{
    struct file *f = NULL;
    uint8_t byte;
    size_t n;
    assert_int_equal(file_open(&f, path, FILE_READ | FILE_WRITE), 0);
    assert_int_equal(file_read(f, offset, &byte, 1, &n), 0);
    byte ^= 1;
    assert_int_equal(file_write(f, offset, &byte, 1), 0);
    file_close(f);
}

static void file_cut(const char *path, uint64_t cut)
{
    struct file *f = NULL;
    uint64_t size;
    assert_int_equal(file_open(&f, path, FILE_READ | FILE_WRITE), 0);
    assert_int_equal(file_size(f, &size), 0);
    assert_int_equal(file_truncate(f, size - cut), 0);
    file_close(f);
}

static void test_there_and_back(void **state)
{
    struct box b;
    box_open(&b);
    data_make(&b, APPLIED);
    _cleanup_(mem_freep) char *data = mem_printf("%s/second/", b.dir);
    assert_int_equal(run_export(&b, b.data, b.file, NULL), 0);
    assert_string_equal(b.text, "{\"revision\":2,\"revisions\":1,\"applied-index\":3,"
                                "\"applied-term\":1,\"bytes\":16384}\n");
    assert_int_equal(run_import(&b, b.file, data, NULL), 0);
    assert_string_equal(b.text, "{\"revision\":2,\"revisions\":1,\"applied-index\":3,"
                                "\"applied-term\":1,\"bytes\":16384}\n");
    assert_true(there("member/db", data));
    assert_false(there("/second.part", b.dir));
    assert_int_equal(run_export(&b, data, b.file, NULL), 0);
    assert_false(there(".part", b.file));
    box_close(&b);
}

static void test_log_behind(void **state)
{
    struct box b;
    box_open(&b);
    data_make(&b, APPLIED + 1);
    assert_int_equal(run_export(&b, b.data, b.file, NULL), 1);
    assert_non_null(strstr(b.text, "the log goes on to index 4, the database ends at 3"));
    assert_false(there("", b.file));
    assert_int_equal(run_export(&b, b.data, b.file, "--without-log"), 0);
    box_close(&b);
}

static void test_export_refused(void **state)
{
    struct box b;
    struct file *lock = NULL;
    box_open(&b);
    assert_int_equal(run_export(&b, b.data, b.file, NULL), 1);
    assert_non_null(strstr(b.text, "there is no database"));
    data_make(&b, APPLIED);
    _cleanup_(mem_freep) char *path = mem_printf("%s/LOCK", b.data);
    assert_int_equal(file_lock(&lock, path), 0);
    assert_int_equal(run_export(&b, b.data, b.file, NULL), 1);
    assert_non_null(strstr(b.text, "a member is running"));
    file_close(lock);
    assert_int_equal(run_export(&b, b.data, "/no/such/folder/file", NULL), 1);
    assert_non_null(strstr(b.text, "no such file or directory"));
    box_close(&b);
}

static void import_refused(struct box *b, const char *flag, const char *text)
{
    _cleanup_(mem_freep) char *data = mem_printf("%s/second", b->dir);
    assert_int_equal(run_import(b, b->file, data, flag), 1);
    if (!strstr(b->text, text))
        fail_msg("%s", b->text);
    assert_false(there("", data));
    assert_false(there(".part", data));
}

static void test_import_refused(void **state)
{
    struct box b;
    box_open(&b);
    import_refused(&b, NULL, "no such file");
    data_make(&b, APPLIED);
    assert_int_equal(run_export(&b, b.data, b.file, NULL), 0);
    assert_int_equal(run_import(&b, b.file, b.data, NULL), 1);
    assert_non_null(strstr(b.text, "not empty or could not be read"));
    file_turn(b.file, 3 * 4096 + 2000);
    import_refused(&b, NULL, "its hash is not that of its contents");
    file_turn(b.file, 3 * 4096 + 2000);
    file_cut(b.file, 32);
    import_refused(&b, NULL, "snapshot missing hash");
    file_cut(b.file, 100);
    import_refused(&b, "--skip-hash-check", "the file ends before");
    box_close(&b);
}

static void test_usage(void **state)
{
    struct box b;
    box_open(&b);
    assert_int_equal(run(&b, (const char *const[]){NULL}), 2);
    assert_int_equal(run(&b, (const char *const[]){"export", b.file, NULL}), 2);
    assert_int_equal(run(&b, (const char *const[]){"export", "--data-dir", b.data, NULL}), 2);
    assert_int_equal(run(&b, (const char *const[]){"import", "x", "y", "--data-dir=z", NULL}), 2);
    assert_int_equal(run_export(&b, b.data, b.file, "--skip-hash-check"), 2);
    assert_int_equal(run_import(&b, b.file, b.data, "--without-log"), 2);
    assert_int_equal(run_import(&b, b.file, b.data, "--none"), 2);
    assert_non_null(strstr(b.text, "usage: cairnutl snapshot export"));
    box_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_log_behind),
        cmocka_unit_test(test_export_refused), cmocka_unit_test(test_import_refused),
        cmocka_unit_test(test_usage),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
