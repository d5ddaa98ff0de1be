/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole member, turn by turn: what a request goes through, and who is answered when. The
 * database is in memory, so reopening a member replays its whole log.
 */
#include "server/test_box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#include "server/node_private.h"
#include "server/txn.h"

static int setup(void **state)
{
    *state = box_start();
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    return 0;
}

static void assert_member_lives(struct box *b)
{
    assert_int_equal(box_put(b, "alive", ""), OUTCOME_OK);
}

static void assert_response(struct call *c, struct box *b, int64_t revision)
{
    Etcdserverpb__LeaseRevokeResponse *r = etcdserverpb__lease_revoke_response__unpack(
        NULL, c->request.response.len, c->request.response.data); /* has the header alone */

    assert_non_null(r);
    assert_true(r->header->cluster_id == b->s->state.cluster_id);
    assert_true(r->header->member_id == b->s->state.member_id);
    assert_true(r->header->raft_term == atomic_load(&b->s->state.term));
    assert_int_equal(r->header->revision, revision);
    etcdserverpb__lease_revoke_response__free_unpacked(r, NULL);
    call_deinit(c);
}

/* ---- a new member ---- */

static void test_new_member(void **state)
{
    struct box *b = *state;
    struct server_info info;

    server_info(b->s, &info);
    assert_true(info.member_id == 0x8e9e05c52164694d); /* as etcd's of the same flags */
    assert_true(info.cluster_id == 0xcdf818194e3a8c32);
    assert_true(info.leader_id == info.member_id);
    assert_int_equal(info.term, 2);
    assert_int_equal(info.applied_index, 2); /* its founding and its first empty entry */
    assert_int_equal(info.raft_index, 2);
    assert_int_equal(info.revision, 1);
}

/* A lone quick entry is applied by the raft turn that made it durable. */
static void test_put_now(void **state)
{
    struct box *b = *state;
    struct call c;

    call_put(b, &c, "k", "v", 0);
    server_submit(b->s, &c.request);
    assert_int_equal(c.outcome, CALL_WAITS);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(c.outcome, OUTCOME_OK);
    assert_int_equal(c.n_finished, 1);
    assert_response(&c, b, 2);
    assert_int_equal(box_stored_applied(b).index, 3);
}

static void test_put(void **state)
{
    struct box *b = *state;
    struct call c;

    call_put(b, &c, "k", box_large_value(), 0);
    server_submit(b->s, &c.request);
    assert_int_equal(c.outcome, CALL_WAITS);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(atomic_load(&b->s->state.committed), 3);
    assert_int_equal(c.outcome, CALL_WAITS); /* durable and committed, not applied */
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 1);
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(c.outcome, OUTCOME_OK);
    assert_int_equal(c.n_finished, 1);
    assert_response(&c, b, 2);
    assert_int_equal(box_stored_applied(b).index, 3);
    assert_int_equal(box_stored_applied(b).term, 2);
}

/* One turn, one batch; later entries see earlier ones, also those that scan. */
static void test_entries_of_one_turn(void **state)
{
    enum { N = 7 };
    struct box *b = *state;
    struct call c[N];

    call_put(b, &c[0], "a", "1", 0);
    call_put(b, &c[1], "a", "2", 0);
    call_txn(b, &c[2], "a", "z");
    call_delete(b, &c[3], "a", NULL);
    call_put(b, &c[4], "b", "1", 0);
    call_delete(b, &c[5], "a", "z");
    call_delete(b, &c[6], "a", "z");
    for (int i = 0; i < N; i++)
        server_submit(b->s, &c[i].request);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(apply_turn(b->s->apply), 0);
    const int64_t revisions[N] = {2, 3, 4, 5, 6, 7, 7};
    for (int i = 0; i < N; i++) {
        assert_int_equal(c[i].outcome, OUTCOME_OK);
        assert_response(&c[i], b, revisions[i]);
    }
    assert_int_equal(box_stored_applied(b).index, 2 + N);
}

/* More than apply is given at once: what is left comes when that is done, not at the next event. */
static void test_full_apply(void **state)
{
    enum { N = 140, VALUE_BYTES = 1 << 20 };
    struct box *b = *state;
    _cleanup_(mem_freep) char *value = mem_alloc_raw(VALUE_BYTES + 1);
    struct call *c = mem_alloc(N * sizeof(*c));

    memset(value, 'v', VALUE_BYTES);
    value[VALUE_BYTES] = '\0';
    for (int i = 0; i < N; i++) {
        call_put(b, &c[i], "key", value, 0);
        server_submit(b->s, &c[i].request);
    }
    for (int turns = 0; c[N - 1].outcome == CALL_WAITS; turns++) {
        assert_true(turns == 0 || b->s->node->inbox.woken);
        assert_in_range(turns, 0, 3);
        assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
        node_wait(b->s->node);
        assert_false(b->s->node->inbox.woken);
        assert_int_equal(apply_turn(b->s->apply), 0);
    }
    for (int i = 0; i < N; i++)
        assert_response(&c[i], b, 2 + i);
    free(c);
}

/* More than one write batch in a turn. */
static void test_long_turn(void **state)
{
    enum { N = APPLY_TURN_ENTRIES_MAX + 100 };
    struct box *b = *state;
    struct call *c = mem_alloc(N * sizeof(*c));

    for (int i = 0; i < N; i++) {
        call_put(b, &c[i], i % 2 ? "odd" : "even", "", 0);
        server_submit(b->s, &c[i].request);
    }
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(apply_turn(b->s->apply), 0);
    for (int i = 0; i < N; i++) {
        assert_int_equal(c[i].n_finished, 1);
        assert_response(&c[i], b, 2 + i);
    }
    free(c);
    assert_int_equal(box_stored_applied(b).index, 2 + N);
}

static void test_refused_early(void **state)
{
    struct box *b = *state;
    struct call c;
    char *big = mem_alloc(1572864);
    struct buf deep = BUF_NULL;

    memset(big, 'x', 1572863);
    call_put(b, &c, "k", big, 0);
    server_submit(b->s, &c.request);
    assert_int_equal(c.outcome, OUTCOME_REQUEST_TOO_LARGE);
    big[1572864 - 100] = 0;
    call_put(b, &c, "k", big, 0);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    free(big);

    for (int i = 0; i < TXN_DEPTH_MAX; i++) { /* from inside out: 600 levels are short enough */
        struct buf outer = BUF_NULL;
        buf_append_u8(&outer, 2 << 3 | 2);
        buf_append_varint(&outer, 1 + varint_size(deep.len) + deep.len);
        buf_append_u8(&outer, 4 << 3 | 2);
        buf_append_varint(&outer, deep.len);
        buf_append_bytes(&outer, buf_bytes(&deep));
        buf_deinit(&deep);
        deep = outer;
    }
    call_init(&c, REQUEST_TXN, buf_bytes(&deep));
    server_submit(b->s, &c.request);
    assert_int_equal(c.outcome, OUTCOME_TOO_MANY_OPS);
    buf_deinit(&deep);

    uint64_t committed = atomic_load(&b->s->state.committed);
    atomic_store(&b->s->state.committed, committed + 5001); /* apply is behind */
    call_put(b, &c, "k", "v", 0);
    server_submit(b->s, &c.request);
    assert_int_equal(c.outcome, OUTCOME_TOO_MANY_REQUESTS);
    atomic_store(&b->s->state.committed, committed);
    assert_member_lives(b);
}

static void test_full_inbox(void **state)
{
    struct box *b = *state;
    struct call *c = mem_alloc((NODE_INBOX_MAX + 1) * sizeof(*c));

    for (int i = 0; i <= NODE_INBOX_MAX; i++) {
        call_init(&c[i], REQUEST_DELETE_RANGE, BYTES_LIT("\x0a\x01k"));
        server_submit(b->s, &c[i].request);
        assert_int_equal(c[i].outcome,
                         i < NODE_INBOX_MAX ? CALL_WAITS : (int)OUTCOME_TOO_MANY_REQUESTS);
    }
    box_run(b);
    for (int i = 0; i <= NODE_INBOX_MAX; i++) {
        assert_int_equal(c[i].n_finished, 1);
        call_deinit(&c[i]);
    }
    free(c);
    assert_member_lives(b);
}

/* ---- no leader yet ---- */

static struct box *leaderless(void)
{
    struct box *b = box_new(test_dir_new());

    box_open(b);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0); /* the founding entry is not applied */
    assert_int_equal(atomic_load(&b->s->state.leader), 0);
    return b;
}

static void test_held(void **state)
{
    struct box *b = leaderless();
    struct call first, second;

    call_put(b, &first, "a", "", 0);
    call_put(b, &second, "b", "", 0);
    server_submit(b->s, &first.request);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    server_submit(b->s, &second.request);
    b->now_ms += 200; /* a tick, too */
    assert_int_equal(node_turn(b->s->node, b->now_ms), 0);
    assert_int_equal(atomic_load(&b->s->state.leader), 0);
    assert_int_equal(first.outcome, CALL_WAITS);
    box_run(b);
    assert_int_equal(first.outcome, OUTCOME_OK);
    assert_int_equal(second.outcome, OUTCOME_OK);
    assert_response(&first, b, 2); /* in the order in which they came */
    assert_response(&second, b, 3);
    assert_int_equal(first.n_finished + second.n_finished, 2);
    box_free(b);
}

/* Whose request is gone is not proposed any more: before a tick, and after one. */
static void test_held_and_gone(void **state)
{
    for (int ticks = 0; ticks < 2; ticks++) {
        struct box *b = leaderless();
        struct call late, away, read;

        call_put(b, &late, "a", "", 0);
        call_put(b, &away, "b", "", 0);
        call_init(&read, REQUEST_READ_INDEX, BYTES_NULL);
        server_submit(b->s, &late.request);
        server_submit(b->s, &away.request);
        server_read_index(b->s, &read.request);
        assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
        assert_true(server_cancel(b->s, &away.request));
        assert_false(server_cancel(b->s, &away.request));
        box_time_out(b);
        assert_int_equal(late.outcome, OUTCOME_TIMEOUT);
        assert_int_equal(read.outcome, OUTCOME_TIMEOUT);
        b->now_ms += 1000 * (uint64_t)ticks;
        assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
        box_run(b);
        assert_int_equal(atomic_load(&b->s->state.applied), 2);
        assert_int_equal(mvcc_revision(b->s->store.mvcc), 1);
        assert_int_equal(away.outcome, CALL_WAITS);
        assert_int_equal(late.n_finished + read.n_finished, 2);
        box_free(b);
    }
}

/* Proposed, then timed out: applied all the same, and its result is dropped. */
static void test_result_without_waiter(void **state)
{
    struct box *b = *state;
    struct call c;

    call_put(b, &c, "k", box_large_value(), 0);
    server_submit(b->s, &c.request);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    box_time_out(b);
    box_run(b);
    assert_int_equal(c.n_finished, 1);
    assert_int_equal(c.outcome, OUTCOME_TIMEOUT);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 2);
    assert_int_equal(c.request.response.len, 0);
}

/* ---- linearizable reads ---- */

static void test_read_index(void **state)
{
    struct box *b = leaderless();
    struct call early, now;

    call_init(&early, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(b->s, &early.request);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(early.outcome, CALL_WAITS);
    box_run(b);
    assert_int_equal(early.outcome, OUTCOME_LEADER_CHANGED); /* as in etcd: asked before it led */
    call_init(&now, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(b->s, &now.request);
    assert_int_equal(now.outcome, OUTCOME_OK); /* the only member's own state will do */
    box_free(b);
}

/* After a restart: a leader with a committed entry of its term, which has not applied it. */
static void test_read_waits_for_replay(void **state)
{
    struct box *b = *state;
    struct call read;

    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    box_close(b);
    box_open(b);
    assert_int_equal(atomic_load(&b->s->state.applied), 0);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0); /* now it leads */
    assert_int_equal(atomic_load(&b->s->state.leader), b->s->state.member_id);
    assert_true(atomic_load(&b->s->state.applied) < atomic_load(&b->s->state.committed));
    call_init(&read, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(b->s, &read.request);
    assert_int_equal(read.outcome, CALL_WAITS);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_int_equal(read.outcome, CALL_WAITS);
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(read.outcome, OUTCOME_OK);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 2);
}

/* Raft hands entries out in portions, so a read index may come before what it asks for. */
static void test_read_ahead_of_entries(void **state)
{
    struct box *b = *state;
    struct call reads[2];

    for (uint64_t i = 0; i < 2; i++) {
        call_init(&reads[i], REQUEST_READ_INDEX, BYTES_NULL);
        reads[i].request.id = 100 + i;
        assert_true(wait_add(&b->s->wait, &reads[i].request));
        apply_reads(b->s->apply, 3 + i, &reads[i].request.id, 1);
    }
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(reads[0].outcome, CALL_WAITS);
    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    assert_int_equal(reads[0].outcome, OUTCOME_OK);
    assert_int_equal(reads[1].outcome, CALL_WAITS);
    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    assert_int_equal(reads[1].outcome, OUTCOME_OK);
}

/* ---- stop and replay ---- */

static void test_drain(void **state)
{
    struct box *b = *state;
    struct call waits, late, late_read, compaction;

    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    call_compact(b, &compaction, 2, true);
    server_submit(b->s, &compaction.request);
    box_run(b);
    assert_int_equal(compaction.outcome, CALL_WAITS); /* nobody deletes here */
    call_put(b, &waits, "k", "v", 0);
    server_submit(b->s, &waits.request);
    server_drain(b->s);
    assert_int_equal(waits.outcome, OUTCOME_STOPPED);
    assert_int_equal(compaction.outcome, OUTCOME_STOPPED);
    call_put(b, &late, "k", "v", 0);
    server_submit(b->s, &late.request);
    assert_int_equal(late.outcome, OUTCOME_STOPPED);
    atomic_store(&b->s->state.local_reads, false);
    call_init(&late_read, REQUEST_READ_INDEX, BYTES_NULL);
    server_read_index(b->s, &late_read.request);
    assert_int_equal(late_read.outcome, OUTCOME_STOPPED);
    call_deinit(&compaction);
}

/* A request that the apply worker took just before the drain ends after it. */
static void test_drain_behind_apply(void **state)
{
    struct box *b = *state;
    struct call c;

    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    housekeeper_drain(b->s->housekeeper);
    call_compact(b, &c, 2, true);
    assert_int_equal(call_run(b, &c), OUTCOME_STOPPED);
}

static void test_replay(void **state)
{
    struct box *b = *state;
    struct call c;

    call_grant(b, &c, 5, 60);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    for (int i = 0; i < 200; i++) {
        call_put(b, &c, i % 3 ? "a" : "b", "value", i % 5 ? 0 : 5);
        assert_int_equal(call_run(b, &c), OUTCOME_OK);
    }
    call_compact(b, &c, 100, false);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    for (int round = 0; round < 3; round++) {
        char *before = box_text(b);
        uint64_t applied = atomic_load(&b->s->state.applied);
        box_close(b);
        box_open(b);
        box_run(b);
        char *after = box_text(b);
        assert_string_equal(after, before);
        assert_int_equal(atomic_load(&b->s->state.applied),
                         applied + 1); /* and a new leader's entry */
        free(before);
        free(after);
    }
    assert_member_lives(b);
}

/* ---- what entries do ---- */

static void test_leases(void **state)
{
    struct box *b = *state;
    struct call c;

    call_grant(b, &c, 5, 1);
    server_submit(b->s, &c.request);
    box_run(b);
    Etcdserverpb__LeaseGrantResponse *r = etcdserverpb__lease_grant_response__unpack(
        NULL, c.request.response.len, c.request.response.data);
    assert_int_equal(r->id, 5);
    assert_int_equal(r->ttl, 2); /* the minimum of one and a half election timeouts */
    assert_int_equal(r->header->revision, 1);
    etcdserverpb__lease_grant_response__free_unpacked(r, NULL);
    call_deinit(&c);
    call_grant(b, &c, 5, 60);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_EXISTS);
    call_grant(b, &c, 6, 9000000001);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_TTL_TOO_LARGE);
    call_grant(b, &c, 0, 1);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_NOT_FOUND);
    call_revoke(b, &c, 7);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_NOT_FOUND);
    const char *keys[] = {"z", "a", "m"};
    struct call puts[3];
    for (int i = 0; i < 3; i++) {
        call_put(b, &puts[i], keys[i], "", 5);
        server_submit(b->s, &puts[i].request);
    }
    call_revoke(b, &c, 5);
    server_submit(b->s, &c.request); /* in the same turn as the keys that it takes along */
    box_run(b);
    assert_response(&c, b, 5);
    for (int i = 0; i < 3; i++)
        call_deinit(&puts[i]);
    struct mvcc_range_result result;
    struct mvcc_range_options all = {.interval = interval_parse(BYTES_LIT("a"), BYTES_LIT("\0")),
                                     .count_only = true};
    assert_int_equal(mvcc_range(b->s->store.mvcc, &all, NULL, NULL, &result), 0);
    assert_int_equal(result.count, 0);
    assert_int_equal(result.current, 5); /* three keys, one revision */
    call_revoke(b, &c, 5);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_NOT_FOUND);
}

/* raft leaves an empty entry where it refuses a change of members. */
static void test_empty_entry(void **state)
{
    struct box *b = *state;
    struct lease_info before, after;
    struct call c;

    call_grant(b, &c, 5, 60);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    assert_int_equal(lease_get(b->s->store.leases, 5, &before), 0);
    assert_true(before.expiry_ns != LEASE_NEVER);
    assert_true(node_propose(b->s->node, 0,
                             (struct raft_entry){.type = RAFT_ENTRY_NORMAL, .data = blob_new(0)}));
    box_run(b);
    assert_int_equal(box_stored_applied(b).index, 4);
    assert_int_equal(lease_get(b->s->store.leases, 5, &after), 0);
    assert_true(after.expiry_ns == before.expiry_ns);
}

static void test_compaction(void **state)
{
    struct box *b = *state;
    struct call c;

    assert_int_equal(box_put(b, "k", "1"), OUTCOME_OK);
    assert_int_equal(box_put(b, "k", "2"), OUTCOME_OK);
    call_compact(b, &c, -1, false);
    assert_int_equal(call_run(b, &c), OUTCOME_COMPACTED);
    call_compact(b, &c, 4, false);
    assert_int_equal(call_run(b, &c), OUTCOME_FUTURE_REVISION);
    call_compact(b, &c, 0, false); /* never compacted: succeeds, once */
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    call_compact(b, &c, 0, false);
    assert_int_equal(call_run(b, &c), OUTCOME_COMPACTED);
    call_compact(b, &c, 3, false);
    server_submit(b->s, &c.request);
    box_run(b);
    assert_response(&c, b, 3);
    call_compact(b, &c, 3, false);
    assert_int_equal(call_run(b, &c), OUTCOME_COMPACTED);
    assert_member_lives(b);
}

/* Refused entries advance the applied index too. */
static void test_refused_entries_count(void **state)
{
    struct box *b = *state;
    struct call c;

    call_put(b, &c, "k", "v", 99);
    assert_int_equal(call_run(b, &c), OUTCOME_LEASE_NOT_FOUND);
    assert_int_equal(atomic_load(&b->s->state.applied), 3);
    assert_int_equal(box_stored_applied(b).index, 3);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 1);
}

/* ---- what can't be applied stops the member ---- */

static void test_unknown_entries(void **state)
{
    static const struct {
        enum raft_entry_type type;
        struct bytes data;
    } cases[] = {
        {RAFT_ENTRY_NORMAL, BYTES_LIT("\xff\xff")},
        {RAFT_ENTRY_NORMAL, BYTES_LIT("\xa2\x06\x02\x08\x05")}, /* a header alone */
        {RAFT_ENTRY_NORMAL, BYTES_LIT("\x12\x00")},             /* the old request */
        {RAFT_ENTRY_CONF_CHANGE, BYTES_LIT("\xff")},
        {RAFT_ENTRY_CONF_CHANGE, BYTES_LIT("\x10\x11\x18\x07")}, /* of an unknown kind */
        {RAFT_ENTRY_CONF_CHANGE, BYTES_LIT("\x10\x00\x18\x07")}, /* adds one, without a word */
        {RAFT_ENTRY_CONF_CHANGE_V2, BYTES_LIT("")},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct box *b = box_start();
        struct raft_entry entry = {
            .term = 2, .index = 3, .type = cases[i].type, .data = blob_copy(cases[i].data)};
        apply_push_entries(b->s->apply, &entry, 1);
        blob_unref(entry.data);
        assert_true(apply_turn(b->s->apply) < 0);
        assert_int_equal(box_stored_applied(b).index, 2);
        box_free(b);
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_new_member),
        T(test_put_now),
        T(test_put),
        T(test_entries_of_one_turn),
        T(test_long_turn),
        T(test_full_apply),
        T(test_refused_early),
        T(test_full_inbox),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_held_and_gone),
        T(test_result_without_waiter),
        cmocka_unit_test(test_read_index),
        T(test_read_waits_for_replay),
        T(test_read_ahead_of_entries),
        T(test_drain),
        T(test_drain_behind_apply),
        T(test_replay),
        T(test_leases),
        T(test_empty_entry),
        T(test_compaction),
        T(test_refused_entries_count),
        cmocka_unit_test(test_unknown_entries),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
