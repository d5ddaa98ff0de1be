/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A mutex, a chain and one condition variable. Thread: any number of producers, one consumer.
 *
 * The lock guards every field and is a leaf: nothing else is locked under it, and it is held for a
 * few instructions only.
 *
 * Invariants: (1) first is NULL and last points to it exactly when len is 0. (2) waiting is true
 * only from the consumer's decision to sleep to the first producer that signals; that producer
 * clears it, so one sleep costs one signal however many items follow; one pushed quietly waits for
 * inbox_signal(). (3) The signal is sent after the lock is given back, so that the consumer does
 * not wake up into a held lock.
 */
#include "base/inbox.h"

#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/cond.h"

/* A longer sleep is made of several. */
enum { INBOX_WAIT_MS_MAX = 24 * 3600 * 1000 };

void inbox_init(struct inbox *b, size_t len_max)
{
    *b = (struct inbox){.len_max = len_max};
    b->last = &b->first;
    check(pthread_mutex_init(&b->lock, NULL) == 0);
    cond_init(&b->cond);
}

void inbox_deinit(struct inbox *b)
{
    if (!b)
        return;
    check(!b->first && !b->waiting);
    pthread_cond_destroy(&b->cond);
    pthread_mutex_destroy(&b->lock);
}

static void inbox_lock(struct inbox *b)
{
    check(pthread_mutex_lock(&b->lock) == 0);
}

/* Ends the critical section; wakes the consumer if it sleeps (2, 3). */
static void inbox_unlock_and_signal(struct inbox *b)
{
    bool signal = b->waiting;
    b->waiting = false;
    check(pthread_mutex_unlock(&b->lock) == 0);
    if (signal)
        pthread_cond_signal(&b->cond);
}

enum inbox_push { PUSH_BOUNDED, PUSH_QUIETLY, PUSH_ALWAYS };

static bool inbox_append(struct inbox *b, struct inbox_item *first, struct inbox_item *last,
                         size_t len, enum inbox_push push)
{
    inbox_lock(b);
    if (push != PUSH_ALWAYS && (b->closed || len > b->len_max || b->len > b->len_max - len)) {
        check(pthread_mutex_unlock(&b->lock) == 0);
        return false;
    }
    last->next = NULL;
    *b->last = first;
    b->last = &last->next;
    b->len += len;
    if (push == PUSH_QUIETLY)
        check(pthread_mutex_unlock(&b->lock) == 0);
    else
        inbox_unlock_and_signal(b);
    return true;
}

bool inbox_push(struct inbox *b, struct inbox_item *item)
{
    return inbox_append(b, item, item, 1, PUSH_BOUNDED);
}

bool inbox_push_quietly(struct inbox *b, struct inbox_item *item)
{
    return inbox_append(b, item, item, 1, PUSH_QUIETLY);
}

void inbox_signal(struct inbox *b)
{
    inbox_lock(b);
    if (b->first)
        inbox_unlock_and_signal(b);
    else
        check(pthread_mutex_unlock(&b->lock) == 0);
}

bool inbox_push_chain(struct inbox *b, struct inbox_item *first, struct inbox_item *last,
                      size_t len)
{
    check(first && last && len > 0);
    return inbox_append(b, first, last, len, PUSH_BOUNDED);
}

void inbox_push_always(struct inbox *b, struct inbox_item *item)
{
    check(inbox_append(b, item, item, 1, PUSH_ALWAYS));
}

struct inbox_item *inbox_drain(struct inbox *b, size_t *ret_len)
{
    inbox_lock(b);
    struct inbox_item *first = b->first;
    size_t len = b->len;
    b->first = NULL;
    b->last = &b->first;
    b->len = 0;
    check(pthread_mutex_unlock(&b->lock) == 0);
    check(!first == (len == 0));
    if (ret_len)
        *ret_len = len;
    return first;
}

/* Deadlines count on the clock of base/clock.h; the condition variable cannot, so it sleeps for the
 * difference. */
static struct timespec inbox_sleep_until(uint64_t wait_ms)
{
    return cond_until((wait_ms < INBOX_WAIT_MS_MAX ? wait_ms : INBOX_WAIT_MS_MAX) * 1000000);
}

void inbox_wait(struct inbox *b, uint64_t deadline_ms)
{
    inbox_lock(b);
    while (!b->first && !b->woken && !b->closed) {
        b->waiting = true;
        if (deadline_ms == UINT64_MAX) {
            pthread_cond_wait(&b->cond, &b->lock);
            continue;
        }
        uint64_t now_ms = clock_mono_ms();
        if (now_ms >= deadline_ms)
            break;
        struct timespec until = inbox_sleep_until(deadline_ms - now_ms);
        pthread_cond_timedwait(&b->cond, &b->lock, &until);
    }
    b->waiting = false;
    b->woken = false;
    check(pthread_mutex_unlock(&b->lock) == 0);
}

void inbox_wake(struct inbox *b)
{
    inbox_lock(b);
    b->woken = true;
    inbox_unlock_and_signal(b);
}

void inbox_close(struct inbox *b)
{
    inbox_lock(b);
    b->closed = true;
    inbox_unlock_and_signal(b);
}

size_t inbox_len(struct inbox *b)
{
    inbox_lock(b);
    size_t len = b->len;
    check(pthread_mutex_unlock(&b->lock) == 0);
    return len;
}
