/* SPDX-License-Identifier: Apache-2.0 */
/* --initial-cluster, and when two lists of URLs mean the same. */
#include "server/initial_cluster.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "server/url_equal.h"

/* ---- the flag ---- */

static void expect_cluster(const char *text, const char *formatted)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct member_list list;
    char *error = NULL;

    assert_int_equal(initial_cluster_parse(text, &list, &error), 0);
    initial_cluster_format(&list, &out);
    assert_string_equal(buf_cstr(&out), formatted);
    member_list_deinit(&list);
}

static void test_parse(void **state)
{
    struct member_list list = {0};
    char *error = NULL;

    expect_cluster("", "");
    expect_cluster(",,", "");
    expect_cluster("b=http://b:1,a=http://a:2,,a=http://a:1",
                   "a=http://a:1,a=http://a:2,b=http://b:1");
    assert_int_equal(initial_cluster_parse("a=http://a:1,b", &list, &error), 1);
    assert_non_null(strstr(error, "error setting up initial cluster: "));
    free(error);
}

static void test_urls(void **state)
{
    struct member_list list;
    char *error = NULL;
    size_t n;

    assert_int_equal(
        initial_cluster_parse("c=http://c:1,b=http://d:1,a=http://b:1,b=http://a:1", &list, &error),
        0);
    char **urls = initial_cluster_urls(&list, "b", &n);
    assert_int_equal(n, 2);
    assert_string_equal(urls[0], "http://b:1");
    assert_string_equal(urls[1], "http://c:1");
    free(urls);
    urls = initial_cluster_urls(&list, NULL, &n);
    assert_int_equal(n, 4);
    assert_string_equal(urls[0], "http://a:1");
    free(urls);
    assert_int_equal(initial_cluster_find(&list, "b")->n_peer_urls, 2);
    assert_null(initial_cluster_find(&list, "x"));
    assert_int_equal(initial_cluster_check_unique(&list, &error), 0);
    member_list_deinit(&list);
    assert_int_equal(initial_cluster_parse("a=http://a:1,b=http://a:1", &list, &error), 0);
    assert_int_equal(initial_cluster_check_unique(&list, &error), 1);
    assert_string_equal(error, "initial cluster a=http://a:1,b=http://a:1 has duplicate url");
    free(error);
    member_list_deinit(&list);
}

/* ---- equal URLs ---- */

/* a resolves to 10.0.0.1, b to 10.0.0.2, six to an address of version 6; late on the third try. */
struct names {
    struct url_resolver resolver;
    unsigned tries, pauses, pauses_max;
};

static int resolve(struct url_resolver *r, const char *host, char ret[URL_ADDRESS_MAX],
                   char **ret_error)
{
    struct names *n = (struct names *)r;
    const char *address = strcmp(host, "a") == 0                         ? "10.0.0.1"
                          : strcmp(host, "b") == 0                       ? "10.0.0.2"
                          : strcmp(host, "six") == 0                     ? "fd00::6"
                          : strcmp(host, "late") == 0 && ++n->tries == 3 ? "10.0.0.1"
                                                                         : NULL;

    assert_string_not_equal(host, "localhost");
    if (!address) {
        *ret_error = mem_printf("lookup %s: no such host", host);
        return 1;
    }
    snprintf(ret, URL_ADDRESS_MAX, "%s", address);
    return 0;
}

static bool pause_counted(struct url_resolver *r)
{
    struct names *n = (struct names *)r;

    return ++n->pauses < n->pauses_max;
}

enum { TEXTS_MAX = 3 };

static struct url_texts texts_of(char *const items[TEXTS_MAX])
{
    struct url_texts t = {items, 0};

    while (t.len < TEXTS_MAX && items[t.len])
        t.len++;
    return t;
}

static void test_equal(void **state)
{
    static const struct {
        const char *a[TEXTS_MAX], *b[TEXTS_MAX];
        const char *why; /* NULL: equal */
    } cases[] = {
        {{0}, {0}, NULL},
        {{"http://x:1"}, {"http://x:1"}, NULL}, /* as texts: nothing is resolved */
        {{"http://x:1", "http://y:1"}, {"http://y:1", "http://x:1"}, NULL},
        {{"http://a:1"}, {"http://10.0.0.1:1"}, NULL},
        {{"http://10.0.0.2:1", "http://a:1"}, {"http://b:1", "http://10.0.0.1:1"}, NULL},
        {{"http://late:1"}, {"http://10.0.0.1:1"}, NULL},
        {{"http://six:1"}, {"http://[fd00:0:0::6]:1"}, NULL},
        {{"http://[::ffff:10.0.0.1]:1"}, {"http://10.0.0.1:1"}, NULL},
        {{"http://[0:0::1]:1"}, {"http://[::1]:1"}, NULL},
        {{"unix:///a"}, {"unix:///a"}, NULL},
        {{"http://a:1"}, {0}, "len([\"http://a:1\"]) != len([])"},
        {{"http://a:1"},
         {"http://a:1", "http://b:1"},
         "len([\"http://a:1\"]) != len([\"http://a:1\" \"http://b:1\"])"},
        {{"http://a:1"},
         {"http://b:1"},
         "resolved urls: \"http://10.0.0.1:1\" != "
         "\"http://10.0.0.2:1\""},
        {{"http://a:1"},
         {"https://a:1"},
         "resolved urls: \"http://10.0.0.1:1\" != "
         "\"https://10.0.0.1:1\""},
        {{"http://a:1"},
         {"http://a:2"},
         "resolved urls: \"http://10.0.0.1:1\" != "
         "\"http://10.0.0.1:2\""},
        {{"http://localhost:1"},
         {"http://127.0.0.1:1"},
         "resolved urls: \"http://localhost:1\" != "
         "\"http://127.0.0.1:1\""},
        {{"unix:///a"}, {"unix:///b"}, "resolved urls: \"unix:///a\" != \"unix:///b\""},
        {{"http://x:1"},
         {"http://a:1"},
         "failed to resolve \"http://x:1\" (lookup x: no such host)"},
        {{"x"}, {"http://a:1"}, "failed to parse string to URL: \"x\""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(mem_freep) char *why = NULL;
        struct names names = {.resolver = {.resolve = resolve, .pause = pause_counted},
                              .pauses_max = 5};
        int r = url_texts_compare(texts_of((char *const *)cases[i].a),
                                  texts_of((char *const *)cases[i].b), &names.resolver, &why);
        if ((r != 0) != (cases[i].why != NULL) || (r != 0 && strcmp(why, cases[i].why) != 0))
            fail_msg("case %zu: %s", i, why ? why : "equal");
        assert_true(names.pauses <= names.pauses_max);
    }
}

/* The system's own resolver knows this name everywhere. */
static void test_system(void **state)
{
    struct url_resolver r;
    char address[URL_ADDRESS_MAX], *error = NULL;

    url_resolver_init(&r);
    assert_int_equal(r.resolve(&r, "localhost", address, &error), 0);
    assert_true(strcmp(address, "127.0.0.1") == 0 || strcmp(address, "::1") == 0);
    r.until_ms = 0;
    assert_false(r.pause(&r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_system),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
