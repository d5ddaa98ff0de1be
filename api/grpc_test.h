/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the gRPC side: a server of their own behind it, whose requests the test finishes
 * from its own thread, a watch hub that says what the test wants, and gRPC's client in front, over
 * two connections.
 */
#pragma once

#include "api/grpc.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_posix.h>
#include <grpc/grpc_security.h>
#if __has_include(<grpc/credentials.h>)
#include <grpc/credentials.h>
#endif
#include <arpa/inet.h>
#include <fcntl.h>
#include <grpc/support/alloc.h>
#include <grpc/support/time.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/grpc_metrics.h"
#include "api/hub_test.h"
#include "base/mem.h"
#include "health.pb-c.h"
#include "rpc.pb-c.h"

enum { PATIENCE_S = 20, REQUESTS_MAX = 4096 };

/* ---- the server behind ---- */

struct server {
    struct config config;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct request *held[REQUESTS_MAX]; /* submitted and not finished */
    size_t n_held;
    struct request *fresh[REQUESTS_MAX]; /* before server_submitted() */
    size_t n_fresh;
    size_t n_submitted; /* calls of server_submitted() */
    size_t n_cancelled;
    bool finish_inside; /* server_submit() finishes before it returns */
    bool no_leader;
    atomic_bool is_learner;
    bool scans_full;
    bool no_space;
    unsigned stream_messages;
    enum outcome read_outcome;
    char token[64];
    struct scan_job *scans;
    pthread_t scanner;
    bool scanner_stop;
};

static struct server server;

/* The test changes the server under the eyes of other threads. */
#define SERVER_SET(field, to)                                                                      \
    do {                                                                                           \
        pthread_mutex_lock(&server.lock);                                                          \
        server.field = (to);                                                                       \
        pthread_mutex_unlock(&server.lock);                                                        \
    } while (0)
#define SERVER_GET(field)                                                                          \
    ({                                                                                             \
        pthread_mutex_lock(&server.lock);                                                          \
        __typeof__(server.field) got_ = server.field;                                              \
        pthread_mutex_unlock(&server.lock);                                                        \
        got_;                                                                                      \
    })

const struct config *server_config(const struct server *s)
{
    return &s->config;
}

void server_info(struct server *s, struct server_info *ret)
{
    *ret = (struct server_info){.leader_id = SERVER_GET(no_leader) ? 0 : 1};
}

/* False: it is finished. */
static bool submit(struct server *s, struct request *request, bool more)
{
    bool inside;

    pthread_mutex_lock(&s->lock);
    snprintf(s->token, sizeof(s->token), "%.*s", (int)request->credentials.token.len,
             (const char *)request->credentials.token.data);
    inside = s->finish_inside;
    if (!inside) {
        assert_true(s->n_held + s->n_fresh < REQUESTS_MAX);
        if (more)
            s->fresh[s->n_fresh++] = request;
        else
            s->held[s->n_held++] = request;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (inside) {
        buf_append_bytes(&request->response, request->payload);
        request->finish(request, OUTCOME_OK);
    }
    return !inside;
}

void server_submit(struct server *s, struct request *request)
{
    submit(s, request, request->more);
}

void server_submitted(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->held + s->n_held, s->fresh, s->n_fresh * sizeof(s->fresh[0]));
    s->n_held += s->n_fresh;
    s->n_fresh = 0;
    s->n_submitted++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

bool server_read_index(struct server *s, struct request *request)
{
    assert_int_equal(request->kind, REQUEST_READ_INDEX);
    return submit(s, request, request->more);
}

static bool take_back(struct request **requests, size_t *n, const struct request *request)
{
    for (size_t i = 0; i < *n; i++) {
        if (requests[i] == request) {
            requests[i] = requests[--*n];
            return true;
        }
    }
    return false;
}

bool server_cancel(struct server *s, struct request *request)
{
    bool found;

    pthread_mutex_lock(&s->lock);
    found = take_back(s->held, &s->n_held, request) || take_back(s->fresh, &s->n_fresh, request);
    s->n_cancelled += found;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return found;
}

bool server_is_learner(const struct server *s)
{
    return atomic_load(&s->is_learner);
}

void server_change_members(struct server *s, struct request *request, const void *message)
{
    submit(s, request, false);
}

void server_promote_member(struct server *s, struct request *request, uint64_t member_id)
{
    submit(s, request, false);
}

void server_move_leader(struct server *s, struct request *request, uint64_t member_id)
{
    submit(s, request, false);
}

int64_t server_lease_id(struct server *s)
{
    return 4711;
}

bool server_scan(struct server *s, struct scan_job *job)
{
    bool taken;

    pthread_mutex_lock(&s->lock);
    taken = !s->scans_full;
    if (taken) {
        job->next = s->scans;
        s->scans = job;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return taken;
}

static inline void *scanner_run(void *arg)
{
    struct server *s = arg;

    pthread_mutex_lock(&s->lock);
    while (!s->scanner_stop) {
        struct scan_job *job = s->scans;

        if (!job) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        s->scans = job->next;
        pthread_mutex_unlock(&s->lock);
        job->run(job);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

bool server_quota_exceeded(struct server *s, uint64_t cost_bytes)
{
    return SERVER_GET(no_space);
}

/* Reads answer with what they were asked and who was asked. */
static enum outcome read_answer(struct server *s, struct buf *response, const char *who)
{
    buf_append_str(response, who);
    return SERVER_GET(read_outcome);
}

#define READ(name)                                                                                 \
    enum outcome name(struct server *s, const void *request, struct buf *response)                 \
    {                                                                                              \
        return read_answer(s, response, #name);                                                    \
    }

READ(server_range)
READ(server_txn_read_only)
READ(server_lease_leases)
READ(server_member_list)
READ(server_maintenance_status)
READ(server_hash)
READ(server_hash_kv)
READ(server_defragment)

void server_lease_time_to_live(struct server *s, struct request *request, const void *message)
{
    submit(s, request, false);
}

struct range_stream {
    struct server *server;
    unsigned n;
};

struct range_stream *range_stream_new(struct server *s, const void *request)
{
    struct range_stream *rs = mem_new(struct range_stream);

    rs->server = s;
    return rs;
}

struct range_stream *range_stream_free(struct range_stream *rs)
{
    free(rs);
    return NULL;
}

enum outcome range_stream_next(struct range_stream *rs, struct buf *response, bool *ret_last)
{
    buf_printf(response, "message %u", ++rs->n);
    *ret_last = rs->n >= SERVER_GET(stream_messages);
    return SERVER_GET(read_outcome);
}

/* False: not within that time. */
static inline bool reaches(size_t *what, size_t n, time_t seconds)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += seconds;
    pthread_mutex_lock(&server.lock);
    int r = 0;
    while (*what < n && r == 0)
        r = pthread_cond_timedwait(&server.changed, &server.lock, &until);
    pthread_mutex_unlock(&server.lock);
    return r == 0;
}

static inline void wait_until(size_t *what, size_t n)
{
    assert_true(reaches(what, n, PATIENCE_S));
}

/* Finishes the requests that are held, in one go, as an apply turn does. */
static inline void finish_all(enum outcome outcome)
{
    static struct request *requests[REQUESTS_MAX];
    size_t n;

    pthread_mutex_lock(&server.lock);
    n = server.n_held;
    memcpy(requests, server.held, n * sizeof(requests[0]));
    server.n_held = 0;
    pthread_mutex_unlock(&server.lock);
    for (size_t i = 0; i < n; i++) {
        if (!outcome)
            buf_append_str(&requests[i]->response, "done");
        requests[i]->finish(requests[i], outcome);
    }
}

/* ---- the client ---- */

static struct grpc_side *side;
/* Two connections, used in turn. */
enum { CHANNELS = 2 };
static grpc_channel *channels[CHANNELS];
static unsigned n_calls;
static grpc_completion_queue *cq;

struct client_call {
    grpc_call *call;
    grpc_metadata_array headers, trailers;
    grpc_byte_buffer *sent, *received;
    grpc_status_code code;
    grpc_slice text;
};

struct metadata {
    const char *key, *value;
};

static inline gpr_timespec patience(void)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_seconds(PATIENCE_S, GPR_TIMESPAN));
}

static inline void pluck(void *tag, bool want_ok)
{
    grpc_event event = grpc_completion_queue_pluck(cq, tag, patience(), NULL);

    assert_int_equal(event.type, GRPC_OP_COMPLETE);
    if (want_ok)
        assert_true(event.success);
}

/* Instead of a message: none at all. */
#define NO_MESSAGE ((struct bytes){NULL, 1})

/* Starts a call with one message and the end of the client's side. */
static inline struct client_call *call_begin(const char *path, struct bytes message,
                                             const struct metadata *m)
{
    struct client_call *c = mem_new(struct client_call);
    bool none = !message.data && message.len;
    grpc_slice slice =
        grpc_slice_from_copied_buffer((const char *)message.data, none ? 0 : message.len);
    grpc_metadata extra = {0};
    grpc_op ops[3] = {{.op = GRPC_OP_SEND_INITIAL_METADATA},
                      {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT},
                      {.op = GRPC_OP_SEND_MESSAGE}};

    grpc_metadata_array_init(&c->headers);
    grpc_metadata_array_init(&c->trailers);
    c->call = grpc_channel_create_call(channels[n_calls++ % CHANNELS], NULL, 0, cq,
                                       grpc_slice_from_static_string(path), NULL, patience(), NULL);
    c->sent = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    if (m) {
        extra.key = grpc_slice_from_static_string(m->key);
        extra.value = grpc_slice_from_static_string(m->value);
        ops[0].data.send_initial_metadata.metadata = &extra;
        ops[0].data.send_initial_metadata.count = 1;
    }
    ops[2].data.send_message.send_message = c->sent;
    assert_int_equal(grpc_call_start_batch(c->call, ops, none ? 2 : 3, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    return c;
}

/* Starts a stream without a message. */
static inline struct client_call *stream_begin(const char *path, const struct metadata *m)
{
    struct client_call *c = mem_new(struct client_call);
    grpc_metadata extra = {0};
    grpc_op op = {.op = GRPC_OP_SEND_INITIAL_METADATA};

    grpc_metadata_array_init(&c->headers);
    grpc_metadata_array_init(&c->trailers);
    c->call = grpc_channel_create_call(channels[n_calls++ % CHANNELS], NULL, 0, cq,
                                       grpc_slice_from_static_string(path), NULL,
                                       gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
    if (m) {
        extra.key = grpc_slice_from_static_string(m->key);
        extra.value = grpc_slice_from_static_string(m->value);
        op.data.send_initial_metadata.metadata = &extra;
        op.data.send_initial_metadata.count = 1;
    }
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    return c;
}

static inline void stream_write(struct client_call *c, struct bytes message)
{
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)message.data, message.len);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op op = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};

    grpc_slice_unref(slice);
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    grpc_byte_buffer_destroy(buffer);
}

static inline void stream_half_close(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};

    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
}

/* The next message; data NULL: none. */
static inline struct buf stream_read(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    grpc_byte_buffer_reader reader;
    struct buf message = BUF_NULL;

    op.data.recv_message.recv_message = &c->received;
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    if (!c->received)
        return message;
    assert_true(grpc_byte_buffer_reader_init(&reader, c->received));
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    buf_reserve(&message, 1);
    buf_append(&message, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all));
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    return message;
}

/* The next message as text; NULL: none. */
static inline char *call_message(struct client_call *c)
{
    _cleanup_(buf_deinit) struct buf message = stream_read(c);

    return message.data ? mem_strndup((const char *)message.data, message.len) : NULL;
}

static inline void call_receive_headers(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_INITIAL_METADATA};

    op.data.recv_initial_metadata.recv_initial_metadata = &c->headers;
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
}

/* Waits for the end, compares, and frees. */
static inline void call_end(struct client_call *c, grpc_status_code code, const char *text)
{
    grpc_op op = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT};

    op.data.recv_status_on_client.trailing_metadata = &c->trailers;
    op.data.recv_status_on_client.status = &c->code;
    op.data.recv_status_on_client.status_details = &c->text;
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    _cleanup_(mem_freep) char *have = grpc_slice_to_c_string(c->text);
    if (text)
        assert_string_equal(have, text);
    assert_int_equal(c->code, code);
    grpc_slice_unref(c->text);
    grpc_metadata_array_destroy(&c->headers);
    grpc_metadata_array_destroy(&c->trailers);
    grpc_byte_buffer_destroy(c->sent);
    grpc_call_unref(c->call);
    free(c);
}

/* A whole unary call: response NULL expects none. */
static inline void call_expect(struct client_call *c, grpc_status_code code, const char *text,
                               const char *response)
{
    call_receive_headers(c);
    _cleanup_(mem_freep) char *message = call_message(c);
    if (response)
        assert_non_null(message);
    else
        assert_null(message);
    if (response)
        assert_string_equal(message, response);
    call_end(c, code, text);
}

static inline void expect_message(struct client_call *c, const char *want)
{
    _cleanup_(mem_freep) char *have = call_message(c);

    assert_non_null(have);
    assert_string_equal(have, want);
}

/* ---- setup ---- */

/* A TCP connection, so that the corks have something to hold. */
static inline grpc_channel *connect_channel(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(connect(client, (struct sockaddr *)&address, len), 0);
    grpc_side_adopt(side, accept4(listener, NULL, NULL, SOCK_NONBLOCK));
    close(listener);
    assert_int_equal(fcntl(client, F_SETFL, O_NONBLOCK), 0);
    grpc_channel_credentials *insecure = grpc_insecure_credentials_create();
    grpc_channel *channel = grpc_channel_create_from_fd("test", client, insecure, NULL);
    grpc_channel_credentials_release(insecure);
    return channel;
}

static inline int setup_with(uint32_t election_timeout_ms)
{
    server = (struct server){0};
    hub_reset();
    server.config.max_request_bytes = 1024 * 1024;
    server.config.max_txn_ops = 128;
    server.config.election_timeout_ms = election_timeout_ms;
    server.config.max_concurrent_streams = UINT32_MAX;
    server.config.metrics = (char *)"basic";
    server.config.grpc_keepalive_interval_ns = 7200000000000;
    server.config.grpc_keepalive_timeout_ns = 20000000000;
    server.config.grpc_keepalive_min_time_ns = 5000000000;
    server.config.warning_unary_request_duration_ns = 300000000000;
    server.stream_messages = 3;
    pthread_mutex_init(&server.lock, NULL);
    pthread_cond_init(&server.changed, NULL);
    assert_int_equal(pthread_create(&server.scanner, NULL, scanner_run, &server), 0);
    assert_int_equal(grpc_side_start(&side, &server), 0);
    for (size_t i = 0; i < CHANNELS; i++)
        channels[i] = connect_channel();
    cq = grpc_completion_queue_create_for_pluck(NULL);
    return 0;
}

static inline int setup(void **state)
{
    return setup_with(200);
}

static inline void stop(uint64_t grace_ms)
{
    grpc_side_stop(side, grace_ms);
    side = grpc_side_free(side);
}

static inline int teardown(void **state)
{
    if (side)
        stop(0);
    for (size_t i = 0; i < CHANNELS; i++)
        grpc_channel_destroy(channels[i]);
    grpc_completion_queue_shutdown(cq);
    grpc_completion_queue_destroy(cq);
    pthread_mutex_lock(&server.lock);
    server.scanner_stop = true;
    pthread_cond_broadcast(&server.changed);
    pthread_mutex_unlock(&server.lock);
    pthread_join(server.scanner, NULL);
    hub_wait_freed();
    hub_reset();
    return 0;
}
