/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One gRPC server, a few completion queues with a thread each, and the calls requested beforehand
 * ("slots", table.c says how many and why).
 *
 * Start: queues, server, port "external:client", methods, slots, threads. Stop: streams that would
 * stay open for ever end at once, and so do calls that come; the others have until the grace is
 * over, then they are taken back from the server and answered "server stopped". Then connections
 * end, and what is left (a client that doesn't read) is cancelled. The queues end when gRPC has
 * shut down, every slot came back and no call is alive: gRPC itself waits for connections only, and
 * would let a queue go too early.
 *
 * Thread: start, stop and free belong to the composition root; grpc_side_adopt() to the listener;
 * the rest runs on the queues' threads. Invariants:
 *  1. The descriptor given to grpc_side_adopt() is gRPC's from then on.
 *  2. Every path in the table is registered; whatever else comes is answered UNIMPLEMENTED with
 *     grpc-go's words (unknown_answer()).
 */
#include "api/grpc.h"

#include <grpc/grpc_security.h>
#if __has_include(<grpc/credentials.h>)
#include <grpc/credentials.h>
#endif
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "api/call.h"
#include "api/grpc_external.h"
#include "api/grpc_metrics.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    QUEUES_MAX = 8,
    UNKNOWN_PENDING = 4,                 /* slots per queue for paths that are not in the table */
    MESSAGE_OVERHEAD_BYTES = 512 * 1024, /* a request may be longer than --max-request-bytes by so
                                            much before it is refused unread */
    METADATA_BYTES_MAX = 64 * 1024,
    STREAM_WINDOW_BYTES = 512 * 1024,
    HANDSHAKE_MS = 10000,
    CANCEL_WAIT_MS = 500,
    GOODBYE_MS = 500, /* for connections without calls to close */
    ARGS_MAX = 24,
};

static const char external_address[] = "external:client";

struct slot {
    struct queue_event event;
    struct grpc_side *side;
    struct queue *queue;
    const struct method *method; /* NULL: a path not in the table */
    void *registered;
    grpc_call *call;
    gpr_timespec deadline; /* looked at once, when the call comes */
    grpc_metadata_array metadata;
    grpc_byte_buffer *payload;
    grpc_call_details details; /* unknown paths only */
};

struct grpc_side {
    struct server *server;
    grpc_server *grpc;
    void *external;
    struct cork *cork;
    size_t n_queues;
    struct queue *queues[QUEUES_MAX];
    struct slot *slots;
    size_t n_slots;
    size_t message_bytes_max;
    atomic_bool stopping;
    struct queue_event shutdown_event;
    /* What stopping waits for: all of it, because gRPC's shutdown waits for connections, not for
     * calls. */
    atomic_size_t n_returned; /* slots that came back for good */
    atomic_size_t n_unknown;  /* calls to unknown paths that are being answered */
    atomic_bool shut_down;    /* gRPC's own word */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* any of these may have changed */
};

/* The answer to a call whose path nobody knows. */
struct unknown_call {
    struct queue_event event;
    struct grpc_side *side;
    grpc_call *grpc;
    int is_cancelled;
    char text[512];
};

static void stop_progress(void *arg)
{
    struct grpc_side *g = arg;
    check(pthread_mutex_lock(&g->lock) == 0);
    check(pthread_cond_broadcast(&g->changed) == 0);
    check(pthread_mutex_unlock(&g->lock) == 0);
}

/* ---- arrival ---- */

/* Does a call come together with its (first) message? A bidirectional stream begins before. */
static bool method_reads_first(const struct method *method)
{
    return method->run && method->type != METHOD_BIDI_STREAM;
}

static void slot_return(struct slot *slot)
{
    atomic_fetch_add(&slot->side->n_returned, 1);
    stop_progress(slot->side);
}

static void slot_request(struct slot *slot)
{
    struct grpc_side *g = slot->side;
    grpc_completion_queue *cq = slot->queue->cq;
    if (atomic_load_explicit(&g->stopping, memory_order_relaxed)) {
        slot_return(slot);
        return;
    }
    grpc_call_error e;
    if (slot->method)
        e = grpc_server_request_registered_call(
            g->grpc, slot->registered, &slot->call, &slot->deadline, &slot->metadata,
            method_reads_first(slot->method) ? &slot->payload : NULL, cq, cq, &slot->event);
    else
        e = grpc_server_request_call(g->grpc, &slot->call, &slot->details, &slot->metadata, cq, cq,
                                     &slot->event);
    check(e == GRPC_CALL_OK);
}

/* The client has given up already, so nothing is begun for it. What is begun is not ended because
 * of its deadline, see args_build(). */
static bool is_late(gpr_timespec deadline)
{
    return deadline.tv_sec != INT64_MAX &&
           gpr_time_cmp(deadline, gpr_now(deadline.clock_type)) <= 0;
}

static void on_call(struct queue_event *event, bool ok)
{
    struct slot *slot = container_of(event, struct slot, event);
    if (!ok) {
        slot_return(slot);
        return;
    }
    struct call *call = queue_take_call(slot->queue);
    grpc_metadata_array spare = call->metadata;
    call->grpc = slot->call;
    call->metadata = slot->metadata;
    call->received = slot->payload;
    spare.count = 0;
    slot->metadata = spare;
    slot->payload = NULL;
    call->late = is_late(slot->deadline);
    slot_request(slot);
    call_start(call, slot->method);
}

/* The text of an answer to a path that is not in the table. */
static void unknown_text(struct bytes path, char *text, size_t size)
{
    struct bytes rest =
        path.len && path.data[0] == '/' ? bytes_of(path.data + 1, path.len - 1) : BYTES_NULL;
    const uint8_t *slash = rest.data ? memrchr(rest.data, '/', rest.len) : NULL;
    if (!slash) {
        snprintf(text, size, "malformed method name: \"%.*s\"", (int)path.len,
                 (const char *)path.data);
        return;
    }
    struct bytes service = bytes_of(rest.data, (size_t)(slash - rest.data));
    struct bytes name = bytes_of(slash + 1, rest.len - service.len - 1);
    if (method_service_is_known(service))
        snprintf(text, size, "unknown method %.*s for service %.*s", (int)name.len,
                 (const char *)name.data, (int)service.len, (const char *)service.data);
    else
        snprintf(text, size, "unknown service %.*s", (int)service.len, (const char *)service.data);
}

static void on_unknown_answered(struct queue_event *event, bool ok)
{
    struct unknown_call *u = container_of(event, struct unknown_call, event);
    struct grpc_side *g = u->side;
    grpc_call_unref(u->grpc);
    free(u);
    if (atomic_fetch_sub(&g->n_unknown, 1) == 1 && atomic_load(&g->stopping))
        stop_progress(g);
}

static void unknown_answer(struct unknown_call *u)
{
    grpc_slice text = grpc_slice_from_static_string(u->text);
    grpc_op ops[3] = {
        {.op = GRPC_OP_SEND_INITIAL_METADATA},
        {.op = GRPC_OP_SEND_STATUS_FROM_SERVER,
         .data.send_status_from_server = {.status = GRPC_STATUS_UNIMPLEMENTED,
                                          .status_details = &text}},
        {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
         .data.recv_close_on_server.cancelled = &u->is_cancelled},
    };
    u->event.run = on_unknown_answered;
    check(grpc_call_start_batch(u->grpc, ops, 3, &u->event, NULL) == GRPC_CALL_OK);
}

static void on_unknown_call(struct queue_event *event, bool ok)
{
    struct slot *slot = container_of(event, struct slot, event);
    if (!ok) {
        slot_return(slot);
        return;
    }
    struct unknown_call *u = mem_new(struct unknown_call);
    grpc_slice path = slot->details.method;
    u->side = slot->side;
    u->grpc = slot->call;
    atomic_fetch_add(&u->side->n_unknown, 1);
    unknown_text(bytes_of(GRPC_SLICE_START_PTR(path), GRPC_SLICE_LENGTH(path)), u->text,
                 sizeof(u->text));
    grpc_call_details_destroy(&slot->details);
    grpc_call_details_init(&slot->details);
    slot->metadata.count = 0;
    slot_request(slot);
    unknown_answer(u);
}

/* ---- start ---- */

static void *pointer_copy(void *p)
{
    return p;
}

static void pointer_destroy(void *p)
{
}

static int pointer_compare(void *a, void *b)
{
    return a < b ? -1 : a > b;
}

static const grpc_arg_pointer_vtable pointer_vtable = {pointer_copy, pointer_destroy,
                                                       pointer_compare};

struct args {
    grpc_arg items[ARGS_MAX];
    size_t len;
};

static void arg_add(struct args *args, const char *key, int64_t value)
{
    check(args->len < ARGS_MAX);
    int bounded = value > INT32_MAX ? INT32_MAX : (int)value;
    args->items[args->len++] =
        (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)key, .value.integer = bounded};
}

static void args_build(struct grpc_side *g, const struct config *config, struct args *args)
{
    args->items[args->len++] = (grpc_arg){.type = GRPC_ARG_POINTER,
                                          .key = (char *)external_address,
                                          .value.pointer = {&g->external, &pointer_vtable}};
    /* gRPC would refuse a message that is too long in words of its own: let it take twice as much,
     * and refuse in etcd's (call.c). */
    arg_add(args, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, 2 * (int64_t)g->message_bytes_max);
    arg_add(args, GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1);
    arg_add(args, GRPC_ARG_MAX_CONCURRENT_STREAMS, config->max_concurrent_streams);
    arg_add(args, GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX);
    arg_add(args, GRPC_ARG_KEEPALIVE_TIME_MS, config->grpc_keepalive_interval_ns / 1000000);
    arg_add(args, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, config->grpc_keepalive_timeout_ns / 1000000);
    arg_add(args, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
    arg_add(args, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
            config->grpc_keepalive_min_time_ns / 1000000);
    arg_add(args, GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, HANDSHAKE_MS);
    arg_add(args, GRPC_ARG_ENABLE_CHANNELZ, 0);
    /*
     * gRPC's clock is read at times, so it would cancel a call some milliseconds before the
     * client's time is over. clientv3 takes that for a time-out on the way and sends the request
     * to the next member: a write that was proposed would be made twice. The client cancels.
     */
    arg_add(args, GRPC_ARG_ENABLE_DEADLINE_CHECKS, 0);
    /* Probing for the bandwidth costs 6 % of a call's CPU time; a fixed window that holds the usual
     * request serves as well. */
    arg_add(args, GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arg_add(args, GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, STREAM_WINDOW_BYTES);
}

static void server_create(struct grpc_side *g, const struct config *config)
{
    struct args args = {.len = 0};
    args_build(g, config, &args);
    grpc_channel_args channel_args = {args.len, args.items};
    g->grpc = grpc_server_create(&channel_args, NULL);
    for (size_t i = 0; i < g->n_queues; i++)
        grpc_server_register_completion_queue(g->grpc, g->queues[i]->cq, NULL);
    grpc_server_credentials *credentials = grpc_insecure_server_credentials_create();
    /* Returns a port number, of which an external address has none; the handler below is the proof.
     */
    (void)grpc_server_add_http2_port(g->grpc, external_address, credentials);
    grpc_server_credentials_release(credentials);
    check(g->external);
}

static size_t slots_per_queue(const struct grpc_side *g, const struct method *method)
{
    return (method->pending + g->n_queues - 1) / g->n_queues;
}

static void slot_init(struct grpc_side *g, struct queue *q, const struct method *method,
                      void *registered)
{
    struct slot *slot = &g->slots[g->n_slots++];
    slot->event.run = method ? on_call : on_unknown_call;
    slot->side = g;
    slot->queue = q;
    slot->method = method;
    slot->registered = registered;
    grpc_metadata_array_init(&slot->metadata);
    grpc_call_details_init(&slot->details);
}

static void slots_make(struct grpc_side *g)
{
    size_t n = UNKNOWN_PENDING;
    for (size_t m = 0; m < METHOD_COUNT; m++)
        n += slots_per_queue(g, &methods[m]);
    g->slots = mem_alloc(n * g->n_queues * sizeof(struct slot));
    for (size_t m = 0; m < METHOD_COUNT; m++) {
        grpc_server_register_method_payload_handling handling =
            method_reads_first(&methods[m]) ? GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER
                                            : GRPC_SRM_PAYLOAD_NONE;
        void *registered = grpc_server_register_method(g->grpc, methods[m].path, NULL, handling, 0);
        check(registered);
        for (size_t i = 0; i < slots_per_queue(g, &methods[m]) * g->n_queues; i++)
            slot_init(g, g->queues[i % g->n_queues], &methods[m], registered);
    }
    for (size_t i = 0; i < UNKNOWN_PENDING * g->n_queues; i++)
        slot_init(g, g->queues[i % g->n_queues], NULL, NULL);
}

static size_t queue_count(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    size_t n = cpus > 3 ? (size_t)cpus / 2 : 1;
    return n < QUEUES_MAX ? n : QUEUES_MAX;
}

static void on_shutdown(struct queue_event *event, bool ok)
{
    struct grpc_side *g = container_of(event, struct grpc_side, shutdown_event);
    atomic_store(&g->shut_down, true);
    stop_progress(g);
}

static void grpc_side_init(struct grpc_side *g, struct server *server, const struct config *config)
{
    check(pthread_mutex_init(&g->lock, NULL) == 0);
    cond_init(&g->changed);
    g->server = server;
    g->message_bytes_max = (size_t)config->max_request_bytes + MESSAGE_OVERHEAD_BYTES;
    g->shutdown_event.run = on_shutdown;
    g->cork = cork_new();
    g->n_queues = queue_count();
    for (size_t i = 0; i < g->n_queues; i++) {
        g->queues[i] = queue_new(server, g->cork);
        g->queues[i]->message_bytes_max = g->message_bytes_max;
        g->queues[i]->election_ms = config->election_timeout_ms;
        g->queues[i]->idle = stop_progress;
        g->queues[i]->idle_arg = g;
    }
}

int grpc_side_start(struct grpc_side **ret, struct server *server)
{
    const struct config *config = server_config(server);
    struct grpc_side *g = mem_new(struct grpc_side);
    setenv("GRPC_VERBOSITY", "NONE",
           0); /* its messages are not in our format and tell a user nothing */
    grpc_external_tune();
    grpc_init();
    grpc_metrics_register(strcmp(config->metrics, "extensive") == 0);
    grpc_side_init(g, server, config);
    server_create(g, config);
    slots_make(g);
    grpc_server_start(g->grpc);
    for (size_t i = 0; i < g->n_slots; i++)
        slot_request(&g->slots[i]);
    for (size_t i = 0; i < g->n_queues; i++)
        queue_start(g->queues[i]);
    *ret = g;
    return 0;
}

void grpc_side_adopt(struct grpc_side *g, int fd)
{
    if (atomic_load(&g->stopping)) {
        close(fd);
        return;
    }
    cork_add(g->cork, fd);
    grpc_external_accept(g->external, fd);
}

/* ---- stop ---- */

static bool has_no_calls(struct grpc_side *g)
{
    size_t n_calls = atomic_load(&g->n_unknown);
    for (size_t i = 0; i < g->n_queues; i++)
        n_calls += atomic_load(&g->queues[i]->n_calls);
    return n_calls == 0;
}

static bool is_stopped(struct grpc_side *g)
{
    return atomic_load(&g->shut_down) && atomic_load(&g->n_returned) == g->n_slots &&
           has_no_calls(g);
}

/* False: not so within that time. */
static bool stop_wait(struct grpc_side *g, bool (*is_so)(struct grpc_side *g), uint64_t timeout_ms)
{
    struct timespec until = cond_until(timeout_ms * 1000000);
    check(pthread_mutex_lock(&g->lock) == 0);
    int r = 0;
    while (!is_so(g) && r == 0)
        r = pthread_cond_timedwait(&g->changed, &g->lock, &until);
    bool done = is_so(g);
    check(pthread_mutex_unlock(&g->lock) == 0);
    return done;
}

static void queues_set_stop(struct grpc_side *g, enum queue_stop stop)
{
    for (size_t i = 0; i < g->n_queues; i++)
        queue_set_stop(g->queues[i], stop);
}

/* Of those that were there when the queues were told to stop. */
static bool has_no_old_calls(struct grpc_side *g)
{
    size_t n = atomic_load(&g->n_unknown);
    for (size_t i = 0; i < g->n_queues; i++) {
        size_t n_old = atomic_load(&g->queues[i]->n_old);
        n += n_old == SIZE_MAX ? atomic_load(&g->queues[i]->n_calls) : n_old;
    }
    return n == 0;
}

/* Calls that come meanwhile are answered, too. What comes behind the last answers finds the end of
 * its connection, which clients mend by going elsewhere; gRPC's own shutdown would tell them that
 * their call was cancelled, and they would give up. */
void grpc_side_stop(struct grpc_side *g, uint64_t grace_ms)
{
    queues_set_stop(g, QUEUE_STOPPING);
    if (!stop_wait(g, has_no_old_calls, grace_ms)) {
        queues_set_stop(g, QUEUE_CANCELING);
        stop_wait(g, has_no_old_calls, CANCEL_WAIT_MS);
    }
    cork_end_all(g->cork);
    atomic_store(&g->stopping, true);
    grpc_server_shutdown_and_notify(g->grpc, g->queues[0]->cq, &g->shutdown_event);
    if (stop_wait(g, is_stopped, GOODBYE_MS))
        return;
    /* What is left can't send, or waits for a job that nobody can stop but that ends; or it is a
     * connection whose client does not answer that it has heard, for which gRPC waits 20 s. */
    grpc_server_cancel_all_calls(g->grpc);
    while (!stop_wait(g, is_stopped, 1000))
        log_warn("waiting for calls to end");
}

struct grpc_side *grpc_side_free(struct grpc_side *g)
{
    if (!g)
        return NULL;
    for (size_t i = 0; i < g->n_queues; i++)
        queue_join(g->queues[i]);
    grpc_server_destroy(g->grpc);
    for (size_t i = 0; i < g->n_queues; i++)
        queue_free(g->queues[i]);
    for (size_t i = 0; i < g->n_slots; i++) {
        grpc_metadata_array_destroy(&g->slots[i].metadata);
        grpc_call_details_destroy(&g->slots[i].details);
    }
    free(g->slots);
    cork_free(g->cork);
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    free(g);
    grpc_shutdown();
    return NULL;
}
