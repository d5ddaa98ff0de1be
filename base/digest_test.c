/* SPDX-License-Identifier: Apache-2.0 */
/* Digests: published vectors, and for CRC-32C every way to compute it against the others. */
#include "base/digest.h"

#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/digest_crc.h"
#include "base/rng.h"

static void assert_hex(const uint8_t *digest, size_t len, const char *expected)
{
    char hex[80];
    for (size_t i = 0; i < len; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, expected);
}

static void test_sha(void **state)
{
    uint8_t d[SHA256_LEN];
    sha1(BYTES_LIT("abc"), d);
    assert_hex(d, SHA1_LEN, "a9993e364706816aba3e25717850c26c9cd0d89d");
    sha1(BYTES_NULL, d);
    assert_hex(d, SHA1_LEN, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    sha256(BYTES_LIT("abc"), d);
    assert_hex(d, SHA256_LEN, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256(BYTES_NULL, d);
    assert_hex(d, SHA256_LEN, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

/* RFC 3720, appendix B.4, and the usual check value. */
static void test_crc_vectors(void **state)
{
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    const uint8_t read_pdu[48] = {
        0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 4, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2,    0, 0, 0, 0, 0, 0, 0,
    };
    uint32_t (*const ways[])(uint32_t, const void *, size_t) = {crc32c, crc32c_portable};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ways[i](0, zeros, 32), 0x8a9136aa);
        assert_int_equal(ways[i](0, ones, 32), 0x62a8ab43);
        assert_int_equal(ways[i](0, up, 32), 0x46dd794e);
        assert_int_equal(ways[i](0, down, 32), 0x113fdb5c);
        assert_int_equal(ways[i](0, read_pdu, 48), 0xd9963a56);
        assert_int_equal(ways[i](0, "123456789", 9), 0xe3069283);
        assert_int_equal(ways[i](0, NULL, 0), 0);
    }
}

static uint8_t noise[100000];

static void noise_fill(void)
{
    struct rng r;
    rng_init(&r, 3);
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)rng_next(&r);
}

static uint32_t crc_bitwise(uint32_t crc, const uint8_t *p, size_t len)
{
    for (crc = ~crc; len; len--) {
        crc ^= *p++;
        for (int i = 0; i < 8; i++)
            crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void test_crc_ways_agree(void **state)
{
    struct rng r;
    rng_init(&r, 4);
    for (size_t len = 0; len < 3000; len++) {
        const uint8_t *p = noise + rng_below(&r, 64);
        uint32_t start = (uint32_t)rng_next(&r);
        uint32_t expected = crc_bitwise(start, p, len);
        assert_int_equal(crc32c(start, p, len), expected);
        assert_int_equal(crc32c_portable(start, p, len), expected);
    }
    for (int i = 0; i < 300; i++) {
        size_t at = rng_below(&r, 1000), len = rng_below(&r, sizeof(noise) - 1000);
        assert_int_equal(crc32c(7, noise + at, len), crc32c_portable(7, noise + at, len));
    }
}

static void test_combine(void **state)
{
    struct rng r;
    rng_init(&r, 5);
    for (int i = 0; i < 2000; i++) {
        size_t len_a = rng_below(&r, 5000), len_b = rng_below(&r, 1 + rng_below(&r, 60000));
        uint32_t a = crc32c(0, noise, len_a), b = crc32c(0, noise + len_a, len_b);
        uint32_t whole = crc32c(0, noise, len_a + len_b);
        assert_int_equal(crc32c(a, noise + len_a, len_b), whole);
        assert_int_equal(crc32c_combine(a, b, len_b), whole);
        assert_int_equal(crc32c_combine_portable(a, b, len_b), whole);
    }
}

/* Lengths that no memory holds: combining is associative, and both ways agree. */
static void test_combine_huge(void **state)
{
    struct rng r;
    rng_init(&r, 6);
    for (int i = 0; i < 2000; i++) {
        uint32_t a = (uint32_t)rng_next(&r), b = (uint32_t)rng_next(&r), c = (uint32_t)rng_next(&r);
        uint64_t len_b = rng_next(&r) >> 1, len_c = rng_next(&r) >> (1 + rng_below(&r, 60));
        uint32_t left = crc32c_combine(crc32c_combine(a, b, len_b), c, len_c);
        assert_int_equal(left, crc32c_combine(a, crc32c_combine(b, c, len_c), len_b + len_c));
        assert_int_equal(crc32c_combine(a, b, len_b), crc32c_combine_portable(a, b, len_b));
    }
    assert_int_equal(crc32c_combine(0x12345678, 0, 0), 0x12345678);
}

static void test_sha_parts(void **state)
{
    struct rng r;
    rng_init(&r, 7);
    for (int i = 0; i < 50; i++) {
        size_t len = rng_below(&r, sizeof(noise)), at = 0;
        uint8_t whole[SHA256_LEN], parts[SHA256_LEN];
        struct sha256_parts *d = sha256_new();
        while (at < len) {
            size_t part = rng_below(&r, len - at + 1);
            sha256_add(d, bytes_of(noise + at, part));
            at += part;
        }
        sha256_finish(d, parts);
        sha256_free(d);
        sha256(bytes_of(noise, len), whole);
        assert_memory_equal(parts, whole, sizeof(whole));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha),         cmocka_unit_test(test_sha_parts),
        cmocka_unit_test(test_crc_vectors), cmocka_unit_test(test_crc_ways_agree),
        cmocka_unit_test(test_combine),     cmocka_unit_test(test_combine_huge),
    };
    noise_fill();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
