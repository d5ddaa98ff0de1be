/* SPDX-License-Identifier: Apache-2.0 */
/* A seeded generator (xoshiro256**, seeded by splitmix64). Same seed, same numbers, everywhere. Not
 * for secrets. */
#pragma once

#include <stdint.h>

struct rng {
    uint64_t s[4];
};

void rng_init(struct rng *r, uint64_t seed);
uint64_t rng_next(struct rng *r);
uint64_t rng_below(struct rng *r, uint64_t n); /* uniform in [0, n), n > 0, without modulo bias */
uint64_t rng_entropy(void); /* a seed from the kernel; only composition roots call it */
