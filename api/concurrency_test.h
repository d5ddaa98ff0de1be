/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the tests of Lock and Election: calls without gRPC, a store that is an array, a hub that is a
 * list of what happened. Nothing runs by itself: the test says which call goes on, so every
 * interleaving of calls can be had, from a seed or by hand.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/concurrency.h"
#include "api/handlers.h"
#include "base/mem.h"
#include "server/encode.h"
#include "server/watch_hub.h"

enum { KEYS_MAX = 64, EVENTS_MAX = 16384, STREAMS_MAX = 64, LEASES_MAX = 64 };
enum { CLUSTER_ID = 11, MEMBER_ID = 22, TERM = 3, CHOSEN_LEASE = 0xABC };

struct stored {
    struct buf key, value;
    int64_t created, changed, version, lease;
};

struct happened {
    int64_t revision;
    bool deletion;
    struct buf key, encoded;
};

struct watch_stream {
    void (*ready)(void *arg);
    void *arg;
    struct buf key, end;
    int64_t from;
    bool no_put, no_delete, asked, created, armed;
};

/* What the hub answers instead of events. */
enum watch_loss { WATCH_LIVES, WATCH_COMPACTED, WATCH_REFUSED, WATCH_ENDED };

struct server {
    struct stored keys[KEYS_MAX];
    size_t n_keys;
    int64_t revision;
    bool leases[LEASES_MAX]; /* alive */
    struct happened events[EVENTS_MAX];
    size_t n_events;
    struct watch_stream *streams[STREAMS_MAX];
    size_t n_streams, n_responses; /* open, not freed */
    enum watch_loss loss;
    enum outcome refuse; /* of the next submitted request */
    enum outcome check;  /* what the checks before it say */
    bool scans_full, broken;
};

static struct server fake;
static struct queue test_queue;

/* ---- the store ---- */

static bool within(struct bytes key, struct bytes from, struct bytes end)
{
    return end.len ? bytes_compare(key, from) >= 0 && bytes_compare(key, end) < 0
                   : bytes_equal(key, from);
}

static struct bytes of_pb(ProtobufCBinaryData d)
{
    return bytes_of(d.data, d.len);
}

static struct stored *stored_find(struct bytes key)
{
    for (size_t i = 0; i < fake.n_keys; i++)
        if (bytes_equal(buf_bytes(&fake.keys[i].key), key))
            return &fake.keys[i];
    return NULL;
}

static Mvccpb__KeyValue stored_kv(const struct stored *k)
{
    Mvccpb__KeyValue kv = MVCCPB__KEY_VALUE__INIT;
    kv.key = concurrency_data(buf_bytes(&k->key));
    kv.value = concurrency_data(buf_bytes(&k->value));
    kv.create_revision = k->created;
    kv.mod_revision = k->changed;
    kv.version = k->version;
    kv.lease = k->lease;
    return kv;
}

static void pack(struct buf *out, const ProtobufCMessage *m)
{
    buf_reserve(out, protobuf_c_message_get_packed_size(m));
    out->len += protobuf_c_message_pack(m, out->data + out->len);
}

static bool stream_wants(const struct watch_stream *s, const struct happened *e)
{
    return s->asked && e->revision >= s->from && !(e->deletion ? s->no_delete : s->no_put) &&
           within(buf_bytes(&e->key), buf_bytes(&s->key), buf_bytes(&s->end));
}

static void announce(const struct happened *e)
{
    for (size_t i = 0; i < fake.n_streams; i++) {
        struct watch_stream *s = fake.streams[i];
        if (s->armed && stream_wants(s, e)) {
            s->armed = false;
            s->ready(s->arg);
        }
    }
}

static void happen(bool deletion, Mvccpb__KeyValue *kv)
{
    struct happened *e = &fake.events[fake.n_events++];
    Mvccpb__Event event = MVCCPB__EVENT__INIT;
    assert_true(fake.n_events <= EVENTS_MAX);
    event.type = deletion ? MVCCPB__EVENT__EVENT_TYPE__DELETE : MVCCPB__EVENT__EVENT_TYPE__PUT;
    event.kv = kv;
    *e = (struct happened){.revision = fake.revision, .deletion = deletion};
    buf_append_bytes(&e->key, of_pb(kv->key));
    pack(&e->encoded, &event.base);
    announce(e);
}

static bool lease_lives(int64_t lease)
{
    return lease == 0 || lease == CHOSEN_LEASE ||
           (lease > 0 && lease < LEASES_MAX && fake.leases[lease]);
}

static void store_put(struct bytes key, struct bytes value, int64_t lease)
{
    struct stored *k = stored_find(key);
    fake.revision++;
    if (!k) {
        assert_true(fake.n_keys < KEYS_MAX);
        k = &fake.keys[fake.n_keys++];
        *k = (struct stored){.created = fake.revision};
        buf_append_bytes(&k->key, key);
    }
    buf_clear(&k->value);
    buf_append_bytes(&k->value, value);
    k->changed = fake.revision;
    k->version++;
    k->lease = lease;
    Mvccpb__KeyValue kv = stored_kv(k);
    happen(false, &kv);
}

static size_t store_delete(struct bytes key)
{
    struct stored *k = stored_find(key);
    Mvccpb__KeyValue kv = MVCCPB__KEY_VALUE__INIT;
    if (!k)
        return 0;
    kv.mod_revision = ++fake.revision;
    kv.key = concurrency_data(key);
    happen(true, &kv);
    buf_deinit(&k->key);
    buf_deinit(&k->value);
    *k = fake.keys[--fake.n_keys];
    return 1;
}

static void store_revoke(int64_t lease)
{
    fake.leases[lease] = false;
    for (size_t i = fake.n_keys; i > 0; i--) {
        if (fake.keys[i - 1].lease == lease) {
            struct buf key = BUF_NULL;
            buf_append_bytes(&key, buf_bytes(&fake.keys[i - 1].key));
            store_delete(buf_bytes(&key));
            buf_deinit(&key);
        }
    }
}

/* The oldest, or the youngest that is old enough: all that is ever asked for. */
static const struct stored *store_pick(const Etcdserverpb__RangeRequest *r)
{
    bool youngest = r->sort_order == ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    const struct stored *best = NULL;
    assert_true(r->range_end.len == 0 || r->limit == 1);
    for (size_t i = 0; i < fake.n_keys; i++) {
        const struct stored *k = &fake.keys[i];
        if (!within(buf_bytes(&k->key), of_pb(r->key), of_pb(r->range_end)) ||
            (r->max_create_revision && k->created > r->max_create_revision))
            continue;
        if (!best || (youngest ? k->created > best->created : k->created < best->created))
            best = k;
    }
    return best;
}

static Etcdserverpb__ResponseHeader header_now(void)
{
    Etcdserverpb__ResponseHeader h = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    h.cluster_id = CLUSTER_ID;
    h.member_id = MEMBER_ID;
    h.revision = fake.revision;
    h.raft_term = TERM;
    return h;
}

/* ---- what the server does with requests ---- */

enum outcome server_range(struct server *server, const void *request, struct buf *response)
{
    Etcdserverpb__RangeResponse r = ETCDSERVERPB__RANGE_RESPONSE__INIT;
    Etcdserverpb__ResponseHeader header = header_now();
    const struct stored *k = store_pick(request);
    Mvccpb__KeyValue kv, *kvs[] = {&kv};
    r.header = &header;
    if (k) {
        kv = stored_kv(k);
        r.n_kvs = 1;
        r.kvs = kvs;
    }
    if (fake.broken)
        buf_append_str(response, "\x08");
    else
        pack(response, &r.base);
    return OUTCOME_OK;
}

static enum outcome run_op(const Etcdserverpb__RequestOp *op, struct buf *response)
{
    Etcdserverpb__ResponseOp answer = ETCDSERVERPB__RESPONSE_OP__INIT;
    struct buf range = BUF_NULL;
    switch (op->request_case) {
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT: {
        Etcdserverpb__PutResponse put = ETCDSERVERPB__PUT_RESPONSE__INIT;
        if (!lease_lives(op->request_put->lease))
            return OUTCOME_LEASE_NOT_FOUND;
        store_put(of_pb(op->request_put->key), of_pb(op->request_put->value),
                  op->request_put->lease);
        answer.response_case = ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT;
        answer.response_put = &put;
        pack(response, &answer.base);
        break;
    }
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
        server_range(&fake, op->request_range, &range);
        answer.response_case = ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE;
        answer.response_range = etcdserverpb__range_response__unpack(NULL, range.len, range.data);
        pack(response, &answer.base);
        etcdserverpb__range_response__free_unpacked(answer.response_range, NULL);
        buf_deinit(&range);
        break;
    default: {
        Etcdserverpb__DeleteRangeResponse deleted = ETCDSERVERPB__DELETE_RANGE_RESPONSE__INIT;
        deleted.deleted = (int64_t)store_delete(of_pb(op->request_delete_range->key));
        answer.response_case = ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE;
        answer.response_delete_range = &deleted;
        pack(response, &answer.base);
        break;
    }
    }
    return OUTCOME_OK;
}

static enum outcome run_txn(struct bytes payload, struct buf *response)
{
    Etcdserverpb__TxnRequest *r =
        etcdserverpb__txn_request__unpack(NULL, payload.len, payload.data);
    assert_non_null(r);
    assert_int_equal(r->n_compare, 1);
    const struct stored *k = stored_find(of_pb(r->compare[0]->key));
    bool succeeded = (k ? k->created : 0) == r->compare[0]->create_revision;
    size_t n = succeeded ? r->n_success : r->n_failure;
    enum outcome outcome = OUTCOME_OK;
    for (size_t i = 0; i < n && !outcome; i++) {
        struct buf answer = BUF_NULL;
        outcome = run_op((succeeded ? r->success : r->failure)[i], &answer);
        encode_present_bytes(response, 3, buf_bytes(&answer));
        buf_deinit(&answer);
    }
    encode_bool(response, 2, succeeded);
    encode_header(response, &(struct response_header){CLUSTER_ID, MEMBER_ID, fake.revision, TERM});
    etcdserverpb__txn_request__free_unpacked(r, NULL);
    return outcome;
}

static enum outcome run_delete(struct bytes payload, struct buf *response)
{
    Etcdserverpb__DeleteRangeRequest *r =
        etcdserverpb__delete_range_request__unpack(NULL, payload.len, payload.data);
    store_delete(of_pb(r->key));
    encode_header(response, &(struct response_header){CLUSTER_ID, MEMBER_ID, fake.revision, TERM});
    etcdserverpb__delete_range_request__free_unpacked(r, NULL);
    return OUTCOME_OK;
}

static enum outcome run_grant(struct bytes payload, struct buf *response)
{
    Etcdserverpb__LeaseGrantRequest *r =
        etcdserverpb__lease_grant_request__unpack(NULL, payload.len, payload.data);
    assert_int_equal(r->ttl, CONCURRENCY_TTL_S);
    assert_int_equal(r->id, CHOSEN_LEASE);
    encode_i64(response, 2, r->id);
    encode_header(response, &(struct response_header){CLUSTER_ID, MEMBER_ID, fake.revision, TERM});
    etcdserverpb__lease_grant_request__free_unpacked(r, NULL);
    return OUTCOME_OK;
}

static enum outcome run_request(struct request *request)
{
    enum outcome refuse = fake.refuse;
    fake.refuse = OUTCOME_OK;
    if (refuse)
        return refuse;
    switch (request->kind) {
    case REQUEST_READ_INDEX: return OUTCOME_OK;
    case REQUEST_TXN: return run_txn(request->payload, &request->response);
    case REQUEST_DELETE_RANGE: return run_delete(request->payload, &request->response);
    case REQUEST_LEASE_GRANT: return run_grant(request->payload, &request->response);
    default: fail(); return OUTCOME_INTERNAL;
    }
}

int64_t server_lease_id(struct server *s)
{
    return CHOSEN_LEASE;
}

void server_response_header(struct server *s, int64_t revision, struct response_header *ret)
{
    *ret = (struct response_header){CLUSTER_ID, MEMBER_ID, revision, TERM};
}

enum outcome kv_txn_check(struct server *s, const void *request)
{
    return s->check;
}

enum outcome lease_grant_check(struct server *s, const void *request)
{
    return s->check;
}

/* ---- the hub ---- */

struct watch_hub *server_watch_hub(struct server *s)
{
    return NULL;
}

struct watch_stream *watch_stream_open(struct watch_hub *h, void (*ready)(void *), void *arg)
{
    struct watch_stream *s = mem_new(struct watch_stream);
    assert_true(fake.n_streams < STREAMS_MAX);
    s->ready = ready;
    s->arg = arg;
    fake.streams[fake.n_streams++] = s;
    return s;
}

void watch_stream_close(struct watch_stream *s)
{
    size_t i = 0;
    while (fake.streams[i] != s)
        assert_true(++i < fake.n_streams);
    fake.streams[i] = fake.streams[--fake.n_streams];
    buf_deinit(&s->key);
    buf_deinit(&s->end);
    free(s);
}

void watch_create(struct watch_stream *s, const struct watch_request *request)
{
    assert_false(s->asked);
    buf_append_bytes(&s->key, request->key);
    buf_append_bytes(&s->end, request->range_end);
    s->from = request->start_revision;
    s->no_put = request->no_put;
    s->no_delete = request->no_delete;
    s->asked = true;
}

static struct watch_response *response_lost(enum watch_loss loss)
{
    struct watch_response *r = mem_new(struct watch_response);
    r->canceled = true;
    r->compact_revision = loss == WATCH_COMPACTED ? fake.revision : 0;
    r->created = loss == WATCH_REFUSED;
    r->cancel_reason = r->created ? "etcdserver: permission denied" : "";
    return r;
}

static struct watch_response *response_events(struct watch_stream *s)
{
    struct watch_response *r = mem_new(struct watch_response);
    struct watch_event *events = mem_alloc(sizeof(events[0]) * (fake.n_events + 1));
    r->events = events;
    r->revision = fake.revision;
    for (size_t i = 0; i < fake.n_events; i++)
        if (stream_wants(s, &fake.events[i]))
            events[r->n_events++].encoded = buf_bytes(&fake.events[i].encoded);
    if (r->n_events)
        s->from = fake.revision + 1;
    return r;
}

struct watch_response *watch_response_free(struct watch_response *r)
{
    if (!r)
        return NULL;
    fake.n_responses--;
    free((void *)(uintptr_t)r->events);
    free(r);
    return NULL;
}

/* First that it was created, then events, if there are any. */
struct watch_response *watch_stream_take(struct watch_stream *s)
{
    struct watch_response *r;
    fake.n_responses++;
    if (fake.loss && (s->created || fake.loss == WATCH_REFUSED))
        return response_lost(fake.loss);
    if (!s->created) {
        r = mem_new(struct watch_response);
        r->created = s->created = true;
        return r;
    }
    r = response_events(s);
    s->armed = r->n_events == 0;
    return s->armed ? watch_response_free(r) : r;
}

/* The hub speaks up. */
static void hub_loses(enum watch_loss loss)
{
    fake.loss = loss;
    for (size_t i = 0; i < fake.n_streams; i++)
        if (fake.streams[i]->armed)
            fake.streams[i]->ready(fake.streams[i]->arg);
}
