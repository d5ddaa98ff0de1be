/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of the peer protocol (see peer_loop.h): epoll, a heap of timers, an inbox of tasks with
 * an eventfd as its bell.
 *
 * I1. Of what a turn has fetched from epoll nothing is delivered to a source that was removed in
 * the same turn: removing blanks it out of the rest of the batch.
 * I2. woken is true while a wake-up is under way; it is reset before the inbox is drained, so what
 * comes later rings again.
 * I3. A task is in the inbox, or in the chain that was drained, at most once.
 *
 * Thread: the loop; peer_loop_post() any.
 */
#include "api/peer_loop.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"
#include "base/mem.h"

/* ---- sources ---- */

int peer_source_add(struct peer_loop *l, struct peer_source *s, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = s};

    s->events = events;
    return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, s->fd, &event) < 0 ? err_origin(-errno) : 0;
}

void peer_source_set(struct peer_loop *l, struct peer_source *s, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = s};

    if (s->events == events)
        return;
    s->events = events;
    check(epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, s->fd, &event) == 0);
}

void peer_source_remove(struct peer_loop *l, struct peer_source *s)
{
    check(epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, s->fd, NULL) == 0);
    for (int i = l->at + 1; i < l->n_events; i++) {
        if (l->events[i].data.ptr == s)
            l->events[i].data.ptr = NULL;
    }
}

/* ---- timers ---- */

void peer_timer_clear(struct peer_loop *l, struct peer_timer *t)
{
    heap_remove(&l->timers, &t->due);
}

void peer_timer_set(struct peer_loop *l, struct peer_timer *t, uint64_t deadline_ms)
{
    peer_timer_clear(l, t);
    check(l->timers.len < PEER_TIMERS_MAX);
    heap_push(&l->timers, &t->due, (int64_t)deadline_ms);
}

static struct peer_timer *timer_first(const struct peer_loop *l)
{
    struct heap_node *due = heap_top(&l->timers);

    return due ? container_of(due, struct peer_timer, due) : NULL;
}

/* As many as there are now at most: one that sets itself again for now does not keep the turn. */
static void timers_expire(struct peer_loop *l, uint64_t now_ms)
{
    struct peer_timer *t;

    for (size_t n = l->timers.len; n > 0 && (t = timer_first(l)); n--) {
        if (peer_timer_deadline_ms(t) > now_ms)
            return;
        peer_timer_clear(l, t);
        t->expired(t);
    }
}

/* ---- tasks ---- */

void peer_loop_post(struct peer_loop *l, struct peer_task *task)
{
    uint64_t one = 1;

    if (atomic_exchange(&task->posted, true))
        return;
    inbox_push_always(&l->inbox, &task->item);
    if (!atomic_exchange(&l->woken, true))
        check(write(l->wake.fd, &one, sizeof(one)) == sizeof(one));
}

static void tasks_run(struct peer_loop *l)
{
    struct inbox_item *item = inbox_drain(&l->inbox, NULL), *next;

    for (; item; item = next) {
        struct peer_task *task = container_of(item, struct peer_task, item);
        next = item->next;
        (void)atomic_exchange(&task->posted, false); /* behind what the posters have written */
        task->run(task);
    }
}

static void wake_ready(struct peer_source *s, uint32_t events)
{
    struct peer_loop *l = container_of(s, struct peer_loop, wake);
    uint64_t count;

    (void)!read(s->fd, &count, sizeof(count));
    atomic_store(&l->woken, false);
    tasks_run(l);
}

/* ---- turns ---- */

static int turn_wait(const struct peer_loop *l, uint64_t now_ms, int wait_ms_max)
{
    const struct peer_timer *t = timer_first(l);

    if (!t)
        return wait_ms_max;
    uint64_t deadline_ms = peer_timer_deadline_ms(t);
    uint64_t wait_ms = deadline_ms > now_ms ? deadline_ms - now_ms : 0;
    return wait_ms_max >= 0 && wait_ms > (uint64_t)wait_ms_max ? wait_ms_max : (int)wait_ms;
}

void peer_loop_turn(struct peer_loop *l, int wait_ms_max)
{
    int wait_ms = turn_wait(l, clock_mono_ms(), wait_ms_max);

    l->n_events = epoll_wait(l->epoll_fd, l->events, PEER_EVENTS_MAX, wait_ms);
    check(l->n_events >= 0 || errno == EINTR);
    for (l->at = 0; l->at < l->n_events; l->at++) {
        struct peer_source *s = l->events[l->at].data.ptr;
        if (s)
            s->ready(s, l->events[l->at].events);
    }
    l->n_events = 0;
    timers_expire(l, clock_mono_ms());
}

static void *loop_main(void *arg)
{
    struct peer_loop *l = arg;

    pthread_setname_np(pthread_self(), "peer");
    while (!l->ended)
        peer_loop_turn(l, -1);
    tasks_run(l);
    return NULL;
}

/* ---- life ---- */

int peer_loop_init(struct peer_loop *l)
{
    *l = (struct peer_loop){.wake = {.ready = wake_ready}};
    inbox_init(&l->inbox, 0);
    l->scratch = mem_alloc_raw(PEER_SCRATCH_BYTES);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    l->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = l->epoll_fd < 0 || l->wake.fd < 0 ? err_origin(-errno) : 0;
    if (r == 0)
        r = peer_source_add(l, &l->wake, EPOLLIN);
    if (r != 0)
        peer_loop_deinit(l);
    return r;
}

void peer_loop_deinit(struct peer_loop *l)
{
    if (!l->wake.ready)
        return;
    check(!l->started && l->timers.len == 0);
    if (l->wake.fd >= 0)
        close(l->wake.fd);
    if (l->epoll_fd >= 0)
        close(l->epoll_fd);
    inbox_deinit(&l->inbox);
    heap_deinit(&l->timers);
    free(l->scratch);
    *l = (struct peer_loop){0};
}

int peer_loop_start(struct peer_loop *l)
{
    int r = pthread_create(&l->thread, NULL, loop_main, l);

    l->started = r == 0;
    return r == 0 ? 0 : err_origin(-r);
}

void peer_loop_end(struct peer_loop *l)
{
    l->ended = true;
}

void peer_loop_join(struct peer_loop *l)
{
    if (!l->started)
        return;
    pthread_join(l->thread, NULL);
    l->started = false;
}
