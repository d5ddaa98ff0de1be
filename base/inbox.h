/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bounded many-to-one inbox: producers push single items or whole chains, one consumer drains
 * everything at once. A full inbox refuses (an answer to the client, not growth). The consumer is
 * woken only when it sleeps and the inbox was empty, so a busy consumer costs its producers no
 * system call.
 *
 * Thread: any number of producers, one consumer. The items are embedded: container_of(item, struct
 * x, inbox_item).
 */
#pragma once

#include <pthread.h>

#include "base/bytes.h"

struct inbox_item {
    struct inbox_item *next;
};

struct inbox {
    pthread_mutex_t lock;
    pthread_cond_t cond; /* CLOCK_MONOTONIC */
    struct inbox_item *first;
    struct inbox_item **last;
    size_t len;
    size_t len_max;
    bool waiting; /* the consumer sleeps in inbox_wait() and nobody has signalled it yet */
    bool closed;
    bool woken; /* inbox_wake() came while nobody slept */
};

void inbox_init(struct inbox *b, size_t len_max);
void inbox_deinit(struct inbox *b); /* must be empty */
/* False: full or closed; the item stays the caller's. */
bool inbox_push(struct inbox *b, struct inbox_item *item);
/* The same, but a consumer that sleeps sleeps on, until somebody wakes it: the caller has more at
 * hand, and calls inbox_signal() behind the last. */
bool inbox_push_quietly(struct inbox *b, struct inbox_item *item);
void inbox_signal(struct inbox *b); /* wakes the consumer if there is something for it */
/* All or nothing: the len items from first to last, linked by next (that of last is overwritten).
 * One lock for the whole chain. */
bool inbox_push_chain(struct inbox *b, struct inbox_item *first, struct inbox_item *last,
                      size_t len);
/* Ignores len_max and closed: for control items, bounded elsewhere. */
void inbox_push_always(struct inbox *b, struct inbox_item *item);
/* The whole chain in push order, NULL if empty; never blocks. ret_len may be NULL. */
struct inbox_item *inbox_drain(struct inbox *b, size_t *ret_len);
/*
 * Waits until there is an item, inbox_wake() was called, the inbox is closed (then it never sleeps
 * again), or clock_mono_ms() reaches the deadline (UINT64_MAX: none).
 */
void inbox_wait(struct inbox *b, uint64_t deadline_ms);
void inbox_wake(struct inbox *b);  /* ends one inbox_wait(), now or the next */
void inbox_close(struct inbox *b); /* later pushes are refused; wakes the consumer */
size_t inbox_len(struct inbox *b);
