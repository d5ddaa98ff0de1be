/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pthreads on simulated processes: the linker sends the calls of production code here (--wrap). The
 * objects keep their type; what is in them is ours. All zeros is an unlocked mutex and a condition
 * that nobody waits for, so static initialisers work.
 *
 * Outside of fibers, where the simulator looks at things, locks are taken as if nobody else
 * existed: nothing runs meanwhile.
 *
 * Invariants:
 *   (I1) a mutex whose owner died with its process is free: it was a global one, which processes
 *        share here and nowhere else.
 *   (I2) a fiber may lose the processor before it locks a mutex and after it unlocks one; so each
 *        order of critical sections is possible.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/kernel.h"
#include "tests/sim/system.h"

/* They are declared nowhere: the linker makes the names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

struct sim_mutex {
    uint64_t owner; /* fiber id; 0: free */
    uint32_t n_waiters;
};

struct sim_rwlock {
    uint64_t writer;
    uint32_t n_readers;
    uint32_t n_waiters;
    uint32_t n_writers; /* of those who wait: they come first */
};

struct sim_thread {
    void *(*start)(void *arg);
    void *arg;
    void *result;
    bool ended;
};

_Static_assert(sizeof(struct sim_mutex) <= sizeof(pthread_mutex_t), "fits");
_Static_assert(sizeof(struct sim_rwlock) <= sizeof(pthread_rwlock_t), "fits");

enum { OUTSIDE = 1 }; /* no fiber's id: those begin behind it */

static uint64_t self(void)
{
    struct fiber *f = fiber_current();

    return f ? fiber_id(f) + OUTSIDE : OUTSIDE;
}

static void maybe_yield(void)
{
    struct process *p = kernel_process();

    if (p && p->preempt_ppm && system_chance(p->preempt_ppm))
        fiber_yield();
}

/* ---- mutexes ---- */

int __wrap_pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr)
{
    *(struct sim_mutex *)mutex = (struct sim_mutex){0};
    return 0;
}

int __wrap_pthread_mutex_destroy(pthread_mutex_t *mutex)
{
    check(((struct sim_mutex *)mutex)->owner == 0);
    return 0;
}

static bool mutex_try(struct sim_mutex *m)
{
    if (m->owner != 0 && m->owner != OUTSIDE && fiber_lives(m->owner - OUTSIDE)) /* (I1) */
        return !fiber_current();
    m->owner = self();
    return true;
}

int __wrap_pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    return mutex_try((struct sim_mutex *)mutex) ? 0 : EBUSY;
}

static void mutex_take(struct sim_mutex *m)
{
    check(m->owner != self() || self() == OUTSIDE);
    while (!mutex_try(m)) {
        m->n_waiters++;
        fiber_wait(m, UINT64_MAX);
        m->n_waiters--;
    }
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    maybe_yield(); /* (I2) */
    mutex_take((struct sim_mutex *)mutex);
    return 0;
}

static void mutex_give(struct sim_mutex *m)
{
    if (!fiber_current() && m->owner != OUTSIDE)
        return;
    check(m->owner == self());
    m->owner = 0;
    if (m->n_waiters)
        fiber_wake(NULL, m, false); /* (I1) */
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    mutex_give((struct sim_mutex *)mutex);
    maybe_yield();
    return 0;
}

/* ---- conditions ---- */

int __wrap_pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr)
{
    return 0;
}

int __wrap_pthread_cond_destroy(pthread_cond_t *cond)
{
    return 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    mutex_give((struct sim_mutex *)mutex);
    fiber_wait(cond, UINT64_MAX);
    mutex_take((struct sim_mutex *)mutex);
    return 0;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                  const struct timespec *until)
{
    uint64_t local_ns = (uint64_t)until->tv_sec * SECOND + (uint64_t)until->tv_nsec;

    mutex_give((struct sim_mutex *)mutex);
    bool woken = fiber_wait(cond, process_true_delay(kernel_process(), local_ns));
    mutex_take((struct sim_mutex *)mutex);
    return woken ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond)
{
    if (kernel_process())
        fiber_wake(kernel_process(), cond, false);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond)
{
    if (kernel_process())
        fiber_wake(kernel_process(), cond, true);
    return 0;
}

/* ---- locks of readers and writers ---- */

int __wrap_pthread_rwlock_init(pthread_rwlock_t *lock, const pthread_rwlockattr_t *attr)
{
    *(struct sim_rwlock *)lock = (struct sim_rwlock){0};
    return 0;
}

int __wrap_pthread_rwlock_destroy(pthread_rwlock_t *lock)
{
    struct sim_rwlock *l = (struct sim_rwlock *)lock;

    check(l->writer == 0 && l->n_readers == 0);
    return 0;
}

static void rwlock_wait(struct sim_rwlock *l)
{
    check(fiber_current());
    l->n_waiters++;
    fiber_wait(l, UINT64_MAX);
    l->n_waiters--;
}

int __wrap_pthread_rwlock_rdlock(pthread_rwlock_t *lock)
{
    struct sim_rwlock *l = (struct sim_rwlock *)lock;

    maybe_yield();
    while (l->writer != 0 || l->n_writers > 0)
        rwlock_wait(l);
    l->n_readers++;
    return 0;
}

int __wrap_pthread_rwlock_wrlock(pthread_rwlock_t *lock)
{
    struct sim_rwlock *l = (struct sim_rwlock *)lock;

    maybe_yield();
    l->n_writers++;
    while (l->writer != 0 || l->n_readers > 0)
        rwlock_wait(l);
    l->n_writers--;
    l->writer = self();
    return 0;
}

int __wrap_pthread_rwlock_unlock(pthread_rwlock_t *lock)
{
    struct sim_rwlock *l = (struct sim_rwlock *)lock;

    if (l->writer != 0) {
        check(l->writer == self());
        l->writer = 0;
    } else {
        check(l->n_readers > 0);
        l->n_readers--;
    }
    if (l->n_waiters && kernel_process())
        fiber_wake(kernel_process(), l, true);
    maybe_yield();
    return 0;
}

/* ---- threads ---- */

static void thread_main(void *arg)
{
    struct sim_thread *t = arg;

    t->result = t->start(t->arg);
    t->ended = true;
    fiber_wake(kernel_process(), t, true);
}

int __wrap_pthread_create(pthread_t *ret, const pthread_attr_t *attr, void *(*start)(void *),
                          void *arg)
{
    struct sim_thread *t = mem_new(struct sim_thread);

    t->start = start;
    t->arg = arg;
    *ret = (pthread_t)t;
    fiber_new(kernel_process(), thread_main, t);
    return 0;
}

int __wrap_pthread_join(pthread_t thread, void **ret)
{
    struct sim_thread *t = (struct sim_thread *)thread;

    while (!t->ended)
        fiber_wait(t, UINT64_MAX);
    if (ret)
        *ret = t->result;
    free(t);
    return 0;
}

int __wrap_pthread_detach(pthread_t thread)
{
    return 0;
}

int __wrap_pthread_setname_np(pthread_t thread, const char *name)
{
    return 0;
}

int __wrap_pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
    return 0;
}
