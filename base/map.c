/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two open-addressing hash maps with linear probing. Thread: that of the map's owner.
 *
 * Invariants: (1) cap is 0 or a power of two, and len <= 3/4 cap, so a probe always meets a free
 * slot. (2) Between an entry's home slot and its place there is no free slot: a removal moves later
 * entries of the run back instead of leaving a marker. (3) The hash is seeded once per process
 * (hash_seed_set), so that keys chosen by a client cannot be made to collide.
 */
#include "base/map.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

enum { MAP_CAP_MIN = 16 };

static uint64_t hash_seed = 0x2d358dccaa6c78a5;

void hash_seed_set(uint64_t seed)
{
    hash_seed = seed;
}

/* The two halves of the 128-bit product, xored: every input bit reaches every output bit. */
static inline uint64_t hash_fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static inline uint64_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

uint64_t hash_u64(uint64_t v)
{
    return hash_fold(v ^ hash_seed, 0x9e3779b97f4a7c15 ^ (v << 32 | v >> 32));
}

uint64_t hash_bytes(struct bytes s)
{
    const uint8_t *p = s.data;
    size_t left = s.len;
    uint64_t h = hash_fold(hash_seed, 0x8bb84b93962eacc9 ^ s.len);
    for (; left > 16; p += 16, left -= 16)
        h = hash_fold(load_u64(p) ^ h, load_u64(p + 8) ^ 0x4b33a62ed433d4a3);
    uint64_t a = 0, b = 0;
    if (left >= 8) {
        a = load_u64(p);
        b = load_u64(p + left - 8);
    } else if (left >= 4) {
        a = load_u32(p);
        b = load_u32(p + left - 4);
    } else if (left > 0) {
        a = (uint64_t)p[0] << 16 | (uint64_t)p[left / 2] << 8 | p[left - 1];
    }
    return hash_fold(0x4d5a2da51de1aa47 ^ a ^ h, hash_fold(b ^ h, 0xa0761d6478bd642f));
}

static inline bool map_is_full(size_t len, size_t cap)
{
    return (len + 1) * 4 > cap * 3;
}

/* The slot of key, or the free slot where it belongs. */
static struct map_u64_slot *map_u64_find(const struct map_u64 *m, uint64_t key)
{
    size_t mask = m->cap - 1;
    size_t i = hash_u64(key) & mask;
    while (m->slots[i].value && m->slots[i].key != key)
        i = (i + 1) & mask;
    return &m->slots[i];
}

static void map_u64_grow(struct map_u64 *m)
{
    struct map_u64 old = *m;
    m->cap = old.cap ? old.cap * 2 : MAP_CAP_MIN;
    m->slots = mem_alloc(m->cap * sizeof(*m->slots));
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].value)
            *map_u64_find(m, old.slots[i].key) = old.slots[i];
    free(old.slots);
}

void map_u64_deinit(struct map_u64 *m)
{
    if (!m)
        return;
    free(m->slots);
    *m = MAP_U64_NULL;
}

void *map_u64_get(const struct map_u64 *m, uint64_t key)
{
    return m->len ? map_u64_find(m, key)->value : NULL;
}

void *map_u64_put(struct map_u64 *m, uint64_t key, void *value)
{
    check(value);
    if (map_is_full(m->len, m->cap))
        map_u64_grow(m);
    struct map_u64_slot *slot = map_u64_find(m, key);
    void *old = slot->value;
    m->len += !old;
    *slot = (struct map_u64_slot){key, value};
    return old;
}

void *map_u64_remove(struct map_u64 *m, uint64_t key)
{
    if (m->len == 0)
        return NULL;
    struct map_u64_slot *slot = map_u64_find(m, key);
    void *removed = slot->value;
    if (!removed)
        return NULL;
    size_t mask = m->cap - 1;
    size_t hole = (size_t)(slot - m->slots);
    for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
        size_t home = hash_u64(m->slots[i].key) & mask;
        /* An entry may move into the hole if the hole lies on its way from home (2). */
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = (struct map_u64_slot){0, NULL};
    m->len--;
    return removed;
}

void *map_u64_next(const struct map_u64 *m, size_t *pos, uint64_t *key)
{
    while (*pos < m->cap) {
        const struct map_u64_slot *slot = &m->slots[(*pos)++];
        if (!slot->value)
            continue;
        if (key)
            *key = slot->key;
        return slot->value;
    }
    return NULL;
}

static struct map_bytes_slot *map_bytes_find(const struct map_bytes *m, struct bytes key,
                                             uint64_t hash)
{
    size_t mask = m->cap - 1;
    size_t i = hash & mask;
    while (m->slots[i].value && !(m->slots[i].hash == hash && bytes_equal(m->slots[i].key, key)))
        i = (i + 1) & mask;
    return &m->slots[i];
}

static void map_bytes_grow(struct map_bytes *m)
{
    struct map_bytes old = *m;
    m->cap = old.cap ? old.cap * 2 : MAP_CAP_MIN;
    m->slots = mem_alloc(m->cap * sizeof(*m->slots));
    for (size_t i = 0; i < old.cap; i++)
        if (old.slots[i].value)
            *map_bytes_find(m, old.slots[i].key, old.slots[i].hash) = old.slots[i];
    free(old.slots);
}

void map_bytes_deinit(struct map_bytes *m)
{
    if (!m)
        return;
    free(m->slots);
    *m = MAP_BYTES_NULL;
}

void map_bytes_clear(struct map_bytes *m)
{
    if (m->len)
        memset(m->slots, 0, m->cap * sizeof(*m->slots));
    m->len = 0;
}

void *map_bytes_get(const struct map_bytes *m, struct bytes key)
{
    return m->len ? map_bytes_find(m, key, hash_bytes(key))->value : NULL;
}

void *map_bytes_put(struct map_bytes *m, struct bytes key, void *value)
{
    check(value);
    if (map_is_full(m->len, m->cap))
        map_bytes_grow(m);
    uint64_t hash = hash_bytes(key);
    struct map_bytes_slot *slot = map_bytes_find(m, key, hash);
    void *old = slot->value;
    m->len += !old;
    *slot = (struct map_bytes_slot){key, hash, value};
    return old;
}

void *map_bytes_remove(struct map_bytes *m, struct bytes key)
{
    if (m->len == 0)
        return NULL;
    struct map_bytes_slot *slot = map_bytes_find(m, key, hash_bytes(key));
    void *removed = slot->value;
    if (!removed)
        return NULL;
    size_t mask = m->cap - 1;
    size_t hole = (size_t)(slot - m->slots);
    for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
        size_t home = m->slots[i].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = (struct map_bytes_slot){BYTES_NULL, 0, NULL};
    m->len--;
    return removed;
}

void *map_bytes_next(const struct map_bytes *m, size_t *pos, struct bytes *key)
{
    while (*pos < m->cap) {
        const struct map_bytes_slot *slot = &m->slots[(*pos)++];
        if (!slot->value)
            continue;
        if (key)
            *key = slot->key;
        return slot->value;
    }
    return NULL;
}
