/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The chunks behind the bump allocator. Thread: that of the arena's owner.
 *
 * Invariants: (1) next..end is the free space of the newest chunk, both NULL without one. (2)
 * Regular chunks double in size up to ARENA_CHUNK_SIZE_MAX, so the newest is the largest of them.
 * (3) A request too large for a regular chunk gets a chunk of its own behind the newest one, which
 * stays open; no reset keeps it.
 */
#include "base/arena.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

enum { ARENA_CHUNK_SIZE_MIN = 2048, ARENA_CHUNK_SIZE_MAX = 64 * 1024 };

struct arena_chunk {
    struct arena_chunk *next; /* older */
    size_t size;              /* of data */
    _Alignas(16) uint8_t data[];
};

static struct arena_chunk *chunk_new(size_t size)
{
    check(size <= SIZE_MAX - sizeof(struct arena_chunk));
    struct arena_chunk *c = mem_alloc_raw(sizeof(*c) + size);
    c->next = NULL;
    c->size = size;
    return c;
}

static void chunks_free(struct arena_chunk *c)
{
    while (c) {
        struct arena_chunk *next = c->next;
        free(c);
        c = next;
    }
}

void arena_init(struct arena *a)
{
    *a = (struct arena){NULL, NULL, NULL};
}

void arena_deinit(struct arena *a)
{
    if (!a)
        return;
    chunks_free(a->chunk);
    arena_init(a);
}

void arena_reset(struct arena *a)
{
    struct arena_chunk *c = a->chunk;
    if (!c)
        return;
    chunks_free(c->next);
    c->next = NULL;
    a->next = c->data;
    a->end = c->data + c->size;
}

static void arena_grow(struct arena *a, size_t size)
{
    size_t chunk_size = a->chunk ? a->chunk->size * 2 : ARENA_CHUNK_SIZE_MIN;
    while (chunk_size < size)
        chunk_size *= 2;
    if (chunk_size > ARENA_CHUNK_SIZE_MAX)
        chunk_size = ARENA_CHUNK_SIZE_MAX;
    struct arena_chunk *c = chunk_new(chunk_size);
    c->next = a->chunk;
    a->chunk = c;
    a->next = c->data;
    a->end = c->data + c->size;
}

void *arena_alloc_slow(struct arena *a, size_t size)
{
    check(size % 16 == 0 && size > 0);
    if (size <= ARENA_CHUNK_SIZE_MAX) {
        arena_grow(a, size);
        check(size <= (size_t)(a->end - a->next));
        void *p = a->next;
        a->next += size;
        return p;
    }
    if (!a->chunk)
        arena_grow(a, ARENA_CHUNK_SIZE_MIN);
    struct arena_chunk *c = chunk_new(size);
    c->next = a->chunk->next;
    a->chunk->next = c;
    return c->data;
}

struct bytes arena_copy(struct arena *a, struct bytes s)
{
    if (s.len == 0)
        return bytes_of("", 0);
    void *p = arena_alloc(a, s.len);
    memcpy(p, s.data, s.len);
    return bytes_of(p, s.len);
}
