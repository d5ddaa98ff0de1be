/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an entry does must not depend on which entries happen to be applied in one turn with it:
 * turns differ between members, and between a life and its replay, but the state may not. Nor does
 * it depend on who asked (etcd 18667). Random requests go to three members: one applies each in a
 * turn of its own, one in random portions, and one applies in portions what nobody there has asked
 * for, as a follower does. Answers, outcomes and states must be the same.
 *
 * SPLIT_SEED=n repeats one history.
 */
#include "server/test_box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/rng.h"
#include "storage/db_mem.h"

enum { HISTORIES = 60, ENTRIES = 60, PORTION_MAX = 12, OPS_MAX = 4, KEYS = 6, LEASES = 3 };

struct maker {
    struct rng rng;
    struct arena *arena;
    int64_t revision; /* about where the history is */
    unsigned next_key;
};

#define MAKE(k, prefix, PREFIX)                                                                    \
    ({                                                                                             \
        prefix *message_ = arena_alloc((k)->arena, sizeof(*message_));                             \
        *message_ = (prefix)PREFIX;                                                                \
        message_;                                                                                  \
    })

static bool chance(struct maker *k, uint64_t of)
{
    return rng_below(&k->rng, of) == 0;
}

static ProtobufCBinaryData key_of(struct maker *k, unsigned n)
{
    uint8_t *key = arena_alloc(k->arena, 1);

    *key = (uint8_t)('a' + n % KEYS);
    return (ProtobufCBinaryData){1, key};
}

static ProtobufCBinaryData any_key(struct maker *k)
{
    return key_of(k, (unsigned)rng_below(&k->rng, KEYS));
}

/* In a transaction each operation that changes something has its own, as the API demands. */
static ProtobufCBinaryData own_key(struct maker *k)
{
    return key_of(k, k->next_key++);
}

static int64_t any_revision(struct maker *k)
{
    static const int64_t odd[] = {0, 0, 0, -1, -1, -2, 1};
    uint64_t n = rng_below(&k->rng, 12);

    return n < 7 ? odd[n] : k->revision + 1 - (int64_t)rng_below(&k->rng, 12);
}

static Etcdserverpb__PutRequest *make_put(struct maker *k, ProtobufCBinaryData key)
{
    Etcdserverpb__PutRequest *q =
        MAKE(k, Etcdserverpb__PutRequest, ETCDSERVERPB__PUT_REQUEST__INIT);

    q->key = key;
    q->lease = chance(k, 3) ? 1 + (int64_t)rng_below(&k->rng, LEASES) : 0;
    q->ignore_value = chance(k, 8);
    q->ignore_lease = chance(k, 8);
    q->prev_kv = chance(k, 3);
    if (!q->ignore_value)
        q->value = pb_of(chance(k, 2) ? "x" : "y");
    if (q->ignore_lease)
        q->lease = 0;
    return q;
}

static Etcdserverpb__RangeRequest *make_range(struct maker *k)
{
    Etcdserverpb__RangeRequest *q =
        MAKE(k, Etcdserverpb__RangeRequest, ETCDSERVERPB__RANGE_REQUEST__INIT);

    q->key = any_key(k);
    if (chance(k, 3))
        q->range_end = any_key(k);
    q->revision = any_revision(k);
    q->limit = chance(k, 4) ? 2 : 0;
    q->keys_only = chance(k, 4);
    q->count_only = chance(k, 6);
    return q;
}

static Etcdserverpb__DeleteRangeRequest *make_delete(struct maker *k, ProtobufCBinaryData key)
{
    Etcdserverpb__DeleteRangeRequest *q =
        MAKE(k, Etcdserverpb__DeleteRangeRequest, ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT);

    q->key = key;
    q->prev_kv = chance(k, 2);
    return q;
}

static Etcdserverpb__Compare *make_compare(struct maker *k)
{
    Etcdserverpb__Compare *c = MAKE(k, Etcdserverpb__Compare, ETCDSERVERPB__COMPARE__INIT);

    c->key = any_key(k);
    if (chance(k, 4))
        c->range_end = any_key(k);
    c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
    c->result = (Etcdserverpb__Compare__CompareResult)rng_below(&k->rng, 4);
    c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
    c->version = (int64_t)rng_below(&k->rng, 3);
    return c;
}

static Etcdserverpb__TxnRequest *make_txn(struct maker *k, unsigned depth);

static Etcdserverpb__RequestOp *make_op(struct maker *k, unsigned depth)
{
    Etcdserverpb__RequestOp *op = MAKE(k, Etcdserverpb__RequestOp, ETCDSERVERPB__REQUEST_OP__INIT);
    uint64_t what = rng_below(&k->rng, depth > 0 ? 7 : 6);

    if (what < 2) {
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        op->request_put = make_put(k, own_key(k));
    } else if (what == 2) {
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        op->request_delete_range = make_delete(k, own_key(k));
    } else if (what < 6) {
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        op->request_range = make_range(k);
    } else {
        op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN;
        op->request_txn = make_txn(k, depth - 1);
    }
    return op;
}

static Etcdserverpb__RequestOp **make_ops(struct maker *k, unsigned depth, size_t *ret_n)
{
    Etcdserverpb__RequestOp **ops =
        arena_alloc(k->arena, OPS_MAX * sizeof(Etcdserverpb__RequestOp *));

    *ret_n = rng_below(&k->rng, (depth > 0 ? OPS_MAX : 2) + 1);
    for (size_t i = 0; i < *ret_n; i++)
        ops[i] = make_op(k, depth);
    return ops;
}

static Etcdserverpb__TxnRequest *make_txn(struct maker *k, unsigned depth)
{
    Etcdserverpb__TxnRequest *t =
        MAKE(k, Etcdserverpb__TxnRequest, ETCDSERVERPB__TXN_REQUEST__INIT);
    unsigned before = k->next_key;

    t->n_compare = rng_below(&k->rng, 2);
    t->compare = arena_alloc(k->arena, sizeof(Etcdserverpb__Compare *));
    if (t->n_compare > 0)
        t->compare[0] = make_compare(k);
    t->success = make_ops(k, depth, &t->n_success);
    unsigned after = k->next_key;
    k->next_key = before; /* the branches exclude each other */
    t->failure = make_ops(k, depth, &t->n_failure);
    k->next_key = after > k->next_key ? after : k->next_key;
    return t;
}

/* The bytes of one request. */
struct made {
    enum request_kind kind;
    struct bytes payload;
};

#define MADE(k, kind_, package_name, message)                                                      \
    ((struct made){kind_, ({                                                                       \
                       const void *q_ = (message);                                                 \
                       size_t size_ = package_name##__get_packed_size(q_);                         \
                       uint8_t *packed_ = arena_alloc((k)->arena, size_ + 1);                      \
                       package_name##__pack(q_, packed_);                                          \
                       bytes_of(packed_, size_);                                                   \
                   })})

static struct made make_compaction(struct maker *k)
{
    Etcdserverpb__CompactionRequest q = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

    q.revision = chance(k, 6) ? (int64_t)rng_below(&k->rng, 3) - 1
                              : k->revision - (int64_t)rng_below(&k->rng, 8);
    return MADE(k, REQUEST_COMPACT, etcdserverpb__compaction_request, &q);
}

static struct made make_lease(struct maker *k)
{
    Etcdserverpb__LeaseGrantRequest grant = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    Etcdserverpb__LeaseRevokeRequest revoke = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;

    grant.id = revoke.id = 1 + (int64_t)rng_below(&k->rng, LEASES);
    grant.ttl = 60;
    return chance(k, 2)
               ? MADE(k, REQUEST_LEASE_GRANT, etcdserverpb__lease_grant_request, &grant)
               : MADE(k, REQUEST_LEASE_REVOKE, etcdserverpb__lease_revoke_request, &revoke);
}

static struct made make_alarm(struct maker *k)
{
    Etcdserverpb__AlarmRequest q = ETCDSERVERPB__ALARM_REQUEST__INIT;

    q.action = chance(k, 4) ? ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE
                            : ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
    q.alarm = chance(k, 2) ? ETCDSERVERPB__ALARM_TYPE__NOSPACE : ETCDSERVERPB__ALARM_TYPE__CORRUPT;
    q.memberid = 7;
    return MADE(k, REQUEST_ALARM, etcdserverpb__alarm_request, &q);
}

static struct made make(struct maker *k)
{
    Etcdserverpb__DeleteRangeRequest *q;

    k->next_key = (unsigned)rng_below(&k->rng, KEYS);
    switch (rng_below(&k->rng, 12)) {
    case 0: return make_compaction(k);
    case 1:
    case 2: return make_lease(k);
    case 3: return make_alarm(k);
    case 4:
    case 5:
        q = make_delete(k, any_key(k));
        if (chance(k, 2))
            q->range_end = any_key(k);
        return MADE(k, REQUEST_DELETE_RANGE, etcdserverpb__delete_range_request, q);
    case 6:
    case 7:
    case 8:
        k->revision++;
        return MADE(k, REQUEST_PUT, etcdserverpb__put_request, make_put(k, any_key(k)));
    default: return MADE(k, REQUEST_TXN, etcdserverpb__txn_request, make_txn(k, 2));
    }
}

/* ---- members ---- */

static void run(struct box *b, const struct made *made, struct call *calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        call_init(&calls[i], made[i].kind, made[i].payload);
        server_submit(b->s, &calls[i].request);
    }
    box_run(b);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(calls[i].n_finished, 1);
}

static void run_unasked(struct box *b, const struct made *made, size_t n)
{
    const struct identity nobody = {0};

    for (size_t i = 0; i < n; i++) {
        struct raft_entry entry = {
            .type = RAFT_ENTRY_NORMAL,
            .data = internal_request_encode(made[i].kind, made[i].payload, 1 + i, &nobody)};
        assert_true(node_propose(b->s->node, 0, entry));
    }
    box_run(b);
}

static void compare(const struct call *a, const struct call *b, uint64_t seed, size_t i)
{
    if (a->outcome != b->outcome)
        fail_msg("seed %zu, entry %zu: outcome %d alone, %d among others", (size_t)seed, i,
                 a->outcome, b->outcome);
    if (!bytes_equal(buf_bytes(&a->request.response), buf_bytes(&b->request.response)))
        fail_msg("seed %zu, entry %zu: another answer", (size_t)seed, i);
}

static void assert_same_state(struct box *a, struct box *b, uint64_t seed)
{
    char *want = box_text(a), *have = box_text(b);

    if (strcmp(want, have) != 0)
        fail_msg("seed %zu: %s instead of %s", (size_t)seed, have, want);
    free(want);
    free(have);
}

static unsigned outcomes[2]; /* how many requests were done, and refused */

static struct box *start(void)
{
    struct box *b = box_new(test_dir_new());

    box_open(b);
    box_run(b);
    return b;
}

static void history(uint64_t seed)
{
    struct box *alone = start(), *together = start(), *unasked = start();
    struct maker k = {.arena = &alone->arena, .revision = 1};
    struct made made[ENTRIES];
    struct call a[ENTRIES], b[ENTRIES];

    rng_init(&k.rng, seed);
    for (size_t i = 0; i < ENTRIES; i++) {
        k.revision = mvcc_revision(alone->s->store.mvcc);
        made[i] = make(&k);
        run(alone, &made[i], &a[i], 1);
        outcomes[a[i].outcome != OUTCOME_OK]++;
    }
    for (size_t i = 0, n; i < ENTRIES; i += n) {
        n = 1 + rng_below(&k.rng, PORTION_MAX);
        n = n < ENTRIES - i ? n : ENTRIES - i;
        run(together, made + i, b + i, n);
        run_unasked(unasked, made + i, n);
    }
    for (size_t i = 0; i < ENTRIES; i++) {
        compare(&a[i], &b[i], seed, i);
        call_deinit(&a[i]);
        call_deinit(&b[i]);
    }
    assert_same_state(alone, together, seed);
    assert_same_state(alone, unasked, seed);
    box_free(alone);
    box_free(together);
    box_free(unasked);
    db_mem_forget();
}

static void test_histories(void **state)
{
    const char *one = getenv("SPLIT_SEED");
    uint64_t seed = one ? strtoull(one, NULL, 10) : 1;

    for (uint64_t n = 0; n < (one ? 1 : HISTORIES); n++)
        history(seed + n);
    print_message("%u requests done, %u refused\n", outcomes[0], outcomes[1]);
    assert_true(one || (outcomes[0] > 1000 && outcomes[1] > 1000));
}

/* -1 is a revision like 0 as long as nothing was ever compacted, and that is so until the entry
 * before. */
static void test_first_compaction(void **state)
{
    struct box *b = box_start();
    Etcdserverpb__TxnRequest t = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__RequestOp put_op = ETCDSERVERPB__REQUEST_OP__INIT, range_op = put_op;
    Etcdserverpb__RequestOp *ops[] = {&put_op, &range_op};
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    struct call before, compaction, behind;

    put.key = pb_of("b");
    range.key = pb_of("a");
    range.revision = -1;
    put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    put_op.request_put = &put;
    range_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    range_op.request_range = &range;
    t.success = ops;
    t.n_success = 2;
    assert_int_equal(box_put(b, "a", "1"), OUTCOME_OK);
    call_init(&before, REQUEST_TXN, PACK(b, etcdserverpb__txn_request, &t));
    call_compact(b, &compaction, 2, false);
    call_init(&behind, REQUEST_TXN, before.request.payload);
    server_submit(b->s, &before.request);
    server_submit(b->s, &compaction.request);
    server_submit(b->s, &behind.request);
    box_run(b);
    assert_int_equal(before.outcome, OUTCOME_OK);
    assert_int_equal(compaction.outcome, OUTCOME_OK);
    assert_int_equal(behind.outcome, OUTCOME_COMPACTED);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 3);
    call_deinit(&before);
    call_deinit(&compaction);
    call_deinit(&behind);
    box_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_compaction),
        cmocka_unit_test(test_histories),
    };

    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
