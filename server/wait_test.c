/* SPDX-License-Identifier: Apache-2.0 */
/* The wait table: whoever takes a request has it alone. */
#include "server/wait.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"

enum { NOT_FINISHED = -1 };

struct waiter {
    struct request request;
    int outcome;
};

static void finish(struct request *request, enum outcome outcome)
{
    struct waiter *w = container_of(request, struct waiter, request);

    assert_int_equal(w->outcome, NOT_FINISHED);
    w->outcome = (int)outcome;
}

static struct waiter waiter(uint64_t id, uint64_t expires_ms)
{
    return (struct waiter){.request = {.id = id, .expires_ms = expires_ms, .finish = finish},
                           .outcome = NOT_FINISHED};
}

static enum outcome timed_out(void *arg, const struct request *request)
{
    (*(size_t *)arg)++;
    return request->id % 2 ? OUTCOME_TIMEOUT : OUTCOME_TIMEOUT_LEADER_FAILURE;
}

static void test_take(void **state)
{
    struct wait_table w;
    /* Same shard, and the first two in one bucket. */
    struct waiter a = waiter(5, 1), b = waiter(5 + WAIT_SHARDS * WAIT_BUCKETS, 1),
                  c = waiter(5 + WAIT_SHARDS, 1);

    wait_init(&w);
    assert_null(wait_take(&w, 0));
    assert_null(wait_take(&w, 5));
    assert_true(wait_add(&w, &a.request));
    assert_true(wait_add(&w, &b.request));
    assert_true(wait_add(&w, &c.request));
    assert_true(wait_contains(&w, 5));
    assert_false(wait_contains(&w, 6));
    assert_ptr_equal(wait_take(&w, 5), &a.request);
    assert_null(wait_take(&w, 5));
    assert_false(wait_contains(&w, 5));
    assert_ptr_equal(wait_take(&w, b.request.id), &b.request);
    assert_ptr_equal(wait_take(&w, c.request.id), &c.request);
    wait_deinit(&w);
    assert_int_equal(a.outcome, NOT_FINISHED); /* taking is not finishing */
}

static void test_cancel(void **state)
{
    struct wait_table w;
    struct waiter a = waiter(5, 1), same_id = waiter(5, 1);

    wait_init(&w);
    assert_false(wait_cancel(&w, &a.request));
    assert_true(wait_add(&w, &a.request));
    assert_false(wait_cancel(&w, &same_id.request)); /* another object */
    assert_true(wait_contains(&w, 5));
    assert_true(wait_cancel(&w, &a.request));
    assert_false(wait_cancel(&w, &a.request));
    assert_null(wait_take(&w, 5));
    wait_deinit(&w);
}

static void test_expire(void **state)
{
    enum { N = 1000 };
    static struct waiter all[N];
    struct wait_table w;
    size_t asked = 0;

    wait_init(&w);
    for (size_t i = 0; i < N; i++) {
        all[i] = waiter(i + 1, 100 + i);
        assert_true(wait_add(&w, &all[i].request));
    }
    assert_ptr_equal(wait_take(&w, 10), &all[9].request);
    wait_expire(&w, 99, timed_out, &asked);
    assert_int_equal(asked, 0);
    wait_expire(&w, 599, timed_out, &asked);
    assert_int_equal(asked, 499);
    for (size_t i = 0; i < N; i++) {
        int expected = i == 9 || i >= 500 ? NOT_FINISHED
                       : (i + 1) % 2      ? (int)OUTCOME_TIMEOUT
                                          : (int)OUTCOME_TIMEOUT_LEADER_FAILURE;
        assert_int_equal(all[i].outcome, expected);
    }
    assert_false(wait_cancel(&w, &all[0].request));
    assert_null(wait_take(&w, 500));
    assert_ptr_equal(wait_take(&w, 501), &all[500].request);
    wait_expire(&w, UINT64_MAX, timed_out, &asked);
    assert_int_equal(asked, N - 2);
    wait_deinit(&w);
}

static void test_stop(void **state)
{
    struct wait_table w;
    struct waiter a = waiter(5, 1000), b = waiter(6, 1), late = waiter(7, 1);

    wait_init(&w);
    assert_true(wait_add(&w, &a.request));
    assert_true(wait_add(&w, &b.request));
    assert_ptr_equal(wait_take(&w, 6), &b.request);
    wait_stop(&w);
    assert_int_equal(a.outcome, OUTCOME_STOPPED);
    assert_int_equal(b.outcome, NOT_FINISHED);
    assert_false(wait_add(&w, &late.request));
    assert_null(wait_take(&w, 7));
    wait_stop(&w);
    assert_int_equal(late.outcome, NOT_FINISHED);
    wait_deinit(&w);
}

static void test_proposals(void **state)
{
    struct wait_table w;
    struct waiter put = waiter(5, 1), read = waiter(6, 1), txn = waiter(7, 1);
    size_t asked = 0;

    read.request.kind = REQUEST_READ_INDEX;
    wait_init(&w);
    assert_true(wait_add(&w, &put.request));
    assert_true(wait_add(&w, &read.request));
    assert_true(wait_add(&w, &txn.request));
    assert_int_equal(wait_proposals(&w), 2);
    assert_true(wait_cancel(&w, &put.request));
    assert_int_equal(wait_proposals(&w), 1);
    wait_expire(&w, 1, timed_out, &asked);
    assert_int_equal(wait_proposals(&w), 0);
    wait_deinit(&w);
}

/* ---- all doors at once: each request leaves by exactly one ---- */

enum { STRESS_REQUESTS = 20000, ADDERS = 2 };

struct stress {
    struct wait_table table;
    struct stress_request {
        struct request request;
        _Atomic unsigned ends; /* finished, taken, cancelled or refused */
    } requests[STRESS_REQUESTS];
    _Atomic size_t added;
    _Atomic bool stop;
};

static void count_end(struct request *request)
{
    atomic_fetch_add(&container_of(request, struct stress_request, request)->ends, 1);
}

static void stress_finish(struct request *request, enum outcome outcome)
{
    count_end(request);
}

struct adder {
    struct stress *s;
    size_t first;
};

static void *add(void *arg)
{
    struct adder *a = arg;
    struct rng rng;

    rng_init(&rng, a->first + 1);
    for (size_t i = a->first; i < STRESS_REQUESTS; i += ADDERS) {
        struct request *request = &a->s->requests[i].request;
        *request = (struct request){
            .id = i + 1, .finish = stress_finish, .expires_ms = rng_below(&rng, 200)};
        if (!wait_add(&a->s->table, request))
            count_end(request);
        if (rng_below(&rng, 3) == 0 && wait_cancel(&a->s->table, request))
            count_end(request);
        atomic_fetch_add(&a->s->added, 1);
    }
    return NULL;
}

static void *take(void *arg)
{
    struct stress *s = arg;
    struct rng rng;

    rng_init(&rng, 99);
    while (!atomic_load(&s->stop)) {
        struct request *request = wait_take(&s->table, 1 + rng_below(&rng, STRESS_REQUESTS));
        if (request)
            count_end(request);
    }
    return NULL;
}

static enum outcome any_outcome(void *arg, const struct request *request)
{
    return OUTCOME_TIMEOUT;
}

static void *expire(void *arg)
{
    struct stress *s = arg;

    for (uint64_t now = 0; !atomic_load(&s->stop); now = (now + 1) % 100)
        wait_expire(&s->table, now, any_outcome, NULL);
    return NULL;
}

static void test_stress(void **state)
{
    struct stress *s = mem_new(struct stress);
    struct adder adders[ADDERS];
    pthread_t add_threads[ADDERS], take_thread, expire_thread;

    wait_init(&s->table);
    assert_int_equal(pthread_create(&take_thread, NULL, take, s), 0);
    assert_int_equal(pthread_create(&expire_thread, NULL, expire, s), 0);
    for (size_t i = 0; i < ADDERS; i++) {
        adders[i] = (struct adder){s, i};
        assert_int_equal(pthread_create(&add_threads[i], NULL, add, &adders[i]), 0);
    }
    while (atomic_load(&s->added) < STRESS_REQUESTS - 500)
        sched_yield();
    wait_stop(&s->table);
    for (size_t i = 0; i < ADDERS; i++)
        pthread_join(add_threads[i], NULL);
    atomic_store(&s->stop, true);
    pthread_join(take_thread, NULL);
    pthread_join(expire_thread, NULL);
    for (size_t i = 0; i < STRESS_REQUESTS; i++)
        assert_int_equal(atomic_load(&s->requests[i].ends), 1);
    assert_int_equal(wait_proposals(&s->table), 0);
    wait_deinit(&s->table);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take),      cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_expire),    cmocka_unit_test(test_stop),
        cmocka_unit_test(test_proposals), cmocka_unit_test(test_stress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
