/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inbox: order, limits and wake-ups. The threaded tests end by themselves when every item has
 * arrived; a lost wake-up shows as a test that hangs until the runner's time limit.
 */
#include "base/inbox.h"

#include <sched.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"

enum { PRODUCERS = 4, ITEMS = 20000, PINGS = 5000 };

struct item {
    struct inbox_item link;
    int producer;
    int number;
};

static void test_order_and_limit(void **state)
{
    struct inbox b;
    struct item items[5] = {0};
    size_t len = 99;
    inbox_init(&b, 3);
    assert_null(inbox_drain(&b, &len));
    assert_int_equal(len, 0);
    for (int i = 0; i < 3; i++)
        assert_true(inbox_push(&b, &items[i].link));
    assert_false(inbox_push(&b, &items[3].link));
    inbox_push_always(&b, &items[4].link);
    assert_int_equal(inbox_len(&b), 4);
    struct inbox_item *chain = inbox_drain(&b, &len);
    assert_int_equal(len, 4);
    assert_ptr_equal(chain, &items[0].link);
    assert_ptr_equal(chain->next->next, &items[2].link);
    assert_ptr_equal(chain->next->next->next, &items[4].link);
    assert_null(chain->next->next->next->next);
    assert_true(inbox_push(&b, &items[3].link));
    assert_ptr_equal(inbox_drain(&b, NULL), &items[3].link);
    inbox_deinit(&b);
    inbox_deinit(NULL);
}

static void test_chain(void **state)
{
    struct inbox b;
    struct item items[6] = {0};
    size_t len = 0;
    for (int i = 0; i < 5; i++)
        items[i].link.next = &items[i + 1].link;
    inbox_init(&b, 4);
    assert_false(inbox_push_chain(&b, &items[0].link, &items[4].link, 5));
    assert_int_equal(inbox_len(&b), 0);
    assert_ptr_equal(items[4].link.next, &items[5].link);
    assert_true(inbox_push_chain(&b, &items[0].link, &items[2].link, 3));
    assert_false(inbox_push_chain(&b, &items[3].link, &items[4].link, 2));
    assert_true(inbox_push(&b, &items[5].link));
    struct inbox_item *chain = inbox_drain(&b, &len);
    assert_int_equal(len, 4);
    assert_ptr_equal(chain->next->next, &items[2].link);
    assert_ptr_equal(chain->next->next->next, &items[5].link);
    inbox_deinit(&b);
}

static void test_close(void **state)
{
    struct inbox b;
    struct item items[3] = {0};
    inbox_init(&b, 10);
    assert_true(inbox_push(&b, &items[0].link));
    inbox_close(&b);
    assert_false(inbox_push(&b, &items[1].link));
    inbox_push_always(&b, &items[2].link);
    inbox_wait(&b, UINT64_MAX);
    assert_ptr_equal(inbox_drain(&b, NULL)->next, &items[2].link);
    inbox_wait(&b, UINT64_MAX);
    inbox_deinit(&b);
}

static void test_wake_before_wait(void **state)
{
    struct inbox b;
    inbox_init(&b, 1);
    inbox_wake(&b);
    inbox_wait(&b, UINT64_MAX);
    assert_false(b.woken);
    inbox_wait(&b, 0);
    inbox_deinit(&b);
}

static void test_deadline(void **state)
{
    struct inbox b;
    inbox_init(&b, 1);
    uint64_t deadline_ms = clock_mono_ms() + 5;
    inbox_wait(&b, deadline_ms);
    assert_true(clock_mono_ms() >= deadline_ms);
    assert_false(b.waiting);
    inbox_deinit(&b);
}

struct producer {
    struct inbox *inbox;
    int number;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (int i = 0; i < ITEMS; i++) {
        struct item *item = mem_new(struct item);
        item->producer = p->number;
        item->number = i;
        while (!inbox_push(p->inbox, &item->link))
            sched_yield();
    }
    return NULL;
}

static void test_producers(void **state)
{
    struct inbox b;
    pthread_t threads[PRODUCERS];
    struct producer producers[PRODUCERS];
    int next[PRODUCERS] = {0};
    size_t received = 0;
    inbox_init(&b, 100);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){&b, i};
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    while (received < (size_t)PRODUCERS * ITEMS) {
        size_t len, n = 0;
        inbox_wait(&b, UINT64_MAX);
        struct inbox_item *it = inbox_drain(&b, &len);
        assert_in_range(len, 0, 100);
        while (it) {
            struct item *item = container_of(it, struct item, link);
            assert_int_equal(item->number, next[item->producer]++);
            it = it->next;
            free(item);
            n++;
        }
        assert_int_equal(n, len);
        received += n;
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(threads[i], NULL);
    inbox_deinit(&b);
}

struct ping {
    struct inbox to, from;
};

/* Sends every item back; ends on the item with number -1. */
static void *answer(void *arg)
{
    struct ping *p = arg;
    for (bool last = false; !last;) {
        inbox_wait(&p->to, UINT64_MAX);
        struct inbox_item *item = inbox_drain(&p->to, NULL);
        if (!item)
            continue;
        last = container_of(item, struct item, link)->number < 0;
        inbox_push_always(&p->from, item);
    }
    return NULL;
}

/* One item at a time, so that both consumers go to sleep before nearly every push. */
static void test_ping_pong(void **state)
{
    struct ping p;
    pthread_t thread;
    struct item item = {.number = PINGS};
    inbox_init(&p.to, 1);
    inbox_init(&p.from, 1);
    assert_int_equal(pthread_create(&thread, NULL, answer, &p), 0);
    for (; item.number >= -1; item.number--) {
        assert_true(inbox_push(&p.to, &item.link));
        while (inbox_len(&p.from) == 0)
            inbox_wait(&p.from, UINT64_MAX);
        assert_ptr_equal(inbox_drain(&p.from, NULL), &item.link);
    }
    pthread_join(thread, NULL);
    inbox_deinit(&p.to);
    inbox_deinit(&p.from);
}

static void *wait_twice(void *arg)
{
    struct inbox *b = arg;
    inbox_wait(b, UINT64_MAX); /* ended by inbox_wake() */
    inbox_wait(b, UINT64_MAX); /* ended by inbox_close() */
    return NULL;
}

static bool inbox_is_waiting(struct inbox *b)
{
    pthread_mutex_lock(&b->lock);
    bool waiting = b->waiting;
    pthread_mutex_unlock(&b->lock);
    return waiting;
}

static void test_wake_and_close_a_sleeper(void **state)
{
    struct inbox b;
    pthread_t thread;
    inbox_init(&b, 1);
    assert_int_equal(pthread_create(&thread, NULL, wait_twice, &b), 0);
    while (!inbox_is_waiting(&b))
        sched_yield();
    inbox_wake(&b);
    inbox_close(&b);
    pthread_join(thread, NULL);
    inbox_deinit(&b);
}

static void *wait_once(void *arg)
{
    inbox_wait(arg, UINT64_MAX);
    return NULL;
}

/* One signal for two items. Should the sleeper be woken too early, it is seen to wait no more. */
static void test_push_quietly(void **state)
{
    struct inbox b;
    struct item items[3] = {0};
    pthread_t thread;
    inbox_init(&b, 2);
    inbox_signal(&b); /* nothing there, nobody waits: not remembered */
    assert_int_equal(pthread_create(&thread, NULL, wait_once, &b), 0);
    while (!inbox_is_waiting(&b))
        sched_yield();
    inbox_signal(&b);
    assert_true(inbox_push_quietly(&b, &items[0].link));
    assert_true(inbox_push_quietly(&b, &items[1].link));
    assert_false(inbox_push_quietly(&b, &items[2].link));
    assert_true(inbox_is_waiting(&b));
    inbox_signal(&b);
    pthread_join(thread, NULL);
    assert_ptr_equal(inbox_drain(&b, NULL)->next, &items[1].link);
    assert_false(b.woken);
    inbox_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_limit), cmocka_unit_test(test_chain),
        cmocka_unit_test(test_close),           cmocka_unit_test(test_wake_before_wait),
        cmocka_unit_test(test_deadline),        cmocka_unit_test(test_producers),
        cmocka_unit_test(test_ping_pong),       cmocka_unit_test(test_wake_and_close_a_sleeper),
        cmocka_unit_test(test_push_quietly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
