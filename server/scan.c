/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scan pool (see scan.h).
 *
 * Thread: scan (SCAN_THREADS of them).
 */
#include "server/scan.h"

#include "base/err.h"

static struct scan_job *pop(struct scan_pool *p)
{
    struct scan_job *job;

    pthread_mutex_lock(&p->lock);
    while (!p->first && !p->stopping)
        pthread_cond_wait(&p->cond, &p->lock);
    job = p->first;
    if (job) {
        p->first = job->next;
        if (!p->first)
            p->last = &p->first;
        p->len--;
    }
    pthread_mutex_unlock(&p->lock);
    return job;
}

static void *run(void *arg)
{
    struct scan_job *job;

    pthread_setname_np(pthread_self(), "scan");
    while ((job = pop(arg)))
        job->run(job);
    return NULL;
}

int scan_start(struct scan_pool *p)
{
    *p = (struct scan_pool){.len = 0};
    p->last = &p->first;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->cond, NULL);
    for (; p->n_threads < SCAN_THREADS; p->n_threads++) {
        int r = pthread_create(&p->threads[p->n_threads], NULL, run, p);
        if (r != 0) {
            scan_stop(p);
            return err_origin(-r);
        }
    }
    return 0;
}

bool scan_push(struct scan_pool *p, struct scan_job *job)
{
    bool ok;

    job->next = NULL;
    pthread_mutex_lock(&p->lock);
    ok = !p->stopping && p->len < SCAN_JOBS_MAX;
    if (ok) {
        *p->last = job;
        p->last = &job->next;
        p->len++;
        pthread_cond_signal(&p->cond);
    }
    pthread_mutex_unlock(&p->lock);
    return ok;
}

void scan_stop(struct scan_pool *p)
{
    if (!p->last)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    p->n_threads = 0;
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
    p->last = NULL;
}
