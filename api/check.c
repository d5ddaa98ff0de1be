/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request validation. The interesting part is the overlap check of transactions: no key may be put
 * twice, nor put and deleted, in one branch. etcd's rule for a list of operations, with P the keys
 * put and D the deleted intervals:
 *
 *   1. D starts as the list's own deletes, taken literally: "range_end = one zero byte" (all keys
 * from here) is read as the byte string 0x00, which ends before it starts and so overlaps nothing.
 *   2. Each nested transaction in turn: check both its branches by themselves; then each put of its
 * success branch must be in neither P nor D, each put of its failure branch likewise, but may be in
 * P if the success branch put it there; then its deletes join D.
 *   3. Each own put must be in neither P nor D.
 *
 * So deletes may overlap, and some overlaps with later siblings pass: clients rely on what etcd
 * accepts, and we accept the same.
 *
 * A message of 2 MiB holds some 300,000 nested operations, so P is a hash map and D a stack of
 * sorted runs that double in size (each interval is merged O(log n) times, a lookup is O(log² n)).
 * Lists of up to OPS_SMALL plain operations, which is nearly all there are, need neither. Recursion
 * is bounded by the budget of operations: each level takes at least one.
 *
 * Thread: any; nothing is kept.
 */
#include "api/check.h"

#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"

#define ORDER(x) ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__##x
#define TARGET(x) ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__##x
#define OP(x) ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_##x

enum outcome check_range(const Etcdserverpb__RangeRequest *r)
{
    if (r->key.len == 0)
        return OUTCOME_EMPTY_KEY;
    if ((unsigned)r->sort_order > ORDER(DESCEND) || (unsigned)r->sort_target > TARGET(VALUE))
        return OUTCOME_INVALID_SORT_OPTION;
    return OUTCOME_OK;
}

enum outcome check_range_stream(const Etcdserverpb__RangeRequest *r)
{
    enum outcome outcome = check_range(r);
    if (outcome)
        return outcome;
    /* Without an order the target has no say, here as in Range. */
    if (r->sort_order != ORDER(NONE) &&
        !(r->sort_order == ORDER(ASCEND) && r->sort_target == TARGET(KEY)))
        return OUTCOME_RANGE_STREAM_SORT;
    if (r->min_mod_revision || r->max_mod_revision || r->min_create_revision ||
        r->max_create_revision)
        return OUTCOME_RANGE_STREAM_FILTER;
    return OUTCOME_OK;
}

enum outcome check_put(const Etcdserverpb__PutRequest *r)
{
    if (r->key.len == 0)
        return OUTCOME_EMPTY_KEY;
    if (r->ignore_value && r->value.len)
        return OUTCOME_VALUE_PROVIDED;
    if (r->ignore_lease && r->lease)
        return OUTCOME_LEASE_PROVIDED;
    return OUTCOME_OK;
}

enum outcome check_delete_range(const Etcdserverpb__DeleteRangeRequest *r)
{
    return r->key.len ? OUTCOME_OK : OUTCOME_EMPTY_KEY;
}

/* ---- fields and budget ---- */

static enum outcome check_txn_fields(const Etcdserverpb__TxnRequest *r, size_t budget);

static enum outcome check_op(const Etcdserverpb__RequestOp *op, size_t budget)
{
    switch (op->request_case) {
    case OP(RANGE): return check_range(op->request_range);
    case OP(PUT): return check_put(op->request_put);
    case OP(DELETE_RANGE): return check_delete_range(op->request_delete_range);
    case OP(TXN): return check_txn_fields(op->request_txn, budget);
    default: return OUTCOME_KEY_NOT_FOUND; /* etcd's answer to an operation that is none */
    }
}

static enum outcome check_ops(Etcdserverpb__RequestOp *const *ops, size_t n_ops, size_t budget)
{
    for (size_t i = 0; i < n_ops; i++) {
        enum outcome outcome = check_op(ops[i], budget);
        if (outcome)
            return outcome;
    }
    return OUTCOME_OK;
}

static enum outcome check_txn_fields(const Etcdserverpb__TxnRequest *r, size_t budget)
{
    size_t n = r->n_compare;
    n = n < r->n_success ? r->n_success : n;
    n = n < r->n_failure ? r->n_failure : n;
    if (n > budget)
        return OUTCOME_TOO_MANY_OPS;
    for (size_t i = 0; i < r->n_compare; i++)
        if (r->compare[i]->key.len == 0)
            return OUTCOME_EMPTY_KEY;
    enum outcome outcome = check_ops(r->success, r->n_success, budget - n);
    return outcome ? outcome : check_ops(r->failure, r->n_failure, budget - n);
}

/* ---- overlaps ---- */

enum { OPS_SMALL = 16, RUNS_MAX = 40 };

static struct bytes put_key(const Etcdserverpb__RequestOp *op)
{
    return bytes_of(op->request_put->key.data, op->request_put->key.len);
}

/* A deleted interval. A point [k, k+0x00) is kept as such: end is not a string in the message then.
 */
struct span {
    struct bytes begin;
    struct bytes end;
    bool point;
};

static struct span span_of(const Etcdserverpb__DeleteRangeRequest *r)
{
    struct span s = {bytes_of(r->key.data, r->key.len),
                     bytes_of(r->range_end.data, r->range_end.len), r->range_end.len == 0};
    return s;
}

static bool span_contains(const struct span *s, struct bytes key)
{
    if (s->point)
        return bytes_equal(s->begin, key);
    return bytes_compare(s->begin, key) <= 0 && bytes_compare(key, s->end) < 0;
}

/* Compares the ends of two spans; a point's end is its key followed by a zero byte. */
static int span_end_compare(const struct span *a, const struct span *b)
{
    struct bytes x = a->point ? a->begin : a->end, y = b->point ? b->begin : b->end;
    if (a->point == b->point)
        return bytes_compare(x, y);
    if (b->point)
        return -span_end_compare(b, a);
    /* x + 0x00 against y. */
    if (!bytes_has_prefix(y, x))
        return bytes_compare(x, y);
    if (y.len == x.len)
        return 1;
    return y.data[x.len] == 0 && y.len == x.len + 1 ? 0 : -1;
}

/* Sorted by begin; ends ascend too: a span inside an earlier one is left out. */
struct span_run {
    struct span *spans;
    size_t len;
};

struct span_set {
    struct span_run runs[RUNS_MAX]; /* each at least twice as long as the next */
    size_t n_runs;
};

static void span_set_deinit(struct span_set *set)
{
    for (size_t i = 0; i < set->n_runs; i++)
        free(set->runs[i].spans);
}

static void run_append(struct span_run *run, const struct span *s)
{
    if (run->len && span_end_compare(s, &run->spans[run->len - 1]) <= 0)
        return;
    run->spans[run->len++] = *s;
}

static struct span_run runs_merge(struct span_run a, struct span_run b)
{
    struct span_run out = {mem_alloc_raw((a.len + b.len) * sizeof(struct span)), 0};
    size_t i = 0, j = 0;
    while (i < a.len || j < b.len) {
        bool take_a =
            j == b.len || (i < a.len && bytes_compare(a.spans[i].begin, b.spans[j].begin) <= 0);
        run_append(&out, take_a ? &a.spans[i++] : &b.spans[j++]);
    }
    free(a.spans);
    free(b.spans);
    return out;
}

/* Takes the run. */
static void span_set_add_run(struct span_set *set, struct span_run run)
{
    while (set->n_runs && set->runs[set->n_runs - 1].len < 2 * run.len)
        run = runs_merge(set->runs[--set->n_runs], run);
    check(set->n_runs < RUNS_MAX);
    set->runs[set->n_runs++] = run;
}

static void span_set_add(struct span_set *set, struct span s)
{
    if (!s.point && bytes_compare(s.begin, s.end) >= 0)
        return; /* contains nothing */
    struct span_run run = {mem_alloc_raw(sizeof(s)), 1};
    run.spans[0] = s;
    span_set_add_run(set, run);
}

/* Empties from. */
static void span_set_join(struct span_set *set, struct span_set *from)
{
    for (size_t i = 0; i < from->n_runs; i++)
        span_set_add_run(set, from->runs[i]);
    from->n_runs = 0;
}

static bool run_contains(const struct span_run *run, struct bytes key)
{
    /* The last span that begins at or before key reaches furthest among those, because ends ascend.
     */
    size_t low = 0, high = run->len;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bytes_compare(run->spans[middle].begin, key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && span_contains(&run->spans[low - 1], key);
}

static bool span_set_contains(const struct span_set *set, struct bytes key)
{
    for (size_t i = 0; i < set->n_runs; i++)
        if (run_contains(&set->runs[i], key))
            return true;
    return false;
}

/* What a list of operations writes. */
struct writes {
    struct map_bytes puts;
    struct span_set deletes;
};

static void writes_deinit(struct writes *w)
{
    map_bytes_deinit(&w->puts);
    span_set_deinit(&w->deletes);
}

static enum outcome writes_collect(Etcdserverpb__RequestOp *const *ops, size_t n_ops,
                                   struct writes *w);

/* Adds the puts of one branch. Keys that also_in holds may be there already. */
static enum outcome writes_add_puts(struct writes *w, const struct map_bytes *puts,
                                    const struct map_bytes *also_in)
{
    size_t pos = 0;
    struct bytes key;
    while (map_bytes_next(puts, &pos, &key)) {
        if (map_bytes_get(&w->puts, key) && !(also_in && map_bytes_get(also_in, key)))
            return OUTCOME_DUPLICATE_KEY;
        if (span_set_contains(&w->deletes, key))
            return OUTCOME_DUPLICATE_KEY;
        map_bytes_put(&w->puts, key, w);
    }
    return OUTCOME_OK;
}

static enum outcome writes_add_txn(struct writes *w, const Etcdserverpb__TxnRequest *r)
{
    _cleanup_(writes_deinit) struct writes success = {0}, failure = {0};
    enum outcome outcome = writes_collect(r->success, r->n_success, &success);
    if (!outcome)
        outcome = writes_collect(r->failure, r->n_failure, &failure);
    if (!outcome)
        outcome = writes_add_puts(w, &success.puts, NULL);
    if (!outcome)
        outcome = writes_add_puts(w, &failure.puts, &success.puts);
    if (outcome)
        return outcome;
    span_set_join(&w->deletes, &success.deletes);
    span_set_join(&w->deletes, &failure.deletes);
    return OUTCOME_OK;
}

static enum outcome writes_collect(Etcdserverpb__RequestOp *const *ops, size_t n_ops,
                                   struct writes *w)
{
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case == OP(DELETE_RANGE))
            span_set_add(&w->deletes, span_of(ops[i]->request_delete_range));
    for (size_t i = 0; i < n_ops; i++) {
        enum outcome outcome =
            ops[i]->request_case == OP(TXN) ? writes_add_txn(w, ops[i]->request_txn) : OUTCOME_OK;
        if (outcome)
            return outcome;
    }
    for (size_t i = 0; i < n_ops; i++) {
        if (ops[i]->request_case != OP(PUT))
            continue;
        struct bytes key = put_key(ops[i]);
        if (map_bytes_get(&w->puts, key) || span_set_contains(&w->deletes, key))
            return OUTCOME_DUPLICATE_KEY;
        map_bytes_put(&w->puts, key, w);
    }
    return OUTCOME_OK;
}

static bool ops_are_small(Etcdserverpb__RequestOp *const *ops, size_t n_ops)
{
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case == OP(TXN))
            return false;
    return n_ops <= OPS_SMALL;
}

/* Few operations and none nested: each put against each other write. */
static enum outcome check_overlap_small(Etcdserverpb__RequestOp *const *ops, size_t n_ops)
{
    for (size_t i = 0; i < n_ops; i++) {
        if (ops[i]->request_case != OP(PUT))
            continue;
        struct bytes key = put_key(ops[i]);
        for (size_t j = 0; j < n_ops; j++) {
            if (ops[j]->request_case == OP(DELETE_RANGE)) {
                struct span s = span_of(ops[j]->request_delete_range);
                if (span_contains(&s, key))
                    return OUTCOME_DUPLICATE_KEY;
            } else if (j < i && ops[j]->request_case == OP(PUT) &&
                       bytes_equal(key, put_key(ops[j]))) {
                return OUTCOME_DUPLICATE_KEY;
            }
        }
    }
    return OUTCOME_OK;
}

static enum outcome check_overlap(Etcdserverpb__RequestOp *const *ops, size_t n_ops)
{
    if (ops_are_small(ops, n_ops))
        return check_overlap_small(ops, n_ops);
    _cleanup_(writes_deinit) struct writes w = {0};
    return writes_collect(ops, n_ops, &w);
}

enum outcome check_txn(const Etcdserverpb__TxnRequest *r, uint32_t ops_max)
{
    enum outcome outcome = check_txn_fields(r, ops_max);
    if (!outcome)
        outcome = check_overlap(r->success, r->n_success);
    return outcome ? outcome : check_overlap(r->failure, r->n_failure);
}

/* ---- kind ---- */

static bool ops_are_ranges(Etcdserverpb__RequestOp *const *ops, size_t n_ops, bool serializable)
{
    for (size_t i = 0; i < n_ops; i++)
        if (ops[i]->request_case != OP(RANGE) ||
            (serializable && !ops[i]->request_range->serializable))
            return false;
    return true;
}

bool check_txn_read_only(const Etcdserverpb__TxnRequest *r)
{
    return ops_are_ranges(r->success, r->n_success, false) &&
           ops_are_ranges(r->failure, r->n_failure, false);
}

bool check_txn_serializable(const Etcdserverpb__TxnRequest *r)
{
    return ops_are_ranges(r->success, r->n_success, true) &&
           ops_are_ranges(r->failure, r->n_failure, true);
}
