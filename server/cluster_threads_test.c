/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Three members with all their threads, and a network that is a call of the other's door. What only
 * threads can show: readers while a snapshot exchanges the state under them, a stop that hands
 * leadership over, leases that end and leases that are kept alive through all members while leaders
 * come and go. On both databases; also for the thread sanitizer.
 */
#include "server/test_cluster.h"
#include "server/test_wait.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "server/lease_ask_private.h"

enum { CATCHUP = 20, PATIENCE_MS = 60000, LOST_PUBLICATION_MS = 6000, WRITERS = 4, PUTS = 100 };

/* Guards up and cut. */
static pthread_rwlock_t wires = PTHREAD_RWLOCK_INITIALIZER;
/* So many of the proposals that are passed on get lost. */
static atomic_int proposals_to_lose;

static bool is_lost(const struct raft_message *m)
{
    return m->type == RAFT_MSG_PROP && atomic_fetch_sub(&proposals_to_lose, 1) > 0;
}

static void wire_send(struct transport *t, const struct raft_message *messages, size_t n)
{
    struct peer *from = peer_of(t);

    pthread_rwlock_rdlock(&wires);
    for (size_t i = 0; i < n; i++) {
        struct peer *to = cluster_find(from->cluster, messages[i].to);
        if (reaches(from, to) && !is_lost(&messages[i]))
            (void)server_peer_message(to->box->s, &messages[i]);
    }
    pthread_rwlock_unlock(&wires);
}

static void wire_send_snapshot(struct transport *t, struct transport_snapshot *s)
{
    pthread_rwlock_rdlock(&wires);
    net_send_snapshot(t, s);
    pthread_rwlock_unlock(&wires);
}

static uint64_t wire_active_ms(struct transport *t, uint64_t member_id)
{
    uint64_t ms;

    pthread_rwlock_rdlock(&wires);
    ms = net_active_ms(t, member_id);
    pthread_rwlock_unlock(&wires);
    return ms;
}

static void wire_fetch(struct transport *t, struct transport_fetch *f)
{
    pthread_rwlock_rdlock(&wires);
    net_fetch(t, f);
    pthread_rwlock_unlock(&wires);
}

static const struct transport_ops wire_ops = {.send = wire_send,
                                              .send_snapshot = wire_send_snapshot,
                                              .members_changed = net_members_changed,
                                              .active_ms = wire_active_ms,
                                              .fetch = wire_fetch,
                                              .wants_tables = net_wants_tables};

static void cut(struct cluster *c, size_t i, bool is_cut)
{
    pthread_rwlock_wrlock(&wires);
    c->peers[i].cut = is_cut;
    pthread_rwlock_unlock(&wires);
}

static struct cluster *start(void)
{
    struct cluster *c = cluster_new(3, CATCHUP);

    for (size_t i = 0; i < 3; i++)
        c->peers[i].transport.ops = &wire_ops;
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(server_start_threads(server_at(c, i)), 0);
    return c;
}

static void wait_ready(struct cluster *c, uint64_t patience_ms)
{
    for (size_t i = 0; i < 3; i++)
        assert_true(server_wait_ready(server_at(c, i), patience_ms));
}

static int setup(void **state)
{
    atomic_store(&proposals_to_lose, 0);
    *state = start();
    wait_ready(*state, PATIENCE_MS);
    return 0;
}

/* No transport calls into a server that is being freed, nor has one anything of it. */
static void stop(struct cluster *c, size_t i)
{
    server_drain(server_at(c, i));
    while (atomic_load(&server_at(c, i)->lease_asks->n) > 0)
        sched_yield();
    pthread_rwlock_wrlock(&wires);
    c->peers[i].up = false;
    pthread_rwlock_unlock(&wires);
    c->peers[i].box->s = server_stop(server_at(c, i));
}

static int teardown(void **state)
{
    struct cluster *c = *state;

    for (size_t i = 0; i < 3; i++) {
        if (c->peers[i].up)
            stop(c, i);
    }
    cluster_free(c);
    return 0;
}

static void wait_until(struct cluster *c, bool (*is_so)(struct cluster *c, size_t i), size_t i)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (!is_so(c, i)) {
        assert_true(clock_mono_ms() < end_ms);
        sched_yield();
    }
}

/* ---- clients ---- */

struct client {
    pthread_t thread;
    struct box shim; /* an arena of its own */
    struct cluster *cluster;
    size_t member;
    int puts;
    atomic_bool *stop; /* of readers */
    int failed;
};

static void *write_some(void *arg)
{
    struct client *me = arg;

    arena_init(&me->shim.arena);
    for (int k = 0; k < me->puts; k++) {
        struct wait_call w;
        me->shim.s = server_at(me->cluster, me->member);
        call_put(&me->shim, &w.call, "key", "value", 0);
        me->failed += submit_and_wait(&me->shim, &w) != OUTCOME_OK;
        arena_reset(&me->shim.arena);
    }
    arena_deinit(&me->shim.arena);
    return NULL;
}

static void read_once(struct client *me, struct server *s)
{
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__HashKVRequest hash = ETCDSERVERPB__HASH_KVREQUEST__INIT;
    struct buf out = BUF_NULL;
    struct server_info info;

    range.key = pb_of("key");
    me->failed += server_range(s, &range, &out) != OUTCOME_OK;
    me->failed += server_hash_kv(s, &hash, &out) != OUTCOME_OK;
    me->failed += server_member_list(s, NULL, &out) != OUTCOME_OK;
    me->failed += server_lease_leases(s, NULL, &out) != OUTCOME_OK;
    server_info(s, &info);
    buf_deinit(&out);
}

static void *read_on(void *arg)
{
    struct client *me = arg;

    while (!atomic_load(me->stop))
        read_once(me, server_at(me->cluster, me->member));
    return NULL;
}

static void writers(struct cluster *c, size_t first, size_t n, int puts)
{
    struct client clients[WRITERS];

    for (size_t k = 0; k < WRITERS; k++) {
        clients[k] = (struct client){.cluster = c, .member = (first + k % n) % 3, .puts = puts};
        assert_int_equal(pthread_create(&clients[k].thread, NULL, write_some, &clients[k]), 0);
    }
    for (size_t k = 0; k < WRITERS; k++) {
        pthread_join(clients[k].thread, NULL);
        assert_int_equal(clients[k].failed, 0);
    }
}

/* ---- tests ---- */

static bool applied_all(struct cluster *c, size_t i)
{
    uint64_t most = 0;

    for (size_t k = 0; k < 3; k++) {
        uint64_t applied = atomic_load(&server_at(c, k)->state.applied);
        most = applied > most ? applied : most;
    }
    return atomic_load(&server_at(c, i)->state.applied) == most;
}

static size_t find_leader(struct cluster *c)
{
    uint64_t id = atomic_load(&server_at(c, 0)->state.leader);

    for (size_t i = 0; i < 3; i++) {
        if (c->peers[i].id == id)
            return i;
    }
    return 0;
}

static void snapshot_under_readers(struct cluster *c, bool tables)
{
    size_t i = (find_leader(c) + 1) % 3;
    atomic_bool end = false;
    struct client readers[2];

    c->peers[i].takes_tables = tables;
    writers(c, 0, 3, PUTS / 10);
    cut(c, i, true);
    writers(c, i + 1, 2, PUTS);
    for (int k = 0; k < 2; k++) {
        readers[k] = (struct client){.cluster = c, .member = i, .stop = &end};
        assert_int_equal(pthread_create(&readers[k].thread, NULL, read_on, &readers[k]), 0);
    }
    cut(c, i, false);
    wait_until(c, applied_all, i);
    writers(c, i, 1, PUTS / 10);
    atomic_store(&end, true);
    for (int k = 0; k < 2; k++) {
        pthread_join(readers[k].thread, NULL);
        assert_int_equal(readers[k].failed, 0);
    }
    assert_true(c->snapshots > 0);
    for (size_t k = 0; k < 3; k++)
        wait_until(c, applied_all, k);
    assert_int_equal(mvcc_revision(server_at(c, i)->store.mvcc),
                     1 + WRITERS * (PUTS + 2 * (PUTS / 10)));
}

static void test_snapshot(void **state)
{
    snapshot_under_readers(*state, false);
}

static void test_tables(void **state)
{
    snapshot_under_readers(*state, true);
}

static bool other_leads(struct cluster *c, size_t i)
{
    uint64_t leader = atomic_load(&server_at(c, (i + 1) % 3)->state.leader);

    return leader != 0 && leader != c->peers[i].id;
}

/* When the stop has closed the door, somebody else leads already. */
static void test_hand_over(void **state)
{
    struct cluster *c = *state;
    size_t old = find_leader(c);

    server_drain(server_at(c, old));
    assert_true(other_leads(c, old) ||
                atomic_load(&server_at(c, old)->state.leader) != c->peers[old].id);
    wait_until(c, other_leads, old);
    stop(c, old);
    writers(c, old + 1, 2, 3);
}

/* ---- leases ---- */

enum { KEPT = 7, LEFT = 8, ROUNDS = 2, LEASE_TTL_S = 2, BROKEN_MS = 1500 };

struct keeper {
    pthread_t thread;
    struct cluster *cluster;
    size_t member;
    atomic_bool *stop;
    atomic_uint renewed;
    unsigned lost; /* the lease was gone */
    struct lease_renewal renewal;
    struct wait_call asked;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
};

static void renewal_finished(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct keeper *k = container_of(r, struct keeper, renewal);

    pthread_mutex_lock(&k->lock);
    k->lost += outcome == OUTCOME_OK && ttl_s == 0;
    atomic_fetch_add(&k->renewed, outcome == OUTCOME_OK && ttl_s > 0);
    k->finished = true;
    pthread_cond_signal(&k->cond);
    pthread_mutex_unlock(&k->lock);
}

static void renew_once(struct keeper *k)
{
    k->renewal = (struct lease_renewal){.id = KEPT, .finish = renewal_finished};
    k->finished = false;
    server_lease_renew(server_at(k->cluster, k->member), &k->renewal);
    pthread_mutex_lock(&k->lock);
    while (!k->finished)
        pthread_cond_wait(&k->cond, &k->lock);
    pthread_mutex_unlock(&k->lock);
}

static void ask_once(struct keeper *k)
{
    Etcdserverpb__LeaseTimeToLiveRequest q = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;

    q.id = KEPT;
    q.keys = true;
    call_init(&k->asked.call, REQUEST_LEASE_TIME_TO_LIVE, BYTES_NULL);
    wait_call_init(&k->asked);
    server_lease_time_to_live(server_at(k->cluster, k->member), &k->asked.call.request, &q);
    (void)wait_call_outcome(&k->asked);
    call_deinit(&k->asked.call);
}

static void *keep_alive(void *arg)
{
    struct keeper *k = arg;

    while (!atomic_load(k->stop)) {
        renew_once(k);
        ask_once(k);
    }
    return NULL;
}

static bool grant_through(struct cluster *c, size_t i, int64_t id)
{
    struct client me = {.cluster = c};
    struct wait_call w;
    bool ok;

    arena_init(&me.shim.arena);
    me.shim.s = server_at(c, i);
    call_grant(&me.shim, &w.call, id, LEASE_TTL_S);
    ok = submit_and_wait(&me.shim, &w) == OUTCOME_OK;
    arena_deinit(&me.shim.arena);
    return ok;
}

static bool lease_is_over(struct cluster *c, size_t i)
{
    return !lease_exists(server_at(c, i)->store.leases, LEFT);
}

static void break_leader(struct cluster *c, struct keeper *keepers)
{
    size_t old = find_leader(c);
    unsigned before;

    cut(c, old, true);
    wait_until(c, other_leads, old);
    before = atomic_load(&keepers[(old + 1) % 3].renewed);
    for (uint64_t end_ms = clock_mono_ms() + BROKEN_MS; clock_mono_ms() < end_ms;)
        sched_yield();
    cut(c, old, false);
    while (atomic_load(&keepers[(old + 1) % 3].renewed) == before)
        sched_yield();
}

static void test_leases(void **state)
{
    struct cluster *c = *state;
    struct keeper keepers[3];
    atomic_bool end = false;

    assert_true(grant_through(c, 0, KEPT) && grant_through(c, 1, LEFT));
    for (size_t i = 0; i < 3; i++) {
        keepers[i] = (struct keeper){.cluster = c, .member = i, .stop = &end};
        pthread_mutex_init(&keepers[i].lock, NULL);
        pthread_cond_init(&keepers[i].cond, NULL);
        assert_int_equal(pthread_create(&keepers[i].thread, NULL, keep_alive, &keepers[i]), 0);
    }
    for (int round = 0; round < ROUNDS; round++)
        break_leader(c, keepers);
    for (size_t i = 0; i < 3; i++)
        wait_until(c, lease_is_over, i);
    atomic_store(&end, true);
    for (size_t i = 0; i < 3; i++) {
        pthread_join(keepers[i].thread, NULL);
        assert_true(atomic_load(&keepers[i].renewed) > 0);
        assert_int_equal(keepers[i].lost, 0);
        assert_true(lease_exists(server_at(c, i)->store.leases, KEPT));
    }
}

static bool has_leader(struct cluster *c, size_t i)
{
    return atomic_load(&server_at(c, i)->state.leader) != 0;
}

/* A member that publishes itself does not wait for a time-out (7 s) when that gets lost. */
static void test_lost_publication(void **state)
{
    atomic_store(&proposals_to_lose, 2);
    *state = start();
    for (size_t i = 0; i < 3; i++)
        wait_until(*state, has_leader, i);
    wait_ready(*state, LOST_PUBLICATION_MS);
    assert_true(atomic_load(&proposals_to_lose) <= 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_snapshot),
        T(test_tables),
        T(test_hand_over),
        T(test_leases),
        cmocka_unit_test_teardown(test_lost_publication, teardown),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
