/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lessor of a member alone, turn by turn and by the test's clock: expiry, keep-alives, the time
 * left, checkpoints, what waits for what, and the bounds.
 */
#include "server/test_lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/log.h"
#include "server/lease_ask_private.h"
#include "storage/db_mem.h"

enum { TICK = 100, MANY = 10000 };

static void later(uint64_t ms)
{
    test_now_ns += ms * 1000000;
}

static int setup(void **state)
{
    *state = box_start();
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    db_mem_forget();
    return 0;
}

/* The raft worker ticks, so it is not stuck; then the ticker. */
static void tick_begin(struct box *b)
{
    later(TICK);
    b->now_ms += TICK;
    box_run(b);
    lease_tick(b->s);
}

static void tick(struct box *b)
{
    tick_begin(b);
    box_run(b);
}

static void ticks(struct box *b, uint64_t ms)
{
    for (uint64_t i = 0; i < ms; i += TICK)
        tick(b);
}

static void grant(struct box *b, int64_t id, int64_t ttl_s)
{
    struct call c;

    call_grant(b, &c, id, ttl_s);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
}

static void put(struct box *b, const char *key, int64_t lease)
{
    struct call c;

    call_put(b, &c, key, "v", lease);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
}

static int revoke_lease(struct box *b, int64_t id)
{
    struct call c;

    call_revoke(b, &c, id);
    return call_run(b, &c);
}

static void renewed(struct box *b, int64_t id, int64_t ttl_s)
{
    struct renewal x;

    renew_begin(b->s, &x, id);
    assert_int_equal(x.n_finished, 1);
    assert_int_equal(x.outcome, OUTCOME_OK);
    assert_int_equal(x.ttl_s, ttl_s);
}

static void left_is(struct box *b, int64_t id, const char *want)
{
    struct call c;

    left_begin(b->s, &c, id, false);
    char *text = left_text(&c);
    assert_string_equal(text, want);
    free(text);
}

/* ---- expiry ---- */

struct deletions {
    char text[64];
    int64_t revision;
};

static int note_deletion(void *arg, struct rev rev, enum schema_kind kind, struct bytes key)
{
    struct deletions *d = arg;

    assert_int_equal(kind, SCHEMA_DELETE);
    assert_int_equal(rev.main, d->revision);
    snprintf(d->text + strlen(d->text), sizeof(d->text) - strlen(d->text), "%.*s:%u ", (int)key.len,
             (const char *)key.data, rev.sub);
    return 0;
}

static void test_expiry(void **state)
{
    struct box *b = *state;
    struct deletions d = {""};
    int64_t next;

    grant(b, 7, 10);
    put(b, "b", 7);
    put(b, "c", 7);
    put(b, "a", 7);
    put(b, "other", 0);
    ticks(b, 9900);
    assert_true(lease_is_there(b->s, 7) && key_is_there(b->s, "a"));
    ticks(b, 200);
    assert_false(lease_is_there(b->s, 7));
    assert_false(key_is_there(b->s, "a"));
    assert_true(key_is_there(b->s, "other"));
    d.revision = mvcc_revision(b->s->store.mvcc);
    struct mvcc_history_options all = {d.revision, d.revision, 100};
    assert_int_equal(mvcc_history(b->s->store.mvcc, &all, note_deletion, &d, &next), 0);
    assert_string_equal(d.text, "a:0 b:1 c:2 "); /* in key order, in one revision */
}

static void test_keep_alive(void **state)
{
    struct box *b = *state;

    grant(b, 7, 2);
    for (int i = 0; i < 20; i++) {
        ticks(b, 1900);
        renewed(b, 7, 2);
    }
    assert_true(lease_is_there(b->s, 7));
    renewed(b, 8, 0); /* there is none: no error */
    ticks(b, 2100);
    assert_false(lease_is_there(b->s, 7));
    renewed(b, 7, 0);
}

static void test_revoked_twice(void **state)
{
    struct box *b = *state;

    grant(b, 7, 10);
    assert_int_equal(revoke_lease(b, 7), OUTCOME_OK);
    assert_int_equal(revoke_lease(b, 7), OUTCOME_LEASE_NOT_FOUND);
    ticks(b, 11000);
}

/* Keys that change hands in the same turn in which their leases end. */
static void test_revoked_in_one_turn(void **state)
{
    struct box *b = *state;
    struct call calls[6];
    unsigned n = 0;

    grant(b, 7, 10);
    grant(b, 8, 10);
    put(b, "stays", 7);
    put(b, "goes", 8);
    call_put(b, &calls[n++], "new", "v", 7);
    call_put(b, &calls[n++], "stays", "v", 0);
    call_put(b, &calls[n++], "goes", "v", 7);
    call_put(b, &calls[n++], "later", "v", 8);
    call_revoke(b, &calls[n++], 7);
    call_revoke(b, &calls[n++], 8);
    for (unsigned i = 0; i < n; i++)
        server_submit(b->s, &calls[i].request);
    box_run(b);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(calls[i].outcome, OUTCOME_OK);
        call_deinit(&calls[i]);
    }
    assert_true(key_is_there(b->s, "stays"));
    assert_false(key_is_there(b->s, "new") || key_is_there(b->s, "goes"));
    assert_false(key_is_there(b->s, "later"));
}

/* A keep-alive that comes between the end of a lease and its revocation waits for that, and means
 * no later lease of that id. */
static void test_late_keep_alive(void **state)
{
    struct box *b = *state;
    struct renewal x;
    struct call c;

    grant(b, 7, 10);
    later(10000);
    renew_begin(b->s, &x, 7);
    assert_int_equal(x.n_finished, 0);
    lease_tick(b->s); /* proposes, and looks again */
    assert_int_equal(x.n_finished, 0);
    call_grant(b, &c, 7, 10);
    server_submit(b->s, &c.request);
    box_run(b);
    assert_int_equal(c.outcome, OUTCOME_OK); /* behind the revocation */
    call_deinit(&c);
    lease_tick(b->s);
    assert_int_equal(x.n_finished, 1);
    assert_int_equal(x.outcome, OUTCOME_OK);
    assert_int_equal(x.ttl_s, 0);
    renewed(b, 7, 10);
}

/* Ten thousand leases end together: never more proposals under way than etcd's, all gone two
 * seconds later. */
static void test_many(void **state)
{
    struct box *b = *state;
    size_t most = 0, pending;

    for (int64_t id = 1; id <= MANY; id += 100) {
        struct call calls[100];
        for (int k = 0; k < 100; k++) {
            call_grant(b, &calls[k], id + k, 30);
            server_submit(b->s, &calls[k].request);
        }
        box_run(b);
        for (int k = 0; k < 100; k++)
            call_deinit(&calls[k]);
        arena_reset(&b->arena);
    }
    later(29900);
    lease_tick(b->s);
    assert_true(lease_is_there(b->s, 1) && lease_is_there(b->s, MANY));
    for (int i = 0; i < 21; i++) {
        later(TICK);
        lease_tick(b->s);
        while ((pending = wait_proposals(&b->s->wait)) > 0) {
            most = pending > most ? pending : most;
            assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
            assert_int_equal(apply_turn(b->s->apply), 0);
        }
    }
    assert_int_equal(most, 16);
    for (int64_t id = 1; id <= MANY; id++)
        assert_false(lease_is_there(b->s, id));
}

/* While apply is far behind nothing new is taken; what was found is not lost. */
static void test_apply_behind(void **state)
{
    struct box *b = *state;
    uint64_t committed = atomic_load(&b->s->state.committed);

    grant(b, 7, 10);
    grant(b, 8, 10);
    later(10000);
    atomic_store(&b->s->state.committed, committed + 100000);
    lease_tick(b->s);
    assert_int_equal(wait_proposals(&b->s->wait), 0);
    lease_tick(b->s);
    atomic_store(&b->s->state.committed, committed);
    lease_tick(b->s); /* at once, not when it is found again */
    assert_int_equal(wait_proposals(&b->s->wait), 2);
    box_run(b);
    assert_false(lease_is_there(b->s, 7) || lease_is_there(b->s, 8));
}

/* A proposal that came to nothing is made again after the request time-out. */
static void test_revoked_again(void **state)
{
    struct box *b = *state;

    grant(b, 7, 10);
    later(10000);
    lease_tick(b->s);
    box_time_out(b); /* before it is applied */
    lease_tick(b->s);
    assert_int_equal(wait_proposals(&b->s->wait), 0);
    later(b->s->state.request_timeout_ms);
    lease_tick(b->s);
    assert_int_equal(wait_proposals(&b->s->wait), 1);
    box_run(b); /* both: the second finds nothing, and that is no error */
    assert_false(lease_is_there(b->s, 7));
    ticks(b, 1000);
}

/* After a restart a lease has its whole time again; nothing is lost. */
static void test_restart(void **state)
{
    struct box *b = *state;

    grant(b, 7, 10);
    put(b, "a", 7);
    ticks(b, 5000);
    assert_int_equal(db_flush(b->s->store.db), 0);
    box_close(b);
    later(60000);
    box_open(b);
    box_run(b);
    assert_true(lease_is_there(b->s, 7));
    left_is(b, 7, "11/10"); /* and an election timeout, as from any new leader */
    ticks(b, 10900);
    assert_true(key_is_there(b->s, "a"));
    ticks(b, 200);
    assert_false(key_is_there(b->s, "a"));
}

/* ---- the time left ---- */

static void test_time_left(void **state)
{
    struct box *b = *state;
    struct call c;

    grant(b, 7, 10);
    left_is(b, 7, "10/10");
    later(1);
    left_is(b, 7, "9/10");
    later(8999);
    left_is(b, 7, "1/10");
    later(2000);
    left_is(b, 7, "-1/10"); /* as etcd: over, and not revoked yet */
    left_is(b, 8, "-1/0");
    put(b, "b", 7);
    put(b, "a", 7);
    assert_int_equal(scan_start(&b->s->scan), 0);
    left_begin(b->s, &c, 7, true);
    scan_stop(&b->s->scan);
    char *text = left_text(&c);
    assert_string_equal(text, "-1/10 a b");
    free(text);
    left_begin(b->s, &c, 7, true); /* the scan threads take no more */
    assert_int_equal(c.outcome, OUTCOME_TOO_MANY_REQUESTS);
}

/* What is committed and not applied yet may be about that very lease. */
static void test_waits_for_apply(void **state)
{
    struct box *b = *state;
    struct call grant_call, left, late;
    struct renewal x;

    call_grant(b, &grant_call, 7, 10);
    server_submit(b->s, &grant_call.request);
    for (int i = 0; i < 3; i++)
        assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    assert_true(atomic_load(&b->s->state.committed) > atomic_load(&b->s->state.applied));
    left_begin(b->s, &left, 7, false);
    renew_begin(b->s, &x, 7);
    assert_int_equal(left.outcome, CALL_WAITS);
    assert_int_equal(x.outcome, CALL_WAITS);
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(left.outcome, OUTCOME_OK); /* at once, without a tick */
    assert_int_equal(x.ttl_s, 10);
    call_deinit(&left);
    call_deinit(&grant_call);
    atomic_fetch_add(&b->s->state.committed, 1); /* an entry that takes long */
    left_begin(b->s, &late, 7, false);
    renewed(b, 7, 10); /* it is there: it waits for nothing */
    later(900);
    lease_tick(b->s);
    assert_int_equal(late.outcome, CALL_WAITS);
    later(100);
    lease_tick(b->s);
    assert_int_equal(late.outcome, OUTCOME_TIMEOUT_WAIT_APPLIED);
    atomic_fetch_sub(&b->s->state.committed, 1);
}

/* ---- ends ---- */

static void test_taken_back(void **state)
{
    struct box *b = *state;
    struct renewal x;
    struct call c;

    grant(b, 7, 10);
    later(10000);
    renew_begin(b->s, &x, 7);
    assert_true(server_lease_renew_cancel(b->s, &x.r));
    assert_false(server_lease_renew_cancel(b->s, &x.r));
    atomic_fetch_add(&b->s->state.committed, 1);
    left_begin(b->s, &c, 7, false);
    assert_true(server_cancel(b->s, &c.request));
    atomic_fetch_sub(&b->s->state.committed, 1);
    assert_int_equal(atomic_load(&b->s->lease_asks->n), 2);
    tick(b);
    assert_int_equal(atomic_load(&b->s->lease_asks->n), 0);
    assert_int_equal(x.n_finished + c.n_finished, 0);
}

static void test_stop(void **state)
{
    struct box *b = *state;
    struct renewal x, after;

    grant(b, 7, 10);
    later(10000);
    renew_begin(b->s, &x, 7);
    lease_tick(b->s);
    server_drain(b->s);
    assert_int_equal(x.n_finished, 1);
    assert_int_equal(x.outcome, OUTCOME_STOPPED);
    renew_begin(b->s, &after, 7);
    assert_int_equal(after.outcome, OUTCOME_STOPPED);
    lease_tick(b->s);
}

static void test_bounds(void **state)
{
    struct box *b = *state;
    struct renewal *many = mem_alloc((LEASE_ASKS_MAX + 1) * sizeof(*many));

    grant(b, 7, 10);
    later(10000);
    for (int i = 0; i < LEASE_ASKS_MAX; i++) {
        renew_begin(b->s, &many[i], 7);
        assert_int_equal(many[i].n_finished, 0);
    }
    renew_begin(b->s, &many[LEASE_ASKS_MAX], 7);
    assert_int_equal(many[LEASE_ASKS_MAX].outcome, OUTCOME_TOO_MANY_REQUESTS);
    tick(b);
    tick(b);
    for (int i = 0; i < LEASE_ASKS_MAX; i++)
        assert_true(many[i].n_finished == 1 && many[i].outcome == OUTCOME_OK);
    free(many);
}

/* ---- checkpoints ---- */

static int64_t remaining(struct box *b, int64_t id)
{
    struct lease_info info;

    assert_int_equal(lease_get(b->s->store.leases, id, &info), 0);
    return info.remaining_s;
}

static void test_no_checkpoints(void **state)
{
    struct box *b = *state;
    uint64_t applied;

    grant(b, 7, 1000);
    applied = atomic_load(&b->s->state.applied);
    later(400000);
    ticks(b, 1000);
    assert_int_equal(atomic_load(&b->s->state.applied), applied);
}

static int setup_checkpoints(void **state)
{
    struct box *b = box_new(test_dir_new());

    box_config(b,
               "--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true,"
               "FastLeaseKeepAlive=false",
               NULL);
    box_open(b);
    box_run(b);
    *state = b;
    return 0;
}

static void test_checkpoints(void **state)
{
    struct box *b = *state;
    struct renewal x;

    grant(b, 7, 1000);
    grant(b, 8, 20);
    ticks(b, 1000);
    later(299000);
    assert_int_equal(remaining(b, 7), 0);
    tick(b);
    assert_int_equal(remaining(b, 7), 700);
    left_is(b, 7, "699/1000"); /* here nothing has changed */
    assert_int_equal(db_flush(b->s->store.db), 0);
    box_close(b);
    box_open(b);
    box_run(b);
    left_is(b, 7, "701/1000"); /* the next leader goes on from there */
    renew_begin(b->s, &x, 7);
    assert_int_equal(x.n_finished, 0); /* the checkpoint goes first */
    box_run(b);
    assert_int_equal(x.ttl_s, 1000);
    assert_int_equal(remaining(b, 7), 0);
    left_is(b, 7, "1001/1000"); /* from when no leader before it may have promised more */
}

/* As long as a checkpoint can't be taken away, nothing is renewed that the next leader would not
 * know of. */
static void test_checkpoint_stays(void **state)
{
    struct box *b = *state;
    uint64_t committed;
    struct renewal x;
    struct call c;

    grant(b, 7, 1000);
    call_init(&c, REQUEST_LEASE_CHECKPOINT, BYTES_LIT("\x0a\4\x08\7\x10\x64")); /* of another */
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
    assert_int_equal(remaining(b, 7), 100);
    committed = atomic_load(&b->s->state.committed);
    atomic_store(&b->s->state.committed, committed + 100000);
    renew_begin(b->s, &x, 7);
    assert_int_equal(wait_proposals(&b->s->wait), 0); /* apply is too far behind */
    assert_int_equal(x.n_finished, 0);
    atomic_store(&b->s->state.committed, committed);
    tick(b);
    assert_int_equal(x.ttl_s, 1000);
    assert_int_equal(remaining(b, 7), 0);
}

/* A keep-alive that meets a checkpoint on its way is answered when both have gone their way. */
static void test_overtaken_checkpoint(void **state)
{
    struct box *b = *state;
    struct renewal x;

    grant(b, 7, 1000);
    ticks(b, 1000);
    later(299000);
    tick_begin(b);
    renew_begin(b->s, &x, 7);
    box_run(b);
    assert_int_equal(x.n_finished, 0);
    assert_int_equal(remaining(b, 7), 700);
    tick(b);
    assert_int_equal(x.ttl_s, 1000);
    assert_int_equal(remaining(b, 7), 0);
    renewed(b, 7, 1000);
}

static void propose_checkpoint(struct box *b)
{
    grant(b, 7, 1000);
    ticks(b, 1000);
    later(299000);
    tick_begin(b);
    later(b->s->state.request_timeout_ms);
}

static void expect_renewed(struct box *b, const struct renewal *x)
{
    assert_int_equal(x->n_finished, 0);
    tick(b);
    assert_int_equal(x->ttl_s, 1000);
    assert_int_equal(remaining(b, 7), 0);
}

/* One that has timed out is applied nevertheless, and so is what is proposed for it then. */
static void test_uncertain_checkpoint(void **state)
{
    struct box *b = *state;
    struct renewal x;
    uint64_t applied;

    propose_checkpoint(b);
    lease_tick(b->s);
    box_run(b);
    applied = atomic_load(&b->s->state.applied);
    assert_int_equal(remaining(b, 7), 700);
    renew_begin(b->s, &x, 7);
    assert_int_equal(x.n_finished, 0);
    tick(b);
    assert_int_equal(atomic_load(&b->s->state.applied), applied + 1);
    expect_renewed(b, &x);
}

/* The second proposal of one that has timed out is refused, while the first waits for apply. */
static void test_refused_again_checkpoint(void **state)
{
    struct box *b = *state;
    struct renewal x;

    propose_checkpoint(b);
    assert_int_equal(node_turn(b->s->node, b->now_ms += TICK), 0);
    atomic_fetch_add(&b->s->state.committed, 100000);
    lease_tick(b->s);
    atomic_fetch_sub(&b->s->state.committed, 100000);
    renew_begin(b->s, &x, 7);
    assert_int_equal(x.n_finished, 0);
    box_run(b);
    assert_int_equal(remaining(b, 7), 700);
    tick(b);
    expect_renewed(b, &x);
}

/* Without FastLeaseKeepAlive a keep-alive waits for what is committed. */
static void test_slow_keep_alive(void **state)
{
    struct box *b = *state;
    struct renewal x;

    grant(b, 7, 10);
    renewed(b, 7, 10);
    atomic_fetch_add(&b->s->state.committed, 1);
    renew_begin(b->s, &x, 7);
    assert_int_equal(x.n_finished, 0);
    later(LEASE_APPLIED_WAIT_MS);
    lease_tick(b->s);
    assert_int_equal(x.outcome, OUTCOME_TIMEOUT_WAIT_APPLIED);
    atomic_fetch_sub(&b->s->state.committed, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define T_GATES(f) cmocka_unit_test_setup_teardown(f, setup_checkpoints, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_expiry),
        T(test_keep_alive),
        T(test_revoked_twice),
        T(test_revoked_in_one_turn),
        T(test_late_keep_alive),
        T(test_many),
        T(test_apply_behind),
        T(test_revoked_again),
        T(test_restart),
        T(test_time_left),
        T(test_waits_for_apply),
        T(test_taken_back),
        T(test_stop),
        T(test_bounds),
        T(test_no_checkpoints),
        T(test_checkpoint_stays),
        T_GATES(test_checkpoints),
        T_GATES(test_overtaken_checkpoint),
        T_GATES(test_uncertain_checkpoint),
        T_GATES(test_refused_again_checkpoint),
        T_GATES(test_slow_keep_alive),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
