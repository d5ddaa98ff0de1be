/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A set-associative cache: the key's hash chooses a set, a set has four places, a newcomer takes an
 * empty one or the next in turn. No lists, no clock, nothing to rehash; a lookup touches one line
 * of tags and, if a tag fits, one entry.
 *
 * Invariant: a key is in its set at most once.
 *
 * Thread: the apply turn (one at a time, under apply's turn lock).
 */
#include "storage/head_cache.h"

#include "base/map.h"
#include "base/mem.h"

struct entry {
    struct head head;
    uint16_t len;
    uint8_t key[];
};

struct set {
    uint32_t tags[HEAD_CACHE_WAYS];       /* of the entries, high bits of the hash */
    struct entry *entries[HEAD_CACHE_WAYS];
    uint32_t next;                        /* the place to take when all are full */
};

struct head_cache {
    struct set sets[HEAD_CACHE_SETS];
};

struct head_cache *head_cache_new(void)
{
    return mem_new(struct head_cache);
}

struct head_cache *head_cache_free(struct head_cache *c)
{
    for (size_t i = 0; c && i < HEAD_CACHE_SETS; i++)
        for (size_t way = 0; way < HEAD_CACHE_WAYS; way++)
            free(c->sets[i].entries[way]);
    free(c);
    return NULL;
}

static bool holds(const struct set *set, size_t way, uint32_t tag, struct bytes key)
{
    const struct entry *e = set->entries[way];

    return e && set->tags[way] == tag && bytes_equal(bytes_of(e->key, e->len), key);
}

/* The key's place, or HEAD_CACHE_WAYS. */
static size_t find(const struct set *set, uint32_t tag, struct bytes key)
{
    size_t way = 0;

    while (way < HEAD_CACHE_WAYS && !holds(set, way, tag, key))
        way++;
    return way;
}

bool head_cache_get(const struct head_cache *c, struct bytes key, struct head *ret)
{
    uint64_t hash = hash_bytes(key);
    const struct set *set = &c->sets[hash % HEAD_CACHE_SETS];
    size_t way = find(set, (uint32_t)(hash >> 32), key);

    if (way == HEAD_CACHE_WAYS)
        return false;
    *ret = set->entries[way]->head;
    return true;
}

static size_t choose_place(struct set *set)
{
    for (size_t way = 0; way < HEAD_CACHE_WAYS; way++) {
        if (!set->entries[way])
            return way;
    }
    return set->next++ % HEAD_CACHE_WAYS;
}

void head_cache_put(struct head_cache *c, struct bytes key, const struct head *head)
{
    uint64_t hash = hash_bytes(key);
    struct set *set = &c->sets[hash % HEAD_CACHE_SETS];
    uint32_t tag = (uint32_t)(hash >> 32);
    size_t way = find(set, tag, key);

    if (way < HEAD_CACHE_WAYS) {
        set->entries[way]->head = *head;
        return;
    }
    if (key.len > HEAD_CACHE_KEY_BYTES_MAX)
        return;
    way = choose_place(set);
    free(set->entries[way]);
    struct entry *e = mem_alloc_raw(sizeof(*e) + key.len);
    e->head = *head;
    e->len = (uint16_t)key.len;
    memcpy(e->key, key.data, key.len);
    set->entries[way] = e;
    set->tags[way] = tag;
}

void head_cache_remove(struct head_cache *c, struct bytes key)
{
    uint64_t hash = hash_bytes(key);
    struct set *set = &c->sets[hash % HEAD_CACHE_SETS];
    size_t way = find(set, (uint32_t)(hash >> 32), key);

    if (way == HEAD_CACHE_WAYS)
        return;
    free(set->entries[way]);
    set->entries[way] = NULL;
}
