/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request checks: etcd's examples one by one, and the overlap rule against a second, simple-minded
 * implementation on random transactions.
 */
#include "api/check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/rng.h"
#include "server/cost.h"

typedef Etcdserverpb__RequestOp *op_ptr;

static struct arena arena;

/* ---- building requests ---- */

static void *make(size_t size)
{
    return memset(arena_alloc(&arena, size), 0, size);
}

static ProtobufCBinaryData data(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
}

static op_ptr op_new(Etcdserverpb__RequestOp__RequestCase request_case)
{
    op_ptr op = make(sizeof(*op));

    etcdserverpb__request_op__init(op);
    op->request_case = request_case;
    return op;
}

static op_ptr put(const char *key)
{
    op_ptr op = op_new(ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT);

    op->request_put = make(sizeof(*op->request_put));
    etcdserverpb__put_request__init(op->request_put);
    op->request_put->key = data(key);
    return op;
}

static op_ptr del_bytes(ProtobufCBinaryData key, ProtobufCBinaryData end)
{
    op_ptr op = op_new(ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE);

    op->request_delete_range = make(sizeof(*op->request_delete_range));
    etcdserverpb__delete_range_request__init(op->request_delete_range);
    op->request_delete_range->key = key;
    op->request_delete_range->range_end = end;
    return op;
}

static op_ptr del(const char *key, const char *end)
{
    return del_bytes(data(key), data(end));
}

static op_ptr del_from(const char *key)
{
    return del_bytes(data(key), (ProtobufCBinaryData){1, (uint8_t *)"\0"});
}

static op_ptr range(const char *key)
{
    op_ptr op = op_new(ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE);

    op->request_range = make(sizeof(*op->request_range));
    etcdserverpb__range_request__init(op->request_range);
    op->request_range->key = data(key);
    return op;
}

struct ops {
    size_t len;
    op_ptr items[200];
};

#define OPS(...) ((struct ops){sizeof((op_ptr[]){__VA_ARGS__}) / sizeof(op_ptr), {__VA_ARGS__}})
#define NO_OPS ((struct ops){0})

static struct ops repeat(op_ptr op, size_t n)
{
    struct ops ops = {n, {NULL}};

    for (size_t i = 0; i < n; i++)
        ops.items[i] = op;
    return ops;
}

static op_ptr *ops_copy(const struct ops *ops)
{
    return memcpy(make(ops->len * sizeof(op_ptr)), ops->items, ops->len * sizeof(op_ptr));
}

static Etcdserverpb__TxnRequest *txn(struct ops success, struct ops failure)
{
    Etcdserverpb__TxnRequest *r = make(sizeof(*r));

    etcdserverpb__txn_request__init(r);
    r->success = ops_copy(&success);
    r->n_success = success.len;
    r->failure = ops_copy(&failure);
    r->n_failure = failure.len;
    return r;
}

static op_ptr nested(struct ops success, struct ops failure)
{
    op_ptr op = op_new(ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN);

    op->request_txn = txn(success, failure);
    return op;
}

static int setup(void **state)
{
    arena_init(&arena);
    return 0;
}

static int teardown(void **state)
{
    arena_deinit(&arena);
    return 0;
}

static void expect(struct ops success, enum outcome want)
{
    assert_int_equal(check_txn(txn(success, NO_OPS), 128), want);
    assert_int_equal(check_txn(txn(NO_OPS, success), 128), want);
}

/* ---- single requests ---- */

static void test_range(void **state)
{
    Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;

    assert_int_equal(check_range(&r), OUTCOME_EMPTY_KEY);
    r.sort_order = 3;
    assert_int_equal(check_range(&r), OUTCOME_EMPTY_KEY);
    r.key = data("k");
    assert_int_equal(check_range(&r), OUTCOME_INVALID_SORT_OPTION);
    r.sort_order = -1;
    assert_int_equal(check_range(&r), OUTCOME_INVALID_SORT_OPTION);
    r.sort_order = 2;
    r.sort_target = 5;
    assert_int_equal(check_range(&r), OUTCOME_INVALID_SORT_OPTION);
    r.sort_target = 4;
    assert_int_equal(check_range(&r), OUTCOME_OK);
    r.limit = -5;
    r.revision = INT64_MIN;
    r.min_mod_revision = -1;
    assert_int_equal(check_range(&r), OUTCOME_OK);
}

static void test_range_stream(void **state)
{
    static const struct {
        int order, target;
        enum outcome want;
    } cases[] = {
        {0, 0, OUTCOME_OK},
        {0, 4, OUTCOME_OK},
        {1, 0, OUTCOME_OK},
        {1, 1, OUTCOME_RANGE_STREAM_SORT},
        {2, 0, OUTCOME_RANGE_STREAM_SORT},
        {2, 5, OUTCOME_INVALID_SORT_OPTION},
    };
    Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;

    r.key = data("k");
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        r.sort_order = cases[i].order;
        r.sort_target = cases[i].target;
        assert_int_equal(check_range_stream(&r), cases[i].want);
    }
    r.sort_order = 0;
    r.sort_target = 0;
    r.max_create_revision = -1;
    assert_int_equal(check_range_stream(&r), OUTCOME_RANGE_STREAM_FILTER);
    r.sort_order = 2;
    assert_int_equal(check_range_stream(&r), OUTCOME_RANGE_STREAM_SORT);
}

static void test_put(void **state)
{
    Etcdserverpb__PutRequest r = ETCDSERVERPB__PUT_REQUEST__INIT;

    r.ignore_value = 1;
    r.value = data("v");
    r.ignore_lease = 1;
    r.lease = -1;
    assert_int_equal(check_put(&r), OUTCOME_EMPTY_KEY);
    r.key = data("k");
    assert_int_equal(check_put(&r), OUTCOME_VALUE_PROVIDED);
    r.value = data("");
    assert_int_equal(check_put(&r), OUTCOME_LEASE_PROVIDED);
    r.lease = 0;
    assert_int_equal(check_put(&r), OUTCOME_OK);
    assert_int_equal(cost_put(&r), 256 + 1);
}

static void test_delete(void **state)
{
    Etcdserverpb__DeleteRangeRequest r = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;

    r.range_end = data("z");
    assert_int_equal(check_delete_range(&r), OUTCOME_EMPTY_KEY);
    r.key = data("zz");
    assert_int_equal(check_delete_range(&r), OUTCOME_OK);
}

/* ---- transactions: fields and budget ---- */

static void test_budget(void **state)
{
    struct ops full = repeat(range("a"), 128);
    struct ops with_nested = repeat(range("a"), 127);

    expect(repeat(range("a"), 129), OUTCOME_TOO_MANY_OPS);
    expect(full, OUTCOME_OK);
    with_nested.items[3] = nested(OPS(range("a")), NO_OPS);
    expect(with_nested, OUTCOME_OK);
    full.items[127] = nested(OPS(range("a")), NO_OPS);
    expect(full, OUTCOME_TOO_MANY_OPS);
    full.items[127] = nested(NO_OPS, NO_OPS);
    expect(full, OUTCOME_OK);
}

static void test_fields_come_depth_first(void **state)
{
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    Etcdserverpb__Compare *compares[] = {&compare};
    Etcdserverpb__TxnRequest *r = txn(OPS(put("")), NO_OPS);

    /* An operation that is none, in front of an empty key. */
    expect(OPS(op_new(ETCDSERVERPB__REQUEST_OP__REQUEST__NOT_SET), put("")), OUTCOME_KEY_NOT_FOUND);
    expect(OPS(nested(NO_OPS, OPS(put(""))), op_new(0)), OUTCOME_EMPTY_KEY);
    /* A wrong field comes before an overlap, wherever it stands. */
    expect(OPS(put("a"), put("a"), range("")), OUTCOME_EMPTY_KEY);
    r->success[0]->request_put->key = data("k");
    r->compare = compares;
    r->n_compare = 1;
    assert_int_equal(check_txn(r, 128), OUTCOME_EMPTY_KEY);
    compare.key = data("c");
    compare.result = 77;
    compare.target = 78;
    assert_int_equal(check_txn(r, 128), OUTCOME_OK);
}

/* ---- transactions: overlaps ---- */

static void test_overlap_in_one_list(void **state)
{
    expect(NO_OPS, OUTCOME_OK);
    expect(OPS(put("a"), put("b")), OUTCOME_OK);
    expect(OPS(put("a"), put("b"), put("a")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(put("a"), del("a", "")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(del("a", ""), put("a")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(del("a", ""), put("aa")), OUTCOME_OK);
    expect(OPS(del("a", "c"), put("b")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(put("a"), del("a", "c")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(put("c"), del("a", "c")), OUTCOME_OK);
    expect(OPS(put("b"), del("c", "a")), OUTCOME_OK);
    expect(OPS(del("a", "c"), del("b", "d"), del("a", "")), OUTCOME_OK);
    /* "All keys from here" overlaps nothing. */
    expect(OPS(put("k"), del_from("k")), OUTCOME_OK);
    expect(OPS(del_from("a"), put("k")), OUTCOME_OK);
    /* Reading is no writing. */
    expect(OPS(range("a"), range("a"), put("a")), OUTCOME_OK);
}

static void test_overlap_nested(void **state)
{
    expect(OPS(nested(OPS(put("a")), OPS(put("a")))), OUTCOME_OK);
    expect(OPS(nested(OPS(put("a"), put("a")), NO_OPS)), OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(NO_OPS, OPS(put("a"), del("a", "b")))), OUTCOME_DUPLICATE_KEY);
    expect(OPS(put("a"), nested(OPS(put("a")), NO_OPS)), OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(NO_OPS, OPS(put("a"))), put("a")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(OPS(put("a")), NO_OPS), nested(NO_OPS, OPS(put("a")))),
           OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(OPS(put("a")), NO_OPS), nested(OPS(put("b")), OPS(put("b")))), OUTCOME_OK);
    expect(OPS(del("a", "c"), nested(OPS(put("b")), NO_OPS)), OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(OPS(del("a", "c")), NO_OPS), put("b")), OUTCOME_DUPLICATE_KEY);
    expect(OPS(nested(NO_OPS, OPS(del("a", "c"))), nested(OPS(put("b")), NO_OPS)),
           OUTCOME_DUPLICATE_KEY);
    /* The other way round etcd doesn't see it. */
    expect(OPS(nested(OPS(put("b")), NO_OPS), nested(OPS(del("a", "c")), NO_OPS)), OUTCOME_OK);
    expect(OPS(nested(OPS(del("b", "")), OPS(put("b")))), OUTCOME_OK);
    expect(OPS(nested(OPS(nested(OPS(put("x")), NO_OPS)), OPS(put("x"))), put("x")),
           OUTCOME_DUPLICATE_KEY);
}

/* ---- the rule once more, slowly ---- */

enum { SLOW_MAX = 1024 };

struct slow {
    size_t n_puts, n_dels;
    struct bytes puts[SLOW_MAX];
    struct bytes dels[SLOW_MAX][2]; /* [begin, end) */
};

static struct bytes bytes_of_data(ProtobufCBinaryData d)
{
    return bytes_of(d.data, d.len);
}

static bool slow_has_put(const struct slow *s, struct bytes key)
{
    for (size_t i = 0; i < s->n_puts; i++)
        if (bytes_equal(s->puts[i], key))
            return true;
    return false;
}

static bool slow_has_del(const struct slow *s, struct bytes key)
{
    for (size_t i = 0; i < s->n_dels; i++)
        if (bytes_compare(s->dels[i][0], key) <= 0 && bytes_compare(key, s->dels[i][1]) < 0)
            return true;
    return false;
}

static void slow_add_del(struct slow *s, const Etcdserverpb__DeleteRangeRequest *r)
{
    struct bytes key = bytes_of_data(r->key), end = bytes_of_data(r->range_end);

    if (end.len == 0) {
        uint8_t *next = arena_alloc(&arena, key.len + 1);

        memcpy(next, key.data, key.len);
        next[key.len] = 0;
        end = bytes_of(next, key.len + 1);
    }
    assert_true(s->n_dels < SLOW_MAX);
    s->dels[s->n_dels][0] = key;
    s->dels[s->n_dels++][1] = end;
}

static bool slow_add_put(struct slow *s, struct bytes key, const struct slow *safe)
{
    if ((slow_has_put(s, key) && !(safe && slow_has_put(safe, key))) || slow_has_del(s, key))
        return false;
    assert_true(s->n_puts < SLOW_MAX);
    if (!slow_has_put(s, key))
        s->puts[s->n_puts++] = key;
    return true;
}

static bool slow_collect(op_ptr const *ops, size_t n_ops, struct slow *s);

static bool slow_add_txn(struct slow *s, const Etcdserverpb__TxnRequest *r)
{
    struct slow *a = make(sizeof(*a)), *b = make(sizeof(*b));

    if (!slow_collect(r->success, r->n_success, a) || !slow_collect(r->failure, r->n_failure, b))
        return false;
    for (size_t i = 0; i < a->n_puts; i++)
        if (!slow_add_put(s, a->puts[i], NULL))
            return false;
    for (size_t i = 0; i < b->n_puts; i++)
        if (!slow_add_put(s, b->puts[i], a))
            return false;
    assert_true(s->n_dels + a->n_dels + b->n_dels <= SLOW_MAX);
    for (size_t i = 0; i < a->n_dels; i++)
        memcpy(s->dels[s->n_dels++], a->dels[i], sizeof(a->dels[i]));
    for (size_t i = 0; i < b->n_dels; i++)
        memcpy(s->dels[s->n_dels++], b->dels[i], sizeof(b->dels[i]));
    return true;
}

static bool slow_collect(op_ptr const *ops, size_t n_ops, struct slow *s)
{
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE)
            slow_add_del(s, ops[i]->request_delete_range);
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN &&
            !slow_add_txn(s, ops[i]->request_txn))
            return false;
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT &&
            !slow_add_put(s, bytes_of_data(ops[i]->request_put->key), NULL))
            return false;
    return true;
}

static const char *random_key(struct rng *rng, unsigned letters)
{
    char *key = make(4);
    size_t len = 1 + rng_below(rng, 3);

    for (size_t i = 0; i < len; i++)
        key[i] = (char)('a' + rng_below(rng, letters));
    return key;
}

static struct ops random_ops(struct rng *rng, unsigned letters, size_t max, unsigned depth)
{
    struct ops ops = {rng_below(rng, max + 1), {NULL}};

    for (size_t i = 0; i < ops.len; i++) {
        uint64_t kind = rng_below(rng, depth ? 8 : 6);

        if (kind < 3)
            ops.items[i] = put(random_key(rng, letters));
        else if (kind == 3)
            ops.items[i] = del(random_key(rng, letters), "");
        else if (kind == 4)
            ops.items[i] = del(random_key(rng, letters), random_key(rng, letters));
        else if (kind == 5)
            ops.items[i] = rng_below(rng, 2) ? del_from(random_key(rng, letters)) : range("a");
        else
            ops.items[i] = nested(random_ops(rng, letters, max / 2, depth - 1),
                                  random_ops(rng, letters, max / 2, depth - 1));
    }
    return ops;
}

static void test_overlap_random(void **state)
{
    const uint64_t seed = 20261124;
    unsigned refused = 0, rounds = 20000;
    struct rng rng;

    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (unsigned round = 0; round < rounds; round++) {
        unsigned letters = (unsigned)(2 + rng_below(&rng, 25));
        struct ops ops = random_ops(&rng, letters, 1 + rng_below(&rng, 20), 2);
        Etcdserverpb__TxnRequest *r = txn(ops, NO_OPS);
        struct slow *s = make(sizeof(*s));
        enum outcome want =
            slow_collect(r->success, r->n_success, s) ? OUTCOME_OK : OUTCOME_DUPLICATE_KEY;

        if (check_txn(r, 128) != want)
            fail_msg("round %u: want %d", round, (int)want);
        refused += want != OUTCOME_OK;
        arena_reset(&arena);
    }
    assert_in_range(refused, rounds / 10, rounds * 9 / 10);
}

/* 128 * 127 / 2 operations and some in a flat tree of transactions, all deletes at odd places and
 * puts between them: quadratic work would show. */
static void test_overlap_large(void **state)
{
    struct ops top = {64, {NULL}};
    unsigned n = 0;

    for (size_t i = 0; i < top.len; i++) {
        struct ops branches[2] = {{60, {NULL}}, {60, {NULL}}};

        for (size_t j = 0; j < 120; j++, n++) {
            char *key = make(16), *end = make(16);

            snprintf(key, 16, "%08u", (n * 7919) % 1000003);
            snprintf(end, 16, "%s5", key);
            branches[j / 60].items[j % 60] = j % 2 ? put(key) : del(key, end);
        }
        top.items[i] = nested(branches[0], branches[1]);
    }
    uint64_t start_ns = clock_thread_cpu_ns();
    assert_int_equal(check_txn(txn(top, NO_OPS), 128), OUTCOME_OK);
    uint64_t ns = clock_thread_cpu_ns() - start_ns;
    print_message("%u operations in %llu us\n", n, (unsigned long long)(ns / 1000));
    top.items[63]->request_txn->failure[59] = put("00000000");
    top.items[0]->request_txn->success[0] = del("00000000", "");
    assert_int_equal(check_txn(txn(top, NO_OPS), 128), OUTCOME_DUPLICATE_KEY);
}

/* ---- cost and kind ---- */

static void test_cost(void **state)
{
    Etcdserverpb__TxnRequest *r =
        txn(OPS(put("abc"), del("a", ""), nested(OPS(put("d")), OPS(put("ee"), put("f")))),
            OPS(put("a"), range("b")));

    assert_int_equal(cost_txn(r), 259 + 258 + 257);
    assert_int_equal(cost_txn(txn(OPS(range("a"), del("a", "")), NO_OPS)), 0);
    assert_int_equal(cost_txn(txn(NO_OPS, OPS(put("a")))), 257);
}

static void test_read_only(void **state)
{
    Etcdserverpb__TxnRequest *reads = txn(OPS(range("a")), OPS(range("b")));

    assert_true(check_txn_read_only(txn(NO_OPS, NO_OPS)));
    assert_true(check_txn_serializable(txn(NO_OPS, NO_OPS)));
    assert_true(check_txn_read_only(reads));
    assert_false(check_txn_serializable(reads));
    reads->success[0]->request_range->serializable = 1;
    assert_false(check_txn_serializable(reads));
    reads->failure[0]->request_range->serializable = 1;
    assert_true(check_txn_serializable(reads));
    assert_false(check_txn_read_only(txn(OPS(range("a")), OPS(put("b")))));
    /* A transaction inside makes it a write, whatever is in there. */
    assert_false(check_txn_read_only(txn(OPS(nested(NO_OPS, NO_OPS)), NO_OPS)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_range_stream),
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_delete),
        cmocka_unit_test_setup_teardown(test_budget, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fields_come_depth_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overlap_in_one_list, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overlap_nested, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overlap_random, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overlap_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
