/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests with threads: requests that are waited for.
 */
#pragma once

#include <pthread.h>

#include "server/test_box.h"

/* A request that another thread finishes. */
struct wait_call {
    struct call call;
    pthread_mutex_t lock;
    pthread_cond_t cond;
};

static inline void finish_and_wake(struct request *request, enum outcome outcome)
{
    struct wait_call *w = container_of(request, struct wait_call, call.request);

    pthread_mutex_lock(&w->lock);
    call_finish(request, outcome);
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static inline void wait_call_init(struct wait_call *w)
{
    w->call.request.finish = finish_and_wake;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->cond, NULL);
}

static inline int wait_call_outcome(struct wait_call *w)
{
    pthread_mutex_lock(&w->lock);
    while (w->call.outcome == CALL_WAITS)
        pthread_cond_wait(&w->cond, &w->lock);
    pthread_mutex_unlock(&w->lock);
    check(w->call.n_finished == 1);
    call_deinit(&w->call);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
    return w->call.outcome;
}

static inline int submit_and_wait(struct box *b, struct wait_call *w)
{
    wait_call_init(w);
    server_submit(b->s, &w->call.request);
    return wait_call_outcome(w);
}
