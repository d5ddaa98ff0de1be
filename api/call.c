/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One object per call, reused. It embeds the server's struct request, so that nothing is allocated
 * between a call's arrival and the raft log.
 *
 * What gRPC is asked for: one batch with everything an answer has, the notice that the call is over
 * included. That notice is asked for by itself only for calls that live long (call_watch(), from
 * the queue's sweep) or stay open; then a client that goes away, or whose deadline is over, takes
 * its request back (server_cancel()). For a put of a millisecond it would cost more than it is
 * worth, and the work of a cancelled proposal can't be undone.
 *
 * finish() may come on any thread, also from inside server_submit(). On the queue's own thread the
 * call goes on at once. On another thread it goes through the inbox, but a lone call is answered
 * right there: with one client that saves a thread switch, with many the queue's thread sends whole
 * batches for less. That is the one place where a foreign thread touches gRPC
 * (call_finish_elsewhere()).
 *
 * Thread: as call.h says. Invariants:
 *  1. A call is answered once: call_answer() checks the phase.
 *  2. The object is reused when it is answered and none of its events is under way, a wake included
 *     (call_let_go()). Before that is looked at, the handler's state is freed, and with it whatever
 *     could wake the call. A call that lingers counts its last request as such an event.
 *  3. request.response is empty when a handler starts and after each message.
 */
#include "api/call.h"

#include <grpc/support/alloc.h>

#include "api/grpc_metrics.h"
#include "api/request_log.h"
#include "api/stream.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

/* ---- end ---- */

static void call_cleanup(struct call *call)
{
    if (call->cleanup)
        call->cleanup(call);
    call->cleanup = NULL;
    call->state = NULL;
}

void call_trim(struct call *call)
{
    if (call->request.response.len == 0 && call->request.response.cap > CALL_KEEP_BYTES_MAX)
        buf_deinit(&call->request.response);
    arena_reset(&call->arena);
    if (call->arena.end - call->arena.next > CALL_KEEP_BYTES_MAX)
        arena_deinit(&call->arena);
}

static void call_reset(struct call *call)
{
    call->stream = stream_free(call->stream);
    grpc_byte_buffer_destroy(call->received);
    grpc_byte_buffer_destroy(call->sent);
    call->received = call->sent = NULL;
    grpc_call_unref(call->grpc);
    call->grpc = NULL;
    buf_clear(&call->request.response);
    call_trim(call);
    call->headers_sent = call->cancelled = call->last = call->needs_leader = false;
    atomic_store_explicit(&call->claim, CLAIM_NONE, memory_order_relaxed);
    call->is_cancelled = 0;
    call->fd = CALL_FD_UNASKED;
    call->request.physical = false;
}

/* Invariant 2. */
void call_let_go(struct call *call)
{
    if (call->phase != CALL_DONE || call->awaited)
        return;
    call_cleanup(call);
    if (call->n_events || atomic_load_explicit(&call->waking, memory_order_acquire))
        return;
    call_reset(call);
    queue_give_call(call->queue, call);
}

static void on_answered(struct queue_event *event, bool ok)
{
    struct call *call = container_of(event, struct call, answered);
    call->n_events--;
    call->phase = CALL_DONE;
    call_let_go(call);
}

/* ---- answers ---- */

/* As the interceptors of grpc-go do: the answer to a unary call is a message sent also if it is an
 * error. */
static void call_count_end(struct call *call)
{
    struct method_metrics *m = method_metrics_of(call->method);
    if (!call->counted)
        return;
    metric_add(&m->handled[call->status.code], 1);
    if (call->method->type == METHOD_UNARY)
        metric_add(&m->sent, 1);
    uint64_t ns = clock_mono_ns() - call->arrived_ns;
    if (grpc_metrics_extensive())
        metric_observe(&m->seconds, (double)ns / 1e9);
    if (call->method->type == METHOD_UNARY)
        request_log(call, ns);
}

/* A long response in gRPC's hands, until it has been sent. */
struct long_response {
    uint8_t *data;
    size_t len;
};

static atomic_size_t unsent_bytes; /* of all long responses of the process */

static void long_response_free(void *arg)
{
    struct long_response *l = arg;
    /* Made on another thread perhaps, and handed over by gRPC, which says nothing about order. */
    (void)atomic_load_explicit(&unsent_bytes, memory_order_acquire);
    atomic_fetch_sub_explicit(&unsent_bytes, l->len, memory_order_relaxed);
    free(l->data);
    free(l);
}

static grpc_slice slice_of_long(struct buf *response)
{
    struct long_response *l = mem_new(struct long_response);
    l->len = response->len;
    l->data = buf_take(response).data;
    atomic_fetch_add_explicit(&unsent_bytes, l->len, memory_order_release);
    return grpc_slice_new_with_user_data(l->data, l->len, long_response_free, l);
}

void call_set_message(struct call *call, grpc_slice *pieces, size_t n)
{
    check(!call->sent);
    call->sent = grpc_raw_byte_buffer_create(pieces, n);
    for (size_t i = 0; i < n; i++)
        grpc_slice_unref(pieces[i]);
    metric_add(&grpc_metrics_sent_bytes, grpc_byte_buffer_length(call->sent));
}

/* Moves request.response to call->sent. */
static void call_take_response(struct call *call)
{
    struct buf *response = &call->request.response;
    grpc_slice slice;
    if (response->len > CALL_RESPONSE_COPY_MAX)
        slice = slice_of_long(response);
    else
        slice = grpc_slice_from_copied_buffer((const char *)response->data, response->len);
    call_set_message(call, &slice, 1);
    buf_clear(response);
}

static grpc_op *add_op(grpc_op *op, grpc_op_type type)
{
    *op = (grpc_op){.op = type};
    return op + 1;
}

/* Adds what a message needs: the headers, if they have not left, and the message. */
static grpc_op *add_message_ops(struct call *call, grpc_op *op, bool message)
{
    if (!call->headers_sent)
        op = add_op(op, GRPC_OP_SEND_INITIAL_METADATA);
    call->headers_sent = true;
    if (message) {
        if (!call->sent)
            call_take_response(call);
        if (call->method->type != METHOD_UNARY)
            metric_add(&method_metrics_of(call->method)->sent, 1);
        op = add_op(op, GRPC_OP_SEND_MESSAGE);
        op[-1].data.send_message.send_message = call->sent;
    }
    return op;
}

static grpc_op *add_status_ops(struct call *call, grpc_op *op, grpc_slice *text)
{
    bool ok = call->status.code == STATUS_OK;
    bool last = call->last && (ok || call->stream);
    op = add_message_ops(call, op, call->method->type == METHOD_UNARY ? ok : last);
    op = add_op(op, GRPC_OP_SEND_STATUS_FROM_SERVER);
    op[-1].data.send_status_from_server.status = (grpc_status_code)call->status.code;
    op[-1].data.send_status_from_server.status_details = ok ? NULL : text;
    return op;
}

/* Who has gone away is sent nothing: gRPC makes errors of what it can't send, which cost as much as
 * all the rest of a short stream. */
static void call_send_answer(struct call *call)
{
    grpc_op ops[4], *op = ops;
    grpc_slice text = grpc_slice_from_static_string(call->status.text);
    call_count_end(call);
    if (!call->cancelled)
        op = add_status_ops(call, op, &text);
    if (atomic_load_explicit(&call->claim, memory_order_relaxed) != CLAIM_WATCH) {
        op = add_op(op, GRPC_OP_RECV_CLOSE_ON_SERVER);
        op[-1].data.recv_close_on_server.cancelled = &call->is_cancelled;
    }
    grpc_call *grpc = call->grpc;
    queue_publish(call->queue);
    check(grpc_call_start_batch(grpc, ops, (size_t)(op - ops), &call->answered, NULL) ==
          GRPC_CALL_OK);
}

void call_send(struct call *call)
{
    call->collected = false;
    if (call->stream && stream_is_sending(call))
        return; /* goes on when that has left */
    if (call->phase == CALL_ANSWERED)
        call_send_answer(call);
    else
        stream_wake(call);
}

int call_socket(struct call *call)
{
    if (call->fd == CALL_FD_UNASKED) {
        char *peer = grpc_call_get_peer(call->grpc);
        call->fd = cork_find(call->queue->cork, peer);
        gpr_free(peer);
    }
    return call->fd;
}

void call_answer_status(struct call *call, enum status_code code, const char *text)
{
    check(call->phase < CALL_ANSWERED); /* invariant 1 */
    call->phase = CALL_ANSWERED;
    call->status = (struct status){code, text};
    if (!call->stream || stream_stop(call))
        queue_answer(call->queue, call);
}

void call_answer(struct call *call, enum outcome outcome)
{
    bool is_long = call->request.response.len > CALL_RESPONSE_COPY_MAX;
    if (is_long &&
        atomic_load_explicit(&unsent_bytes, memory_order_relaxed) > CALL_UNSENT_BYTES_MAX)
        outcome = OUTCOME_TOO_MANY_REQUESTS;
    const struct status *status = status_of(outcome);
    call_answer_status(call, status->code, status->text);
}

/* ---- waiting ---- */

static void answer_outcome(struct call *call)
{
    call_answer(call, call->outcome);
}

static void call_resume(struct call *call)
{
    call->phase = CALL_RUNS;
    call->step(call);
}

/* From the queue's own thread a stream needs no way around. It is only collected, because whoever
 * wakes it may hold locks. */
static bool call_wake_here(struct call *call)
{
    struct queue *q = call->queue;
    if (!queue_is_current(q) || !call->stream || call->phase != CALL_OPEN || !queue_has_room(q))
        return false;
    call->awaited = false;
    queue_answer(q, call);
    return true;
}

void call_wake(struct call *call)
{
    if (call_wake_here(call))
        return;
    if (!atomic_exchange_explicit(&call->waking, true, memory_order_acq_rel))
        queue_push(call->queue, &call->woken);
}

void call_await_wake(struct call *call)
{
    check(!call->awaited);
    call->awaited = true;
}

static void on_wake(struct call *call)
{
    call->awaited = false;
    /* What is behind a wake is seen, or another wake comes. */
    atomic_exchange_explicit(&call->waking, false, memory_order_acq_rel);
    if (call->stream && call->phase == CALL_OPEN)
        queue_answer(call->queue, call);
    else if (call->phase == CALL_OPEN && call->step)
        call_resume(call);
    else
        call_let_go(call);
}

static bool call_claim(struct call *call, enum call_claim claim)
{
    int none = CLAIM_NONE;
    return atomic_compare_exchange_strong_explicit(&call->claim, &none, (int)claim,
                                                   memory_order_acq_rel, memory_order_acquire);
}

/* The seam between the server's threads and gRPC. The phase is the queue's thread's: the call stays
 * SUBMITTED until it is answered. */
static void call_finish_elsewhere(struct call *call)
{
    const struct queue *q = call->queue;
    /* Streams mostly have something to send just then, and gRPC's locks would be fought over. */
    bool alone = atomic_load_explicit(&q->n_calls, memory_order_relaxed) <= CALL_DIRECT_MAX &&
                 atomic_load_explicit(&q->n_streams, memory_order_relaxed) == 0;
    if (alone && call->step == answer_outcome && call_claim(call, CLAIM_ANSWER)) {
        /* The queue's thread may let go of the call before start_batch has returned. */
        grpc_call *grpc = call->grpc;
        grpc_call_ref(grpc);
        call->status = *status_of(call->outcome);
        call_send_answer(call);
        grpc_call_unref(grpc);
    } else {
        queue_push(call->queue, &call->finished);
    }
}

static void on_finish(struct request *request, enum outcome outcome)
{
    struct call *call = container_of(request, struct call, request);
    call->outcome = outcome;
    if (queue_is_current(call->queue))
        call_resume(call);
    else
        call_finish_elsewhere(call);
}

void call_submit_then(struct call *call, enum request_kind kind, struct bytes payload,
                      call_step step)
{
    call->request.kind = kind;
    call->request.payload = payload;
    call->step = step;
    call->phase = CALL_SUBMITTED;
    queue_submit(call->queue);
    server_submit(call->server, &call->request);
}

void call_submit_payload(struct call *call, enum request_kind kind, struct bytes payload)
{
    call_submit_then(call, kind, payload, answer_outcome);
}

static void linger_over(struct call *call)
{
    call->request.finish = on_finish;
    call->phase = CALL_DONE;
    call->n_events--;
    call_let_go(call);
}

static void on_linger_finish(struct request *request, enum outcome outcome)
{
    struct call *call = container_of(request, struct call, request);
    call->step = linger_over;
    queue_push(call->queue, &call->finished);
}

void call_linger(struct call *call, enum request_kind kind, struct bytes payload)
{
    check(call->phase == CALL_DONE);
    call->request.kind = kind;
    call->request.payload = payload;
    call->request.finish = on_linger_finish;
    call->phase = CALL_LINGERS;
    call->lingers_ms = clock_mono_ms();
    call->n_events++;
    queue_submit(call->queue);
    server_submit(call->server, &call->request);
}

void call_submit(struct call *call, enum request_kind kind)
{
    call_submit_payload(call, kind, call->payload);
}

void call_submit_by(struct call *call, enum request_kind kind, void (*submit)(struct call *call))
{
    call->request.kind = kind;
    call->request.payload = BYTES_NULL;
    call->step = answer_outcome;
    call->phase = CALL_SUBMITTED;
    submit(call);
}

void call_read_index(struct call *call, call_step step)
{
    struct queue *q = call->queue;

    call->request.kind = REQUEST_READ_INDEX;
    call->request.payload = BYTES_NULL;
    call->step = step;
    call->phase = CALL_SUBMITTED;
    if (server_read_index(call->server, &call->request)) /* else the call may be gone */
        queue_submit(q);
}

static void scan_run(struct scan_job *job)
{
    struct call *call = container_of(job, struct call, job);
    call->work(call);
    call_finish_elsewhere(call);
}

void call_scan(struct call *call, void (*work)(struct call *call), call_step step)
{
    call->work = work;
    call->step = step;
    call->phase = CALL_SCANS;
    call->job.run = scan_run;
    if (server_scan(call->server, &call->job))
        return;
    call->outcome = OUTCOME_TOO_MANY_REQUESTS;
    call_resume(call);
}

static void read_work(struct call *call)
{
    call->outcome = call->read(call->server, call->message, &call->request.response);
}

static void read_here(struct call *call)
{
    if (!call->outcome)
        read_work(call);
    call_answer(call, call->outcome);
}

static void read_on_pool(struct call *call)
{
    if (call->outcome)
        call_answer(call, call->outcome);
    else
        call_scan(call, read_work, answer_outcome);
}

void call_read(struct call *call, const struct call_read_options *options, call_read_fn read)
{
    call_step step = options->scan ? read_on_pool : read_here;
    call->read = read;
    call->outcome = OUTCOME_OK;
    if (options->linearizable)
        call_read_index(call, step);
    else
        step(call);
}

/* ---- streams ---- */

static void on_delivered(struct queue_event *event, bool ok)
{
    struct call *call = container_of(event, struct call, delivered);
    call->n_events--;
    grpc_byte_buffer_destroy(call->sent);
    call->sent = NULL;
    call->outcome = ok && !call->cancelled ? OUTCOME_OK : OUTCOME_CANCELED;
    if (call->queue->stop_seen == QUEUE_CANCELING && !call->outcome)
        call->outcome = OUTCOME_STOPPED;
    call_resume(call);
}

size_t call_message_ops(struct call *call, grpc_op *ops, bool flush)
{
    /* The headers are not done before they are written, so they must not wait for more. */
    bool may_wait = !flush && call->headers_sent;
    grpc_op *op = add_message_ops(call, ops, true);
    op[-1].flags = may_wait ? GRPC_WRITE_BUFFER_HINT : 0;
    call->n_events++;
    return (size_t)(op - ops);
}

void call_send_message(struct call *call, call_step step)
{
    grpc_op ops[CALL_MESSAGE_OPS_MAX];
    size_t n = call_message_ops(call, ops, true);
    call->step = step;
    call->phase = CALL_SENDS;
    check(grpc_call_start_batch(call->grpc, ops, n, &call->delivered, NULL) == GRPC_CALL_OK);
}

void call_stay_open(struct call *call)
{
    call_wait(call, NULL);
}

void call_wait(struct call *call, call_step step)
{
    call->step = step;
    call->outcome = OUTCOME_OK;
    call->phase = CALL_OPEN;
    call_watch(call);
    if (call->phase != CALL_OPEN)
        return;
    if (call->cancelled || call->queue->stop_seen != QUEUE_RUNS)
        call_answer(call, call->cancelled ? OUTCOME_CANCELED : OUTCOME_STOPPED);
}

/* ---- the client goes away, the server stops ---- */

void call_end_early(struct call *call, enum outcome outcome)
{
    bool mine = call->phase == CALL_OPEN ||
                (call->phase == CALL_SUBMITTED && server_cancel(call->server, &call->request));
    if (mine)
        call_answer(call, outcome);
}

static void on_closed(struct queue_event *event, bool ok)
{
    struct call *call = container_of(event, struct call, closed);
    call->n_events--;
    call->cancelled = call->is_cancelled || !ok;
    if (call->phase == CALL_DONE)
        call_let_go(call);
    else
        call_end_early(call, OUTCOME_CANCELED);
}

void call_watch(struct call *call)
{
    if (call->phase >= CALL_ANSWERED || !call_claim(call, CLAIM_WATCH))
        return;
    grpc_op op;
    add_op(&op, GRPC_OP_RECV_CLOSE_ON_SERVER);
    op.data.recv_close_on_server.cancelled = &call->is_cancelled;
    call->n_events++;
    if (queue_try_batch(call->queue, call->grpc, &op, 1, &call->closed))
        on_closed(&call->closed, true);
}

void call_interrupt(struct call *call, bool cancel)
{
    if (cancel || call->phase == CALL_OPEN)
        call_end_early(call, OUTCOME_STOPPED);
}

void call_end_lingering(struct call *call, uint64_t now_ms, uint64_t patience_ms)
{
    if (call->phase == CALL_LINGERS && call->lingers_ms + patience_ms <= now_ms &&
        server_cancel(call->server, &call->request))
        linger_over(call);
}

void call_lose_leader(struct call *call)
{
    if (call->needs_leader)
        call_end_early(call, OUTCOME_NO_LEADER);
}

struct call *call_new(struct queue *q)
{
    struct call *call = mem_new(struct call);
    call->queue = q;
    call->server = q->server;
    call->fd = CALL_FD_UNASKED;
    call->request.finish = on_finish;
    call->request.more = true;
    call->answered.run = on_answered;
    call->closed.run = on_closed;
    call->delivered.run = on_delivered;
    queue_entry_init(&call->finished, call, call_resume);
    queue_entry_init(&call->woken, call, on_wake);
    arena_init(&call->arena);
    grpc_metadata_array_init(&call->metadata);
    return call;
}

struct call *call_free(struct call *call)
{
    if (!call)
        return NULL;
    arena_deinit(&call->arena);
    buf_deinit(&call->request.response);
    grpc_metadata_array_destroy(&call->metadata);
    free(call);
    return NULL;
}
