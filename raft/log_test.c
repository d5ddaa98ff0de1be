/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log against a naive model under random appends, truncations, compactions and cursors; total
 * functions at the edges.
 */
#include "raft/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"
#include "raft/conf.h"

enum { ENTRIES = 4000 };

static void append(struct raft_log *l, uint64_t term, size_t payload)
{
    struct raft_entry e = {.term = term, .index = raft_log_last(l) + 1, .data = blob_new(payload)};
    memset(e.data->data, 'x', payload);
    raft_log_append(l, &e, 1);
    blob_unref(e.data);
}

static void test_random(void **state)
{
    static uint64_t terms[ENTRIES + 1];      /* the model: the term of each index */
    struct rng rng;
    struct raft_log l;
    rng_init(&rng, 4);
    raft_log_init(&l, 0, 0, 0);
    uint64_t last = 0;
    uint64_t base = 0;
    uint64_t term = 1;
    for (int step = 0; step < 60000; step++) {
        switch (rng_below(&rng, 8)) {
        case 0:
            if (last > l.committed && rng_below(&rng, 4) == 0) {
                last = l.committed + rng_below(&rng, last - l.committed);
                raft_log_truncate(&l, last + 1);
                term++;
            }
            break;
        case 1:
            raft_log_commit(&l, l.committed + rng_below(&rng, last - l.committed + 1));
            break;
        case 2:
            raft_log_advance_write(&l);
            raft_log_persist(&l, last, last > base ? terms[last] : l.base_term);
            break;
        case 3: {
            const struct raft_entry *e;
            size_t n = raft_log_to_apply(&l, &e);
            if (n > 0) {
                assert_int_equal(e->index, l.applying + 1);
                raft_log_advance_apply(&l, l.applying + n);
            }
            raft_log_applied(&l, l.applying, UINT64_MAX);
            break;
        }
        case 4:
            if (rng_below(&rng, 3) == 0 && l.applied > base) {
                base += 1 + rng_below(&rng, l.applied - base);
                raft_log_compact(&l, base);
                raft_log_compact(&l, base / 2);
            }
            break;
        default:
            if (last < ENTRIES) {
                terms[++last] = term;
                append(&l, term, (size_t)rng_below(&rng, 5));
            }
        }
        assert_int_equal(raft_log_last(&l), last);
        assert_int_equal(raft_log_first(&l), base + 1);
        uint64_t at = rng_below(&rng, ENTRIES + 10);
        uint64_t t = 0;
        bool known = raft_log_term(&l, at, &t);
        assert_int_equal(known, at >= base && at <= last);
        if (known && at > 0)
            assert_int_equal(t, terms[at]);
        if (step % 64 == 0)
            raft_log_sanity(&l);
    }
    assert_true(base > 100);
    raft_log_deinit(&l);
}

static void test_limits(void **state)
{
    struct raft_log l;
    raft_log_init(&l, 0, 0, 0);
    for (int i = 0; i < 10; i++)
        append(&l, 1, 10);
    uint64_t one = raft_entry_bytes(raft_log_at(&l, 1));
    assert_int_equal(one, 2 + 2 + 2 + 10);
    assert_int_equal(raft_log_fit(&l, 1, 10, UINT64_MAX), 10);
    assert_int_equal(raft_log_fit(&l, 1, 10, 0), 1);
    assert_int_equal(raft_log_fit(&l, 1, 10, 2 * one), 2);
    assert_int_equal(raft_log_fit(&l, 1, 10, 3 * one - 1), 2);
    assert_int_equal(raft_log_fit(&l, 9, 10, UINT64_MAX), 2);
    assert_int_equal(raft_log_fit(&l, 11, 10, UINT64_MAX), 0);
    raft_log_deinit(&l);
}

static void test_find_by_term(void **state)
{
    static const uint64_t terms[] = {1, 3, 3, 3, 5, 5};
    struct raft_log l;
    uint64_t t;
    raft_log_init(&l, 0, 0, 0);
    for (size_t i = 0; i < sizeof(terms) / sizeof(terms[0]); i++)
        append(&l, terms[i], 0);
    assert_int_equal(raft_log_find_by_term(&l, 6, 5, &t), 6);
    assert_int_equal(raft_log_find_by_term(&l, 6, 4, &t), 4);
    assert_int_equal(t, 3);
    assert_int_equal(raft_log_find_by_term(&l, 6, 2, &t), 1);
    assert_int_equal(raft_log_find_by_term(&l, 3, 0, &t), 0);
    assert_int_equal(t, 0);
    /* beyond the end: nothing is known */
    assert_int_equal(raft_log_find_by_term(&l, UINT64_MAX, 5, &t), UINT64_MAX);
    assert_int_equal(t, 0);
    l.committed = l.persisted = l.handed = l.applying = l.applied = 4;
    raft_log_compact(&l, 4);
    assert_int_equal(raft_log_find_by_term(&l, 6, 4, &t), 4);
    /* compacted: as far as anybody can tell */
    assert_int_equal(raft_log_find_by_term(&l, 6, 2, &t), 3);
    assert_int_equal(t, 0);
    raft_log_deinit(&l);
}

static void test_persist_ignores_replaced(void **state)
{
    struct raft_log l;
    raft_log_init(&l, 0, 0, 0);
    append(&l, 1, 0);
    append(&l, 1, 0);
    raft_log_advance_write(&l);
    raft_log_truncate(&l, 2);
    append(&l, 2, 0);
    raft_log_persist(&l, 2, 1);              /* the write of the entry that is gone */
    assert_int_equal(l.persisted, 0);
    const struct raft_entry *e;
    assert_int_equal(raft_log_to_write(&l, &e), 1);
    assert_int_equal(e->index, 2);
    raft_log_advance_write(&l);
    raft_log_persist(&l, 2, 2);
    assert_int_equal(l.persisted, 2);
    raft_log_deinit(&l);
}

static void test_snapshot(void **state)
{
    struct raft_log l;
    const struct raft_entry *e;
    struct raft_snapshot s = {.index = 10, .term = 3};
    raft_ids_add(&s.conf.voters, 1);
    raft_log_init(&l, 0, 0, 0);
    append(&l, 1, 0);
    raft_log_restore(&l, &s);
    assert_int_equal(raft_log_last(&l), 10);
    assert_int_equal(raft_log_last_term(&l), 3);
    append(&l, 3, 0);
    raft_log_advance_write(&l);
    raft_log_persist(&l, 11, 3);
    raft_log_commit(&l, 11);
    assert_int_equal(raft_log_to_apply(&l, &e), 0);      /* not before it is installed */
    raft_log_snapshot_installed(&l, 9);
    assert_non_null(l.snapshot);
    raft_log_snapshot_installed(&l, 10);
    raft_log_applied(&l, 10, UINT64_MAX);
    assert_int_equal(raft_log_to_apply(&l, &e), 1);
    assert_int_equal(e->index, 11);
    raft_log_sanity(&l);
    raft_log_deinit(&l);
    conf_deinit(&s.conf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_find_by_term), cmocka_unit_test(test_persist_ignores_replaced),
        cmocka_unit_test(test_snapshot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
