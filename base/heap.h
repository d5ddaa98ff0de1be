/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A binary min-heap of nodes that live in what they stand for: what is due next, by time or by
 * revision. Nodes of one key come in any order. A zeroed heap is empty, a zeroed node in none. Not
 * thread-safe.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
    int64_t key;
    size_t place; /* from 1; 0: in no heap */
};

struct heap {
    struct heap_node **nodes;
    size_t len, cap;
};

void heap_deinit(struct heap *h); /* the nodes are the caller's */
void heap_push(struct heap *h, struct heap_node *node, int64_t key);
void heap_remove(struct heap *h, struct heap_node *node); /* in no heap: nothing */
struct heap_node *heap_top(const struct heap *h);         /* NULL if empty */

static inline bool heap_linked(const struct heap_node *node)
{
    return node->place > 0;
}
