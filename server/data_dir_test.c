/* SPDX-License-Identifier: Apache-2.0 */
/* The data directory: modes, the lock, and what is refused. */
#include "server/data_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>

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

/* Others may read (a warning, as in etcd), never write. */
static void test_permissions(void **state)
{
    static const struct {
        mode_t mode;
        int r;
    } cases[] = {{0700, 0}, {0755, 0}, {0750, 0}, {0770, 1}, {0720, 1}, {0702, 1}, {0777, 1}};
    struct data_dir *d;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(chmod(*state, cases[i].mode), 0);
        assert_int_equal(data_dir_open(&d, *state, NULL), cases[i].r);
        if (cases[i].r == 0)
            data_dir_close(d);
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_made), T(test_locked), T(test_permissions),
                                       T(test_not_a_directory), T(test_etcd_directory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
