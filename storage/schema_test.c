/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Key layout, KeyValue bytes and intervals: round trips, the order property over random binary
 * keys, etcd's literal examples, and parsers against every truncation and damaged byte. Thread:
 * one. The seed is fixed; it is printed when a case fails.
 */
#include "storage/schema.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/rng.h"
#include "storage/interval.h"
#include "storage/kv.h"

enum { KEY_BYTES_MAX = 12, ROUNDS = 20000, SEED = 7 };

struct sample {
    uint8_t bytes[KEY_BYTES_MAX];
    size_t len;
    struct rev rev;
};

/* Mostly bytes at the edges of the escaping. */
static struct sample sample_new(struct rng *rng)
{
    static const uint8_t edges[] = {0x00, 0x00, 0x01, 0x02, 0xFE, 0xFF, 0xFF, 'a'};
    struct sample s = {.len = (size_t)rng_below(rng, KEY_BYTES_MAX + 1)};
    for (size_t i = 0; i < s.len; i++)
        s.bytes[i] = edges[rng_below(rng, sizeof(edges))];
    s.rev.main = rng_below(rng, 8) == 0 ? INT64_MAX - (int64_t)rng_below(rng, 2)
                                        : (int64_t)rng_below(rng, 5);
    s.rev.sub = rng_below(rng, 8) == 0 ? UINT32_MAX : (uint32_t)rng_below(rng, 3);
    return s;
}

static struct bytes sample_key(const struct sample *s)
{
    return bytes_of(s->bytes, s->len);
}

static int sign(int v)
{
    return (v > 0) - (v < 0);
}

static void test_k_order(void **state)
{
    struct rng rng;
    rng_init(&rng, SEED);
    _cleanup_(buf_deinit) struct buf a = BUF_NULL, b = BUF_NULL, from = BUF_NULL;
    for (int i = 0; i < ROUNDS; i++) {
        struct sample x = sample_new(&rng), y = sample_new(&rng);
        int keys = bytes_compare(sample_key(&x), sample_key(&y));
        int want = sign(keys ? keys : -rev_compare(x.rev, y.rev));
        buf_clear(&a);
        buf_clear(&b);
        buf_clear(&from);
        schema_k(&a, sample_key(&x), x.rev);
        schema_k(&b, sample_key(&y), y.rev);
        schema_k_from(&from, sample_key(&y));
        assert_int_equal(sign(bytes_compare(buf_bytes(&a), buf_bytes(&b))), want);
        assert_int_equal(bytes_compare(buf_bytes(&a), buf_bytes(&from)) >= 0, keys >= 0);
    }
}

static void test_k_round_trip(void **state)
{
    struct rng rng;
    rng_init(&rng, SEED + 1);
    _cleanup_(buf_deinit) struct buf k = BUF_NULL, prefix = BUF_NULL, key = BUF_NULL;
    for (int i = 0; i < ROUNDS; i++) {
        struct sample x = sample_new(&rng);
        struct rev rev;
        buf_clear(&k);
        buf_clear(&prefix);
        schema_k(&k, sample_key(&x), x.rev);
        schema_k_prefix(&prefix, sample_key(&x));
        assert_true(schema_parse_k(buf_bytes(&k), &key, &rev));
        assert_true(bytes_equal(buf_bytes(&key), sample_key(&x)));
        assert_int_equal(rev_compare(rev, x.rev), 0);
        assert_int_equal(schema_prefix_len(buf_bytes(&k)), prefix.len);
        assert_memory_equal(k.data, prefix.data, prefix.len);
        for (size_t len = 0; len < k.len;
             len++) /* a cut key may parse as another, but never out of bounds */
            schema_parse_k(bytes_of(k.data, len), &key, &rev);
    }
}

static void test_k_damaged(void **state)
{
    _cleanup_(buf_deinit) struct buf k = BUF_NULL, key = BUF_NULL;
    struct rev rev;
    schema_k(&k, BYTES_LIT("a\0b"), (struct rev){7, 1});
    assert_int_equal(k.len, 1 + 4 + 2 + 12);
    k.data[3] = 0xFE; /* the second byte of an escape */
    assert_false(schema_parse_k(buf_bytes(&k), &key, &rev));
    k.data[3] = 0xFF;
    assert_true(schema_parse_k(buf_bytes(&k), &key, &rev));
    k.data[6] = 0x02; /* the end mark */
    assert_false(schema_parse_k(buf_bytes(&k), &key, &rev));
    k.data[6] = 0x01;
    k.data[7] = 0x00; /* a negative revision */
    assert_false(schema_parse_k(buf_bytes(&k), &key, &rev));
    k.data[0] = 'h';
    assert_false(schema_parse_k(buf_bytes(&k), &key, &rev));
    assert_false(schema_parse_k(BYTES_LIT("k\0\1"), &key, &rev));
}

static void test_r_and_rest(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct rev rev;
    enum schema_kind kind;
    struct bytes key;
    schema_r(&b, (struct rev){0x0102030405060708, 0x0A0B0C0D});
    assert_int_equal(b.len, 13);
    assert_memory_equal(b.data, "r\1\2\3\4\5\6\7\10\12\13\14\15", 13);
    assert_true(schema_parse_r(buf_bytes(&b), &rev));
    assert_int_equal(rev_compare(rev, (struct rev){0x0102030405060708, 0x0A0B0C0D}), 0);
    assert_false(schema_parse_r(bytes_of(b.data, 12), &rev));
    b.data[1] = 0x80;
    assert_false(schema_parse_r(buf_bytes(&b), &rev));
    assert_true(schema_parse_r_value(BYTES_LIT("\2key"), &kind, &key));
    assert_int_equal(kind, SCHEMA_DELETE);
    assert_true(bytes_equal(key, BYTES_LIT("key")));
    assert_false(schema_parse_r_value(BYTES_LIT("\3key"), &kind, &key));
    assert_false(schema_parse_r_value(BYTES_NULL, &kind, &key));
    buf_clear(&b);
    schema_lease_key(&b, -2, BYTES_LIT("x"));
    assert_memory_equal(b.data, "l\2\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFEx", b.len);
    assert_int_equal(schema_prefix_len(BYTES_LIT("hkey")), 4);
    assert_int_equal(schema_prefix_len(BYTES_LIT("rkey")), 0);
    assert_int_equal(schema_prefix_len(BYTES_LIT("k")), 0);
}

static void test_head(void **state)
{
    const struct head heads[] = {
        {{2, 0}, 2, 1, 0},
        {{INT64_MAX, UINT32_MAX}, 1, INT64_MAX, -7},
        {{300, 5}, 300, 77, INT64_MIN},
    };
    for (size_t i = 0; i < sizeof(heads) / sizeof(*heads); i++) {
        _cleanup_(buf_deinit) struct buf b = BUF_NULL;
        struct head h;
        schema_head_encode(&b, &heads[i]);
        assert_true(b.len <= SCHEMA_HEAD_BYTES_MAX);
        assert_true(schema_head_decode(buf_bytes(&b), &h));
        assert_int_equal(rev_compare(h.mod, heads[i].mod), 0);
        assert_int_equal(h.create, heads[i].create);
        assert_int_equal(h.version, heads[i].version);
        assert_int_equal(h.lease, heads[i].lease);
        for (size_t len = 0; len < b.len; len++)
            assert_false(schema_head_decode(bytes_of(b.data, len), &h));
        buf_append_u8(&b, 0);
        assert_false(schema_head_decode(buf_bytes(&b), &h));
    }
}

/* ---- KeyValue ---- */

static void kv_expect(const struct kv *kv, struct bytes want)
{
    _cleanup_(buf_deinit) struct buf whole = BUF_NULL, joined = BUF_NULL;
    kv_encode(&whole, kv);
    assert_int_equal(whole.len, want.len);
    assert_memory_equal(whole.data, want.data, want.len);
    assert_int_equal(kv_size(kv), want.len);
    struct kv_frame frame;
    struct bytes parts[KV_PARTS];
    size_t n = kv_put_frame(&frame, kv, parts);
    for (size_t i = 0; i < n; i++)
        buf_append_bytes(&joined, parts[i]);
    assert_true(bytes_equal(buf_bytes(&joined), want));
    struct kv back;
    assert_true(kv_decode(want, &back));
    assert_true(bytes_equal(back.key, kv->key) && bytes_equal(back.value, kv->value));
    assert_int_equal(back.create, kv->create);
    assert_int_equal(back.mod, kv->mod);
    assert_int_equal(back.version, kv->version);
    assert_int_equal(back.lease, kv->lease);
}

static void test_kv_literal(void **state)
{
    struct kv a = {BYTES_LIT("a"), 2, 2, 1, BYTES_LIT("1"), 0};
    kv_expect(&a, BYTES_LIT("\x0A\x01\x61\x10\x02\x18\x02\x20\x01\x2A\x01\x31"));
    struct kv n = {BYTES_LIT("n"), 10, 10, 1, BYTES_LIT("v"), -7};
    kv_expect(&n, BYTES_LIT("\x0A\x01\x6E\x10\x0A\x18\x0A\x20\x01\x2A\x01\x76"
                            "\x30\xF9\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"));
    struct kv empty = {BYTES_LIT("e"), 3, 4, 2, BYTES_NULL, 5};
    kv_expect(&empty, BYTES_LIT("\x0A\x01\x65\x10\x03\x18\x04\x20\x02\x30\x05"));
    struct kv tombstone = {.key = BYTES_LIT("a")};
    kv_expect(&tombstone, BYTES_LIT("\x0A\x01\x61"));
    assert_true(kv_is_tombstone(BYTES_LIT("\x0A\x01\x61")));
    assert_false(kv_is_tombstone(BYTES_NULL));
    assert_false(kv_is_tombstone(BYTES_LIT("\x0A\x02\x61")));
    assert_false(kv_is_tombstone(BYTES_LIT("\x0A\x01\x61\x10\x02\x18\x02\x20\x01")));
}

static void test_kv_foreign(void **state)
{
    struct kv kv;
    assert_true(kv_decode(BYTES_NULL, &kv));
    assert_int_equal(kv.key.len, 0);
    /* Another order, an unknown field of each wire type. */
    assert_true(
        kv_decode(BYTES_LIT("\x18\x07\x78\x01\x7A\x01z\x79........\x7D....\x0A\x01k"), &kv));
    assert_int_equal(kv.mod, 7);
    assert_true(bytes_equal(kv.key, BYTES_LIT("k")));
    assert_false(kv_decode(BYTES_LIT("\x7B"), &kv));      /* a group */
    assert_false(kv_decode(BYTES_LIT("\x02\x01k"), &kv)); /* field 0 */
    assert_false(kv_decode(BYTES_LIT("\x0A\x05k"), &kv));
    struct bytes whole = BYTES_LIT("\x0A\x01\x61\x10\x02\x18\x02\x20\x01\x2A\x01\x31");
    struct rng rng;
    rng_init(&rng, SEED + 2);
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t damaged[12];
        memcpy(damaged, whole.data, sizeof(damaged));
        damaged[rng_below(&rng, sizeof(damaged))] = (uint8_t)rng_next(&rng);
        kv_decode(bytes_of(damaged, (size_t)rng_below(&rng, sizeof(damaged) + 1)), &kv);
    }
}

/* ---- intervals ---- */

static void test_interval(void **state)
{
    struct interval i = interval_parse(BYTES_LIT("b"), BYTES_NULL);
    assert_int_equal(i.kind, INTERVAL_POINT);
    assert_true(interval_contains(&i, BYTES_LIT("b")));
    assert_false(interval_contains(&i, BYTES_LIT("b\0")));
    i = interval_parse(BYTES_LIT("b"), BYTES_LIT("\0"));
    assert_int_equal(i.kind, INTERVAL_FROM);
    assert_true(interval_contains(&i, BYTES_LIT("b")) &&
                interval_contains(&i, BYTES_LIT("\xFF\xFF")));
    assert_false(interval_contains(&i, BYTES_LIT("a\xFF")));
    i = interval_parse(BYTES_LIT("\0"), BYTES_LIT("\0"));
    assert_int_equal(i.kind, INTERVAL_FROM);
    i = interval_parse(BYTES_LIT("b"), BYTES_LIT("b"));
    assert_int_equal(i.kind, INTERVAL_EMPTY);
    assert_false(interval_contains(&i, BYTES_LIT("b")));
    assert_int_equal(interval_parse(BYTES_LIT("b"), BYTES_LIT("a")).kind, INTERVAL_EMPTY);
    i = interval_parse(BYTES_LIT("b"), BYTES_LIT("b\0"));
    assert_int_equal(i.kind, INTERVAL_RANGE);
    assert_true(interval_contains(&i, BYTES_LIT("b")));
    assert_false(interval_contains(&i, BYTES_LIT("b\0")));
    i = interval_parse(BYTES_LIT("b"), BYTES_LIT("\0\0"));
    assert_int_equal(i.kind, INTERVAL_EMPTY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_k_order),    cmocka_unit_test(test_k_round_trip),
        cmocka_unit_test(test_k_damaged),  cmocka_unit_test(test_r_and_rest),
        cmocka_unit_test(test_head),       cmocka_unit_test(test_kv_literal),
        cmocka_unit_test(test_kv_foreign), cmocka_unit_test(test_interval),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
