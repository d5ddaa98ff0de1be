/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request to other members that its maker waits for (see transport.h).
 *
 * Thread: the caller's; fetch_done() the transport's.
 */
#include "server/transport.h"

#include <pthread.h>

struct waiter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void fetch_done(struct transport_fetch *f)
{
    struct waiter *w = f->arg;

    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock); /* the waiter may be gone from here on */
}

void transport_fetch_wait(struct transport *t, struct transport_fetch *f)
{
    struct waiter w = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};

    f->done = fetch_done;
    f->arg = &w;
    t->ops->fetch(t, f);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_cond_destroy(&w.cond);
    pthread_mutex_destroy(&w.lock);
}
