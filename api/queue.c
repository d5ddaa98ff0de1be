/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop of a queue's thread: take an event from gRPC, run it; when nothing is at hand, send the
 * answers collected so far; when there are none, sleep.
 *
 * The inbox is a stack under one atomic pointer. A push to an empty inbox of a sleeping queue does
 * not push at all: it marks the queue awake and sends its call as gRPC's event (an empty batch is
 * put into the completion queue at once). Until that event is taken, pushes only link themselves
 * in. So a batch of finished requests costs one wake-up, and none is ever lost: the drain sets the
 * inbox back to "asleep" in the same exchange that takes its contents.
 *
 * A call that lives longer than a sweep or two starts to watch for its client going away
 * (call_watch()); the many short ones save that.
 *
 * Thread: as queue.h says. Invariants:
 *  1. The inbox is not NULL exactly while one wake event is under way.
 *  2. A call in the inbox, or on its way as the wake event, is touched by nobody until the queue's
 *     thread resumes it.
 *  3. A foreign thread that makes gRPC post an event says queue_publish() first; the queue's thread
 *     reads the counter after each event. gRPC promises nothing about memory order.
 */
#include "api/queue.h"

#include <grpc/support/alloc.h>
#include <grpc/support/time.h>

#include "api/call.h"
#include "base/clock.h"
#include "base/mem.h"

static _Thread_local const struct queue *current;

bool queue_is_current(const struct queue *q)
{
    return current == q;
}

/* ---- other threads ---- */

#define QUEUE_AWAKE ((struct call *)1)

void queue_push(struct queue *q, struct call *call)
{
    struct call *first = atomic_load_explicit(&q->inbox, memory_order_relaxed);
    for (;;) {
        struct call *next = first ? call : QUEUE_AWAKE;
        call->inbox_next = first;
        if (atomic_compare_exchange_weak_explicit(&q->inbox, &first, next, memory_order_acq_rel,
                                                  memory_order_relaxed))
            break;
    }
    if (first)
        return;
    /* The queue's thread may take the event, answer the call and let go of it before start_batch
     * has returned. */
    grpc_call *grpc = call->grpc;
    grpc_call_ref(grpc);
    queue_publish(q);
    check(grpc_call_start_batch(grpc, NULL, 0, &call->woken, NULL) == GRPC_CALL_OK);
    grpc_call_unref(grpc);
}

void queue_set_stop(struct queue *q, enum queue_stop stop)
{
    atomic_store(&q->stop, (int)stop);
}

/* ---- the queue's thread ---- */

/* The event of the call that woke the queue has come: go on with it and with all that came after
 * it. */
void queue_drain(struct queue *q, struct call *woken)
{
    struct call *call = atomic_exchange_explicit(&q->inbox, NULL, memory_order_acq_rel);
    struct call *first = NULL;
    while (call != QUEUE_AWAKE) {
        struct call *next = call->inbox_next;
        call->inbox_next = first;
        first = call;
        call = next;
    }
    call_resume(woken);
    while (first) {
        call = first;
        first = call->inbox_next;
        call_resume(call);
    }
}

static void queue_check_stop(struct queue *q)
{
    int stop = atomic_load(&q->stop);
    if (stop == q->stop_seen)
        return;
    q->stop_seen = stop;
    list_for_each_safe (it, next, &q->calls)
        call_interrupt(container_of(it, struct call, link), stop == QUEUE_CANCELING);
}

struct call *queue_take_call(struct queue *q)
{
    struct call *call = q->spare;
    if (call) {
        q->spare = call->inbox_next;
        q->n_spare--;
    } else {
        call = call_new(q);
    }
    list_push(&q->calls, &call->link);
    atomic_store_explicit(&q->n_calls, atomic_load_explicit(&q->n_calls, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return call;
}

void queue_give_call(struct queue *q, struct call *call)
{
    list_remove(&call->link);
    if (q->n_spare < QUEUE_SPARE_MAX) {
        call->inbox_next = q->spare;
        q->spare = call;
        q->n_spare++;
    } else {
        call_free(call);
    }
    size_t left = atomic_load_explicit(&q->n_calls, memory_order_relaxed) - 1;
    atomic_store_explicit(&q->n_calls, left, memory_order_release);
    if (left == 0 && atomic_load_explicit(&q->stop, memory_order_relaxed) != QUEUE_RUNS)
        q->idle(q->idle_arg);
}

/* Sends the answers, in groups of one connection each. */
static void queue_flush(struct queue *q)
{
    size_t n = q->n_answers;
    struct call *answers[QUEUE_ANSWERS_MAX];
    memcpy(answers, q->answers, n * sizeof(answers[0]));
    q->n_answers = 0;
    if (n == 1) {
        call_send_answer(answers[0]);
        return;
    }
    int fds[QUEUE_ANSWERS_MAX];
    for (size_t i = 0; i < n; i++) {
        char *peer = grpc_call_get_peer(answers[i]->grpc);
        fds[i] = cork_find(q->cork, peer);
        gpr_free(peer);
    }
    for (size_t i = 0; i < n; i++) {
        if (!answers[i])
            continue;
        size_t more = i + 1;
        while (more < n && (fds[i] < 0 || !answers[more] || fds[more] != fds[i]))
            more++;
        bool held = more < n;
        if (held)
            cork_hold(fds[i]);
        call_send_answer(answers[i]);
        for (; more < n; more++) {
            if (answers[more] && fds[more] == fds[i]) {
                call_send_answer(answers[more]);
                answers[more] = NULL;
            }
        }
        if (held)
            cork_release(fds[i]);
    }
}

void queue_answer(struct queue *q, struct call *call)
{
    q->answers[q->n_answers++] = call;
    if (q->n_answers == QUEUE_ANSWERS_MAX)
        queue_flush(q);
}

static void queue_sweep(struct queue *q, uint64_t now_ms)
{
    if (now_ms < q->sweep_ms)
        return;
    q->sweep_ms = now_ms + QUEUE_SWEEP_MS;
    list_for_each_safe (it, next, &q->calls) {
        struct call *call = container_of(it, struct call, link);
        if (call->arrived_ns / 1000000 + QUEUE_SWEEP_MS > now_ms)
            break;
        call_watch(call);
    }
}

/* When to come back from sleep at the latest. */
static gpr_timespec queue_deadline(struct queue *q)
{
    if (q->n_answers) {
        /* With no other call alive there is nothing to collect. */
        if (q->n_answers < atomic_load_explicit(&q->n_calls, memory_order_relaxed))
            return gpr_time_0(GPR_CLOCK_MONOTONIC);
        queue_flush(q);
    }
    if (list_empty(&q->calls))
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_millis(QUEUE_SWEEP_MS, GPR_TIMESPAN));
}

static void *queue_run(void *arg)
{
    struct queue *q = arg;
    current = q;
    for (;;) {
        grpc_event ev = grpc_completion_queue_next(q->cq, queue_deadline(q), NULL);
        if (ev.type == GRPC_QUEUE_SHUTDOWN)
            break;
        (void)atomic_load_explicit(&q->handover, memory_order_acquire);
        if (ev.type == GRPC_OP_COMPLETE) {
            struct queue_event *event = ev.tag;
            event->run(event, ev.success != 0);
        } else if (q->n_answers) {
            queue_flush(q);
        }
        queue_check_stop(q);
        /* Events may come without a pause, so not only a time-out makes it look at the clock, but
         * also not each event. */
        if (ev.type == GRPC_QUEUE_TIMEOUT || ++q->n_events % 256 == 0)
            queue_sweep(q, clock_mono_ms());
    }
    current = NULL;
    return NULL;
}

/* ---- life ---- */

struct queue *queue_new(struct server *server, struct cork *cork)
{
    struct queue *q = mem_new(struct queue);
    q->server = server;
    q->cork = cork;
    q->cq = grpc_completion_queue_create_for_next(NULL);
    list_init(&q->calls);
    return q;
}

void queue_start(struct queue *q)
{
    check(pthread_create(&q->thread, NULL, queue_run, q) == 0);
    pthread_setname_np(q->thread, "queue");
}

void queue_join(struct queue *q)
{
    grpc_completion_queue_shutdown(q->cq);
    check(pthread_join(q->thread, NULL) == 0);
}

struct queue *queue_free(struct queue *q)
{
    if (!q)
        return NULL;
    check(list_empty(&q->calls) && !atomic_load(&q->inbox));
    while (q->spare) {
        struct call *call = q->spare;
        q->spare = call->inbox_next;
        call_free(call);
    }
    grpc_completion_queue_destroy(q->cq);
    free(q);
    return NULL;
}
