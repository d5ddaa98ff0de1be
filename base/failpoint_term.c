/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parser and evaluation of failpoint terms. Thread: the caller's, which holds the lock of the
 * point.
 *
 * Each parse function moves *p behind what it understood and returns false, with *p anywhere, on
 * what it did not. One difference to gofail: "50%" may be written without a decimal point.
 */
#include "base/failpoint_term.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

static const char *const action_names[] = {"off", "return", "sleep", "panic", "break", "print"};

static bool accept(const char **p, const char *text)
{
    size_t len = strlen(text);
    if (strncmp(*p, text, len) != 0)
        return false;
    *p += len;
    return true;
}

/* Digits with an optional fraction; what else strtod takes is left for the caller to refuse. */
static bool parse_number(const char **p, double *ret, bool *ret_whole)
{
    const char *end = *p;
    if (!isdigit((unsigned char)*end))
        return false;
    end += strspn(end, "0123456789");
    *ret_whole = *end != '.';
    if (*end == '.')
        end += 1 + strspn(end + 1, "0123456789");
    *ret = strtod(*p, NULL);
    *p = end;
    return true;
}

static bool parse_mods(const char **p, struct failpoint_term *term)
{
    double number;
    bool whole;
    while (isdigit((unsigned char)**p)) {
        if (term->n_mods == FAILPOINT_MODS_MAX || !parse_number(p, &number, &whole))
            return false;
        struct failpoint_mod *mod = &term->mods[term->n_mods++];
        if (whole && number < 1e18 && accept(p, "*"))
            *mod = (struct failpoint_mod){.is_count = true, .count = (uint64_t)number};
        else if (accept(p, "%"))
            *mod = (struct failpoint_mod){.probability = number / 100};
        else
            return false;
    }
    return true;
}

static bool parse_action(const char **p, struct failpoint_term *term)
{
    for (size_t i = 0; i < sizeof(action_names) / sizeof(action_names[0]); i++) {
        if (accept(p, action_names[i])) {
            term->action = (enum failpoint_action)i;
            return true;
        }
    }
    return false;
}

/* Go's durations: "1.5s", "1m30s", "100ms". */
static bool parse_duration(const char **p, uint64_t *ret_ns)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {
        {"ns", 1},  {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"ms", 1e6},
        {"s", 1e9}, {"m", 60e9}, {"h", 3600e9},
    };
    double sum = 0, number;
    bool whole;
    do {
        size_t i = 0, n = sizeof(units) / sizeof(units[0]);
        if (!parse_number(p, &number, &whole))
            return false;
        while (i < n && !accept(p, units[i].unit))
            i++;
        if (i == n)
            return false;
        sum += number * units[i].ns;
    } while (isdigit((unsigned char)**p));
    *ret_ns = sum < 1e18 ? (uint64_t)sum : (uint64_t)1e18;
    return true;
}

static bool parse_string(const char **p, struct failpoint_term *term)
{
    if (term->action == FAILPOINT_SLEEP)
        return parse_duration(p, &term->sleep_ns) && accept(p, "\"");
    for (; **p && **p != '"'; (*p)++)
        if (**p == '\\' && *++*p == '\0')
            return false;
    return accept(p, "\"");
}

static bool parse_value(const char **p, struct failpoint_term *term)
{
    double number;
    bool whole;
    if (!accept(p, "(") || accept(p, ")"))
        return term->action != FAILPOINT_SLEEP;
    if (accept(p, "\""))
        return parse_string(p, term) && accept(p, ")");
    if (accept(p, "true") || accept(p, "false"))
        return term->action != FAILPOINT_SLEEP && accept(p, ")");
    bool negative = accept(p, "-");
    if (!parse_number(p, &number, &whole) || !whole || !accept(p, ")"))
        return false;
    term->sleep_ns = negative ? 0 : number < 1e12 ? (uint64_t)number * 1000000 : (uint64_t)1e18;
    return true;
}

bool failpoint_chain_parse(const char *text, struct failpoint_chain *ret)
{
    struct failpoint_chain chain = {.len = 0};
    const char *p = text;
    do {
        if (chain.len == FAILPOINT_TERMS_MAX)
            return false;
        struct failpoint_term *term = &chain.terms[chain.len++];
        if (!parse_mods(&p, term) || !parse_action(&p, term) || !parse_value(&p, term))
            return false;
    } while (accept(&p, "->"));
    if (*p)
        return false;
    *ret = chain;
    return true;
}

static bool term_allowed(struct failpoint_term *term, struct rng *rng)
{
    for (size_t i = 0; i < term->n_mods; i++) {
        struct failpoint_mod *mod = &term->mods[i];
        if (mod->is_count) {
            if (mod->count == 0)
                return false;
            mod->count--;
        } else if ((double)(rng_next(rng) >> 11) * 0x1p-53 >= mod->probability) {
            return false;
        }
    }
    return true;
}

const struct failpoint_term *failpoint_chain_next(struct failpoint_chain *chain, struct rng *rng)
{
    for (size_t i = 0; i < chain->len; i++)
        if (term_allowed(&chain->terms[i], rng))
            return &chain->terms[i];
    return NULL;
}
