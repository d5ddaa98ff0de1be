/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lease table: outcomes in etcd's order, the stored bytes, reloading (negative ids, a raised
 * minimum, damage), order of the list, and the times of a leader: what it gives each lease, how
 * they are renewed and found expired, and when a checkpoint is due. The clock is the test's.
 */
#include "storage/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#include "storage/test_dir.h"

enum { TTL_MIN_S = 2, MANY = 3000, PER_SECOND_MAX = 751 };

#define SECOND UINT64_C(1000000000)

static uint64_t now_ns;

/* The linker gives it to all who ask for the time. */
uint64_t __wrap_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void)
{
    return now_ns;
}

struct fixture {
    char *dir;
    struct db *db;
    struct db_batch *batch;
    struct lease_table *t;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    now_ns = 1000 * SECOND;
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

static void ttl_is(struct fixture *f, int64_t id, int64_t ttl_s, uint64_t expiry_ns)
{
    struct lease_info l;
    assert_int_equal(lease_get(f->t, id, &l), 0);
    assert_int_equal(l.id, id);
    assert_int_equal(l.ttl_s, ttl_s);
    assert_int_equal(l.expiry_ns, expiry_ns);
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
    ttl_is(f, 77, 100, LEASE_NEVER);
    ttl_is(f, -2, 3, LEASE_NEVER);
    assert_int_equal(lease_revoke(f->t, f->batch, 77), 0);
    write_batch(f);
    assert_int_equal(reopen(f, 20), 0);
    assert_false(lease_exists(f->t, 77));
    ttl_is(f, -2, 20, LEASE_NEVER);
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

static uint64_t begins_ns; /* until then an earlier leader may have made promises */

static void promote(struct fixture *f, uint64_t term)
{
    begins_ns = now_ns + SECOND;
    lease_promote(f->t,
                  &(struct lease_leadership){.term = term, .now_ns = now_ns, .extend_ns = SECOND});
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
    assert_int_equal(lease_primary_term(f->t), 0);
    promote(f, 7);
    assert_int_equal(lease_primary_term(f->t), 7);
    ttl_is(f, 3, 50, 1051 * SECOND);
    ttl_is(f, 4, 90, 1010 * SECOND);
    struct lease_info *list;
    size_t n = lease_list(f->t, &list);
    assert_int_equal(n, 4);
    const int64_t want[] = {4, 2, 3, 1};
    for (size_t i = 0; i < n; i++)
        assert_int_equal(list[i].id, want[i]);
    free(list);
    grant(f, 9, 5);
    ttl_is(f, 9, 5, 1005 * SECOND);
    lease_demote(f->t, 6); /* long over */
    assert_int_equal(lease_primary_term(f->t), 7);
    lease_demote(f->t, 7);
    assert_int_equal(lease_primary_term(f->t), 0);
    ttl_is(f, 4, 90, LEASE_NEVER);
    grant(f, 10, 5);
    ttl_is(f, 10, 5, LEASE_NEVER);
    now_ns += 100 * SECOND;
    promote(f, 8); /* all of it anew */
    ttl_is(f, 9, 5, 1106 * SECOND);
    ttl_is(f, 10, 5, 1106 * SECOND);
    assert_int_equal(lease_revoke(f->t, f->batch, 9), 0);
}

static void test_spread(void **state)
{
    struct fixture *f = *state;
    for (int64_t id = 1; id <= MANY; id++)
        grant(f, id, 60 + (id > MANY - 10 ? 1000 : 0));
    promote(f, 1);
    struct lease_info *list;
    size_t n = lease_list(f->t, &list);
    assert_int_equal(n, MANY);
    for (size_t i = 0; i < n; i++) {
        assert_true(list[i].expiry_ns >= now_ns + (uint64_t)(list[i].ttl_s + 1) * SECOND);
        if (i >= PER_SECOND_MAX)
            assert_true(list[i].expiry_ns - list[i - PER_SECOND_MAX].expiry_ns >= SECOND);
    }
    assert_true(list[n - 11].expiry_ns < now_ns + (61 + MANY / 750 + 1) * SECOND);
    assert_int_equal(list[n - 1].expiry_ns, now_ns + 1061 * SECOND);
    free(list);
}

/* ---- renewals and expiry ---- */

static int renew(struct fixture *f, int64_t id, uint32_t *serial)
{
    struct lease_renew r = {.id = id, .now_ns = now_ns, .serial = serial ? *serial : 0};
    int e = lease_renew(f->t, &r);
    if (serial)
        *serial = r.serial;
    if (e == 0) {
        struct lease_info l;
        assert_int_equal(lease_get(f->t, id, &l), 0);
        assert_int_equal(r.ttl_s, l.ttl_s);
        int64_t ttl_s = l.ttl_s < LEASE_TTL_MAX_S ? l.ttl_s : LEASE_TTL_MAX_S;
        uint64_t from_ns = now_ns > begins_ns ? now_ns : begins_ns;
        assert_int_equal(l.expiry_ns, from_ns + (uint64_t)ttl_s * SECOND);
    }
    return e;
}

static size_t expired(struct fixture *f, int64_t ids[4])
{
    struct lease_look look = {.now_ns = now_ns, .again_ns = now_ns + 7 * SECOND};
    return lease_find_expired(f->t, &look, ids, 4);
}

static void test_renewals(void **state)
{
    struct fixture *f = *state;
    int64_t ids[4];
    grant(f, 5, 10);
    assert_int_equal(renew(f, 5, NULL), LEASE_E_NOT_PRIMARY);
    promote(f, 1);
    assert_int_equal(renew(f, 6, NULL), LEASE_E_NOT_FOUND);
    now_ns += 10 * SECOND; /* a second before its end */
    assert_int_equal(expired(f, ids), 0);
    assert_int_equal(renew(f, 5, NULL), 0);
    now_ns += 10 * SECOND - 1;
    assert_int_equal(expired(f, ids), 0); /* its place in the heap was the old one */
    assert_int_equal(renew(f, 5, NULL), 0);
    struct lease_renew later = {.id = 5, .now_ns = now_ns, .term = 2};
    assert_int_equal(lease_renew(f->t, &later), LEASE_E_NOT_PRIMARY);
    now_ns += 10 * SECOND;
    assert_int_equal(expired(f, ids), 1);
    assert_int_equal(ids[0], 5);
    assert_int_equal(renew(f, 5, NULL), LEASE_E_EXPIRED); /* too late, also before its revocation */
    assert_int_equal(expired(f, ids), 0);
    now_ns += 7 * SECOND;
    assert_int_equal(expired(f, ids), 1); /* it is still there */
    assert_int_equal(lease_revoke(f->t, f->batch, 5), 0);
    now_ns += 7 * SECOND;
    assert_int_equal(expired(f, ids), 0);
}

/* A renewal at a new leader is worth no less than one that the old one may have answered since. */
static void test_renewal_after_extension(void **state)
{
    struct fixture *f = *state;
    int64_t ids[4];
    grant(f, 5, 10);
    promote(f, 1);
    assert_int_equal(renew(f, 5, NULL), 0);
    now_ns += 11 * SECOND - 1;
    assert_int_equal(expired(f, ids), 0);
    now_ns += 1;
    assert_int_equal(expired(f, ids), 1);
}

/* A new leader may give more time than a renewal does, which then counts. */
static void test_renewal_shortens(void **state)
{
    struct fixture *f = *state;
    int64_t ids[4];
    grant(f, 5, 10);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 5, 20), 0);
    promote(f, 1);
    ttl_is(f, 5, 10, now_ns + 21 * SECOND);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 5, 0), 0);
    assert_int_equal(renew(f, 5, NULL), 0);
    now_ns += 11 * SECOND;
    assert_int_equal(expired(f, ids), 1);
}

/* Who waits for the end of a lease does not renew the next one of that id. */
static void test_renewal_of_another(void **state)
{
    struct fixture *f = *state;
    uint32_t serial = 0;
    promote(f, 1);
    grant(f, 5, 10);
    now_ns += 10 * SECOND;
    assert_int_equal(renew(f, 5, &serial), LEASE_E_EXPIRED);
    assert_int_not_equal(serial, 0);
    assert_int_equal(renew(f, 5, &serial), LEASE_E_EXPIRED);
    assert_int_equal(lease_revoke(f->t, f->batch, 5), 0);
    grant(f, 5, 10);
    assert_int_equal(renew(f, 5, &serial), LEASE_E_NOT_FOUND);
    assert_int_equal(renew(f, 5, NULL), 0);
}

static void test_expired_in_order(void **state)
{
    struct fixture *f = *state;
    int64_t ids[MANY];
    struct lease_look look = {.again_ns = LEASE_NEVER >> 1};
    size_t n = 0, calls = 0;
    promote(f, 3);
    for (int64_t id = 1; id <= MANY; id++)
        grant(f, id, 10 + id * 7919 % MANY);
    look.now_ns = now_ns + 5 * SECOND;
    assert_int_equal(lease_find_expired(f->t, &look, ids, MANY), 0);
    assert_false(look.more);
    look.now_ns = now_ns + (10 + MANY) * SECOND;
    do {
        n += lease_find_expired(f->t, &look, ids + n, MANY - n);
        assert_int_equal(look.term, 3);
        calls++;
    } while (look.more);
    assert_int_equal(n, MANY);
    assert_int_equal(calls, MANY / LEASE_LOOKS_MAX); /* the lock is let go in between */
    for (size_t i = 1; i < n; i++)
        assert_true(ids[i - 1] * 7919 % MANY < ids[i] * 7919 % MANY);
}

/* ---- numbers that make no sense: of an entry, or a record ---- */

static void test_any_number(void **state)
{
    struct fixture *f = *state;
    const int64_t numbers[] = {INT64_MIN, -1, 0, 1, LEASE_TTL_MAX_S + 1, INT64_MAX};
    int64_t ids[4];
    db_batch_put(f->batch, BYTES_LIT("l\1\0\0\0\0\0\0\0\4"),
                 BYTES_LIT("\x08\4\x10\xff\xff\xff\xff\xff\xff\xff\xff\x7f"));
    write_batch(f);
    assert_int_equal(reopen(f, TTL_MIN_S), 0);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        assert_int_equal(lease_checkpoint(f->t, f->batch, 4, numbers[i]), 0);
        promote(f, 1);
        assert_int_equal(renew(f, 4, NULL), numbers[i] > 0 ? LEASE_E_CHECKPOINTED : 0);
        assert_int_equal(expired(f, ids), 0);
    }
    assert_int_equal(lease_checkpoint(f->t, f->batch, 4, 0), 0);
    assert_int_equal(renew(f, 4, NULL), 0);
    ttl_is(f, 4, INT64_MAX, begins_ns + (uint64_t)LEASE_TTL_MAX_S * SECOND);
}

/* ---- checkpoints ---- */

static size_t find_due(struct fixture *f, struct lease_left *left)
{
    struct lease_look look = {.now_ns = now_ns};
    return lease_find_checkpoints(f->t, &look, left, 1);
}

static size_t due(struct fixture *f, struct lease_left *left)
{
    size_t n = find_due(f, left);
    lease_checkpoints_end(f->t);
    return n;
}

static void test_checkpoint_stored(void **state)
{
    struct fixture *f = *state;
    struct lease_info l;
    grant(f, 5, 600);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 6, 10), LEASE_E_NOT_FOUND);
    promote(f, 1);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 5, 10), 0);
    ttl_is(f, 5, 600, 1601 * SECOND);                          /* here its time goes on */
    assert_int_equal(renew(f, 5, NULL), LEASE_E_CHECKPOINTED); /* also without the gate */
    write_batch(f);
    assert_int_equal(reopen(f, TTL_MIN_S), 0);
    assert_int_equal(lease_get(f->t, 5, &l), 0);
    assert_int_equal(l.remaining_s, 10);
    promote(f, 2);
    ttl_is(f, 5, 600, 1011 * SECOND);
}

static void test_checkpoints_due(void **state)
{
    struct fixture *f = *state;
    struct lease_left left;
    grant(f, 1, 1000);
    lease_checkpoint_every(f->t, 300 * SECOND);
    promote(f, 1);
    grant(f, 2, 300); /* not longer than that */
    grant(f, 3, 301);
    now_ns += 300 * SECOND - 1;
    assert_int_equal(due(f, &left), 0);
    now_ns += 1;
    assert_int_equal(due(f, &left), 1);
    assert_int_equal(left.id, 1);
    assert_int_equal(left.remaining_s, 701); /* one election timeout more */
    assert_int_equal(due(f, &left), 1);
    assert_int_equal(left.id, 3);
    assert_int_equal(left.remaining_s, 1);
    assert_int_equal(due(f, &left), 0);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 1, 701), 0);
    assert_int_equal(renew(f, 1, NULL), LEASE_E_CHECKPOINTED);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 1, 0), 0);
    assert_int_equal(renew(f, 1, NULL), 0);
    now_ns += 300 * SECOND; /* renewed this very second: nothing to say, */
    assert_int_equal(renew(f, 1, NULL), 0);
    assert_int_equal(due(f, &left), 0);
    now_ns += 300 * SECOND; /* but its turn comes again */
    assert_int_equal(due(f, &left), 1);
    assert_int_equal(left.id, 1);
    lease_demote(f->t, 1);
    now_ns += 300 * SECOND;
    assert_int_equal(due(f, &left), 0);
}

/* What the next leader counts from is never older than what a client was told. */
static void test_renewal_waits_for_checkpoint(void **state)
{
    struct fixture *f = *state;
    struct lease_left left;
    lease_checkpoint_every(f->t, 300 * SECOND);
    promote(f, 1);
    grant(f, 1, 1000);
    grant(f, 2, 1000);
    now_ns += 300 * SECOND;
    assert_int_equal(find_due(f, &left), 1);
    assert_int_equal(left.id, 1);
    assert_int_equal(renew(f, 1, NULL), LEASE_E_CHECKPOINTING);
    assert_int_equal(renew(f, 2, NULL), 0);                      /* nobody has looked at this one */
    assert_int_equal(lease_checkpoint(f->t, f->batch, 1, 0), 0); /* of a renewal before that */
    assert_int_equal(renew(f, 1, NULL), LEASE_E_CHECKPOINTING);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 1, 700), 0);
    assert_int_equal(renew(f, 1, NULL), LEASE_E_CHECKPOINTING); /* it may come twice */
    lease_checkpoints_end(f->t);
    assert_int_equal(renew(f, 1, NULL), LEASE_E_CHECKPOINTED);
    assert_int_equal(lease_checkpoint(f->t, f->batch, 1, 0), 0);
    assert_int_equal(renew(f, 1, NULL), 0);
    now_ns += 300 * SECOND - 1;
    assert_int_equal(find_due(f, &left), 1); /* the other one was looked at too late */
    assert_int_equal(left.id, 2);
    assert_int_equal(renew(f, 1, NULL), 0); /* that was the time before */
    promote(f, 2);                          /* what the leader before proposed is in the state */
    assert_int_equal(renew(f, 2, NULL), 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_outcomes),
        CASE(test_stored),
        CASE(test_damaged),
        CASE(test_leadership),
        CASE(test_spread),
        CASE(test_renewals),
        CASE(test_renewal_after_extension),
        CASE(test_renewal_shortens),
        CASE(test_renewal_of_another),
        CASE(test_expired_in_order),
        CASE(test_any_number),
        CASE(test_checkpoint_stored),
        CASE(test_checkpoints_due),
        CASE(test_renewal_waits_for_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
