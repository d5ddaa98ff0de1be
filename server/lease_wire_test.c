/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What members ask each other about leases, byte for byte as etcd 3.7.1 wrote it when it was asked;
 * and bytes that are no such thing.
 */
#include "server/lease_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define ID INT64_C(0x296fa209f6f71da9)
#define ID_BYTES "\xa9\xbb\xdc\xb7\x9f\xc1\xe8\xb7\x29"

static void wrote(struct buf *out, struct bytes want)
{
    assert_true(bytes_equal(buf_bytes(out), want));
    buf_clear(out);
}

static void test_written(void **state)
{
    struct buf out = BUF_NULL, keys = BUF_NULL;

    lease_wire_renew_put(&out, ID);
    wrote(&out, BYTES_LIT("\x08" ID_BYTES));
    lease_wire_renew_put(&out, 0);
    wrote(&out, BYTES_LIT(""));
    lease_wire_renewed_put(&out, &(struct lease_wire_renewed){ID, 600});
    wrote(&out, BYTES_LIT("\x10" ID_BYTES "\x18\xd8\x04"));
    lease_wire_question_put(&out, &(struct lease_wire_question){ID, true});
    wrote(&out, BYTES_LIT("\x0a\x0c\x08" ID_BYTES "\x10\x01"));
    lease_wire_question_put(&out, &(struct lease_wire_question){0, false});
    wrote(&out, BYTES_LIT("\x0a\x00"));
    lease_wire_left_key(&keys, BYTES_LIT("lk"));
    lease_wire_left_put(&out, &(struct lease_wire_left){ID, 599, 600, buf_bytes(&keys)});
    wrote(&out, BYTES_LIT("\x0a\x16\x0a\x00\x10" ID_BYTES "\x18\xd7\x04\x20\xd8\x04\x2a\x02lk"));
    buf_deinit(&out);
    buf_deinit(&keys);
}

static void test_read(void **state)
{
    struct buf keys = BUF_NULL;
    struct lease_wire_question q;
    struct lease_wire_renewed r;
    struct lease_wire_left left;
    int64_t id;

    assert_true(lease_wire_renew_read(BYTES_LIT("\x08" ID_BYTES "\x7a\x01x"), &id)); /* and more */
    assert_int_equal(id, ID);
    assert_true(lease_wire_renewed_read(BYTES_LIT("\x0a\x00\x10\x07\x18\x05"), &r));
    assert_true(r.id == 7 && r.ttl_s == 5);
    assert_true(lease_wire_question_read(BYTES_LIT("\x0a\x00"), &q));
    assert_true(q.id == 0 && !q.keys);
    assert_true(lease_wire_left_read(
        BYTES_LIT(
            "\x0a\x16\x2a\x01z\x10\x07\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x0a\x2a"
            "\x02lk"),
        &left, &keys));
    assert_true(left.id == 7 && left.ttl_s == -1 && left.granted_ttl_s == 10);
    assert_true(bytes_equal(left.keys, BYTES_LIT("\x2a\x01z\x2a\x02lk")));
    buf_deinit(&keys);
}

static void test_no_such_thing(void **state)
{
    const struct bytes bad[] = {BYTES_LIT("\x08"), BYTES_LIT("\x0a\x05\x08\x01"),
                                BYTES_LIT("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
                                BYTES_LIT("\x0a\xff\xff\xff\xff\x0f")};
    struct buf keys = BUF_NULL;
    struct lease_wire_question q;
    struct lease_wire_renewed r;
    struct lease_wire_left left;
    int64_t id;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_false(lease_wire_renew_read(bad[i], &id));
        assert_false(lease_wire_renewed_read(bad[i], &r));
        assert_false(lease_wire_question_read(bad[i], &q));
        assert_false(lease_wire_left_read(bad[i], &left, &keys));
    }
    assert_false(lease_wire_question_read(BYTES_NULL, &q));       /* nothing is asked, */
    assert_false(lease_wire_left_read(BYTES_NULL, &left, &keys)); /* or answered */
    buf_deinit(&keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_no_such_thing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
