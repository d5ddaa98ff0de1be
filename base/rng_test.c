/* SPDX-License-Identifier: Apache-2.0 */
/* The generator: the published sequence, fixed for ever because seeds of failures are kept; bounds;
 * no gross bias. */
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_published_sequence(void **state)
{
    /* The first outputs of xoshiro256** from the state 1, 2, 3, 4. */
    struct rng r = {{1, 2, 3, 4}};
    const uint64_t expected[] = {11520, 0, 1509978240, 1215971899390074240};
    for (int i = 0; i < 4; i++)
        assert_true(rng_next(&r) == expected[i]);
    /* splitmix64 from seed 0. */
    rng_init(&r, 0);
    assert_true(r.s[0] == 0xe220a8397b1dcdaf);
    assert_true(r.s[1] == 0x6e789e6aa1b965f4);
}

static void test_below(void **state)
{
    struct rng r;
    unsigned seen[7] = {0};
    rng_init(&r, 42);
    for (int i = 0; i < 70000; i++) {
        uint64_t v = rng_below(&r, 7);
        assert_true(v < 7);
        seen[v]++;
    }
    for (int i = 0; i < 7; i++)
        assert_in_range(seen[i], 9500, 10500);
    /* Four raw numbers fall on three results; unless one is rejected, multiples of 3 come half the
     * time. */
    uint64_t multiples = 0;
    for (int i = 0; i < 9000; i++)
        multiples += rng_below(&r, 3ull << 62) % 3 == 0;
    assert_in_range(multiples, 2800, 3200);
    assert_true(rng_below(&r, 1) == 0);
}

static void test_entropy_differs(void **state)
{
    assert_true(rng_entropy() != rng_entropy());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_sequence),
        cmocka_unit_test(test_below),
        cmocka_unit_test(test_entropy_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
