/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member that lags gets a snapshot and crashes on the way, at each single call that changes or
 * syncs something on its disk (the linker wraps them all), and after each of its turns. It must
 * start again and come to the state of the others, whatever the crash left behind.
 */
#include "server/test_cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#include "storage/db_mem.h"

enum { CATCHUP = 5, MANY = 40, CALLS_MAX = 2000, TURNS_MAX = 60 };

/* ---- the disk of one member ---- */

static struct {
    bool watched; /* that member runs */
    bool off;     /* its power is off: every call fails, and nothing happens */
    unsigned calls;
    unsigned fail_at; /* 0: never */
} disk;

static bool fails(void)
{
    if (!disk.watched)
        return false;
    disk.calls++;
    disk.off = disk.off || disk.calls == disk.fail_at;
    return disk.off;
}

#define WRAP(name, parameters, arguments)                                                          \
    int __real_##name parameters;                                                                  \
    int __wrap_##name parameters;                                                                  \
    int __wrap_##name parameters                                                                   \
    {                                                                                              \
        return fails() ? -EIO : __real_##name arguments;                                           \
    }
WRAP(file_open, (struct file **ret, const char *path, int flags), (ret, path, flags))
WRAP(file_write, (struct file *f, uint64_t offset, const void *data, size_t len),
     (f, offset, data, len))
WRAP(file_sync, (struct file *f), (f))
WRAP(file_truncate, (struct file *f, uint64_t size), (f, size))
WRAP(file_rename, (const char *from, const char *to), (from, to))
WRAP(file_remove, (const char *path), (path))
WRAP(dir_make, (const char *path), (path))
WRAP(dir_sync, (const char *path), (path))
WRAP(db_write, (struct db *db, struct db_batch *b), (db, b))
WRAP(db_flush, (struct db *db), (db))
WRAP(db_exchange, (const char *next, const char *path), (next, path))
WRAP(db_remove, (const char *path), (path))

/* ---- lives ---- */

static struct cluster *lagging(bool tables, size_t *ret)
{
    struct cluster *c = cluster_new(3, CATCHUP);
    size_t leader = cluster_elect(c), i = (leader + 1) % 3;

    c->peers[i].takes_tables = tables;
    cluster_puts(c, leader, 3);
    cluster_settle(c);
    assert_int_equal(db_flush(server_at(c, i)->store.db), 0);
    c->peers[i].cut = true;
    cluster_puts(c, leader, MANY);
    c->peers[i].cut = false;
    *ret = i;
    return c;
}

/* Runs until the member's power is off, or it has caught up, or it has had so many turns. */
static void run_to_crash(struct cluster *c, size_t i, unsigned turns)
{
    for (unsigned n = 0; n < turns && !disk.off; n++) {
        check(n < CLUSTER_STEPS_MAX);
        c->now_ms += CLUSTER_STEP_MS;
        for (size_t k = 0; k < c->n; k++) {
            disk.watched = k == i;
            int r = member_step(c, k);
            disk.watched = false;
            check(r == 0 || (k == i && disk.off));
        }
        if (!disk.off)
            net_deliver(c);
        if (turns == UINT_MAX && c->snapshots > 0 && cluster_is_even(c))
            return;
    }
}

static void restart(struct cluster *c, size_t i)
{
    disk.watched = disk.off;
    cluster_close(c, i);
    disk.watched = disk.off = false;
    disk.fail_at = 0;
    cluster_open(c, i);
    cluster_settle(c);
    cluster_puts(c, i, 2);
    cluster_settle(c);
    cluster_close(c, i); /* and once more */
    cluster_open(c, i);
    cluster_settle(c);
}

static void crash_at_calls(bool tables)
{
    bool met = true;
    unsigned n;

    for (n = 1; met; n++) {
        size_t i;
        struct cluster *c = lagging(tables, &i);
        check(n < CALLS_MAX);
        disk.calls = 0;
        disk.fail_at = n;
        run_to_crash(c, i, UINT_MAX);
        met = disk.off;
        restart(c, i);
        cluster_free(c);
        db_mem_forget();
    }
    print_message("%u calls\n", n - 2);
}

static void test_calls(void **state)
{
    crash_at_calls(false);
}

static void test_calls_tables(void **state)
{
    crash_at_calls(true);
}

/* Not the disk fails, the process ends: between two turns. */
static void test_turns(void **state)
{
    for (unsigned turns = 0; turns < TURNS_MAX; turns++) {
        size_t i;
        struct cluster *c = lagging(turns % 2, &i);
        run_to_crash(c, i, turns);
        restart(c, i);
        cluster_free(c);
        db_mem_forget();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_calls_tables),
        cmocka_unit_test(test_turns),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
