/* SPDX-License-Identifier: Apache-2.0 */
/* The term language, the registry and the HTTP answers of the failpoints. Built only with
 * -Dfailpoints=true. */
#include "base/failpoint.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint_http.h"
#include "base/failpoint_term.h"
#include "base/log.h"
#include "base/rng.h"

static bool pass_alpha(void)
{
    return failpoint_error("alpha");
}

static bool pass_alpha_elsewhere(void)
{
    return failpoint_error("alpha");
}

static void pass_beta(void)
{
    failpoint("beta");
}

static void test_parse(void **state)
{
    static const char *const good[] = {"off",
                                       "return",
                                       "return()",
                                       "return(1)",
                                       "return(-1)",
                                       "return(true)",
                                       "return(\"a\\\"b\")",
                                       "panic",
                                       "panic(\"x\")",
                                       "print",
                                       "break",
                                       "sleep(10)",
                                       "sleep(\"1.5s\")",
                                       "sleep(\"1m30s\")",
                                       "2*panic",
                                       "0.5%sleep(10)",
                                       "50%return",
                                       "3*20.0%print",
                                       "1*print->2*off->panic"};
    static const char *const bad[] = {"",
                                      "->",
                                      "panic->",
                                      "panic)",
                                      "pan",
                                      "2*",
                                      "2panic",
                                      "2*3",
                                      "1.5*panic",
                                      "sleep",
                                      "sleep()",
                                      "sleep(true)",
                                      "sleep(\"10\")",
                                      "sleep(\"10q\")",
                                      "return(",
                                      "return(x)",
                                      "return(\"x)",
                                      "return(\"x\\",
                                      "return(1)x",
                                      "panic->x",
                                      "1*1*1*1*1*off"};
    struct failpoint_chain chain;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        if (!failpoint_chain_parse(good[i], &chain))
            fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (failpoint_chain_parse(bad[i], &chain))
            fail_msg("accepted: %s", bad[i]);
}

static void test_sleep_values(void **state)
{
    struct failpoint_chain chain;
    assert_true(failpoint_chain_parse("sleep(10)->sleep(\"1m1.5s\")->sleep(\"2us\")", &chain));
    assert_int_equal(chain.len, 3);
    assert_true(chain.terms[0].sleep_ns == 10000000);
    assert_true(chain.terms[1].sleep_ns == 61500000000);
    assert_true(chain.terms[2].sleep_ns == 2000);
}

static void test_counts(void **state)
{
    struct failpoint_chain chain;
    struct rng r;
    rng_init(&r, 1);
    assert_true(failpoint_chain_parse("1*print->2*off->0*panic", &chain));
    assert_int_equal(failpoint_chain_next(&chain, &r)->action, FAILPOINT_PRINT);
    assert_int_equal(failpoint_chain_next(&chain, &r)->action, FAILPOINT_OFF);
    assert_int_equal(failpoint_chain_next(&chain, &r)->action, FAILPOINT_OFF);
    assert_null(failpoint_chain_next(&chain, &r));
}

static void test_percentages(void **state)
{
    struct failpoint_chain chain;
    struct rng r;
    int hits = 0;
    rng_init(&r, 2);
    assert_true(failpoint_chain_parse("25%return", &chain));
    for (int i = 0; i < 10000; i++)
        hits += failpoint_chain_next(&chain, &r) != NULL;
    assert_in_range(hits, 2300, 2700);
    assert_true(failpoint_chain_parse("0%return->100%print", &chain));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(failpoint_chain_next(&chain, &r)->action, FAILPOINT_PRINT);
}

static void test_registry(void **state)
{
    uint64_t count = 0;
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    assert_false(pass_alpha());
    assert_int_equal(failpoint_enable("go.etcd.io/etcd/server/v3/etcdserver/alpha", "3*return(1)"),
                     FAILPOINT_DONE);
    assert_true(pass_alpha());
    assert_true(pass_alpha_elsewhere());
    assert_int_equal(failpoint_status("alpha", &text, &count), FAILPOINT_DONE);
    assert_int_equal(count, 2);
    assert_string_equal(buf_cstr(&text), "3*return(1)");
    assert_true(pass_alpha());
    assert_false(pass_alpha());
    assert_int_equal(failpoint_disable("alpha"), FAILPOINT_DONE);
    assert_int_equal(failpoint_disable("alpha"), FAILPOINT_DISABLED);
    assert_int_equal(failpoint_status("alpha", &text, &count), FAILPOINT_DISABLED);
    assert_int_equal(failpoint_enable("gamma", "off"), FAILPOINT_UNKNOWN);
    assert_int_equal(failpoint_enable("alpha", "nonsense"), FAILPOINT_MALFORMED);
    assert_false(pass_alpha());
}

static void test_sleep(void **state)
{
    uint64_t start_ns = clock_mono_ns();
    assert_int_equal(failpoint_enable("beta", "sleep(\"3ms\")"), FAILPOINT_DONE);
    pass_beta();
    assert_true(clock_mono_ns() - start_ns >= 3000000);
    assert_int_equal(failpoint_disable("beta"), FAILPOINT_DONE);
}

static void test_panic(void **state)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        failpoint_enable("beta", "panic");
        pass_beta();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void assert_answer(const char *request, const char *expected_status,
                          const char *expected_body)
{
    char copy[256];
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    snprintf(copy, sizeof(copy), "%s", request);
    failpoint_http_answer(copy, &out);
    const char *text = buf_cstr(&out);
    assert_memory_equal(text, "HTTP/1.1 ", 9);
    assert_memory_equal(text + 9, expected_status, 3);
    assert_string_equal(strstr(text, "\r\n\r\n") + 4, expected_body);
}

static void test_http(void **state)
{
    assert_answer("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200", "alpha=\nbeta=\n");
    assert_answer("PUT /alpha HTTP/1.1\r\nContent-Length: 6\r\n\r\nreturn", "204", "");
    assert_answer("GET / HTTP/1.1\r\n\r\n", "200", "alpha=return\nbeta=\n");
    assert_true(pass_alpha());
    assert_answer("GET /alpha HTTP/1.1\r\n\r\n", "200", "return\n");
    assert_answer("GET /alpha/count HTTP/1.1\r\n\r\n", "200", "1");
    assert_answer("GET /x/y/alpha/count HTTP/1.1\r\n\r\n", "200", "1");
    assert_answer("DELETE /alpha HTTP/1.1\r\n\r\n", "204", "");
    assert_answer("DELETE /alpha HTTP/1.1\r\n\r\n", "400",
                  "failed to delete failpoint failpoint: failpoint is disabled\n");
    assert_answer("PUT /failpoints HTTP/1.1\r\n\r\nalpha=2*off;beta=print", "204", "");
    assert_answer("GET / HTTP/1.1\r\n\r\n", "200", "alpha=2*off\nbeta=print\n");
    assert_answer("PUT /failpoints HTTP/1.1\r\n\r\nalpha", "400",
                  "fail to set failpoint: failpoint: could not parse terms\n");
    assert_answer("PUT /alpha HTTP/1.1\r\n\r\nnonsense", "400",
                  "fail to set failpoint: failpoint: could not parse terms\n");
    assert_answer("PUT /gamma HTTP/1.1\r\n\r\noff", "400",
                  "fail to set failpoint: failpoint: failpoint does not exist\n");
    assert_answer("GET /gamma/count HTTP/1.1\r\n\r\n", "404",
                  "failed to GET: failpoint: failpoint does not exist\n");
    assert_answer("POST /alpha HTTP/1.1\r\n\r\n", "405", "Method not allowed\n");
    assert_answer("GET\r\n\r\n", "400", "malformed request URI\n");
    assert_answer("", "400", "malformed request URI\n");
    assert_int_equal(failpoint_disable("beta"), FAILPOINT_DONE);
    assert_int_equal(failpoint_disable("alpha"), FAILPOINT_DONE);
}

static void test_start_errors(void **state)
{
    failpoint_stop();
    setenv("GOFAIL_FAILPOINTS", "alpha=return;beta", 1);
    assert_int_equal(failpoint_start(), -EINVAL);
    failpoint_stop();
    setenv("GOFAIL_FAILPOINTS", "alpha=1*return;", 1);
    setenv("GOFAIL_HTTP", "127.0.0.1", 1);
    assert_int_equal(failpoint_start(), -EINVAL);
    failpoint_stop();
    setenv("GOFAIL_HTTP", "127.0.0.1:0", 1);
    assert_int_equal(failpoint_start(), 0);
    assert_true(pass_alpha());
    assert_false(pass_alpha());
    failpoint_stop();
    assert_false(pass_alpha());
    unsetenv("GOFAIL_HTTP");
    unsetenv("GOFAIL_FAILPOINTS");
    assert_int_equal(failpoint_start(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),        cmocka_unit_test(test_sleep_values),
        cmocka_unit_test(test_counts),       cmocka_unit_test(test_percentages),
        cmocka_unit_test(test_registry),     cmocka_unit_test(test_sleep),
        cmocka_unit_test(test_panic),        cmocka_unit_test(test_http),
        cmocka_unit_test(test_start_errors),
    };
    log_level_min = LOG_FATAL;
    if (failpoint_start() < 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    failpoint_stop();
    return failed;
}
