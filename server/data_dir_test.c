/* SPDX-License-Identifier: Apache-2.0 */
/* The data directory: modes, the lock, and what is refused. */
#include "server/data_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/test_dir.h"

static int setup(void **state)
{
    *state = test_dir_new();
    return 0;
}

static int teardown(void **state)
{
    test_dir_remove(*state);
    return 0;
}

static char *below(const char *dir, const char *name)
{
    return mem_printf("%s/%s", dir, name);
}

static unsigned mode_of(const char *dir, const char *name)
{
    char *path = below(dir, name);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    free(path);
    return st.st_mode & 0777;
}

static void test_made(void **state)
{
    char *path = below(*state, "deep/data");
    struct data_dir *d = NULL;

    assert_int_equal(data_dir_open(&d, path, ""), 0);
    assert_string_equal(d->path, path);
    char *wal = below(path, "member/wal"), *db = below(path, "member/db");
    assert_string_equal(d->wal, wal);
    assert_string_equal(d->db, db);
    assert_int_equal(mode_of(path, "."), 0700);
    assert_int_equal(mode_of(path, "member"), 0700);
    assert_int_equal(mode_of(path, "LOCK"), 0600);
    assert_null(data_dir_close(d));
    assert_int_equal(data_dir_open(&d, path, "/elsewhere/wal"), 0);
    assert_string_equal(d->wal, "/elsewhere/wal");
    data_dir_close(d);
    assert_null(data_dir_close(NULL));
    free(wal);
    free(db);
    free(path);
}

static void test_locked(void **state)
{
    struct data_dir *first = NULL, *second = NULL;

    assert_int_equal(data_dir_open(&first, *state, NULL), 0);
    assert_int_equal(data_dir_open(&second, *state, NULL), 1);
    assert_null(second);
    data_dir_close(first);
    assert_int_equal(data_dir_open(&second, *state, NULL), 0);
    data_dir_close(second);
}

/* Two members with directories of their own must not write into one log. */
static void test_wal_dir_locked(void **state)
{
    _cleanup_(mem_freep) char *a = mem_printf("%s/a", (char *)*state);
    _cleanup_(mem_freep) char *b = mem_printf("%s/b", (char *)*state);
    _cleanup_(mem_freep) char *wal = mem_printf("%s/wal", (char *)*state);
    struct data_dir *first, *second = NULL;

    assert_int_equal(data_dir_open(&first, a, wal), 0);
    assert_int_equal(data_dir_open(&second, b, wal), 1);
    assert_null(second);
    data_dir_close(first);
    assert_int_equal(data_dir_open(&second, b, wal), 0);
    data_dir_close(second);
}

/* Opens path and returns the outcome; line gets what was logged. */
static int open_logged(const char *path, char *line, size_t size)
{
    struct data_dir *d = NULL;
    int fds[2], saved = dup(STDERR_FILENO);

    assert_int_equal(pipe(fds), 0);
    assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
    int r = data_dir_open(&d, path, NULL);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    close(fds[1]);
    ssize_t n = read(fds[0], line, size - 1);
    line[n > 0 ? n : 0] = '\0';
    close(fds[0]);
    close(saved);
    data_dir_close(d);
    return r;
}

static void expect_refused(const char *path, const char *error)
{
    _cleanup_(mem_freep) char *want = mem_printf("\"error\":\"%s\"", error);
    char line[1024];

    assert_int_equal(open_logged(path, line, sizeof(line)), 1);
    if (!strstr(line, want))
        fail_msg("%s is not in %s", want, line);
}

/* Whoever else may read or write: a warning, as in etcd. */
static void test_permissions(void **state)
{
    static const mode_t modes[] = {0700, 0755, 0750, 0770, 0702, 0777};
    char line[1024];

    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        assert_int_equal(chmod(*state, modes[i]), 0);
        assert_int_equal(open_logged(*state, line, sizeof(line)), 0);
        assert_int_equal(strstr(line, "check file permission") != NULL, modes[i] != 0700);
    }
    assert_int_equal(chmod(*state, 0700), 0);
}

static void touch(const char *path)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static void test_not_a_directory(void **state)
{
    char *path = below(*state, "file"), *inside = below(*state, "file/data");
    struct data_dir *d = NULL;

    touch(path);
    assert_int_equal(data_dir_open(&d, path, NULL), 1);
    assert_int_equal(data_dir_open(&d, inside, NULL), 1);
    assert_null(d);
    free(path);
    free(inside);
}

static void test_etcd_directory(void **state)
{
    char *member = below(*state, "member"), *snap = below(*state, "member/snap");
    char *db = below(*state, "member/snap/db"), *lock = below(*state, "LOCK");
    struct data_dir *d = NULL;

    assert_int_equal(mkdir(member, 0700), 0);
    assert_int_equal(mkdir(snap, 0700), 0);
    assert_int_equal(data_dir_open(&d, *state, NULL), 0);
    data_dir_close(d);
    d = NULL;
    assert_int_equal(unlink(lock), 0);
    touch(db);
    assert_int_equal(data_dir_open(&d, *state, NULL), 1);
    assert_null(d);
    assert_int_equal(access(lock, F_OK), -1); /* nothing was made in it */
    free(member);
    free(snap);
    free(db);
    free(lock);
}

/* etcd's words. */
static void test_reasons(void **state)
{
    _cleanup_(mem_freep) char *path = below(*state, "file"), *inside = below(*state, "file/data");
    char name[300];

    touch(path);
    _cleanup_(mem_freep) char *is_file = mem_printf("readdirent %s: not a directory", path);
    expect_refused(path, is_file);
    _cleanup_(mem_freep) char *in_file = mem_printf("open %s: not a directory", inside);
    expect_refused(inside, in_file);
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    _cleanup_(mem_freep) char *too_long = mem_printf("open %s: file name too long", name);
    expect_refused(name, too_long);
    expect_refused("/proc/a/b",
                   "cannot access data directory: mkdir /proc/a: no such file or directory");
}

static void test_is_new(void **state)
{
    _cleanup_(mem_freep) char *path = below(*state, "data"), *wal = below(*state, "wal");
    _cleanup_(mem_freep) char *segment = below(*state, "wal/1");
    struct data_dir *d;

    assert_true(data_dir_is_new(path, NULL));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(data_dir_open(&d, path, wal), 0);
    assert_true(data_dir_is_new(path, wal)); /* the log's directory is there, and empty */
    touch(segment);
    assert_false(data_dir_is_new(path, wal));
    assert_true(data_dir_is_new(path, ""));
    assert_int_equal(mkdir(d->db, 0700), 0);
    _cleanup_(mem_freep) char *current = mem_printf("%s/CURRENT", d->db);
    touch(current);
    assert_false(data_dir_is_new(path, ""));
    data_dir_close(d);
    assert_false(data_dir_is_new(segment, NULL)); /* a file: not known to be new */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_made),        T(test_locked),          T(test_wal_dir_locked),
        T(test_permissions), T(test_not_a_directory), T(test_etcd_directory),
        T(test_reasons),     T(test_is_new)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
