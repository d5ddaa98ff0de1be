/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster of whole members, turn by turn: elections, writes and reads through any member, leaders
 * that are lost, members that lag by entries and by snapshots. The databases are in memory and lose
 * at a close what was not flushed; the logs are files.
 */
#include "server/test_cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "server/node_private.h"
#include "storage/db_mem.h"

enum { CATCHUP = 20, MANY = 400 };

static int setup(void **state)
{
    *state = cluster_new(3, CATCHUP);
    cluster_settle(*state);
    return 0;
}

static int teardown(void **state)
{
    *state = cluster_free(*state);
    db_mem_forget();
    return 0;
}

static size_t other(struct cluster *c, size_t not_this)
{
    return (not_this + 1) % c->n;
}

static void read_begin(struct cluster *c, size_t i, struct call *call)
{
    call_init(call, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(server_at(c, i), &call->request);
}

/* ---- elections ---- */

static void test_founding(void **state)
{
    struct cluster *c = *state;
    struct server_info info;
    size_t leader = cluster_leader(c);

    server_info(server_at(c, leader), &info);
    assert_int_equal(info.term, 2);
    for (size_t i = 0; i < 3; i++) {
        assert_true(leader_of(c, i) == info.member_id);
        assert_false(atomic_load(&server_at(c, i)->state.local_reads));
    }
}

/* Time that passed while a member was stopped does not depose a leader that is there. */
static void test_stall(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), stalled = other(c, leader);
    unsigned asked = c->sent[RAFT_MSG_PRE_VOTE];

    cluster_puts(c, leader, 3);
    for (int i = 0; i < 5; i++) { /* its clock jumps, and everybody's heartbeats are late */
        c->now_ms += 60000;
        assert_int_equal(member_step(c, stalled), 0);
        cluster_run(c, 200);
    }
    assert_int_equal(c->sent[RAFT_MSG_PRE_VOTE], asked);
    assert_int_equal(cluster_leader(c), leader);
}

/* As etcd: more than one peer is there, so a start need not wait for a whole election timeout. */
static void test_start_hurries(void **state)
{
    struct cluster *c = *state;
    size_t i = 0;

    for (i = 0; i < 3; i++)
        cluster_close(c, i);
    for (i = 0; i < 3; i++)
        cluster_open(c, i);
    uint64_t began_ms = c->now_ms;
    cluster_elect(c);
    assert_true(c->now_ms - began_ms < 1000);
    cluster_settle(c);
}

/* ---- writes ---- */

static void test_put_anywhere(void **state)
{
    struct cluster *c = *state;

    for (size_t i = 0; i < 3; i++)
        assert_int_equal(cluster_put(c, i, "k", "v"), OUTCOME_OK);
    assert_true(c->sent[RAFT_MSG_PROP] >= 2);
    cluster_settle(c);
    assert_int_equal(mvcc_revision(server_at(c, 0)->store.mvcc), 4);
}

/* A batch of proposals is sent on in messages that are not too large. */
static void test_forward_in_portions(void **state)
{
    enum { N = 40, BYTES = 100 << 10 };
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct call calls[N];
    char *value = mem_alloc(BYTES + 1);
    unsigned before = c->sent[RAFT_MSG_PROP];

    memset(value, 'x', BYTES);
    for (int k = 0; k < N; k++) {
        call_put(c->peers[i].box, &calls[k], "k", value, 0);
        server_submit(server_at(c, i), &calls[k].request);
    }
    cluster_step(c);
    unsigned portions = c->sent[RAFT_MSG_PROP] - before;
    for (int k = 0; k < N; k++)
        assert_int_equal(cluster_wait(c, &calls[k]), OUTCOME_OK);
    free(value);
    assert_int_equal(portions, 4); /* ten to a megabyte */
}

static void test_leader_lost(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), leader;
    struct call lost;

    cluster_puts(c, old, 3);
    c->peers[old].cut = true;
    call_put(c->peers[old].box, &lost, "lost", "", 0);
    server_submit(server_at(c, old), &lost.request);
    leader = cluster_elect(c);
    assert_int_not_equal(leader, old);
    cluster_puts(c, leader, 3);
    cluster_run(c, 3000);
    assert_int_equal(leader_of(c, old), 0); /* it has noticed: no quorum */
    assert_int_equal(lost.outcome, CALL_WAITS);
    c->peers[old].cut = false;
    cluster_settle(c);
    assert_int_equal(lost.outcome, CALL_WAITS); /* overwritten; its time-out answers it */
    box_time_out(c->peers[old].box);
    assert_int_equal(lost.n_finished, 1);
}

/* Without a leader a proposal waits, if somebody waits for it. */
static void test_held(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    struct call waits, gone;

    for (size_t k = 0; k < 3; k++)
        c->peers[k].cut = true;
    cluster_run(c, 5000);
    assert_int_equal(leader_of(c, i), 0);
    call_put(c->peers[i].box, &gone, "gone", "", 0);
    server_submit(server_at(c, i), &gone.request);
    cluster_step(c);
    assert_true(server_cancel(server_at(c, i), &gone.request));
    call_put(c->peers[i].box, &waits, "waits", "", 0);
    server_submit(server_at(c, i), &waits.request);
    cluster_run(c, 1000);
    assert_int_equal(waits.outcome, CALL_WAITS);
    for (size_t k = 0; k < 3; k++)
        c->peers[k].cut = false;
    assert_int_equal(cluster_wait(c, &waits), OUTCOME_OK);
    cluster_settle(c);
    assert_int_equal(mvcc_revision(server_at(c, i)->store.mvcc), 2);
}

static void test_transfer(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), to = other(c, old);
    struct call move, put;

    call_init(&move, REQUEST_MOVE_LEADER, BYTES_NULL);
    server_move_leader(server_at(c, old), &move.request, c->peers[to].id);
    cluster_step(c);
    call_put(c->peers[old].box, &put, "meanwhile", "", 0); /* refused by the old leader, and held */
    server_submit(server_at(c, old), &put.request);
    assert_int_equal(cluster_wait(c, &move), OUTCOME_OK);
    assert_int_equal(cluster_wait(c, &put), OUTCOME_OK);
    assert_int_equal(cluster_leader(c), to);
}

/* ---- reads ---- */

static void test_reads(void **state)
{
    enum { N = 50 };
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct call calls[N];
    unsigned before = c->sent[RAFT_MSG_READ_INDEX];

    for (int k = 0; k < N; k++)
        read_begin(c, i, &calls[k]);
    cluster_run(c, 100);
    for (int k = 0; k < N; k++)
        assert_int_equal(calls[k].outcome, OUTCOME_OK);
    assert_int_equal(c->sent[RAFT_MSG_READ_INDEX] - before, 1); /* one round for all */
    read_begin(c, cluster_leader(c), &calls[0]);
    assert_int_equal(calls[0].outcome, CALL_WAITS); /* a leader asks, too */
    cluster_run(c, 100);
    assert_int_equal(calls[0].outcome, OUTCOME_OK);
}

/* What arrives while a round is under way goes into the next one. */
static void test_read_rounds(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct call first, second;
    unsigned before = c->sent[RAFT_MSG_READ_INDEX];

    read_begin(c, i, &first);
    assert_int_equal(member_step(c, i), 0);
    read_begin(c, i, &second);
    assert_int_equal(member_step(c, i), 0);
    assert_int_equal(c->sent[RAFT_MSG_READ_INDEX] - before, 1);
    cluster_run(c, 200);
    assert_int_equal(c->sent[RAFT_MSG_READ_INDEX] - before, 2);
    assert_int_equal(first.outcome, OUTCOME_OK);
    assert_int_equal(second.outcome, OUTCOME_OK);
}

static bool lose_reads(struct cluster *c, const struct raft_message *m)
{
    return m->type == RAFT_MSG_READ_INDEX;
}

static void test_read_retried(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));
    struct call read;
    unsigned before = c->sent[RAFT_MSG_READ_INDEX];

    c->lose = lose_reads;
    read_begin(c, i, &read);
    cluster_run(c, 400);
    assert_int_equal(c->sent[RAFT_MSG_READ_INDEX] - before, 1);
    c->lose = NULL;
    cluster_run(c, 400);
    assert_int_equal(c->sent[RAFT_MSG_READ_INDEX] - before, 2);
    assert_int_equal(read.outcome, OUTCOME_OK);
}

/* A leader that has lost its quorum answers no read, also after a pause. */
static void test_read_at_deposed(void **state)
{
    struct cluster *c = *state;
    size_t old = cluster_leader(c), leader;
    struct call before, after;

    cluster_puts(c, old, 1);
    c->peers[old].cut = true;
    read_begin(c, old, &before);
    cluster_run(c, 100);
    assert_int_equal(before.outcome, CALL_WAITS);
    leader = cluster_elect(c);
    cluster_puts(c, leader, 1);
    read_begin(c, old, &after);
    cluster_run(c, 5000);
    assert_int_equal(before.outcome, CALL_WAITS);
    assert_int_equal(after.outcome, CALL_WAITS);
    c->peers[old].cut = false;
    cluster_settle(c);
    cluster_run(c, 1000);
    assert_int_equal(before.outcome, OUTCOME_LEADER_CHANGED); /* of the round under way */
    assert_int_equal(after.outcome, OUTCOME_OK);              /* had not begun */
}

/* ---- configurations ---- */

static uint64_t watched;
static unsigned n_watched;

/* Counts what one member says. */
static bool count_watched(struct cluster *c, const struct raft_message *m)
{
    n_watched += m->from == watched;
    return false;
}

static void begin_update(struct cluster *c, size_t i, struct call *call, char *url)
{
    Etcdserverpb__MemberUpdateRequest q = ETCDSERVERPB__MEMBER_UPDATE_REQUEST__INIT;

    q.id = c->peers[i].id;
    q.peerurls = &url;
    q.n_peerurls = 1;
    call_init(call, REQUEST_MEMBER_UPDATE, BYTES_NULL);
    server_change_members(server_at(c, i), &call->request, &q);
}

static void step_without_apply(struct cluster *c, size_t i)
{
    c->now_ms += CLUSTER_STEP_MS;
    for (size_t k = 0; k < 3; k++)
        assert_int_equal(k == i ? node_turn(server_at(c, k)->node, c->now_ms) : member_step(c, k),
                         0);
    net_deliver(c);
}

/* A follower has applied a change and answered; the leader has not applied it. */
static void change_at_follower_only(struct cluster *c, size_t leader, size_t i)
{
    char url[] = "http://127.0.0.1:21651";
    struct call first;

    begin_update(c, i, &first, url);
    for (int step = 0; step < 20; step++)
        step_without_apply(c, leader);
    assert_int_equal(first.outcome, OUTCOME_OK);
    call_deinit(&first);
}

static void test_change_waits_for_the_one_before(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c);
    char url[] = "http://127.0.0.1:21652";
    struct call second;

    change_at_follower_only(c, leader, other(c, leader));
    begin_update(c, leader, &second, url);
    for (int step = 0; step < 5; step++)
        step_without_apply(c, leader);
    assert_int_equal(second.n_finished, 0);
    assert_int_equal(cluster_wait(c, &second), OUTCOME_OK);
    cluster_settle(c);
}

static size_t passed_on; /* entries in the last message of proposals */

static bool count_passed_on(struct cluster *c, const struct raft_message *m)
{
    if (m->type == RAFT_MSG_PROP)
        passed_on = m->n_entries;
    return false;
}

/* A change in the middle of what a follower passes on waits with all of its message; what comes
 * behind that does not. */
static void test_change_passed_on_waits(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    char url[] = "http://127.0.0.1:21652";
    struct call before, change, behind, later;

    change_at_follower_only(c, leader, i);
    call_put(c->peers[i].box, &before, "k", "1", 0);
    call_put(c->peers[i].box, &behind, "k", "2", 0);
    call_put(c->peers[i].box, &later, "k", "3", 0);
    c->lose = count_passed_on;
    server_submit(server_at(c, i), &before.request);
    begin_update(c, i, &change, url);
    server_submit(server_at(c, i), &behind.request);
    step_without_apply(c, leader);
    assert_int_equal(passed_on, 3);
    server_submit(server_at(c, i), &later.request);
    for (int step = 0; step < 10; step++)
        step_without_apply(c, leader);
    assert_int_equal(cluster_wait(c, &later), OUTCOME_OK);
    assert_int_equal(before.n_finished + change.n_finished + behind.n_finished, 0);
    assert_int_equal(cluster_wait(c, &before), OUTCOME_OK);
    assert_int_equal(cluster_wait(c, &change), OUTCOME_OK);
    assert_int_equal(cluster_wait(c, &behind), OUTCOME_OK);
    c->lose = NULL;
    cluster_settle(c);
}

/* A follower that has a new configuration committed and not applied says nothing. */
static void test_messages_wait_for_configuration(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    Etcdserverpb__MemberAddRequest q = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    char *urls[] = {(char *)"http://127.0.0.1:21650"};
    struct call add;

    q.peerurls = urls;
    q.n_peerurls = 1;
    q.islearner = true;
    call_init(&add, REQUEST_MEMBER_ADD, BYTES_NULL);
    server_change_members(server_at(c, leader), &add.request, &q);
    watched = c->peers[i].id;
    c->lose = count_watched;
    for (int step = 0; step < 30; step++) {
        step_without_apply(c, i);
        if (step == 15)
            n_watched = 0;
    }
    assert_int_equal(n_watched, 0);
    assert_int_equal(add.outcome, OUTCOME_OK); /* the others are a quorum */
    call_deinit(&add);
    assert_int_equal(member_step(c, i), 0);
    assert_int_equal(n_watched, 0); /* applied at the end of that step */
    assert_int_equal(member_step(c, i), 0);
    assert_true(n_watched > 5);
    c->lose = NULL;
    cluster_settle(c);
}

/* ---- members that lag ---- */

static void test_lag_entries(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);

    cluster_puts(c, leader, 100); /* so that there is something to drop */
    c->peers[i].cut = true;
    cluster_puts(c, leader, CATCHUP - 1);
    c->peers[i].cut = false;
    cluster_settle(c);
    assert_int_equal(c->snapshots, 0);
}

/* A leader that restarts still has the entries. */
static void test_lag_entries_restart(void **state)
{
    struct cluster *c = *state;
    size_t i = other(c, cluster_leader(c));

    cluster_puts(c, cluster_leader(c), 100);
    c->peers[i].cut = true;
    cluster_puts(c, cluster_leader(c), CATCHUP / 2);
    for (size_t k = 0; k < 3; k++) {
        if (k == i)
            continue;
        assert_int_equal(db_flush(server_at(c, k)->store.db), 0);
        cluster_close(c, k);
        cluster_open(c, k);
    }
    c->peers[i].cut = false;
    cluster_settle(c);
    assert_int_equal(c->snapshots, 0);
    cluster_puts(c, i, 3);
}

static void lag_by_snapshot(struct cluster *c, bool tables)
{
    size_t leader = cluster_leader(c), i = other(c, leader);
    struct call grant;

    c->peers[i].takes_tables = tables;
    cluster_puts(c, leader, 3);
    c->peers[i].cut = true;
    call_grant(c->peers[leader].box, &grant, 77, 60);
    server_submit(server_at(c, leader), &grant.request);
    assert_int_equal(cluster_wait(c, &grant), OUTCOME_OK);
    cluster_puts(c, leader, MANY);
    c->peers[i].cut = false;
    cluster_settle(c);
    assert_int_equal(c->snapshots, 1);
    cluster_puts(c, i, 3);
    cluster_settle(c);
    cluster_close(c, i); /* the snapshot is durable; what came behind it is in the log */
    cluster_open(c, i);
    cluster_settle(c);
    cluster_puts(c, i, 3);
    cluster_settle(c);
    assert_int_equal(c->snapshots, 1);
}

static void test_lag_snapshot(void **state)
{
    lag_by_snapshot(*state, false);
}

static void test_lag_tables(void **state)
{
    lag_by_snapshot(*state, true);
}

/* Writes go on while a snapshot is made, sent and installed; the leader keeps what comes behind it.
 */
static void test_snapshot_beside_writes(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);

    c->peers[i].cut = true;
    cluster_puts(c, leader, MANY);
    c->peers[i].cut = false;
    while (c->snapshots == 0)
        cluster_puts(c, leader, 1);
    for (int k = 0; k < 5; k++) { /* the lagging one alone stands still */
        for (int n = 0; n < CATCHUP; n++) {
            struct call put;
            call_put(c->peers[leader].box, &put, "k", "v", 0);
            server_submit(server_at(c, leader), &put.request);
            for (int t = 0; t < 5; t++) {
                assert_int_equal(member_step(c, leader), 0);
                assert_int_equal(member_step(c, other(c, i)), 0);
                net_deliver(c);
            }
            call_deinit(&put);
        }
    }
    cluster_settle(c);
    assert_int_equal(c->snapshots, 1);
}

/* A snapshot that takes long to be made ready is not asked for again meanwhile. */
static void test_snapshot_slow(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);

    c->peers[i].cut = true;
    cluster_puts(c, leader, MANY);
    c->peers[i].cut = false;
    for (int step = 0; step < 100; step++) {
        c->now_ms += CLUSTER_STEP_MS;
        for (size_t k = 0; k < 3; k++) {
            if (k == i)
                assert_int_equal(node_turn(server_at(c, k)->node, c->now_ms), 0);
            else
                assert_int_equal(member_step(c, k), 0);
        }
        net_deliver(c);
    }
    assert_int_equal(c->snapshots, 1);
    cluster_settle(c);
    assert_int_equal(c->snapshots, 1);
}

static void step_without_install(struct cluster *c, size_t i)
{
    step_without_apply(c, i);
    snapshots_turn(server_at(c, i)->snapshots);
}

/* A second snapshot is accepted before the first one is installed: both are there when apply comes
 * to them, in order (etcd's second one took the first one's file away: 18055). */
static void test_two_snapshots_at_once(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), i = other(c, leader);
    struct server_state *lagging = &server_at(c, i)->state;
    uint64_t before = atomic_load(&lagging->applied);

    for (unsigned n = 1; n <= 2; n++) {
        c->peers[i].up = false; /* it stands still, until nothing is kept for it any more */
        cluster_run(c, SEND_KEEP_MS);
        cluster_puts(c, leader, MANY);
        c->peers[i].up = true;
        uint64_t first = atomic_load(&lagging->committed);
        for (int step = 0; atomic_load(&lagging->committed) < first + MANY; step++) {
            assert_in_range(step, 0, CLUSTER_STEPS_MAX);
            step_without_install(c, i);
        }
        assert_int_equal(c->snapshots, n);
        assert_int_equal(atomic_load(&lagging->applied), before);
    }
    cluster_settle(c);
    cluster_puts(c, i, 3);
    cluster_close(c, i);
    cluster_open(c, i);
    cluster_settle(c);
    assert_int_equal(c->snapshots, 2);
}

static void spoil(const char *path)
{
    FILE *f = fopen(path, "r+b");

    check(f && fseek(f, 8192 + 100, SEEK_SET) == 0);
    check(fwrite("damaged damaged damaged", 1, 23, f) == 23);
    fclose(f);
}

static void spoiled_snapshots(struct cluster *c)
{
    size_t leader = cluster_leader(c), i = other(c, leader);

    c->peers[i].cut = true;
    cluster_puts(c, leader, MANY);
    c->peers[i].cut = false;
    uint64_t began_ms = c->now_ms;
    while (c->snapshots < 3)
        cluster_step(c);
    assert_true(c->now_ms - began_ms >= 2 * REFUSED_PAUSE_MS); /* not one after the other */
    assert_true(atomic_load(&server_at(c, i)->state.applied) < MANY);
    cluster_puts(c, leader, 1); /* the others live on */
    c->spoil = NULL;
    c->snapshot_shift = 0;
    cluster_settle(c);
    cluster_puts(c, i, 1);
}

static void test_snapshot_damaged(void **state)
{
    struct cluster *c = *state;

    c->spoil = spoil;
    spoiled_snapshots(c);
}

/* The message says another index than the file. */
static void test_snapshot_contradicts(void **state)
{
    struct cluster *c = *state;

    c->snapshot_shift = 1;
    spoiled_snapshots(c);
}

/* What was received and never accepted is gone after a start. */
static void test_snapshot_leftovers(void **state)
{
    struct cluster *c = *state;
    char *path = server_peer_snapshot_path(server_at(c, 0), 99);
    bool exists;

    file_copy("/proc/self/exe", path);
    cluster_close(c, 0);
    cluster_open(c, 0);
    assert_int_equal(file_exists(path, &exists), 0);
    assert_false(exists);
    free(path);
    cluster_settle(c);
}

/* ---- bounds ---- */

static enum peer_verdict offer(struct cluster *c, size_t to, struct raft_message m)
{
    m.to = c->peers[to].id;
    m.from = c->peers[other(c, to)].id;
    return server_peer_message(server_at(c, to), &m);
}

static void test_inbox_bounds(void **state)
{
    struct cluster *c = *state;
    struct raft_entry entry = {.data = blob_copy(BYTES_LIT("\xa2\x06\x02\x08\x05"))};
    struct raft_message heartbeat = {.type = RAFT_MSG_HEARTBEAT, .term = 1};
    struct raft_message proposal = {.type = RAFT_MSG_PROP, .entries = &entry, .n_entries = 1};
    size_t i = other(c, cluster_leader(c));
    struct call put;

    assert_int_equal(member_step(c, i), 0);
    for (int k = 0; k < NODE_PEER_PROPOSALS_MAX; k++)
        assert_int_equal(offer(c, i, proposal), PEER_OK);
    assert_int_equal(offer(c, i, proposal), PEER_FULL);
    for (int k = 0; k < NODE_MESSAGES_MAX; k++)
        assert_int_equal(offer(c, i, heartbeat), PEER_OK);
    assert_int_equal(offer(c, i, heartbeat), PEER_FULL);
    for (int k = 0; k < 1000; k++)
        server_peer_unreachable(server_at(c, i), c->peers[0].id);
    assert_int_equal(inbox_len(&server_at(c, i)->node->inbox),
                     NODE_PEER_PROPOSALS_MAX + NODE_MESSAGES_MAX);
    c->peers[i].cut = true; /* nothing of all that reaches the others */
    call_put(c->peers[i].box, &put, "k", "v", 0);
    server_submit(server_at(c, i), &put.request);
    assert_int_equal(put.outcome, CALL_WAITS); /* taken */
    assert_int_equal(member_step(c, i), 0);
    assert_int_equal(offer(c, i, proposal), PEER_OK); /* there is room again */
    assert_int_equal(offer(c, i, heartbeat), PEER_OK);
    blob_unref(entry.data);
    server_drain(server_at(c, i));
    assert_int_equal(offer(c, i, heartbeat), PEER_STOPPED);
}

static void test_door(void **state)
{
    struct cluster *c = *state;
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT, .to = 99, .from = c->peers[1].id};

    assert_int_equal(server_peer_message(server_at(c, 0), &m), PEER_WRONG_TO);
    assert_int_equal(offer(c, 0, (struct raft_message){.type = RAFT_MSG_SNAP}), PEER_INVALID);
    assert_int_equal(offer(c, 0, (struct raft_message){.type = RAFT_MSG_HUP}), PEER_INVALID);
    assert_true(server_peer_is_known(server_at(c, 0), c->peers[1].id));
    assert_false(server_peer_is_known(server_at(c, 0), 99));
    assert_false(server_peer_is_removed(server_at(c, 0), c->peers[1].id));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_founding),
        T(test_stall),
        T(test_start_hurries),
        T(test_put_anywhere),
        T(test_forward_in_portions),
        T(test_leader_lost),
        T(test_held),
        T(test_transfer),
        T(test_reads),
        T(test_read_rounds),
        T(test_read_retried),
        T(test_read_at_deposed),
        T(test_change_waits_for_the_one_before),
        T(test_change_passed_on_waits),
        T(test_messages_wait_for_configuration),
        T(test_lag_entries),
        T(test_lag_entries_restart),
        T(test_lag_snapshot),
        T(test_lag_tables),
        T(test_snapshot_beside_writes),
        T(test_snapshot_slow),
        T(test_two_snapshots_at_once),
        T(test_snapshot_damaged),
        T(test_snapshot_contradicts),
        T(test_snapshot_leftovers),
        T(test_inbox_bounds),
        T(test_door),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
