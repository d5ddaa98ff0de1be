/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Growable arrays of plain items: pointer, length and capacity are the owner's; growth is amortised
 * doubling.
 */
#pragma once

#include <stddef.h>

#include "base/mem.h"

static inline void *vec_reserve(void *items, size_t *cap, size_t n, size_t item_bytes)
{
    if (n <= *cap)
        return items;
    size_t c = *cap ? *cap * 2 : 8;
    while (c < n)
        c *= 2;
    *cap = c;
    return mem_realloc(items, c * item_bytes);
}

/* A pointer to a new, zeroed last item. Works on any struct with members items, len and cap. */
#define vec_push(v)                                                                       \
    ((v)->items = vec_reserve((v)->items, &(v)->cap, (v)->len + 1, sizeof(*(v)->items)), \
     memset(&(v)->items[(v)->len], 0, sizeof(*(v)->items)), &(v)->items[(v)->len++])
