/* SPDX-License-Identifier: Apache-2.0 */
/* An intrusive doubly linked ring. A node that is in no list links to itself or is zeroed. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"

struct list {
    struct list *prev;
    struct list *next;
};

#define container_of(p, type, member) ((type *)(void *)((char *)(p)-offsetof(type, member)))
#define list_for_each(it, head) for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_for_each_safe(it, tmp, head)                                                          \
    for (struct list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

static inline void list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool list_empty(const struct list *head)
{
    return head->next == head;
}

static inline bool list_linked(const struct list *l)
{
    return l->next && l->next != l;
}

static inline void list_insert(struct list *after, struct list *l)
{
    check(!list_linked(l));
    l->prev = after;
    l->next = after->next;
    after->next->prev = l;
    after->next = l;
}

static inline void list_push(struct list *head, struct list *l) /* at the end */
{
    list_insert(head->prev, l);
}

static inline void list_remove(struct list *l)
{
    if (!l->next)
        return;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    list_init(l);
}

static inline struct list *list_pop(struct list *head) /* from the front; NULL if empty */
{
    struct list *l = head->next;
    if (l == head)
        return NULL;
    list_remove(l);
    return l;
}
