/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lock service. A lock is a key below the name, attached to the caller's lease; the oldest key
 * holds it.
 *
 *   Lock ─> key put, or found ─┬─> it is the oldest ──────────────────────────────> answered
 *                              └─> wait until it is ─> is the key still there? ─┬─> answered
 *                                                                               └─> refused
 *
 * A waiter whose lease has ended meanwhile finds out in that last look only, as in etcd: the lock
 * is never given to a key that is gone. The look asks for the key's name, not for its revision: two
 * calls with one lease share a key, also one that was deleted and put again, and it is their
 * client's matter that they do. A call that ends while it waits, whatever the reason, deletes its
 * key.
 *
 * Thread: the call's queue.
 */
#include "api/concurrency.h"
#include "api/handlers.h"
#include "v3lock.pb-c.h"

static void respond(struct call *call, const Etcdserverpb__ResponseHeader *header)
{
    struct concurrency *c = call->state;
    V3lockpb__LockResponse r = V3LOCKPB__LOCK_RESPONSE__INIT;
    c->header = *header;
    r.header = &c->header;
    r.key = concurrency_data(buf_bytes(&c->key));
    concurrency_respond(call, &r.base);
}

static void checked(struct call *call)
{
    struct concurrency *c = call->state;
    if (c->range->n_kvs) {
        respond(call, c->range->header);
        return;
    }
    c->owed = OWES_NOTHING;
    concurrency_refuse(call, "mutex: session is expired");
}

static void waited(struct call *call)
{
    Etcdserverpb__RangeRequest own = concurrency_own(call->state);
    concurrency_read(call, &own, checked);
}

static void queued(struct call *call)
{
    struct concurrency *c = call->state;
    const Etcdserverpb__TxnResponse *txn = c->txn;
    check(txn->n_responses == 2);
    c->revision = txn->succeeded ? txn->header->revision
                                 : txn->responses[0]->response_range->kvs[0]->create_revision;
    const Etcdserverpb__RangeResponse *oldest = txn->responses[1]->response_range;
    if (oldest->n_kvs == 0 || oldest->kvs[0]->create_revision == c->revision) {
        respond(call, txn->header);
        return;
    }
    c->owed = OWES_DELETE;
    concurrency_wait_turn(call, waited);
}

static void start(struct call *call)
{
    concurrency_enter(call, (ProtobufCBinaryData){0}, true, queued);
}

void lock_lock(struct call *call)
{
    const V3lockpb__LockRequest *r = call->message;
    concurrency_start(call, r->name, r->lease, start);
}

static void unlocked(struct call *call)
{
    struct concurrency *c = call->state;
    V3lockpb__UnlockResponse r = V3LOCKPB__UNLOCK_RESPONSE__INIT;
    r.header = &c->header;
    concurrency_respond(call, &r.base);
}

void lock_unlock(struct call *call)
{
    const V3lockpb__UnlockRequest *r = call->message;
    concurrency_new(call);
    concurrency_delete(call, r->key, unlocked);
}
