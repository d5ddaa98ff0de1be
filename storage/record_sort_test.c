/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorting with and without the disk: many small records, few large ones, keys of one byte and of
 * many; a disk that fails at each call, and one that gives back other bytes than it was given.
 */
#include "storage/record_sort.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "storage/file_fault.h"

static const char path[] = "/sort";

struct shape {
    uint32_t n;
    size_t memory_bytes;
    size_t key_pad; /* a common beginning of all keys */
    size_t value_max;
};

/* The keys are the numbers below n (a prime), shuffled; the value follows from the number. */
static size_t key_make(const struct shape *s, uint32_t number, uint8_t *out)
{
    memset(out, 'p', s->key_pad);
    u32_be_put(out + s->key_pad, number);
    return s->key_pad + 4;
}

static struct bytes value_make(const struct shape *s, uint32_t number, uint8_t *out)
{
    size_t len = s->value_max ? number * 2654435761u % s->value_max : 0;
    memset(out, (int)(number & 0xff), len);
    return bytes_of(out, len);
}

static int fill(struct record_sort *sort, const struct shape *s)
{
    uint8_t *key = mem_alloc(s->key_pad + 4), *value = mem_alloc(s->value_max + 1);
    uint32_t step = s->n / 2 + 1;
    int r = 0;
    for (uint32_t i = 0; i < s->n && r == 0; i++) {
        uint32_t number = (uint32_t)((uint64_t)i * step % s->n);
        struct bytes k = bytes_of(key, key_make(s, number, key));
        r = record_sort_add(sort, k, value_make(s, number, value));
    }
    free(key);
    free(value);
    return r;
}

static int drain(struct record_sort *sort, const struct shape *s)
{
    uint8_t *key = mem_alloc(s->key_pad + 4), *value = mem_alloc(s->value_max + 1);
    bool found = true;
    int r = 0;
    for (uint32_t i = 0; i <= s->n && r == 0; i++) {
        struct bytes k, v;
        r = record_sort_next(sort, &found, &k, &v);
        if (r < 0)
            break;
        assert_int_equal(found, i < s->n);
        if (!found)
            break;
        assert_true(bytes_equal(k, bytes_of(key, key_make(s, i, key))));
        assert_true(bytes_equal(v, value_make(s, i, value)));
    }
    free(key);
    free(value);
    return r;
}

static int sort_all(const struct shape *s)
{
    _cleanup_(record_sort_freep) struct record_sort *sort = NULL;
    record_sort_new(&sort, &(struct record_sort_options){path, s->memory_bytes});
    int r = fill(sort, s);
    return r == 0 ? drain(sort, s) : r;
}

static bool there(void)
{
    bool exists = false;
    assert_int_equal(file_exists(path, &exists), 0);
    return exists;
}

static void test_orders(void **state)
{
    static const struct shape shapes[] = {
        {1, 0, 0, 5},
        {997, 0, 0, 50},
        {1, 1, 0, 50},
        {997, 1, 3, 30},
        {20011, 64 << 10, 0, 20},
        {20011, 64 << 10, 20, 300},
        {101, 10 << 10, 8, 40000},
        {307, 4 << 10, 5000, 10},
    };
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        fault_reset(i);
        assert_int_equal(sort_all(&shapes[i]), 0);
        assert_int_equal(fault_calls() > 0, i > 2);
        assert_false(there());
    }
}

static void test_nothing(void **state)
{
    struct record_sort *sort = NULL;
    bool found = true;
    struct bytes key, value;
    fault_reset(1);
    record_sort_new(&sort, &(struct record_sort_options){path, 0});
    for (int i = 0; i < 2; i++) {
        assert_int_equal(record_sort_next(sort, &found, &key, &value), 0);
        assert_false(found);
    }
    record_sort_free(sort);
    assert_int_equal(fault_calls(), 0);
}

static void test_failing_disk(void **state)
{
    static const struct shape shape = {2003, 16 << 10, 0, 200};
    bool met = true;
    uint64_t call = 0;
    while (met) {
        fault_reset(++call);
        fault_arm(call, FAULT_ERROR);
        int r = sort_all(&shape);
        met = fault_met();
        assert_true(r == 0 || met); /* the last call is the removal, which may fail */
    }
    assert_true(call > 10);
}

/* At the latest when the record is handed out. */
static void test_damage(void **state)
{
    static const struct shape shape = {503, 16 << 10, 0, 200};
    struct rng rng;
    rng_init(&rng, 4);
    for (int i = 0; i < 300; i++) {
        struct record_sort *sort = NULL;
        fault_reset(1);
        record_sort_new(&sort, &(struct record_sort_options){path, shape.memory_bytes});
        assert_int_equal(fill(sort, &shape), 0);
        fault_flip(path, rng_below(&rng, fault_size(path) * 8));
        bool found = true;
        struct bytes key, value;
        int r = 0;
        while (r == 0 && found)
            r = record_sort_next(sort, &found, &key, &value);
        assert_int_equal(r, -EBADMSG);
        record_sort_free(sort);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_failing_disk),
        cmocka_unit_test(test_damage),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
