/* SPDX-License-Identifier: Apache-2.0 */
/* Requests as text for the log: no values, bounded, absent fields left out. */
#include "api/request_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "rpc.pb-c.h"

static ProtobufCBinaryData data(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
}

static void expect(const ProtobufCMessage *message, const char *want)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    request_text(message, &text);
    assert_string_equal(buf_cstr(&text), want);
}

static void test_put(void **state)
{
    Etcdserverpb__PutRequest r = ETCDSERVERPB__PUT_REQUEST__INIT;

    expect(&r.base, "");
    r.key = data("a\"\\\n\xFF");
    r.value = data("secret");
    r.lease = -7;
    r.prev_kv = 1;
    expect(&r.base, "key:\"a\\\"\\\\\\x0a\\xff\" value_size:6 lease:-7 prev_kv:true");
}

static void test_txn(void **state)
{
    Etcdserverpb__Compare compare = ETCDSERVERPB__COMPARE__INIT, *compares[] = {&compare};
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RequestOp op = ETCDSERVERPB__REQUEST_OP__INIT, *ops[] = {&op, &op};
    Etcdserverpb__TxnRequest r = ETCDSERVERPB__TXN_REQUEST__INIT;

    compare.key = data("c");
    compare.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE;
    compare.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_VALUE;
    compare.value = data("secret");
    range.key = data("k");
    range.limit = 5;
    op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    op.request_range = &range;
    r.compare = compares;
    r.n_compare = 1;
    r.success = ops;
    r.n_success = 2;
    expect(&r.base, "compare:{target:3 key:\"c\" value_size:6} "
                    "success:{request_range:{key:\"k\" limit:5}} "
                    "success:{request_range:{key:\"k\" limit:5}}");
}

static void test_bounded(void **state)
{
    _cleanup_(mem_freep) char *key = mem_alloc(1000000);
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    Etcdserverpb__RangeRequest r = ETCDSERVERPB__RANGE_REQUEST__INIT;

    memset(key, 'k', 999999);
    r.key = data(key);
    r.range_end = data(key);
    request_text(&r.base, &text);
    assert_in_range(text.len, REQUEST_TEXT_BYTES_MAX, REQUEST_TEXT_BYTES_MAX + 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_txn),
        cmocka_unit_test(test_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
