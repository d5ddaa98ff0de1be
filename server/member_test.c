/* SPDX-License-Identifier: Apache-2.0 */
/* Members: etcd's ids and rules, what is stored is what is loaded, and what stops a member. */
#include "server/member_json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

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
    /* Added at run time: seconds in the place of the token. */
    assert_true(member_id_of_added(two, 2, 1795000000) ==
                id_of("http://a:1http://b:2", "1795000000"));
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

enum { LEARNERS_MAX = 1 };

#define ADD RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode
#define REMOVE RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode
#define UPDATE RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode
#define LEARN RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode

/* The way that it takes: as bytes of an entry. Raft is told the same as the table does. */
static int change(struct fixture *f, Raftpb__ConfChangeType type, uint64_t node,
                  const char *context)
{
    struct blob *entry = member_change_encode(7, type, node, bytes_str(context));
    Raftpb__ConfChange *c = raftpb__conf_change__unpack(NULL, entry->len, entry->data);
    struct raft_conf_single told = {.node_id = 99};
    int r;

    assert_non_null(c);
    assert_true(c->id == 7 && c->has_context == (context[0] != '\0'));
    r = members_apply_conf_change(f->table, f->batch, c, LEARNERS_MAX, &told);
    if (r >= 0)
        assert_true(told.node_id == (r == 0 ? node : 0) && (int)told.type == (int)type);
    raftpb__conf_change__free_unpacked(c, NULL);
    blob_unref(entry);
    return r;
}

static void assert_conf(struct fixture *f, const char *expected)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct raft_conf_state conf;

    members_conf(f->table, &conf);
    for (size_t i = 0; i < conf.voters.len; i++)
        buf_printf(&out, "%" PRIu64 " ", conf.voters.ids[i]);
    buf_append_str(&out, "|");
    for (size_t i = 0; i < conf.learners.len; i++)
        buf_printf(&out, " %" PRIu64, conf.learners.ids[i]);
    assert_string_equal(buf_cstr(&out), expected);
    assert_true(conf.voters_outgoing.len == 0 && conf.learners_next.len == 0);
    raft_conf_state_clear(&conf);
}

/* Ids above 2^63 too, which JSON libraries like to spoil; and records of etcd with null lists. */
static void test_add_and_reload(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(
        change(f, ADD, UINT64_MAX - 5,
               "{\"id\":18446744073709551610,\"peerURLs\":[\"http://b:1\"],\"name\":\"\\u003cb\"}"),
        0);
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":null}"), 0);
    const char *both =
        "{\"id\":7,\"peerURLs\":null}\n"
        "{\"id\":18446744073709551610,\"peerURLs\":[\"http://b:1\"],\"name\":\"\\u003cb\"}\n";
    assert_members(f, both);
    reopen(f);
    assert_members(f, both);
    assert_conf(f, "7 18446744073709551610 |");
}

/*
 * A script of changes, each with what it must come to: the rules of section 6.2 of the peer
 * protocol, line by line.
 */
struct step {
    Raftpb__ConfChangeType type;
    uint64_t id;
    const char *context; /* behind {"id":N, ; NULL: no context */
    int outcome;
};

#define URL(u) "\"peerURLs\":[\"http://" u "\"]}"
#define URLS(u, v) "\"peerURLs\":[\"http://" u "\",\"http://" v "\"]}"
#define LEARNER_URL(u) "\"peerURLs\":[\"http://" u "\"],\"isLearner\":true}"
#define PROMOTE "\"peerURLs\":null,\"isPromote\":true}"

static const struct step steps[] = {
    {REMOVE, 1, NULL, OUTCOME_MEMBER_NOT_FOUND},
    {UPDATE, 1, URL("a:1"), OUTCOME_MEMBER_NOT_FOUND},
    {ADD, 1, PROMOTE, OUTCOME_MEMBER_NOT_FOUND},
    {ADD, 1, URL("a:1"), 0},
    {ADD, 1, URL("z:1"), OUTCOME_MEMBER_EXISTS},
    {LEARN, 1, LEARNER_URL("z:1"), OUTCOME_MEMBER_EXISTS},
    {ADD, 2, URL("a:1"), OUTCOME_PEER_URL_EXISTS},
    {ADD, 2, URLS("b:1", "a:1"), OUTCOME_PEER_URL_EXISTS},
    {ADD, 2, URLS("b:1", "b:1"), 0}, /* twice in itself is no matter */
    {ADD, 1, PROMOTE, OUTCOME_MEMBER_NOT_LEARNER},
    {LEARN, 3, LEARNER_URL("a:1"), OUTCOME_PEER_URL_EXISTS},
    {LEARN, 3, LEARNER_URL("c:1"), 0},
    {LEARN, 4, LEARNER_URL("d:1"), OUTCOME_TOO_MANY_LEARNERS},
    {LEARN, 4, LEARNER_URL("c:1"),
     OUTCOME_PEER_URL_EXISTS}, /* comes before the number of learners */
    {ADD, 4, URL("c:1"), OUTCOME_PEER_URL_EXISTS},
    {UPDATE, 2, URL("a:1"), OUTCOME_PEER_URL_EXISTS},
    {UPDATE, 2, URLS("b:2", "c:1"), OUTCOME_PEER_URL_EXISTS},
    {UPDATE, 2, URLS("b:1", "b:2"), 0}, /* one's own is free */
    {UPDATE, 3, URL("c:2"), 0},         /* a learner stays one */
    {ADD, 4, URL("c:1"), 0},            /* which another gave up */
    {REMOVE, 4, NULL, 0},
    {REMOVE, 4, NULL, OUTCOME_MEMBER_NOT_FOUND},
    {ADD, 4, URL("x:1"), OUTCOME_MEMBER_NOT_FOUND}, /* never again */
    {LEARN, 4, LEARNER_URL("x:1"), OUTCOME_MEMBER_NOT_FOUND},
    {UPDATE, 4, URL("x:1"), OUTCOME_MEMBER_NOT_FOUND},
    {ADD, 4, PROMOTE, OUTCOME_MEMBER_NOT_FOUND},
    {ADD, 5, URL("c:1"), 0}, /* its URL is free for another id */
    {ADD, 3, PROMOTE, 0},
    {ADD, 3, PROMOTE, OUTCOME_MEMBER_NOT_LEARNER},
    {LEARN, 6, LEARNER_URL("e:1"), 0}, /* there is room for a learner again */
    {REMOVE, 6, NULL, 0},
    {LEARN, 7, LEARNER_URL("e:1"), 0},
};

static void run_steps(struct fixture *f, bool reopens)
{
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        const struct step *s = &steps[i];
        _cleanup_(mem_freep) char *context =
            s->context ? mem_printf("{\"id\":%" PRIu64 ",%s", s->id, s->context) : mem_strdup("");
        size_t before = db_batch_count(f->batch);
        int r = change(f, s->type, s->id, context);
        if (r != s->outcome)
            fail_msg("step %zu: %d", i, r);
        if (r > 0)
            assert_int_equal(db_batch_count(f->batch), before); /* refused: nothing has changed */
        if (reopens)
            reopen(f);
    }
    assert_members(f, "{\"id\":1,\"peerURLs\":[\"http://a:1\"]}\n"
                      "{\"id\":2,\"peerURLs\":[\"http://b:1\",\"http://b:2\"]}\n"
                      "{\"id\":3,\"peerURLs\":[\"http://c:2\"]}\n"
                      "{\"id\":5,\"peerURLs\":[\"http://c:1\"]}\n"
                      "{\"id\":7,\"peerURLs\":[\"http://e:1\"],\"isLearner\":true}\n");
    assert_conf(f, "1 2 3 5 | 7");
    assert_true(members_is_removed(f->table, 4) && members_is_removed(f->table, 6));
    assert_false(members_is_removed(f->table, 1) || members_is_removed(f->table, 5));
}

static void test_rules(void **state)
{
    run_steps(*state, false);
}

static void test_rules_across_restarts(void **state)
{
    run_steps(*state, true);
}

/* A change of URLs keeps name and client URLs; a promotion keeps all, its null URLs included. */
static void test_keeps(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(change(f, LEARN, 7,
                            "{\"id\":7,\"peerURLs\":[\"http://a:1\"],\"isLearner\":true,"
                            "\"name\":\"n\",\"clientURLs\":[\"http://c:1\"]}"),
                     0);
    assert_int_equal(
        change(f, UPDATE, 7, "{\"id\":7,\"peerURLs\":[\"http://b:1\",\"http://a:2\"]}"), 0);
    const char *learner =
        "{\"id\":7,\"peerURLs\":[\"http://b:1\",\"http://a:2\"],\"isLearner\":true,"
        "\"name\":\"n\",\"clientURLs\":[\"http://c:1\"]}\n";
    assert_members(f, learner);
    reopen(f);
    assert_members(f, learner);
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":null,\"isPromote\":true}"), 0);
    reopen(f);
    assert_members(f, "{\"id\":7,\"peerURLs\":[\"http://b:1\",\"http://a:2\"],\"name\":\"n\","
                      "\"clientURLs\":[\"http://c:1\"]}\n");
}

/* Raft goes by the type of the change, the table by its context, as etcd's do when they differ. */
static void test_type_and_context(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(change(f, LEARN, 7, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}"), 0);
    assert_int_equal(
        change(f, ADD, 8, "{\"id\":8,\"peerURLs\":[\"http://b:1\"],\"isLearner\":true}"), 0);
    assert_conf(f, "7 | 8");
    /* Only both together count against the most that there may be. */
    assert_int_equal(
        change(f, ADD, 9, "{\"id\":9,\"peerURLs\":[\"http://c:1\"],\"isLearner\":true}"), 0);
    assert_conf(f, "7 | 8 9");
}

static void test_too_many(void **state)
{
    struct fixture *f = *state;

    for (uint64_t id = 1; id <= MEMBERS_MAX + 1; id++) {
        _cleanup_(mem_freep) char *context =
            mem_printf("{\"id\":%" PRIu64 ",\"peerURLs\":[\"http://a:%" PRIu64 "\"]}", id, id);
        int r = change(f, ADD, id, context);
        assert_true(id <= MEMBERS_MAX ? r == 0 : r == -EOPNOTSUPP);
    }
    reopen(f);
    assert_true(members_find(f->table, MEMBERS_MAX, NULL));
}

static void test_attributes(void **state)
{
    struct fixture *f = *state;
    Membershippb__Attributes attributes = MEMBERSHIPPB__ATTRIBUTES__INIT;
    Membershippb__ClusterMemberAttrSetRequest q =
        MEMBERSHIPPB__CLUSTER_MEMBER_ATTR_SET_REQUEST__INIT;
    char *urls[] = {(char *)"http://c:1", (char *)"http://c:2"};

    attributes.name = (char *)"bad\xffname"; /* must be readable again */
    attributes.client_urls = urls;
    attributes.n_client_urls = 2;
    q.member_id = 7;
    q.member_attributes = &attributes;
    assert_int_equal(members_apply_attributes(f->table, f->batch, &q), 0);
    assert_int_equal(db_batch_count(f->batch), 0); /* nobody there: nothing done */
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}"), 0);
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
    assert_true(members_apply_version(f->table, f->batch, "3.7") < 0);
    /* Lower is what a downgrade sets; higher is a cluster that this version can't serve. */
    assert_int_equal(members_apply_version(f->table, f->batch, "3.6.0"), 0);
    assert_int_equal(members_apply_version(f->table, f->batch, "3.8.0"), -EPROTO);
    members_cluster_version(f->table, version);
    assert_string_equal(version, "3.6.0");
}

static void test_newer_version_is_refused(void **state)
{
    struct fixture *f = *state;
    struct members *newer = NULL;
    struct buf key = BUF_NULL;

    schema_meta(&key, "cluster_version");
    db_batch_put(f->batch, buf_bytes(&key), BYTES_LIT("3.8.0"));
    assert_int_equal(db_write(f->db, f->batch), 0);
    assert_int_equal(members_open(&newer, f->db), -EPROTO);
    buf_deinit(&key);
}

static void apply_downgrade(struct fixture *f, bool enabled, const char *version, int expected)
{
    Membershippb__DowngradeInfoSetRequest q = MEMBERSHIPPB__DOWNGRADE_INFO_SET_REQUEST__INIT;

    q.enabled = enabled;
    q.ver = (char *)(uintptr_t)version;
    assert_int_equal(members_apply_downgrade(f->table, f->batch, &q), expected);
    reopen(f);
}

static void assert_damaged_downgrade(struct fixture *f, const char *record)
{
    struct buf key = BUF_NULL;

    schema_meta(&key, "downgrade");
    assert_damaged(f, buf_bytes(&key), bytes_str(record));
    buf_deinit(&key);
}

static void test_downgrade(void **state)
{
    struct fixture *f = *state;
    struct downgrade d;

    members_downgrade(f->table, &d);
    assert_false(d.enabled);
    apply_downgrade(f, true, "3.6.0", 0);
    members_downgrade(f->table, &d);
    assert_true(d.enabled);
    assert_string_equal(d.target, "3.6.0");
    apply_downgrade(f, true, "3.6.0-much.too.long", -EBADMSG);
    apply_downgrade(f, true, "", -EBADMSG);
    apply_downgrade(f, false, "ignored", 0);
    members_downgrade(f->table, &d);
    assert_false(d.enabled || d.target[0]);
    assert_damaged_downgrade(f, "3.6.0");
}

/* ---- a member that joins ---- */

static void test_stand_in(void **state)
{
    struct fixture *f = *state;
    struct member_list told = {0}, seen;
    bool is_learner;

    member_list_add(&told, (struct member){.id = 7, .name = mem_strdup("a")});
    member_list_add(&told, (struct member){.id = 8, .is_learner = true});
    members_stand_in(f->table, 8, &told);
    assert_int_equal(told.len, 0);
    assert_true(members_find(f->table, 8, &is_learner) && is_learner);
    assert_conf(f, "|"); /* raft knows what was applied only */
    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}"), 0);
    members_copy(f->table, &seen);
    assert_int_equal(seen.len, 2); /* it has not come to itself yet */
    member_list_deinit(&seen);
    assert_int_equal(
        change(f, LEARN, 8, "{\"id\":8,\"peerURLs\":[\"http://b:1\"],\"isLearner\":true}"), 0);
    assert_members(f, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}\n"
                      "{\"id\":8,\"peerURLs\":[\"http://b:1\"],\"isLearner\":true}\n");
    assert_int_equal(change(f, REMOVE, 8, ""), 0);
    assert_members(f, "{\"id\":7,\"peerURLs\":[\"http://a:1\"]}\n"); /* nor after that */
}

/* What this version can't apply, and what etcd's members die of, stops the member; nothing is
 * skipped. */
static void test_refused(void **state)
{
    struct fixture *f = *state;
    static const char *const contexts[] = {"",
                                           "{",
                                           "[]",
                                           "{\"peerURLs\":[\"http://a:1\"]}",
                                           "{\"id\":8,\"peerURLs\":[\"http://a:1\"]}",
                                           "{\"id\":\"7\",\"peerURLs\":[\"http://a:1\"]}",
                                           "{\"id\":7,\"peerURLs\":[1]}",
                                           "{\"id\":7,\"peerURLs\":[\"\xff\"]}",
                                           "{\"id\":7,\"peerURLs\":[\"a\"],\"clientURLs\":[null]}"};
    static const Raftpb__ConfChangeType types[] = {ADD, UPDATE, LEARN};

    for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
        for (size_t k = 0; k < 3; k++)
            assert_true(change(f, types[k], 7, contexts[i]) < 0);
    }
    assert_true(change(f, (Raftpb__ConfChangeType)17, 7, "{\"id\":7}") < 0);
    assert_members(f, "");
    assert_int_equal(db_batch_count(f->batch), 0);
}

static void assert_record_damaged(struct fixture *f, const char *record)
{
    struct buf key = BUF_NULL;

    schema_member(&key, 7);
    assert_damaged(f, buf_bytes(&key), bytes_str(record));
    buf_deinit(&key);
}

static void test_damaged_record(void **state)
{
    assert_record_damaged(*state, "{\"id\":7,");
    assert_record_damaged(*state, "{\"id\":8,\"peerURLs\":[]}"); /* filed under another id */
}

static void test_member_and_removed(void **state)
{
    struct fixture *f = *state;
    struct buf key = BUF_NULL;

    assert_int_equal(change(f, ADD, 7, "{\"id\":7,\"peerURLs\":[]}"), 0);
    schema_removed(&key, 7);
    assert_damaged(f, buf_bytes(&key), BYTES_NULL);
    buf_deinit(&key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),
        T(test_add_and_reload),
        T(test_rules),
        T(test_rules_across_restarts),
        T(test_keeps),
        T(test_type_and_context),
        T(test_too_many),
        T(test_attributes),
        T(test_version),
        T(test_newer_version_is_refused),
        T(test_downgrade),
        T(test_stand_in),
        T(test_refused),
        T(test_damaged_record),
        T(test_member_and_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
