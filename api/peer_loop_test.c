/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop by hand and with its thread: timers in order whatever is done to them, sources that are
 * removed in the turn that would have called them, tasks from many threads.
 */
#include "api/peer_loop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "base/rng.h"

/* ---- timers ---- */

struct alarm_clock {
    struct peer_timer timer;
    uint64_t *last_ms;
    unsigned *n;
};

static void rings(struct peer_timer *timer)
{
    struct alarm_clock *a = container_of(timer, struct alarm_clock, timer);

    assert_false(heap_linked(&timer->due));
    assert_true(peer_timer_deadline_ms(timer) >= *a->last_ms);
    *a->last_ms = peer_timer_deadline_ms(timer);
    ++*a->n;
}

static void timers_ring_in_order_whatever_was_set_moved_and_cleared(void **state)
{
    enum { TIMERS = 500, CHANGES = 5000 };
    struct alarm_clock clocks[TIMERS];
    uint64_t seed = clock_wall_ns(), last_ms = 0, soon_ms = clock_mono_ms();
    unsigned n = 0, set = 0;
    struct peer_loop l;
    struct rng rng;

    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    assert_int_equal(peer_loop_init(&l), 0);
    for (int i = 0; i < TIMERS; i++)
        clocks[i] = (struct alarm_clock){{.expired = rings}, &last_ms, &n};
    for (int i = 0; i < CHANGES; i++) {
        struct peer_timer *t = &clocks[rng_below(&rng, TIMERS)].timer;
        if (rng_below(&rng, 4) == 0)
            peer_timer_clear(&l, t);
        else
            peer_timer_set(&l, t, soon_ms - rng_below(&rng, 1000));
    }
    for (int i = 0; i < TIMERS; i++)
        set += heap_linked(&clocks[i].timer.due);
    assert_true(set > TIMERS / 2);
    while (n < set)
        peer_loop_turn(&l, 0);
    peer_loop_turn(&l, 0);
    assert_int_equal(n, set);
    peer_loop_deinit(&l);
}

struct again {
    struct peer_timer timer;
    struct peer_loop *loop;
    unsigned n;
};

static void rings_again(struct peer_timer *timer)
{
    struct again *a = container_of(timer, struct again, timer);

    a->n++;
    peer_timer_set(a->loop, timer, 0);
}

static void a_timer_that_sets_itself_for_now_does_not_keep_the_turn(void **state)
{
    struct peer_loop l;

    assert_int_equal(peer_loop_init(&l), 0);
    struct again a = {.timer = {.expired = rings_again}, .loop = &l};
    peer_timer_set(&l, &a.timer, 0);
    peer_loop_turn(&l, -1);
    assert_int_equal(a.n, 1);
    peer_loop_turn(&l, -1);
    assert_int_equal(a.n, 2);
    peer_timer_clear(&l, &a.timer);
    peer_loop_deinit(&l);
}

/* ---- sources ---- */

struct end {
    struct peer_source source;
    struct peer_loop *loop;
    struct end *other;
    unsigned *n;
};

static void removes_the_other(struct peer_source *source, uint32_t events)
{
    struct end *e = container_of(source, struct end, source);

    ++*e->n;
    peer_source_remove(e->loop, &e->other->source);
    peer_source_remove(e->loop, source);
}

static void a_removed_source_is_not_called_in_the_same_turn(void **state)
{
    int pair[2];
    unsigned n = 0;
    struct peer_loop l;
    struct end ends[2];

    assert_int_equal(peer_loop_init(&l), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = (struct end){{removes_the_other, pair[i], 0}, &l, &ends[!i], &n};
        assert_int_equal(peer_source_add(&l, &ends[i].source, EPOLLOUT), 0);
    }
    peer_loop_turn(&l, -1);
    peer_loop_turn(&l, 0);
    assert_int_equal(n, 1);
    close(pair[0]);
    close(pair[1]);
    peer_loop_deinit(&l);
}

/* ---- tasks ---- */

enum { POSTERS = 4, POSTS = 2000 };

struct count {
    struct peer_task task;
    struct peer_loop *loop;
    unsigned *left;
};

static void counts(struct peer_task *task)
{
    struct count *c = container_of(task, struct count, task);

    if (--*c->left == 0)
        peer_loop_end(c->loop);
}

static void *posts(void *arg)
{
    struct count *counts_ = arg;

    for (int i = 0; i < POSTS; i++)
        peer_loop_post(counts_[i].loop, &counts_[i].task);
    return NULL;
}

static void each_task_runs_once_whichever_thread_posts_it(void **state)
{
    struct count *all = mem_alloc(POSTERS * POSTS * sizeof(*all));
    unsigned left = POSTERS * POSTS;
    pthread_t threads[POSTERS];
    struct peer_loop l;

    assert_int_equal(peer_loop_init(&l), 0);
    for (int i = 0; i < POSTERS * POSTS; i++)
        all[i] = (struct count){{.run = counts}, &l, &left};
    assert_int_equal(peer_loop_start(&l), 0);
    for (int i = 0; i < POSTERS; i++)
        pthread_create(&threads[i], NULL, posts, all + i * POSTS);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    peer_loop_join(&l);
    assert_int_equal(left, 0);
    peer_loop_deinit(&l);
    free(all);
}

/* Its chain of tasks would have no end if one were in it twice. */
static void posts_the_one_behind(struct peer_task *task)
{
    struct count *c = container_of(task, struct count, task);

    --*c->left;
    peer_loop_post(c->loop, &c[1].task);
}

static void a_task_that_waits_to_run_is_not_posted_again(void **state)
{
    unsigned left = 4;
    struct peer_loop l;
    struct count c[2] = {{{.run = posts_the_one_behind}, &l, &left}, {{.run = counts}, &l, &left}};

    assert_int_equal(peer_loop_init(&l), 0);
    peer_loop_post(&l, &c[0].task);
    peer_loop_post(&l, &c[1].task);
    peer_loop_turn(&l, 0);
    assert_int_equal(left, 2);
    peer_loop_post(&l, &c[1].task);
    peer_loop_turn(&l, 0);
    assert_int_equal(left, 1);
    peer_loop_turn(&l, 0);
    assert_int_equal(left, 1);
    peer_loop_deinit(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_ring_in_order_whatever_was_set_moved_and_cleared),
        cmocka_unit_test(a_timer_that_sets_itself_for_now_does_not_keep_the_turn),
        cmocka_unit_test(a_removed_source_is_not_called_in_the_same_turn),
        cmocka_unit_test(each_task_runs_once_whichever_thread_posts_it),
        cmocka_unit_test(a_task_that_waits_to_run_is_not_posted_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
