/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Damaged bbolt files: every bit turned, every length cut, meta pages that lie under a right
 * checksum, pages that lie at random. The reader must end, with items in order or with a text;
 * what it does to memory the sanitizers say.
 */
#include "storage/bbolt_read.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "storage/bbolt_format.h"
#include "storage/bbolt_write.h"
#include "storage/file_fault.h"

enum { PAGE_BYTES = 512, ITEMS = 90, ITEMS_MAX = 1000, LIES = 20000, LIE_BYTES_MAX = 4 };
enum { META_FIELDS = 6 };

static const char path[] = "/db";

/* Inline buckets, empty and not; one with two levels of branches; one with an overflowing value. */
static uint64_t small_file(void)
{
    struct bbolt_writer *w = NULL;
    char key[80], value[1500];
    uint64_t bytes;
    fault_reset(1);
    memset(value, 'v', sizeof(value));
    assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){path, PAGE_BYTES}), 0);
    assert_int_equal(bbolt_write_bucket(w, "alarm"), 0);
    assert_int_equal(bbolt_write_bucket(w, "cluster"), 0);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("version"), BYTES_LIT("3.7.0")), 0);
    assert_int_equal(bbolt_write_bucket(w, "key"), 0);
    for (unsigned i = 0; i < ITEMS; i++) {
        int len = snprintf(key, sizeof(key), "%060u", i);
        assert_int_equal(bbolt_write_item(w, bytes_of(key, (size_t)len), bytes_of(value, i)), 0);
    }
    assert_int_equal(bbolt_write_bucket(w, "meta"), 0);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("a"), bytes_of(value, sizeof(value))), 0);
    assert_int_equal(bbolt_write_item(w, BYTES_LIT("b"), BYTES_NULL), 0);
    assert_int_equal(bbolt_write_finish(w, &bytes), 0);
    bbolt_write_close(w);
    return bytes;
}

/* Every byte that is handed out is read. */
static unsigned touch(struct bytes s)
{
    unsigned sum = 0;
    for (size_t i = 0; i < s.len; i++)
        sum += s.data[i];
    return sum;
}

static int items_walk(struct bbolt *b, struct bytes name, size_t *n)
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    _cleanup_(buf_deinit) struct buf last = BUF_NULL;
    bool found = false;
    int r = bbolt_cursor_open(&c, b, name);
    if (r == 0)
        r = bbolt_first(c, &found);
    while (r == 0 && found) {
        assert_true(++*n < ITEMS_MAX);
        assert_true(bytes_compare(buf_bytes(&last), bbolt_key(c)) < 0);
        buf_clear(&last);
        buf_append_bytes(&last, bbolt_key(c));
        (void)touch(bbolt_value(c));
        r = bbolt_next(c, &found);
    }
    if (r == 0 && last.len > 0) {
        r = bbolt_seek(c, buf_bytes(&last), &found);
        if (r == 0)
            assert_true(found && bytes_equal(bbolt_key(c), buf_bytes(&last)));
    }
    return r;
}

/* 0, or BBOLT_E_DAMAGED with a text. *n: items met, buckets included. */
static int walk(size_t *n)
{
    _cleanup_(bbolt_closep) struct bbolt *b = NULL;
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    _cleanup_(mem_freep) char *error = NULL;
    bool found = false;
    *n = 0;
    int r = bbolt_open(&b, path, &error);
    if (r != 0) {
        assert_int_equal(r, BBOLT_E_DAMAGED);
        assert_non_null(error);
        return r;
    }
    r = bbolt_cursor_open(&c, b, BYTES_NULL);
    if (r == 0)
        r = bbolt_first(c, &found);
    while (r == 0 && found) {
        ++*n;
        r = items_walk(b, bbolt_key(c), n);
        if (r == 0)
            r = bbolt_next(c, &found);
    }
    if (r != 0) {
        assert_int_equal(r, BBOLT_E_DAMAGED);
        assert_true(strlen(bbolt_error(b)) > strlen("page 0: "));
    }
    return r;
}

static size_t whole(void)
{
    size_t n;
    assert_int_equal(walk(&n), 0);
    assert_int_equal(n, 4 + 1 + ITEMS + 2);
    return n;
}

static void test_every_bit(void **state)
{
    uint64_t bytes = small_file();
    size_t all = whole(), damaged = 0;
    for (uint64_t bit = 0; bit < bytes * 8; bit++) {
        size_t n;
        fault_flip(path, bit);
        int r = walk(&n);
        damaged += r != 0;
        if (r == 0) /* at worst a bucket shows the pages of another */
            assert_true(n <= 2 * all);
        fault_flip(path, bit);
    }
    whole();
    assert_true(damaged > bytes); /* of the rest most lie in values and between pages */
}

static void test_every_length(void **state)
{
    uint64_t bytes = small_file();
    struct fault_image *image = fault_save();
    for (uint64_t len = 0; len < bytes; len++) {
        size_t n;
        fault_restore(image);
        fault_cut(path, len);
        assert_int_equal(walk(&n), BBOLT_E_DAMAGED);
    }
    fault_restore(image);
    whole();
    fault_image_free(image);
}

static void meta_sign(uint64_t page)
{
    uint8_t meta[BBOLT_META_BYTES], sum[8];
    uint64_t offset = page * PAGE_BYTES + BBOLT_HEADER_BYTES;
    fault_copy(path, offset, meta, sizeof(meta));
    bbolt_put(sum, bbolt_sum(meta), 8);
    fault_patch(path, offset + BBOLT_SUM_OFFSET, sum, sizeof(sum));
}

/* Whoever writes a file can compute a checksum. */
static void test_lying_meta(void **state)
{
    static const struct {
        uint64_t offset;
        size_t len;
    } fields[META_FIELDS] = {{8, 4}, {16, 8}, {32, 8}, {40, 8}, {48, 8}, {0, 8}};
    uint64_t pages = small_file() / PAGE_BYTES;
    const uint64_t values[] = {0,         1,         2,       3,          pages - 1,
                               pages,     pages + 1, 256,     512,        1024,
                               4096,      65536,     1 << 17, UINT32_MAX, UINT64_MAX / PAGE_BYTES,
                               INT64_MAX, UINT64_MAX};
    struct fault_image *image = fault_save();
    for (size_t f = 0; f < META_FIELDS; f++) {
        for (size_t v = 0; v < sizeof(values) / sizeof(*values); v++) {
            uint8_t bytes[8];
            size_t n;
            fault_restore(image);
            bbolt_put(bytes, values[v], 8);
            for (uint64_t page = 0; page < 2; page++) {
                uint64_t offset = page * PAGE_BYTES + BBOLT_HEADER_BYTES + fields[f].offset;
                fault_patch(path, offset, bytes, fields[f].len);
                meta_sign(page);
            }
            (void)walk(&n);
        }
    }
    fault_image_free(image);
}

/* Numbers in the heads and elements of pages, where they do most. */
static void test_lying_pages(void **state)
{
    uint64_t bytes = small_file();
    struct fault_image *image = fault_save();
    struct rng rng;
    rng_init(&rng, 3);
    for (size_t i = 0; i < LIES; i++) {
        size_t n;
        fault_restore(image);
        for (uint64_t lies = 1 + rng_below(&rng, 3); lies > 0; lies--) {
            uint64_t page = 2 + rng_below(&rng, bytes / PAGE_BYTES - 2);
            uint64_t offset = page * PAGE_BYTES + rng_below(&rng, 24) * 4;
            uint8_t lie[LIE_BYTES_MAX];
            bbolt_put(lie, rng_below(&rng, rng_below(&rng, 2) ? 40 : UINT32_MAX), LIE_BYTES_MAX);
            fault_patch(path, offset, lie, 1 + rng_below(&rng, LIE_BYTES_MAX));
        }
        (void)walk(&n);
    }
    fault_image_free(image);
}

/* One meta page may be bad: the other counts, wherever it is. */
static void test_one_meta(void **state)
{
    static const uint32_t sizes[] = {512, 4096, 65536};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        for (uint64_t page = 0; page < 2; page++) {
            struct bbolt_writer *w = NULL;
            uint64_t bytes;
            size_t n;
            fault_reset(1);
            assert_int_equal(bbolt_write_open(&w, &(struct bbolt_write_options){path, sizes[i]}),
                             0);
            assert_int_equal(bbolt_write_bucket(w, "a"), 0);
            assert_int_equal(bbolt_write_finish(w, &bytes), 0);
            bbolt_write_close(w);
            fault_flip(path, (page * sizes[i] + BBOLT_HEADER_BYTES + 20) * 8);
            assert_int_equal(walk(&n), 0);
            assert_int_equal(n, 1);
            fault_flip(path, ((1 - page) * sizes[i] + BBOLT_HEADER_BYTES + 20) * 8);
            assert_int_equal(walk(&n), BBOLT_E_DAMAGED);
        }
    }
}

static void meta_patch(uint64_t page, uint64_t field, uint64_t value)
{
    uint8_t bytes[8];
    bbolt_put(bytes, value, 8);
    fault_patch(path, page * PAGE_BYTES + BBOLT_HEADER_BYTES + field, bytes, sizeof(bytes));
    meta_sign(page);
}

/* The higher transaction counts, and what it says is not doubted because the other says better. */
static void test_newer_meta(void **state)
{
    for (uint64_t page = 0; page < 2; page++) {
        size_t n;
        small_file();
        meta_patch(page, 16, 0);
        meta_patch(page, 48, 9);
        assert_int_equal(walk(&n), BBOLT_E_DAMAGED);
        meta_patch(page, 48, 0);
        whole();
    }
}

/* What lies behind the pages in use is not read, though the file goes on. */
static void test_beyond(void **state)
{
    static const uint8_t more[8 * PAGE_BYTES];
    uint64_t bytes = small_file(), pages = bytes / PAGE_BYTES;
    size_t n, refused = 0;
    struct file *f = NULL;
    assert_int_equal(file_open(&f, path, FILE_WRITE), 0);
    assert_int_equal(file_write(f, bytes, more, sizeof(more)), 0);
    file_close(f);
    whole();
    struct fault_image *image = fault_save();
    for (uint64_t page = 2; page < pages; page++) {
        uint8_t overflow[4];
        fault_restore(image);
        bbolt_put(overflow, pages - page - 1, 4);
        fault_patch(path, page * PAGE_BYTES + 12, overflow, sizeof(overflow));
        int r = walk(&n);
        bbolt_put(overflow, pages - page, 4);
        fault_patch(path, page * PAGE_BYTES + 12, overflow, sizeof(overflow));
        refused += r == 0 && walk(&n) == BBOLT_E_DAMAGED;
    }
    assert_true(refused > pages / 2);
    fault_image_free(image);
}

static void page_put(uint64_t id, uint16_t flags, const char *key, uint64_t child)
{
    uint8_t page[PAGE_BYTES] = {0};
    bbolt_header_put(page, (struct bbolt_header){id, flags, 1, 0});
    uint8_t *e = page + BBOLT_HEADER_BYTES;
    bbolt_put(e, BBOLT_ELEMENT_BYTES, 4);
    bbolt_put(e + 4, strlen(key), 4);
    bbolt_put(e + 8, child, 8);
    memcpy(e + BBOLT_ELEMENT_BYTES, key, strlen(key));
    fault_patch(path, id * PAGE_BYTES, page, PAGE_BYTES);
}

/* Branches that lead in a circle, and a chain of them that is too long. */
static void test_circles(void **state)
{
    uint64_t pages = small_file() / PAGE_BYTES;
    size_t n;
    uint8_t root[8];
    fault_copy(path, BBOLT_HEADER_BYTES + 16, root, sizeof(root));
    uint64_t id = bbolt_get_u64(root);
    page_put(id, BBOLT_BRANCH, "a", id);
    assert_int_equal(walk(&n), BBOLT_E_DAMAGED);
    page_put(id, BBOLT_BRANCH, "a", 2);
    page_put(2, BBOLT_BRANCH, "a", 3);
    page_put(3, BBOLT_BRANCH, "a", id);
    assert_int_equal(walk(&n), BBOLT_E_DAMAGED);
    assert_true(pages > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_bit),  cmocka_unit_test(test_every_length),
        cmocka_unit_test(test_lying_meta), cmocka_unit_test(test_lying_pages),
        cmocka_unit_test(test_newer_meta), cmocka_unit_test(test_beyond),
        cmocka_unit_test(test_one_meta),   cmocka_unit_test(test_circles),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
