/* SPDX-License-Identifier: Apache-2.0 */
/* Members in JSON: what real members store and answer, all 64 bits of ids, and what is refused. */
#include "server/member_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/mem.h"
#include "base/rng.h"

/* ---- writing ---- */

static struct member example(void)
{
    static char *peers[] = {(char *)"http://127.0.0.1:31799"};

    return (struct member){.id = 3751265251792375925, .peer_urls = peers, .n_peer_urls = 1};
}

static void assert_json(const struct member *m, const char *expected)
{
    struct buf out = BUF_NULL;

    member_json(&out, m);
    assert_string_equal(buf_cstr(&out), expected);
    buf_deinit(&out);
}

static void test_json(void **state)
{
    struct member m = example();
    char *clients[] = {(char *)"http://a:1", (char *)"http://b:2?x=<&>"};

    assert_json(&m, "{\"id\":3751265251792375925,\"peerURLs\":[\"http://127.0.0.1:31799\"]}");
    m.is_learner = true;
    m.name = (char *)"";
    assert_json(&m, "{\"id\":3751265251792375925,\"peerURLs\":[\"http://127.0.0.1:31799\"],"
                    "\"isLearner\":true}");
    m.id = UINT64_MAX;
    m.name = (char *)"n1";
    m.client_urls = clients;
    m.n_client_urls = 2;
    assert_json(&m, "{\"id\":18446744073709551615,\"peerURLs\":[\"http://127.0.0.1:31799\"],"
                    "\"isLearner\":true,\"name\":\"n1\",\"clientURLs\":[\"http://a:1\","
                    "\"http://b:2?x=\\u003c\\u0026\\u003e\"]}");
}

/* As Go writes strings. */
static void test_json_strings(void **state)
{
    char *none[] = {NULL};
    struct member m = {.id = 1, .peer_urls = none};
    static const char *const cases[][2] = {
        {"a\"b\\c/", "a\\\"b\\\\c/"},
        {"\b\f\n\r\t\x01\x1f\x7f", "\\b\\f\\n\\r\\t\\u0001\\u001f\x7f"},
        {"gr\u00fcn \u4e2d \U0001f600", "gr\u00fcn \u4e2d \U0001f600"},
        {"a\u2028b\u2029c\u202a", "a\\u2028b\\u2029c\u202a"},
        {"bad\xff", "bad\\ufffd"},
        {"cut\xe4\xb8", "cut\\ufffd\\ufffd"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *expected = mem_printf("{\"id\":1,\"peerURLs\":[],\"name\":\"%s\"}", cases[i][1]);
        m.name = (char *)(uintptr_t)cases[i][0];
        assert_json(&m, expected);
        free(expected);
    }
}

/* What stands in front of numbers while they are read is a name like others. */
static void test_json_marks(void **state)
{
    static const char *const names[] = {"\x01",
                                        "\x01x",
                                        "\x01"
                                        "1",
                                        "\x02",
                                        "\x02\x02y",
                                        "x\x01"};
    char *peers[] = {(char *)"\x01url"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct member m = {.id = 1, .peer_urls = peers, .n_peer_urls = 1}, read;
        struct buf out = BUF_NULL;

        m.name = (char *)(uintptr_t)names[i];
        member_json(&out, &m);
        assert_int_equal(member_json_parse(buf_bytes(&out), &read, NULL), 0);
        assert_string_equal(read.name, names[i]);
        assert_string_equal(read.peer_urls[0], peers[0]);
        member_deinit(&read);
        buf_deinit(&out);
    }
}

/* ---- lists ---- */

static const char golden[] =
    "[{\"id\":1094337122352331367,\"peerURLs\":[\"http://127.0.0.1:24391\"],\"name\":\"b\","
    "\"clientURLs\":[\"http://127.0.0.1:24389\"]},"
    "{\"id\":3260068419688530593,\"peerURLs\":[\"http://127.0.0.1:24401\",\"http://b:1\"],"
    "\"isLearner\":true},"
    "{\"id\":18446744073709551613,\"peerURLs\":[],\"name\":\"-1.5e3\",\"clientURLs\":[\"1\"]}]\n";

static void test_golden(void **state)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct member_list m;

    assert_int_equal(member_json_list_parse(bytes_str(golden), &m), 0);
    assert_int_equal(m.len, 3);
    assert_true(m.items[0].id == 1094337122352331367);
    assert_string_equal(m.items[0].name, "b");
    assert_string_equal(m.items[0].client_urls[0], "http://127.0.0.1:24389");
    assert_false(m.items[0].is_learner);
    assert_int_equal(m.items[1].n_peer_urls, 2);
    assert_string_equal(m.items[1].peer_urls[1], "http://b:1");
    assert_string_equal(m.items[1].name, "");
    assert_int_equal(m.items[1].n_client_urls, 0);
    assert_true(m.items[1].is_learner);
    assert_true(m.items[2].id == UINT64_MAX - 2);
    assert_string_equal(m.items[2].name, "-1.5e3");
    member_json_list(&out, &m);
    assert_string_equal(buf_cstr(&out), golden);
    member_list_deinit(&m);
}

static void test_forms(void **state)
{
    static const struct {
        const char *text;
        size_t len;
        uint64_t id;
        const char *name;
    } cases[] = {
        {"[]", 0, 0, NULL},
        {" [ ] \n", 0, 0, NULL},
        {"[{}]", 1, 0, ""},
        {"[{\"id\":0}]", 1, 0, ""},
        {"[{\"id\":18446744073709551615}]", 1, UINT64_MAX, ""},
        {"[{\"id\":9223372036854775808 , \"name\":\"n\"}]", 1, 1ull << 63, "n"},
        {"[{\"id\":null,\"peerURLs\":null,\"name\":null,\"clientURLs\":null,\"isLearner\":null}]",
         1, 0, ""},
        {"[{\"id\":7,\"isPromote\":true,\"x\":[1,-2.5e+7,{\"y\":null}],\"name\":\"n\"}]", 1, 7,
         "n"},
        {"[{\"id\":7,\"name\":\"a\\\"1,2\\\\\"}]", 1, 7, "a\"1,2\\"},
        {"[{\"id\":7,\"name\":\"\\u00fc\\n\"}]", 1, 7, "\u00fc\n"},
        {"[{\"id\":1,\"id\":2}]", 1, 2, ""},
        {"[{\"id\":5},{\"id\":4}]", 2, 5, ""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct member_list m;
        if (member_json_list_parse(bytes_str(cases[i].text), &m) != 0)
            fail_msg("refused: %s", cases[i].text);
        assert_int_equal(m.len, cases[i].len);
        if (m.len > 0) {
            assert_true(m.items[0].id == cases[i].id);
            assert_string_equal(m.items[0].name, cases[i].name);
        }
        member_list_deinit(&m);
    }
}

static void test_refused(void **state)
{
    static const char *const cases[] = {
        "",
        "null",
        "{}",
        "[",
        "[{]",
        "[{}] x",
        "[{},]",
        "[null]",
        "[1]",
        "[\"a\"]",
        "[{\"id\":18446744073709551616}]",
        "[{\"id\":100000000000000000000}]",
        "[{\"id\":-1}]",
        "[{\"id\":1.0}]",
        "[{\"id\":1e3}]",
        "[{\"id\":01}]",
        "[{\"id\":+1}]",
        "[{\"id\":-}]",
        "[{\"id\":\"1\"}]",
        "[{\"id\":true}]",
        "[{\"id\":[1]}]",
        "[{\"id\":1 2}]",
        "[{\"name\":1}]",
        "[{\"name\":[]}]",
        "[{\"isLearner\":1}]",
        "[{\"isLearner\":\"true\"}]",
        "[{\"peerURLs\":\"http://a:1\"}]",
        "[{\"peerURLs\":{}}]",
        "[{\"peerURLs\":[1]}]",
        "[{\"peerURLs\":[null]}]",
        "[{\"clientURLs\":[[]]}]",
        "[{\"name\":\"a\\u0000b\"}]",
        "[{\"name\":\"\xff\"}]",
        "[{\"name\":\"a",
        "[{\"name\":\"a\\",
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct member_list m = {.len = 77};
        if (member_json_list_parse(bytes_str(cases[i]), &m) != MEMBER_JSON_E_INVALID)
            fail_msg("taken: %s", cases[i]);
        assert_int_equal(m.len, 77);
    }
}

static void expect_list(struct buf *text, int expected)
{
    struct member_list m = {0};

    assert_int_equal(member_json_list_parse(buf_bytes(text), &m), expected);
    member_list_deinit(&m);
    buf_clear(text);
}

static void test_limits(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    for (size_t over = 0; over < 2; over++) {
        buf_append_str(&b, "[{}");
        for (size_t i = 1; i < MEMBER_JSON_LIST_MAX + over; i++)
            buf_append_str(&b, ",{}");
        buf_append_str(&b, "]");
        expect_list(&b, over ? MEMBER_JSON_E_INVALID : 0);
        buf_append_str(&b, "[]");
        while (b.len < MEMBER_JSON_BYTES_MAX + over)
            buf_append_u8(&b, ' ');
        expect_list(&b, over ? MEMBER_JSON_E_INVALID : 0);
    }
    /* Nesting ends in a refusal, not in the stack. */
    for (int i = 0; i < 100000; i++)
        buf_append_u8(&b, '[');
    expect_list(&b, MEMBER_JSON_E_INVALID);
}

/* The record of one member, and the context of a change, which is one with a mark. */
static void test_one(void **state)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct member m;
    bool is_promotion = true;

    assert_int_equal(member_json_parse(BYTES_LIT("{\"id\":18446744073709551615,\"peerURLs\":[]}"),
                                       &m, &is_promotion),
                     0);
    assert_true(m.id == UINT64_MAX && m.peer_urls && !is_promotion);
    member_json(&out, &m);
    assert_string_equal(buf_cstr(&out), "{\"id\":18446744073709551615,\"peerURLs\":[]}");
    member_deinit(&m);
    buf_clear(&out);
    member_json_promotion(&out, 3260068419688530593);
    assert_string_equal(buf_cstr(&out),
                        "{\"id\":3260068419688530593,\"peerURLs\":null,\"isPromote\":true}");
    assert_int_equal(member_json_parse(buf_bytes(&out), &m, &is_promotion), 0);
    assert_true(m.id == 3260068419688530593 && !m.peer_urls && is_promotion);
    buf_clear(&out);
    member_json(&out, &m);
    assert_string_equal(buf_cstr(&out), "{\"id\":3260068419688530593,\"peerURLs\":null}");
    member_deinit(&m);
    assert_int_equal(member_json_parse(BYTES_LIT("[]"), &m, NULL), MEMBER_JSON_E_INVALID);
    assert_int_equal(member_json_parse(BYTES_LIT("{\"id\":1,\"isPromote\":1}"), &m, NULL),
                     MEMBER_JSON_E_INVALID);
}

/* etcd's own record, as it lies in its files. */
static void test_downgrade(void **state)
{
    static const char *const records[] = {"{\"target-version\":\"3.6.0\",\"enabled\":true}",
                                          "{\"target-version\":\"\",\"enabled\":false}"},
                             *const refused[] = {"", "[]", "{\"target-version\":3}",
                                                 "{\"target-version\":\"1234567890123456\"}",
                                                 "{\"enabled\":1}"};

    for (size_t i = 0; i < 2; i++) {
        _cleanup_(buf_deinit) struct buf out = BUF_NULL;
        struct downgrade d;
        assert_int_equal(member_json_downgrade_parse(bytes_str(records[i]), &d), 0);
        assert_true(d.enabled == (i == 0) && (d.target[0] != '\0') == (i == 0));
        member_json_downgrade(&out, &d);
        assert_string_equal(buf_cstr(&out), records[i]);
    }
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        struct downgrade d;
        assert_int_equal(member_json_downgrade_parse(bytes_str(refused[i]), &d),
                         MEMBER_JSON_E_INVALID);
    }
}

/* A text of any of these characters, of Go's special ones and of some beyond ASCII. */
static char *random_text(struct rng *rng, struct arena *arena)
{
    static const char *const letters[] = {"a", "1",  "-",      "\"",     "\\",         "<",
                                          "&", "\n", "\u00fc", "\u2028", "\U0001f600", "\x7f"};
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    for (uint64_t n = rng_below(rng, 12); n > 0; n--)
        buf_append_str(&b, letters[rng_below(rng, 12)]);
    buf_append_u8(&b, 0);
    return (char *)(uintptr_t)arena_copy(arena, buf_bytes(&b)).data;
}

static char **random_texts(struct rng *rng, struct arena *arena, size_t *ret_n)
{
    char **texts = arena_alloc(arena, 4 * sizeof(*texts));

    *ret_n = (size_t)rng_below(rng, 4);
    for (size_t i = 0; i < *ret_n; i++)
        texts[i] = random_text(rng, arena);
    return texts;
}

static void assert_texts_equal(char **a, size_t n, char **b, size_t n_b)
{
    assert_int_equal(n, n_b);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(a[i], b[i]);
}

static void test_round_trip(void **state)
{
    _cleanup_(arena_deinit) struct arena arena_memory;
    struct arena *arena = &arena_memory;
    struct rng rng;
    uint64_t seed = 20261130;

    arena_init(arena);
    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (int round = 0; round < 2000; round++) {
        _cleanup_(buf_deinit) struct buf out = BUF_NULL;
        struct member items[5];
        struct member_list m = {items, (size_t)rng_below(&rng, 6)}, read;
        arena_reset(arena);
        for (size_t i = 0; i < m.len; i++) {
            items[i] = (struct member){.id = rng_next(&rng) >> rng_below(&rng, 64),
                                       .is_learner = rng_below(&rng, 2),
                                       .name = random_text(&rng, arena)};
            items[i].peer_urls = random_texts(&rng, arena, &items[i].n_peer_urls);
            items[i].client_urls = random_texts(&rng, arena, &items[i].n_client_urls);
        }
        member_json_list(&out, &m);
        assert_int_equal(member_json_list_parse(buf_bytes(&out), &read), 0);
        assert_int_equal(read.len, m.len);
        for (size_t i = 0; i < m.len; i++) {
            const struct member *a = &items[i], *b = &read.items[i];
            assert_true(a->id == b->id);
            assert_int_equal(a->is_learner, b->is_learner);
            assert_string_equal(a->name, b->name);
            assert_texts_equal(a->peer_urls, a->n_peer_urls, b->peer_urls, b->n_peer_urls);
            assert_texts_equal(a->client_urls, a->n_client_urls, b->client_urls, b->n_client_urls);
        }
        member_list_deinit(&read);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),       cmocka_unit_test(test_json_strings),
        cmocka_unit_test(test_json_marks), cmocka_unit_test(test_golden),
        cmocka_unit_test(test_forms),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_limits),     cmocka_unit_test(test_one),
        cmocka_unit_test(test_downgrade),  cmocka_unit_test(test_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
