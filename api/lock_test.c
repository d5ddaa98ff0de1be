/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a Lock call that owes its key, with gRPC in front: the key's deletion is proposed when
 * the call is over, as whoever called, and holds up a stop until it is finished or can't be hoped
 * for any more. What Lock and Election do otherwise is in concurrency_test.c.
 */
#include "api/grpc_test.h"

#include "server/encode.h"
#include "v3lock.pb-c.h"

#define PUT "/etcdserverpb.KV/Put"
/* key: "k", value: "v" */
static const struct bytes put_message = {(const uint8_t *)"\x0A\x01k\x12\x01v", 6};
/* name: "n", lease: 10 */
static const struct bytes lock_message = {(const uint8_t *)"\x0A\x01n\x10\x0A", 5};

static struct request *take_held(void)
{
    wait_until(&server.n_held, 1);
    pthread_mutex_lock(&server.lock);
    assert_int_equal(server.n_held, 1);
    struct request *request = server.held[--server.n_held];
    pthread_mutex_unlock(&server.lock);
    return request;
}

static void put_back(struct request *request)
{
    pthread_mutex_lock(&server.lock);
    server.held[server.n_held++] = request;
    pthread_mutex_unlock(&server.lock);
}

/* The key was put at revision 5, and there is an older one. */
static void answer_txn(struct request *request)
{
    static const uint8_t put[] = {0x12, 0}, oldest[] = {0x0A, 6, 0x12, 4, 0x0A, 0, 0x10, 3};
    assert_int_equal(request->kind, REQUEST_TXN);
    encode_header(&request->response, &(struct response_header){.revision = 5});
    encode_bool(&request->response, 2, true);
    encode_present_bytes(&request->response, 3, bytes_of(put, sizeof(put)));
    encode_present_bytes(&request->response, 3, bytes_of(oldest, sizeof(oldest)));
    request->finish(request, OUTCOME_OK);
}

/* A Lock call that has put its key and then fails: reads of this server say nothing sensible. */
static struct client_call *lock_that_fails(bool finish_inside)
{
    struct client_call *lock =
        call_begin("/v3lockpb.Lock/Lock", lock_message, &(struct metadata){"token", "me"});
    answer_txn(take_held());
    struct request *index = take_held();
    assert_int_equal(index->kind, REQUEST_READ_INDEX);
    SERVER_SET(finish_inside, finish_inside);
    index->finish(index, OUTCOME_OK);
    return lock;
}

static void *stop_run(void *arg)
{
    const uint64_t *grace_ms = arg;
    stop(*grace_ms);
    return NULL;
}

static const uint64_t no_grace_ms = 0, long_grace_ms = PATIENCE_S * 1000;

static pthread_t stop_begin(const uint64_t *grace_ms)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stop_run, (void *)(uintptr_t)grace_ms), 0);
    return thread;
}

/* With an election timeout that is longer than the tests: nothing is given up for its age. */
static int setup_patient(void **state)
{
    return setup_with(PATIENCE_S * 1000);
}

static void test_key_goes_before_stop(void **state)
{
    struct client_call *lock = lock_that_fails(false);
    call_expect(lock, GRPC_STATUS_UNKNOWN, "etcdserver: corrupt cluster", NULL);
    struct request *deletion = take_held();
    assert_int_equal(deletion->kind, REQUEST_DELETE_RANGE);
    assert_true(bytes_equal(deletion->payload, BYTES_LIT("\x0A\x03n/a")));
    assert_string_equal(server.token, "me");
    /* Nobody else gets the object meanwhile. */
    struct client_call *put = call_begin(PUT, put_message, NULL);
    struct request *other = take_held();
    assert_ptr_not_equal(other, deletion);
    other->finish(other, OUTCOME_TIMEOUT);
    call_expect(put, GRPC_STATUS_UNAVAILABLE, "etcdserver: request timed out", NULL);

    put_back(deletion);
    pthread_t thread = stop_begin(&long_grace_ms);
    /* Sweeps go by meanwhile. */
    assert_false(reaches(&server.n_cancelled, 1, 1));
    deletion = take_held();
    buf_append_str(&deletion->response, "nobody hears of it");
    deletion->finish(deletion, OUTCOME_OK);
    pthread_join(thread, NULL);
    assert_int_equal(SERVER_GET(n_cancelled), 0);
}

/* No leader takes the key's deletion. */
static void stop_gives_up_key(const uint64_t *grace_ms)
{
    call_expect(lock_that_fails(false), GRPC_STATUS_UNKNOWN, "etcdserver: corrupt cluster", NULL);
    wait_until(&server.n_held, 1);
    assert_false(reaches(&server.n_cancelled, 1, 1)); /* not before */
    pthread_t thread = stop_begin(grace_ms);
    bool given_up = reaches(&server.n_cancelled, 1, PATIENCE_S / 2);
    finish_all(OUTCOME_TIMEOUT);
    pthread_join(thread, NULL);
    assert_true(given_up);
}

static void test_stop_gives_up_old_key(void **state)
{
    stop_gives_up_key(&long_grace_ms);
}

static void test_end_of_grace_gives_up_key(void **state)
{
    stop_gives_up_key(&no_grace_ms);
}

static void test_key_goes_inside_submit(void **state)
{
    call_expect(lock_that_fails(true), GRPC_STATUS_UNKNOWN, "etcdserver: corrupt cluster", NULL);
    /* One call on each connection, so on each queue: what the end of the lock began is over. */
    for (size_t i = 0; i < CHANNELS; i++)
        call_expect(call_begin(PUT, put_message, NULL), GRPC_STATUS_OK, "", "\x0A\x01k\x12\x01v");
    SERVER_SET(finish_inside, false);
    /* The object that served it serves others: all that there are are in use. */
    struct client_call *puts[3];
    for (size_t i = 0; i < 3; i++) {
        call_expect(call_begin("/v3lockpb.Lock/Unlock", BYTES_NULL, NULL), GRPC_STATUS_UNKNOWN,
                    "etcdserver: key is not provided", NULL);
        puts[i] = call_begin(PUT, put_message, NULL);
        wait_until(&server.n_held, i + 1);
    }
    finish_all(OUTCOME_OK);
    for (size_t i = 0; i < 3; i++)
        call_expect(puts[i], GRPC_STATUS_OK, "", "done");
    stop(PATIENCE_S * 1000);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_PATIENT(f) cmocka_unit_test_setup_teardown(f, setup_patient, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST_PATIENT(test_key_goes_before_stop),
        TEST(test_stop_gives_up_old_key),
        TEST_PATIENT(test_end_of_grace_gives_up_key),
        TEST(test_key_goes_inside_submit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
