/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ticker (see ticker.h).
 *
 * Invariant: a tick is TICKER_MS after the start of the one before, or as soon as that has ended;
 * ticks that a busy machine made it miss are not made up for.
 *
 * Thread: run() is the thread.
 */
#include "server/ticker.h"

#include <stdatomic.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/inbox.h"
#include "base/mem.h"

struct ticker {
    void (*tick)(void *arg);
    void *arg;
    struct inbox bell; /* nothing ever comes: for its waiting and waking alone */
    pthread_t thread;
    bool started;
    _Atomic bool stop;
};

struct ticker *ticker_new(void (*tick)(void *arg), void *arg)
{
    struct ticker *t = mem_new(struct ticker);

    t->tick = tick;
    t->arg = arg;
    inbox_init(&t->bell, 0);
    return t;
}

static void *run(void *arg)
{
    struct ticker *t = arg;

    pthread_setname_np(pthread_self(), "ticker");
    while (!atomic_load(&t->stop)) {
        uint64_t next_ms = clock_mono_ms() + TICKER_MS;
        t->tick(t->arg);
        inbox_wait(&t->bell, next_ms);
    }
    return NULL;
}

int ticker_start(struct ticker *t)
{
    int r = pthread_create(&t->thread, NULL, run, t);

    t->started = r == 0;
    return r == 0 ? 0 : err_origin(-r);
}

void ticker_stop(struct ticker *t)
{
    if (!t->started)
        return;
    atomic_store(&t->stop, true);
    inbox_wake(&t->bell);
    pthread_join(t->thread, NULL);
    t->started = false;
}

struct ticker *ticker_free(struct ticker *t)
{
    if (!t)
        return NULL;
    check(!t->started);
    inbox_deinit(&t->bell);
    free(t);
    return NULL;
}
