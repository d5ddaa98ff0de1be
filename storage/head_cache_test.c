/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of heads says the last thing it was told of a key, or nothing; never anything else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"
#include "storage/head_cache.h"

static struct bytes key_of(char text[32], uint64_t n)
{
    return bytes_of(text, (size_t)snprintf(text, 32, "key-%llu", (unsigned long long)n));
}

static void test_remembers_and_forgets(void **state)
{
    struct head_cache *c = head_cache_new();
    struct head head = {{7, 1}, 3, 2, -5}, got;

    assert_false(head_cache_get(c, BYTES_LIT("a"), &got));
    head_cache_put(c, BYTES_LIT("a"), &head);
    assert_true(head_cache_get(c, BYTES_LIT("a"), &got));
    assert_memory_equal(&got, &head, sizeof(head));
    head.version = 9;
    head_cache_put(c, BYTES_LIT("a"), &head);
    assert_true(head_cache_get(c, BYTES_LIT("a"), &got));
    assert_int_equal(got.version, 9);
    assert_false(head_cache_get(c, BYTES_LIT("ab"), &got));
    head_cache_remove(c, BYTES_LIT("a"));
    head_cache_remove(c, BYTES_LIT("a"));
    assert_false(head_cache_get(c, BYTES_LIT("a"), &got));
    head_cache_free(c);
}

static void test_long_keys_are_not_kept(void **state)
{
    static uint8_t key[HEAD_CACHE_KEY_BYTES_MAX + 1];
    struct head_cache *c = head_cache_new();
    struct head head = {{7, 0}, 3, 2, 0}, got;

    head_cache_put(c, bytes_of(key, sizeof(key)), &head);
    assert_false(head_cache_get(c, bytes_of(key, sizeof(key)), &got));
    head_cache_put(c, bytes_of(key, sizeof(key) - 1), &head);
    assert_true(head_cache_get(c, bytes_of(key, sizeof(key) - 1), &got));
    head_cache_free(c);
}

/* Three times as many keys as fit, at random: what is found is right, and most recent keys are
 * found. */
static void test_against_a_table(void **state)
{
    enum { KEYS = 3 * HEAD_CACHE_SETS * HEAD_CACHE_WAYS, STEPS = 1000000 };
    static int64_t versions[KEYS];        /* 0: absent */
    struct head_cache *c = head_cache_new();
    struct head head = {{1, 0}, 1, 0, 0}, got;
    struct rng rng;
    size_t found = 0;
    char text[32];

    rng_init(&rng, 20);
    for (int64_t i = 1; i <= STEPS; i++) {
        uint64_t n = rng_below(&rng, KEYS);
        bool hit = head_cache_get(c, key_of(text, n), &got);
        if (hit)
            assert_int_equal(got.version, versions[n]);
        found += hit;
        if (rng_below(&rng, 10) == 0) {
            head_cache_remove(c, key_of(text, n));
            versions[n] = 0;
        } else {
            head.version = versions[n] = i;
            head_cache_put(c, key_of(text, n), &head);
        }
    }
    assert_true(found > STEPS / 6);
    head_cache_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remembers_and_forgets),
        cmocka_unit_test(test_long_keys_are_not_kept),
        cmocka_unit_test(test_against_a_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
