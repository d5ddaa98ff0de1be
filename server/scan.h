/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small bounded pool for work that reads much: long ranges, hashes, defragmentation. Two threads,
 * so that one long job delays the others but not everything.
 *
 * Thread: scan_push() any.
 */
#pragma once

#include <pthread.h>

#include "server/server.h"

enum { SCAN_THREADS = 2, SCAN_JOBS_MAX = 4096 };

struct scan_pool {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct scan_job *first;
    struct scan_job **last;
    size_t len;
    bool stopping;
    pthread_t threads[SCAN_THREADS];
    size_t n_threads;
};

int scan_start(struct scan_pool *p);
bool scan_push(struct scan_pool *p, struct scan_job *job);
/* Runs what is queued, then joins. */
void scan_stop(struct scan_pool *p);
