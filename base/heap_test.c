/* SPDX-License-Identifier: Apache-2.0 */
/* The heap against a scan for the smallest key, with random pushes and removals. */
#include "base/heap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/rng.h"

enum { NODES = 300, STEPS = 100000, SEED = 7 };

static int64_t smallest(const struct heap_node *nodes)
{
    int64_t min = INT64_MAX;

    for (size_t i = 0; i < NODES; i++)
        if (heap_linked(&nodes[i]) && nodes[i].key < min)
            min = nodes[i].key;
    return min;
}

static void test_random(void **state)
{
    static struct heap_node nodes[NODES];
    struct heap h = {0};
    struct rng rng;

    rng_init(&rng, SEED);
    for (int i = 0; i < STEPS; i++) {
        struct heap_node *node = &nodes[rng_below(&rng, NODES)];
        if (heap_linked(node))
            heap_remove(&h, node);
        else
            heap_push(&h, node, (int64_t)rng_below(&rng, 100) - 50);
        if (h.len == 0)
            assert_null(heap_top(&h));
        else
            assert_int_equal(heap_top(&h)->key, smallest(nodes));
    }
    heap_deinit(&h);
}

static void test_order(void **state)
{
    struct heap_node nodes[5] = {0};
    struct heap h = {0};
    const int64_t keys[] = {3, -1, 7, 0, INT64_MAX}, sorted[] = {-1, 0, 3, 7, INT64_MAX};

    for (size_t i = 0; i < 5; i++)
        heap_push(&h, &nodes[i], keys[i]);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(heap_top(&h)->key, sorted[i]);
        heap_remove(&h, heap_top(&h));
    }
    heap_remove(&h, &nodes[0]);
    assert_null(heap_top(&h));
    heap_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
