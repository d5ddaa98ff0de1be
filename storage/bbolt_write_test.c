/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the writer writes, the reader reads: buckets of every shape at several page sizes, walked
 * and sought; refusals; and a disk that fails at each call or loses its power there. bbolt itself
 * is asked in tests/bbolt.
 */
#include "storage/bbolt_write.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "storage/bbolt_format.h"
#include "storage/bbolt_read.h"
#include "storage/file_fault.h"

enum { ITEMS_MAX = 3000, ROUNDS = 60, SEEKS = 200 };

static const char path[] = "/db";

struct pair {
    struct bytes key;
    struct bytes value;
};

static int pair_compare(const void *a, const void *b)
{
    return bytes_compare(((const struct pair *)a)->key, ((const struct pair *)b)->key);
}

static struct bytes random_bytes(struct rng *rng, size_t len)
{
    uint8_t *p = mem_alloc_raw(len + 1);
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)rng_next(rng);
    return bytes_of(p, len);
}

/* Sorted, each key once; free with pairs_free(). */
static size_t pairs_make(struct rng *rng, struct pair *pairs, size_t n, size_t key_max,
                         size_t value_max)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        pairs[i] = (struct pair){random_bytes(rng, 1 + rng_below(rng, key_max)),
                                 random_bytes(rng, rng_below(rng, value_max + 1))};
    qsort(pairs, n, sizeof(*pairs), pair_compare);
    for (size_t i = 0; i < n; i++) {
        if (kept > 0 && bytes_equal(pairs[kept - 1].key, pairs[i].key)) {
            free((void *)pairs[i].key.data);
            free((void *)pairs[i].value.data);
        } else {
            pairs[kept++] = pairs[i];
        }
    }
    return kept;
}

static void pairs_free(struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free((void *)pairs[i].key.data);
        free((void *)pairs[i].value.data);
    }
}

static int write_file(uint32_t page_bytes, const struct pair *pairs, size_t n, uint64_t *ret_bytes)
{
    _cleanup_(bbolt_write_closep) struct bbolt_writer *w = NULL;
    int r = bbolt_write_open(&w, &(struct bbolt_write_options){path, page_bytes});
    if (r == 0)
        r = bbolt_write_bucket(w, "before");
    if (r == 0)
        r = bbolt_write_bucket(w, "items");
    for (size_t i = 0; i < n && r == 0; i++)
        r = bbolt_write_item(w, pairs[i].key, pairs[i].value);
    if (r == 0)
        r = bbolt_write_bucket(w, "later");
    if (r == 0)
        r = bbolt_write_item(w, BYTES_LIT("k"), BYTES_LIT("v"));
    return r == 0 ? bbolt_write_finish(w, ret_bytes) : r;
}

static void assert_at(const struct bbolt_cursor *c, const struct pair *pair)
{
    assert_true(bytes_equal(bbolt_key(c), pair->key));
    assert_true(bytes_equal(bbolt_value(c), pair->value));
}

static void walk_and_seek(struct rng *rng, struct bbolt *b, const struct pair *pairs, size_t n)
{
    struct bbolt_cursor *c = NULL;
    bool found = false;
    assert_int_equal(bbolt_cursor_open(&c, b, BYTES_LIT("items")), 0);
    assert_int_equal(bbolt_first(c, &found), 0);
    for (size_t i = 0; i < n; i++) {
        assert_true(found);
        assert_at(c, &pairs[i]);
        assert_int_equal(bbolt_next(c, &found), 0);
    }
    assert_false(found);
    for (size_t i = 0; i < SEEKS; i++) {
        struct bytes key =
            n > 0 && i % 2 ? pairs[rng_below(rng, n)].key : random_bytes(rng, rng_below(rng, 4));
        size_t want = 0;
        while (want < n && bytes_compare(pairs[want].key, key) < 0)
            want++;
        assert_int_equal(bbolt_seek(c, key, &found), 0);
        assert_int_equal(found, want < n);
        for (; found && want < n && rng_below(rng, 4) > 0; want++) {
            assert_at(c, &pairs[want]);
            assert_int_equal(bbolt_next(c, &found), 0);
        }
        if (!(n > 0 && i % 2))
            free((void *)key.data);
    }
    bbolt_cursor_close(c);
}

static void assert_name(struct bbolt_cursor *c, const char *name)
{
    assert_true(bytes_equal(bbolt_key(c), bytes_str(name)));
}

static void names(struct bbolt *b)
{
    struct bbolt_cursor *c = NULL;
    bool found = false;
    assert_int_equal(bbolt_cursor_open(&c, b, BYTES_LIT("none")), BBOLT_E_NO_BUCKET);
    assert_int_equal(bbolt_cursor_open(&c, b, BYTES_NULL), 0);
    assert_int_equal(bbolt_first(c, &found), 0);
    assert_name(c, "before");
    assert_int_equal(bbolt_next(c, &found), 0);
    assert_name(c, "items");
    assert_int_equal(bbolt_next(c, &found), 0);
    assert_name(c, "later");
    assert_int_equal(bbolt_next(c, &found), 0);
    assert_false(found);
    bbolt_cursor_close(c);
}

static void read_back(struct rng *rng, const struct pair *pairs, size_t n, uint64_t bytes)
{
    struct bbolt *b = NULL;
    char *error = NULL;
    assert_int_equal(bbolt_open(&b, path, &error), 0);
    assert_int_equal(bbolt_used_bytes(b), bytes);
    assert_int_equal(fault_size(path), bytes);
    names(b);
    walk_and_seek(rng, b, pairs, n);
    bbolt_close(b);
}

static void test_round_trip(void **state)
{
    static const struct {
        size_t n, key_max, value_max;
    } shapes[] = {{0, 1, 0},      {1, 8, 4},       {5, 8, 40},      {60, 2, 20},
                  {3000, 18, 90}, {200, 20, 2000}, {40, 2000, 100}, {20, BBOLT_KEY_BYTES_MAX, 0},
                  {6, 4, 300000}};
    static const uint32_t sizes[] = {512, 1024, 4096, 65536};
    struct pair *pairs = mem_alloc(ITEMS_MAX * sizeof(*pairs));
    struct rng rng;
    rng_init(&rng, 1);
    for (size_t i = 0; i < ROUNDS; i++) {
        size_t shape = i % (sizeof(shapes) / sizeof(*shapes));
        fault_reset(i);
        size_t n = pairs_make(&rng, pairs, shapes[shape].n, shapes[shape].key_max,
                              shapes[shape].value_max);
        uint64_t bytes = 0;
        assert_int_equal(write_file(sizes[rng_below(&rng, 4)], pairs, n, &bytes), 0);
        read_back(&rng, pairs, n, bytes);
        pairs_free(pairs, n);
    }
    free(pairs);
}

static void test_no_buckets(void **state)
{
    struct bbolt_writer *w = NULL;
    struct bbolt *b = NULL;
    struct bbolt_cursor *c = NULL;
    char *error = NULL;
    bool found = true;
    uint64_t bytes;
    fault_reset(1);
    assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){.path = path}), 0);
    assert_int_equal(bbolt_write_finish(w, &bytes), 0);
    assert_int_equal(bytes, 4 * BBOLT_PAGE_BYTES);
    bbolt_write_close(w);
    assert_int_equal(bbolt_open(&b, path, &error), 0);
    assert_int_equal(bbolt_cursor_open(&c, b, BYTES_NULL), 0);
    assert_int_equal(bbolt_first(c, &found), 0);
    assert_false(found);
    bbolt_cursor_close(c);
    bbolt_close(b);
}

static void test_refusals(void **state)
{
    static const uint8_t long_key[BBOLT_KEY_BYTES_MAX + 1];
    struct bbolt_writer *w = NULL;
    fault_reset(1);
    assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){.path = path}), 0);
    assert_int_equal(bbolt_write_bucket(w, ""), BBOLT_WRITE_E_SIZE);
    assert_int_equal(bbolt_write_bucket(w, "b"), 0);
    assert_int_equal(bbolt_write_bucket(w, "b"), BBOLT_WRITE_E_ORDER);
    assert_int_equal(bbolt_write_bucket(w, "a"), BBOLT_WRITE_E_ORDER);
    assert_int_equal(bbolt_write_item(w, BYTES_NULL, BYTES_NULL), BBOLT_WRITE_E_SIZE);
    assert_int_equal(bbolt_write_item(w, bytes_of(long_key, sizeof(long_key)), BYTES_NULL),
                     BBOLT_WRITE_E_SIZE);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("b"), BYTES_NULL), 0);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("b"), BYTES_NULL), BBOLT_WRITE_E_ORDER);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("a"), BYTES_NULL), BBOLT_WRITE_E_ORDER);
    assert_int_equal(bbolt_write_bucket(w, "c"), 0);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("a"), BYTES_NULL), 0);
    bbolt_write_close(w);
}

static bool is_file(void)
{
    struct bbolt *b = NULL;
    char *error = NULL;
    int r = bbolt_open(&b, path, &error);
    free(error);
    bbolt_close(b);
    return r == 0;
}

/* The directory is its owner's to sync. */
static void name_make(void)
{
    struct file *f = NULL;
    assert_int_equal(file_open(&f, path, FILE_WRITE | FILE_CREATE), 0);
    file_close(f);
    assert_int_equal(dir_sync("/"), 0);
}

/* A disk that fails at each of its calls: the writer says so, and there is no file that looks
 * whole but for the very last step. */
static void failing_disk(enum fault_kind kind)
{
    struct pair *pairs = mem_alloc(ITEMS_MAX * sizeof(*pairs));
    struct rng rng;
    rng_init(&rng, 2);
    size_t n = pairs_make(&rng, pairs, ITEMS_MAX, 18, 400);
    bool met = true;
    uint64_t call = 0, bytes;
    while (met) {
        fault_reset(call);
        name_make();
        fault_arm(++call, kind);
        int r = write_file(4096, pairs, n, &bytes);
        met = fault_met();
        assert_true(met ? r < 0 : r == 0);
        if (kind == FAULT_POWER)
            fault_power_cycle();
        if (is_file())
            read_back(&rng, pairs, n, fault_size(path));
        else
            assert_true(met);
    }
    assert_true(call > 6);
    pairs_free(pairs, n);
    free(pairs);
}

static void test_failing_disk(void **state)
{
    failing_disk(FAULT_ERROR);
    failing_disk(FAULT_POWER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_no_buckets),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_failing_disk),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
