/* SPDX-License-Identifier: Apache-2.0 */
/* Ties come out as Go leaves them: the worked example that was taken from a running etcd, and order
 * in general. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "server/sort.h"

struct item {
    int number;
    int version;
};

static bool version_descending(const void *a, const void *b)
{
    return ((const struct item *)b)->version < ((const struct item *)a)->version;
}

static void test_ties_as_etcd(void **state)
{
    static const int expected[30] = {7, 27, 2,  22, 17, 12, 14, 19, 29, 9,  24, 4, 1,  11, 26,
                                     6, 21, 16, 3,  18, 23, 13, 28, 8,  20, 15, 0, 25, 5,  10};
    struct item items[30];
    const void *order[30];

    for (int i = 0; i < 30; i++) {
        items[i] = (struct item){i, 1 + 7 * i % 5};
        order[i] = &items[i];
    }
    go_sort(order, 30, version_descending);
    for (int i = 0; i < 30; i++)
        assert_int_equal(((const struct item *)order[i])->number, expected[i]);
}

static void test_sorts(void **state)
{
    enum { N_MAX = 600 };
    static struct item items[N_MAX];
    static const void *order[N_MAX];
    struct rng rng;

    rng_init(&rng, 42);
    for (int round = 0; round < 400; round++) {
        size_t n = rng_below(&rng, N_MAX);
        uint64_t values = 1 + rng_below(&rng, 100);
        for (size_t i = 0; i < n; i++) {
            items[i] = (struct item){(int)i, (int)(round % 3 == 0   ? rng_below(&rng, values)
                                                   : round % 3 == 1 ? i / values
                                                                    : n - i)};
            order[i] = &items[i];
        }
        go_sort(order, n, version_descending);
        for (size_t i = 1; i < n; i++)
            assert_false(version_descending(order[i], order[i - 1]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ties_as_etcd),
        cmocka_unit_test(test_sorts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
