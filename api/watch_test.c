/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bidirectional streams with gRPC's own client in front and a watch hub and a lessor of the test's
 * own behind: Watch and LeaseKeepAlive, their ends, what a client that doesn't read can do, streams
 * that need a leader.
 */
#include "api/grpc_test.h"
#include "api/queue.h"
#include "base/clock.h"

#define WATCH "/etcdserverpb.Watch/Watch"
#define KEEP_ALIVE "/etcdserverpb.Lease/LeaseKeepAlive"

/* create_request { key: "k" } */
static const struct bytes create_message = {(const uint8_t *)"\x0A\x03\x0A\x01k", 5};

static Etcdserverpb__WatchResponse *next_response(struct client_call *c)
{
    _cleanup_(buf_deinit) struct buf message = stream_read(c);
    Etcdserverpb__WatchResponse *r;

    assert_non_null(message.data);
    r = etcdserverpb__watch_response__unpack(NULL, message.len, message.data);
    assert_non_null(r);
    return r;
}

static void response_free(Etcdserverpb__WatchResponse *r)
{
    etcdserverpb__watch_response__free_unpacked(r, NULL);
}

static struct client_call *watch_begin(void)
{
    struct client_call *c = stream_begin(WATCH, NULL);

    stream_write(c, create_message);
    hub_wait(&hub.n_created, 1);
    return c;
}

/* The end of a stream that has not sent anything. */
static void expect_end(struct client_call *c, grpc_status_code code, const char *text)
{
    call_receive_headers(c);
    call_end(c, code, text);
}

static void leave(struct client_call *c)
{
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
    call_end(c, GRPC_STATUS_CANCELLED, NULL);
}

/* ---- Watch ---- */

static void test_response_has_all_fields(void **state)
{
    struct client_call *c = watch_begin();
    struct hub_response *r = hub_response_new(3, 0, 0);

    r->r.created = r->r.canceled = r->r.fragment = true;
    r->r.compact_revision = 5;
    r->r.cancel_reason = "because";
    hub_say(r);
    hub_say(hub_response_new(-1, 0, 0));
    call_receive_headers(c);
    Etcdserverpb__WatchResponse *have = next_response(c);
    assert_int_equal(have->header->cluster_id, 11);
    assert_int_equal(have->header->member_id, 12);
    assert_int_equal(have->header->revision, 7);
    assert_int_equal(have->header->raft_term, 13);
    assert_int_equal(have->watch_id, 3);
    assert_true(have->created && have->canceled && have->fragment);
    assert_int_equal(have->compact_revision, 5);
    assert_string_equal(have->cancel_reason, "because");
    assert_int_equal(have->n_events, 0);
    response_free(have);
    have = next_response(c);
    assert_int_equal(have->watch_id, -1);
    assert_false(have->created || have->canceled || have->fragment);
    assert_string_equal(have->cancel_reason, "");
    response_free(have);
    leave(c);
    hub_wait(&hub.n_closed, 1);
}

static void test_request_has_all_fields(void **state)
{
    struct client_call *c = watch_begin();
    /* key a, end z, start -2, progress, filters 0 and 9, prev_kv, id 6, fragment */
    static const uint8_t full[] = "\x0A\x1D\x0A\x01"
                                  "a\x12\x01z\x18\xFE\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01\x20\x01"
                                  "\x2A\x02\x00\x09\x30\x01\x38\x06\x40\x01";
    static const uint8_t no_delete[] = "\x0A\x02\x28\x01";

    stream_write(c, bytes_of(full, sizeof(full) - 1));
    stream_write(c, bytes_of(no_delete, sizeof(no_delete) - 1));
    stream_write(c, BYTES_LIT("\x12\x02\x08\x07")); /* cancel 7 */
    stream_write(c, BYTES_NULL);                    /* nothing of the three */
    stream_write(c, BYTES_LIT("\x1A"
                              "\x00")); /* progress */
    hub_wait(&hub.n_progress, 1);
    const struct watch_request *r = &hub.created[1];
    assert_true(bytes_equal(r->key, BYTES_LIT("a")));
    assert_true(bytes_equal(r->range_end, BYTES_LIT("z")));
    assert_int_equal(r->start_revision, -2);
    assert_int_equal(r->id, 6);
    assert_true(r->progress_notify && r->no_put && !r->no_delete && r->prev_kv && r->fragment);
    r = &hub.created[2];
    assert_int_equal(r->key.len, 0); /* what that means is the hub's */
    assert_int_equal(r->range_end.len, 0);
    assert_true(r->no_delete && !r->no_put && !r->prev_kv && !r->fragment && !r->progress_notify);
    assert_int_equal(HUB_GET(n_created), 3);
    assert_int_equal(HUB_GET(n_cancelled), 1);
    assert_int_equal(hub.cancelled[0], 7);
    leave(c);
}

/* Many at once, from small ones to those that are not copied: in order, and nothing is left. */
static void test_burst(void **state)
{
    enum { RESPONSES = 3000, EVENTS_MAX = 7 };
    struct client_call *c = watch_begin();

    for (int64_t i = 0; i < RESPONSES; i++) {
        struct hub_response *r =
            hub_response_new(i, (size_t)i % EVENTS_MAX, i % 100 == 0 ? 50000 : (size_t)i % 300);
        for (size_t e = 0; e < r->r.n_events; e++) {
            uint8_t *data = (uint8_t *)(uintptr_t)r->events[e].encoded.data;
            size_t len = r->events[e].encoded.len;
            if (len >= 8) { /* an unknown field, that of the length */
                data[0] = 0xA2, data[1] = 0x06;
                data[2] = 0x80 | ((len - 5) & 0x7F), data[3] = 0x80 | ((len - 5) >> 7 & 0x7F);
                data[4] = (uint8_t)((len - 5) >> 14);
            } else {
                r->events[e].encoded.len = 0;
            }
        }
        hub_say(r);
    }
    call_receive_headers(c);
    for (int64_t i = 0; i < RESPONSES; i++) {
        Etcdserverpb__WatchResponse *r = next_response(c);

        assert_int_equal(r->watch_id, i);
        assert_int_equal(r->n_events, i % EVENTS_MAX);
        response_free(r);
    }
    leave(c);
    hub_wait(&hub.n_closed, 1);
    stop(PATIENCE_S * 1000);
    hub_wait_freed();
}

/* As etcd does: who has half-closed still listens. */
static void test_half_close(void **state)
{
    struct client_call *c = watch_begin();

    stream_half_close(c);
    for (int64_t i = 1; i <= 3; i++) {
        hub_say(hub_response_new(i, 0, 0));
        if (i == 1)
            call_receive_headers(c);
        Etcdserverpb__WatchResponse *r = next_response(c);
        assert_int_equal(r->watch_id, i);
        response_free(r);
    }
    assert_int_equal(HUB_GET(n_closed), 0);
    leave(c);
    hub_wait(&hub.n_closed, 1);
}

static void test_client_leaves_before_a_word(void **state)
{
    struct client_call *c = stream_begin(WATCH, NULL);

    hub_wait(&hub.n_opened, 1);
    leave(c);
    hub_wait(&hub.n_closed, 1);
}

static void test_garbage(void **state)
{
    struct client_call *c = watch_begin();
    size_t max = 1024 * 1024 + 512 * 1024;
    _cleanup_(mem_freep) uint8_t *message = mem_alloc(max + 1);
    char text[128];

    stream_write(c, BYTES_LIT("\x0A\x09k"));
    expect_end(c, GRPC_STATUS_INTERNAL,
               "grpc: failed to unmarshal the received message: proto: cannot parse invalid "
               "wire-format data");
    hub_wait(&hub.n_closed, 1);
    c = stream_begin(WATCH, NULL);
    stream_write(c, bytes_of(message, max + 1));
    snprintf(text, sizeof(text), "grpc: received message larger than max (%zu vs. %zu)", max + 1,
             max);
    expect_end(c, GRPC_STATUS_RESOURCE_EXHAUSTED, text);
    hub_wait(&hub.n_closed, 2);
}

/* Nothing more is taken from the hub than what stands in the line to the socket. */
static void test_client_does_not_read(void **state)
{
    enum { RESPONSES = 64, EVENT_BYTES = 1 << 20 };
    struct client_call *c = watch_begin();

    for (int64_t i = 0; i < RESPONSES; i++)
        hub_say(hub_response_new(i, 1, EVENT_BYTES));
    /* Another stream of the same connection is served meanwhile. */
    hub_wait(&hub.n_taken, 1);
    struct client_call *other = watch_begin();
    hub_wait(&hub.n_created, 2);
    leave(other);
    hub_wait(&hub.n_closed, 1);
    assert_true(HUB_GET(n_taken) <= 10);
    leave(c);
    hub_wait(&hub.n_closed, 2);
    stop(PATIENCE_S * 1000);
    hub_wait_freed();
}

/* Who has much to send does not keep others of its queue waiting until all has left. */
static void test_turns(void **state)
{
    enum { RESPONSES = 2000, TURN_RESPONSES_MAX = 128 };
    struct client_call *guest = watch_begin(), *busy;

    HUB_SET(guest, hub.newest);
    busy = stream_begin(WATCH, NULL);
    hub_wait(&hub.n_opened, 2);
    pthread_mutex_lock(&hub.lock);
    for (int64_t i = 0; i < RESPONSES; i++)
        hub_push_locked(hub.newest, hub_response_new(i, 0, 0));
    pthread_mutex_unlock(&hub.lock);
    call_receive_headers(busy);
    for (int64_t n = 0; n < RESPONSES; n++) {
        Etcdserverpb__WatchResponse *r = next_response(busy);

        assert_int_equal(r->watch_id, n);
        response_free(r);
    }
    call_receive_headers(guest);
    response_free(next_response(guest));
    assert_in_range(HUB_GET(n_before), HUB_GUEST_AT, HUB_GUEST_AT + TURN_RESPONSES_MAX);
    leave(busy);
    leave(guest);
}

static void test_client_creates_and_does_not_read(void **state)
{
    enum { CREATES = 3000, UNANSWERED_MAX = WATCH_ANSWERS_MAX };
    struct client_call *c = watch_begin();

    for (int i = 1; i < CREATES; i++)
        stream_write(c, create_message);
    hub_wait(&hub.n_created, UNANSWERED_MAX);
    struct client_call *other = stream_begin(WATCH, NULL);
    hub_wait(&hub.n_opened, 2);
    leave(other);
    hub_wait(&hub.n_closed, 1);
    assert_int_equal(HUB_GET(n_created), UNANSWERED_MAX);
    pthread_mutex_lock(&hub.lock);
    hub.answers = true;
    for (int64_t i = 0; i < UNANSWERED_MAX; i++) {
        struct hub_response *r = hub_response_new(i, 0, 0);

        r->r.created = true;
        hub_push_locked(container_of(hub.streams.next, struct watch_stream, link), r);
    }
    pthread_mutex_unlock(&hub.lock);
    call_receive_headers(c);
    for (int64_t i = 0; i < CREATES; i++) {
        Etcdserverpb__WatchResponse *r = next_response(c);

        assert_int_equal(r->watch_id, i);
        response_free(r);
    }
    assert_int_equal(HUB_GET(n_created), CREATES);
    leave(c);
}

/* ---- LeaseKeepAlive ---- */

static void expect_renewal(struct client_call *c, int64_t id, int64_t ttl)
{
    _cleanup_(buf_deinit) struct buf message = stream_read(c);

    assert_non_null(message.data);
    Etcdserverpb__LeaseKeepAliveResponse *r =
        etcdserverpb__lease_keep_alive_response__unpack(NULL, message.len, message.data);
    assert_non_null(r);
    assert_int_equal(r->header->cluster_id, 11);
    assert_int_equal(r->id, id);
    assert_int_equal(r->ttl, ttl);
    etcdserverpb__lease_keep_alive_response__free_unpacked(r, NULL);
}

static void test_keep_alive(void **state)
{
    struct client_call *c = stream_begin(KEEP_ALIVE, NULL);

    HUB_SET(lessor.inside, true);
    for (int i = 1; i <= 5; i++)
        stream_write(c, bytes_of((uint8_t[]){0x08, (uint8_t)i}, 2));
    call_receive_headers(c);
    for (int i = 1; i <= 5; i++)
        expect_renewal(c, i, i);
    HUB_SET(lessor.inside, false);
    /* One at a time; finished by another thread. */
    stream_write(c, BYTES_LIT("\x08\x07"));
    stream_write(c, BYTES_LIT("\x08\x08"));
    stream_half_close(c);
    hub_wait(&hub.lessor.n_asked, 6);
    assert_int_equal(HUB_GET(lessor.n_held), 1);
    lessor_finish(OUTCOME_OK, 0);
    expect_renewal(c, 7, 0);
    hub_wait(&hub.lessor.n_asked, 7);
    lessor_finish(OUTCOME_OK, 9);
    expect_renewal(c, 8, 9);
    call_end(c, GRPC_STATUS_OK, "");
}

static void test_keep_alive_fails(void **state)
{
    struct client_call *c = stream_begin(KEEP_ALIVE, NULL);

    stream_write(c, BYTES_LIT("\x08\x07"));
    hub_wait(&hub.lessor.n_asked, 1);
    lessor_finish(OUTCOME_TIMEOUT, 0);
    expect_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: request timed out");
    c = stream_begin(KEEP_ALIVE, NULL);
    stream_write(c, BYTES_LIT("\x08"));
    expect_end(c, GRPC_STATUS_INTERNAL, NULL);
}

/* What a handler answers while the queue sends must not wait for the queue's next look at the
 * clock, which is up to 250 ms away. On a busy machine a few may be late for other reasons. */
static void test_keep_alive_fails_at_once(void **state)
{
    enum { TIMES = 20 };
    size_t n_late = 0;

    for (size_t i = 0; i < TIMES; i++) {
        uint64_t start_ms = clock_mono_ms();
        struct client_call *c = stream_begin(KEEP_ALIVE, NULL);
        stream_write(c, BYTES_LIT("\x08\x07"));
        hub_wait(&hub.lessor.n_asked, i + 1);
        lessor_finish(OUTCOME_TIMEOUT, 0);
        expect_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: request timed out");
        n_late += clock_mono_ms() - start_ms > QUEUE_SWEEP_MS / 4;
    }
    assert_in_range(n_late, 0, TIMES / 2);
}

static void *stop_now(void *arg)
{
    stop(*(uint64_t *)arg);
    return NULL;
}

/* The server stops while a lease is renewed, which is taken back, or can't be. */
static void test_keep_alive_stopped(void **state)
{
    struct client_call *calls[2];
    uint64_t grace_ms = PATIENCE_S * 1000;
    pthread_t thread;

    for (size_t i = 0; i < 2; i++) {
        calls[i] = stream_begin(KEEP_ALIVE, NULL);
        stream_write(calls[i], BYTES_LIT("\x08\x07"));
        hub_wait(&hub.lessor.n_asked, i + 1);
    }
    HUB_SET(lessor.fails, true);
    assert_int_equal(pthread_create(&thread, NULL, stop_now, &grace_ms), 0);
    for (size_t i = 0; i < 2; i++)
        expect_end(calls[i], GRPC_STATUS_UNAVAILABLE, "etcdserver: server stopped");
    hub_wait(&hub.lessor.n_cancelled, 2);
    lessor_finish(OUTCOME_STOPPED, 0);
    lessor_finish(OUTCOME_OK, 5);
    pthread_join(thread, NULL);
}

static void test_keep_alive_taken_back(void **state)
{
    struct client_call *c = stream_begin(KEEP_ALIVE, NULL);

    stream_write(c, BYTES_LIT("\x08\x07"));
    hub_wait(&hub.lessor.n_asked, 1);
    uint64_t grace_ms = PATIENCE_S * 1000;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_now, &grace_ms), 0);
    expect_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: server stopped");
    pthread_join(thread, NULL);
    assert_int_equal(HUB_GET(lessor.n_held), 0);
}

/* ---- every stream ---- */

static void test_stop(void **state)
{
    struct client_call *c = watch_begin();
    uint64_t grace_ms = PATIENCE_S * 1000;
    pthread_t thread;

    hub_say(hub_response_new(1, 0, 0));
    call_receive_headers(c);
    response_free(next_response(c));
    assert_int_equal(pthread_create(&thread, NULL, stop_now, &grace_ms), 0);
    call_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: server stopped");
    pthread_join(thread, NULL);
    assert_int_equal(HUB_GET(n_closed), 1);
}

/* A client that doesn't read holds the stop up no longer than the grace. */
static void test_stop_while_sending(void **state)
{
    struct client_call *c = watch_begin();

    for (int64_t i = 0; i < 8; i++)
        hub_say(hub_response_new(i, 1, 1 << 20));
    hub_wait(&hub.n_taken, 1);
    stop(100);
    assert_int_equal(HUB_GET(n_closed), 1);
    hub_wait_freed();
    call_receive_headers(c);
    for (bool more = true; more;) {
        _cleanup_(buf_deinit) struct buf message = stream_read(c);

        more = message.data != NULL;
    }
    call_end(c, GRPC_STATUS_UNAVAILABLE, NULL);
}

static void test_needs_leader(void **state)
{
    static const struct metadata leader = {"hasleader", "true"};
    struct client_call *with = stream_begin(WATCH, &leader), *without = watch_begin();

    hub_wait(&hub.n_opened, 2);
    uint64_t start_ms = clock_mono_ms();
    SERVER_SET(no_leader, true);
    struct client_call *late = stream_begin(WATCH, &leader);
    expect_end(late, GRPC_STATUS_UNAVAILABLE, "etcdserver: no leader");
    size_t n_closed = HUB_GET(n_closed);
    if (clock_mono_ms() - start_ms < (QUEUE_NO_LEADER_MAX - 1) * server.config.election_timeout_ms)
        assert_int_equal(n_closed, 0);
    expect_end(with, GRPC_STATUS_UNAVAILABLE, "etcdserver: no leader");
    hub_wait(&hub.n_closed, 1);
    SERVER_SET(no_leader, false);
    assert_int_equal(HUB_GET(n_closed), 1);
    leave(without);
}

static void lose_leader(void)
{
    SERVER_SET(no_leader, true);
}

/* Nobody looks for a leader while there is no call: what was counted before says nothing. */
static void test_needs_leader_after_idle(void **state)
{
    static const struct metadata leader = {"hasleader", "true"};
    struct client_call *c = stream_begin(WATCH, &leader);

    hub_wait(&hub.n_opened, 1);
    SERVER_SET(no_leader, true);
    expect_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: no leader");
    hub_wait(&hub.n_closed, 1);
    SERVER_SET(no_leader, false);
    HUB_SET(at_open, lose_leader);
    uint64_t start_ms = clock_mono_ms();
    c = stream_begin(WATCH, &leader);
    expect_end(c, GRPC_STATUS_UNAVAILABLE, "etcdserver: no leader");
    assert_true(clock_mono_ms() - start_ms >=
                (QUEUE_NO_LEADER_MAX - 1) * server.config.election_timeout_ms);
    hub_wait(&hub.n_closed, 2);
    SERVER_SET(no_leader, false);
}

static void test_learner(void **state)
{
    atomic_store(&server.is_learner, true);
    expect_end(stream_begin(WATCH, NULL), GRPC_STATUS_FAILED_PRECONDITION,
               "etcdserver: rpc not supported for learner");
    atomic_store(&server.is_learner, false);
}

static const struct method *method_of(const char *path)
{
    for (size_t i = 0; i < METHOD_COUNT; i++)
        if (strcmp(methods[i].path, path) == 0)
            return &methods[i];
    fail();
    return NULL;
}

static void test_counts(void **state)
{
    struct method_metrics *m = method_metrics_of(method_of(WATCH));
    double started = metric_value(&m->started), sent = metric_value(&m->sent);
    double received = metric_value(&m->received);
    double cancelled = metric_value(&m->handled[STATUS_CANCELED]);
    double internal = metric_value(&m->handled[STATUS_INTERNAL]);
    struct client_call *c = watch_begin();

    stream_write(c, create_message);
    hub_wait(&hub.n_created, 2);
    for (int64_t i = 0; i < 3; i++)
        hub_say(hub_response_new(i, 0, 0));
    call_receive_headers(c);
    for (int i = 0; i < 3; i++)
        response_free(next_response(c));
    leave(c);
    c = stream_begin(WATCH, NULL);
    stream_write(c, BYTES_LIT("\xFF"));
    expect_end(c, GRPC_STATUS_INTERNAL, NULL);
    hub_wait(&hub.n_closed, 2);
    stop(PATIENCE_S * 1000);
    assert_true(metric_value(&m->started) - started == 2);
    assert_true(metric_value(&m->received) - received == 2);
    assert_true(metric_value(&m->sent) - sent == 3);
    assert_true(metric_value(&m->handled[STATUS_CANCELED]) - cancelled == 1);
    assert_true(metric_value(&m->handled[STATUS_INTERNAL]) - internal == 1);
}

static double handled(const char *path, enum status_code code)
{
    return metric_value(&method_metrics_of(method_of(path))->handled[code]);
}

/* As most clients end a stream: in one breath, so the server finds both at once. */
static void half_close_and_cancel(struct client_call *c)
{
    stream_half_close(c);
    assert_int_equal(grpc_call_cancel(c->call, NULL), GRPC_CALL_OK);
}

static void test_half_close_and_cancel(void **state)
{
    double ok = handled(KEEP_ALIVE, STATUS_OK), watches = handled(WATCH, STATUS_CANCELED);
    struct client_call *watch = watch_begin(), *keep_alive = stream_begin(KEEP_ALIVE, NULL);
    struct client_call *other = stream_begin(KEEP_ALIVE, NULL);

    HUB_SET(lessor.inside, true);
    stream_write(keep_alive, BYTES_LIT("\x08\x07"));
    call_receive_headers(keep_alive);
    expect_renewal(keep_alive, 7, 7);
    pthread_mutex_lock(&hub.lock);
    stream_write(other, BYTES_LIT("\x08\x08")); /* the queue's thread waits for the lock */
    half_close_and_cancel(keep_alive);
    half_close_and_cancel(watch);
    pthread_mutex_unlock(&hub.lock);
    call_end(keep_alive, GRPC_STATUS_CANCELLED, NULL);
    call_end(watch, GRPC_STATUS_CANCELLED, NULL);
    hub_wait(&hub.n_closed, 1);
    call_receive_headers(other);
    expect_renewal(other, 8, 8);
    stream_half_close(other);
    call_end(other, GRPC_STATUS_OK, "");
    stop(PATIENCE_S * 1000);
    assert_true(handled(WATCH, STATUS_CANCELED) - watches == 1);
    assert_true(handled(KEEP_ALIVE, STATUS_OK) - ok == 2);
}

static size_t resident_bytes(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    unsigned long size, resident;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
    fclose(f);
    return (size_t)resident * 4096;
}

#ifdef __SANITIZE_ADDRESS__
enum { GROWTH_MAX = 256 << 20 }; /* ASan keeps what was freed for a while */
#else
enum { GROWTH_MAX = 4 << 20 };
#endif

/* Streams that come and go leave nothing: not an object, and hardly a page. */
static void test_many_streams(void **state)
{
    enum { ROUNDS = 60, STREAMS = 50 };
    static struct client_call *calls[STREAMS];
    size_t before = 0;

    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < STREAMS; i++) {
            calls[i] = stream_begin(WATCH, NULL);
            if (i % 2)
                stream_write(calls[i], create_message);
        }
        /* Who leaves too early never comes. */
        hub_wait(&hub.n_opened, (size_t)(round + 1) * STREAMS);
        for (size_t i = 0; i < STREAMS; i++)
            leave(calls[i]);
        hub_wait(&hub.n_closed, (size_t)(round + 1) * STREAMS);
        if (round == ROUNDS / 3)
            before = resident_bytes();
    }
    assert_int_equal(HUB_GET(n_opened), HUB_GET(n_closed));
    assert_true(resident_bytes() < before + GROWTH_MAX);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_response_has_all_fields),
        TEST(test_request_has_all_fields),
        TEST(test_burst),
        TEST(test_half_close),
        TEST(test_client_leaves_before_a_word),
        TEST(test_garbage),
        TEST(test_client_does_not_read),
        TEST(test_turns),
        TEST(test_client_creates_and_does_not_read),
        TEST(test_keep_alive),
        TEST(test_keep_alive_fails),
        TEST(test_keep_alive_fails_at_once),
        TEST(test_keep_alive_stopped),
        TEST(test_keep_alive_taken_back),
        TEST(test_stop),
        TEST(test_stop_while_sending),
        TEST(test_needs_leader),
        TEST(test_needs_leader_after_idle),
        TEST(test_learner),
        TEST(test_counts),
        TEST(test_half_close_and_cancel),
        TEST(test_many_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
