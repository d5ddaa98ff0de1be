/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KV service. Writes become entries of the raft log; reads wait for a read index unless they
 * are serializable, then run on local state: one key on the queue's thread, everything that has to
 * count or walk an interval on the scan pool, so that a long list delays nobody.
 *
 * Thread: checks any, the rest the call's queue. The order of checks is etcd's: quota, fields,
 * overlaps, then what server_submit() does.
 */
#include "api/call.h"
#include "api/check.h"
#include "api/handlers.h"
#include "server/cost.h"

enum outcome kv_range_check(struct server *server, const void *request)
{
    return check_range(request);
}

/* One key: costs no more than handing it to another thread. */
static bool range_is_point(const Etcdserverpb__RangeRequest *r)
{
    return r->range_end.len == 0;
}

void kv_range(struct call *call)
{
    const Etcdserverpb__RangeRequest *r = call->message;
    struct call_read_options options = {.linearizable = !r->serializable,
                                        .scan = !range_is_point(r)};
    call_read(call, &options, server_range);
}

enum outcome kv_put_check(struct server *server, const void *request)
{
    return server_quota_exceeded(server, cost_put(request)) ? OUTCOME_NO_SPACE
                                                                  : check_put(request);
}

void kv_put(struct call *call)
{
    call_submit(call, REQUEST_PUT);
}

enum outcome kv_delete_range_check(struct server *server, const void *request)
{
    return check_delete_range(request);
}

void kv_delete_range(struct call *call)
{
    call_submit(call, REQUEST_DELETE_RANGE);
}

enum outcome kv_txn_check(struct server *server, const void *request)
{
    uint64_t cost = cost_txn(request);
    if (cost && server_quota_exceeded(server, cost))
        return OUTCOME_NO_SPACE;
    return check_txn(request, server_config(server)->max_txn_ops);
}

static bool compares_are_points(const Etcdserverpb__TxnRequest *r)
{
    for (size_t i = 0; i < r->n_compare; i++)
        if (r->compare[i]->range_end.len)
            return false;
    return true;
}

static bool ops_are_points(Etcdserverpb__RequestOp *const *ops, size_t n_ops)
{
    for (size_t i = 0; i < n_ops; i++)
        if (!range_is_point(ops[i]->request_range))
            return false;
    return true;
}

void kv_txn(struct call *call)
{
    const Etcdserverpb__TxnRequest *r = call->message;
    if (!check_txn_read_only(r)) {
        call_submit(call, REQUEST_TXN);
        return;
    }
    bool points = compares_are_points(r) && ops_are_points(r->success, r->n_success) &&
                  ops_are_points(r->failure, r->n_failure);
    struct call_read_options options = {.linearizable = !check_txn_serializable(r),
                                        .scan = !points};
    call_read(call, &options, server_txn_read_only);
}

void kv_compact(struct call *call)
{
    const Etcdserverpb__CompactionRequest *r = call->message;
    call->request.physical = r->physical;
    call_submit(call, REQUEST_COMPACT);
}
