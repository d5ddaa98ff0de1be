/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept for peers that lag, against a list of all entries. Seeds are printed.
 */
#include "server/catchup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <cmocka.h>

#include "base/rng.h"

enum { ROUNDS = 200, BATCHES = 3000 };

struct model {
    uint64_t ends[BATCHES + 1]; /* index and bytes at the end of each batch */
    uint64_t totals[BATCHES + 1];
    int len;
};

/* How much stays behind index. */
static uint64_t bytes_behind(const struct model *m, uint64_t index)
{
    int k = m->len;

    while (k > 0 && m->ends[k] > index)
        k--;
    return m->totals[m->len] - m->totals[k];
}

static void test_empty(void **state)
{
    static struct catchup c;

    assert_int_equal(catchup_over(&c, 0), 0);
    catchup_drop(&c, 100);
    catchup_add(&c, 5, 10);
    assert_int_equal(catchup_over(&c, 10), 0);
    assert_int_equal(catchup_over(&c, 9), 5);
    catchup_drop(&c, 5);
    assert_int_equal(catchup_over(&c, 0), 0);
}

/* No more stays than may stay; and not much less, unless many batches had to share a mark. */
static void play(uint64_t seed, bool drops)
{
    static struct catchup c;
    static struct model m;
    struct rng rng;
    uint64_t dropped = 0;

    c = (struct catchup){.len = 0};
    m = (struct model){.len = 0};
    rng_init(&rng, seed);
    for (int k = 1; k <= BATCHES; k++) {
        uint64_t bytes = rng_below(&rng, 1000), most = rng_below(&rng, 200000), over;
        m.ends[k] = m.ends[k - 1] + 1 + rng_below(&rng, 20);
        m.totals[k] = m.totals[k - 1] + bytes;
        m.len = k;
        catchup_add(&c, m.ends[k], bytes);
        assert_true(c.len <= CATCHUP_MARKS_MAX);
        over = catchup_over(&c, most);
        if (over == 0) {
            assert_true(bytes_behind(&m, dropped) <= most);
            continue;
        }
        assert_true(over > dropped && over <= m.ends[k]);
        assert_true(bytes_behind(&m, over) <= most);
        if (k < CATCHUP_MARKS_MAX)
            assert_true(bytes_behind(&m, over) + 1000 > most);
        if (drops) {
            catchup_drop(&c, over);
            dropped = over;
        }
    }
}

static void test_random(void **state)
{
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        print_message("seed %lu\n", (unsigned long)seed);
        play(seed, seed % 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
