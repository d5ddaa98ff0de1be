/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases in a cluster of three, turn by turn and by the test's clock: what followers pass on to the
 * leader, leaders that are lost, cut off or stopped for a minute, and members that come by
 * snapshot. At no time may a lease end before its time, and none may be lost.
 */
#include "server/test_cluster.h"
#include "server/test_lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/log.h"
#include "storage/db_mem.h"

enum { CATCHUP = 20, TICK = 100, TTL_S = 10, FAR_MS = 20000 };

/* ---- answers that are not as they should be ---- */

static void refuse(struct transport_fetch *f)
{
    f->status = 500;
}

static void damage(struct transport_fetch *f)
{
    buf_append_u8(&f->answer, 0xff);
}

static void mean_another(struct transport_fetch *f)
{
    buf_clear(&f->answer);
    lease_wire_renewed_put(&f->answer, &(struct lease_wire_renewed){99, 5});
}

/* ---- time ---- */

static void lease_ticks(struct cluster *c)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->peers[i].up)
            lease_tick(server_at(c, i));
    }
}

static void run_ms(struct cluster *c, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i += CLUSTER_STEP_MS) {
        test_now_ns += CLUSTER_STEP_MS * UINT64_C(1000000);
        cluster_step(c);
        if (i % TICK == 0)
            lease_ticks(c);
    }
}

static uint64_t elect(struct cluster *c)
{
    while (!cluster_agrees(c))
        run_ms(c, TICK);
    return cluster_leader(c);
}

static void settle(struct cluster *c)
{
    (void)elect(c);
    while (!cluster_is_even(c))
        run_ms(c, TICK);
    cluster_settle(c);
}

static int setup(void **state)
{
    struct cluster *c = cluster_new(3, CATCHUP);

    settle(c);
    *state = c;
    return 0;
}

static int teardown(void **state)
{
    *state = cluster_free(*state);
    db_mem_forget();
    return 0;
}

/* ---- what tests do ---- */

static size_t other(struct cluster *c, size_t not_this)
{
    return (not_this + 1) % c->n;
}

static void grant(struct cluster *c, size_t i, int64_t id, int64_t ttl_s)
{
    struct call call;

    call_grant(c->peers[i].box, &call, id, ttl_s);
    server_submit(server_at(c, i), &call.request);
    assert_int_equal(cluster_wait(c, &call), OUTCOME_OK);
}

static void put(struct cluster *c, size_t i, const char *key, int64_t lease)
{
    struct call call;

    call_put(c->peers[i].box, &call, key, "v", lease);
    server_submit(server_at(c, i), &call.request);
    assert_int_equal(cluster_wait(c, &call), OUTCOME_OK);
}

static void renewed(struct cluster *c, size_t i, int64_t id, int64_t ttl_s)
{
    struct renewal x;

    renew_begin(server_at(c, i), &x, id);
    for (uint64_t ms = 0; x.n_finished == 0 && ms < FAR_MS; ms += TICK)
        run_ms(c, TICK);
    assert_int_equal(x.outcome, OUTCOME_OK);
    assert_int_equal(x.ttl_s, ttl_s);
}

static void left_is(struct cluster *c, size_t i, int64_t id, bool keys, const char *want)
{
    struct call call;

    if (keys)
        assert_int_equal(scan_start(&server_at(c, cluster_leader(c))->scan), 0);
    left_begin(server_at(c, i), &call, id, keys);
    if (keys)
        scan_stop(&server_at(c, cluster_leader(c))->scan);
    for (int k = 0; call.n_finished == 0 && k < CLUSTER_STEPS_MAX; k++)
        cluster_step(c);
    assert_int_equal(call.outcome, OUTCOME_OK);
    char *text = left_text(&call);
    assert_string_equal(text, want);
    free(text);
}

static bool there(struct cluster *c, int64_t id)
{
    return lease_is_there(server_at(c, cluster_leader(c)), id);
}

static void lead(struct cluster *c, size_t i)
{
    size_t leader = cluster_leader(c);
    struct call move;

    call_init(&move, REQUEST_MOVE_LEADER, BYTES_NULL);
    server_move_leader(server_at(c, leader), &move.request, c->peers[i].id);
    assert_int_equal(cluster_wait(c, &move), OUTCOME_OK);
}

/* ---- followers ---- */

static void test_through_followers(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));

    grant(c, i, 7, TTL_S);
    put(c, i, "b", 7);
    put(c, i, "a", 7);
    for (int k = 0; k < 5; k++) {
        run_ms(c, TTL_S * 1000 - 500);
        renewed(c, i, 7, TTL_S);
    }
    run_ms(c, 2000);
    left_is(c, i, 7, false, "8/10");
    left_is(c, i, 7, true, "8/10 a b");
    renewed(c, i, 8, 0);
    left_is(c, i, 8, false, "-1/0");
    run_ms(c, TTL_S * 1000);
    assert_false(there(c, 7));
    settle(c);
    for (size_t k = 0; k < 3; k++)
        assert_false(key_is_there(server_at(c, k), "a"));
}

/* Answers that are none, and none at all: asked again until the time is over. */
static void test_bad_answers(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct renewal x;
    struct call left;

    grant(c, i, 7, 60);
    c->spoil_answer = refuse;
    c->fetches = 0;
    renew_begin(server_at(c, i), &x, 7);
    run_ms(c, 1000);
    assert_int_equal(x.n_finished, 0);
    assert_true(c->fetches >= 9);
    c->spoil_answer = damage;
    left_begin(server_at(c, i), &left, 7, false);
    run_ms(c, 1000);
    c->spoil_answer = mean_another;
    run_ms(c, 300);
    assert_int_equal(x.n_finished + left.n_finished, 0);
    c->spoil_answer = NULL;
    run_ms(c, 200);
    assert_int_equal(x.ttl_s, 60);
    assert_int_equal(left.outcome, OUTCOME_OK);
    call_deinit(&left);
    c->spoil_answer = refuse;
    renew_begin(server_at(c, i), &x, 7);
    run_ms(c, 8000);
    assert_int_equal(x.outcome, OUTCOME_TIMEOUT);
}

/* More questions than may be at the leader at once. */
static void test_many_forwards(void **state)
{
    enum { N = 3 * LEASE_FORWARDS_MAX };
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    struct renewal *x = mem_alloc(N * sizeof(*x));

    grant(c, i, 7, TTL_S);
    settle(c);
    test_now_ns += TTL_S * UINT64_C(1000000000); /* they wait there for its revocation */
    c->fetches = 0;
    for (int k = 0; k < N; k++)
        renew_begin(server_at(c, i), &x[k], 7);
    assert_int_equal(c->fetches, LEASE_FORWARDS_MAX);
    run_ms(c, 1000);
    for (int k = 0; k < N; k++)
        assert_true(x[k].n_finished == 1 && x[k].outcome == OUTCOME_OK && x[k].ttl_s == 0);
    free(x);
}

/* A leader that stands still takes questions and says nothing. Those that it has are asked again
 * when there is another; those that wait for their turn go to that one. */
static void test_silent_leader(void **state)
{
    enum { N = 2 * LEASE_FORWARDS_MAX };
    struct cluster *c = *state;
    size_t old = cluster_leader(c), i = other(c, old);
    struct renewal *x = mem_alloc(N * sizeof(*x)), late;

    grant(c, i, 7, 60);
    settle(c);
    c->peers[old].up = false;
    c->peers[old].silent = true;
    for (int k = 0; k < N; k++)
        renew_begin(server_at(c, i), &x[k], 7);
    while (leader_of(c, i) == c->peers[old].id || leader_of(c, i) == 0)
        run_ms(c, TICK);
    renew_begin(server_at(c, i), &late, 7);
    run_ms(c, 2000);
    assert_int_equal(late.ttl_s, 60);
    for (int k = 0; k < N; k++)
        assert_int_equal(x[k].ttl_s, 60);
    free(x);
}

static void test_no_leader(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct renewal x, y;

    grant(c, i, 7, 60);
    for (size_t k = 0; k < 3; k++)
        c->peers[k].cut = true;
    run_ms(c, 5000);
    renew_begin(server_at(c, i), &x, 7);
    run_ms(c, 5000);
    assert_int_equal(x.n_finished, 0);
    run_ms(c, 3000);
    assert_int_equal(x.outcome, OUTCOME_NO_LEADER);
    renew_begin(server_at(c, i), &y, 7);
    for (size_t k = 0; k < 3; k++)
        c->peers[k].cut = false;
    (void)elect(c);
    run_ms(c, 1000);
    assert_int_equal(y.ttl_s, 60);
}

/* ---- leaders ---- */

/* A leader that is cut off neither ends a lease nor keeps one alive. */
static void test_leader_cut_off(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), leader;
    struct renewal x;
    uint64_t applied;

    grant(c, old, 7, TTL_S);
    put(c, old, "a", 7);
    settle(c);
    run_ms(c, TTL_S * 1000 - 1000);
    c->peers[old].cut = true;
    applied = atomic_load(&server_at(c, old)->state.applied);
    run_ms(c, 4000); /* it has expired by its clock */
    assert_int_equal(atomic_load(&server_at(c, old)->state.applied), applied);
    leader = elect(c);
    assert_int_not_equal(leader, old);
    assert_true(there(c, 7)); /* its time has begun anew */
    renew_begin(server_at(c, old), &x, 7);
    run_ms(c, 1000);
    assert_int_equal(x.n_finished, 0); /* it knows of no leader */
    renewed(c, leader, 7, TTL_S);
    c->peers[old].cut = false;
    run_ms(c, 1000);
    assert_int_equal(x.ttl_s, TTL_S);
    run_ms(c, TTL_S * 1000 - 1100);
    assert_true(there(c, 7));
    run_ms(c, 1000);
    assert_false(there(c, 7));
    settle(c);
}

/* A leader that stood still for a minute finds everything expired; what it says then counts for
 * nothing, whichever of its threads wakes first. */
static void stopped_leader(struct cluster *c, bool raft_first)
{
    size_t old = cluster_leader(c), leader;

    grant(c, old, 7, TTL_S);
    put(c, old, "a", 7);
    settle(c);
    c->peers[old].up = false; /* neither its turns run nor its ticks */
    (void)elect(c);
    for (int k = 0; k < 12; k++) {
        run_ms(c, 5000);
        renewed(c, elect(c), 7, TTL_S);
    }
    c->peers[old].up = true;
    if (raft_first)
        assert_int_equal(member_step(c, old), 0);
    lease_tick(server_at(c, old));
    lease_tick(server_at(c, old));
    leader = elect(c);
    assert_int_not_equal(leader, old);
    run_ms(c, 5000);
    settle(c);
    assert_true(there(c, 7));
    assert_true(key_is_there(server_at(c, old), "a"));
    run_ms(c, TTL_S * 1000);
    assert_false(there(c, 7));
}

static void test_leader_stopped(void **state)
{
    stopped_leader(*state, false);
}

static void test_leader_stopped_raft_first(void **state)
{
    stopped_leader(*state, true);
}

/* ---- proposals of a leadership that is over ---- */

static unsigned n_proposals;

static bool count_proposals(struct cluster *c, const struct raft_message *m)
{
    n_proposals += m->type == RAFT_MSG_PROP;
    return false;
}

/* It hears of its successor before it has proposed what it found expired: nothing is sent on. */
static void test_leader_hears_of_another(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c);
    uint64_t end_ns = test_now_ns + TTL_S * UINT64_C(1000000000);

    grant(c, old, 7, TTL_S);
    settle(c);
    c->peers[old].up = false;
    (void)elect(c);
    c->peers[old].up = true;
    for (int i = 0; i < 10; i++) { /* the successor's messages wait before its proposals */
        c->now_ms += CLUSTER_STEP_MS;
        for (size_t k = 0; k < 3; k++) {
            if (k != old)
                assert_int_equal(member_step(c, k), 0);
        }
        net_deliver(c);
    }
    test_now_ns = end_ns; /* as the old leader reckons */
    n_proposals = 0;
    c->lose = count_proposals;
    lease_tick(server_at(c, old));
    run_ms(c, 100);
    lease_tick(server_at(c, old));
    run_ms(c, 1000);
    assert_int_equal(n_proposals, 0);
    assert_true(there(c, 7));
}

static void forge_successor(struct cluster *c, size_t leader)
{
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT,
                             .to = c->peers[leader].id,
                             .from = c->peers[other(c, leader)].id,
                             .term = atomic_load(&server_at(c, leader)->state.term) + 1};

    assert_int_equal(server_peer_message(server_at(c, leader), &m), PEER_OK);
}

/* Nor if a quorum has confirmed it just before. */
static void test_confirmed_just_before(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c);
    struct server *s = server_at(c, leader);

    grant(c, leader, 7, TTL_S);
    settle(c);
    test_now_ns += TTL_S * UINT64_C(1000000000);
    lease_tick(s);
    for (int i = 0; i < 2; i++) { /* the read index goes out and comes back */
        assert_int_equal(node_turn(s->node, c->now_ms), 0);
        net_deliver(c);
        for (size_t k = 0; k < 3; k++) {
            if (k != leader)
                assert_int_equal(member_step(c, k), 0);
        }
        net_deliver(c);
    }
    assert_int_equal(wait_proposals(&s->wait), 1); /* confirmed, and on its way to raft */
    forge_successor(c, leader);
    n_proposals = 0;
    c->lose = count_proposals;
    assert_int_equal(node_turn(s->node, c->now_ms), 0);
    assert_int_equal(n_proposals, 0);
    assert_int_equal(wait_proposals(&s->wait), 0);
}

/* A leader keeps times also if its first entry takes the place of one that it had in its log before
 * a restart, and that came to nothing. */
static void test_leads_after_lost_tail(void **state)
{
    struct cluster *c = *state;
    size_t i = cluster_leader(c);
    struct call calls[50];

    grant(c, i, 7, TTL_S);
    settle(c);
    c->peers[i].cut = true;
    for (int k = 0; k < 50; k++) {
        call_put(c->peers[i].box, &calls[k], "lost", "", 0);
        server_submit(server_at(c, i), &calls[k].request);
    }
    run_ms(c, 200);
    cluster_close(c, i);
    (void)elect(c);
    cluster_open(c, i);
    c->peers[i].cut = false;
    settle(c);
    lead(c, i);
    run_ms(c, 300);
    assert_true(lease_primary_term(server_at(c, i)->store.leases) > 0);
    run_ms(c, 12000);
    assert_false(there(c, 7));
}

/* While it stands still a keep-alive asks whether it leads at all. */
static void test_stopped_leader_renews_nothing(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c);
    struct renewal x;

    grant(c, old, 7, 60);
    settle(c);
    c->peers[old].cut = true;
    test_now_ns += 5 * UINT64_C(1000000000);
    renew_begin(server_at(c, old), &x, 7);
    assert_int_equal(x.n_finished, 0);
    run_ms(c, 1000);
    assert_int_equal(x.n_finished, 0);
    run_ms(c, 7000);
    assert_int_equal(x.outcome, OUTCOME_NO_LEADER);
}

/* A new leader gives each lease its whole time, and an election timeout more. */
static void test_leader_moves(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), to = other(c, old);

    grant(c, old, 7, TTL_S);
    run_ms(c, 8000);
    lead(c, to);
    run_ms(c, 300); /* until its term has begun */
    left_is(c, old, 7, false, "10/10");
    run_ms(c, 10400);
    assert_true(there(c, 7));
    run_ms(c, 1000);
    assert_false(there(c, 7));
    assert_int_equal(lease_primary_term(server_at(c, old)->store.leases), 0);
}

/* A keep-alive that waits for the end of a lease is answered by the next leader, where it lives. */
static void test_leader_lost_meanwhile(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c);
    struct renewal x;

    grant(c, old, 7, TTL_S);
    settle(c);
    c->peers[old].cut = true;
    test_now_ns += TTL_S * UINT64_C(1000000000);
    c->now_ms += 2 * TICK;
    assert_int_equal(member_step(c, old), 0); /* it ticks */
    renew_begin(server_at(c, old), &x, 7);
    (void)elect(c);
    c->peers[old].cut = false;
    run_ms(c, 2000);
    assert_int_equal(x.outcome, OUTCOME_OK);
    assert_int_equal(x.ttl_s, TTL_S);
}

/* ---- leaderships that follow each other closely ---- */

static struct {
    struct cluster *c; /* NULL: nothing happens */
    size_t leads;
} meanwhile;

uint64_t __real_lease_primary_term(struct lease_table *t);
uint64_t __wrap_lease_primary_term(struct lease_table *t);
uint64_t __wrap_lease_primary_term(struct lease_table *t)
{
    struct cluster *c = meanwhile.c;

    meanwhile.c = NULL;
    if (c) {
        struct server *s = server_at(c, meanwhile.leads);
        lead(c, meanwhile.leads);
        while (__real_lease_primary_term(s->store.leases) == 0)
            cluster_step(c);
    }
    return __real_lease_primary_term(t);
}

/* The ticker finds that the member does not lead, is held up, and goes on when it does. */
static void test_leads_in_midst_of_tick(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));

    grant(c, i, 7, TTL_S);
    settle(c);
    meanwhile.c = c;
    meanwhile.leads = i;
    lease_tick(server_at(c, i));
    assert_int_equal(cluster_leader(c), i);
    run_ms(c, 1000);
    assert_true(lease_primary_term(server_at(c, i)->store.leases) > 0);
    renewed(c, i, 7, TTL_S);
    run_ms(c, TTL_S * 1000 + 1000);
    assert_false(there(c, 7));
}

/* A step in which member i applies nothing. */
static void step_unapplied(struct cluster *c, size_t i)
{
    c->now_ms += CLUSTER_STEP_MS;
    for (size_t k = 0; k < c->n; k++) {
        int r = k == i ? node_turn(server_at(c, k)->node, c->now_ms) : member_step(c, k);
        assert_int_equal(r, 0);
    }
    net_deliver(c);
}

/* Leads again before it has applied what came meanwhile, and its ticker has not noticed: the times
 * that it kept are worth nothing. */
static void test_leads_again(void **state)
{
    struct cluster *c = *state;
    size_t i = cluster_leader(c), leader = other(c, i);
    struct renewal x;
    struct call revoke, move;

    grant(c, i, 7, 60);
    settle(c);
    lead(c, leader);
    call_revoke(c->peers[leader].box, &revoke, 7);
    server_submit(server_at(c, leader), &revoke.request);
    while (revoke.n_finished == 0)
        step_unapplied(c, i);
    assert_int_equal(cluster_wait(c, &revoke), OUTCOME_OK);
    call_init(&move, REQUEST_MOVE_LEADER, BYTES_NULL);
    server_move_leader(server_at(c, leader), &move.request, c->peers[i].id);
    while (leader_of(c, i) != c->peers[i].id)
        step_unapplied(c, i);
    renew_begin(server_at(c, i), &x, 7);
    assert_int_equal(x.n_finished, 0);
    run_ms(c, 300);
    assert_int_equal(cluster_wait(c, &move), OUTCOME_OK);
    assert_true(x.n_finished == 1 && x.outcome == OUTCOME_OK && x.ttl_s == 0);
}

static uint64_t commit_max;

static bool commit_is_unknown(struct cluster *c, const struct raft_message *m)
{
    (void)c;
    return (m->type == RAFT_MSG_APP || m->type == RAFT_MSG_HEARTBEAT) && m->commit > commit_max;
}

/* A leader that has not applied all that others may have been told of doesn't say what is missing.
 */
static void test_left_before_the_term_begins(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), leader;
    struct call left;

    settle(c);
    commit_max = atomic_load(&server_at(c, old)->state.committed);
    c->lose = commit_is_unknown;
    grant(c, old, 7, 60); /* answered by the old leader, and by nobody else */
    c->peers[old].cut = true;
    while ((leader = cluster_leader(c)) == SIZE_MAX)
        run_ms(c, CLUSTER_STEP_MS);
    left_begin(server_at(c, leader), &left, 7, false);
    assert_int_equal(left.n_finished, 0);
    c->lose = NULL;
    run_ms(c, 500);
    char *text = left_text(&left);
    assert_string_equal(text, "60/60");
    free(text);
}

/* ---- who may ask what when ---- */

static unsigned n_commits;

/* A follower may apply at once what it hears is committed, answer a client, and pass the client's
 * next question on to the leader: which must then wait for the same. */
static bool commit_is_known(struct cluster *c, const struct raft_message *m)
{
    const struct peer *from = cluster_find(c, m->from);

    if (m->type == RAFT_MSG_APP || m->type == RAFT_MSG_HEARTBEAT)
        assert_true(atomic_load(&from->box->s->state.committed) >= m->commit);
    n_commits += m->commit > 0;
    return false;
}

static void test_commit_is_known_before_it_is_said(void **state)
{
    struct cluster *c = *state;

    c->lose = commit_is_known;
    cluster_puts(c, cluster_leader(c), 20);
    assert_true(n_commits > 20);
}

/* ---- proposals of one term ---- */

static void submit_revoke(struct cluster *c, size_t i, struct call *call, uint64_t term)
{
    call_revoke(c->peers[i].box, call, 7);
    call->request.only_term = term;
    server_submit(server_at(c, i), &call->request);
}

static void test_only_term(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    uint64_t term = atomic_load(&server_at(c, leader)->state.term);
    struct call call;

    grant(c, leader, 7, 60);
    submit_revoke(c, leader, &call, term - 1);
    assert_int_equal(cluster_wait(c, &call), OUTCOME_NOT_LEADER);
    submit_revoke(c, i, &call, term); /* never sent on */
    assert_int_equal(cluster_wait(c, &call), OUTCOME_NOT_LEADER);
    assert_true(there(c, 7));
    submit_revoke(c, leader, &call, term);
    assert_int_equal(cluster_wait(c, &call), OUTCOME_OK);
    assert_false(there(c, 7));
}

/* ---- state ---- */

static void propose_checkpoint(struct cluster *c, size_t i, int64_t id, int64_t remaining_s)
{
    Etcdserverpb__LeaseCheckpointRequest q = ETCDSERVERPB__LEASE_CHECKPOINT_REQUEST__INIT;
    Etcdserverpb__LeaseCheckpoint one = ETCDSERVERPB__LEASE_CHECKPOINT__INIT, unknown = one;
    Etcdserverpb__LeaseCheckpoint *all[] = {&unknown, &one};
    struct call call;

    one.id = id;
    one.remaining_ttl = remaining_s;
    unknown.id = 99;
    q.checkpoints = all;
    q.n_checkpoints = 2;
    call_init(&call, REQUEST_LEASE_CHECKPOINT,
              PACK(c->peers[i].box, etcdserverpb__lease_checkpoint_request, &q));
    server_submit(server_at(c, i), &call.request);
    assert_int_equal(cluster_wait(c, &call), OUTCOME_OK);
}

/* What an etcd leader with the feature gate says is heard without it, and goes along in snapshots
 * and over restarts. */
static void test_checkpoint_of_another(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);

    grant(c, leader, 7, 1000);
    c->peers[i].cut = true;
    propose_checkpoint(c, leader, 7, 100);
    cluster_puts(c, leader, 400);
    c->peers[i].cut = false;
    settle(c);
    assert_int_equal(c->snapshots, 1);
    cluster_close(c, i);
    cluster_open(c, i);
    settle(c);
    lead(c, i);
    run_ms(c, 300);
    left_is(c, leader, 7, false, "100/1000");
    renewed(c, leader, 7, 1000); /* what it says is what it does, */
    run_ms(c, 100);
    left_is(c, leader, 7, false, "1000/1000");
    lead(c, leader); /* also if another leads meanwhile */
    run_ms(c, 300);
    left_is(c, i, 7, false, "1000/1000");
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_through_followers),
        T(test_bad_answers),
        T(test_many_forwards),
        T(test_silent_leader),
        T(test_no_leader),
        T(test_leader_cut_off),
        T(test_leader_stopped),
        T(test_leader_stopped_raft_first),
        T(test_stopped_leader_renews_nothing),
        T(test_leader_hears_of_another),
        T(test_confirmed_just_before),
        T(test_leads_after_lost_tail),
        T(test_leader_moves),
        T(test_leader_lost_meanwhile),
        T(test_commit_is_known_before_it_is_said),
        T(test_leads_in_midst_of_tick),
        T(test_leads_again),
        T(test_left_before_the_term_begins),
        T(test_only_term),
        T(test_checkpoint_of_another),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
