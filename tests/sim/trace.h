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

enum { TRACE_MAX = 400 };

void trace_init(uint64_t seed, bool print);
/* what is a literal: "m1 votes for %x in term %u" with at most four numbers, printed by format. */
void trace(const char *what, uint64_t a, uint64_t b, uint64_t c, uint64_t d);
/* A line of text, copied; not part of the digest. */
void trace_text(const char *text);
#define trace0(what) trace((what), 0, 0, 0, 0)
#define trace1(what, a) trace((what), (uint64_t)(a), 0, 0, 0)
#define trace2(what, a, b) trace((what), (uint64_t)(a), (uint64_t)(b), 0, 0)
#define trace3(what, a, b, c) trace((what), (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), 0)
#define trace4(what, a, b, c, d)                                                                   \
    trace((what), (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), (uint64_t)(d))

/* An invariant does not hold: prints seed, invariant, details and the last records, and ends the
 * real process with TRACE_FAILED. */
enum { TRACE_FAILED = 17 };
noreturn void violated(const char *invariant, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Called if something is violated from here on, to say more. NULL: no more. */
void violated_context(void (*describe)(void *arg), void *arg);
#define require(condition, invariant, ...)                                                         \
    do {                                                                                           \
        if (!__builtin_expect(!!(condition), true))                                                \
            violated((invariant), __VA_ARGS__);                                                    \
    } while (0)
