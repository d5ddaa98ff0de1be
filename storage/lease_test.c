/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lease table: outcomes in etcd's order, the stored bytes, reloading (negative ids, a raised
 * minimum, damage), order of the list, and what a new leader does with expiries.
 */
#include "storage/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#include "storage/test_dir.h"

enum { TTL_MIN_S = 2, MANY = 3000, PER_SECOND_MAX = 751 };

struct fixture {
    char *dir;
    struct db *db;
    struct db_batch *batch;
    struct lease_table *t;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    f->dir = test_dir_new();
    f->db = test_db_open(f->dir);
    f->batch = db_batch_new();
    assert_int_equal(lease_table_open(&f->t, f->db, TTL_MIN_S), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    lease_table_close(f->t);
    db_batch_free(f->batch);
    db_close(f->db);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static int64_t grant(struct fixture *f, int64_t id, int64_t ttl_s)
{
    int64_t granted = 0;
    assert_int_equal(lease_grant(f->t, f->batch, id, ttl_s, &granted), 0);
    return granted;
}

static void write_batch(struct fixture *f)
{
    assert_int_equal(db_write(f->db, f->batch), 0);
    db_batch_clear(f->batch);
}

static int reopen(struct fixture *f, int64_t ttl_min_s)
{
    f->t = lease_table_close(f->t);
    return lease_table_open(&f->t, f->db, ttl_min_s);
}

static void ttl_is(struct fixture *f, int64_t id, int64_t ttl_s, uint64_t expiry_ms)
{
    struct lease_info l;
    assert_int_equal(lease_get(f->t, id, &l), 0);
    assert_int_equal(l.id, id);
    assert_int_equal(l.ttl_s, ttl_s);
    assert_int_equal(l.expiry_ms, expiry_ms);
}

static void test_outcomes(void **state)
{
    struct fixture *f = *state;
    int64_t ttl = 77;
    assert_int_equal(lease_grant(f->t, f->batch, 0, LEASE_TTL_MAX_S + 1, &ttl), LEASE_E_NOT_FOUND);
    assert_int_equal(grant(f, 5, LEASE_TTL_MAX_S), LEASE_TTL_MAX_S);
    assert_int_equal(lease_grant(f->t, f->batch, 5, LEASE_TTL_MAX_S + 1, &ttl),
                     LEASE_E_TTL_TOO_LARGE);
    assert_int_equal(lease_grant(f->t, f->batch, 5, 10, &ttl), LEASE_E_EXISTS);
    assert_int_equal(ttl, 77);
    assert_int_equal(grant(f, 6, 1), TTL_MIN_S);
    assert_int_equal(grant(f, -6, -100), TTL_MIN_S);
    assert_true(lease_exists(f->t, -6));
    assert_false(lease_exists(f->t, 7));
    assert_int_equal(lease_revoke(f->t, f->batch, 7), LEASE_E_NOT_FOUND);
    assert_int_equal(lease_revoke(f->t, f->batch, -6), 0);
    assert_false(lease_exists(f->t, -6));
    assert_int_equal(grant(f, -6, 100), 100);
}

static void test_stored(void **state)
{
    struct fixture *f = *state;
    grant(f, 77, 100);
    grant(f, -2, 3);
    write_batch(f);
    struct db_value value;
    assert_int_equal(db_get(f->db, NULL, BYTES_LIT("l\1\0\0\0\0\0\0\0\x4D"), &value), 0);
    assert_true(bytes_equal(value.bytes, BYTES_LIT("\x08\x4D\x10\x64")));
    db_value_release(&value);
    assert_int_equal(reopen(f, TTL_MIN_S), 0);
    ttl_is(f, 77, 100, UINT64_MAX);
    ttl_is(f, -2, 3, UINT64_MAX);
    assert_int_equal(lease_revoke(f->t, f->batch, 77), 0);
    write_batch(f);
    assert_int_equal(reopen(f, 20), 0);
    assert_false(lease_exists(f->t, 77));
    ttl_is(f, -2, 20, UINT64_MAX);
}

static void test_damaged(void **state)
{
    struct fixture *f = *state;
    const struct bytes values[] = {
        BYTES_LIT("\x08\x4E\x10\x64"), /* another id */
        BYTES_LIT("\x08\x4D\x10"),
        BYTES_LIT("\x08\x4D\x22\x01z"),
        BYTES_NULL,
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        db_batch_put(f->batch, BYTES_LIT("l\1\0\0\0\0\0\0\0\x4D"), values[i]);
        write_batch(f);
        assert_int_equal(reopen(f, TTL_MIN_S), -EBADMSG);
        assert_null(f->t);
    }
}

static void test_leadership(void **state)
{
    struct fixture *f = *state;
    grant(f, 3, 50);
    grant(f, 2, 50);
    grant(f, 1, 60);
    /* A checkpointed lease: 9 of 90 seconds are left. */
    db_batch_put(f->batch, BYTES_LIT("l\1\0\0\0\0\0\0\0\4"), BYTES_LIT("\x08\x04\x10\x5A\x18\x09"));
    write_batch(f);
    assert_int_equal(reopen(f, TTL_MIN_S), 0);
    lease_promote(f->t, 1000000, 1000);
    ttl_is(f, 3, 50, 1051000);
    ttl_is(f, 4, 90, 1010000);
    struct lease_info *list;
    size_t n = lease_list(f->t, &list);
    assert_int_equal(n, 4);
    const int64_t want[] = {4, 2, 3, 1};
    for (size_t i = 0; i < n; i++)
        assert_int_equal(list[i].id, want[i]);
    free(list);
    lease_demote(f->t);
    ttl_is(f, 4, 90, UINT64_MAX);
}

static void test_spread(void **state)
{
    struct fixture *f = *state;
    for (int64_t id = 1; id <= MANY; id++)
        grant(f, id, 60 + (id > MANY - 10 ? 1000 : 0));
    lease_promote(f->t, 0, 500);
    struct lease_info *list;
    size_t n = lease_list(f->t, &list);
    assert_int_equal(n, MANY);
    for (size_t i = 0; i < n; i++) {
        assert_true(list[i].expiry_ms >= (uint64_t)list[i].ttl_s * 1000 + 500);
        if (i >= PER_SECOND_MAX)
            assert_true(list[i].expiry_ms - list[i - PER_SECOND_MAX].expiry_ms >= 998);
    }
    assert_true(list[n - 11].expiry_ms < 60500 + 1000 * (MANY / 750 + 1));
    assert_int_equal(list[n - 1].expiry_ms, 1060500);
    free(list);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_outcomes),   CASE(test_stored), CASE(test_damaged),
        CASE(test_leadership), CASE(test_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
