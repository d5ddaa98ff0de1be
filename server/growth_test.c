/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What members keep of a load that goes on: nothing that grows with it. Three of them, on the
 * database in memory, overwrite the same keys through each other, with watchers and leases, and
 * compact; the process then holds as much after more and more of that as after the first.
 *
 * This finds what is kept and could still be reached; what nobody can reach any more the sanitizers
 * find. Their allocators do not count, so with them there is nothing to compare. That of glibc
 * counts some bytes a round that it has in reserve.
 */
#include "server/test_watch.h"

#include <malloc.h>

#include "base/log.h"
#include "server/test_cluster.h"

enum { CATCHUP = 50, ROUND = 500, ROUNDS = 10, GROWTH_BYTES_MAX = 128 << 10 };

static struct watch_client clients[3];

static void take_all(struct cluster *c)
{
    struct watch_response *r;

    for (size_t i = 0; i < c->n; i++) {
        hub_turns(server_watch_hub(server_at(c, i)));
        while ((r = watch_stream_take(clients[i].stream)))
            watch_response_free(r);
        hub_turns(server_watch_hub(server_at(c, i)));
    }
}

static void lease_comes_and_goes(struct cluster *c, size_t i)
{
    struct call grant, revoke;

    call_grant(c->peers[i].box, &grant, 7, 1000);
    server_submit(server_at(c, i), &grant.request);
    assert_int_equal(cluster_wait(c, &grant), OUTCOME_OK);
    call_revoke(c->peers[i].box, &revoke, 7);
    server_submit(server_at(c, i), &revoke.request);
    assert_int_equal(cluster_wait(c, &revoke), OUTCOME_OK);
}

static void reads(struct cluster *c, size_t i)
{
    struct call read;

    call_init(&read, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(server_at(c, i), &read.request);
    assert_int_equal(cluster_wait(c, &read), OUTCOME_OK);
}

/* As the housekeepers would, when there is enough of it. */
static void tidy_up(struct cluster *c)
{
    struct call compact;

    call_compact(c->peers[0].box, &compact, mvcc_revision(server_at(c, 0)->store.mvcc), false);
    server_submit(server_at(c, 0), &compact.request);
    assert_int_equal(cluster_wait(c, &compact), OUTCOME_OK);
    cluster_settle(c);
    for (size_t i = 0; i < c->n; i++) {
        struct server *s = server_at(c, i);
        bool done = false;
        int64_t finished;
        while (!done)
            assert_int_equal(mvcc_compact_step(s->store.mvcc, &done, &finished), 0);
        assert_int_equal(db_flush(s->store.db), 0);
        node_release(s->node, atomic_load(&s->state.applied) - CATCHUP);
        watch_hub_reset(server_watch_hub(s)); /* the ring, which may hold much */
        arena_reset(&c->peers[i].box->arena); /* the test's own */
    }
    cluster_run(c, 1000);
}

static size_t bytes_after_round(struct cluster *c)
{
    for (int k = 0; k < ROUND; k++) {
        size_t i = (size_t)k % c->n;
        char *key = mem_printf("key-%02d", k % 40);
        assert_int_equal(cluster_put(c, i, key, "a value"), OUTCOME_OK);
        free(key);
        if (k % 50 == 0) {
            lease_comes_and_goes(c, i);
            reads(c, i);
            take_all(c);
        }
    }
    cluster_settle(c);
    take_all(c);
    tidy_up(c);
    return mallinfo2().uordblks;
}

/* Some arrays are there in one round and not in the next. */
static size_t least_of_rounds(struct cluster *c, int rounds)
{
    size_t least = SIZE_MAX;

    for (int k = 0; k < rounds; k++) {
        size_t bytes = bytes_after_round(c);
        least = bytes < least ? bytes : least;
    }
    return least;
}

static void test_members_do_not_grow(void **state)
{
    struct cluster *c = *state;
    size_t before, after;

    if (mallinfo2().uordblks == 0)
        skip();
    least_of_rounds(c, 2 * ROUNDS); /* until buffers and tables are as long as they get */
    before = least_of_rounds(c, ROUNDS);
    least_of_rounds(c, 2 * ROUNDS);
    after = least_of_rounds(c, ROUNDS);
    print_message("%+zd bytes after %d writes\n", (ssize_t)(after - before), 2 * ROUNDS * ROUND);
    assert_true(after <= before + GROWTH_BYTES_MAX);
}

static int setup(void **state)
{
    struct cluster *c = cluster_new(3, CATCHUP);

    cluster_elect(c);
    cluster_settle(c);
    for (size_t i = 0; i < c->n; i++) {
        struct watch_request q = {.range_end = BYTES_LIT("\0")};
        clients[i].stream =
            watch_stream_open(server_watch_hub(server_at(c, i)), client_ready, &clients[i]);
        watch_create(clients[i].stream, &q);
    }
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    for (size_t i = 0; i < 3; i++)
        watch_stream_close(clients[i].stream);
    cluster_free(*state);
    db_mem_forget();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_members_do_not_grow, setup, teardown)};

    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
