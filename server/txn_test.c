/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put, DeleteRange and Txn, case by case: what is checked against which state, what changes, and
 * every header. Answers are compared as text (test_store.h); an outcome must leave no trace, which
 * store_run() sees to.
 */
#include "server/test_store.h"

#define TARGET(x) ETCDSERVERPB__COMPARE__COMPARE_TARGET__##x
#define RESULT(x) ETCDSERVERPB__COMPARE__COMPARE_RESULT__##x

static Etcdserverpb__TxnRequest *txn_of(struct store *s, void *const *success)
{
    return txn_request(s, NULL, success, NULL);
}

static int run_txn(struct store *s, const Etcdserverpb__TxnRequest *t)
{
    struct buf out = BUF_NULL;
    int r = store_run(s, RUN_TXN, t, &out);

    buf_deinit(&out);
    return r;
}

static Etcdserverpb__PutRequest *keep_value(struct store *s, const char *key)
{
    Etcdserverpb__PutRequest *q = put_request(s, key, "");

    q->ignore_value = true;
    return q;
}

static Etcdserverpb__PutRequest *keep_lease(struct store *s, const char *key, const char *value)
{
    Etcdserverpb__PutRequest *q = put_request(s, key, value);

    q->ignore_lease = true;
    return q;
}

/* ---- put and delete ---- */

static void test_put(void **state)
{
    struct store *s = *state;
    Etcdserverpb__PutRequest *q = put_request(s, "k", "1");

    q->prev_kv = true;
    assert_string_equal(store_put(s, q), "{r2 11/22/33}");
    q->value = pb("2");
    assert_string_equal(store_put(s, q), "{r3 11/22/33} k@2/2/1=1");
    assert_string_equal(store_put(s, keep_value(s, "k")), "{r4 11/22/33}");
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r4} k@2/4/3=2 #1");
}

static void test_put_leases(void **state)
{
    struct store *s = *state;
    Etcdserverpb__PutRequest *q = put_request(s, "k", "1");

    q->lease = 7;
    assert_int_equal(store_run(s, RUN_PUT, q, NULL), OUTCOME_LEASE_NOT_FOUND);
    q->lease = -7;
    assert_int_equal(store_run(s, RUN_PUT, q, NULL), OUTCOME_LEASE_NOT_FOUND);
    q->ignore_value = true; /* the lease is looked at before the key */
    assert_int_equal(store_run(s, RUN_PUT, q, NULL), OUTCOME_LEASE_NOT_FOUND);
    store_grant(s, -7);
    assert_int_equal(store_run(s, RUN_PUT, q, NULL), OUTCOME_KEY_NOT_FOUND);
    q->ignore_value = false;
    assert_int_equal(store_run(s, RUN_PUT, q, NULL), 0);
    assert_int_equal(store_run(s, RUN_PUT, keep_lease(s, "k", "2"), NULL), 0);
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r3} k@2/3/2=2~-7 #1");
    put(s, "k", "3"); /* lease 0 detaches */
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r4} k@2/4/3=3 #1");
    assert_int_equal(store_run(s, RUN_PUT, keep_lease(s, "x", ""), NULL), OUTCOME_KEY_NOT_FOUND);
    assert_int_equal(store_run(s, RUN_PUT, keep_value(s, "x"), NULL), OUTCOME_KEY_NOT_FOUND);
}

static void test_delete(void **state)
{
    struct store *s = *state;
    Etcdserverpb__DeleteRangeRequest *q = delete_request(s, "a", "");

    put(s, "a", "1");
    put(s, "b", "2");
    put(s, "c", "3");
    q->prev_kv = true;
    assert_string_equal(store_delete(s, delete_request(s, "x", NULL)), "{r4 11/22/33} -0");
    assert_string_equal(store_delete(s, delete_request(s, "b", "b")), "{r4 11/22/33} -0");
    assert_string_equal(store_delete(s, delete_request(s, "b", NULL)), "{r5 11/22/33} -1");
    assert_string_equal(store_delete(s, q), "{r6 11/22/33} -2 a@2/2/1=1 c@4/4/1=3");
    assert_string_equal(store_delete(s, q), "{r6 11/22/33} -0");
}

/* What a missing waiter spares must not change what happens. */
static void test_without_waiter(void **state)
{
    struct store *s = *state;
    Etcdserverpb__DeleteRangeRequest *q = delete_request(s, "a", "");
    Etcdserverpb__PutRequest *p = keep_value(s, "a");

    q->prev_kv = p->prev_kv = true;
    put(s, "a", "1");
    assert_int_equal(store_run(s, RUN_PUT, p, NULL), 0);
    assert_string_equal(store_range(s, range_request(s, "a", "")), "{r3} a@2/3/2=1 #1");
    assert_int_equal(
        store_run(s, RUN_TXN, txn_of(s, LIST(op_range(s, "a", ""), OP_DELETE_OF(s, q))), NULL), 0);
    assert_string_equal(store_range(s, range_request(s, "a", "")), "{r4}");
}

/* ---- compares ---- */

static bool holds(struct store *s, Etcdserverpb__Compare *c)
{
    struct buf out = BUF_NULL;

    assert_int_equal(store_run(s, RUN_TXN, txn_request(s, LIST(c), NULL, NULL), &out), 0);
    bool yes = strstr(TEXT_OF(s, etcdserverpb__txn_response, text_txn, &out), "yes") != NULL;
    buf_deinit(&out);
    return yes;
}

/* Operand of the target's own kind. */
static Etcdserverpb__Compare *compare_to(struct store *s, const char *key,
                                         Etcdserverpb__Compare__CompareTarget target,
                                         Etcdserverpb__Compare__CompareResult result, int64_t n)
{
    Etcdserverpb__Compare *c = compare(s, key, target, result);

    switch (target) {
    case TARGET(CREATE):
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
        c->create_revision = n;
        break;
    case TARGET(MOD):
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        c->mod_revision = n;
        break;
    case TARGET(LEASE):
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_LEASE;
        c->lease = n;
        break;
    default:
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        c->version = n;
        break;
    }
    return c;
}

static Etcdserverpb__Compare *compare_value(struct store *s, const char *key,
                                            Etcdserverpb__Compare__CompareResult result,
                                            const char *value)
{
    Etcdserverpb__Compare *c = compare(s, key, TARGET(VALUE), result);

    c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
    c->value = pb(value);
    return c;
}

static void test_compare_numbers(void **state)
{
    struct store *s = *state;
    Etcdserverpb__PutRequest *q = put_request(s, "k", "1");
    static const struct {
        Etcdserverpb__Compare__CompareTarget target;
        int64_t is;
    } cases[] = {{TARGET(CREATE), 3}, {TARGET(MOD), 4}, {TARGET(VERSION), 2}, {TARGET(LEASE), 9}};

    store_grant(s, 9);
    put(s, "other", "");
    q->lease = 9;
    (void)store_put(s, q);
    (void)store_put(s, q);
    for (size_t i = 0; i < 4; i++) {
        for (int64_t d = -1; d <= 1; d++) { /* the key's number against is + d */
            int64_t n = cases[i].is + d;
            Etcdserverpb__Compare__CompareTarget t = cases[i].target;
            assert_int_equal(holds(s, compare_to(s, "k", t, RESULT(EQUAL), n)), d == 0);
            assert_int_equal(holds(s, compare_to(s, "k", t, RESULT(NOT_EQUAL), n)), d != 0);
            assert_int_equal(holds(s, compare_to(s, "k", t, RESULT(GREATER), n)), d < 0);
            assert_int_equal(holds(s, compare_to(s, "k", t, RESULT(LESS), n)), d > 0);
        }
    }
}

static void test_compare_values(void **state)
{
    struct store *s = *state;

    put(s, "k", "m");
    assert_true(holds(s, compare_value(s, "k", RESULT(EQUAL), "m")));
    assert_false(holds(s, compare_value(s, "k", RESULT(NOT_EQUAL), "m")));
    assert_true(holds(s, compare_value(s, "k", RESULT(GREATER), "l")));
    assert_false(holds(s, compare_value(s, "k", RESULT(GREATER), "mm")));
    assert_true(holds(s, compare_value(s, "k", RESULT(LESS), "mm")));
}

static void test_compare_missing(void **state)
{
    struct store *s = *state;

    for (int result = RESULT(EQUAL); result <= RESULT(NOT_EQUAL); result++)
        assert_false(
            holds(s, compare_value(s, "x", (Etcdserverpb__Compare__CompareResult)result, "")));
    assert_true(holds(s, compare_to(s, "x", TARGET(VERSION), RESULT(EQUAL), 0)));
    assert_true(holds(s, compare_to(s, "x", TARGET(LEASE), RESULT(EQUAL), 0)));
    assert_true(holds(s, compare_to(s, "x", TARGET(MOD), RESULT(LESS), 1)));
    assert_true(holds(s, compare_to(s, "x", TARGET(CREATE), RESULT(GREATER), -1)));
    assert_false(holds(s, compare_to(s, "x", TARGET(CREATE), RESULT(NOT_EQUAL), 0)));
    Etcdserverpb__Compare *range = compare_to(s, "x", TARGET(VERSION), RESULT(EQUAL), 0);
    range->range_end = pb_zero();
    assert_true(holds(s, range));
}

/* No operand, one of another kind, enums that nobody knows. */
static void test_compare_odd(void **state)
{
    struct store *s = *state;
    Etcdserverpb__Compare *c = compare_to(s, "k", TARGET(VERSION), RESULT(EQUAL), 1);

    put(s, "k", "");
    assert_true(holds(s, c));
    c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION__NOT_SET;
    assert_false(holds(s, c)); /* 1 against 0 */
    c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
    assert_false(holds(s, c));
    assert_true(holds(s, compare(s, "k", TARGET(VALUE), RESULT(EQUAL)))); /* "" against "" */
    c->result = (Etcdserverpb__Compare__CompareResult)77;
    assert_true(holds(s, c));
    c->target = (Etcdserverpb__Compare__CompareTarget)77;
    for (int result = RESULT(EQUAL); result <= RESULT(NOT_EQUAL); result++) {
        c->result = (Etcdserverpb__Compare__CompareResult)result;
        assert_int_equal(holds(s, c), result == RESULT(EQUAL));
    }
    c->key = pb("x");
    c->result = (Etcdserverpb__Compare__CompareResult)77;
    assert_true(holds(s, c));
    c->target = TARGET(VALUE);
    assert_false(holds(s, c));
}

/* Every key of the range must satisfy, and every compare. */
static void test_compare_ranges(void **state)
{
    struct store *s = *state;
    Etcdserverpb__Compare *all = compare_to(s, "a", TARGET(VERSION), RESULT(EQUAL), 1);
    Etcdserverpb__Compare *values = compare_value(s, "a", RESULT(LESS), "3");

    put(s, "a", "1");
    put(s, "b", "2");
    all->range_end = values->range_end = pb("c");
    assert_true(holds(s, all));
    assert_true(holds(s, values));
    put(s, "b", "3");
    assert_false(holds(s, all));
    assert_false(holds(s, values));
    all->range_end = pb("b");
    assert_string_equal(store_txn(s, txn_request(s, LIST(all, values), NULL, NULL)),
                        "{r4 11/22/33} no");
}

/* ---- transactions ---- */

static void test_headers(void **state)
{
    struct store *s = *state;

    put(s, "d", "0");
    assert_string_equal(
        store_txn(s, txn_of(s, LIST(op_range(s, "a", NULL), op_delete(s, "x", NULL),
                                    op_put(s, "a", "1"), op_range(s, "a", NULL),
                                    op_delete(s, "x", NULL), op_delete(s, "d", NULL)))),
        "{r3 11/22/33} yes [{r2}] [{r2} -0] [{r3}] [{r3} a@3/3/1=1 #1] [{r3} -0] [{r3} -1]");
    /* Nothing changes: no revision. */
    assert_string_equal(
        store_txn(s, txn_of(s, LIST(op_delete(s, "x", NULL), op_range(s, "a", NULL)))),
        "{r3 11/22/33} yes [{r3} -0] [{r3} a@3/3/1=1 #1]");
    assert_string_equal(store_txn(s, txn_of(s, NULL)), "{r3 11/22/33} yes");
}

/* A nested header is there, and empty. Its compare sees the state before the whole. */
static void test_nested(void **state)
{
    struct store *s = *state;
    Etcdserverpb__TxnRequest *inner =
        txn_request(s, LIST(compare_to(s, "a", TARGET(VERSION), RESULT(EQUAL), 0)),
                    LIST(op_put(s, "yes", "")), LIST(op_put(s, "no", "")));
    Etcdserverpb__TxnRequest *outer =
        txn_of(s, LIST(op_put(s, "a", "1"), OP_TXN_OF(s, inner), op_range(s, "a", "")));

    assert_string_equal(store_txn(s, outer),
                        "{r2 11/22/33} yes [{r2}] [{} yes [{r2}]] [{r2} a@2/2/1=1 yes@2/2/1= #2]");
    assert_string_equal(store_txn(s, outer),
                        "{r3 11/22/33} yes [{r3}] [{} no [{r3}]] [{r3} a@2/3/2=1 no@3/3/1= "
                        "yes@2/2/1= #3]");
}

static void test_checks_before_the_transaction(void **state)
{
    struct store *s = *state;
    Etcdserverpb__TxnRequest *t =
        txn_of(s, LIST(op_put(s, "m1", "1"), OP_PUT_OF(s, keep_value(s, "m2"))));

    assert_int_equal(run_txn(s, t), OUTCOME_KEY_NOT_FOUND);
    assert_string_equal(store_range(s, range_request(s, "m", "")), "{r1}");
    put(s, "m2", "old");
    assert_int_equal(run_txn(s, t), 0);
    assert_string_equal(store_range(s, range_request(s, "m", "")),
                        "{r3} m1@3/3/1=1 m2@2/3/2=old #2");
    /* A nested put of the same transaction makes no key exist. */
    Etcdserverpb__TxnRequest *inner = txn_of(s, LIST(op_put(s, "m3", "")));
    assert_int_equal(
        run_txn(s, txn_of(s, LIST(OP_TXN_OF(s, inner), OP_PUT_OF(s, keep_value(s, "m3"))))),
        OUTCOME_KEY_NOT_FOUND);
}

/* Only the path taken is checked, also within nested ones. */
static void test_untaken_branches(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *future = range_request(s, "a", NULL);
    Etcdserverpb__PutRequest *leased = put_request(s, "a", "");

    future->revision = 100;
    leased->lease = 42;
    void *const *bad[] = {LIST(OP_RANGE_OF(s, future)), LIST(OP_PUT_OF(s, leased)),
                          LIST(OP_PUT_OF(s, keep_value(s, "a")))};
    const int outcomes[] = {OUTCOME_FUTURE_REVISION, OUTCOME_LEASE_NOT_FOUND,
                            OUTCOME_KEY_NOT_FOUND};
    for (size_t i = 0; i < 3; i++) {
        Etcdserverpb__TxnRequest *t = txn_request(s, NULL, LIST(op_range(s, "b", NULL)), bad[i]);
        assert_int_equal(run_txn(s, t), 0);
        assert_int_equal(run_txn(s, txn_of(s, LIST(OP_TXN_OF(s, t)))), 0);
        assert_int_equal(run_txn(s, txn_of(s, bad[i])), outcomes[i]);
        assert_int_equal(
            run_txn(s, txn_of(s, LIST(op_put(s, "b", ""), OP_TXN_OF(s, txn_of(s, bad[i]))))),
            outcomes[i]);
    }
    assert_int_equal(mvcc_revision(s->mvcc), 1);
}

static void test_range_revisions(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *q = range_request(s, "a", "");
    Etcdserverpb__TxnRequest *t = txn_of(s, LIST(op_put(s, "a", "new"), OP_RANGE_OF(s, q)));

    put(s, "a", "1");
    put(s, "a", "2");
    q->revision = 4; /* the transaction's own is in the future */
    assert_int_equal(run_txn(s, t), OUTCOME_FUTURE_REVISION);
    q->revision = 2;
    assert_string_equal(store_txn(s, t), "{r4 11/22/33} yes [{r4}] [{r4} a@2/2/1=1 #1]");
    q->revision = 4;
    assert_string_equal(store_txn(s, t), "{r5 11/22/33} yes [{r5}] [{r5} a@2/4/3=new #1]");
    q->revision = -1; /* never compacted: -1 passes, -2 fails */
    assert_string_equal(store_txn(s, t), "{r6 11/22/33} yes [{r6}] [{r6} a@2/6/5=new #1]");
    q->revision = -2;
    assert_int_equal(run_txn(s, t), OUTCOME_COMPACTED);
    store_compact(s, 3);
    q->revision = 3;
    assert_string_equal(store_txn(s, t), "{r7 11/22/33} yes [{r7}] [{r7} a@2/3/2=2 #1]");
    const int64_t compacted[] = {2, -1, INT64_MIN};
    for (size_t i = 0; i < 3; i++) {
        q->revision = compacted[i];
        assert_int_equal(run_txn(s, t), OUTCOME_COMPACTED);
    }
}

/* Open-ended deletes escape the check for duplicate keys. */
static void test_delete_and_recreate(void **state)
{
    struct store *s = *state;

    put(s, "n", "1");
    assert_string_equal(store_txn(s, txn_of(s, LIST(op_delete(s, "n", ""), op_put(s, "n", "3"),
                                                    op_range(s, "n", NULL)))),
                        "{r3 11/22/33} yes [{r3} -1] [{r3}] [{r3} n@3/3/1=3 #1]");
    assert_string_equal(store_txn(s, txn_of(s, LIST(op_put(s, "n", "4"), op_delete(s, "n", ""),
                                                    op_range(s, "n", "")))),
                        "{r4 11/22/33} yes [{r4}] [{r4} -1] [{r4}]");
    put(s, "n", "5");
    Etcdserverpb__TxnRequest *t =
        txn_of(s, LIST(op_delete(s, "n", ""), op_put(s, "n", "3"), op_delete(s, "n", "")));
    assert_string_equal(store_txn(s, t), "{r6 11/22/33} yes [{r6} -1] [{r6}] [{r6} -1]");
}

/* etcd crashes here. */
static void test_delete_then_ignore(void **state)
{
    struct store *s = *state;

    put(s, "k", "1");
    assert_int_equal(
        run_txn(s, txn_of(s, LIST(op_delete(s, "k", ""), OP_PUT_OF(s, keep_value(s, "k"))))),
        OUTCOME_KEY_NOT_FOUND);
    assert_int_equal(
        run_txn(s, txn_of(s, LIST(op_delete(s, "a", ""), OP_PUT_OF(s, keep_lease(s, "k", "2"))))),
        OUTCOME_KEY_NOT_FOUND);
    Etcdserverpb__TxnRequest *inner = txn_of(s, LIST(op_delete(s, "k", "")));
    assert_int_equal(
        run_txn(s, txn_of(s, LIST(OP_TXN_OF(s, inner), OP_PUT_OF(s, keep_value(s, "k"))))),
        OUTCOME_KEY_NOT_FOUND);
    /* Deleted and put again, the key is there. */
    Etcdserverpb__TxnRequest *again = txn_of(s, LIST(op_put(s, "k", "2")));
    assert_string_equal(store_txn(s, txn_of(s, LIST(op_delete(s, "k", ""), OP_TXN_OF(s, again),
                                                    OP_PUT_OF(s, keep_value(s, "k"))))),
                        "{r3 11/22/33} yes [{r3} -1] [{} yes [{r3}]] [{r3}]");
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r3} k@3/3/2=2 #1");
    /* Another key's delete is no matter. */
    assert_int_equal(
        run_txn(s, txn_of(s, LIST(op_delete(s, "l", ""), OP_PUT_OF(s, keep_value(s, "k"))))), 0);
}

/* The other one: a key recreated at the very revision of a compaction. */
static void test_compaction_at_recreation(void **state)
{
    struct store *s = *state;

    put(s, "k", "1");
    (void)store_txn(s, txn_of(s, LIST(op_delete(s, "k", ""), op_put(s, "k", "2"))));
    store_compact(s, 3);
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r3} k@3/3/1=2 #1");
    put(s, "k", "3");
    assert_string_equal(store_range(s, range_request(s, "k", NULL)), "{r4} k@3/4/2=3 #1");
}

static void test_prev_kv_inside(void **state)
{
    struct store *s = *state;
    Etcdserverpb__PutRequest *p = put_request(s, "k", "2");
    Etcdserverpb__DeleteRangeRequest *d = delete_request(s, "k", "");

    p->prev_kv = d->prev_kv = true;
    put(s, "k", "1");
    put(s, "l", "x");
    assert_string_equal(
        store_txn(s, txn_of(s, LIST(OP_PUT_OF(s, p), OP_DELETE_OF(s, d), OP_DELETE_OF(s, d)))),
        "{r4 11/22/33} yes [{r4} k@2/2/1=1] [{r4} -2 k@2/4/2=2 l@3/3/1=x] [{r4} -0]");
}

/* The bounds of a nest, run to the bottom. */
static void test_deep(void **state)
{
    struct store *s = *state;
    Etcdserverpb__TxnRequest *t = txn_of(s, LIST(op_put(s, "deep", "")));

    for (int depth = 1; depth < TXN_DEPTH_MAX; depth++)
        t = txn_of(s, LIST(OP_TXN_OF(s, t)));
    assert_int_equal(store_run(s, RUN_TXN, t, NULL), 0);
    assert_string_equal(store_range(s, range_request(s, "deep", NULL)), "{r2} deep@2/2/1= #1");
    t = txn_of(s, LIST(OP_TXN_OF(s, t)));
    assert_int_equal(store_run(s, RUN_TXN, t, NULL), OUTCOME_TOO_MANY_OPS);
}

/* ---- read only ---- */

static const char *read_only(struct store *s, const Etcdserverpb__TxnRequest *t)
{
    struct buf out = BUF_NULL;
    const char *text;

    assert_int_equal(txn_read_only(s->mvcc, &s->header, t, &out), 0);
    text = TEXT_OF(s, etcdserverpb__txn_response, text_txn, &out);
    buf_deinit(&out);
    return text;
}

static void test_read_only(void **state)
{
    struct store *s = *state;
    Etcdserverpb__RangeRequest *old = range_request(s, "a", ""),
                               *limited = range_request(s, "a", "");
    struct buf out = BUF_NULL;

    put(s, "a", "1");
    put(s, "b", "2");
    old->revision = 2;
    limited->limit = 1;
    Etcdserverpb__TxnRequest *t = txn_request(s, LIST(compare_value(s, "a", RESULT(EQUAL), "1")),
                                              LIST(OP_RANGE_OF(s, old), OP_RANGE_OF(s, limited)),
                                              LIST(op_range(s, "b", NULL)));
    assert_string_equal(read_only(s, t),
                        "{r3 11/22/33} yes [{r3} a@2/2/1=1 #1] [{r3} a@2/2/1=1 more #2]");
    put(s, "a", "2");
    assert_string_equal(read_only(s, t), "{r4 11/22/33} no [{r4} b@3/3/1=2 #1]");
    assert_string_equal(read_only(s, txn_of(s, NULL)), "{r4 11/22/33} yes");
    old->revision = 5;
    t = txn_of(s, LIST(OP_RANGE_OF(s, old)));
    assert_int_equal(txn_read_only(s->mvcc, &s->header, t, &out), OUTCOME_FUTURE_REVISION);
    store_compact(s, 3);
    old->revision = 2;
    assert_int_equal(txn_read_only(s->mvcc, &s->header, t, &out), OUTCOME_COMPACTED);
    old->revision = -1;
    assert_int_equal(txn_read_only(s->mvcc, &s->header, t, &out), OUTCOME_COMPACTED);
    buf_deinit(&out);
}

/* What is written while a read-only transaction runs is in none of its headers. */
static void test_read_only_is_pinned(void **state)
{
    struct store *s = *state;
    struct range_view view = {.mvcc = s->mvcc, .pinned = 2};
    struct range_summary summary;
    struct buf out = BUF_NULL;

    put(s, "a", "1");
    put(s, "a", "2");
    assert_int_equal(
        range_encode(&view, range_request(s, "a", NULL), (struct range_flags){0}, &out, &summary),
        0);
    assert_int_equal(summary.current, 2);
    assert_string_equal(TEXT_OF(s, etcdserverpb__range_response, text_range, &out),
                        "{none} a@2/2/1=1 #1");
    buf_deinit(&out);
}

/* What must see earlier entries of a turn in the store says so. */
static void test_scans(void **state)
{
    struct store *s = *state;
    Etcdserverpb__Compare *c = compare(s, "a", TARGET(VERSION), RESULT(EQUAL));
    Etcdserverpb__RangeRequest *at = range_request(s, "a", NULL);

    assert_false(txn_delete_range_scans(delete_request(s, "a", NULL)));
    assert_true(txn_delete_range_scans(delete_request(s, "a", "b")));
    assert_false(
        txn_txn_scans(txn_request(s, LIST(c), LIST(op_put(s, "a", ""), op_range(s, "a", NULL)),
                                  LIST(op_delete(s, "a", NULL)))));
    assert_true(txn_txn_scans(txn_of(s, LIST(op_range(s, "a", "b")))));
    assert_true(txn_txn_scans(txn_request(s, NULL, NULL, LIST(op_delete(s, "a", "b")))));
    assert_true(
        txn_txn_scans(txn_of(s, LIST(OP_TXN_OF(s, txn_of(s, LIST(op_range(s, "a", "b"))))))));
    at->revision = 1;
    assert_true(txn_txn_scans(txn_of(s, LIST(OP_RANGE_OF(s, at)))));
    c->range_end = pb("b");
    assert_true(txn_txn_scans(txn_request(s, LIST(c), NULL, NULL)));
}

#define T(f) cmocka_unit_test_setup_teardown(f, store_setup, store_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_put),
        T(test_put_leases),
        T(test_delete),
        T(test_without_waiter),
        T(test_compare_numbers),
        T(test_compare_values),
        T(test_compare_missing),
        T(test_compare_odd),
        T(test_compare_ranges),
        T(test_headers),
        T(test_nested),
        T(test_checks_before_the_transaction),
        T(test_untaken_branches),
        T(test_range_revisions),
        T(test_delete_and_recreate),
        T(test_delete_then_ignore),
        T(test_compaction_at_recreation),
        T(test_prev_kv_inside),
        T(test_deep),
        T(test_read_only),
        T(test_read_only_is_pinned),
        T(test_scans),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
