/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scan pool: every accepted job runs once, also at the stop; a full or stopping pool refuses.
 */
#include "server/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdatomic.h>

#include "base/list.h"
#include "base/mem.h"

/* Jobs that wait hold the threads until the test opens the gate. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned inside;
    bool open;
};

struct job {
    struct scan_job job;
    struct gate *gate; /* NULL: does not wait */
    _Atomic unsigned runs;
};

static void run(struct scan_job *scan_job)
{
    struct job *j = container_of(scan_job, struct job, job);

    atomic_fetch_add(&j->runs, 1);
    if (!j->gate)
        return;
    pthread_mutex_lock(&j->gate->lock);
    j->gate->inside++;
    pthread_cond_broadcast(&j->gate->cond);
    while (!j->gate->open)
        pthread_cond_wait(&j->gate->cond, &j->gate->lock);
    pthread_mutex_unlock(&j->gate->lock);
}

static void gate_wait_inside(struct gate *g, unsigned n)
{
    pthread_mutex_lock(&g->lock);
    while (g->inside < n)
        pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

static void test_full(void **state)
{
    struct scan_pool p;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct job *jobs = mem_alloc((SCAN_JOBS_MAX + SCAN_THREADS + 1) * sizeof(*jobs));
    struct job *refused = &jobs[SCAN_JOBS_MAX + SCAN_THREADS];

    assert_int_equal(scan_start(&p), 0);
    for (size_t i = 0; i < SCAN_THREADS; i++) {
        jobs[i] = (struct job){.job.run = run, .gate = &gate};
        assert_true(scan_push(&p, &jobs[i].job));
    }
    gate_wait_inside(&gate,
                     SCAN_THREADS); /* both threads at once: one long job does not hold all */
    for (size_t i = SCAN_THREADS; i < SCAN_JOBS_MAX + SCAN_THREADS; i++) {
        jobs[i] = (struct job){.job.run = run};
        assert_true(scan_push(&p, &jobs[i].job));
    }
    *refused = (struct job){.job.run = run};
    assert_false(scan_push(&p, &refused->job));
    gate_open(&gate);
    scan_stop(&p); /* runs what is queued */
    for (size_t i = 0; i < SCAN_JOBS_MAX + SCAN_THREADS; i++)
        assert_int_equal(atomic_load(&jobs[i].runs), 1);
    assert_int_equal(atomic_load(&refused->runs), 0);
    free(jobs);
}

struct pusher {
    struct scan_pool *pool;
    struct job *jobs;
    size_t n;
    size_t accepted;
};

static void *push(void *arg)
{
    struct pusher *q = arg;

    for (size_t i = 0; i < q->n; i++)
        q->accepted += scan_push(q->pool, &q->jobs[i].job);
    return NULL;
}

static void test_pushers(void **state)
{
    enum { PUSHERS = 3, EACH = 3000 };
    struct scan_pool p;
    static struct job jobs[PUSHERS][EACH];
    struct pusher pushers[PUSHERS];
    pthread_t threads[PUSHERS];

    assert_int_equal(scan_start(&p), 0);
    for (size_t i = 0; i < PUSHERS; i++) {
        for (size_t k = 0; k < EACH; k++)
            jobs[i][k].job.run = run;
        pushers[i] = (struct pusher){&p, jobs[i], EACH, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, push, &pushers[i]), 0);
    }
    for (size_t i = 0; i < PUSHERS; i++)
        pthread_join(threads[i], NULL);
    scan_stop(&p);
    for (size_t i = 0; i < PUSHERS; i++) {
        size_t runs = 0;
        for (size_t k = 0; k < EACH; k++) {
            assert_true(atomic_load(&jobs[i][k].runs) <= 1);
            runs += atomic_load(&jobs[i][k].runs);
        }
        assert_int_equal(runs, pushers[i].accepted);
    }
}

/* A job that finds the pool stopping must not be able to add another. */
struct chained {
    struct job job;
    struct scan_pool *pool;
    bool accepted;
};

static void run_and_push(struct scan_job *scan_job)
{
    struct chained *c = container_of(scan_job, struct chained, job.job);

    run(scan_job);
    c->accepted = scan_push(c->pool, scan_job);
}

static void test_push_while_stopping(void **state)
{
    struct scan_pool p;
    struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct chained c = {.job = {.job.run = run_and_push, .gate = &gate}, .pool = &p};
    struct scan_pool stopped = {.len = 0};

    assert_int_equal(scan_start(&p), 0);
    assert_true(scan_push(&p, &c.job.job));
    gate_wait_inside(&gate, 1);
    pthread_mutex_lock(&p.lock);
    p.stopping = true; /* what scan_stop() does first */
    pthread_mutex_unlock(&p.lock);
    gate_open(&gate);
    scan_stop(&p);
    assert_false(c.accepted);
    scan_stop(&p); /* again, and of one that was never started */
    scan_stop(&stopped);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_full), cmocka_unit_test(test_pushers),
                                       cmocka_unit_test(test_push_while_stopping)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
