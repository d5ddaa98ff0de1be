/* SPDX-License-Identifier: Apache-2.0 */
/* Byte strings: order, growth, varints at their edges, reference counts. */
#include "base/bytes.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"

static void test_compare(void **state)
{
    const struct {
        struct bytes a, b;
        int order;
    } cases[] = {
        {BYTES_LIT(""), BYTES_LIT(""), 0},      {BYTES_LIT(""), BYTES_LIT("a"), -1},
        {BYTES_LIT("a"), BYTES_LIT("a\0"), -1}, {BYTES_LIT("ab"), BYTES_LIT("b"), -1},
        {BYTES_LIT("\xff"), BYTES_LIT("a"), 1}, {BYTES_LIT("a\0b"), BYTES_LIT("a\0b"), 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int order = bytes_compare(cases[i].a, cases[i].b);
        int mirrored = bytes_compare(cases[i].b, cases[i].a);
        assert_int_equal((order > 0) - (order < 0), cases[i].order);
        assert_int_equal((mirrored > 0) - (mirrored < 0), -cases[i].order);
        assert_int_equal(bytes_equal(cases[i].a, cases[i].b), cases[i].order == 0);
    }
    assert_int_equal(bytes_compare(BYTES_NULL, BYTES_LIT("")), 0);
}

static void test_prefix(void **state)
{
    assert_true(bytes_has_prefix(BYTES_LIT("abc"), BYTES_LIT("ab")));
    assert_true(bytes_has_prefix(BYTES_LIT("abc"), BYTES_LIT("abc")));
    assert_true(bytes_has_prefix(BYTES_LIT("abc"), BYTES_NULL));
    assert_true(bytes_has_prefix(BYTES_NULL, BYTES_NULL));
    assert_false(bytes_has_prefix(BYTES_LIT("abc"), BYTES_LIT("abcd")));
    assert_false(bytes_has_prefix(BYTES_LIT("abc"), BYTES_LIT("b")));
}

static void test_buf_append(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    for (int i = 0; i < 1000; i++)
        buf_append_u8(&b, (uint8_t)i);
    assert_int_equal(b.len, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(b.data[i], (uint8_t)i);
    buf_clear(&b);
    buf_append(&b, NULL, 0);
    buf_append_str(&b, "ab");
    buf_append_bytes(&b, BYTES_LIT("\0c"));
    buf_append_zero(&b, 2);
    buf_append_u32_be(&b, 0x01020304);
    buf_append_u64_be(&b, 0x0506070809101112);
    assert_true(bytes_equal(buf_bytes(&b), BYTES_LIT("ab\0c\0\0\1\2\3\4\5\6\7\x8\x9\x10\x11\x12")));
    assert_int_equal(u32_be_get(b.data + 6), 0x01020304);
    assert_true(u64_be_get(b.data + 10) == 0x0506070809101112);
}

static void test_buf_printf(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    assert_string_equal(buf_cstr(&b), "");
    buf_printf(&b, "%s-%d", "x", 7);
    assert_string_equal(buf_cstr(&b), "x-7");
    /* Around the first capacity the second formatting pass is needed. */
    for (int width = 1; width < 300; width++) {
        _cleanup_(buf_deinit) struct buf one = BUF_NULL;
        buf_printf(&one, "%*d", width, 5);
        assert_int_equal(one.len, width);
        assert_int_equal(one.data[width - 1], '5');
    }
}

static void test_buf_take(void **state)
{
    struct buf b = BUF_NULL;
    buf_append_str(&b, "abc");
    _cleanup_(buf_deinit) struct buf taken = buf_take(&b);
    assert_null(b.data);
    assert_int_equal(b.len, 0);
    assert_true(bytes_equal(buf_bytes(&taken), BYTES_LIT("abc")));
    buf_deinit(&b);
    buf_deinit(NULL);
}

static void varint_round_trip(uint64_t v)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    uint64_t got = ~v;
    buf_append_varint(&b, v);
    assert_int_equal(b.len, varint_size(v));
    struct bytes s = buf_bytes(&b);
    assert_true(varint_get(&s, &got));
    assert_true(got == v);
    assert_int_equal(s.len, 0);
    for (size_t cut = 0; cut < b.len; cut++) {
        struct bytes part = bytes_of(b.data, cut);
        got = 99;
        assert_false(varint_get(&part, &got));
        assert_int_equal(part.len, cut);
        assert_int_equal(got, 99);
    }
}

static void test_varint(void **state)
{
    struct rng r;
    rng_init(&r, 1);
    for (unsigned bit = 0; bit < 64; bit++) {
        varint_round_trip(1ull << bit);
        varint_round_trip((1ull << bit) - 1);
        varint_round_trip(rng_next(&r) >> bit);
    }
    varint_round_trip(UINT64_MAX);
    assert_int_equal(varint_size(127), 1);
    assert_int_equal(varint_size(128), 2);
    assert_int_equal(varint_size(UINT64_MAX), 10);
}

static void test_varint_malformed(void **state)
{
    uint64_t got = 5;
    struct bytes eleven = BYTES_LIT("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00");
    struct bytes too_big = BYTES_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02");
    struct bytes padded = BYTES_LIT("\x81\x80\x00\x42");
    assert_false(varint_get(&eleven, &got));
    assert_false(varint_get(&too_big, &got));
    assert_int_equal(got, 5);
    assert_true(varint_get(&padded, &got));
    assert_int_equal(got, 1);
    assert_true(bytes_equal(padded, BYTES_LIT("\x42")));
}

static void test_blob(void **state)
{
    struct blob *b = blob_copy(BYTES_LIT("shared"));
    assert_ptr_equal(blob_ref(b), b);
    assert_int_equal(b->refs, 2);
    assert_null(blob_unref(b));
    assert_true(bytes_equal(blob_bytes(b), BYTES_LIT("shared")));
    assert_null(blob_unref(b));
    assert_null(blob_ref(NULL));
    assert_null(blob_unref(NULL));
    assert_int_equal(blob_bytes(NULL).len, 0);
    struct blob *empty = blob_copy(BYTES_NULL);
    assert_int_equal(empty->len, 0);
    blob_unref(empty);
}

static void test_mem(void **state)
{
    _cleanup_(mem_freep) char *a = mem_strndup("abcdef", 3);
    _cleanup_(mem_freep) char *b = mem_strndup("ab", 30);
    _cleanup_(mem_freep) char *c = mem_printf("%s/%s", a, b);
    _cleanup_(mem_freep) uint64_t *zeroed = mem_new(uint64_t);
    assert_string_equal(c, "abc/ab");
    assert_null(mem_strdup(NULL));
    assert_true(*zeroed == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_buf_append),
        cmocka_unit_test(test_buf_printf),
        cmocka_unit_test(test_buf_take),
        cmocka_unit_test(test_varint),
        cmocka_unit_test(test_varint_malformed),
        cmocka_unit_test(test_blob),
        cmocka_unit_test(test_mem),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
