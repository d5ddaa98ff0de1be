/* SPDX-License-Identifier: Apache-2.0 */
/* The file layer, and the raft log with its background thread, on a real file system. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "storage/wal_internal.h"

static char dir[] = "/tmp/cairn-wal-test-XXXXXX";

static int setup(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_one(void *arg, const char *name)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", (const char *)arg, name);
    return unlink(path) < 0 && rmdir(path) < 0 ? -errno : 0;
}

static void remove_all(const char *path)
{
    (void)dir_list(path, remove_one, (void *)(uintptr_t)path);
    (void)rmdir(path);
}

static int teardown(void **state)
{
    remove_all(dir);
    return 0;
}

static int count_one(void *arg, const char *name)
{
    ++*(size_t *)arg;
    return 0;
}

static int stop_walk(void *arg, const char *name)
{
    return 42;
}

static void test_file(void **state)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/file", dir);
    _cleanup_(mem_freep) char *other = mem_printf("%s/other", dir);
    struct file *f = NULL;
    assert_int_equal(file_open(&f, path, FILE_READ), -ENOENT);
    assert_null(f);
    assert_int_equal(file_open(&f, path, FILE_READ | FILE_WRITE | FILE_CREATE | FILE_EXCLUSIVE), 0);
    struct file *again = NULL;
    assert_int_equal(file_open(&again, path, FILE_WRITE | FILE_CREATE | FILE_EXCLUSIVE), -EEXIST);
    assert_int_equal(file_write(f, 5, "hello", 5), 0);
    assert_int_equal(file_sync(f), 0);
    uint64_t size;
    assert_int_equal(file_size(f, &size), 0);
    assert_int_equal(size, 10);
    char data[20];
    size_t len;
    assert_int_equal(file_read(f, 4, data, sizeof(data), &len), 0);
    assert_int_equal(len, 6);
    assert_memory_equal(data, "\0hello", 6);
    assert_int_equal(file_read(f, 10, data, 1, &len), 0);
    assert_int_equal(len, 0);
    assert_int_equal(file_truncate(f, 7), 0);
    assert_int_equal(file_size(f, &size), 0);
    assert_int_equal(size, 7);
    f = file_close(f);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    bool exists;
    assert_int_equal(file_rename(path, other), 0);
    assert_int_equal(file_exists(path, &exists), 0);
    assert_false(exists);
    assert_int_equal(file_exists(other, &exists), 0);
    assert_true(exists);
    assert_int_equal(file_open(&f, other, FILE_READ), 0);
    assert_int_equal(file_write(f, 0, "x", 1), -EBADF);
    f = file_close(f);
    assert_int_equal(file_remove(other), 0);
    assert_int_equal(file_remove(other), -ENOENT);
}

static void test_dir(void **state)
{
    _cleanup_(mem_freep) char *deep = mem_printf("%s/a//b/c/", dir);
    _cleanup_(mem_freep) char *a = mem_printf("%s/a", dir);
    _cleanup_(mem_freep) char *b = mem_printf("%s/a/b", dir);
    _cleanup_(mem_freep) char *c = mem_printf("%s/a/b/c", dir);
    assert_int_equal(dir_make(deep), 0);
    assert_int_equal(dir_make(deep), 0);
    struct stat st;
    assert_int_equal(stat(c, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(dir_sync(c), 0);
    size_t n = 0;
    assert_int_equal(dir_list(b, count_one, &n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(dir_list(b, stop_walk, NULL), 42);
    _cleanup_(mem_freep) char *file = mem_printf("%s/lock", c);
    struct file *lock = NULL, *second = NULL;
    assert_int_equal(file_lock(&lock, file), 0);
    assert_int_equal(file_lock(&second, file), -EWOULDBLOCK);
    assert_null(second);
    assert_int_equal(dir_make(file), -ENOTDIR);
    lock = file_close(lock);
    assert_int_equal(file_lock(&lock, file), 0);
    lock = file_close(lock);
    remove_all(c);
    remove_all(b);
    remove_all(a);
    assert_int_equal(dir_list(a, count_one, &n), -ENOENT);
}

static void append(struct wal *w, uint64_t first, uint64_t last, struct blob *data)
{
    for (uint64_t i = first; i <= last; i++) {
        struct raft_entry e = {.index = i, .term = 1, .data = data};
        assert_int_equal(wal_append(w, NULL, &e, 1), 0);
        if (i % 64 == 0)
            assert_int_equal(wal_sync(w), 0);
    }
    struct raft_hard_state hs = {.term = 1, .vote = 1, .commit = last};
    assert_int_equal(wal_append(w, &hs, NULL, 0), 0);
    assert_int_equal(wal_sync(w), 0);
}

/* Long enough for the thread to make segments and to remove them, and for files to be recycled. */
static void test_wal_threaded(void **state)
{
    _cleanup_(mem_freep) char *wal_dir = mem_printf("%s/wal", dir);
    struct wal_options o = {.dir = wal_dir,
                            .create = true,
                            .cluster_id = 1,
                            .member_id = 2,
                            .segment_bytes = 2 << 20,
                            .salt = 1};
    struct wal_recovery rec;
    struct wal *w = NULL;
    struct blob *data = blob_new(4000);
    memset(data->data, 'd', data->len);
    assert_int_equal(wal_open(&w, &o, &rec), 0);
    uint64_t last = 0;
    for (int round = 0; round < 12; round++) {
        append(w, last + 1, last + 500, data);
        last += 500;
        if (round % 3 == 2)
            assert_int_equal(wal_release(w, last - 200), 0);
        if (round % 4 != 3)
            continue;
        w = round % 8 == 3 ? wal_close(w) : wal_abandon(w);
        o.applied_index = last - 100;
        assert_int_equal(wal_open(&w, &o, &rec), 0);
        assert_int_equal(rec.clean, round % 8 == 3);
        assert_int_equal(rec.n_entries, 100);
        for (size_t i = 0; i < rec.n_entries; i++)
            assert_true(bytes_equal(blob_bytes(rec.entries[i].data), blob_bytes(data)));
        wal_recovery_deinit(&rec);
    }
    wal_close(w);
    blob_unref(data);
    remove_all(wal_dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_dir),
        cmocka_unit_test(test_wal_threaded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
