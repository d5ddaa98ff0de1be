/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The little language of failpoint terms, a private part of base/failpoint.c.
 *
 *   chain  := term ("->" term)*
 *   term   := (count "*" | percentage "%")* action [value]
 *   action := "off" | "return" | "sleep" | "panic" | "break" | "print"
 *   value  := "()" | "(" integer ")" | "(" true or false ")" | "(" quoted string ")"
 *
 * The first term whose counts and percentages allow it runs. A count is used up also if a
 * percentage behind it then says no.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rng;

enum { FAILPOINT_TERMS_MAX = 16, FAILPOINT_MODS_MAX = 4 };

enum failpoint_action {
    FAILPOINT_OFF,
    FAILPOINT_RETURN,
    FAILPOINT_SLEEP,
    FAILPOINT_PANIC,
    FAILPOINT_BREAK,
    FAILPOINT_PRINT,
};

struct failpoint_mod {
    bool is_count;
    uint64_t count;     /* left */
    double probability; /* 0 to 1 */
};

struct failpoint_term {
    struct failpoint_mod mods[FAILPOINT_MODS_MAX];
    size_t n_mods;
    enum failpoint_action action;
    uint64_t sleep_ns;
};

struct failpoint_chain {
    struct failpoint_term terms[FAILPOINT_TERMS_MAX];
    size_t len;
};

/* False: not a chain (or one too long); *ret untouched. */
bool failpoint_chain_parse(const char *text, struct failpoint_chain *ret);
/* The term to run now, with its counts used up, or NULL. */
const struct failpoint_term *failpoint_chain_next(struct failpoint_chain *chain, struct rng *rng);
