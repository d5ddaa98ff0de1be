/* SPDX-License-Identifier: Apache-2.0 */
/* The arena: every allocation keeps its contents, is aligned, and a reset arena needs no memory of
 * the heap. */
#include "base/arena.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"

enum { ALLOCATIONS = 2000 };

static void fill_and_compare(struct arena *a, uint64_t seed)
{
    static uint8_t *p[ALLOCATIONS];
    static size_t size[ALLOCATIONS];
    struct rng r;
    rng_init(&r, seed);
    for (int i = 0; i < ALLOCATIONS; i++) {
        size[i] = rng_below(&r, 50) == 0 ? rng_below(&r, 200000) : rng_below(&r, 300);
        p[i] = arena_alloc(a, size[i]);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 16, 0);
        memset(p[i], i, size[i]);
    }
    for (int i = 0; i < ALLOCATIONS; i++)
        for (size_t j = 0; j < size[i]; j++)
            if (p[i][j] != (uint8_t)i)
                fail_msg("seed %llu: allocation %d was overwritten at %zu",
                         (unsigned long long)seed, i, j);
}

static void test_contents(void **state)
{
    struct arena a;
    arena_init(&a);
    for (uint64_t seed = 1; seed <= 10; seed++) {
        fill_and_compare(&a, seed);
        arena_reset(&a);
    }
    arena_deinit(&a);
    arena_deinit(NULL);
}

static void test_reset_keeps_memory(void **state)
{
    struct arena a;
    arena_init(&a);
    for (int i = 0; i < 3000; i++)
        arena_alloc(&a, 16);
    arena_reset(&a);
    struct arena_chunk *kept = a.chunk;
    size_t room = (size_t)(a.end - a.next);
    assert_true(room >= 16 * 1024);
    for (size_t i = 0; i < room / 16; i++)
        arena_alloc(&a, 16);
    assert_ptr_equal(a.chunk, kept);
    arena_deinit(&a);
    assert_null(a.chunk);
}

static void test_large_keeps_chunk_open(void **state)
{
    struct arena a;
    arena_init(&a);
    uint8_t *before = arena_alloc(&a, 16);
    arena_alloc(&a, 1 << 20);
    uint8_t *after = arena_alloc(&a, 16);
    assert_ptr_equal(after, before + 16);
    arena_deinit(&a);
}

static void test_zero_and_copy(void **state)
{
    struct arena a;
    arena_init(&a);
    void *first = arena_alloc(&a, 0);
    assert_non_null(first);
    assert_ptr_not_equal(first, arena_alloc(&a, 0));
    struct bytes copy = arena_copy(&a, BYTES_LIT("abc"));
    assert_true(bytes_equal(copy, BYTES_LIT("abc")));
    assert_non_null(arena_copy(&a, BYTES_NULL).data);
    arena_deinit(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contents),
        cmocka_unit_test(test_reset_keeps_memory),
        cmocka_unit_test(test_large_keeps_chunk_open),
        cmocka_unit_test(test_zero_and_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
