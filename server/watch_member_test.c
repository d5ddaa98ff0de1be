/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watchers of whole members: what the apply turn hands over, also that of a follower, after a
 * restart and over a snapshot.
 */
#include "server/test_watch.h"

#include "base/log.h"
#include "server/test_cluster.h"

enum { CATCHUP = 20, MANY = 100 };

static void watch_at(struct cluster *c, size_t i, struct watch_client *client, int64_t start)
{
    struct watch_request q = watch_of("k", NULL);

    *client = (struct watch_client){0};
    client->stream = watch_stream_open(server_watch_hub(server_at(c, i)), client_ready, client);
    q.start_revision = start;
    watch_create(client->stream, &q);
}

static size_t follower_of(struct cluster *c)
{
    return (cluster_leader(c) + 1) % c->n;
}

/* Events of key k, each of a revision of its own, from next on; returns the next one. */
static int64_t seen(struct watch_client *client, int64_t next)
{
    struct watch_response *r;

    while ((r = watch_stream_take(client->stream))) {
        assert_false(r->canceled);
        for (size_t i = 0; i < r->n_events; i++) {
            struct bytes encoded = r->events[i].encoded;
            Mvccpb__Event *e = mvccpb__event__unpack(NULL, encoded.len, encoded.data);
            assert_int_equal(e->kv->mod_revision, next++);
            mvccpb__event__free_unpacked(e, NULL);
        }
        watch_response_free(r);
    }
    return next;
}

static void puts_of_k(struct cluster *c, size_t i, int n)
{
    while (n-- > 0)
        assert_int_equal(cluster_put(c, i, "k", "v"), OUTCOME_OK);
}

static void test_follower(void **state)
{
    struct cluster *c = *state;
    size_t i = follower_of(c);
    struct watch_client client;

    watch_at(c, i, &client, 0);
    puts_of_k(c, i, 3);
    cluster_settle(c);
    hub_turns(server_watch_hub(server_at(c, i)));
    assert_int_equal(seen(&client, 2), 5);
    assert_int_equal(server_watch_hub(server_at(c, i))->ring.from, 2); /* not from the store */
    watch_stream_close(client.stream);
    cluster_close(c, i);
    cluster_open(c, i);
    cluster_settle(c);
    watch_at(c, i, &client, 3);
    hub_turns(server_watch_hub(server_at(c, i)));
    assert_int_equal(seen(&client, 3), 5);
    watch_stream_close(client.stream);
}

/* The snapshot leaps over what the follower has not seen, and its ring never had. */
static void test_snapshot(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = follower_of(c);
    struct watch_client client;
    int64_t next;

    watch_at(c, i, &client, 0);
    puts_of_k(c, leader, 3);
    cluster_settle(c);
    hub_turns(server_watch_hub(server_at(c, i)));
    next = seen(&client, 2);
    assert_int_equal(next, 5);
    c->peers[i].cut = true;
    puts_of_k(c, leader, MANY);
    c->peers[i].cut = false;
    cluster_settle(c);
    assert_int_equal(c->snapshots, 1);
    puts_of_k(c, i, 3);
    cluster_settle(c);
    hub_turns(server_watch_hub(server_at(c, i)));
    assert_int_equal(seen(&client, next), next + MANY + 3);
    watch_stream_close(client.stream);
}

static int setup(void **state)
{
    struct cluster *c = cluster_new(3, CATCHUP);

    cluster_elect(c);
    cluster_settle(c);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    cluster_free(*state);
    db_mem_forget();
    return 0;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_follower), T(test_snapshot)};

    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
