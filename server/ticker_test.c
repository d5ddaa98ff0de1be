/* SPDX-License-Identifier: Apache-2.0 */
/* The ticker: ticks at once and goes on, at the priority of everybody; a stop is the end of it. */
#include "server/ticker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"

struct counter {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    unsigned ticks;
    int priority;
};

static void count(void *arg)
{
    struct counter *c = arg;

    pthread_mutex_lock(&c->lock);
    c->ticks++;
    c->priority = getpriority(PRIO_PROCESS, (id_t)gettid());
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void wait_for(struct counter *c, unsigned ticks)
{
    pthread_mutex_lock(&c->lock);
    while (c->ticks < ticks)
        pthread_cond_wait(&c->cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

static void test_ticks(void **state)
{
    struct counter c = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
    struct ticker *t = ticker_new(count, &c);
    uint64_t start_ms = clock_mono_ms();

    assert_int_equal(ticker_start(t), 0);
    wait_for(&c, 3);
    assert_true(clock_mono_ms() - start_ms >= 2 * TICKER_MS);
    ticker_stop(t);
    unsigned ticks = c.ticks;
    assert_int_equal(c.priority, getpriority(PRIO_PROCESS, 0));
    ticker_stop(t);
    assert_int_equal(c.ticks, ticks);
    assert_null(ticker_free(t));
    assert_null(ticker_free(NULL));
}

/* Not after the rest of its time. On a busy machine a few may be late for other reasons. */
static void test_stop_is_prompt(void **state)
{
    enum { STOPS = 20 };
    int n_late = 0;

    for (int i = 0; i < STOPS; i++) {
        struct counter c = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0};
        struct ticker *t = ticker_new(count, &c);
        assert_int_equal(ticker_start(t), 0);
        wait_for(&c, 1);
        uint64_t start_ms = clock_mono_ms();
        ticker_stop(t);
        n_late += clock_mono_ms() - start_ms > TICKER_MS / 2;
        ticker_free(t);
    }
    assert_in_range(n_late, 0, STOPS / 2);
}

static void test_not_started(void **state)
{
    struct ticker *t = ticker_new(count, NULL);

    ticker_stop(t);
    assert_null(ticker_free(t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ticks),
        cmocka_unit_test(test_stop_is_prompt),
        cmocka_unit_test(test_not_started),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
