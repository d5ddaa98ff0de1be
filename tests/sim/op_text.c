/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests as text, for whoever reads a trace.
 *
 * Thread: the only one.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "tests/sim/clients.h"

enum { SHOWN_MAX = 24 };
#define SHOW(d) (int)((d).len < SHOWN_MAX ? (d).len : SHOWN_MAX), (const char *)(d).data
#define LONG(x) ((long)(x))

static void put_text(struct buf *out, const Etcdserverpb__PutRequest *q)
{
    buf_printf(out, "put %.*s=%.*s", SHOW(q->key), SHOW(q->value));
    if (q->lease)
        buf_printf(out, " lease %ld", LONG(q->lease));
    if (q->prev_kv)
        buf_printf(out, " prev");
}

static void delete_text(struct buf *out, const Etcdserverpb__DeleteRangeRequest *q)
{
    buf_printf(out, "delete %.*s..%.*s%s", SHOW(q->key), SHOW(q->range_end),
               q->prev_kv ? " prev" : "");
}

static void range_text(struct buf *out, const Etcdserverpb__RangeRequest *q)
{
    buf_printf(out, "range %.*s..%.*s at %ld limit %ld%s%s%s", SHOW(q->key), SHOW(q->range_end),
               LONG(q->revision), LONG(q->limit), q->keys_only ? " keys" : "",
               q->count_only ? " count" : "", q->serializable ? " serializable" : "");
}

static void ops_text(struct buf *out, Etcdserverpb__RequestOp *const *ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, i ? ", " : "");
        if (ops[i]->request_put && ops[i]->request_case == 2)
            put_text(out, ops[i]->request_put);
        else if (ops[i]->request_case == 3)
            delete_text(out, ops[i]->request_delete_range);
        else
            range_text(out, ops[i]->request_range);
    }
}

static void txn_text(struct buf *out, const Etcdserverpb__TxnRequest *q)
{
    buf_printf(out, "txn if ");
    for (size_t i = 0; i < q->n_compare; i++)
        buf_printf(out, "%.*s target %d result %d %ld, ", SHOW(q->compare[i]->key),
                   (int)q->compare[i]->target, (int)q->compare[i]->result,
                   LONG(q->compare[i]->mod_revision));
    buf_printf(out, "then ");
    ops_text(out, q->success, q->n_success);
    buf_printf(out, " else ");
    ops_text(out, q->failure, q->n_failure);
}

void op_text(const struct op *op, struct buf *out)
{
    size_t len = op->payload.len;
    const uint8_t *data = op->payload.data;

    if (op->request.kind == REQUEST_PUT && op->kind == OP_WRITE) {
        Etcdserverpb__PutRequest *q = etcdserverpb__put_request__unpack(NULL, len, data);
        put_text(out, q);
        etcdserverpb__put_request__free_unpacked(q, NULL);
    } else if (op->request.kind == REQUEST_DELETE_RANGE) {
        Etcdserverpb__DeleteRangeRequest *q =
            etcdserverpb__delete_range_request__unpack(NULL, len, data);
        delete_text(out, q);
        etcdserverpb__delete_range_request__free_unpacked(q, NULL);
    } else if (op->request.kind == REQUEST_TXN) {
        Etcdserverpb__TxnRequest *q = etcdserverpb__txn_request__unpack(NULL, len, data);
        txn_text(out, q);
        etcdserverpb__txn_request__free_unpacked(q, NULL);
    } else if (op->range) {
        range_text(out, op->range);
    } else if (op->ranges) {
        txn_text(out, op->ranges);
    } else {
        buf_printf(out, "request of kind %d", (int)op->request.kind);
    }
}
