/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whatever is logged, the line is one line of JSON that somebody else's parser takes, and the
 * process lives: random bytes as texts, numbers of all sizes, from a seed that is
 * printed (LOG_SEED=n repeats it). Byte for byte is log_test's business.
 */
#include "base/log.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/rng.h"

enum { ROUNDS = 3000, BYTES_MAX = 300, LINE_MAX_BYTES = 64 << 10 };

static char path[] = "/tmp/log_random_test_XXXXXX";

/* Not evenly: quotes, controls and the beginnings of UTF-8 sequences are what goes wrong. */
static size_t random_bytes(struct rng *rng, uint8_t *ret)
{
    static const uint8_t odd[] =
        "\"\\\n\r\t\x00\x1f\x7f\x80\xc0\xc3\xe2\x82\xed\xa0\xf0\xf4\xff{}[],:";
    size_t n = rng_below(rng, BYTES_MAX);

    for (size_t i = 0; i < n; i++)
        ret[i] = rng_below(rng, 3) ? odd[rng_below(rng, sizeof(odd) - 1)] : (uint8_t)rng_next(rng);
    return n;
}

static double random_double(struct rng *rng)
{
    uint64_t bits = rng_next(rng);
    double value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Numbers of every size, their signs and their ends. */
static int64_t random_number(struct rng *rng)
{
    static const int64_t ends[] = {INT64_MIN, INT64_MIN + 1, -1, 0, INT64_MAX};

    return rng_below(rng, 4) ? (int64_t)(rng_next(rng) >> rng_below(rng, 64))
                             : ends[rng_below(rng, sizeof(ends) / sizeof(ends[0]))];
}

static void log_something(struct rng *rng)
{
    uint8_t bytes[BYTES_MAX], text[BYTES_MAX + 1];
    size_t n = random_bytes(rng, bytes), len = random_bytes(rng, text);
    int64_t number = random_number(rng);

    text[len] = 0;
    const char *strs[] = {(const char *)text, ""};
    log_line(LOG_INFO, "/src/cairn/base/x.c", (int)rng_below(rng, 100000), (const char *)text,
             (const struct log_field[]){LOG_STR("str", (const char *)text),
                                        LOG_BYTES("bytes", bytes_of(bytes, n)),
                                        LOG_I64("i64", number),
                                        LOG_ID("id", (uint64_t)number),
                                        LOG_BOOL("bool", number > 0),
                                        LOG_DURATION("took", number),
                                        LOG_DOUBLE("double", random_double(rng)),
                                        LOG_STRS("strs", strs, rng_below(rng, 3)),
                                        LOG_ERRNO("error", (int)(number % 200)),
                                        {NULL, LOG_KIND_END, {NULL}}});
}

static void check_line(const char *line, size_t len, uint64_t seed, int round)
{
    json_error_t error;
    json_t *json = json_loadb(
        line, len, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);

    if (!json || len == 0 || line[len - 1] != '\n' || memchr(line, '\n', len - 1))
        fail_msg("seed %ju, round %d: %s: %.*s", (uintmax_t)seed, round, error.text, (int)len,
                 line);
    assert_int_equal(json_object_size(json), 4 + 9); /* level, ts, caller, msg */
    json_decref(json);
}

static void test_lines(void **state)
{
    static char line[LINE_MAX_BYTES];
    const char *env = getenv("LOG_SEED"), *outputs[] = {path};
    struct log_options options = {LOG_INFO, LOG_FORMAT_JSON, outputs, 1};
    uint64_t seed = env ? strtoull(env, NULL, 10) : rng_entropy();
    struct rng rng;
    char *problem = NULL;

    print_message("LOG_SEED=%ju\n", (uintmax_t)seed);
    rng_init(&rng, seed);
    for (int i = 0; i < ROUNDS; i++) {
        assert_int_equal(truncate(path, 0), 0);
        if (i == 0)
            assert_int_equal(log_setup(&options, &problem), 0);
        log_something(&rng);
        int fd = open(path, O_RDONLY);
        ssize_t n = read(fd, line, sizeof(line));
        close(fd);
        assert_in_range(n, 1, sizeof(line) - 1);
        check_line(line, (size_t)n, seed, i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lines)};

    close(mkstemp(path));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
