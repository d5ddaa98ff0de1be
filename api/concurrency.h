/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the services Lock and Election are made of: the recipes of etcd's client (its package
 * "concurrency"), run inside the server on its own transactions, reads and watches, as whoever
 * called.
 *
 * A call of theirs is a chain of steps. Each asks for one thing and names the step to take then:
 *
 *   concurrency_start()        a lease, if none was given            ─> then
 *   concurrency_txn()          an entry of the raft log              ─> then, c->txn is there
 *   concurrency_read()         a read index, then one key or a scan  ─> then, c->range is there
 *   concurrency_watch()        the next event of a key or a prefix   ─> then, c->event is there
 *   concurrency_wait_turn()    older keys of the prefix are deleted  ─> then
 *
 * Whatever goes wrong ends the chain with c->fail(); a client that goes away or a server that stops
 * ends it without. No thread ever waits: a call that does holds a watch stream and nothing else.
 *
 * A session is a lease and no more. etcd's handlers open one and orphan it in the next line, so
 * nothing on the server keeps a lease alive, neither the caller's nor the one granted here: that is
 * the client's to do. A lease is missed when a key is to be attached to it, not before.
 *
 * Thread: the call's queue; a step is never taken from inside the function that asks for it, unless
 * that ends the chain or the server answers at once.
 */
#pragma once

#include "api/call.h"
#include "rpc.pb-c.h"

struct watch_response;
struct watch_stream;

enum { CONCURRENCY_TTL_S = 60 }; /* of a lease granted for a caller that gave none */

/* What is left to be done if the call ends now. */
enum concurrency_owed {
    OWES_NOTHING,
    OWES_DELETE, /* the key is deleted, */
    OWES_RESIGN, /* if it is still the one of that creation revision */
};

/* The state of such a call. */
struct concurrency {
    int64_t lease;
    struct bytes prefix, prefix_end; /* "name/" and where its keys end */
    struct buf key;
    int64_t revision;                    /* the key's creation */
    Etcdserverpb__ResponseHeader header; /* what the answer will say */
    enum concurrency_owed owed;
    void (*fail)(struct call *call, struct status status);

    /* Of the last step; until the next one is begun. */
    const Etcdserverpb__TxnResponse *txn;
    const Etcdserverpb__RangeResponse *range;
    const Mvccpb__Event *event;

    call_step then, my_turn;
    struct arena arena; /* of one step */
    Etcdserverpb__RangeRequest request;
    struct watch_stream *stream;
    struct watch_response *response;
    size_t n_taken; /* events of response */
};

/* The call's state, which its end frees. For calls that need no session. */
struct concurrency *concurrency_new(struct call *call);
/* A session: c->prefix from name; lease 0: one is granted. */
void concurrency_start(struct call *call, ProtobufCBinaryData name, int64_t lease, call_step then);
void concurrency_set_key(struct concurrency *c, ProtobufCBinaryData key);

/* Stands in line: c->key becomes the name's with the lease's number; it is put with that value, or
 * read if it is there already. and_oldest: the first in line is read, too. */
void concurrency_enter(struct call *call, ProtobufCBinaryData value, bool and_oldest,
                       call_step then);
/* A transaction that asks whether c->key was created at that revision (0: does not exist). */
void concurrency_txn(struct call *call, int64_t created, const Etcdserverpb__TxnRequest *branches,
                     call_step then);
void concurrency_delete(struct call *call, ProtobufCBinaryData key, call_step then);
void concurrency_read(struct call *call, const Etcdserverpb__RangeRequest *request, call_step then);

struct concurrency_interest {
    struct bytes key, range_end;
    int64_t revision;
    bool puts, deletions;
};
/* Takes the step at each event; concurrency_next_event() from a later step goes on to the next. */
void concurrency_watch(struct call *call, const struct concurrency_interest *interest,
                       call_step then);
void concurrency_next_event(struct call *call);
/* c->header becomes that of the response which brought c->event. */
void concurrency_event_header(struct call *call);
void concurrency_unwatch(struct concurrency *c);

/* Until no key of the prefix is older than c->key. */
void concurrency_wait_turn(struct call *call, call_step then);

/* The answers. */
void concurrency_respond(struct call *call, const ProtobufCMessage *message);
void concurrency_refuse(struct call *call, const char *text);
void concurrency_fail(struct call *call, struct status status); /* what c->fail is at first */
/* Appends an encoded message to the call's response. */
void concurrency_pack(struct call *call, const ProtobufCMessage *message);

static inline ProtobufCBinaryData concurrency_data(struct bytes s)
{
    return (ProtobufCBinaryData){s.len, (uint8_t *)(uintptr_t)s.data};
}

/* The oldest key of the prefix: who holds the lock, who leads. */
static inline Etcdserverpb__RangeRequest concurrency_oldest(const struct concurrency *c)
{
    Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;
    r.key = concurrency_data(c->prefix);
    r.range_end = concurrency_data(c->prefix_end);
    r.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
    r.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE;
    r.limit = 1;
    return r;
}

static inline Etcdserverpb__RangeRequest concurrency_own(const struct concurrency *c)
{
    Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;
    r.key = concurrency_data(buf_bytes(&c->key));
    return r;
}

static inline Etcdserverpb__PutRequest concurrency_put(const struct concurrency *c,
                                                       ProtobufCBinaryData value)
{
    Etcdserverpb__PutRequest r = ETCDSERVERPB__PUT_REQUEST__INIT;
    r.key = concurrency_data(buf_bytes(&c->key));
    r.value = value;
    r.lease = c->lease;
    return r;
}

static inline Etcdserverpb__RequestOp concurrency_op_put(Etcdserverpb__PutRequest *r)
{
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT;
    op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    op.request_put = r;
    return op;
}

static inline Etcdserverpb__RequestOp concurrency_op_delete(Etcdserverpb__DeleteRangeRequest *r)
{
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT;
    op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
    op.request_delete_range = r;
    return op;
}
