/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bump allocator: many small allocations, freed together. One per call and one per apply turn.
 * arena_reset() keeps the newest chunk, which is the largest, so that a reused arena allocates
 * nothing. Not thread-safe. Memory is aligned to 16 bytes, not zeroed; two allocations never share
 * an address, also those of size 0.
 */
#pragma once

#include "base/bytes.h"

struct arena_chunk;

struct arena {
    struct arena_chunk *chunk; /* newest first */
    uint8_t *next;             /* free space in the newest chunk */
    uint8_t *end;
};

void arena_init(struct arena *a);
void arena_deinit(struct arena *a);
void arena_reset(struct arena *a);
void *arena_alloc_slow(struct arena *a, size_t size);

static inline void *arena_alloc(struct arena *a, size_t size)
{
    size = (size + !size + 15) & ~(size_t)15;
    if (size <= (size_t)(a->end - a->next)) {
        void *p = a->next;
        a->next += size;
        return p;
    }
    return arena_alloc_slow(a, size);
}

struct bytes arena_copy(struct arena *a, struct bytes s);
