/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a store in memory with leases, requests in one line, and answers as text.
 *
 * Everything built here lives in the fixture's arena until store_free(). store_run() is an apply
 * turn of one entry.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>

#include "base/mem.h"
#include "server/internal_request.h"
#include "server/range.h"
#include "server/txn.h"
#include "storage/test_dir.h"

struct store {
    struct db *db;
    struct mvcc *mvcc;
    struct lease_table *leases;
    struct db_batch *batch;
    struct arena arena; /* of the test */
    struct response_header header;
    struct buf text;
};

static inline struct store *store_new(void)
{
    struct store *s = mem_new(struct store);

    s->db = test_db_open("memory");
    assert_int_equal(mvcc_open(&s->mvcc, &(struct mvcc_options){.db = s->db}), 0);
    assert_int_equal(lease_table_open(&s->leases, s->db, 2), 0);
    s->batch = db_batch_new();
    mvcc_batch(s->mvcc, s->batch);
    arena_init(&s->arena);
    s->header = (struct response_header){.cluster_id = 11, .member_id = 22, .raft_term = 33};
    return s;
}

static inline struct store *store_free(struct store *s)
{
    mvcc_close(s->mvcc);
    lease_table_close(s->leases);
    db_batch_free(s->batch);
    db_close(s->db);
    arena_deinit(&s->arena);
    buf_deinit(&s->text);
    free(s);
    return NULL;
}

static inline int store_setup(void **state)
{
    *state = store_new();
    return 0;
}

static inline int store_teardown(void **state)
{
    *state = store_free(*state);
    return 0;
}

static inline void store_commit(struct store *s)
{
    mvcc_seal(s->mvcc);
    assert_int_equal(db_write(s->db, s->batch), 0);
    db_batch_clear(s->batch);
    mvcc_publish(s->mvcc);
}

static inline void store_grant(struct store *s, int64_t id)
{
    int64_t ttl;

    assert_int_equal(lease_grant(s->leases, s->batch, id, 100, &ttl), 0);
    store_commit(s);
}

static inline void store_compact(struct store *s, int64_t revision)
{
    int64_t finished;
    bool done = false;

    assert_int_equal(mvcc_compact(s->mvcc, revision, false), 0);
    store_commit(s);
    while (!done)
        assert_int_equal(mvcc_compact_step(s->mvcc, &done, &finished), 0);
}

/* ---- requests ---- */

static inline ProtobufCBinaryData pb(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

/* For range_end: all keys from here. */
static inline ProtobufCBinaryData pb_zero(void)
{
    static uint8_t zero;

    return (ProtobufCBinaryData){1, &zero};
}

#define NEW(s, type, init)                                                                         \
    ({                                                                                             \
        type *new_ = arena_alloc(&(s)->arena, sizeof(type));                                       \
        *new_ = (type)init;                                                                        \
        new_;                                                                                      \
    })

/* end: NULL one key, "\0" (an empty string) all from key. */
static inline ProtobufCBinaryData pb_end(const char *end)
{
    return !end ? (ProtobufCBinaryData){0, NULL} : !end[0] ? pb_zero() : pb(end);
}

static inline Etcdserverpb__RangeRequest *range_request(struct store *s, const char *key,
                                                        const char *end)
{
    Etcdserverpb__RangeRequest *q =
        NEW(s, Etcdserverpb__RangeRequest, ETCDSERVERPB__RANGE_REQUEST__INIT);

    q->key = pb(key);
    q->range_end = pb_end(end);
    return q;
}

static inline Etcdserverpb__PutRequest *put_request(struct store *s, const char *key,
                                                    const char *value)
{
    Etcdserverpb__PutRequest *q = NEW(s, Etcdserverpb__PutRequest, ETCDSERVERPB__PUT_REQUEST__INIT);

    q->key = pb(key);
    q->value = pb(value);
    return q;
}

static inline Etcdserverpb__DeleteRangeRequest *delete_request(struct store *s, const char *key,
                                                               const char *end)
{
    Etcdserverpb__DeleteRangeRequest *q =
        NEW(s, Etcdserverpb__DeleteRangeRequest, ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT);

    q->key = pb(key);
    q->range_end = pb_end(end);
    return q;
}

static inline Etcdserverpb__Compare *compare(struct store *s, const char *key,
                                             Etcdserverpb__Compare__CompareTarget target,
                                             Etcdserverpb__Compare__CompareResult result)
{
    Etcdserverpb__Compare *c = NEW(s, Etcdserverpb__Compare, ETCDSERVERPB__COMPARE__INIT);

    c->key = pb(key);
    c->target = target;
    c->result = result;
    return c;
}

static inline Etcdserverpb__RequestOp *
op_new(struct store *s, Etcdserverpb__RequestOp__RequestCase request_case, void *request)
{
    Etcdserverpb__RequestOp *op = NEW(s, Etcdserverpb__RequestOp, ETCDSERVERPB__REQUEST_OP__INIT);

    op->request_case = request_case;
    op->request_range = request; /* one pointer of a union */
    return op;
}

#define OP_RANGE_OF(s, q) op_new(s, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE, q)
#define OP_PUT_OF(s, q) op_new(s, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT, q)
#define OP_DELETE_OF(s, q) op_new(s, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE, q)
#define OP_TXN_OF(s, q) op_new(s, ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN, q)
#define op_range(s, key, end) OP_RANGE_OF(s, range_request(s, key, end))
#define op_put(s, key, value) OP_PUT_OF(s, put_request(s, key, value))
#define op_delete(s, key, end) OP_DELETE_OF(s, delete_request(s, key, end))

/* Lists end with NULL; a NULL list is empty. */
#define LIST(...) ((void *[]){__VA_ARGS__, NULL})

static inline size_t list_copy(struct store *s, void *const *items, void ***ret)
{
    size_t n = 0;

    while (items && items[n])
        n++;
    *ret = arena_alloc(&s->arena, n * sizeof(**ret));
    for (size_t i = 0; i < n; i++)
        (*ret)[i] = items[i];
    return n;
}

static inline Etcdserverpb__TxnRequest *txn_request(struct store *s, void *const *compares,
                                                    void *const *success, void *const *failure)
{
    Etcdserverpb__TxnRequest *t = NEW(s, Etcdserverpb__TxnRequest, ETCDSERVERPB__TXN_REQUEST__INIT);

    t->n_compare = list_copy(s, compares, (void ***)&t->compare);
    t->n_success = list_copy(s, success, (void ***)&t->success);
    t->n_failure = list_copy(s, failure, (void ***)&t->failure);
    return t;
}

/* ---- answers as text ---- */

static inline void text_header(struct buf *out, const Etcdserverpb__ResponseHeader *h)
{
    if (!h) {
        buf_append_str(out, "{none}");
        return;
    }
    buf_append_str(out, "{");
    if (h->revision)
        buf_printf(out, "r%" PRId64, h->revision);
    if (h->cluster_id || h->member_id || h->raft_term)
        buf_printf(out, " %" PRIu64 "/%" PRIu64 "/%" PRIu64, h->cluster_id, h->member_id,
                   h->raft_term);
    buf_append_str(out, "}");
}

/* key@create/mod/version=value, and ~lease. */
static inline void text_kv(struct buf *out, const Mvccpb__KeyValue *kv)
{
    buf_printf(out, " %.*s@%" PRId64 "/%" PRId64 "/%" PRId64 "=%.*s", (int)kv->key.len,
               (const char *)kv->key.data, kv->create_revision, kv->mod_revision, kv->version,
               (int)kv->value.len, (const char *)kv->value.data);
    if (kv->lease)
        buf_printf(out, "~%" PRId64, kv->lease);
}

static inline void text_range(struct buf *out, const Etcdserverpb__RangeResponse *r)
{
    text_header(out, r->header);
    for (size_t i = 0; i < r->n_kvs; i++)
        text_kv(out, r->kvs[i]);
    if (r->more)
        buf_append_str(out, " more");
    if (r->count)
        buf_printf(out, " #%" PRId64, r->count);
}

static inline void text_put(struct buf *out, const Etcdserverpb__PutResponse *r)
{
    text_header(out, r->header);
    if (r->prev_kv)
        text_kv(out, r->prev_kv);
}

static inline void text_delete(struct buf *out, const Etcdserverpb__DeleteRangeResponse *r)
{
    text_header(out, r->header);
    buf_printf(out, " -%" PRId64, r->deleted);
    for (size_t i = 0; i < r->n_prev_kvs; i++)
        text_kv(out, r->prev_kvs[i]);
}

static inline void text_txn(struct buf *out, const Etcdserverpb__TxnResponse *r);

static inline void text_op(struct buf *out, const Etcdserverpb__ResponseOp *op)
{
    switch (op->response_case) {
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE:
        text_range(out, op->response_range);
        break;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT: text_put(out, op->response_put); break;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_DELETE_RANGE:
        text_delete(out, op->response_delete_range);
        break;
    case ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_TXN: text_txn(out, op->response_txn); break;
    default: buf_append_str(out, "?");
    }
}

static inline void text_txn(struct buf *out, const Etcdserverpb__TxnResponse *r)
{
    text_header(out, r->header);
    buf_append_str(out, r->succeeded ? " yes" : " no");
    for (size_t i = 0; i < r->n_responses; i++) {
        buf_append_str(out, " [");
        text_op(out, r->responses[i]);
        buf_append_str(out, "]");
    }
}

#define TEXT_OF(s, package_name, text_function, encoded)                                           \
    ({                                                                                             \
        ProtobufCAllocator allocator_ = arena_allocator(&(s)->arena);                              \
        buf_clear(&(s)->text);                                                                     \
        void *message_ = package_name##__unpack(&allocator_, (encoded)->len, (encoded)->data);     \
        assert_non_null(message_);                                                                 \
        text_function(&(s)->text, message_);                                                       \
        buf_cstr(&(s)->text);                                                                      \
    })

/* ---- running ---- */

enum run_kind { RUN_PUT, RUN_DELETE, RUN_TXN };

static inline int store_dispatch(struct store *s, enum run_kind kind, const void *request,
                                 struct buf *out)
{
    struct txn_context ctx = {
        .mvcc = s->mvcc, .leases = s->leases, .arena = &s->arena, .header = s->header};

    return kind == RUN_PUT      ? txn_put(&ctx, request, out)
           : kind == RUN_DELETE ? txn_delete_range(&ctx, request, out)
                                : txn_txn(&ctx, request, out);
}

/* One entry, one batch. An outcome leaves no trace. */
static inline int store_run(struct store *s, enum run_kind kind, const void *request,
                            struct buf *out)
{
    int64_t before = mvcc_writer_revision(s->mvcc);
    int r;

    mvcc_begin(s->mvcc);
    r = store_dispatch(s, kind, request, out);
    mvcc_end(s->mvcc);
    if (r != 0) {
        assert_int_equal(mvcc_writer_revision(s->mvcc), before);
        assert_int_equal(db_batch_count(s->batch), 0);
    }
    store_commit(s);
    return r;
}

#define STORE_TEXT(s, kind, package_name, text_function, request)                                  \
    ({                                                                                             \
        struct buf out_ = BUF_NULL;                                                                \
        assert_int_equal(store_run(s, kind, request, &out_), 0);                                   \
        const char *text_ = TEXT_OF(s, package_name, text_function, &out_);                        \
        buf_deinit(&out_);                                                                         \
        text_;                                                                                     \
    })
#define store_put(s, q) STORE_TEXT(s, RUN_PUT, etcdserverpb__put_response, text_put, q)
#define store_delete(s, q)                                                                         \
    STORE_TEXT(s, RUN_DELETE, etcdserverpb__delete_range_response, text_delete, q)
#define store_txn(s, q) STORE_TEXT(s, RUN_TXN, etcdserverpb__txn_response, text_txn, q)

/* A plain read with a header of only a revision. */
static inline int store_read(struct store *s, const Etcdserverpb__RangeRequest *q, struct buf *out)
{
    struct range_view view = {.mvcc = s->mvcc};
    struct range_summary summary;
    int r = range_encode(&view, q, (struct range_flags){.with_count = true}, out, &summary);

    if (r == 0)
        encode_header(out, &(struct response_header){.revision = summary.current});
    return r;
}

static inline const char *store_range(struct store *s, const Etcdserverpb__RangeRequest *q)
{
    struct buf out = BUF_NULL;
    const char *text;

    assert_int_equal(store_read(s, q, &out), 0);
    text = TEXT_OF(s, etcdserverpb__range_response, text_range, &out);
    buf_deinit(&out);
    return text;
}

#define put(s, key, value) ((void)store_put(s, put_request(s, key, value)))
