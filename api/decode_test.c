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
    return decode_message(descriptor, &encoded, arena, ret);
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
        int want = len == 3 || len == 7 ? 0 : DECODE_E_WIRE;

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
    _cleanup_(buf_deinit) struct buf deepest_for_go = nested_txn(DECODE_WIRE_DEPTH_MAX);
    assert_int_equal(decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&deepest_for_go),
                            &arena, &message),
                     DECODE_E_DEPTH);
    _cleanup_(buf_deinit) struct buf absurd = nested_txn(DECODE_WIRE_DEPTH_MAX + 1);
    assert_int_equal(
        decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&absurd), &arena, &message),
        DECODE_E_RECURSION);
}

static struct buf from_hex(const char *hex)
{
    struct buf b = BUF_NULL;

    for (; *hex; hex += 2) {
        uint8_t byte;

        assert_int_equal(sscanf(hex, "%2hhx", &byte), 1);
        buf_append_u8(&b, byte);
    }
    return b;
}

struct repair_case {
    const char *hex;
    const char *repaired; /* NULL: refused */
};

static void assert_repair(const ProtobufCMessageDescriptor *descriptor, const struct repair_case *c)
{
    _cleanup_(buf_deinit) struct buf original = from_hex(c->hex);
    struct bytes encoded = buf_bytes(&original);
    _cleanup_(arena_deinit) struct arena arena;
    void *message = NULL;

    arena_init(&arena);
    int r = decode_message(descriptor, &encoded, &arena, &message);
    assert_int_equal(r, c->repaired ? 0 : DECODE_E_WIRE);
    if (!c->repaired)
        return;
    _cleanup_(buf_deinit) struct buf want = from_hex(c->repaired);
    if (!bytes_equal(encoded, buf_bytes(&want)))
        fail_msg("%s does not become %s", c->hex, c->repaired);
    if (strcmp(c->hex, c->repaired) == 0)
        assert_ptr_equal(encoded.data, original.data);
}

/* Rewriting copies the message at every level. */
static void test_repair_depth(void **state)
{
    for (unsigned depth = DECODE_REPAIR_DEPTH_MAX; depth <= DECODE_REPAIR_DEPTH_MAX + 1; depth++) {
        _cleanup_(buf_deinit) struct buf deep = nested_txn(depth);
        _cleanup_(arena_deinit) struct arena arena;
        void *message = NULL;

        buf_append(&deep, "\x7b\x7c", 2); /* an empty group behind it all */
        arena_init(&arena);
        assert_int_equal(
            decode(&etcdserverpb__txn_request__descriptor, buf_bytes(&deep), &arena, &message),
            depth <= DECODE_REPAIR_DEPTH_MAX ? 0 : DECODE_E_DEPTH);
    }
}

/* What Go sees as unknown fields though we know their numbers. */
static void test_repair(void **state)
{
    static const struct repair_case cases[] = {
        {"0A016B", "0A016B"},
        {"0A016B1A0178", "0A016B"},           /* lease as bytes */
        {"0805", ""},                         /* key as a number */
        {"0D00000000090000000000000000", ""}, /* key as fixed32, fixed64 */
        {"0A016B7B7C", "0A016B"},             /* an empty group */
        {"7B0A016B7B7C7C0A016B", "0A016B"},   /* groups in a group */
        {"0A016BF80105", "0A016BF80105"},     /* a number nobody knows stays */
        {"7B", NULL},                         /* a group without an end */
        {"7C", NULL},                         /* an end without a group */
        {"7B84017C", NULL},                   /* the end of another one */
        {"0E", NULL},                         /* wire type 6 */
        {"0F", NULL},                         /* wire type 7 */
        {"0001", NULL},                       /* number 0 */
        {"18FFFFFFFFFFFFFFFFFF7F", NULL},     /* more than 64 bits */
        {"18FFFFFFFFFFFFFFFFFF01", "18FFFFFFFFFFFFFFFFFF01"},
        {"8080808010", NULL}, /* number 2^29 */
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_repair(&etcdserverpb__put_request__descriptor, &cases[i]);
}

/* RequestOp: a oneof of range (0A), put (12), deletion (1A) and transaction (22). What Go's library
 * makes of each was asked of it. */
static void test_repeats(void **state)
{
    static const struct repair_case cases[] = {
        {"12030A0161", "12030A0161"},
        {"12030A01611203120162", "12060A0161120162"}, /* put { key a } put { value b } */
        {"12030A01611203120162120218071200", "12080A01611201621807"},
        {"12001200", "1200"},
        {"12030A01610A030A01721203120162", "1203120162"},       /* put, range, put: the last */
        {"12030A016112031201620A030A0172", "0A030A0172"},       /* put, put, range: the range */
        {"0A030A017212030A01611203120162", "12060A0161120162"}, /* range, put, put: the puts */
        {"0A030A017212030A0161", "0A030A017212030A0161"},       /* protobuf-c takes the last, too */
        {"12030A016108051203120162", "12060A0161120162"},       /* a range as a number is none */
        {"12030A01617B7C1203120162F80105", "12060A0161120162F80105"},
        {"220212002202120022021A00", "2206120012001A00"}, /* lists grow */
        {"22071205120312016122091207120512016212002202120A", NULL},
        {"22091207120312016112002200", "220712051203120161"}, /* a repeat inside */
        {"2202120022001200120A", NULL},
    };
    static const struct repair_case list = {"12001200", "12001200"}; /* of a transaction */

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_repair(&etcdserverpb__request_op__descriptor, &cases[i]);
    assert_repair(&etcdserverpb__txn_request__descriptor, &list);
}

/* No oneof: protobuf-c would merge them, but takes a zero for absent. */
static void test_repeat_of_a_field(void **state)
{
    _cleanup_(buf_deinit) struct buf original = from_hex("1205080112016112020800");
    struct bytes encoded = buf_bytes(&original);
    _cleanup_(arena_deinit) struct arena arena;
    void *message = NULL;

    arena_init(&arena);
    assert_int_equal(decode_message(&etcdserverpb__auth_role_grant_permission_request__descriptor,
                                    &encoded, &arena, &message),
                     0);
    const Etcdserverpb__AuthRoleGrantPermissionRequest *r = message;
    assert_int_equal(r->perm->permtype, 0);
    assert_int_equal(r->perm->key.len, 1);
    assert_int_equal(encoded.len, 9);
}

/* The same inside: success { put { key, lease as bytes } }. */
static void test_repair_nested(void **state)
{
    static const uint8_t nested[] = {0x12, 8, 0x12, 6, 0x0A, 1, 'k', 0x1A, 1, 'x'};
    static const uint8_t want[] = {0x12, 5, 0x12, 3, 0x0A, 1, 'k'};
    struct bytes encoded = bytes_of(nested, sizeof(nested));
    _cleanup_(arena_deinit) struct arena arena;
    void *message = NULL;

    arena_init(&arena);
    assert_int_equal(
        decode_message(&etcdserverpb__txn_request__descriptor, &encoded, &arena, &message), 0);
    assert_int_equal(encoded.len, sizeof(want));
    assert_memory_equal(encoded.data, want, sizeof(want));
    const Etcdserverpb__TxnRequest *r = message;
    assert_int_equal(r->success[0]->request_put->key.len, 1);
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
    assert_int_equal(decode(d, bytes_of(bad, sizeof(bad)), &arena, &message), DECODE_E_TEXT);
    assert_int_equal(decode(d, bytes_of(nul, sizeof(nul)), &arena, &message), DECODE_E_TEXT);
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
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_string_field),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_repair),
        cmocka_unit_test(test_repair_nested),
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_repeat_of_a_field),
        cmocka_unit_test(test_repair_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
