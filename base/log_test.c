/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines byte for byte, in both encodings, with a clock of this test's own; the escaping of
 * hostile bytes; Go's durations (the expected texts were printed by zap and Go).
 */
#include "base/log.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/err.h"

#define TS "2026-03-01T02:03:04.000567Z"

static char path[] = "/tmp/log_test_XXXXXX";

uint64_t clock_mono_ns(void)
{
    return 0;
}

uint64_t clock_wall_ns(void)
{
    return 1772330584000567891;
}

uint64_t clock_thread_cpu_ns(void)
{
    return 0;
}

static void setup(enum log_level level, enum log_format format)
{
    const char *outputs[] = {path, path};
    struct log_options options = {level, format, outputs, 2};
    char *error = NULL;
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(log_setup(&options, &error), 0);
    assert_null(error);
}

static void assert_logged(const char *expected)
{
    char text[8192];
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    assert_true(n >= 0);
    text[n] = '\0';
    assert_string_equal(text, expected);
    assert_int_equal(truncate(path, 0), 0);
}

static const char *const strs[] = {"a", "b\"c"};

static void log_all_kinds(void)
{
    log_line(LOG_INFO, "/src/cairn/server/node.c", 12, "ready \"now\"",
             (const struct log_field[]){LOG_STR("str", "x\ty"),
                                        LOG_STR("null", NULL),
                                        LOG_BYTES("bytes", BYTES_LIT("a\0\xff")),
                                        LOG_I64("i64", INT64_MIN),
                                        LOG_U64("u64", UINT64_MAX),
                                        LOG_ID("id", 0x8e9e05c52164694d),
                                        LOG_BOOL("bool", true),
                                        LOG_DURATION("took", 1500000),
                                        LOG_DOUBLE("double", 1234567.5),
                                        LOG_DOUBLE("nan", NAN),
                                        LOG_STRS("strs", strs, 2),
                                        LOG_STRS("none", NULL, 0),
                                        LOG_JSON("json", "{\"k\":1}"),
                                        {NULL, LOG_KIND_END, {NULL}}});
}

static void test_json(void **state)
{
    setup(LOG_INFO, LOG_FORMAT_JSON);
    log_all_kinds();
    assert_logged(
        "{\"level\":\"info\",\"ts\":\"" TS
        "\",\"caller\":\"server/node.c:12\",\"msg\":\"ready \\\"now\\\"\","
        "\"str\":\"x\\ty\",\"null\":\"\",\"bytes\":\"a\\u0000\\ufffd\",\"i64\":-"
        "9223372036854775808,"
        "\"u64\":18446744073709551615,\"id\":\"8e9e05c52164694d\",\"bool\":true,\"took\":\"1.5ms\","
        "\"double\":1234567.5,\"nan\":\"NaN\",\"strs\":[\"a\",\"b\\\"c\"],\"none\":[],\"json\":{"
        "\"k\":1}}\n");
    log_line(LOG_FATAL, "main.c", 3, "bye", NULL);
    assert_logged("{\"level\":\"fatal\",\"ts\":\"" TS
                  "\",\"caller\":\"main.c:3\",\"msg\":\"bye\"}\n");
}

static void test_console(void **state)
{
    setup(LOG_INFO, LOG_FORMAT_CONSOLE);
    log_all_kinds();
    assert_logged(
        TS "\tinfo\tserver/node.c:12\tready \"now\"\t"
           "{\"str\": \"x\\ty\", \"null\": \"\", \"bytes\": \"a\\u0000\\ufffd\", \"i64\": "
           "-9223372036854775808, "
           "\"u64\": 18446744073709551615, \"id\": \"8e9e05c52164694d\", \"bool\": true, \"took\": "
           "\"1.5ms\", "
           "\"double\": 1234567.5, \"nan\": \"NaN\", \"strs\": [\"a\", \"b\\\"c\"], \"none\": [], "
           "\"json\": {\"k\":1}}\n");
    log_line(LOG_WARN, "a/b/c.c", 3, "plain", NULL);
    assert_logged(TS "\twarn\tb/c.c:3\tplain\n");
}

static void test_macros_and_level(void **state)
{
    setup(LOG_WARN, LOG_FORMAT_CONSOLE);
    errno = EBADF;
    int line = __LINE__;
    log_debug("no");
    log_info("no", LOG_U64("n", 1));
    log_warn("yes");
    log_error("yes", LOG_U64("n", 1));
    assert_int_equal(errno, EBADF);
    char text[512];
    snprintf(text, sizeof(text),
             TS "\twarn\tbase/log_test.c:%d\tyes\n" TS
                "\terror\tbase/log_test.c:%d\tyes\t{\"n\": 1}\n",
             line + 3, line + 4);
    assert_logged(text);
}

static void test_escaping(void **state)
{
    const struct {
        struct bytes in;
        const char *out;
    } cases[] = {
        {BYTES_LIT("\x01\x1f\x7f\n\r\t\b\f/<>&\\"),
         "\\u0001\\u001f\x7f\\n\\r\\t\\u0008\\u000c/<>&\\\\"},
        {BYTES_LIT("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd"),
         "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd"},
        {BYTES_LIT("\xc3"), "\\ufffd"}, /* cut short */
        {BYTES_LIT("\xe2\x82z"), "\\ufffd\\ufffdz"},
        {BYTES_LIT("\xc0\xaf\xe0\x80\xaf"), "\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd"}, /* overlong */
        {BYTES_LIT("\xed\xa0\x80"), "\\ufffd\\ufffd\\ufffd"},            /* a surrogate */
        {BYTES_LIT("\xf4\x90\x80\x80"), "\\ufffd\\ufffd\\ufffd\\ufffd"}, /* above U+10FFFF */
        {BYTES_LIT("\xf0\x8f\xbf\xbf"), "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {BYTES_LIT("\xe2\x80\xa8"), "\xe2\x80\xa8"},
    };
    setup(LOG_INFO, LOG_FORMAT_JSON);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[512];
        log_line(
            LOG_INFO, "x.c", 1, "m",
            (const struct log_field[]){LOG_BYTES("k", cases[i].in), {NULL, LOG_KIND_END, {NULL}}});
        snprintf(text, sizeof(text),
                 "{\"level\":\"info\",\"ts\":\"" TS
                 "\",\"caller\":\"x.c:1\",\"msg\":\"m\",\"k\":\"%s\"}\n",
                 cases[i].out);
        assert_logged(text);
    }
}

static void test_setup_errors(void **state)
{
    const char *outputs[] = {"/nonexistent-directory/log"};
    struct log_options options = {LOG_DEBUG, LOG_FORMAT_JSON, outputs, 1};
    char *error = NULL;
    setup(LOG_INFO, LOG_FORMAT_JSON);
    assert_int_equal(log_setup(&options, &error), 1);
    assert_non_null(strstr(error, "/nonexistent-directory/log: no such file or directory"));
    free(error);
    /* The former setup stays in force. */
    assert_int_equal(log_level_min, LOG_INFO);
    log_line(LOG_INFO, "x.c", 1, "m", NULL);
    assert_logged("{\"level\":\"info\",\"ts\":\"" TS "\",\"caller\":\"x.c:1\",\"msg\":\"m\"}\n");
}

/* A full disk under one output: the others get the line, and the caller's errno survives. */
static void test_failing_output(void **state)
{
    const char *outputs[] = {"/dev/full", path};
    struct log_options options = {LOG_INFO, LOG_FORMAT_CONSOLE, outputs, 2};
    char *error = NULL;
    setup(LOG_INFO, LOG_FORMAT_JSON);
    assert_int_equal(log_setup(&options, &error), 0);
    errno = EBADF;
    log_line(LOG_INFO, "x.c", 1, "m", NULL);
    assert_int_equal(errno, EBADF);
    assert_logged(TS "\tinfo\tx.c:1\tm\n");
}

static void test_journal(void **state)
{
    const char *outputs[] = {"systemd/journal"};
    struct log_options options = {LOG_DEBUG, LOG_FORMAT_CONSOLE, outputs, 1};
    char *error = NULL;
    setup(LOG_INFO, LOG_FORMAT_JSON);
    int fd = open(path, O_WRONLY | O_APPEND), saved = dup(STDERR_FILENO);
    assert_int_equal(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    assert_int_equal(log_setup(&options, &error), 0);
    log_line(LOG_DEBUG, "x.c", 1, "m", NULL);
    log_line(LOG_ERROR, "x.c", 2, "m", NULL);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fd);
    assert_logged("<7>" TS "\tdebug\tx.c:1\tm\n<3>" TS "\terror\tx.c:2\tm\n");
}

static void test_level_parse(void **state)
{
    enum log_level level = LOG_FATAL;
    assert_int_equal(log_level_parse("warn", &level), 0);
    assert_int_equal(level, LOG_WARN);
    assert_int_equal(log_level_parse("DEBUG", &level), 0);
    assert_int_equal(level, LOG_DEBUG);
    assert_int_equal(log_level_parse("", &level), 0);
    assert_int_equal(level, LOG_INFO);
    assert_int_equal(log_level_parse("trace", &level), 1);
    assert_int_equal(level, LOG_INFO);
}

static void test_duration(void **state)
{
    const struct {
        int64_t ns;
        const char *text;
    } cases[] = {
        {0, "0s"},
        {1, "1ns"},
        {999, "999ns"},
        {1000, "1\xc2\xb5s"},
        {1100, "1.1\xc2\xb5s"},
        {999999, "999.999\xc2\xb5s"},
        {2200000, "2.2ms"},
        {100000000, "100ms"},
        {1000000001, "1.000000001s"},
        {3300000000, "3.3s"},
        {10000000000, "10s"},
        {245000000000, "4m5s"},
        {245001000000, "4m5.001s"},
        {18367001000000, "5h6m7.001s"},
        {7200000000000, "2h0m0s"},
        {480000000001, "8m0.000000001s"},
        {-1500000, "-1.5ms"},
        {INT64_MAX, "2562047h47m16.854775807s"},
        {INT64_MIN, "-2562047h47m16.854775808s"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(buf_deinit) struct buf b = BUF_NULL;
        duration_format(&b, cases[i].ns);
        assert_string_equal(buf_cstr(&b), cases[i].text);
    }
}

static int open_file_line;

static int open_file(int error)
{
    open_file_line = __LINE__ + 1;
    return err_origin(error);
}

static void test_err(void **state)
{
    char text[512];
    setup(LOG_ERROR, LOG_FORMAT_CONSOLE);
    assert_int_equal(open_file(-ENOENT), -ENOENT);
    snprintf(text, sizeof(text),
             TS "\terror\tbase/log_test.c:%d\terror\t{\"function\": \"open_file\", "
                "\"code\": -2, \"error\": \"No such file or directory\"}\n",
             open_file_line);
    assert_logged(text);
    assert_int_equal(open_file(0), -ENOTRECOVERABLE);
    assert_int_equal(err_trace(-EIO), -EIO);
    assert_int_equal(err_trace(0), 0);
    assert_int_equal(err_trace(3), -ENOTRECOVERABLE);
    assert_int_equal(err_fold(3), -ENOTRECOVERABLE);
    assert_int_equal(err_fold(0), 0);
    assert_int_equal(err_fold(-EIO), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_console),
        cmocka_unit_test(test_macros_and_level),
        cmocka_unit_test(test_escaping),
        cmocka_unit_test(test_setup_errors),
        cmocka_unit_test(test_failing_output),
        cmocka_unit_test(test_journal),
        cmocka_unit_test(test_level_parse),
        cmocka_unit_test(test_duration),
        cmocka_unit_test(test_err),
    };
    close(mkstemp(path));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
