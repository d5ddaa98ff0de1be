/* SPDX-License-Identifier: Apache-2.0 */
/* Log entries: the bytes that etcd writes, and bytes that nobody should. */
#include "server/internal_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/rng.h"
#include "server/txn.h"

/* A request id as etcd makes them: nine bytes as a varint. */
static const uint64_t id = 0x1329a20a00187505;
static const struct identity nobody;

static void test_put_as_etcd(void **state)
{
    static const char payload[] = "\x0a\x04k0-0\x12\x0axxxxxxxxxx";
    static const char expected[] = "\x22\x12\x0a\x04k0-0\x12\x0axxxxxxxxxx"
                                   "\xa2\x06\x0a\x08\x85\xea\xe1\x80\xa0\xc1\xe8\x94\x13";
    struct blob *b = internal_request_encode(REQUEST_PUT, bytes_str(payload), id, &nobody);

    assert_true(bytes_equal(blob_bytes(b), bytes_str(expected)));
    blob_unref(b);
}

/* Every kind, with and without a user: the same bytes as a generic encoder that writes fields in
 * ascending order. */
static void test_all_kinds(void **state)
{
    static const struct identity users[] = {{BYTES_NULL, 0}, {BYTES_LIT("alice"), 300}};
    struct arena arena;
    struct buf packed = BUF_NULL;

    arena_init(&arena);
    for (int kind = 0; kind < REQUEST_READ_INDEX; kind++) {
        for (size_t i = 0; i < 2; i++) {
            struct blob *b =
                internal_request_encode((enum request_kind)kind, BYTES_NULL, id, &users[i]);
            Etcdserverpb__InternalRaftRequest *q = internal_request_decode(blob_bytes(b), &arena);
            assert_non_null(q);
            assert_true(q->header && q->header->id == id);
            assert_true(bytes_equal(bytes_str(q->header->username), users[i].user));
            assert_int_equal(q->header->auth_revision, users[i].revision);
            buf_clear(&packed);
            buf_append_zero(&packed, etcdserverpb__internal_raft_request__get_packed_size(q));
            etcdserverpb__internal_raft_request__pack(q, packed.data);
            assert_true(bytes_equal(blob_bytes(b), buf_bytes(&packed)));
            blob_unref(b);
            arena_reset(&arena);
        }
    }
    buf_deinit(&packed);
    arena_deinit(&arena);
}

static void test_kinds_are_told_apart(void **state)
{
    struct arena arena;
    Etcdserverpb__InternalRaftRequest *q[REQUEST_READ_INDEX];

    arena_init(&arena);
    for (int kind = 0; kind < REQUEST_READ_INDEX; kind++) {
        struct blob *b = internal_request_encode((enum request_kind)kind, BYTES_NULL, id, &nobody);
        q[kind] = internal_request_decode(blob_bytes(b), &arena);
        blob_unref(b);
    }
    assert_true(q[REQUEST_PUT]->put && !q[REQUEST_PUT]->txn);
    assert_true(q[REQUEST_DELETE_RANGE]->delete_range && q[REQUEST_TXN]->txn);
    assert_true(q[REQUEST_COMPACT]->compaction && q[REQUEST_ALARM]->alarm);
    assert_true(q[REQUEST_LEASE_GRANT]->lease_grant && q[REQUEST_LEASE_REVOKE]->lease_revoke);
    assert_true(q[REQUEST_CLUSTER_VERSION_SET]->cluster_version_set &&
                q[REQUEST_MEMBER_ATTR_SET]->cluster_member_attr_set);
    arena_deinit(&arena);
}

/* ---- nesting ---- */

/* depth transactions, each the only success operation of the one around it; each begins with
 * front. */
static struct buf nested(size_t depth, struct bytes front)
{
    size_t *txn_len = mem_alloc(depth * sizeof(*txn_len)); /* [0] is the outermost */
    struct buf out = BUF_NULL;

    txn_len[depth - 1] = front.len;
    for (size_t i = depth - 1; i-- > 0;) {
        size_t op_len = 1 + varint_size(txn_len[i + 1]) + txn_len[i + 1];
        txn_len[i] = front.len + 1 + varint_size(op_len) + op_len;
    }
    buf_append_bytes(&out, front);
    for (size_t i = 1; i < depth; i++) {
        buf_append_u8(&out, 2 << 3 | 2); /* success */
        buf_append_varint(&out, 1 + varint_size(txn_len[i]) + txn_len[i]);
        buf_append_u8(&out, 4 << 3 | 2); /* request_txn */
        buf_append_varint(&out, txn_len[i]);
        buf_append_bytes(&out, front);
    }
    assert_int_equal(out.len, txn_len[0]);
    free(txn_len);
    return out;
}

static bool decodes(struct bytes txn)
{
    struct arena arena;
    struct blob *b = internal_request_encode(REQUEST_TXN, txn, id, &nobody);

    arena_init(&arena);
    bool ok = internal_request_decode(blob_bytes(b), &arena) != NULL;
    arena_deinit(&arena);
    blob_unref(b);
    return ok;
}

static void test_nesting(void **state)
{
    static const size_t deep[] = {TXN_DEPTH_MAX + 1, TXN_DEPTH_MAX + 2, 5000, 100000};
    struct buf txn = nested(TXN_DEPTH_MAX, BYTES_NULL);

    assert_true(txn_bytes_depth_ok(buf_bytes(&txn), TXN_DEPTH_MAX));
    assert_false(txn_bytes_depth_ok(buf_bytes(&txn), TXN_DEPTH_MAX - 1));
    assert_true(decodes(buf_bytes(&txn)));
    buf_deinit(&txn);
    for (size_t i = 0; i < sizeof(deep) / sizeof(deep[0]); i++) {
        txn = nested(deep[i], BYTES_NULL);
        assert_false(txn_bytes_depth_ok(buf_bytes(&txn), TXN_DEPTH_MAX));
        assert_false(decodes(buf_bytes(&txn)));
        buf_deinit(&txn);
    }
}

/* What stands before the nest, and which the decoder accepts, must not end the search. */
static void test_hidden_nesting(void **state)
{
    static const struct bytes fronts[] = {
        BYTES_LIT(
            "\x78\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), /* a varint of more than 64 bits */
        BYTES_LIT("\x78\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"), /* one with a useless end */
        BYTES_LIT("\x79 8 bytes"),                                 /* fixed64 */
        BYTES_LIT("\x7d 4 b"),                                     /* fixed32 */
        BYTES_LIT("\x7a\x80\x00"),              /* a length in more bytes than it needs */
        BYTES_LIT("\xfa\x80\x80\x80\x00\x01x"), /* and a tag */
    };

    for (size_t i = 0; i < sizeof(fronts) / sizeof(fronts[0]); i++) {
        struct buf txn = nested(2, fronts[i]);
        if (!decodes(buf_bytes(&txn)))
            printf("front %zu is refused by the decoder\n", i);
        buf_deinit(&txn);
        txn = nested(30000, fronts[i]);
        assert_false(decodes(buf_bytes(&txn)));
        buf_deinit(&txn);
    }
}

/* ---- damage ---- */

static struct blob *some_entry(void)
{
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT;
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT;
    Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__RequestOp *ops[] = {&op, &op};
    Etcdserverpb__Compare *compares[] = {&compare};
    static uint8_t key[] = "some key";
    uint8_t packed[200];

    range.key = range.range_end = compare.key = (ProtobufCBinaryData){8, key};
    op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    op.request_range = &range;
    txn.n_compare = 1;
    txn.compare = compares;
    txn.n_success = txn.n_failure = 2;
    txn.success = txn.failure = ops;
    size_t len = etcdserverpb__txn_request__pack(&txn, packed);
    assert_true(len < sizeof(packed));
    return internal_request_encode(REQUEST_TXN, bytes_of(packed, len), id, &nobody);
}

static void test_cut(void **state)
{
    struct blob *b = some_entry();
    struct arena arena;
    size_t refused = 0;

    arena_init(&arena);
    assert_non_null(internal_request_decode(blob_bytes(b), &arena));
    for (size_t len = 0; len < b->len; len++) {
        uint8_t *copy =
            mem_alloc_raw(len + !len); /* of that size, so that a read behind it is seen */
        memcpy(copy, b->data, len);
        refused += internal_request_decode(bytes_of(copy, len), &arena) == NULL;
        free(copy);
    }
    /* All but the empty entry and the one that ends where the header begins. */
    assert_int_equal(refused, b->len - 2);
    arena_deinit(&arena);
    blob_unref(b);
}

static void test_noise(void **state)
{
    enum { ROUNDS = 20000, SEED = 7 };
    struct blob *b = some_entry();
    struct arena arena;
    struct rng rng;

    printf("seed %d\n", SEED);
    rng_init(&rng, SEED);
    arena_init(&arena);
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *copy = mem_alloc_raw(b->len);
        memcpy(copy, b->data, b->len);
        for (uint64_t n = 1 + rng_below(&rng, 4); n > 0; n--)
            copy[rng_below(&rng, b->len)] = (uint8_t)rng_next(&rng);
        (void)internal_request_decode(bytes_of(copy, b->len), &arena);
        arena_reset(&arena);
        free(copy);
    }
    arena_deinit(&arena);
    blob_unref(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_as_etcd),
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_hidden_nesting),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_kinds_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
