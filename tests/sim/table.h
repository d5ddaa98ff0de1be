/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of u64 to u64, for what the simulator keeps across processes: base/map.h mixes in a seed
 * that is another one in each process. Nothing is ever removed. Key 0 is not used.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"

struct table_slot {
    uint64_t key;
    uint64_t value;
};

struct table {
    struct table_slot *slots;
    size_t cap; /* 0 or a power of two */
    size_t len;
};

static inline uint64_t mix64(uint64_t v)
{
    v = (v ^ v >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    v = (v ^ v >> 29) * UINT64_C(0xbf58476d1ce4e5b9);
    return v ^ v >> 32;
}

static inline struct table_slot *table_find(const struct table *t, uint64_t key)
{
    size_t i = mix64(key) & (t->cap - 1);

    while (t->slots[i].key != 0 && t->slots[i].key != key)
        i = (i + 1) & (t->cap - 1);
    return &t->slots[i];
}

static inline bool table_get(const struct table *t, uint64_t key, uint64_t *ret)
{
    const struct table_slot *s = t->cap ? table_find(t, key) : NULL;

    if (!s || s->key == 0)
        return false;
    *ret = s->value;
    return true;
}

static inline void table_put(struct table *t, uint64_t key, uint64_t value)
{
    if (2 * (t->len + 1) > t->cap) {
        struct table old = *t;
        t->cap = old.cap ? 2 * old.cap : 256;
        t->slots = (struct table_slot *)mem_alloc(t->cap * sizeof(*t->slots));
        for (size_t i = 0; i < old.cap; i++)
            if (old.slots[i].key)
                *table_find(t, old.slots[i].key) = old.slots[i];
        free(old.slots);
    }
    struct table_slot *s = table_find(t, key);
    t->len += s->key == 0;
    *s = (struct table_slot){key, value};
}

static inline void table_deinit(struct table *t)
{
    free(t->slots);
    *t = (struct table){0};
}

/* A fingerprint of bytes, the same in every process. */
static inline uint64_t digest_bytes(uint64_t digest, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t word;

    for (; len >= 8; p += 8, len -= 8) {
        __builtin_memcpy(&word, p, 8);
        digest = mix64(digest ^ word);
    }
    word = len;
    for (; len > 0; len--)
        word = word << 8 | *p++;
    return mix64(digest ^ word ^ UINT64_C(0x5bd1e995));
}
