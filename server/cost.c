/* SPDX-License-Identifier: Apache-2.0 */
/* The cost of a request (see cost.h). Owns nothing. Thread: any. */
#include "server/cost.h"

#define OP_CASE(x) ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_##x

uint64_t cost_put(const Etcdserverpb__PutRequest *r)
{
    return COST_KEY_BYTES + (uint64_t)r->key.len + r->value.len;
}

static uint64_t ops_cost(Etcdserverpb__RequestOp *const *ops, size_t n)
{
    uint64_t cost = 0;

    for (size_t i = 0; i < n; i++) {
        if (ops[i]->request_case == OP_CASE(PUT))
            cost += cost_put(ops[i]->request_put);
        else if (ops[i]->request_case == OP_CASE(TXN))
            cost += cost_txn(ops[i]->request_txn);
    }
    return cost;
}

uint64_t cost_txn(const Etcdserverpb__TxnRequest *r)
{
    uint64_t success = ops_cost(r->success, r->n_success);
    uint64_t failure = ops_cost(r->failure, r->n_failure);

    return success > failure ? success : failure;
}
