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
 * (call_watch()); the many short ones save that. Streams have a way of their own (stream.c).
 *
 * Thread: as queue.h says. Invariants:
 *  1. The inbox is not NULL exactly while one wake event is under way.
 *  2. An entry in the inbox, or on its way as the wake event, is touched by nobody until the
 *     queue's thread takes it.
 *  3. A call is among the answers at most once (call->collected).
 *  4. A foreign thread that makes gRPC post an event says queue_publish() first; the queue's thread
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

#define QUEUE_AWAKE ((struct queue_entry *)1)

void queue_push(struct queue *q, struct queue_entry *entry)
{
    struct queue_entry *first = atomic_load_explicit(&q->inbox, memory_order_relaxed);
    for (;;) {
        struct queue_entry *next = first ? entry : QUEUE_AWAKE;
        entry->next = first;
        if (atomic_compare_exchange_weak_explicit(&q->inbox, &first, next, memory_order_acq_rel,
                                                  memory_order_relaxed))
            break;
    }
    if (first)
        return;
    /* The queue's thread may take the event, answer the call and let go of it before start_batch
     * has returned. */
    grpc_call *grpc = entry->call->grpc;
    grpc_call_ref(grpc);
    queue_publish(q);
    check(grpc_call_start_batch(grpc, NULL, 0, &entry->event, NULL) == GRPC_CALL_OK);
    grpc_call_unref(grpc);
}

void queue_set_stop(struct queue *q, enum queue_stop stop)
{
    atomic_store(&q->stop, (int)stop);
}

/* ---- the queue's thread ---- */

/* The event of the entry that woke the queue has come: go on with it and with all that came after
 * it. */
static void on_woken(struct queue_event *event, bool ok)
{
    struct queue_entry *woken = container_of(event, struct queue_entry, event);
    struct queue *q = woken->call->queue;
    struct queue_entry *entry = atomic_exchange_explicit(&q->inbox, NULL, memory_order_acq_rel);
    struct queue_entry *first = NULL;
    while (entry != QUEUE_AWAKE) {
        struct queue_entry *next = entry->next;
        entry->next = first;
        first = entry;
        entry = next;
    }
    woken->go_on(woken->call);
    while (first) {
        entry = first;
        first = entry->next;
        entry->go_on(entry->call);
    }
}

void queue_entry_init(struct queue_entry *entry, struct call *call, void (*go_on)(struct call *))
{
    *entry = (struct queue_entry){.event.run = on_woken, .call = call, .go_on = go_on};
}

static void queue_count_old(struct queue *q)
{
    size_t n = 0;
    list_for_each (it, &q->calls) {
        container_of(it, struct call, link)->is_old = true;
        n++;
    }
    atomic_store_explicit(&q->n_old, n, memory_order_release);
    if (n == 0)
        q->idle(q->idle_arg);
}

static void queue_check_stop(struct queue *q)
{
    int stop = atomic_load(&q->stop);
    if (stop == q->stop_seen)
        return;
    if (q->stop_seen == QUEUE_RUNS)
        queue_count_old(q);
    q->stop_seen = stop;
    list_for_each_safe (it, next, &q->calls)
        call_interrupt(container_of(it, struct call, link), stop == QUEUE_CANCELING);
}

struct call *queue_take_call(struct queue *q)
{
    struct call *call = q->spare;
    if (call) {
        q->spare = call->next_spare;
        q->n_spare--;
    } else {
        call = call_new(q);
    }
    list_push(&q->calls, &call->link);
    atomic_store_explicit(&q->n_calls, atomic_load_explicit(&q->n_calls, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    return call;
}

static void queue_give_old(struct queue *q, struct call *call)
{
    if (!call->is_old)
        return;
    call->is_old = false;
    size_t left = atomic_load_explicit(&q->n_old, memory_order_relaxed) - 1;
    atomic_store_explicit(&q->n_old, left, memory_order_release);
    if (left == 0)
        q->idle(q->idle_arg);
}

void queue_give_call(struct queue *q, struct call *call)
{
    list_remove(&call->link);
    queue_give_old(q, call);
    if (q->n_spare < QUEUE_SPARE_MAX) {
        call->next_spare = q->spare;
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

void queue_count_streams(struct queue *q, int more)
{
    size_t n = atomic_load_explicit(&q->n_streams, memory_order_relaxed) + (size_t)more;
    atomic_store_explicit(&q->n_streams, n, memory_order_relaxed);
}

/* Sends the answers, in groups of one connection each. */
static void queue_flush(struct queue *q)
{
    size_t n = q->n_answers;
    struct call *answers[QUEUE_ANSWERS_MAX];
    memcpy(answers, q->answers, n * sizeof(answers[0]));
    q->n_answers = 0;
    if (n == 1) {
        call_send(answers[0]);
        return;
    }
    int fds[QUEUE_ANSWERS_MAX];
    for (size_t i = 0; i < n; i++)
        fds[i] = call_socket(answers[i]);
    for (size_t i = 0; i < n; i++) {
        if (!answers[i])
            continue;
        size_t more = i + 1;
        while (more < n && (fds[i] < 0 || !answers[more] || fds[more] != fds[i]))
            more++;
        bool held = more < n;
        if (held)
            cork_hold(fds[i]);
        call_send(answers[i]);
        for (; more < n; more++) {
            if (answers[more] && fds[more] == fds[i]) {
                call_send(answers[more]);
                answers[more] = NULL;
            }
        }
        if (held)
            cork_release(fds[i]);
    }
}

void queue_answer(struct queue *q, struct call *call)
{
    if (call->collected)
        return;
    call->collected = true;
    q->answers[q->n_answers++] = call;
    if (q->n_answers == QUEUE_ANSWERS_MAX)
        queue_flush(q);
}

/* As etcd does: a stream that is open costs much to open again, so it ends only when there has been
 * no leader for three election timeouts. */
static void queue_check_leader(struct queue *q, uint64_t now_ms)
{
    if (now_ms < q->leader_ms)
        return;
    q->leader_ms = now_ms + q->election_ms;
    q->n_no_leader = server_has_leader(q->server) ? 0 : q->n_no_leader + 1;
    if (q->n_no_leader < QUEUE_NO_LEADER_MAX)
        return;
    list_for_each_safe (it, next, &q->calls)
        call_lose_leader(container_of(it, struct call, link));
}

/* With a quorum a request takes milliseconds. Without one it can't come before the stop is over;
 * etcd doesn't wait for it at all. */
static void queue_end_lingering(struct queue *q, uint64_t now_ms)
{
    uint64_t patience_ms = q->stop_seen == QUEUE_CANCELING ? 0 : q->election_ms;
    if (q->stop_seen == QUEUE_RUNS)
        return;
    list_for_each_safe (it, next, &q->calls)
        call_end_lingering(container_of(it, struct call, link), now_ms, patience_ms);
}

static void queue_sweep(struct queue *q, uint64_t now_ms)
{
    if (now_ms < q->sweep_ms)
        return;
    q->sweep_ms = now_ms + QUEUE_SWEEP_MS;
    q->sweep_at = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                               gpr_time_from_millis(QUEUE_SWEEP_MS, GPR_TIMESPAN));
    queue_check_leader(q, now_ms);
    queue_end_lingering(q, now_ms);
    list_for_each_safe (it, next, &q->calls) {
        struct call *call = container_of(it, struct call, link);
        if (call->arrived_ns / 1000000 + QUEUE_SWEEP_MS > now_ms)
            break;
        if (!call->stream)
            call_watch(call);
    }
}

void queue_submit(struct queue *q)
{
    q->n_submits++;
}

/* Nothing else is at hand, or much has been. */
static void queue_settle(struct queue *q)
{
    q->n_held_events = 0;
    if (q->n_submits)
        server_submitted(q->server);
    q->n_submits = 0;
    if (q->n_answers)
        queue_flush(q);
}

static void queue_hold(struct queue *q)
{
    if ((q->n_answers || q->n_submits) && ++q->n_held_events >= QUEUE_HELD_EVENTS_MAX)
        queue_settle(q);
}

/* When to come back from sleep at the latest. */
static gpr_timespec queue_deadline(struct queue *q)
{
    /* With no other call alive there is nothing to collect. */
    if (q->n_answers + q->n_submits >= atomic_load_explicit(&q->n_calls, memory_order_relaxed))
        queue_settle(q);
    /* Sending may end streams, and take an event out of gRPC. */
    if (q->n_answers || q->n_submits || q->deferred)
        return gpr_time_0(GPR_CLOCK_MONOTONIC);
    if (list_empty(&q->calls))
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return q->sweep_at;
}

/* gRPC keeps the first event that this thread makes for us, instead of putting it into the queue;
 * mostly it is that of the batch. Another one is run when this has returned to queue_run(). */
bool queue_try_batch(struct queue *q, grpc_call *grpc, const grpc_op *ops, size_t n_ops,
                     struct queue_event *event)
{
    void *tag;
    int ok;
    if (!q->deferred)
        grpc_completion_queue_thread_local_cache_init(q->cq);
    check(grpc_call_start_batch(grpc, ops, n_ops, event, NULL) == GRPC_CALL_OK);
    if (q->deferred || !grpc_completion_queue_thread_local_cache_flush(q->cq, &tag, &ok))
        return false;
    if (tag == event && ok)
        return true;
    q->deferred = tag;
    q->deferred_ok = ok != 0;
    return false;
}

static void queue_run_deferred(struct queue *q)
{
    while (q->deferred) {
        struct queue_event *event = q->deferred;
        q->deferred = NULL;
        event->run(event, q->deferred_ok);
    }
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
            queue_hold(q);
        } else {
            queue_settle(q);
        }
        queue_run_deferred(q);
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
    q->sweep_at = gpr_time_0(GPR_CLOCK_MONOTONIC);
    list_init(&q->calls);
    atomic_init(&q->n_old, SIZE_MAX);
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
        q->spare = call->next_spare;
        call_free(call);
    }
    grpc_completion_queue_destroy(q->cq);
    free(q);
    return NULL;
}
