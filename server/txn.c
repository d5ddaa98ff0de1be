/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Put, DeleteRange, Txn (see txn.h).
 *
 * A transaction runs in three passes over the same tree, as in etcd, so that it happens whole or
 * not
 * at all:
 *
 *   choose   evaluates the compares of every transaction on the way, all against the state before;
 *            notes the branch taken.
 *   verify   range revisions, leases and previous keys on the taken path, still against the state
 *            before. The first failure ends it.
 *   execute  the operations in order; nothing can fail any more but the store itself.
 *
 * Invariants:
 *   (I1) nothing is written before verify has passed for the whole path.
 *   (I2) the branches are noted in the order in which verify and execute meet the transactions
 *        (depth first, list order).
 *
 * etcd 3.7.1 panics when a put with ignore_value or ignore_lease meets a key that an earlier
 * operation of the same transaction deleted (possible with an open-ended delete). Here verify finds
 * it and answers "key not found" (struct effect).
 */
#include "server/txn.h"

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/range.h"
#include "server/server_metrics.h"

#define OP_CASE(x) ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_##x
#define TARGET(x) ETCDSERVERPB__COMPARE__COMPARE_TARGET__##x
#define RESULT(x) ETCDSERVERPB__COMPARE__COMPARE_RESULT__##x
#define UNION(x) ETCDSERVERPB__COMPARE__TARGET_UNION_##x

enum {
    FIELD_PREV_KV = 2,
    FIELD_DELETED = 2,
    FIELD_PREV_KVS = 3,
    FIELD_SUCCEEDED = 2,
    FIELD_RESPONSES = 3
};
enum { OP_RANGE = 1, OP_PUT = 2, OP_DELETE_RANGE = 3, OP_TXN = 4 };

/* What the operations before the current one did to keys: verify's only memory. */
struct effect {
    struct interval interval;
    bool put;
};

struct run {
    struct mvcc *mvcc;
    struct lease_table *leases; /* NULL in a read-only run */
    struct arena *arena;        /* NULL in a read-only run */
    struct range_view view;
    bool *taken; /* (I2) */
    size_t n_taken, cap_taken;
    size_t cursor; /* next of taken */
    struct effect *effects;
    size_t n_effects, cap_effects;
    struct response_header inner; /* revision only */
    struct mvcc_counts counts;    /* since the last count_up() */
};

static enum outcome outcome_of_mvcc(int r)
{
    return r == MVCC_E_COMPACTED ? OUTCOME_COMPACTED : OUTCOME_FUTURE_REVISION;
}

/* The revision that a header shows: the one before the entry, or the entry's own once it has
 * changed something. */
static int64_t revision_now(const struct mvcc *m)
{
    return mvcc_writer_revision(m) + (mvcc_changed(m) ? 1 : 0);
}

static void answer_header(struct buf *out, const struct response_header *template, int64_t revision)
{
    struct response_header header = *template;

    header.revision = revision;
    encode_header(out, &header);
}

/* etcd reads in one transaction of its store and writes in another, and counts by these. */
static void count_up(struct run *run)
{
    server_metrics_count_mvcc(&run->counts);
    run->counts = (struct mvcc_counts){0};
}

/* ---- the three operations ---- */

static bool wants_previous(const Etcdserverpb__PutRequest *p)
{
    return p->prev_kv || p->ignore_value || p->ignore_lease;
}

static int put(struct run *run, const Etcdserverpb__PutRequest *p,
               const struct response_header *header, struct buf *out)
{
    struct bytes key = bytes_of_pb(p->key), value = bytes_of_pb(p->value);
    int64_t lease = p->lease;
    bool found = false;
    struct mvcc_item previous;
    int r;

    run->counts.ranges += wants_previous(p);
    if (wants_previous(p)) {
        r = mvcc_lookup(run->mvcc, key, p->prev_kv || p->ignore_value, &found, &previous);
        if (r < 0)
            return err_trace(r);
    }
    if (p->ignore_value || p->ignore_lease) {
        check(found); /* verified (I1) */
        if (p->ignore_lease)
            lease = previous.lease;
        if (p->ignore_value) {
            struct kv kv;
            if (!kv_decode(previous.encoded, &kv))
                return err_origin(-EBADMSG);
            value = arena_copy(run->arena, kv.value);
        }
    }
    if (out) {
        answer_header(out, header, mvcc_writer_revision(run->mvcc) + 1);
        if (p->prev_kv && found)
            encode_present_bytes(out, FIELD_PREV_KV, previous.encoded);
    }
    run->counts.puts++;
    run->counts.put_bytes += key.len + value.len;
    return mvcc_put(run->mvcc, key, value, lease);
}

struct doomed {
    struct arena *arena;
    struct buf *prev_kvs; /* NULL: not wanted */
    struct bytes *keys;
    size_t n, cap;
};

static int visit_doomed(void *arg, const struct mvcc_item *item)
{
    struct doomed *d = arg;

    if (d->n == d->cap) {
        d->cap = d->cap ? 2 * d->cap : 16;
        d->keys = mem_realloc(d->keys, d->cap * sizeof(*d->keys));
    }
    d->keys[d->n++] = arena_copy(d->arena, item->key);
    if (d->prev_kvs)
        encode_present_bytes(d->prev_kvs, FIELD_PREV_KVS, item->encoded);
    return 0;
}

static int find_doomed(struct run *run, const struct interval *interval, struct doomed *d)
{
    struct mvcc_range_options options = {
        .interval = *interval, .keys_only = !d->prev_kvs, .no_count = true};
    struct mvcc_range_result result;
    struct mvcc_item item;
    bool found;
    int r;

    if (interval->kind != INTERVAL_POINT) {
        r = mvcc_txn_range(run->mvcc, &options, visit_doomed, d, &result);
        return r > 0 ? err_fold(r) : r;
    }
    r = mvcc_lookup(run->mvcc, interval->key, d->prev_kvs != NULL, &found, &item);
    return r < 0 ? err_trace(r) : found ? visit_doomed(d, &item) : 0;
}

static int delete_range(struct run *run, const Etcdserverpb__DeleteRangeRequest *q,
                        const struct response_header *header, struct buf *out)
{
    struct interval interval = interval_parse(bytes_of_pb(q->key), bytes_of_pb(q->range_end));
    struct buf prev_kvs = BUF_NULL;
    struct doomed d = {.arena = run->arena, .prev_kvs = out && q->prev_kv ? &prev_kvs : NULL};
    int64_t deleted = 0;
    int r = find_doomed(run, &interval, &d);

    run->counts.ranges += q->prev_kv;
    run->counts.deletes++;
    for (size_t i = 0; r == 0 && i < d.n; i++) {
        bool was_live;
        r = mvcc_delete(run->mvcc, d.keys[i], &was_live);
        deleted += r == 0 && was_live;
    }
    if (r == 0 && out) {
        answer_header(out, header, revision_now(run->mvcc));
        encode_i64(out, FIELD_DELETED, deleted);
        buf_append_bytes(out, buf_bytes(&prev_kvs));
    }
    buf_deinit(&prev_kvs);
    free(d.keys);
    return r;
}

static int range(struct run *run, const Etcdserverpb__RangeRequest *q, struct buf *out)
{
    struct range_summary summary;
    int r;

    if (!out)
        return 0;
    run->counts.ranges++;
    r = range_encode(&run->view, q, (struct range_flags){.with_count = true}, out, &summary);
    if (r == 0)
        answer_header(out, &run->inner, summary.current);
    return r > 0 ? (int)outcome_of_mvcc(r) : r;
}

/* ---- choose ---- */

static int compare_i64(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

/* An operand of another kind than the target counts as absent: zero or empty. */
static int compare_item(const Etcdserverpb__Compare *c, const struct mvcc_item *item,
                        struct bytes value)
{
    switch (c->target) {
    case TARGET(VALUE):
        return bytes_compare(value, c->target_union_case == UNION(VALUE) ? bytes_of_pb(c->value)
                                                                         : BYTES_NULL);
    case TARGET(CREATE):
        return compare_i64(item->create,
                           c->target_union_case == UNION(CREATE_REVISION) ? c->create_revision : 0);
    case TARGET(MOD):
        return compare_i64(item->mod.main,
                           c->target_union_case == UNION(MOD_REVISION) ? c->mod_revision : 0);
    case TARGET(VERSION):
        return compare_i64(item->version, c->target_union_case == UNION(VERSION) ? c->version : 0);
    case TARGET(LEASE):
        return compare_i64(item->lease, c->target_union_case == UNION(LEASE) ? c->lease : 0);
    default: return 0;
    }
}

static bool compare_holds(const Etcdserverpb__Compare *c, int comparison)
{
    switch (c->result) {
    case RESULT(EQUAL): return comparison == 0;
    case RESULT(NOT_EQUAL): return comparison != 0;
    case RESULT(GREATER): return comparison > 0;
    case RESULT(LESS): return comparison < 0;
    default: return true;
    }
}

struct compare_walk {
    const Etcdserverpb__Compare *compare;
    size_t seen;
    bool holds;
};

static int visit_compare(void *arg, const struct mvcc_item *item)
{
    struct compare_walk *w = arg;
    struct kv kv = {.value = BYTES_NULL};

    if (w->compare->target == TARGET(VALUE) && !kv_decode(item->encoded, &kv))
        return err_origin(-EBADMSG);
    w->seen++;
    w->holds = w->holds && compare_holds(w->compare, compare_item(w->compare, item, kv.value));
    return 0;
}

static int compare_walk(struct run *run, const struct interval *interval, struct compare_walk *w)
{
    struct mvcc_range_options options = {.interval = *interval,
                                         .revision = run->view.pinned,
                                         .keys_only = w->compare->target != TARGET(VALUE),
                                         .no_count = true};
    struct mvcc_range_result result;
    struct mvcc_item item;
    bool found;
    int r;

    run->counts.ranges++;
    if (!run->view.writing)
        return mvcc_range(run->mvcc, &options, visit_compare, w, &result);
    if (interval->kind != INTERVAL_POINT)
        return mvcc_txn_range(run->mvcc, &options, visit_compare, w, &result);
    r = mvcc_lookup(run->mvcc, interval->key, !options.keys_only, &found, &item);
    return r < 0 ? err_trace(r) : found ? visit_compare(w, &item) : 0;
}

/* An absent key compares as zeros, but no value compares with an absent one. */
static int evaluate(struct run *run, const Etcdserverpb__Compare *c, bool *ret)
{
    struct interval interval = interval_parse(bytes_of_pb(c->key), bytes_of_pb(c->range_end));
    struct compare_walk w = {.compare = c, .holds = true};
    int r = compare_walk(run, &interval, &w);

    if (r != 0)
        return r;
    if (w.seen == 0)
        w.holds = c->target != TARGET(VALUE) &&
                  compare_holds(c, compare_item(c, &(struct mvcc_item){0}, BYTES_NULL));
    *ret = w.holds;
    return 0;
}

static void note_taken(struct run *run, bool taken)
{
    if (run->n_taken == run->cap_taken) {
        run->cap_taken = run->cap_taken ? 2 * run->cap_taken : 8;
        run->taken = mem_realloc(run->taken, run->cap_taken * sizeof(*run->taken));
    }
    run->taken[run->n_taken++] = taken;
}

struct branch {
    Etcdserverpb__RequestOp **ops;
    size_t n;
};

static struct branch branch_of(const Etcdserverpb__TxnRequest *t, bool taken)
{
    return taken ? (struct branch){t->success, t->n_success}
                 : (struct branch){t->failure, t->n_failure};
}

static int choose(struct run *run, const Etcdserverpb__TxnRequest *t, unsigned depth)
{
    bool taken = true;
    int r;

    if (depth > TXN_DEPTH_MAX)
        return OUTCOME_TOO_MANY_OPS;
    for (size_t i = 0; taken && i < t->n_compare; i++) {
        r = evaluate(run, t->compare[i], &taken);
        if (r != 0)
            return r > 0 ? (int)outcome_of_mvcc(r) : r;
    }
    note_taken(run, taken);
    struct branch branch = branch_of(t, taken);
    for (size_t i = 0; i < branch.n; i++) {
        if (branch.ops[i]->request_case != OP_CASE(TXN))
            continue;
        r = choose(run, branch.ops[i]->request_txn, depth + 1);
        if (r != 0)
            return r;
    }
    return 0;
}

/* ---- verify ---- */

static enum outcome verify_range(struct run *run, const Etcdserverpb__RangeRequest *q)
{
    int64_t current = run->view.writing ? mvcc_writer_revision(run->mvcc) : run->view.pinned;

    if (q->revision == 0)
        return OUTCOME_OK;
    if (q->revision > current)
        return OUTCOME_FUTURE_REVISION;
    return q->revision < mvcc_compacted(run->mvcc) ? OUTCOME_COMPACTED : OUTCOME_OK;
}

static void note_effect(struct run *run, struct interval interval, bool is_put)
{
    if (run->n_effects == run->cap_effects) {
        run->cap_effects = run->cap_effects ? 2 * run->cap_effects : 16;
        run->effects = mem_realloc(run->effects, run->cap_effects * sizeof(*run->effects));
    }
    run->effects[run->n_effects++] = (struct effect){interval, is_put};
}

/* The newest earlier operation that touches the key deleted it. */
static bool deleted_before(const struct run *run, struct bytes key)
{
    for (size_t i = run->n_effects; i-- > 0;) {
        if (interval_contains(&run->effects[i].interval, key))
            return !run->effects[i].put;
    }
    return false;
}

static int verify_put(struct run *run, const Etcdserverpb__PutRequest *p)
{
    struct bytes key = bytes_of_pb(p->key);
    struct mvcc_item item;
    bool found;
    int r;

    if (key.len == 0) { /* no member proposes that */
        log_error("an entry puts a value without a key");
        return err_origin(-EBADMSG);
    }
    if (p->lease != 0 && !lease_exists(run->leases, p->lease))
        return OUTCOME_LEASE_NOT_FOUND;
    if (p->ignore_value || p->ignore_lease) {
        r = mvcc_lookup(run->mvcc, key, false, &found, &item);
        if (r < 0)
            return err_trace(r);
        if (!found || deleted_before(run, key))
            return OUTCOME_KEY_NOT_FOUND;
    }
    return 0;
}

static int verify(struct run *run, const Etcdserverpb__TxnRequest *t);

static int verify_op(struct run *run, const Etcdserverpb__RequestOp *op)
{
    int r = 0;

    switch (op->request_case) {
    case OP_CASE(RANGE): r = (int)verify_range(run, op->request_range); break;
    case OP_CASE(PUT):
        r = verify_put(run, op->request_put);
        run->counts.ranges += wants_previous(op->request_put);
        note_effect(
            run,
            (struct interval){.kind = INTERVAL_POINT, .key = bytes_of_pb(op->request_put->key)},
            true);
        break;
    case OP_CASE(DELETE_RANGE):
        note_effect(run,
                    interval_parse(bytes_of_pb(op->request_delete_range->key),
                                   bytes_of_pb(op->request_delete_range->range_end)),
                    false);
        break;
    case OP_CASE(TXN): r = verify(run, op->request_txn); break;
    default: break;
    }
    return r;
}

static int verify(struct run *run, const Etcdserverpb__TxnRequest *t)
{
    struct branch branch = branch_of(t, run->taken[run->cursor++]);
    int r = 0;

    for (size_t i = 0; r == 0 && i < branch.n; i++)
        r = verify_op(run, branch.ops[i]);
    return r;
}

/* ---- execute ---- */

static int execute(struct run *run, const Etcdserverpb__TxnRequest *t, struct buf *out);

static int execute_op(struct run *run, const Etcdserverpb__RequestOp *op, struct buf *out)
{
    uint32_t field = (uint32_t)op->request_case;
    size_t mark = out && field != 0 ? encode_begin(out, field) : 0;
    int r = 0;

    switch (op->request_case) {
    case OP_CASE(RANGE): r = range(run, op->request_range, out); break;
    case OP_CASE(PUT): r = put(run, op->request_put, &run->inner, out); break;
    case OP_CASE(DELETE_RANGE):
        r = delete_range(run, op->request_delete_range, &run->inner, out);
        break;
    case OP_CASE(TXN):
        if (out)
            encode_present_bytes(out, 1, BYTES_NULL); /* etcd's nested header: there, and empty */
        r = execute(run, op->request_txn, out);
        break;
    default: break;
    }
    if (r == 0 && out && field != 0)
        encode_end(out, mark);
    return r;
}

static int execute(struct run *run, const Etcdserverpb__TxnRequest *t, struct buf *out)
{
    bool taken = run->taken[run->cursor++];
    struct branch branch = branch_of(t, taken);
    int r = 0;

    if (out)
        encode_bool(out, FIELD_SUCCEEDED, taken);
    for (size_t i = 0; r == 0 && i < branch.n; i++) {
        size_t mark = out ? encode_begin(out, FIELD_RESPONSES) : 0;
        r = execute_op(run, branch.ops[i], out);
        if (r == 0 && out)
            encode_end(out, mark);
    }
    return r;
}

/* ---- the doors ---- */

static struct run run_of(struct txn_context *ctx)
{
    return (struct run){.mvcc = ctx->mvcc,
                        .leases = ctx->leases,
                        .arena = ctx->arena,
                        .view = {.mvcc = ctx->mvcc, .writing = true}};
}

static void run_deinit(struct run *run)
{
    free(run->taken);
    free(run->effects);
}

int txn_put(struct txn_context *ctx, const Etcdserverpb__PutRequest *request, struct buf *out)
{
    struct run run = run_of(ctx);
    int r = verify_put(&run, request);

    if (r == 0)
        r = put(&run, request, &ctx->header, out);
    else if (r == OUTCOME_KEY_NOT_FOUND)
        run.counts.ranges++;
    count_up(&run);
    return r;
}

int txn_delete_range(struct txn_context *ctx, const Etcdserverpb__DeleteRangeRequest *request,
                     struct buf *out)
{
    struct run run = run_of(ctx);
    int r = delete_range(&run, request, &ctx->header, out);

    count_up(&run);
    return r;
}

static int run_all(struct run *run, const Etcdserverpb__TxnRequest *request, struct buf *out)
{
    int r = choose(run, request, 1);

    if (r == 0)
        r = verify(run, request);
    if (run->view.writing)
        count_up(run);
    run->cursor = 0;
    if (r == 0)
        r = execute(run, request, out);
    count_up(run);
    return r;
}

int txn_txn(struct txn_context *ctx, const Etcdserverpb__TxnRequest *request, struct buf *out)
{
    struct run run = run_of(ctx);
    int r = run_all(&run, request, out);

    if (r > 0)
        check(!mvcc_changed(ctx->mvcc)); /* (I1) */
    if (r == 0 && out)
        answer_header(out, &ctx->header, revision_now(ctx->mvcc));
    run_deinit(&run);
    return r;
}

/* A compaction may overtake the pinned revision; then everything is asked again at the newer one,
 * unless the request itself names a compacted revision. */
int txn_read_only(struct mvcc *mvcc, const struct response_header *header,
                  const Etcdserverpb__TxnRequest *request, struct buf *out)
{
    size_t start = out->len;
    int64_t revision;
    int r;

    do {
        out->len = start;
        revision = mvcc_revision(mvcc);
        struct run run = {.mvcc = mvcc, .view = {.mvcc = mvcc, .pinned = revision}};
        r = run_all(&run, request, out);
        run_deinit(&run);
    } while (r == OUTCOME_COMPACTED && mvcc_compacted(mvcc) > revision);
    if (r == 0)
        answer_header(out, header, revision);
    return r;
}

bool txn_delete_range_scans(const Etcdserverpb__DeleteRangeRequest *request)
{
    return request->range_end.len > 0;
}

/* A negative revision reads the head, but is refused once something was compacted: by an entry of
 * this very turn, too. */
static bool branch_scans(Etcdserverpb__RequestOp **ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const Etcdserverpb__RequestOp *op = ops[i];
        if ((op->request_case == OP_CASE(RANGE) &&
             (op->request_range->range_end.len > 0 || op->request_range->revision != 0)) ||
            (op->request_case == OP_CASE(DELETE_RANGE) &&
             txn_delete_range_scans(op->request_delete_range)) ||
            (op->request_case == OP_CASE(TXN) && txn_txn_scans(op->request_txn)))
            return true;
    }
    return false;
}

bool txn_txn_scans(const Etcdserverpb__TxnRequest *request)
{
    for (size_t i = 0; i < request->n_compare; i++) {
        if (request->compare[i]->range_end.len > 0)
            return true;
    }
    return branch_scans(request->success, request->n_success) ||
           branch_scans(request->failure, request->n_failure);
}
