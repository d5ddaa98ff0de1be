/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC side with a server of the test's own behind it and gRPC's client in front, over two
 * connections: the life of calls, refusals, streams, cancellation, stop with calls under way. The
 * test decides when a request is finished, from its own thread.
 */
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

void server_submit(struct server *s, struct request *request)
{
    bool inside;

    pthread_mutex_lock(&s->lock);
    snprintf(s->token, sizeof(s->token), "%.*s", (int)request->credentials.token.len,
             (const char *)request->credentials.token.data);
    inside = s->finish_inside;
    if (!inside) {
        assert_true(s->n_held < REQUESTS_MAX);
        s->held[s->n_held++] = request;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (inside) {
        buf_append_bytes(&request->response, request->payload);
        request->finish(request, OUTCOME_OK);
    }
}

void server_read_index(struct server *s, struct request *request)
{
    assert_int_equal(request->kind, REQUEST_READ_INDEX);
    server_submit(s, request);
}

bool server_cancel(struct server *s, struct request *request)
{
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n_held && !found; i++) {
        found = s->held[i] == request;
        if (found)
            s->held[i] = s->held[--s->n_held];
    }
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
    server_submit(s, request);
}

void server_promote_member(struct server *s, struct request *request, uint64_t member_id)
{
    server_submit(s, request);
}

void server_move_leader(struct server *s, struct request *request, uint64_t member_id)
{
    server_submit(s, request);
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

static void *scanner_run(void *arg)
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
READ(server_lease_time_to_live)
READ(server_lease_leases)
READ(server_member_list)
READ(server_maintenance_status)
READ(server_hash)
READ(server_hash_kv)
READ(server_defragment)

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

static void wait_until(size_t *what, size_t n)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&server.lock);
    int r = 0;
    while (*what < n && r == 0)
        r = pthread_cond_timedwait(&server.changed, &server.lock, &until);
    pthread_mutex_unlock(&server.lock);
    assert_int_equal(r, 0);
}

/* Finishes the requests that are held, in one go, as an apply turn does. */
static void finish_all(enum outcome outcome)
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

static gpr_timespec patience(void)
{
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                        gpr_time_from_seconds(PATIENCE_S, GPR_TIMESPAN));
}

static void pluck(void *tag, bool want_ok)
{
    grpc_event event = grpc_completion_queue_pluck(cq, tag, patience(), NULL);

    assert_int_equal(event.type, GRPC_OP_COMPLETE);
    if (want_ok)
        assert_true(event.success);
}

/* Instead of a message: none at all. */
#define NO_MESSAGE ((struct bytes){NULL, 1})

/* Starts a call with one message and the end of the client's side. */
static struct client_call *call_begin(const char *path, struct bytes message,
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

/* The next message as text; NULL: none. */
static char *call_message(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_MESSAGE};
    grpc_byte_buffer_reader reader;
    char *text;

    op.data.recv_message.recv_message = &c->received;
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
    if (!c->received)
        return NULL;
    assert_true(grpc_byte_buffer_reader_init(&reader, c->received));
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    text = mem_strndup((const char *)GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all));
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(c->received);
    c->received = NULL;
    return text;
}

static void call_receive_headers(struct client_call *c)
{
    grpc_op op = {.op = GRPC_OP_RECV_INITIAL_METADATA};

    op.data.recv_initial_metadata.recv_initial_metadata = &c->headers;
    assert_int_equal(grpc_call_start_batch(c->call, &op, 1, c, NULL), GRPC_CALL_OK);
    pluck(c, false);
}

/* Waits for the end, compares, and frees. */
static void call_end(struct client_call *c, grpc_status_code code, const char *text)
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
static void call_expect(struct client_call *c, grpc_status_code code, const char *text,
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

#define PUT "/etcdserverpb.KV/Put"
#define RANGE "/etcdserverpb.KV/Range"
static const struct bytes put_message = {(const uint8_t *)"\x0A\x01k\x12\x01v", 6};
static const struct bytes point_message = {(const uint8_t *)"\x0A\x01k", 3};
static const struct bytes local_point_message = {(const uint8_t *)"\x0A\x01k\x38\x01", 5};
static const struct bytes prefix_message = {(const uint8_t *)"\x0A\x01k\x12\x01l\x38\x01", 8};

/* ---- setup ---- */

/* A TCP connection, so that the corks have something to hold. */
static grpc_channel *connect_channel(void)
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

static int setup(void **state)
{
    server = (struct server){0};
    server.config.max_request_bytes = 1024 * 1024;
    server.config.max_txn_ops = 128;
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

static void stop(uint64_t grace_ms)
{
    grpc_side_stop(side, grace_ms);
    side = grpc_side_free(side);
}

static int teardown(void **state)
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
    return 0;
}

/* ---- unary calls ---- */

static void test_finished_inside_submit(void **state)
{
    SERVER_SET(finish_inside, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
}

static void test_finished_elsewhere(void **state)
{
    struct client_call *c = call_begin(PUT, put_message, NULL);

    wait_until(&server.n_held, 1);
    finish_all(OUTCOME_OK);
    call_expect(c, GRPC_STATUS_OK, "", "done");
    c = call_begin(PUT, put_message, NULL);
    wait_until(&server.n_held, 1);
    finish_all(OUTCOME_TOO_MANY_REQUESTS);
    call_expect(c, GRPC_STATUS_UNKNOWN, "etcdserver: too many requests", NULL);
}

/* Many at once, finished in one go by a foreign thread; objects and slots are used again. */
static void test_many(void **state)
{
    enum { CALLS = 500 };
    static struct client_call *calls[CALLS];

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < CALLS; i++)
            calls[i] = call_begin(PUT, put_message, NULL);
        wait_until(&server.n_held, CALLS);
        finish_all(OUTCOME_OK);
        for (size_t i = 0; i < CALLS; i++)
            call_expect(calls[i], GRPC_STATUS_OK, "", "done");
    }
}

static void test_refused_before_submit(void **state)
{
    static const uint8_t empty_key[] = {0x12, 1, 'v'};

    call_expect(call_begin(PUT, bytes_of(empty_key, 3), NULL), GRPC_STATUS_INVALID_ARGUMENT,
                "etcdserver: key is not provided", NULL);
    call_expect(call_begin(PUT, BYTES_NULL, NULL), GRPC_STATUS_INVALID_ARGUMENT,
                "etcdserver: key is not provided", NULL);
    call_expect(call_begin(PUT, BYTES_LIT("\x0A\x09k"), NULL), GRPC_STATUS_INTERNAL,
                "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data",
                NULL);
    call_expect(call_begin(PUT, NO_MESSAGE, NULL), GRPC_STATUS_UNKNOWN, "EOF", NULL);
    call_expect(call_begin("/etcdserverpb.KV/RangeStream", NO_MESSAGE, NULL), GRPC_STATUS_INTERNAL,
                "cardinality violation: received no request message from non-client-streaming RPC",
                NULL);
    /* The quota comes first. */
    SERVER_SET(no_space, true);
    call_expect(call_begin(PUT, bytes_of(empty_key, 3), NULL), GRPC_STATUS_RESOURCE_EXHAUSTED,
                "etcdserver: mvcc: database space exceeded", NULL);
    call_expect(call_begin(RANGE, local_point_message, NULL), GRPC_STATUS_OK, "", "server_range");
    assert_int_equal(SERVER_GET(n_held), 0);
}

static void test_too_long(void **state)
{
    size_t max = 1024 * 1024 + 512 * 1024;
    _cleanup_(mem_freep) uint8_t *message = mem_alloc(3 * max);
    char text[128];

    /* A put whose value fills the message: field 2, length in four bytes. */
    memcpy(message, "\x0A\x01k\x12", 4);
    for (size_t len = max; len <= max + 1; len++) {
        size_t value = len - 8;

        for (int i = 0; i < 4; i++)
            message[4 + i] = (uint8_t)((value >> 7 * i & 0x7F) | (i < 3 ? 0x80 : 0));
        SERVER_SET(finish_inside, true);
        struct client_call *c = call_begin(PUT, bytes_of(message, len), NULL);
        call_receive_headers(c);
        _cleanup_(mem_freep) char *response = call_message(c);
        snprintf(text, sizeof(text), "grpc: received message larger than max (%zu vs. %zu)", len,
                 max);
        if (len <= max)
            call_end(c, GRPC_STATUS_OK, "");
        else
            call_end(c, GRPC_STATUS_RESOURCE_EXHAUSTED, text);
    }
    /* Beyond twice the limit gRPC itself refuses, in its own words. */
    struct client_call *c = call_begin(PUT, bytes_of(message, 3 * max), NULL);
    call_receive_headers(c);
    call_end(c, GRPC_STATUS_RESOURCE_EXHAUSTED, NULL);
    call_expect(call_begin(RANGE, local_point_message, NULL), GRPC_STATUS_OK, "", "server_range");
}

static void test_unknown_paths(void **state)
{
    static const struct {
        const char *path, *text;
    } cases[] = {
        {"/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"},
        {"/etcdserverpb.kv/Put", "unknown service etcdserverpb.kv"},
        {"/a/b/c", "unknown service a/b"},
        {"/nothing", "malformed method name: \"/nothing\""},
        {"/etcdserverpb.KV/Put/", "unknown service etcdserverpb.KV/Put"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        call_expect(call_begin(cases[i].path, put_message, NULL), GRPC_STATUS_UNIMPLEMENTED,
                    cases[i].text, NULL);
}

static void test_unimplemented(void **state)
{
    static const char *const paths[] = {
        "/etcdserverpb.Auth/UserAdd",         "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive", "/etcdserverpb.Maintenance/Snapshot",
        "/v3electionpb.Election/Observe",
    };

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++)
        call_expect(call_begin(paths[i], BYTES_LIT("\xFF"), NULL), GRPC_STATUS_UNIMPLEMENTED,
                    "etcdserver: not implemented in this version", NULL);
}

static void expect_token(const char *want)
{
    char have[sizeof(server.token)];

    pthread_mutex_lock(&server.lock);
    memcpy(have, server.token, sizeof(have));
    pthread_mutex_unlock(&server.lock);
    assert_string_equal(have, want);
}

/* A learner answers reads that ask nobody, and its status. That comes before what the metadata
 * say. */
static void test_learner(void **state)
{
    static const char refused[] = "etcdserver: rpc not supported for learner";
    static const struct metadata leader = {"hasleader", "true"};

    SERVER_SET(finish_inside, true);
    SERVER_SET(no_leader, true);
    atomic_store(&server.is_learner, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_FAILED_PRECONDITION, refused, NULL);
    call_expect(call_begin(PUT, put_message, &leader), GRPC_STATUS_FAILED_PRECONDITION, refused,
                NULL);
    call_expect(call_begin(RANGE, point_message, NULL), GRPC_STATUS_FAILED_PRECONDITION, refused,
                NULL);
    call_expect(call_begin(RANGE, local_point_message, NULL), GRPC_STATUS_OK, "", "server_range");
    call_expect(call_begin(RANGE, local_point_message, &leader), GRPC_STATUS_UNAVAILABLE,
                "etcdserver: no leader", NULL);
    atomic_store(&server.is_learner, false);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    SERVER_SET(no_leader, false);
}

static void test_metadata(void **state)
{
    static const struct metadata token = {"token", "secret.1"},
                                 bearer = {"authorization", "Bearer abc"},
                                 bare = {"authorization", "Basic"}, leader = {"hasleader", "true"},
                                 other = {"hasleader", "no"};

    SERVER_SET(finish_inside, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    expect_token("");
    call_expect(call_begin(PUT, put_message, &token), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    expect_token("secret.1");
    call_expect(call_begin(PUT, put_message, &bearer), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    expect_token("abc");
    call_expect(call_begin(PUT, put_message, &bare), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    expect_token("Basic");
    call_expect(call_begin(PUT, put_message, &leader), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    expect_token("");
    SERVER_SET(no_leader, true);
    call_expect(call_begin(PUT, put_message, &leader), GRPC_STATUS_UNAVAILABLE,
                "etcdserver: no leader", NULL);
    call_expect(call_begin(PUT, put_message, &other), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
}

static void test_reads(void **state)
{
    struct client_call *c = call_begin(RANGE, point_message, NULL);

    wait_until(&server.n_held, 1);
    struct request *request = SERVER_GET(held[0]);
    SERVER_SET(n_held, 0);
    assert_int_equal(request->kind, REQUEST_READ_INDEX);
    request->finish(request, OUTCOME_OK);
    call_expect(c, GRPC_STATUS_OK, "", "server_range");
    c = call_begin(RANGE, point_message, NULL);
    wait_until(&server.n_held, 1);
    finish_all(OUTCOME_LEADER_CHANGED);
    call_expect(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: leader changed", NULL);
    /* On the scan pool. */
    call_expect(call_begin(RANGE, prefix_message, NULL), GRPC_STATUS_OK, "", "server_range");
    SERVER_SET(read_outcome, OUTCOME_COMPACTED);
    call_expect(call_begin(RANGE, prefix_message, NULL), GRPC_STATUS_OUT_OF_RANGE,
                "etcdserver: mvcc: required revision has been compacted", NULL);
    SERVER_SET(read_outcome, OUTCOME_OK);
    SERVER_SET(scans_full, true);
    call_expect(call_begin(RANGE, prefix_message, NULL), GRPC_STATUS_UNKNOWN,
                "etcdserver: too many requests", NULL);
    call_expect(call_begin(RANGE, local_point_message, NULL), GRPC_STATUS_OK, "", "server_range");
    /* An empty transaction is a local read. */
    call_expect(call_begin("/etcdserverpb.KV/Txn", BYTES_NULL, NULL), GRPC_STATUS_OK, "",
                "server_txn_read_only");
}

static void test_lease_grant_gets_an_id(void **state)
{
    static const uint8_t given[] = {0x08, 60, 0x10, 7};

    SERVER_SET(finish_inside, true);
    call_expect(call_begin("/etcdserverpb.Lease/LeaseGrant", bytes_of(given, 2), NULL),
                GRPC_STATUS_OK, "", "\x08\x3C\x10\xE7\x24");
    call_expect(call_begin("/etcdserverpb.Lease/LeaseGrant", bytes_of(given, 4), NULL),
                GRPC_STATUS_OK, "", "\x08\x3C\x10\x07");
}

/* ---- streams ---- */

static void expect_message(struct client_call *c, const char *want)
{
    _cleanup_(mem_freep) char *have = call_message(c);

    assert_non_null(have);
    assert_string_equal(have, want);
}

static void test_range_stream(void **state)
{
    struct client_call *c = call_begin("/etcdserverpb.KV/RangeStream", prefix_message, NULL);

    call_receive_headers(c);
    expect_message(c, "message 1");
    expect_message(c, "message 2");
    expect_message(c, "message 3");
    assert_null(call_message(c));
    call_end(c, GRPC_STATUS_OK, "");
    SERVER_SET(read_outcome, OUTCOME_FUTURE_REVISION);
    call_expect(call_begin("/etcdserverpb.KV/RangeStream", prefix_message, NULL),
                GRPC_STATUS_OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision", NULL);
    call_expect(call_begin("/etcdserverpb.KV/RangeStream", BYTES_LIT("\x0A\x01k\x28\x02"), NULL),
                GRPC_STATUS_UNIMPLEMENTED, "RangeStream does not support custom sort orders", NULL);
}

/* A client that goes away ends an endless stream; nothing is left behind (teardown would hang). */
static void test_range_stream_cancelled(void **state)
{
    struct client_call *c;

    SERVER_SET(stream_messages, UINT32_MAX);
    c = call_begin("/etcdserverpb.KV/RangeStream", prefix_message, NULL);
    call_receive_headers(c);
    expect_message(c, "message 1");
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
    call_end(c, GRPC_STATUS_CANCELLED, NULL);
    stop(PATIENCE_S * 1000);
}

static void test_health(void **state)
{
    static const uint8_t named[] = {0x0A, 1, 'x'};
    struct client_call *c;

    call_expect(call_begin("/grpc.health.v1.Health/Check", BYTES_NULL, NULL), GRPC_STATUS_OK, "",
                "\x08\x01");
    call_expect(call_begin("/grpc.health.v1.Health/Check", bytes_of(named, 3), NULL),
                GRPC_STATUS_NOT_FOUND, "unknown service", NULL);
    call_expect(call_begin("/grpc.health.v1.Health/List", BYTES_NULL, NULL), GRPC_STATUS_OK, "",
                "\x0A\x06\x0A");
    c = call_begin("/grpc.health.v1.Health/Watch", bytes_of(named, 3), NULL);
    call_receive_headers(c);
    expect_message(c, "\x08\x03");
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
    call_end(c, GRPC_STATUS_CANCELLED, NULL);
}

/* ---- cancellation and stop ---- */

static void test_client_leaves(void **state)
{
    struct client_call *c = call_begin(PUT, put_message, NULL);

    wait_until(&server.n_held, 1);
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
    call_end(c, GRPC_STATUS_CANCELLED, NULL);
    wait_until(&server.n_cancelled, 1);
    assert_int_equal(SERVER_GET(n_held), 0);
    SERVER_SET(finish_inside, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
}

/* What was finished while its client left is dropped without harm. */
static void test_finished_after_client_left(void **state)
{
    struct client_call *c = call_begin(PUT, put_message, NULL);

    wait_until(&server.n_held, 1);
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
    finish_all(OUTCOME_OK);
    call_end(c, GRPC_STATUS_CANCELLED, NULL);
    stop(PATIENCE_S * 1000);
}

static void *stop_now(void *arg)
{
    stop(*(uint64_t *)arg);
    return NULL;
}

static void test_stop_with_grace(void **state)
{
    struct client_call *put = call_begin(PUT, put_message, NULL), *watch;
    uint64_t grace_ms = PATIENCE_S * 1000;
    pthread_t thread;

    wait_until(&server.n_held, 1);
    watch = call_begin("/grpc.health.v1.Health/Watch", BYTES_NULL, NULL);
    call_receive_headers(watch);
    expect_message(watch, "\x08\x01");
    assert_int_equal(pthread_create(&thread, NULL, stop_now, &grace_ms), 0);
    /* What would stay open for ever ends at once, what works goes on. */
    call_end(watch, GRPC_STATUS_UNAVAILABLE, "etcdserver: server stopped");
    assert_int_equal(SERVER_GET(n_held), 1);
    finish_all(OUTCOME_OK);
    call_expect(put, GRPC_STATUS_OK, "", "done");
    pthread_join(thread, NULL);
}

static void test_stop_without_grace(void **state)
{
    struct client_call *put = call_begin(PUT, put_message, NULL);
    uint64_t grace_ms = 0;
    pthread_t thread;

    wait_until(&server.n_held, 1);
    assert_int_equal(pthread_create(&thread, NULL, stop_now, &grace_ms), 0);
    call_expect(put, GRPC_STATUS_UNAVAILABLE, "etcdserver: server stopped", NULL);
    pthread_join(thread, NULL);
    assert_int_equal(SERVER_GET(n_cancelled), 1);
}

/* ---- counting ---- */

static void test_counts(void **state)
{
    const struct method *put = &methods[2];
    struct method_metrics *m = method_metrics_of(put);
    double started = metric_value(&m->started), ok = metric_value(&m->handled[STATUS_OK]);
    double refused = metric_value(&m->handled[STATUS_INVALID_ARGUMENT]);
    double internal = metric_value(&m->handled[STATUS_INTERNAL]), sent = metric_value(&m->sent);
    double bytes = metric_value(&grpc_metrics_received_bytes);

    assert_string_equal(put->path, PUT);
    SERVER_SET(finish_inside, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    call_expect(call_begin(PUT, BYTES_NULL, NULL), GRPC_STATUS_INVALID_ARGUMENT, NULL, NULL);
    call_expect(call_begin(PUT, BYTES_LIT("\xFF"), NULL), GRPC_STATUS_INTERNAL, NULL, NULL);
    assert_true(metric_value(&m->started) - started == 2);
    assert_true(metric_value(&m->handled[STATUS_INTERNAL]) == internal);
    assert_true(metric_value(&m->sent) - sent == 2);
    assert_true(metric_value(&m->handled[STATUS_OK]) - ok == 1);
    assert_true(metric_value(&m->handled[STATUS_INVALID_ARGUMENT]) - refused == 1);
    assert_true(metric_value(&grpc_metrics_received_bytes) - bytes == 7);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_finished_inside_submit),
        TEST(test_finished_elsewhere),
        TEST(test_many),
        TEST(test_refused_before_submit),
        TEST(test_too_long),
        TEST(test_unknown_paths),
        TEST(test_unimplemented),
        TEST(test_learner),
        TEST(test_metadata),
        TEST(test_reads),
        TEST(test_lease_grant_gets_an_id),
        TEST(test_range_stream),
        TEST(test_range_stream_cancelled),
        TEST(test_health),
        TEST(test_client_leaves),
        TEST(test_finished_after_client_left),
        TEST(test_stop_with_grace),
        TEST(test_stop_without_grace),
        TEST(test_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
