/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients ask for: random requests over a few keys, so that they meet each other.
 *
 * Thread: the only one.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/clients.h"
#include "tests/sim/holders.h"
#include "tests/sim/model.h"

enum { VALUE_BYTES_MAX = 14000, OPS_MAX = 4, LEASES_KEPT = 8 };

/* Memory of one request while it is made; and the leases that clients know of. */
static struct arena arena;
static int64_t leases[LEASES_KEPT];
static size_t n_leases;

void op_make_init(void)
{
    arena_init(&arena);
    n_leases = 0;
}

void op_make_deinit(void)
{
    arena_deinit(&arena);
}

static ProtobufCBinaryData pb_of(const char *text)
{
    struct bytes copy = arena_copy(&arena, bytes_str(text));

    return (ProtobufCBinaryData){copy.len, (uint8_t *)(uintptr_t)copy.data};
}

static ProtobufCBinaryData key_number(uint64_t n)
{
    char text[16];

    snprintf(text, sizeof(text), "k%02u", (unsigned)n);
    return pb_of(text);
}

static ProtobufCBinaryData random_key(struct rng *rng)
{
    return key_number(rng_below(rng, world.o.n_keys));
}

/* Each value is written once. */
static ProtobufCBinaryData new_value(const struct op *op, unsigned sub, struct rng *rng)
{
    size_t len = rng_below(rng, world.o.large_one_in) == 0 ? rng_below(rng, VALUE_BYTES_MAX)
                                                           : rng_below(rng, 40);
    char *text = arena_alloc(&arena, len + 48);
    int n = snprintf(text, 48, "v%u.%u.", (unsigned)op->number, sub);

    memset(text + n, 'x', len);
    return (ProtobufCBinaryData){(size_t)n + len, (uint8_t *)text};
}

static int64_t known_lease(struct rng *rng)
{
    return n_leases && rng_below(rng, 6) == 0 ? leases[rng_below(rng, n_leases)] : 0;
}

/* The end of a range that begins somewhere in the keys; empty: one key. */
static ProtobufCBinaryData random_end(struct rng *rng)
{
    switch (rng_below(rng, 6)) {
    case 0: return pb_of("l");
    case 1: return (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "\0"};
    case 2: return random_key(rng); /* may be before the beginning */
    default: return (ProtobufCBinaryData){0, NULL};
    }
}

static int64_t old_revision(struct rng *rng)
{
    int64_t head = model_revision(), back = (int64_t)rng_below(rng, 30);

    return head > back ? head - back : 1;
}

/* ---- messages ---- */

static void fill_put(Etcdserverpb__PutRequest *q, const struct op *op, unsigned sub,
                     struct rng *rng)
{
    etcdserverpb__put_request__init(q);
    q->key = random_key(rng);
    q->value = new_value(op, sub, rng);
    q->prev_kv = rng_below(rng, 3) == 0;
    q->lease = known_lease(rng);
}

static void fill_delete(Etcdserverpb__DeleteRangeRequest *q, struct rng *rng)
{
    etcdserverpb__delete_range_request__init(q);
    q->key = random_key(rng);
    q->prev_kv = rng_below(rng, 3) == 0;
    if (rng_below(rng, 4) == 0)
        q->range_end = random_key(rng);
}

static void fill_range(Etcdserverpb__RangeRequest *q, struct rng *rng, bool may_be_old)
{
    etcdserverpb__range_request__init(q);
    q->key = random_key(rng);
    q->range_end = random_end(rng);
    if (may_be_old && rng_below(rng, 4) == 0)
        q->revision = old_revision(rng) + (rng_below(rng, 40) == 0 ? 30 : 0);
    if (rng_below(rng, 6) == 0)
        q->limit = 1 + (int64_t)rng_below(rng, 4);
    q->keys_only = rng_below(rng, 8) == 0;
    q->count_only = rng_below(rng, 8) == 0;
}

static Etcdserverpb__RequestOp *random_op(const struct op *op, unsigned sub, struct rng *rng)
{
    Etcdserverpb__RequestOp *r = arena_alloc(&arena, sizeof(*r));

    etcdserverpb__request_op__init(r);
    switch (rng_below(rng, 4)) {
    case 0:
        r->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
        r->request_range = arena_alloc(&arena, sizeof(*r->request_range));
        fill_range(r->request_range, rng, rng_below(rng, 4) == 0);
        break;
    case 1:
        r->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
        r->request_delete_range = arena_alloc(&arena, sizeof(*r->request_delete_range));
        fill_delete(r->request_delete_range, rng);
        break;
    default:
        r->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
        r->request_put = arena_alloc(&arena, sizeof(*r->request_put));
        fill_put(r->request_put, op, sub, rng);
        break;
    }
    return r;
}

static Etcdserverpb__Compare *random_compare(struct rng *rng)
{
    Etcdserverpb__Compare *c = arena_alloc(&arena, sizeof(*c));

    etcdserverpb__compare__init(c);
    c->key = random_key(rng);
    c->result = (Etcdserverpb__Compare__CompareResult)rng_below(rng, 4);
    switch (rng_below(rng, 3)) {
    case 0:
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION;
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VERSION;
        c->version = (int64_t)rng_below(rng, 3);
        break;
    case 1:
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
        c->create_revision = rng_below(rng, 2) ? old_revision(rng) : 0;
        break;
    default:
        c->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD;
        c->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_MOD_REVISION;
        c->mod_revision = model_mod_revision(bytes_of(c->key.data, c->key.len));
        break;
    }
    return c;
}

/* Deletes of overlapping intervals, and two puts of one key, are refused before proposing by
 * api/. */
static bool conflicts(Etcdserverpb__RequestOp *const *ops, size_t n)
{
    size_t n_writes = 0;

    for (size_t i = 0; i < n; i++)
        n_writes += ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    for (size_t i = 0; i < n; i++) {
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE &&
            n_writes > 1)
            return true;
        for (size_t k = 0; k < i; k++)
            if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT &&
                ops[k]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT &&
                memcmp(ops[i]->request_put->key.data, ops[k]->request_put->key.data, 3) == 0)
                return true;
    }
    return false;
}

static size_t random_ops(const struct op *op, unsigned sub, struct rng *rng,
                         Etcdserverpb__RequestOp ***ret)
{
    size_t n = rng_below(rng, OPS_MAX + 1);

    *ret = arena_alloc(&arena, (n + 1) * sizeof(**ret));
    do {
        for (size_t i = 0; i < n; i++)
            (*ret)[i] = random_op(op, sub + (unsigned)i, rng);
    } while (conflicts(*ret, n));
    return n;
}

/* ---- requests ---- */

#define PACK(op, package_name, message)                                                            \
    do {                                                                                           \
        size_t size_ = package_name##__get_packed_size(message);                                   \
        buf_reserve(&(op)->payload, size_ + 1);                                                    \
        (op)->payload.len = package_name##__pack(message, (op)->payload.data);                     \
        (op)->request.payload = buf_bytes(&(op)->payload);                                         \
    } while (0)

static void make_put(struct op *op, struct rng *rng)
{
    Etcdserverpb__PutRequest q;

    fill_put(&q, op, 0, rng);
    op->request.kind = REQUEST_PUT;
    PACK(op, etcdserverpb__put_request, &q);
}

static void make_delete(struct op *op, struct rng *rng)
{
    Etcdserverpb__DeleteRangeRequest q;

    fill_delete(&q, rng);
    op->request.kind = REQUEST_DELETE_RANGE;
    PACK(op, etcdserverpb__delete_range_request, &q);
}

static bool only_ranges(Etcdserverpb__RequestOp *const *ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ops[i]->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE)
            return false;
    return true;
}

static void make_txn(struct op *op, struct rng *rng)
{
    Etcdserverpb__TxnRequest q = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__Compare *compares[2];

    q.n_compare = rng_below(rng, 3);
    for (size_t i = 0; i < q.n_compare; i++)
        compares[i] = random_compare(rng);
    q.compare = compares;
    q.n_success = random_ops(op, 0, rng, &q.success);
    q.n_failure = random_ops(op, OPS_MAX, rng, &q.failure);
    op->request.kind = REQUEST_TXN;
    PACK(op, etcdserverpb__txn_request, &q);
    if (!only_ranges(q.success, q.n_success) || !only_ranges(q.failure, q.n_failure))
        return;
    op->kind = OP_RANGES;
    op->serializable = rng_below(rng, 3) == 0;
    op->ranges = etcdserverpb__txn_request__unpack(NULL, op->payload.len, op->payload.data);
}

static void set_range(struct op *op, const Etcdserverpb__RangeRequest *q)
{
    PACK(op, etcdserverpb__range_request, q);
    op->kind = OP_RANGE;
    op->serializable = q->serializable;
    op->range = etcdserverpb__range_request__unpack(NULL, op->payload.len, op->payload.data);
}

static void make_range(struct op *op, struct rng *rng, bool serializable)
{
    Etcdserverpb__RangeRequest q;

    fill_range(&q, rng, true);
    q.serializable = serializable;
    set_range(op, &q);
}

static void make_compact(struct op *op, struct rng *rng)
{
    Etcdserverpb__CompactionRequest q = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

    q.revision = old_revision(rng);
    op->request.kind = REQUEST_COMPACT;
    op->request.physical = rng_below(rng, 3) == 0;
    PACK(op, etcdserverpb__compaction_request, &q);
}

void op_make_grant(struct op *op, int64_t id, int64_t ttl_s)
{
    Etcdserverpb__LeaseGrantRequest q = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;

    q.id = id;
    q.ttl = ttl_s;
    op->request.kind = REQUEST_LEASE_GRANT;
    PACK(op, etcdserverpb__lease_grant_request, &q);
}

void op_make_revoke(struct op *op, int64_t id)
{
    Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;

    q.id = id;
    op->request.kind = REQUEST_LEASE_REVOKE;
    PACK(op, etcdserverpb__lease_revoke_request, &q);
}

static void know_lease(int64_t id, size_t instead_of)
{
    leases[n_leases < LEASES_KEPT ? n_leases++ : instead_of] = id;
}

void op_lease_is_known(int64_t id)
{
    know_lease(id, (size_t)id % LEASES_KEPT);
}

static void make_lease(struct op *op, struct rng *rng)
{
    if (n_leases > 0 && rng_below(rng, 2) == 0) {
        int64_t id = leases[rng_below(rng, n_leases)];
        check_lease_unwanted(id);
        op_make_revoke(op, id);
        return;
    }
    /* Also one that exists, but not one that was timed: a new one of its id is not. */
    bool again = rng_below(rng, 10) == 0 && n_leases && leases[0] < LEASE_ID_TIMED;
    int64_t id = again ? leases[0] : (int64_t)op->number + 1000;
    op_make_grant(op, id, 3600);
    know_lease(id, rng_below(rng, LEASES_KEPT));
}

void op_make_random(struct op *op, struct rng *rng)
{
    const struct options *o = &world.o;
    uint64_t share = rng_below(rng, 100);

    arena_reset(&arena);
    if (share < o->share_put)
        make_put(op, rng);
    else if ((share -= o->share_put) < o->share_delete)
        make_delete(op, rng);
    else if ((share -= o->share_delete) < o->share_txn)
        make_txn(op, rng);
    else if ((share -= o->share_txn) < o->share_range)
        make_range(op, rng, false);
    else if ((share -= o->share_range) < o->share_serializable)
        make_range(op, rng, true);
    else if ((share -= o->share_serializable) < o->share_compact)
        make_compact(op, rng);
    else
        make_lease(op, rng);
}

void op_make_read(struct op *op, struct rng *rng)
{
    arena_reset(&arena);
    make_range(op, rng, false);
}

void op_make_put(struct op *op, const char *key, const char *value)
{
    Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;

    arena_reset(&arena);
    q.key = pb_of(key);
    q.value = pb_of(value);
    op->request.kind = REQUEST_PUT;
    PACK(op, etcdserverpb__put_request, &q);
}

void op_make_attach(struct op *op, int64_t lease, struct rng *rng)
{
    Etcdserverpb__PutRequest q;

    arena_reset(&arena);
    fill_put(&q, op, 0, rng);
    q.lease = lease;
    op->request.kind = REQUEST_PUT;
    PACK(op, etcdserverpb__put_request, &q);
}

void op_make_range_all(struct op *op, bool serializable)
{
    Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;

    arena_reset(&arena);
    q.key = pb_of("k");
    q.range_end = pb_of("l");
    q.serializable = serializable;
    set_range(op, &q);
}
