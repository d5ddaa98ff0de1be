/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules before a change of members, as tables: each row is a cluster, one letter a member.
 *
 *   S  started and connected for long      n  started, connected for just 5 s
 *   d  started, not connected              u  never started, not connected
 *   l  a learner, started and connected
 *
 * The first is this member itself.
 */
#include "server/member_rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"

enum { MEMBERS_IN_ROW_MAX = 9 };

struct row {
    const char *letters;
    struct member items[MEMBERS_IN_ROW_MAX];
    struct member_list list;
    struct member_situation situation;
};

static uint64_t active_ms(void *arg, uint64_t member_id)
{
    const struct row *row = arg;

    assert_true(member_id != 1); /* nobody asks about himself */
    if (member_id == 0 || member_id > strlen(row->letters))
        return 0;
    switch (row->letters[member_id - 1]) {
    case 'S':
    case 'l': return MEMBER_HEALTH_MS + 1;
    case 'n': return MEMBER_HEALTH_MS;
    default: return 0;
    }
}

/* Ids are the places in the row. */
static const struct member_situation *row_init(struct row *row, const char *letters)
{
    *row = (struct row){.letters = letters};
    for (size_t i = 0; letters[i]; i++) {
        row->items[i] = (struct member){.id = i + 1,
                                        .is_learner = letters[i] == 'l',
                                        .name = (char *)(letters[i] == 'u' ? "" : "m")};
        row->list.len++;
    }
    row->list.items = row->items;
    row->situation = (struct member_situation){
        .members = &row->list, .local_id = 1, .active_ms = active_ms, .arg = row};
    return &row->situation;
}

#define FEW OUTCOME_MEMBER_NOT_ENOUGH_STARTED
#define ILL OUTCOME_UNHEALTHY

static void test_add(void **state)
{
    static const struct {
        const char *members;
        enum outcome voter, learner;
    } cases[] = {
        {"S", OUTCOME_OK, OUTCOME_OK},
        {"u", FEW, OUTCOME_OK}, /* it has no name yet, but it is alone */
        {"SS", OUTCOME_OK, OUTCOME_OK},
        {"Sd", ILL, ILL}, /* quorum of 3 is 2 */
        {"Sn", ILL, ILL}, /* just 5 s is not more than 5 s */
        {"Su", FEW, ILL},
        {"SSS", OUTCOME_OK, OUTCOME_OK},
        {"SSd", ILL, ILL}, /* quorum of 4 is 3 */
        {"SSu", FEW, ILL},
        {"Suu", FEW, ILL},
        {"SSSd", OUTCOME_OK, OUTCOME_OK},
        {"SSdd", ILL, ILL},
        {"SSSdd", ILL, ILL}, /* quorum of 6 is 4 */
        {"SSSSd", OUTCOME_OK, OUTCOME_OK},
        {"SSSSu", OUTCOME_OK, OUTCOME_OK},
        {"SSSuu", FEW, ILL},
        {"Sl", OUTCOME_OK, OUTCOME_OK}, /* learners don't count */
        {"Sdl", ILL, ILL},
    };
    struct row row;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct member_situation *s = row_init(&row, cases[i].members);
        if (member_may_add(s, false) != cases[i].voter ||
            member_may_add(s, true) != cases[i].learner)
            fail_msg("%s: voter %d, learner %d", cases[i].members, (int)member_may_add(s, false),
                     (int)member_may_add(s, true));
    }
}

static void test_remove(void **state)
{
    static const struct {
        const char *members;
        uint64_t id;
        enum outcome outcome;
    } cases[] = {
        {"S", 1, FEW},         /* nobody would be left */
        {"S", 9, OUTCOME_OK},  /* unknown: the table will say so */
        {"SS", 2, OUTCOME_OK}, /* one is left, which is its own quorum */
        {"SS", 1, OUTCOME_OK},
        {"Sd", 2, OUTCOME_OK}, /* not connected: it may go */
        {"Sd", 1, ILL},
        {"Su", 2, OUTCOME_OK},
        {"Su", 1, FEW},
        {"SSS", 2, OUTCOME_OK},
        {"SSd", 3, OUTCOME_OK},
        {"SSd", 2, ILL}, /* two would be left, one of them not there */
        {"SSd", 1, ILL},
        {"SSn", 3, ILL}, /* connected, but not for long enough to be counted */
        {"SSu", 2, FEW},
        {"SSu", 3, OUTCOME_OK},
        {"SSSd", 2, OUTCOME_OK}, /* two of the three that are left are there */
        {"SSdd", 2, ILL},
        {"SSSd", 4, OUTCOME_OK},
        {"SSSSd", 2, OUTCOME_OK},
        {"SSSdd", 2, ILL},
        {"SSSdd", 5, OUTCOME_OK},
        {"Sdl", 3, OUTCOME_OK}, /* a learner may always go */
        {"uul", 3, OUTCOME_OK},
        {"Sl", 1, FEW}, /* no voter would be left */
    };
    struct row row;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum outcome outcome = member_may_remove(row_init(&row, cases[i].members), cases[i].id);
        if (outcome != cases[i].outcome)
            fail_msg("%s without %d: %d", cases[i].members, (int)cases[i].id, (int)outcome);
    }
}

static void test_promote(void **state)
{
    static const struct {
        const char *members;
        enum outcome outcome;
    } cases[] = {
        {"Sl", OUTCOME_OK},    {"ul", FEW},          {"SSl", OUTCOME_OK}, {"Sul", OUTCOME_OK},
        {"Suul", FEW},         {"SSul", OUTCOME_OK}, {"Sdl", OUTCOME_OK}, {"uul", FEW},
        {"SSuul", OUTCOME_OK}, {"Suuul", FEW},
    };
    struct row row;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (member_may_promote(row_init(&row, cases[i].members)) != cases[i].outcome)
            fail_msg("%s", cases[i].members);
    }
}

static void test_ready(void **state)
{
    assert_int_equal(member_is_ready(0, 0), OUTCOME_OK); /* as in etcd, where it is no number */
    assert_int_equal(member_is_ready(0, 1), OUTCOME_LEARNER_NOT_READY);
    assert_int_equal(member_is_ready(9, 10), OUTCOME_OK);
    assert_int_equal(member_is_ready(8, 9), OUTCOME_LEARNER_NOT_READY);
    assert_int_equal(member_is_ready(27, 30), OUTCOME_OK);
    assert_int_equal(member_is_ready(899, 1000), OUTCOME_LEARNER_NOT_READY);
    assert_int_equal(member_is_ready(900, 1000), OUTCOME_OK);
    assert_int_equal(member_is_ready(1001, 1000), OUTCOME_OK);
}

static void test_quorum_since(void **state)
{
    struct row row;

    assert_true(member_has_quorum_since(row_init(&row, "S"), 1000));
    assert_true(member_has_quorum_since(row_init(&row, "SSd"), 1000));
    assert_false(member_has_quorum_since(row_init(&row, "Sdd"), 1000));
    assert_true(member_has_quorum_since(row_init(&row, "Snd"), MEMBER_HEALTH_MS - 1));
    assert_false(member_has_quorum_since(row_init(&row, "Snd"), MEMBER_HEALTH_MS));
    /* etcd counts learners here. */
    assert_false(member_has_quorum_since(row_init(&row, "Sd"), 1000));
    assert_true(member_has_quorum_since(row_init(&row, "Sdl"), 1000));
}

static void expect_urls(const char *const *texts, size_t n, const char *joined)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    char **urls = NULL;

    assert_int_equal(member_urls_parse((char *const *)texts, n, &urls), joined != NULL);
    for (size_t i = 0; joined && i < n; i++) {
        buf_printf(&out, "%s ", urls[i]);
        free(urls[i]);
    }
    free(urls);
    if (joined)
        assert_string_equal(buf_cstr(&out), joined);
}

static void test_urls(void **state)
{
    static const char *const two[] = {" HTTP://b:2 ", "https://a:1"},
                             *twice[] = {"http://a:1", "http://a:1"}, *path[] = {"http://a:1/"},
                             *one_bad[] = {"http://a:1", "x"}, *scheme[] = {"ftp://a:1"},
                             *bare[] = {"http://a"};
    const char **many = mem_alloc((MEMBER_URLS_MAX + 1) * sizeof(*many));
    char **urls;

    expect_urls(two, 2, "http://b:2 https://a:1 ");
    expect_urls(twice, 2, "http://a:1 http://a:1 ");
    expect_urls(two, 0, NULL);
    expect_urls(path, 1, NULL);
    expect_urls(one_bad, 2, NULL);
    expect_urls(scheme, 1, NULL);
    expect_urls(bare, 1, NULL);
    for (size_t i = 0; i <= MEMBER_URLS_MAX; i++)
        many[i] = "http://a:1";
    assert_false(member_urls_parse((char *const *)many, MEMBER_URLS_MAX + 1, &urls));
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_add),          cmocka_unit_test(test_remove),
        cmocka_unit_test(test_promote),      cmocka_unit_test(test_ready),
        cmocka_unit_test(test_quorum_since), cmocka_unit_test(test_urls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
