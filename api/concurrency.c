/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps that concurrency.h names, each around one function of call.h.
 *
 * Waiting for one's turn is etcd's chain: the youngest of the older keys is looked for and watched
 * until it is deleted, then looked for again, so that one unlock wakes one waiter.
 *
 * An error of the server's own reaches the client as etcd's does: the handlers there are clients of
 * the server, and what passes such a client loses its code, becoming Unknown, and keeps its text.
 *
 * A call that ends while it owes its key lingers until that is deleted. The request has the
 * caller's credentials (etcd's has none, so with authentication enabled the key stays there until
 * the lease ends). A stop without a quorum does not wait for it, as etcd's does not: the key then
 * stays until the lease ends.
 *
 * Thread: the call's queue; read_work() also a scan thread; wake() any.
 * Invariants:
 *  1. A watch stream is open only while the call waits for an event or sends one on.
 *  2. c->arena holds the request and the answer of one step; beginning another empties it.
 *  3. c->owed is looked at once, when the call's state is freed. An answer may free it, so nothing
 *     touches the state after one.
 */
#include "api/concurrency.h"

#include "api/check.h"
#include "api/decode.h"
#include "api/handlers.h"
#include "base/mem.h"
#include "server/encode.h"
#include "server/watch_hub.h"

/* ---- answers ---- */

void concurrency_pack(struct call *call, const ProtobufCMessage *message)
{
    struct buf *response = &call->request.response;
    buf_reserve(response, protobuf_c_message_get_packed_size(message));
    response->len += protobuf_c_message_pack(message, response->data + response->len);
}

void concurrency_respond(struct call *call, const ProtobufCMessage *message)
{
    struct concurrency *c = call->state;
    c->owed = OWES_NOTHING;
    concurrency_pack(call, message);
    call_answer(call, OUTCOME_OK);
}

void concurrency_fail(struct call *call, struct status status)
{
    call_answer_status(call, status.code, status.text);
}

void concurrency_refuse(struct call *call, const char *text)
{
    struct concurrency *c = call->state;
    c->fail(call, (struct status){STATUS_UNKNOWN, text});
}

/* The one error that etcd's client doesn't know keeps its code. */
static void fail_with(struct call *call, enum outcome outcome)
{
    struct concurrency *c = call->state;
    struct status status = *status_of(outcome);
    if (outcome != OUTCOME_TIMEOUT_WAIT_APPLIED)
        status.code = STATUS_UNKNOWN;
    c->fail(call, status);
}

/* False: the chain is at its end. */
static bool goes_on(struct call *call)
{
    if (call->cancelled)
        call_answer(call, OUTCOME_CANCELED);
    else if (call->queue->stop_seen == QUEUE_CANCELING)
        call_answer(call, OUTCOME_STOPPED);
    else if (call->outcome)
        fail_with(call, call->outcome);
    else
        return true;
    return false;
}

/* ---- requests ---- */

static struct bytes encode(struct arena *arena, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *encoded = arena_alloc(arena, len);
    protobuf_c_message_pack(message, encoded);
    return bytes_of(encoded, len);
}

/* The message in the arena; it holds what the store holds, so a broken one is possible. NULL: the
 * chain is at its end. */
static const void *decode(struct call *call, struct bytes encoded,
                          const ProtobufCMessageDescriptor *descriptor)
{
    struct concurrency *c = call->state;
    void *message;
    if (decode_message(descriptor, &encoded, &c->arena, &message) == 0)
        return message;
    fail_with(call, OUTCOME_CORRUPT);
    return NULL;
}

/* The answer that the step was waiting for; NULL: there is none, and the chain is at its end. */
static const void *take_answer(struct call *call, const ProtobufCMessageDescriptor *descriptor)
{
    if (!goes_on(call))
        return NULL;
    struct buf answer = buf_take(&call->request.response);
    const void *message = decode(call, buf_bytes(&answer), descriptor);
    buf_deinit(&answer);
    return message;
}

static void submit(struct call *call, enum request_kind kind, const ProtobufCMessage *message,
                   call_step done)
{
    struct concurrency *c = call->state;
    call_submit_then(call, kind, encode(&c->arena, message), done);
}

static void granted(struct call *call)
{
    struct concurrency *c = call->state;
    const Etcdserverpb__LeaseGrantResponse *r =
        take_answer(call, &etcdserverpb__lease_grant_response__descriptor);
    if (!r)
        return;
    c->lease = r->id;
    c->then(call);
}

static void grant(struct call *call)
{
    Etcdserverpb__LeaseGrantRequest r = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    enum outcome refused = lease_grant_check(call->server, &r);
    if (refused) {
        fail_with(call, refused);
        return;
    }
    r.ttl = CONCURRENCY_TTL_S;
    r.id = server_lease_id(call->server);
    submit(call, REQUEST_LEASE_GRANT, &r.base, granted);
}

static Etcdserverpb__TxnRequest txn_of(Etcdserverpb__Compare *compare, const struct concurrency *c,
                                       int64_t created, Etcdserverpb__Compare **compares,
                                       const Etcdserverpb__TxnRequest *branches)
{
    Etcdserverpb__TxnRequest txn = *branches;
    *compare = (Etcdserverpb__Compare)ETCDSERVERPB__COMPARE__INIT;
    compare->target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
    compare->target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
    compare->create_revision = created;
    compare->key = concurrency_data(buf_bytes(&c->key));
    compares[0] = compare;
    txn.n_compare = 1;
    txn.compare = compares;
    return txn;
}

static void txn_done(struct call *call)
{
    struct concurrency *c = call->state;
    const void *answer = take_answer(call, &etcdserverpb__txn_response__descriptor);
    if (!answer)
        return;
    c->txn = answer;
    c->then(call);
}

void concurrency_txn(struct call *call, int64_t created, const Etcdserverpb__TxnRequest *branches,
                     call_step then)
{
    struct concurrency *c = call->state;
    Etcdserverpb__Compare compare, *compares[1];
    Etcdserverpb__TxnRequest txn = txn_of(&compare, c, created, compares, branches);
    enum outcome refused = kv_txn_check(call->server, &txn);
    if (refused) {
        fail_with(call, refused);
        return;
    }
    arena_reset(&c->arena);
    c->then = then;
    submit(call, REQUEST_TXN, &txn.base, txn_done);
}

static void delete_done(struct call *call)
{
    struct concurrency *c = call->state;
    const Etcdserverpb__DeleteRangeResponse *r =
        take_answer(call, &etcdserverpb__delete_range_response__descriptor);
    if (!r)
        return;
    c->header = *r->header;
    c->then(call);
}

void concurrency_delete(struct call *call, ProtobufCBinaryData key, call_step then)
{
    struct concurrency *c = call->state;
    Etcdserverpb__DeleteRangeRequest r = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    r.key = key;
    enum outcome refused = check_delete_range(&r);
    if (refused) {
        fail_with(call, refused);
        return;
    }
    c->then = then;
    submit(call, REQUEST_DELETE_RANGE, &r.base, delete_done);
}

static void read_done(struct call *call)
{
    struct concurrency *c = call->state;
    const void *answer = take_answer(call, &etcdserverpb__range_response__descriptor);
    if (!answer)
        return;
    c->range = answer;
    c->then(call);
}

static void read_work(struct call *call)
{
    struct concurrency *c = call->state;
    call->outcome = server_range(call->server, &c->request, &call->request.response);
}

/* As kv_range() does: one key here, more on the scan pool. */
static void read_confirmed(struct call *call)
{
    struct concurrency *c = call->state;
    if (!goes_on(call))
        return;
    if (c->request.range_end.len) {
        call_scan(call, read_work, read_done);
    } else {
        read_work(call);
        read_done(call);
    }
}

void concurrency_read(struct call *call, const Etcdserverpb__RangeRequest *request, call_step then)
{
    struct concurrency *c = call->state;
    arena_reset(&c->arena);
    c->request = *request;
    c->then = then;
    call_read_index(call, read_confirmed);
}

/* ---- events ---- */

void concurrency_unwatch(struct concurrency *c)
{
    if (c->stream)
        watch_stream_close(c->stream);
    watch_response_free(c->response);
    c->stream = NULL;
    c->response = NULL;
}

/* A watcher that the server ended; the texts are those of etcd's client. */
static void watch_lost(struct call *call)
{
    const struct concurrency *c = call->state;
    if (c->response->compact_revision)
        fail_with(call, OUTCOME_COMPACTED);
    else if (c->response->created)
        concurrency_refuse(call, c->response->cancel_reason);
    else
        concurrency_refuse(call, "lost watcher waiting for delete");
}

static void take_event(struct call *call)
{
    struct concurrency *c = call->state;
    struct bytes encoded = c->response->events[c->n_taken++].encoded;
    arena_reset(&c->arena);
    const void *event = decode(call, encoded, &mvccpb__event__descriptor);
    if (!event)
        return;
    c->event = event;
    c->then(call);
}

void concurrency_event_header(struct call *call)
{
    struct concurrency *c = call->state;
    struct response_header header;
    server_response_header(call->server, c->response->revision, &header);
    c->header.cluster_id = header.cluster_id;
    c->header.member_id = header.member_id;
    c->header.revision = header.revision;
    c->header.raft_term = header.raft_term;
}

void concurrency_next_event(struct call *call)
{
    struct concurrency *c = call->state;
    while (!c->response || c->n_taken == c->response->n_events) {
        watch_response_free(c->response);
        c->response = watch_stream_take(c->stream);
        c->n_taken = 0;
        if (!c->response) {
            call_wait(call, concurrency_next_event);
            return;
        }
        if (c->response->canceled) {
            watch_lost(call);
            return;
        }
    }
    take_event(call);
}

static void wake(void *arg)
{
    call_wake(arg);
}

void concurrency_watch(struct call *call, const struct concurrency_interest *interest,
                       call_step then)
{
    struct concurrency *c = call->state;
    struct watch_request request = {.key = interest->key,
                                    .range_end = interest->range_end,
                                    .start_revision = interest->revision,
                                    .no_put = !interest->puts,
                                    .no_delete = !interest->deletions};
    check(!c->stream);
    c->then = then;
    c->stream = watch_stream_open(server_watch_hub(call->server), wake, call);
    watch_create(c->stream, &request);
    concurrency_next_event(call);
}

/* ---- one's turn ---- */

static void look_for_older(struct call *call);

static void older_gone(struct call *call)
{
    concurrency_unwatch(call->state);
    look_for_older(call);
}

static void older_found(struct call *call)
{
    struct concurrency *c = call->state;
    if (c->range->n_kvs == 0) {
        c->my_turn(call);
        return;
    }
    ProtobufCBinaryData key = c->range->kvs[0]->key;
    struct concurrency_interest interest = {.key = bytes_of(key.data, key.len),
                                            .revision = c->range->header->revision,
                                            .deletions = true};
    concurrency_watch(call, &interest, older_gone);
}

static void look_for_older(struct call *call)
{
    struct concurrency *c = call->state;
    Etcdserverpb__RangeRequest r = concurrency_oldest(c);
    r.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    r.max_create_revision = c->revision - 1;
    r.keys_only = true;
    concurrency_read(call, &r, older_found);
}

void concurrency_wait_turn(struct call *call, call_step then)
{
    struct concurrency *c = call->state;
    c->my_turn = then;
    look_for_older(call);
}

/* ---- a key that is left behind ---- */

static void release(struct call *call)
{
    struct concurrency *c = call->state;
    Etcdserverpb__DeleteRangeRequest deletion = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    deletion.key = concurrency_data(buf_bytes(&c->key));
    if (c->owed == OWES_DELETE) {
        call_linger(call, REQUEST_DELETE_RANGE, encode(&call->arena, &deletion.base));
        return;
    }
    Etcdserverpb__RequestOp op = concurrency_op_delete(&deletion), *ops[] = {&op};
    Etcdserverpb__TxnRequest branches = ETCDSERVERPB__TXN_REQUEST__INIT;
    branches.n_success = 1;
    branches.success = ops;
    Etcdserverpb__Compare compare, *compares[1];
    Etcdserverpb__TxnRequest txn = txn_of(&compare, c, c->revision, compares, &branches);
    call_linger(call, REQUEST_TXN, encode(&call->arena, &txn.base));
}

/* ---- beginning and end ---- */

static void cleanup(struct call *call)
{
    struct concurrency *c = call->state;
    concurrency_unwatch(c);
    if (c->owed)
        release(call);
    buf_deinit(&c->key);
    arena_deinit(&c->arena);
    free(c);
}

struct concurrency *concurrency_new(struct call *call)
{
    struct concurrency *c = mem_new(struct concurrency);
    arena_init(&c->arena);
    c->header = (Etcdserverpb__ResponseHeader)ETCDSERVERPB__RESPONSE_HEADER__INIT;
    c->fail = concurrency_fail;
    call->state = c;
    call->cleanup = cleanup;
    return c;
}

void concurrency_start(struct call *call, ProtobufCBinaryData name, int64_t lease, call_step then)
{
    struct concurrency *c = concurrency_new(call);
    uint8_t *prefix = arena_alloc(&call->arena, name.len + 1);
    uint8_t *end = arena_alloc(&call->arena, name.len + 1);
    if (name.len) {
        memcpy(prefix, name.data, name.len);
        memcpy(end, name.data, name.len);
    }
    prefix[name.len] = '/';
    end[name.len] = '/' + 1;
    c->prefix = bytes_of(prefix, name.len + 1);
    c->prefix_end = bytes_of(end, name.len + 1);
    c->lease = lease;
    c->then = then;
    if (lease == 0)
        grant(call);
    else
        then(call);
}

/* etcd's: name, slash, the lease in hexadecimal. */
static void make_key(struct concurrency *c)
{
    uint64_t id = (uint64_t)c->lease;
    bool negative = c->lease < 0;
    buf_clear(&c->key);
    buf_append_bytes(&c->key, c->prefix);
    buf_printf(&c->key, "%s%jx", negative ? "-" : "", (uintmax_t)(negative ? -id : id));
}

static Etcdserverpb__RequestOp op_range(Etcdserverpb__RangeRequest *r)
{
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT;
    op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    op.request_range = r;
    return op;
}

void concurrency_enter(struct call *call, ProtobufCBinaryData value, bool and_oldest,
                       call_step then)
{
    struct concurrency *c = call->state;
    make_key(c);
    Etcdserverpb__PutRequest put = concurrency_put(c, value);
    Etcdserverpb__RangeRequest own = concurrency_own(c), oldest = concurrency_oldest(c);
    Etcdserverpb__RequestOp put_op = concurrency_op_put(&put), own_op = op_range(&own),
                            oldest_op = op_range(&oldest);
    Etcdserverpb__RequestOp *absent[] = {&put_op, &oldest_op}, *present[] = {&own_op, &oldest_op};
    Etcdserverpb__TxnRequest branches = ETCDSERVERPB__TXN_REQUEST__INIT;
    branches.n_success = branches.n_failure = and_oldest ? 2 : 1;
    branches.success = absent;
    branches.failure = present;
    concurrency_txn(call, 0, &branches, then);
}

void concurrency_set_key(struct concurrency *c, ProtobufCBinaryData key)
{
    buf_clear(&c->key);
    buf_append(&c->key, key.data, key.len);
}
