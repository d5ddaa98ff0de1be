/* SPDX-License-Identifier: Apache-2.0 */
/* What may reach protobuf-c and what may not: nesting, text, garbage. */
#include "api/decode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "health.pb-c.h"
#include "rpc.pb-c.h"

static int decode(const ProtobufCMessageDescriptor *descriptor, struct bytes encoded,
                  struct arena *arena, void **ret)
{
    arena_reset(arena);
    return decode_message(descriptor, encoded, arena, ret);
}

/* A transaction with a transaction as its only operation, and so on: depth messages in all. */
static struct buf nested_txn(unsigned depth)
{
    struct buf inner = BUF_NULL;

    for (unsigned level = 1; level < depth; level++) {
        struct buf outer = BUF_NULL;

        /* Odd levels: the message inside is an operation (field 2, success); even: field 4. */
        buf_append_u8(&outer, (depth - level) % 2 ? 0x12 : 0x22);
        buf_append_varint(&outer, inner.len);
        buf_append(&outer, inner.data, inner.len);
        buf_deinit(&inner);
        inner = outer;
    }
    return inner;
}

static void test_put(void **state)
{
    _cleanup_(arena_deinit) struct arena arena;
    static const uint8_t encoded[] = {0x0A, 1, 'k', 0x12, 2, 'v', 'w', 0x18, 7};
    void *message = NULL;

    arena_init(&arena);
    assert_int_equal(decode(&etcdserverpb__put_request__descriptor,
                            bytes_of(encoded, sizeof(encoded)), &arena, &message),
                     0);
    const Etcdserverpb__PutRequest *r = message;
    assert_int_equal(r->key.len, 1);
    assert_memory_equal(r->value.data, "vw", 2);
    assert_int_equal(r->lease, 7);
    for (size_t len = 1; len < sizeof(encoded); len++) {
        int want = len == 3 || len == 7 ? 0 : DECODE_E_MALFORMED;

        message = NULL;
        assert_int_equal(decode(&etcdserverpb__put_request__descriptor, bytes_of(encoded, len),
                                &arena, &message),
                         want);
        assert_int_equal(message != NULL, want == 0);
    }
}

static void test_depth(void **state)
{
    _cleanup_(arena_deinit) struct arena arena;
    void *message = NULL;

    arena_init(&arena);
    _cleanup_(buf_deinit) struct buf deepest = nested_txn(DECODE_DEPTH_MAX);
    assert_int_equal(
        decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&deepest), &arena, &message), 0);
    _cleanup_(buf_deinit) struct buf deeper = nested_txn(DECODE_DEPTH_MAX + 1);
    assert_int_equal(
        decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&deeper), &arena, &message),
        DECODE_E_DEPTH);
    _cleanup_(buf_deinit) struct buf absurd = nested_txn(20000);
    assert_int_equal(
        decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&absurd), &arena, &message),
        DECODE_E_DEPTH);
}

static void test_text(void **state)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        {"", true},
        {"plain", true},
        {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80", true},
        {"\xF4\x8F\xBF\xBF", true},
        {"\xED\x9F\xBF", true},
        {"\x80", false},
        {"\xC0\x80", false},
        {"\xC1\xBF", false},
        {"\xE0\x9F\xBF", false},
        {"\xED\xA0\x80", false},
        {"\xF0\x8F\xBF\xBF", false},
        {"\xF4\x90\x80\x80", false},
        {"\xF5\x80\x80\x80", false},
        {"\xC3", false},
        {"\xE2\x82", false},
        {"a\xFF", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(decode_text_is_valid(bytes_str(cases[i].text)), cases[i].valid);
    assert_false(decode_text_is_valid(bytes_of("a\0b", 3)));
}

static void test_string_field(void **state)
{
    _cleanup_(arena_deinit) struct arena arena;
    static const uint8_t good[] = {0x0A, 2, 0xC3, 0xA9}, bad[] = {0x0A, 2, 0xC3, 'x'},
                         nul[] = {0x0A, 3, 'a', 0, 'b'};
    const ProtobufCMessageDescriptor *d = &grpc__health__v1__health_check_request__descriptor;
    void *message = NULL;

    arena_init(&arena);
    assert_int_equal(decode(d, bytes_of(good, sizeof(good)), &arena, &message), 0);
    assert_string_equal(((const Grpc__Health__V1__HealthCheckRequest *)message)->service,
                        "\xC3\xA9");
    assert_int_equal(decode(d, bytes_of(bad, sizeof(bad)), &arena, &message), DECODE_E_MALFORMED);
    assert_int_equal(decode(d, bytes_of(nul, sizeof(nul)), &arena, &message), DECODE_E_MALFORMED);
}

/* Random bytes, and valid messages with random bytes changed: no crash (the sanitizers watch). */
static void test_garbage(void **state)
{
    _cleanup_(arena_deinit) struct arena arena;
    _cleanup_(buf_deinit) struct buf valid = nested_txn(9);
    struct rng rng;
    const uint64_t seed = 20261124;
    unsigned accepted = 0;

    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    arena_init(&arena);
    for (unsigned round = 0; round < 20000; round++) {
        _cleanup_(buf_deinit) struct buf b = BUF_NULL;
        void *message;

        if (round % 2)
            buf_append_bytes(&b, buf_bytes(&valid));
        else
            for (uint64_t n = rng_below(&rng, 40); n; n--)
                buf_append_u8(&b, (uint8_t)rng_next(&rng));
        if (round % 2)
            b.data[rng_below(&rng, b.len)] = (uint8_t)rng_next(&rng);
        accepted +=
            decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&b), &arena, &message) == 0;
    }
    assert_in_range(accepted, 1, 19999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put),     cmocka_unit_test(test_depth),
        cmocka_unit_test(test_text),    cmocka_unit_test(test_string_field),
        cmocka_unit_test(test_garbage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
