/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of a run (see trace.h): a ring of the last events, formatted only when somebody wants
 * to read them.
 *
 * Thread: the only one, and the handler of fatal signals.
 */
#include "tests/sim/trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "tests/sim/kernel.h"

struct record {
    uint64_t at;
    const char *what;
    char *text;
    uint64_t numbers[TRACE_NUMBERS];
};

static struct {
    uint64_t seed;
    bool print;
    struct record records[TRACE_MAX];
    uint64_t n;
    void (*describe)(void *arg);
    void *describe_arg;
} log_;
static char *verdict_; /* NULL: nobody else reads it */

void trace_init(uint64_t seed, bool print)
{
    for (size_t i = 0; i < TRACE_MAX; i++)
        free(log_.records[i].text);
    memset(&log_, 0, sizeof(log_));
    log_.seed = seed;
    log_.print = print;
}

static void print_record(FILE *out, const struct record *r)
{
    fprintf(out, "%4" PRIu64 ".%06" PRIu64 " ", r->at / SECOND, r->at % SECOND / 1000);
    if (r->text) {
        fprintf(out, "%s\n", r->text);
        return;
    }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    fprintf(out, r->what, r->numbers[0], r->numbers[1], r->numbers[2], r->numbers[3], r->numbers[4],
            r->numbers[5]);
#pragma GCC diagnostic pop
    fputc('\n', out);
}

static struct record *record_new(void)
{
    struct record *r = &log_.records[log_.n++ % TRACE_MAX];

    free(r->text);
    *r = (struct record){.at = kernel_now()};
    return r;
}

void trace(const char *what, const uint64_t numbers[TRACE_NUMBERS])
{
    struct record *r = record_new();

    r->what = what;
    memcpy(r->numbers, numbers, sizeof(r->numbers));
    for (int i = 0; i < TRACE_NUMBERS; i++)
        kernel_digest_add(r->numbers[i]);
    if (log_.print)
        print_record(stdout, r);
}

void trace_text(const char *text)
{
    struct record *r = record_new();

    r->text = mem_strdup(text);
    if (log_.print)
        print_record(stdout, r);
}

void violated_context(void (*describe)(void *arg), void *arg)
{
    log_.describe = describe;
    log_.describe_arg = arg;
}

void trace_verdict_to(char *verdict)
{
    verdict_ = verdict;
}

static void print_verdict(const char *invariant, const char *format, va_list args)
{
    struct buf line = BUF_NULL;

    buf_printf(&line, "FAILED seed %" PRIu64 " at %" PRIu64 ".%06" PRIu64 " s: %s: ", log_.seed,
               kernel_now() / SECOND, kernel_now() % SECOND / 1000, invariant);
    buf_vprintf(&line, format, args);
    printf("%s\n" TRACE_AGAIN, buf_cstr(&line), log_.seed);
    if (verdict_)
        snprintf(verdict_, TRACE_VERDICT_BYTES, "%s", buf_cstr(&line));
    buf_deinit(&line);
}

void violated(const char *invariant, const char *format, ...)
{
    va_list args;
    uint64_t first = log_.n > TRACE_MAX ? log_.n - TRACE_MAX : 0;

    if (!log_.print) {
        printf("--- the last events of seed %" PRIu64 "\n", log_.seed);
        for (uint64_t i = first; i < log_.n; i++)
            print_record(stdout, &log_.records[i % TRACE_MAX]);
    }
    if (log_.describe)
        log_.describe(log_.describe_arg);
    va_start(args, format);
    print_verdict(invariant, format, args);
    va_end(args);
    fflush(stdout);
    _exit(TRACE_FAILED);
}
