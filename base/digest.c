/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Digests. SHA comes from OpenSSL; CRC-32C is our own, because HashKV and the raft log need it over
 * every byte and need to combine checksums of parts. Thread: any; the tables are filled before
 * main() and never change.
 *
 * A CRC is a polynomial over GF(2) modulo P = 0x82F63B78, bit-reflected: bit 31 of the word is the
 * coefficient of x^0. Appending n bytes multiplies the register by x^(8n), so
 *
 *     crc(a ++ b) = crc(a) * x^(8 len(b)) + crc(b)      (the initial and final inversions cancel
 * out)
 *
 * and the powers x^(8 * 2^k) are kept in a table: one multiplication for each bit set in len(b).
 *
 * Three ways to do it, chosen once: the crc32 instruction in three interleaved streams (its latency
 * is three cycles, its throughput one) with carry-less multiplication to join them; slicing by 8
 * and bitwise multiplication everywhere else.
 */
#include "base/digest.h"

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "base/check.h"
#include "base/digest_crc.h"

#define CRC32C_P 0x82f63b78u

enum { CRC32C_POWERS = 64 };

static uint32_t crc_tables[8][256];        /* [i][byte]: byte followed by i zero bytes */
static uint32_t crc_powers[CRC32C_POWERS]; /* x^(8 * 2^k) mod P */

void sha1(struct bytes s, uint8_t ret[SHA1_LEN])
{
    check(SHA1(s.len ? s.data : (const uint8_t *)"", s.len, ret));
}

void sha256(struct bytes s, uint8_t ret[SHA256_LEN])
{
    check(SHA256(s.len ? s.data : (const uint8_t *)"", s.len, ret));
}

/* The parts are OpenSSL's: struct sha256_parts is never defined. */
struct sha256_parts *sha256_new(void)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    check(context && EVP_DigestInit_ex(context, EVP_sha256(), NULL));
    return (struct sha256_parts *)context;
}

void sha256_add(struct sha256_parts *d, struct bytes s)
{
    check(EVP_DigestUpdate((EVP_MD_CTX *)d, s.data, s.len));
}

void sha256_finish(struct sha256_parts *d, uint8_t ret[SHA256_LEN])
{
    check(EVP_DigestFinal_ex((EVP_MD_CTX *)d, ret, NULL));
}

struct sha256_parts *sha256_free(struct sha256_parts *d)
{
    EVP_MD_CTX_free((EVP_MD_CTX *)d);
    return NULL;
}

/* a * b mod P, both reflected. */
static uint32_t crc_multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;
    for (; a; a <<= 1) {
        product ^= b & -(a >> 31);
        b = (b >> 1) ^ (CRC32C_P & -(b & 1));
    }
    return product;
}

static uint32_t crc_power(uint32_t base, uint64_t exponent)
{
    uint32_t result = 1u << 31;
    for (; exponent; exponent >>= 1, base = crc_multiply(base, base))
        if (exponent & 1)
            result = crc_multiply(result, base);
    return result;
}

static inline uint64_t load_u64_le(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

uint32_t crc32c_portable(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v = load_u64_le(p) ^ crc;
        crc = 0;
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++)
            crc ^= crc_tables[7 - i][(v >> (8 * i)) & 0xff];
    }
    for (; len; p++, len--)
        crc = (crc >> 8) ^ crc_tables[0][(crc ^ *p) & 0xff];
    return ~crc;
}

uint32_t crc32c_combine_portable(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    for (int k = 0; len_b; k++, len_b >>= 1)
        if (len_b & 1)
            crc_a = crc_multiply(crc_a, crc_powers[k]);
    return crc_a ^ crc_b;
}

static void crc_tables_fill(void)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int i = 0; i < 8; i++)
            crc = (crc >> 1) ^ (CRC32C_P & -(crc & 1));
        crc_tables[0][byte] = crc;
    }
    for (unsigned byte = 0; byte < 256; byte++)
        for (int i = 1; i < 8; i++)
            crc_tables[i][byte] =
                (crc_tables[i - 1][byte] >> 8) ^ crc_tables[0][crc_tables[i - 1][byte] & 0xff];
    crc_powers[0] = 1u << (31 - 8);
    for (int k = 1; k < CRC32C_POWERS; k++)
        crc_powers[k] = crc_multiply(crc_powers[k - 1], crc_powers[k - 1]);
}

#if defined(__x86_64__)

#include <immintrin.h>

#define CRC_TARGET __attribute__((target("sse4.2,pclmul")))

enum { CRC_STREAM_LEN_LARGE = 4096, CRC_STREAM_LEN_SMALL = 256 };

/*
 * The carry-less product of two reflected words carries one factor of x too many, and the crc32
 * instruction multiplies by x^32 while it reduces: factors for crc_multiply_hw() are kept divided
 * by x^33. The order of x modulo P is 2^31 - 1.
 */
#define CRC_X_ORDER 0x7fffffffu

static bool crc_hw;
static uint32_t crc_powers_hw[CRC32C_POWERS]; /* x^(8 * 2^k - 33) mod P */
static uint32_t crc_stream_hw[2][2];          /* [large, small][skip two streams, skip one] */

CRC_TARGET static inline uint32_t crc_multiply_hw(uint32_t a, uint32_t factor)
{
    __m128i product =
        _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)a), _mm_cvtsi32_si128((int)factor), 0);
    return (uint32_t)_mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three neighbouring streams of stream_len bytes each, starting from register crc. */
CRC_TARGET static inline uint32_t crc_three_streams(uint32_t crc, const uint8_t *p,
                                                    size_t stream_len, const uint32_t skip[2])
{
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < stream_len; i += 8) {
        a = _mm_crc32_u64(a, load_u64_le(p + i));
        b = _mm_crc32_u64(b, load_u64_le(p + stream_len + i));
        c = _mm_crc32_u64(c, load_u64_le(p + 2 * stream_len + i));
    }
    return crc_multiply_hw((uint32_t)a, skip[0]) ^ crc_multiply_hw((uint32_t)b, skip[1]) ^
           (uint32_t)c;
}

CRC_TARGET static uint32_t crc32c_hw(uint32_t crc, const uint8_t *p, size_t len)
{
    crc = ~crc;
    for (; len >= 3 * CRC_STREAM_LEN_LARGE;
         p += 3 * CRC_STREAM_LEN_LARGE, len -= 3 * CRC_STREAM_LEN_LARGE)
        crc = crc_three_streams(crc, p, CRC_STREAM_LEN_LARGE, crc_stream_hw[0]);
    for (; len >= 3 * CRC_STREAM_LEN_SMALL;
         p += 3 * CRC_STREAM_LEN_SMALL, len -= 3 * CRC_STREAM_LEN_SMALL)
        crc = crc_three_streams(crc, p, CRC_STREAM_LEN_SMALL, crc_stream_hw[1]);
    for (; len >= 8; p += 8, len -= 8)
        crc = (uint32_t)_mm_crc32_u64(crc, load_u64_le(p));
    for (; len; p++, len--)
        crc = _mm_crc32_u8(crc, *p);
    return ~crc;
}

CRC_TARGET static uint32_t crc32c_combine_hw(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    for (; len_b; len_b &= len_b - 1)
        crc_a = crc_multiply_hw(crc_a, crc_powers_hw[__builtin_ctzll(len_b)]);
    return crc_a ^ crc_b;
}

static void crc_hw_fill(void)
{
    __builtin_cpu_init();
    crc_hw = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
    uint32_t x_to_minus_33 = crc_power(1u << 30, CRC_X_ORDER - 33);
    for (int k = 0; k < CRC32C_POWERS; k++)
        crc_powers_hw[k] = crc_multiply(crc_powers[k], x_to_minus_33);
    for (int i = 0; i < 2; i++) {
        uint64_t stream_bits = 8 * (i == 0 ? CRC_STREAM_LEN_LARGE : CRC_STREAM_LEN_SMALL);
        for (int j = 0; j < 2; j++)
            crc_stream_hw[i][j] =
                crc_multiply(crc_power(1u << 30, (2 - (uint64_t)j) * stream_bits), x_to_minus_33);
    }
}

#else

enum { crc_hw = 0 };

static uint32_t crc32c_hw(uint32_t crc, const uint8_t *p, size_t len)
{
    return crc32c_portable(crc, p, len);
}

static uint32_t crc32c_combine_hw(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    return crc32c_combine_portable(crc_a, crc_b, len_b);
}

static void crc_hw_fill(void)
{
}

#endif

__attribute__((constructor)) static void crc_setup(void)
{
    crc_tables_fill();
    crc_hw_fill();
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
    return crc_hw ? crc32c_hw(crc, data, len) : crc32c_portable(crc, data, len);
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b)
{
    return crc_hw ? crc32c_combine_hw(crc_a, crc_b, len_b)
                  : crc32c_combine_portable(crc_a, crc_b, len_b);
}
