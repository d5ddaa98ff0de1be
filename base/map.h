/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hash maps from u64 or from bytes to a pointer. Open addressing with linear probing and
 * backward-shift deletion, grows at 3/4. Not thread-safe. Iteration order is unspecified: never let
 * it reach replicated state or answers. The bytes map borrows its keys: the key must live as long
 * as the entry (usually inside the value).
 */
#pragma once

#include "base/bytes.h"

struct map_u64_slot {
    uint64_t key;
    void *value; /* NULL = free */
};

struct map_u64 {
    struct map_u64_slot *slots;
    size_t cap; /* 0 or a power of two */
    size_t len;
};

#define MAP_U64_NULL ((struct map_u64){NULL, 0, 0})

void map_u64_deinit(struct map_u64 *m);                   /* the values are the caller's */
void *map_u64_get(const struct map_u64 *m, uint64_t key); /* NULL if absent */
/* The value is not NULL. Returns the old one or NULL. */
void *map_u64_put(struct map_u64 *m, uint64_t key, void *value);
void *map_u64_remove(struct map_u64 *m, uint64_t key); /* returns the removed value or NULL */
/* Start with *pos = 0; NULL at the end; key may be NULL. No put or remove in between. */
void *map_u64_next(const struct map_u64 *m, size_t *pos, uint64_t *key);

struct map_bytes_slot {
    struct bytes key;
    uint64_t hash;
    void *value;
};

struct map_bytes {
    struct map_bytes_slot *slots;
    size_t cap;
    size_t len;
};

#define MAP_BYTES_NULL ((struct map_bytes){NULL, 0, 0})

void map_bytes_deinit(struct map_bytes *m);
void map_bytes_clear(struct map_bytes *m); /* keeps the slots' memory */
void *map_bytes_get(const struct map_bytes *m, struct bytes key);
/* Replaces the stored key too. Returns the old value or NULL. */
void *map_bytes_put(struct map_bytes *m, struct bytes key, void *value);
void *map_bytes_remove(struct map_bytes *m, struct bytes key);
void *map_bytes_next(const struct map_bytes *m, size_t *pos, struct bytes *key);

/* By composition roots only, before the first map is made: makes the hashes, and so the iteration
 * order, unpredictable. */
void hash_seed_set(uint64_t seed);
uint64_t hash_u64(uint64_t v);
uint64_t hash_bytes(struct bytes s);
