/* SPDX-License-Identifier: Apache-2.0 */
/* Both maps against a plain array, with a seeded mix of puts and removals over few keys, so that
 * runs of full slots wrap and shift. */
#include "base/map.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"

enum { KEYS = 200, STEPS = 20000 };

struct model {
    void *value[KEYS];
    size_t len;
};

static int values[64];

static void u64_compare(const struct map_u64 *m, const struct model *model)
{
    size_t pos = 0, n = 0;
    uint64_t key = 0;
    void *value;
    assert_int_equal(m->len, model->len);
    for (uint64_t k = 0; k < KEYS; k++)
        assert_ptr_equal(map_u64_get(m, k * k), model->value[k]);
    while ((value = map_u64_next(m, &pos, &key))) {
        n++;
        assert_ptr_equal(map_u64_get(m, key), value);
    }
    assert_int_equal(n, model->len);
}

static void test_u64_model(void **state)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct map_u64 m = MAP_U64_NULL;
        struct model model = {0};
        struct rng r;
        rng_init(&r, seed);
        for (int i = 0; i < STEPS; i++) {
            uint64_t k = rng_below(&r, 10 + seed * 9);
            void *value = rng_below(&r, 2) ? &values[rng_below(&r, 64)] : NULL;
            void *old = value ? map_u64_put(&m, k * k, value) : map_u64_remove(&m, k * k);
            assert_ptr_equal(old, model.value[k]);
            model.len += (value != NULL) - (old != NULL);
            model.value[k] = value;
            if (i % 500 == 0)
                u64_compare(&m, &model);
        }
        u64_compare(&m, &model);
        map_u64_deinit(&m);
    }
}

static void test_bytes_model(void **state)
{
    char keys[KEYS][24];
    for (int i = 0; i < KEYS; i++)
        snprintf(keys[i], sizeof(keys[i]), "%.*s%d", i % 17, "/registry/pods/aa", i);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct map_bytes m = MAP_BYTES_NULL;
        struct model model = {0};
        struct rng r;
        rng_init(&r, seed);
        for (int i = 0; i < STEPS; i++) {
            uint64_t k = rng_below(&r, 10 + seed * 9);
            void *value = rng_below(&r, 2) ? &values[rng_below(&r, 64)] : NULL;
            struct bytes key = bytes_str(keys[k]);
            void *old = value ? map_bytes_put(&m, key, value) : map_bytes_remove(&m, key);
            assert_ptr_equal(old, model.value[k]);
            model.len += (value != NULL) - (old != NULL);
            model.value[k] = value;
            assert_int_equal(m.len, model.len);
        }
        for (int k = 0; k < KEYS; k++)
            assert_ptr_equal(map_bytes_get(&m, bytes_str(keys[k])), model.value[k]);
        size_t pos = 0, n = 0;
        struct bytes key;
        for (void *value; (value = map_bytes_next(&m, &pos, &key)); n++)
            assert_ptr_equal(map_bytes_get(&m, key), value);
        assert_int_equal(n, model.len);
        map_bytes_clear(&m);
        assert_int_equal(m.len, 0);
        assert_null(map_bytes_get(&m, bytes_str(keys[0])));
        pos = 0;
        assert_null(map_bytes_next(&m, &pos, NULL));
        map_bytes_deinit(&m);
    }
}

static void test_empty(void **state)
{
    struct map_u64 m = MAP_U64_NULL;
    struct map_bytes b = MAP_BYTES_NULL;
    size_t pos = 0;
    assert_null(map_u64_get(&m, 1));
    assert_null(map_u64_remove(&m, 1));
    assert_null(map_u64_next(&m, &pos, NULL));
    assert_null(map_bytes_get(&b, BYTES_LIT("a")));
    assert_null(map_bytes_remove(&b, BYTES_LIT("a")));
    map_bytes_clear(&b);
    map_u64_deinit(NULL);
    map_bytes_deinit(NULL);
}

static void test_put_replaces_key(void **state)
{
    struct map_bytes m = MAP_BYTES_NULL;
    char first[] = "key", second[] = "key";
    size_t pos = 0;
    struct bytes key;
    assert_null(map_bytes_put(&m, bytes_str(first), &values[0]));
    assert_ptr_equal(map_bytes_put(&m, bytes_str(second), &values[1]), &values[0]);
    assert_ptr_equal(map_bytes_next(&m, &pos, &key), &values[1]);
    assert_ptr_equal(key.data, second);
    assert_int_equal(m.len, 1);
    map_bytes_deinit(&m);
}

static void hash_put(struct map_u64 *seen, struct bytes key)
{
    if (map_u64_put(seen, hash_bytes(key), &values[0]))
        fail_msg("a key of %zu bytes has the hash of another one", key.len);
}

/* Keys of zeros but for one byte, and keys that differ in length only, must not share a hash; and
 * the seed must matter. */
static void test_hash(void **state)
{
    struct map_u64 seen = MAP_U64_NULL;
    uint8_t key[41] = {0};
    for (size_t len = 0; len <= 40; len++) {
        hash_put(&seen, bytes_of(key, len));
        for (size_t i = 0; i < len; i++) {
            for (unsigned v = 1; v < 256; v++) {
                key[i] = (uint8_t)v;
                hash_put(&seen, bytes_of(key, len));
            }
            key[i] = 0;
        }
    }
    map_u64_deinit(&seen);
    uint64_t before = hash_u64(7);
    struct bytes s = BYTES_LIT("seven");
    uint64_t bytes_before = hash_bytes(s);
    hash_seed_set(12345);
    assert_true(hash_u64(7) != before);
    assert_true(hash_bytes(s) != bytes_before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_u64_model), cmocka_unit_test(test_bytes_model),
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_put_replaces_key),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
