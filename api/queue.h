/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A completion queue and the one thread that serves it. Each connection belongs to a queue; its
 * calls arrive, run and are answered there.
 *
 *   gRPC's event ──> queue thread ──> handler ──> server_submit() ──> finish() on another thread
 *                         ^  └──> answers                                │
 *                         └──────────────────────── inbox ───────────────┘
 *
 * Other threads only push to the inbox; the first push of a batch wakes the queue. While there is
 * more to do at once, answers are collected, then sent, those for one connection together (cork.h);
 * likewise the raft worker is woken once for all requests that came together.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdatomic.h>

#include "api/cork.h"
#include "base/list.h"

struct call;
struct server;

/* What a tag points to; run is called on the queue's thread. */
struct queue_event {
    void (*run)(struct queue_event *event, bool ok);
};

/* What another thread pushes: go_on() is called on the queue's thread. */
struct queue_entry {
    struct queue_event event;
    struct queue_entry *next;
    struct call *call;
    void (*go_on)(struct call *call);
};

enum {
    QUEUE_NO_LEADER_MAX = 3,    /* election timeouts without a leader, then such streams end */
    QUEUE_ANSWERS_MAX = 64,     /* answers held back at most before they are sent */
    QUEUE_HELD_EVENTS_MAX = 64, /* so many events later nothing is held back any more */
    QUEUE_SPARE_MAX = 4096,     /* call objects kept for reuse */
    QUEUE_CALLS_MAX = 100000,   /* calls alive at one time; more are refused */
    QUEUE_SWEEP_MS = 250,
};

enum queue_stop { QUEUE_RUNS, QUEUE_STOPPING, QUEUE_CANCELING };

struct queue {
    grpc_completion_queue *cq;
    struct server *server;
    struct cork *cork;
    size_t message_bytes_max; /* longer messages are refused */
    /* How often streams that need a leader look for it, and how long a stop waits for what a call
     * lingers for. */
    uint64_t election_ms;
    void (*idle)(void *arg); /* no call is alive any more; called only while stopping, on the
                                queue's thread */
    void *idle_arg;
    pthread_t thread;

    /* Any thread. */
    _Atomic(struct queue_entry *) inbox; /* NULL: asleep; QUEUE_AWAKE: awake, empty; else the newest
                                            entry */
    atomic_int stop;                     /* enum queue_stop */
    atomic_uint
        handover; /* what is behind an increment is seen by the queue's thread at its next event */
    atomic_size_t n_calls;   /* written by the queue's thread only, as the next */
    atomic_size_t n_streams; /* of these: bidirectional streams, which mostly wait */
    atomic_size_t n_old;     /* of these: were there when the stop was seen; SIZE_MAX: it was not */

    /* The queue's thread. */
    struct list calls; /* all alive, oldest first */
    struct call *answers[QUEUE_ANSWERS_MAX];
    size_t n_answers;
    size_t n_submits;             /* requests that raft may not have begun with */
    unsigned n_held_events;       /* since something is held back */
    struct queue_event *deferred; /* taken from gRPC too early to be run, see queue_try_batch() */
    bool deferred_ok;
    struct call *spare;
    size_t n_spare;
    uint64_t sweep_ms;
    gpr_timespec sweep_at; /* the same for gRPC */
    uint64_t leader_ms;    /* when to look for a leader again */
    unsigned n_no_leader;  /* so many times in a row there was none */
    uint64_t n_events;
    int stop_seen;
};

struct queue *queue_new(struct server *server, struct cork *cork);
/* After its thread has ended (or before it was started). */
struct queue *queue_free(struct queue *q);
void queue_start(struct queue *q);
/* Ends the thread when gRPC has no more events for it, and joins it. No calls may be alive. */
void queue_join(struct queue *q);

void queue_entry_init(struct queue_entry *entry, struct call *call, void (*go_on)(struct call *));
/* Any thread: the entry goes on, on the queue's thread. It must not be pushed again before. */
void queue_push(struct queue *q, struct queue_entry *entry);
/* Any thread; seen within QUEUE_SWEEP_MS: STOPPING ends calls that would stay open for ever,
 * CANCELING all that can be ended. What a call lingers for has an election timeout from when it was
 * submitted, or until CANCELING; the sweep after that takes it back. */
void queue_set_stop(struct queue *q, enum queue_stop stop);
/* A foreign thread calls it before it lets gRPC post an event for the queue: gRPC says nothing
 * about memory order. */
static inline void queue_publish(struct queue *q)
{
    atomic_fetch_add_explicit(&q->handover, 1, memory_order_release);
}

/* The queue's thread: queue_answer() only collects, and sends nothing. */
static inline bool queue_has_room(const struct queue *q)
{
    return q->n_answers < QUEUE_ANSWERS_MAX - 1;
}

/* True on the thread of q. */
bool queue_is_current(const struct queue *q);

/* The queue's thread. */
struct call *queue_take_call(struct queue *q);
void queue_give_call(struct queue *q, struct call *call);
/* A request is being submitted, with `more`: server_submitted() is called when nothing else is at
 * hand. */
void queue_submit(struct queue *q);
/* Collects a call that has something to send: call_send(). */
void queue_answer(struct queue *q, struct call *call);
/* Starts a batch. True: it is done already, and its event, which is not run, was a success. */
bool queue_try_batch(struct queue *q, grpc_call *grpc, const grpc_op *ops, size_t n_ops,
                     struct queue_event *event);
void queue_count_streams(struct queue *q, int more);
