/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding by hand against protobuf-c, and lengths where a length takes more bytes. */
#include "server/encode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/mem.h"
#include "rpc.pb-c.h"

static void test_fields(void **state)
{
    struct buf out = BUF_NULL;

    encode_u64(&out, 1, 0); /* defaults are left out */
    encode_i64(&out, 1, 0);
    encode_bool(&out, 1, false);
    encode_bytes(&out, 1, BYTES_NULL);
    assert_int_equal(out.len, 0);
    encode_u64(&out, 1, 300);
    encode_i64(&out, 2, -1);
    encode_bool(&out, 16, true);
    encode_bytes(&out, 3, BYTES_LIT("ab"));
    encode_present_bytes(&out, 4, BYTES_NULL);
    static const char expected[] = "\x08\xac\x02"
                                   "\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
                                   "\x80\x01\x01"
                                   "\x1a\x02"
                                   "ab"
                                   "\x22\x00";
    assert_true(bytes_equal(buf_bytes(&out), bytes_of(expected, sizeof(expected) - 1)));
    buf_deinit(&out);
}

/* A nested message moves when its length is known; at 128 and 16,384 bytes by one more. */
static void test_nested(void **state)
{
    static const size_t lengths[] = {0,   1,   120,   122,   124,   125,   126,
                                     127, 128, 16380, 16383, 16384, 70000, 3000000};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct buf out = BUF_NULL;
        uint8_t *value = mem_alloc(lengths[i] + 1);
        memset(value, 0xab, lengths[i]);
        size_t outer = encode_begin(&out, 2);
        encode_u64(&out, 1, 77);
        size_t inner = encode_begin(&out, 2);
        encode_bytes(&out, 2, bytes_of(value, lengths[i]));
        encode_end(&out, inner);
        encode_end(&out, outer);
        encode_u64(&out, 9, 5);

        struct bytes s = buf_bytes(&out), body;
        uint64_t v;
        assert_true(varint_get(&s, &v) && v == (2 << 3 | 2));
        assert_true(varint_get(&s, &v) && v + 2 == s.len);
        assert_true(s.data[0] == 0x08 && s.data[1] == 77 && s.data[2] == 0x12);
        body = bytes_of(s.data + 3, s.len - 3);
        assert_true(varint_get(&body, &v) && v + 2 == body.len);
        if (lengths[i] > 0) {
            assert_true(varint_get(&body, &v) && v == 0x12);
            assert_true(varint_get(&body, &v) && v == lengths[i]);
            assert_memory_equal(body.data, value, lengths[i]);
        }
        assert_true(s.data[s.len - 2] == 9 << 3 && s.data[s.len - 1] == 5);
        free(value);
        buf_deinit(&out);
    }
}

static void test_header(void **state)
{
    static const struct response_header headers[] = {
        {0}, {.revision = 5}, {UINT64_MAX, UINT64_MAX - 1, INT64_MAX, 7}, {.revision = -1}};

    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++) {
        const struct response_header *h = &headers[i];
        struct buf out = BUF_NULL;
        encode_header(&out, h);
        Etcdserverpb__PutResponse *r = etcdserverpb__put_response__unpack(NULL, out.len, out.data);
        assert_non_null(r);
        assert_non_null(r->header);
        assert_true(r->header->cluster_id == h->cluster_id && r->header->member_id == h->member_id);
        assert_true(r->header->revision == h->revision && r->header->raft_term == h->raft_term);
        assert_int_equal(out.len, etcdserverpb__put_response__get_packed_size(r));
        etcdserverpb__put_response__free_unpacked(r, NULL);
        buf_deinit(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields), cmocka_unit_test(test_nested),
                                       cmocka_unit_test(test_header)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
