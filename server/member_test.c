/* SPDX-License-Identifier: Apache-2.0 */
/* Members: etcd's ids and JSON, what is stored is what is loaded, and what is refused. */
#include "server/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>

#define TABLE members
#include "server/test_table.h"

static uint64_t id_of(const char *url, const char *token)
{
    char *urls[] = {(char *)(uintptr_t)url};

    return member_id_of(urls, 1, token);
}

static void test_ids(void **state)
{
    assert_true(id_of("http://127.0.0.1:24381", "tok1") == 0x1fcfdbb73019296f);
    assert_true(id_of("http://127.0.0.1:24391", "tok1") == 0x0f2fddd092557a67);
    assert_true(id_of("http://127.0.0.1:2380", "etcd-cluster") == 0xb71f75320dc06a6c);
    const uint64_t ids[] = {0x0f2fddd092557a67, 0x1fcfdbb73019296f};
    assert_true(cluster_id_of(ids, 2) == 0x1767c24805d0a3cc);
    char *two[] = {(char *)"http://a:1", (char *)"http://b:2"};
    assert_true(member_id_of(two, 2, "t") == id_of("http://a:1http://b:2", "t"));
}

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
    struct member m = {.id = 1};
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

/* ---- the table ---- */

static void visit_text(void *arg, const struct member *m)
{
    member_json(arg, m);
    buf_append_u8(arg, '\n');
}

static void assert_members(struct fixture *f, const char *expected)
{
    struct buf out = BUF_NULL;

    members_visit(f->table, visit_text, &out);
    assert_string_equal(buf_cstr(&out), expected);
    buf_deinit(&out);
}

static int change(struct fixture *f, Raftpb__ConfChangeType type, uint64_t node,
                  const char *context, uint64_t *ret_node)
{
    Raftpb__ConfChange c = RAFTPB__CONF_CHANGE__INIT;
    struct raft_conf_single told = {.node_id = 99};
    int r;

    c.has_type = c.has_node_id = c.has_context = true;
    c.type = type;
    c.node_id = node;
    c.context = (ProtobufCBinaryData){strlen(context), (uint8_t *)(uintptr_t)context};
    r = members_apply_conf_change(f->table, f->batch, &c, &told);
    *ret_node = told.node_id;
    return r;
}

#define ADD RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode

/* Ids above 2^63 too, which JSON libraries like to spoil; and records of etcd with null lists. */
static void test_add_and_reload(void **state)
{
    struct fixture *f = *state;
    uint64_t node;

    assert_int_equal(
        change(f, ADD, UINT64_MAX - 5,
               "{\"id\":18446744073709551610,\"peerURLs\":[\"http://b:1\"],\"name\":\"\\u003cb\"}",
               &node),
        0);
    assert_true(node == UINT64_MAX - 5);
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":null}", &node), 0);
    assert_true(node == 7);
    const char *both =
        "{\"id\":7,\"peerURLs\":[]}\n"
        "{\"id\":18446744073709551610,\"peerURLs\":[\"http://b:1\"],\"name\":\"\\u003cb\"}\n";
    assert_members(f, both);
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":[\"http://again:1\"]}", &node), 0);
    assert_true(node == 0); /* refused: it is there */
    assert_members(f, both);
    reopen(f);
    assert_members(f, both);
    struct raft_conf_state conf;
    members_conf(f->table, &conf);
    assert_int_equal(conf.voters.len, 2);
    assert_true(conf.voters.ids[0] == 7 && conf.voters.ids[1] == UINT64_MAX - 5);
    assert_true(conf.learners.len == 0 && conf.voters_outgoing.len == 0 &&
                conf.learners_next.len == 0);
    raft_conf_state_clear(&conf);
}

static void test_attributes(void **state)
{
    struct fixture *f = *state;
    Membershippb__Attributes attributes = MEMBERSHIPPB__ATTRIBUTES__INIT;
    Membershippb__ClusterMemberAttrSetRequest q =
        MEMBERSHIPPB__CLUSTER_MEMBER_ATTR_SET_REQUEST__INIT;
    char *urls[] = {(char *)"http://c:1", (char *)"http://c:2"};
    uint64_t node;

    attributes.name = (char *)"bad\xffname"; /* must be readable again */
    attributes.client_urls = urls;
    attributes.n_client_urls = 2;
    q.member_id = 7;
    q.member_attributes = &attributes;
    assert_int_equal(members_apply_attributes(f->table, f->batch, &q), 1);
    assert_int_equal(db_batch_count(f->batch), 0);
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}", &node), 0);
    assert_int_equal(members_apply_attributes(f->table, f->batch, &q), 0);
    reopen(f);
    assert_members(
        f, "{\"id\":7,\"peerURLs\":[\"http://"
           "a:1\"],\"name\":\"bad\ufffdname\",\"clientURLs\":[\"http://c:1\",\"http://c:2\"]}\n");
    attributes.name = (char *)"n";
    attributes.n_client_urls = 0;
    assert_int_equal(members_apply_attributes(f->table, f->batch, &q), 0);
    reopen(f);
    assert_members(f, "{\"id\":7,\"peerURLs\":[\"http://a:1\"],\"name\":\"n\"}\n");
}

static void test_version(void **state)
{
    struct fixture *f = *state;
    char version[16];

    members_cluster_version(f->table, version);
    assert_string_equal(version, "");
    assert_int_equal(members_apply_version(f->table, f->batch, "3.7.0"), 0);
    members_cluster_version(f->table, version);
    assert_string_equal(version, "3.7.0");
    reopen(f);
    members_cluster_version(f->table, version);
    assert_string_equal(version, "3.7.0");
    assert_true(members_apply_version(f->table, f->batch, "3.7.0-much.too.long") < 0);
}

/* What this version can't apply stops the member; nothing is skipped. */
static void test_refused(void **state)
{
    struct fixture *f = *state;
    static const Raftpb__ConfChangeType types[] = {
        RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode,
        RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode,
        RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode};
    static const char *const contexts[] = {"",
                                           "{",
                                           "[]",
                                           "{\"id\":7,\"peerURLs\":[1]}",
                                           "{\"id\":7,\"peerURLs\":[\"\xff\"]}",
                                           "{\"id\":7,\"peerURLs\":[\"a\"],\"clientURLs\":[null]}"};
    uint64_t node;

    for (size_t i = 0; i < 3; i++)
        assert_true(change(f, types[i], 7, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}", &node) < 0);
    for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++)
        assert_true(change(f, ADD, 7, contexts[i], &node) < 0);
    assert_members(f, "");
    assert_int_equal(db_batch_count(f->batch), 0);
}

static void test_damaged_record(void **state)
{
    struct buf key = BUF_NULL;

    schema_member(&key, 7);
    assert_damaged(*state, buf_bytes(&key), BYTES_LIT("{\"id\":7,"));
    buf_deinit(&key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_strings),
        T(test_add_and_reload),
        T(test_attributes),
        T(test_version),
        T(test_refused),
        T(test_damaged_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
