/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quota and the alarms: which entries an alarm refuses, with which error; that the quota, when
 * an entry is applied, changes the answer and never the effect; and when that answer comes.
 */
#include "server/quota.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "server/test_box.h"

#define OP_CASE(x) ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_##x
#define NOSPACE ETCDSERVERPB__ALARM_TYPE__NOSPACE
#define CORRUPT ETCDSERVERPB__ALARM_TYPE__CORRUPT

enum { SMALL_QUOTA_BYTES = 200 }; /* a lease fits, a key does not */

static struct box *start(int64_t quota)
{
    struct box *b = box_new(test_dir_new());

    b->config.quota_backend_bytes = quota;
    box_open(b);
    box_run(b);
    return b;
}

static int setup(void **state)
{
    *state = start(0);
    return 0;
}

static int setup_small(void **state)
{
    *state = start(SMALL_QUOTA_BYTES);
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    return 0;
}

/* ---- requests ---- */

static void make_put(struct box *b, struct call *c)
{
    call_put(b, c, "k", "v", 0);
}

static void make_put_without_lease(struct box *b, struct call *c)
{
    call_put(b, c, "k", "v", 99);
}

static void make_grant(struct box *b, struct call *c)
{
    call_grant(b, c, 5, 60);
}

static void make_revoke(struct box *b, struct call *c)
{
    call_revoke(b, c, 5);
}

static void make_delete(struct box *b, struct call *c)
{
    call_delete(b, c, "a", "z");
}

static void make_compaction(struct box *b, struct call *c)
{
    call_compact(b, c, mvcc_revision(b->s->store.mvcc), false);
}

static void make_alarm_list(struct box *b, struct call *c)
{
    call_init(c, REQUEST_ALARM, BYTES_NULL);
}

static void make_version(struct box *b, struct call *c)
{
    call_init(c, REQUEST_CLUSTER_VERSION_SET,
              BYTES_LIT("\x0a\x05"
                        "3.7.0"));
}

/* One operation in the branch that is not taken: no compare fails. */
static void make_txn(struct box *b, struct call *c, Etcdserverpb__RequestOp *op)
{
    Etcdserverpb__TxnRequest t = ETCDSERVERPB__TXN_REQUEST__INIT;

    t.failure = &op;
    t.n_failure = 1;
    call_init(c, REQUEST_TXN, PACK(b, etcdserverpb__txn_request, &t));
}

static void make_txn_put(struct box *b, struct call *c)
{
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__RequestOp op = {
        .base = PROTOBUF_C_MESSAGE_INIT(&etcdserverpb__request_op__descriptor),
        .request_case = OP_CASE(PUT),
        .request_put = &put};

    make_txn(b, c, &op);
}

static void make_txn_nested_put(struct box *b, struct call *c)
{
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__RequestOp inner = ETCDSERVERPB__REQUEST_OP__INIT, outer = inner, *ops = &inner;
    Etcdserverpb__TxnRequest nested = ETCDSERVERPB__TXN_REQUEST__INIT;

    inner.request_case = OP_CASE(PUT);
    inner.request_put = &put;
    nested.success = &ops;
    nested.n_success = 1;
    outer.request_case = OP_CASE(TXN);
    outer.request_txn = &nested;
    make_txn(b, c, &outer);
}

static void make_txn_delete(struct box *b, struct call *c)
{
    Etcdserverpb__DeleteRangeRequest delete = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT;

    delete.key = pb_of("a");
    op.request_case = OP_CASE(DELETE_RANGE);
    op.request_delete_range = &delete;
    make_txn(b, c, &op);
}

/* ---- alarms ---- */

static const struct {
    const char *name;
    void (*make)(struct box *b, struct call *c);
    bool refused_by_no_space, refused_by_corrupt;
} cases[] = {
    {"put", make_put, true, true},
    {"put without its lease", make_put_without_lease, true, true}, /* the alarm comes first */
    {"lease grant", make_grant, true, true},
    {"transaction with a put", make_txn_put, true, true},
    {"transaction with a put in a transaction", make_txn_nested_put, true, true},
    {"transaction with a deletion", make_txn_delete, false, true},
    {"deletion", make_delete, false, true},
    {"lease revoke", make_revoke, false, true},
    {"compaction", make_compaction, false, true},
    {"alarm list", make_alarm_list, false, false},
    {"cluster version", make_version, false, false},
};

static void assert_case(struct box *b, size_t i, int refusal)
{
    char *before = box_text(b), *after;
    struct call c;

    cases[i].make(b, &c);
    int outcome = call_run(b, &c);
    after = box_text(b);
    if (refusal != OUTCOME_OK ? outcome != refusal || strcmp(before, after) != 0
                              : outcome == OUTCOME_NO_SPACE || outcome == OUTCOME_CORRUPT)
        fail_msg("%s: expected %d, outcome %d", cases[i].name, refusal, outcome);
    free(before);
    free(after);
}

static void assert_refusals(struct box *b, bool no_space, bool corrupt)
{
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_case(b, i,
                    corrupt && cases[i].refused_by_corrupt     ? OUTCOME_CORRUPT
                    : no_space && cases[i].refused_by_no_space ? OUTCOME_NO_SPACE
                                                               : OUTCOME_OK);
}

static void set_alarm(struct box *b, bool active, Etcdserverpb__AlarmType type)
{
    struct call c;

    call_alarm(b, &c, active, type);
    assert_int_equal(call_run(b, &c), OUTCOME_OK);
}

static void test_alarms(void **state)
{
    struct box *b = *state;

    assert_refusals(b, false, false);
    set_alarm(b, true, NOSPACE);
    assert_refusals(b, true, false);
    set_alarm(b, true, CORRUPT); /* the outermost */
    assert_refusals(b, true, true);
    box_close(b);
    box_open(b);
    box_run(b);
    assert_refusals(b, true, true);
    set_alarm(b, false, NOSPACE);
    assert_refusals(b, false, true);
    set_alarm(b, false, CORRUPT);
    assert_refusals(b, false, false);
}

/* ---- before proposing ---- */

static void test_probe(void **state)
{
    struct box *b = *state;

    /* What is used counts from the housekeeper's first tick on. */
    b->config.quota_backend_bytes = 1000;
    assert_false(server_quota_exceeded(b->s, 0));
    assert_false(server_quota_exceeded(b->s, 999));
    assert_true(atomic_load(&b->s->raise_alarm.done));
    assert_true(server_quota_exceeded(b->s, 1000));
    assert_false(atomic_load(&b->s->raise_alarm.done)); /* an alarm will be raised */
    b->config.quota_backend_bytes = 0;
    assert_false(server_quota_exceeded(b->s, (2ull << 30) - 1));
    assert_true(server_quota_exceeded(b->s, 2ull << 30));
    b->config.quota_backend_bytes = -1;
    assert_false(server_quota_exceeded(b->s, UINT64_MAX));
}

static uint64_t cost_of(struct call *c)
{
    Etcdserverpb__InternalRaftRequest q = ETCDSERVERPB__INTERNAL_RAFT_REQUEST__INIT;
    const struct bytes p = c->request.payload;
    uint64_t cost;

    switch (c->request.kind) {
    case REQUEST_PUT: q.put = etcdserverpb__put_request__unpack(NULL, p.len, p.data); break;
    case REQUEST_TXN: q.txn = etcdserverpb__txn_request__unpack(NULL, p.len, p.data); break;
    default: q.lease_grant = etcdserverpb__lease_grant_request__unpack(NULL, p.len, p.data); break;
    }
    cost = quota_cost(&q);
    if (q.put)
        etcdserverpb__put_request__free_unpacked(q.put, NULL);
    if (q.txn)
        etcdserverpb__txn_request__free_unpacked(q.txn, NULL);
    if (q.lease_grant)
        etcdserverpb__lease_grant_request__free_unpacked(q.lease_grant, NULL);
    return cost;
}

/* The dearer branch of a transaction, all the way down. */
static void test_cost(void **state)
{
    static const Etcdserverpb__InternalRaftRequest nothing =
        ETCDSERVERPB__INTERNAL_RAFT_REQUEST__INIT;
    struct box *b = *state;
    struct call c;

    assert_int_equal(quota_cost(&nothing), 0);
    call_put(b, &c, "key", "value", 0);
    assert_int_equal(cost_of(&c), 256 + 3 + 5);
    make_grant(b, &c);
    assert_int_equal(cost_of(&c), 64);
    call_txn(b, &c, "key", "z"); /* a range, and a put of "txn" */
    assert_int_equal(cost_of(&c), 256 + 3 + 3);
    make_txn_nested_put(b, &c);
    assert_int_equal(cost_of(&c), 256);
    make_txn_delete(b, &c);
    assert_int_equal(cost_of(&c), 0);
}

/* ---- when an entry is applied ---- */

static void submit(struct box *b, struct call *c)
{
    server_submit(b->s, &c->request);
    box_run(b);
}

static void assert_waits(struct box *b, struct call *c)
{
    assert_int_equal(c->outcome, CALL_WAITS);
    assert_true(wait_contains(&b->s->wait, c->request.id));
    assert_false(atomic_load(&b->s->raise_alarm.done));
}

static void assert_ended(struct call *c, int outcome)
{
    assert_int_equal(c->outcome, outcome);
    assert_int_equal(c->n_finished, 1);
    call_deinit(c);
}

/* Applied, by either worker; answered behind the alarm, which refuses what comes later. */
static void test_over_quota(void **state)
{
    struct box *b = *state;
    struct call small, large, txn, fits, fails, refused;

    make_grant(b, &fits);
    assert_int_equal(call_run(b, &fits), OUTCOME_OK);
    make_put_without_lease(b, &fails);
    assert_int_equal(call_run(b, &fails), OUTCOME_LEASE_NOT_FOUND);
    assert_true(atomic_load(&b->s->raise_alarm.done)); /* nothing has grown */
    make_put(b, &small);
    submit(b, &small);
    assert_waits(b, &small);
    call_put(b, &large, "l", box_large_value(), 0);
    submit(b, &large);
    assert_waits(b, &large);
    call_txn(b, &txn, "t", "u");
    submit(b, &txn);
    assert_waits(b, &txn);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 4);
    set_alarm(b, true, NOSPACE);
    assert_ended(&small, OUTCOME_NO_SPACE);
    assert_ended(&large, OUTCOME_NO_SPACE);
    assert_ended(&txn, OUTCOME_NO_SPACE);
    make_put(b, &refused);
    submit(b, &refused);
    assert_ended(&refused, OUTCOME_NO_SPACE);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 4);
}

static struct server *own_alarm_server;

/* What the server does when its own proposal of the alarm ends. */
static void finish_own_alarm(struct request *request, enum outcome outcome)
{
    call_finish(request, outcome);
    atomic_store(&own_alarm_server->raise_alarm.done, true);
}

/* All in one turn: what is over before the alarm, the alarm, its end, what is over behind it. */
static void test_over_quota_again(void **state)
{
    struct box *b = *state;
    struct call before, on, off, behind;

    make_put(b, &before);
    call_alarm(b, &on, true, NOSPACE);
    own_alarm_server = b->s;
    on.request.finish = finish_own_alarm;
    call_alarm(b, &off, false, NOSPACE);
    make_put(b, &behind);
    server_submit(b->s, &before.request);
    server_submit(b->s, &on.request);
    server_submit(b->s, &off.request);
    submit(b, &behind);
    assert_waits(b, &behind); /* a new alarm is due */
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 3);
    call_deinit(&on);
    call_deinit(&off);
    set_alarm(b, true, NOSPACE);
    assert_ended(&before, OUTCOME_NO_SPACE);
    assert_ended(&behind, OUTCOME_NO_SPACE);
}

/* etcd raises its own alarm whatever others do. */
static void test_alarm_of_another_member(void **state)
{
    struct box *b = *state;
    struct call c, other;

    make_put(b, &c);
    submit(b, &c);
    call_init(&other, REQUEST_ALARM, BYTES_LIT("\x08\x01\x10\x07\x18\x01"));
    assert_int_equal(call_run(b, &other), OUTCOME_OK);
    assert_true(alarms_no_space(b->s->store.alarms));
    assert_waits(b, &c);
    set_alarm(b, true, CORRUPT);
    assert_waits(b, &c);
    set_alarm(b, false, NOSPACE);
    assert_waits(b, &c);
    set_alarm(b, true, NOSPACE);
    assert_ended(&c, OUTCOME_NO_SPACE);
}

/* While it waits for the alarm a request ends as any other. */
static void test_ends_before_the_alarm(void **state)
{
    struct box *b = *state;
    struct call late, away, stopped;

    make_put(b, &late);
    submit(b, &late);
    box_time_out(b);
    assert_ended(&late, OUTCOME_TIMEOUT);
    make_put(b, &away);
    submit(b, &away);
    assert_true(server_cancel(b->s, &away.request));
    call_deinit(&away);
    set_alarm(b, true, NOSPACE);
    assert_int_equal(late.n_finished + away.n_finished, 1);
    set_alarm(b, false, NOSPACE);
    make_put(b, &stopped);
    submit(b, &stopped);
    assert_waits(b, &stopped);
    server_drain(b->s);
    assert_ended(&stopped, OUTCOME_STOPPED);
}

/* Drained while the entry was being applied. */
static void test_drained_before_it_waits(void **state)
{
    struct box *b = *state;
    struct call c;

    call_put(b, &c, "k", box_large_value(), 0);
    server_submit(b->s, &c.request);
    assert_int_equal(node_turn(b->s->node, ++b->now_ms), 0);
    b->s->wait.shards[c.request.id % WAIT_SHARDS].stopped = true;
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_ended(&c, OUTCOME_STOPPED);
}

/* More than can wait: the last is answered at once. */
static void test_held_max(void **state)
{
    enum { N = APPLY_HELD_MAX + 1 };
    struct box *b = *state;
    struct call *c = mem_alloc(N * sizeof(*c));

    for (int i = 0; i < N; i++) {
        make_put(b, &c[i]);
        server_submit(b->s, &c[i].request);
        if (i % 1000 == 0 || i == N - 1)
            box_run(b);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(c[i].outcome, i < APPLY_HELD_MAX ? CALL_WAITS : (int)OUTCOME_NO_SPACE);
    set_alarm(b, true, NOSPACE);
    for (int i = 0; i < N; i++)
        assert_ended(&c[i], OUTCOME_NO_SPACE);
    free(c);
}

/* An entry that nobody here asked for: of another member, or of an earlier life. */
static void test_nobody_asked(void **state)
{
    struct box *b = *state;
    struct raft_entry entry = {.term = 2,
                               .index = 3,
                               .type = RAFT_ENTRY_NORMAL,
                               .data =
                                   blob_copy(BYTES_LIT("\x22\x03\x0a\x01k\xa2\x06\x02\x08\x05"))};

    apply_push_entries(b->s->apply, &entry, 1);
    blob_unref(entry.data);
    assert_int_equal(apply_turn(b->s->apply), 0);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 2);
    assert_false(atomic_load(&b->s->raise_alarm.done));
}

static char *text_with_quota(int64_t quota)
{
    enum { N = sizeof(cases) / sizeof(cases[0]) };
    struct box *b = start(quota);
    struct call c[2 * N];

    for (size_t i = 0; i < N; i++) {
        cases[i].make(b, &c[2 * i]);
        submit(b, &c[2 * i]);
        make_put(b, &c[2 * i + 1]);
        submit(b, &c[2 * i + 1]);
    }
    set_alarm(b, true, NOSPACE);
    for (size_t i = 0; i < 2 * N; i++) {
        assert_int_equal(c[i].n_finished, 1);
        call_deinit(&c[i]);
    }
    char *text = box_text(b);
    box_free(b);
    return text;
}

/* What members with different quotas come to from the same entries is the same. */
static void test_effects_are_equal(void **state)
{
    static const int64_t quotas[] = {0, SMALL_QUOTA_BYTES, 1};
    char *expected = text_with_quota(-1);

    for (size_t i = 0; i < sizeof(quotas) / sizeof(quotas[0]); i++) {
        char *text = text_with_quota(quotas[i]);
        assert_string_equal(text, expected);
        free(text);
    }
    free(expected);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define SMALL(f) cmocka_unit_test_setup_teardown(f, setup_small, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_alarms),
        T(test_probe),
        T(test_cost),
        SMALL(test_over_quota),
        SMALL(test_over_quota_again),
        SMALL(test_alarm_of_another_member),
        SMALL(test_ends_before_the_alarm),
        SMALL(test_drained_before_it_waits),
        SMALL(test_held_max),
        SMALL(test_nobody_asked),
        cmocka_unit_test(test_effects_are_equal),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
