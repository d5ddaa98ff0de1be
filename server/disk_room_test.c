/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on the disk: where it begins and ends to be short, when the ballast is made and given up,
 * and what a start on a full disk does. The disks are of any size here: disk_space() is the test's
 * own.
 */
#include "server/disk_room.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "storage/disk_space.h"
#include "storage/file.h"
#include "storage/test_dir.h"

#define MIB (UINT64_C(1) << 20)

struct fixture {
    char *dir;
    char *ballast;
    struct disk_room *room;
};

/* Of the data and of the log; free is without the ballast. */
static struct disk_space data_disk, wal_disk;
static int error;
static const struct fixture *current;

static bool has_ballast(const struct fixture *f)
{
    bool exists;

    assert_int_equal(file_exists(f->ballast, &exists), 0);
    return exists;
}

int disk_space(const char *path, struct disk_space *ret)
{
    *ret = strcmp(path, "/wal") == 0 ? wal_disk : data_disk;
    if (strcmp(path, "/wal") != 0 && has_ballast(current))
        ret->free_bytes -= DISK_BALLAST_BYTES;
    return error;
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->dir = test_dir_new();
    f->ballast = mem_printf("%s/BALLAST", f->dir);
    current = f;
    error = 0;
    data_disk = (struct disk_space){100 * 1024 * MIB, 50 * 1024 * MIB};
    wal_disk = (struct disk_space){1024 * MIB, 512 * MIB};
    assert_int_equal(disk_room_open(&f->room, f->dir, "/wal"), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    f->room = disk_room_close(f->room);
    free(f->ballast);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static bool short_at(struct fixture *f, uint64_t free_bytes)
{
    data_disk.free_bytes = free_bytes + (has_ballast(f) ? DISK_BALLAST_BYTES : 0);
    disk_room_check(f->room);
    return disk_room_short(f->room);
}

/* A sixteenth of the disk within bounds; it ends a quarter above. */
static void test_marks(void **state)
{
    static const struct {
        uint64_t disk_mib, mark_mib;
    } cases[] = {{64, 16}, {256, 16}, {1024, 64}, {4096, 256}, {100 * 1024, 256}};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t mark = cases[i].mark_mib * MIB;
        data_disk.bytes = cases[i].disk_mib * MIB;
        assert_false(short_at(f, mark));
        assert_true(short_at(f, mark - 1));
        assert_true(short_at(f, mark + mark / 4 - 1));
        assert_false(short_at(f, mark + mark / 4));
        assert_false(short_at(f, mark));
    }
}

static void test_either_disk(void **state)
{
    struct fixture *f = *state;

    disk_room_check(f->room);
    assert_false(disk_room_short(f->room));
    wal_disk.free_bytes = 64 * MIB - 1;
    disk_room_check(f->room);
    assert_true(disk_room_short(f->room));
    wal_disk.free_bytes = 80 * MIB;
    disk_room_check(f->room);
    assert_false(disk_room_short(f->room));
}

/* What can't be measured is plenty: also for a file system that does not know its size. */
static void test_unknown(void **state)
{
    struct fixture *f = *state;

    error = -EIO;
    assert_false(short_at(f, 0));
    error = 0;
    data_disk.bytes = 0;
    assert_false(short_at(f, 0));
}

static void test_ballast(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    uint64_t mark = 256 * MIB;

    data_disk.free_bytes = 2 * mark + DISK_BALLAST_BYTES - 2;
    disk_room_check(f->room);
    assert_false(has_ballast(f));
    data_disk.free_bytes += 2;
    disk_room_check(f->room);
    assert_true(has_ballast(f));
    assert_int_equal(stat(f->ballast, &st), 0);
    assert_int_equal(st.st_size, DISK_BALLAST_BYTES);
    assert_true(st.st_blocks * 512 >= DISK_BALLAST_BYTES);

    data_disk.free_bytes = 5 * MIB + DISK_BALLAST_BYTES;
    assert_true(disk_room_fits(f->room, 5 * MIB));
    assert_true(disk_room_make(f->room, 5 * MIB));
    assert_true(has_ballast(f));
    assert_false(disk_room_fits(f->room, 5 * MIB + 1));
    assert_true(disk_room_make(f->room, 5 * MIB + 1));
    assert_false(has_ballast(f));
    assert_false(disk_room_make(f->room, 6 * MIB + DISK_BALLAST_BYTES));
}

/* The room that it gave is none for the users to fill, until it is there again. */
static void test_spent(void **state)
{
    struct fixture *f = *state;
    uint64_t mark = 256 * MIB;

    disk_room_check(f->room);
    assert_true(has_ballast(f));
    data_disk.free_bytes = mark + DISK_BALLAST_BYTES - 1;
    assert_true(disk_room_make(f->room, mark));
    disk_room_check(f->room);
    assert_true(disk_room_short(f->room));
    data_disk.free_bytes = mark + mark / 4 + DISK_BALLAST_BYTES - 1;
    disk_room_check(f->room);
    assert_true(disk_room_short(f->room));
    data_disk.free_bytes += 1;
    disk_room_check(f->room);
    assert_false(disk_room_short(f->room));
    data_disk.free_bytes = 2 * mark + DISK_BALLAST_BYTES;
    disk_room_check(f->room);
    assert_true(has_ballast(f));
    assert_false(short_at(f, mark));
}

/* Nothing fits beside who holds the room, and the ballast is not given up for it in vain. */
static void test_held(void **state)
{
    struct fixture *f = *state;

    disk_room_check(f->room);
    assert_true(has_ballast(f));
    disk_room_hold(f->room);
    disk_room_hold(f->room);
    assert_false(disk_room_fits(f->room, 1));
    assert_false(disk_room_make(f->room, 1));
    disk_room_let_go(f->room);
    assert_false(disk_room_fits(f->room, 1));
    disk_room_let_go(f->room);
    assert_true(disk_room_fits(f->room, 1));
    assert_true(has_ballast(f));
}

/* What is written ahead goes to the log's disk, leaves it not short, and is nothing to hold up. */
static void test_ahead(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes = 64 * MIB, mark = 64 * MIB; /* a sixteenth of 1 GiB */

    data_disk.free_bytes = 0;
    wal_disk.free_bytes = bytes + mark;
    assert_true(disk_room_fits_ahead(f->room, bytes));
    assert_false(disk_room_fits_ahead(f->room, bytes + 1));
    wal_disk.free_bytes = bytes - 1;
    assert_false(disk_room_fits_ahead(f->room, bytes));
    wal_disk.free_bytes = bytes + mark;
    disk_room_hold(f->room);
    assert_false(disk_room_fits_ahead(f->room, 1));
    disk_room_let_go(f->room);
    assert_true(disk_room_fits_ahead(f->room, bytes));
    error = -EIO; /* plenty, as far as anybody knows */
    assert_true(disk_room_fits_ahead(f->room, bytes));
}

/* When a write has failed there is nothing to wait for, also if somebody holds the room. */
static void test_given_up(void **state)
{
    struct fixture *f = *state;

    disk_room_check(f->room);
    disk_room_hold(f->room);
    disk_room_give_up(f->room);
    assert_false(has_ballast(f));
    disk_room_give_up(f->room);
    disk_room_let_go(f->room);
}

/* A start takes the ballast only when it must, and is refused when that is not enough. */
static void test_start(void **state)
{
    struct fixture *f = *state;

    disk_room_check(f->room);
    f->room = disk_room_close(f->room);
    data_disk.free_bytes = (uint64_t)2 * DISK_BALLAST_BYTES;
    assert_int_equal(disk_room_open(&f->room, f->dir, "/wal"), 0);
    assert_true(has_ballast(f));
    f->room = disk_room_close(f->room);
    data_disk.free_bytes -= 1;
    assert_int_equal(disk_room_open(&f->room, f->dir, "/wal"), 0);
    assert_false(has_ballast(f));
    f->room = disk_room_close(f->room);
    data_disk.free_bytes = DISK_START_BYTES_MIN;
    assert_int_equal(disk_room_open(&f->room, f->dir, "/wal"), 0);
    f->room = disk_room_close(f->room);
    data_disk.free_bytes -= 1;
    assert_int_equal(disk_room_open(&f->room, f->dir, "/wal"), 1);
    assert_null(f->room);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_marks), T(test_either_disk), T(test_unknown), T(test_ballast),  T(test_spent),
        T(test_start), T(test_held),        T(test_ahead),   T(test_given_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
