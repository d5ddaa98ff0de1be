/* SPDX-License-Identifier: Apache-2.0 */
/* Digests: SHA-1 and SHA-256 (OpenSSL), CRC-32C (own, SSE4.2 where the processor has it). */
#pragma once

#include "base/bytes.h"

enum { SHA1_LEN = 20, SHA256_LEN = 32 };

void sha1(struct bytes s, uint8_t ret[SHA1_LEN]);
void sha256(struct bytes s, uint8_t ret[SHA256_LEN]);

/* SHA-256 of what comes in parts. */
struct sha256_parts;
struct sha256_parts *sha256_new(void);
void sha256_add(struct sha256_parts *d, struct bytes s);
void sha256_finish(struct sha256_parts *d, uint8_t ret[SHA256_LEN]); /* once, after all parts */
struct sha256_parts *sha256_free(struct sha256_parts *d);            /* accepts NULL */

/* CRC-32C of a ++ s, given crc of a; start with 0. Init and final xor are inside, so crc32c(0, x)
 * is the standard digest. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);
/* CRC-32C of a ++ b from those of a and b and the length of b. O(log len_b). */
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t len_b);
