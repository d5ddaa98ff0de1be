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
 *  2. The object is reused when it is answered and none of its events is under way (call_let_go()).
 *  3. request.response is empty when a handler starts and after each message.
 */
#include "api/call.h"

#include "api/grpc_metrics.h"
#include "api/request_log.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

/* ---- end ---- */

static void call_reset(struct call *call)
{
    if (call->cleanup)
        call->cleanup(call);
    call->cleanup = NULL;
    call->state = NULL;
    grpc_byte_buffer_destroy(call->received);
    grpc_byte_buffer_destroy(call->sent);
    call->received = call->sent = NULL;
    grpc_call_unref(call->grpc);
    call->grpc = NULL;
    if (call->request.response.cap > CALL_KEEP_BYTES_MAX)
        buf_deinit(&call->request.response);
    buf_clear(&call->request.response);
    arena_reset(&call->arena);
    if (call->arena.end - call->arena.next > CALL_KEEP_BYTES_MAX)
        arena_deinit(&call->arena);
    call->headers_sent = call->cancelled = call->last = false;
    atomic_store_explicit(&call->claim, CLAIM_NONE, memory_order_relaxed);
    call->is_cancelled = 0;
    call->request.physical = false;
}

/* Invariant 2. */
static void call_let_go(struct call *call)
{
    if (call->n_events || call->phase != CALL_DONE)
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

/* Moves request.response to call->sent. */
static void call_take_response(struct call *call)
{
    struct buf *response = &call->request.response;
    grpc_slice slice;
    if (call->method->type != METHOD_UNARY)
        metric_add(&method_metrics_of(call->method)->sent, 1);
    metric_add(&grpc_metrics_sent_bytes, response->len);
    if (response->len > CALL_RESPONSE_COPY_MAX)
        slice = slice_of_long(response);
    else
        slice = grpc_slice_from_copied_buffer((const char *)response->data, response->len);
    check(!call->sent);
    call->sent = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
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
        call_take_response(call);
        op = add_op(op, GRPC_OP_SEND_MESSAGE);
        op[-1].data.send_message.send_message = call->sent;
    }
    return op;
}

void call_send_answer(struct call *call)
{
    grpc_op ops[4], *op = ops;
    grpc_slice text = grpc_slice_from_static_string(call->status.text);
    bool ok = call->status.code == STATUS_OK;
    call_count_end(call);
    op = add_message_ops(call, op, ok && (call->method->type == METHOD_UNARY || call->last));
    op = add_op(op, GRPC_OP_SEND_STATUS_FROM_SERVER);
    op[-1].data.send_status_from_server.status = (grpc_status_code)call->status.code;
    op[-1].data.send_status_from_server.status_details = ok ? NULL : &text;
    if (atomic_load_explicit(&call->claim, memory_order_relaxed) != CLAIM_WATCH) {
        op = add_op(op, GRPC_OP_RECV_CLOSE_ON_SERVER);
        op[-1].data.recv_close_on_server.cancelled = &call->is_cancelled;
    }
    grpc_call *grpc = call->grpc;
    queue_publish(call->queue);
    check(grpc_call_start_batch(grpc, ops, (size_t)(op - ops), &call->answered, NULL) ==
          GRPC_CALL_OK);
}

/* Invariant 1. */
static void call_set_answer(struct call *call, enum status_code code, const char *text)
{
    check(call->phase != CALL_ANSWERED && call->phase != CALL_DONE);
    call->phase = CALL_ANSWERED;
    call->status = (struct status){code, text};
}

void call_answer_status(struct call *call, enum status_code code, const char *text)
{
    call_set_answer(call, code, text);
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

void call_resume(struct call *call)
{
    call->phase = CALL_RUNS;
    call->step(call);
}

static void on_woken(struct queue_event *event, bool ok)
{
    struct call *call = container_of(event, struct call, woken);
    queue_drain(call->queue, call);
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
    bool alone =
        atomic_load_explicit(&call->queue->n_calls, memory_order_relaxed) <= CALL_DIRECT_MAX;
    if (alone && call->step == answer_outcome && call_claim(call, CLAIM_ANSWER)) {
        /* The queue's thread may let go of the call before start_batch has returned. */
        grpc_call *grpc = call->grpc;
        grpc_call_ref(grpc);
        call->status = *status_of(call->outcome);
        call_send_answer(call);
        grpc_call_unref(grpc);
    } else {
        queue_push(call->queue, call);
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

void call_submit_payload(struct call *call, enum request_kind kind, struct bytes payload)
{
    call->request.kind = kind;
    call->request.payload = payload;
    call->step = answer_outcome;
    call->phase = CALL_SUBMITTED;
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
    call->request.kind = REQUEST_READ_INDEX;
    call->request.payload = BYTES_NULL;
    call->step = step;
    call->phase = CALL_SUBMITTED;
    server_read_index(call->server, &call->request);
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

void call_send_message(struct call *call, call_step step)
{
    grpc_op ops[2], *op = add_message_ops(call, ops, true);
    call->step = step;
    call->phase = CALL_SENDS;
    call->n_events++;
    check(grpc_call_start_batch(call->grpc, ops, (size_t)(op - ops), &call->delivered, NULL) ==
          GRPC_CALL_OK);
}

void call_stay_open(struct call *call)
{
    call->phase = CALL_OPEN;
    call_watch(call);
    if (call->cancelled || call->queue->stop_seen != QUEUE_RUNS)
        call_answer(call, call->cancelled ? OUTCOME_CANCELED : OUTCOME_STOPPED);
}

/* ---- the client goes away, the server stops ---- */

static void call_end_early(struct call *call, enum outcome outcome)
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
    if (call->phase == CALL_ANSWERED || call->phase == CALL_DONE || !call_claim(call, CLAIM_WATCH))
        return;
    grpc_op op;
    add_op(&op, GRPC_OP_RECV_CLOSE_ON_SERVER);
    op.data.recv_close_on_server.cancelled = &call->is_cancelled;
    call->n_events++;
    check(grpc_call_start_batch(call->grpc, &op, 1, &call->closed, NULL) == GRPC_CALL_OK);
}

void call_interrupt(struct call *call, bool cancel)
{
    if (cancel || call->phase == CALL_OPEN)
        call_end_early(call, OUTCOME_STOPPED);
}

struct call *call_new(struct queue *q)
{
    struct call *call = mem_new(struct call);
    call->queue = q;
    call->server = q->server;
    call->request.finish = on_finish;
    call->woken.run = on_woken;
    call->answered.run = on_answered;
    call->closed.run = on_closed;
    call->delivered.run = on_delivered;
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
