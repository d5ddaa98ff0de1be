/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What happened, for the eyes of whoever looks at a failure, and for the digest that two runs of
 * one seed must share. The last TRACE_MAX records are kept and printed when an invariant fails.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>

enum { TRACE_MAX = 400, TRACE_NUMBERS = 6 };

void trace_init(uint64_t seed, bool print);
/* what is a literal: "m1 votes for %x in term %u" with at most TRACE_NUMBERS numbers, printed
 * by format. */
void trace(const char *what, const uint64_t numbers[TRACE_NUMBERS]);
/* A line of text, copied; not part of the digest. */
void trace_text(const char *text);
#define trace_n(what, ...) trace((what), (const uint64_t[TRACE_NUMBERS]){__VA_ARGS__})
#define trace0(what) trace_n((what), 0)
#define trace1(what, a) trace_n((what), (a))
#define trace2(what, a, b) trace_n((what), (a), (b))
#define trace3(what, a, b, c) trace_n((what), (a), (b), (c))
#define trace4(what, a, b, c, d) trace_n((what), (a), (b), (c), (d))

/* An invariant does not hold: prints seed, invariant, details and the last records, and ends the
 * real process with TRACE_FAILED. */
enum { TRACE_FAILED = 17, TRACE_VERDICT_BYTES = 512 };
#define TRACE_AGAIN "  again: sim --seed %" PRIu64 " --trace\n"
noreturn void violated(const char *invariant, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Where the line about it goes as well, cut to TRACE_VERDICT_BYTES, for a parent to read. */
void trace_verdict_to(char *verdict);
/* Called if something is violated from here on, to say more. NULL: no more. */
void violated_context(void (*describe)(void *arg), void *arg);
/* A place where an invariant is looked at; the linker makes them a table (counters.c). */
struct checked {
    const char *invariant;
    uint64_t n; /* times, in this run */
};
#define require(condition, name, ...)                                                              \
    do {                                                                                           \
        static struct checked checked_here                                                         \
            __attribute__((section("sim_checked"), used)) = {(name), 0};                           \
        checked_here.n++;                                                                          \
        if (!__builtin_expect(!!(condition), true))                                                \
            violated(checked_here.invariant, __VA_ARGS__);                                         \
    } while (0)
