/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of the peer protocol: one thread for all sockets between members, with timers and with
 * tasks that other threads hand to it.
 *
 * Thread: "the loop" is the thread of peer_loop_start(), or whoever calls peer_loop_turn() by hand.
 * Everything belongs to it but peer_loop_post() and peer_loop_now_ms().
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "base/heap.h"
#include "base/inbox.h"

enum { PEER_EVENTS_MAX = 128, PEER_TIMERS_MAX = 1 << 16, PEER_SCRATCH_BYTES = 256 << 10 };

/* A descriptor that is waited for, level-triggered. */
struct peer_source {
    void (*ready)(struct peer_source *source, uint32_t events);
    int fd;
    uint32_t events; /* EPOLLIN and so on: what is waited for now */
};

/* Zeroed, it is not set. It goes off once. */
struct peer_timer {
    void (*expired)(struct peer_timer *timer);
    struct heap_node due; /* by its deadline in milliseconds; in no heap: not set */
};

/* Also when it has gone off. */
static inline uint64_t peer_timer_deadline_ms(const struct peer_timer *timer)
{
    return (uint64_t)timer->due.key;
}

/* Runs on the loop behind each post: once for all that come before it begins. */
struct peer_task {
    struct inbox_item item;
    atomic_bool posted; /* and not begun */
    void (*run)(struct peer_task *task);
};

struct peer_loop {
    int epoll_fd;
    struct peer_source wake;
    atomic_bool woken;
    struct inbox inbox;
    struct epoll_event events[PEER_EVENTS_MAX]; /* of the turn under way */
    int n_events, at;
    struct heap timers;
    pthread_t thread;
    bool started;
    bool ended;
    uint8_t *scratch; /* for whoever reads from a socket, until he returns */
};

int peer_loop_init(struct peer_loop *l);
void peer_loop_deinit(struct peer_loop *l); /* no source, timer or task is left; accepts zeroed */
int peer_loop_start(struct peer_loop *l);
void peer_loop_end(struct peer_loop *l); /* on the loop: the turn under way is the last */
void peer_loop_join(struct peer_loop *l);
void peer_loop_turn(struct peer_loop *l, int wait_ms_max);

int peer_source_add(struct peer_loop *l, struct peer_source *s, uint32_t events);
/* Also from another thread, if the owner sees to it that it is one at a time. */
void peer_source_set(struct peer_loop *l, struct peer_source *s, uint32_t events);
/* Afterwards ready() is not called any more, not even in this turn. */
void peer_source_remove(struct peer_loop *l, struct peer_source *s);

void peer_timer_set(struct peer_loop *l, struct peer_timer *t, uint64_t deadline_ms); /* or move */
void peer_timer_clear(struct peer_loop *l, struct peer_timer *t);

void peer_loop_post(struct peer_loop *l, struct peer_task *task); /* any thread */
