/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC side with a server of the test's own behind it and gRPC's client in front, over two
 * connections: the life of calls, refusals, streams, cancellation, stop with calls under way. The
 * test decides when a request is finished, from its own thread.
 */
#include "api/grpc_test.h"

#include "api/grpc_metrics.h"

#define PUT "/etcdserverpb.KV/Put"
#define RANGE "/etcdserverpb.KV/Range"
static const struct bytes put_message = {(const uint8_t *)"\x0A\x01k\x12\x01v", 6};
static const struct bytes point_message = {(const uint8_t *)"\x0A\x01k", 3};
static const struct bytes local_point_message = {(const uint8_t *)"\x0A\x01k\x38\x01", 5};
static const struct bytes prefix_message = {(const uint8_t *)"\x0A\x01k\x12\x01l\x38\x01", 8};

/* ---- unary calls ---- */

static void test_finished_inside_submit(void **state)
{
    SERVER_SET(finish_inside, true);
    call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
}

/* Raft is woken for what waits for it, and for nothing else. */
static void test_raft_is_woken(void **state)
{
    size_t before = SERVER_GET(n_submitted);

    SERVER_SET(finish_inside, true);
    call_expect(call_begin(RANGE, point_message, NULL), GRPC_STATUS_OK, "", "server_range");
    assert_int_equal(SERVER_GET(n_submitted), before);
    SERVER_SET(finish_inside, false);
    struct client_call *c = call_begin(RANGE, point_message, NULL);
    wait_until(&server.n_held, 1);
    assert_int_equal(SERVER_GET(n_submitted), before + 1);
    finish_all(OUTCOME_TOO_MANY_REQUESTS);
    call_expect(c, GRPC_STATUS_UNKNOWN, "etcdserver: too many requests", NULL);
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
        "/etcdserverpb.Auth/UserAdd",
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.Maintenance/Downgrade",
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
        TEST(test_raft_is_woken),
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
