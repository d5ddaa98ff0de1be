/* SPDX-License-Identifier: Apache-2.0 */
/* The flow of one member: states, the inflight window against a naive list, stale answers. */
#include "raft/progress.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"

static void test_window_random(void **state)
{
    struct rng rng;
    rng_init(&rng, 3);
    for (int round = 0; round < 300; round++) {
        uint32_t max = 1 + (uint32_t)rng_below(&rng, 20);
        uint64_t bytes_max = rng_below(&rng, 2) ? 0 : 50 + rng_below(&rng, 500);
        struct inflights in;
        struct inflight naive[400];
        size_t first = 0;
        size_t last = 0;
        uint64_t bytes = 0;
        uint64_t index = 0;
        inflights_init(&in, max, bytes_max);
        for (int step = 0; step < 300; step++) {
            bool full = last - first == max || (bytes_max != 0 && bytes >= bytes_max);
            assert_int_equal(inflights_full(&in), full);
            if (!full && rng_below(&rng, 3) > 0) {
                naive[last] = (struct inflight){++index, rng_below(&rng, 100)};
                bytes += naive[last].bytes;
                inflights_add(&in, naive[last].index, naive[last].bytes);
                last++;
            } else {
                uint64_t to = index > 5 ? index - rng_below(&rng, 6) : index;
                while (first < last && naive[first].index <= to)
                    bytes -= naive[first++].bytes;
                inflights_free_to(&in, to);
            }
            assert_int_equal(in.len, last - first);
            assert_int_equal(in.bytes, bytes);
        }
        inflights_reset(&in);
        assert_int_equal(in.bytes, 0);
        inflights_deinit(&in);
    }
}

static struct progress made(enum progress_state s, uint64_t match, uint64_t next)
{
    struct progress p;
    progress_init(&p, 1, next, false, 4, 0);
    p.match = match;
    p.state = s;
    return p;
}

static void test_rejected(void **state)
{
    static const struct {
        enum progress_state s;
        uint64_t match, next, rejected, hint;
        bool taken;
        uint64_t next_after;
    } cases[] = {
        {PROGRESS_REPLICATE, 5, 10, 5, 5, false, 10},      /* overtaken */
        {PROGRESS_REPLICATE, 5, 10, 4, 4, false, 10},
        {PROGRESS_REPLICATE, 5, 10, 9, 9, true, 6},
        {PROGRESS_PROBE, 0, 10, 5, 5, false, 10},          /* not the probe that is out */
        {PROGRESS_PROBE, 0, 10, 9, 9, true, 9},
        {PROGRESS_PROBE, 0, 10, 9, 2, true, 3},
        {PROGRESS_PROBE, 0, 2, 1, 1, true, 1},
        {PROGRESS_PROBE, 0, 1, 0, 0, true, 1},
        {PROGRESS_PROBE, 4, 10, 9, 0, true, 5},            /* never below what matches */
        {PROGRESS_PROBE, 0, 10, 9, UINT64_MAX, true, 9},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct progress p = made(cases[i].s, cases[i].match, cases[i].next);
        assert_int_equal(progress_rejected(&p, cases[i].rejected, cases[i].hint), cases[i].taken);
        assert_int_equal(p.next, cases[i].next_after);
        progress_deinit(&p);
    }
}

static void test_acked(void **state)
{
    struct progress p = made(PROGRESS_REPLICATE, 3, 5);
    assert_false(progress_acked(&p, 2));
    assert_false(progress_acked(&p, 3));
    p.flow_paused = true;
    assert_true(progress_acked(&p, 4));
    assert_int_equal(p.next, 5);
    assert_false(p.flow_paused);
    assert_true(progress_acked(&p, 7));
    assert_int_equal(p.next, 8);
    progress_sanity(&p);
    progress_deinit(&p);
}

static void test_states(void **state)
{
    struct progress p = made(PROGRESS_PROBE, 2, 5);
    progress_sent(&p, 0, 0);
    assert_false(progress_paused(&p));       /* an empty probe may be repeated */
    progress_sent(&p, 1, 10);
    assert_true(progress_paused(&p));
    assert_int_equal(p.next, 5);
    progress_become_replicate(&p);
    assert_int_equal(p.next, 3);
    for (int i = 0; i < 4; i++) {
        assert_false(progress_paused(&p));
        progress_sent(&p, 2, 10);
    }
    assert_true(progress_paused(&p));        /* the window of four is full */
    assert_int_equal(p.next, 11);
    progress_become_snapshot(&p, 20);
    assert_true(progress_paused(&p));
    assert_int_equal(p.inflights.bytes, 0);
    assert_false(progress_wants_commit(&p, 25));
    progress_become_probe(&p);
    assert_int_equal(p.next, 21);            /* it was delivered */
    progress_become_snapshot(&p, 30);
    p.snapshot_index = 0;                    /* it failed */
    progress_become_probe(&p);
    assert_int_equal(p.next, 3);
    progress_sanity(&p);
    progress_deinit(&p);
}

static void test_commit(void **state)
{
    struct progress p = made(PROGRESS_REPLICATE, 3, 6);
    p.commit_sent = 3;
    assert_true(progress_wants_commit(&p, 4));
    assert_false(progress_wants_commit(&p, 3));
    p.commit_sent = 5;
    assert_false(progress_wants_commit(&p, 9));      /* it can't use more than it gets */
    progress_deinit(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_random), cmocka_unit_test(test_rejected),
        cmocka_unit_test(test_acked),         cmocka_unit_test(test_states),
        cmocka_unit_test(test_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
