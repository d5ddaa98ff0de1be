/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Invariants: (1) the node at place p, counted from 1, knows p. (2) Its key is not below that of
 * the node at p / 2. Thread: none of its own.
 */
#include "base/heap.h"

#include "base/check.h"
#include "base/mem.h"

enum { NODES_MIN = 16 };

static void put(struct heap *h, struct heap_node *node, size_t place)
{
    h->nodes[place - 1] = node;
    node->place = place;
}

static struct heap_node *at(const struct heap *h, size_t place)
{
    return h->nodes[place - 1];
}

/* Moves node from the free place up or down to where it belongs. */
static void settle(struct heap *h, struct heap_node *node, size_t place)
{
    size_t child;

    while (place > 1 && at(h, place / 2)->key > node->key) {
        put(h, at(h, place / 2), place);
        place /= 2;
    }
    while ((child = 2 * place) <= h->len) {
        if (child < h->len && at(h, child + 1)->key < at(h, child)->key)
            child++;
        if (at(h, child)->key >= node->key)
            break;
        put(h, at(h, child), place);
        place = child;
    }
    put(h, node, place);
}

void heap_deinit(struct heap *h)
{
    free(h->nodes);
    *h = (struct heap){0};
}

void heap_push(struct heap *h, struct heap_node *node, int64_t key)
{
    check(!heap_linked(node));
    if (h->len == h->cap) {
        h->cap = h->cap ? 2 * h->cap : NODES_MIN;
        h->nodes = mem_realloc(h->nodes, h->cap * sizeof(struct heap_node *));
    }
    node->key = key;
    h->len++;
    settle(h, node, h->len);
}

void heap_remove(struct heap *h, struct heap_node *node)
{
    struct heap_node *last;
    size_t place = node->place;

    if (place == 0)
        return;
    check(place <= h->len && at(h, place) == node);
    last = at(h, h->len--);
    node->place = 0;
    if (last != node)
        settle(h, last, place);
}

struct heap_node *heap_top(const struct heap *h)
{
    return h->len > 0 ? h->nodes[0] : NULL;
}
