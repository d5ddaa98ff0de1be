/* SPDX-License-Identifier: Apache-2.0 */
/* Versions: how they are read, and what the leader decides from them. */
#include "server/cluster_version.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static void test_parse(void **state)
{
    static const struct {
        const char *text;
        const char *printed; /* NULL: no version */
    } cases[] = {
        {"3.7.1", "3.7.1"},
        {"0.0.0", "0.0.0"},
        {"3.8.0-alpha.0", "3.8.0"},
        {"3.7.1+git", "3.7.1"},
        {"10.20.30", "10.20.30"},
        {"9999.9999.9999", "9999.9999.9999"},
        {"", NULL},
        {"3", NULL},
        {"3.7", NULL},
        {"3.7.", NULL},
        {"3.7.1.", NULL},
        {"3.7.1.2", NULL},
        {"v3.7.1", NULL},
        {" 3.7.1", NULL},
        {"3.7.1 ", NULL},
        {"-3.7.1", NULL},
        {"3..1", NULL},
        {"3.7.x", NULL},
        {"10000.0.0", NULL},
        {"99999999999999999999.0.0", NULL},
        {"not_decided", NULL},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct version v;
        char text[VERSION_TEXT_MAX];
        bool ok = version_parse(cases[i].text, &v);
        if (ok != (cases[i].printed != NULL))
            fail_msg("%s", cases[i].text);
        if (!ok)
            continue;
        version_text(v, text);
        assert_string_equal(text, cases[i].printed);
    }
}

static struct version of(const char *text)
{
    struct version v = {0};

    if (text)
        assert_true(version_parse(text, &v));
    return v;
}

static void test_compare(void **state)
{
    assert_true(version_compare(of("3.7.1"), of("3.7.1")) == 0);
    assert_true(version_compare(of("3.7.1"), of("3.7.2")) < 0);
    assert_true(version_compare(of("3.10.0"), of("3.9.9")) > 0);
    assert_true(version_compare(of("4.0.0"), of("3.99.99")) > 0);
    assert_true(version_compare(version_minor(of("3.7.9")), of("3.7.0")) == 0);
}

static void test_decide(void **state)
{
    static const struct {
        const char *set, *lowest, *target; /* NULL: none, not known, no downgrade */
        const char *decided;               /* NULL: nothing to do */
        bool somebody_silent;
    } cases[] = {
        {NULL, "3.7.1", NULL, "3.7.0"}, /* the lowest, without its patch */
        {NULL, "3.6.4", NULL, "3.6.0"},
        {NULL, NULL, NULL, "3.0.0"}, /* somebody was silent */
        {"3.0.0", NULL, NULL, NULL},
        {"3.0.0", "3.7.1", NULL, NULL, true}, /* what is known so far does not count */
        {NULL, "3.7.1", NULL, "3.0.0", true},
        {"3.0.0", "3.7.1", NULL, "3.7.0"},
        {"3.6.0", "3.7.1", NULL, "3.7.0"},
        {"3.7.0", "3.7.1", NULL, NULL},
        {"3.7.0", "3.6.4", NULL, NULL}, /* never lowered for an older member */
        {"3.7.0", "4.0.0", NULL, NULL}, /* another major version */
        {"3.7.0", NULL, "3.6.0", NULL},
        {"3.7.0", "3.7.1", "3.6.0", "3.6.0"},
        {"3.6.0", "3.6.4", "3.6.0", NULL}, /* done */
        {"3.6.0", "3.7.1", "3.6.0", NULL},
        {"3.7.0", "3.7.1", "3.5.0", NULL}, /* two steps at once */
        {"3.7.0", "3.6.1", "3.6.0", NULL}, /* a member is there already: one step from it is 3.5 */
        {"3.7.0", "3.7.1", "x", NULL},
        {NULL, "3.7.1", "3.6.0", "3.7.0"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct version_facts facts = {
            .is_set = cases[i].set != NULL,
            .set = of(cases[i].set),
            .is_known = cases[i].lowest != NULL && !cases[i].somebody_silent,
            .lowest = of(cases[i].lowest),
            .downgrade.enabled = cases[i].target != NULL,
        };
        struct version v;
        if (cases[i].target)
            snprintf(facts.downgrade.target, sizeof(facts.downgrade.target), "%s", cases[i].target);
        bool decided = cluster_version_decide(&facts, &v);
        if (decided != (cases[i].decided != NULL) ||
            (decided && version_compare(v, of(cases[i].decided)) != 0))
            fail_msg("case %zu", i);
    }
}

static void test_answer(void **state)
{
    struct version v;

    assert_true(cluster_version_parse(
        BYTES_LIT("{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.6.0\",\"storage\":\"3.6.0\"}"),
        "etcdserver", &v));
    assert_true(version_compare(v, of("3.7.1")) == 0);
    assert_true(cluster_version_parse(BYTES_LIT("{\"etcdcluster\":\"3.6.0\"}"), "etcdcluster", &v));
    assert_true(version_compare(v, of("3.6.0")) == 0);
    static const char *const refused[] = {"",
                                          "{}",
                                          "[]",
                                          "{",
                                          "null",
                                          "{\"etcdserver\":3}",
                                          "{\"etcdserver\":\"3\"}",
                                          "404 page not found\n"};
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        assert_false(cluster_version_parse(bytes_str(refused[i]), "etcdserver", &v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_decide),
        cmocka_unit_test(test_answer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
