/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values as Go reads and prints them: booleans, integers with base prefixes, durations, quoted
 * strings, comma separated lists. etcd's flags are Go's, so an operator's 0x10, 1_000 or 1h30m must
 * mean here what it means there, and an error must read the same.
 *
 * Thread: any; no state.
 */
#include "server/config_private.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/mem.h"

bool go_bool_parse(const char *s, bool *ret)
{
    static const char *const yes[] = {"1", "t", "T", "TRUE", "true", "True"};
    static const char *const no[] = {"0", "f", "F", "FALSE", "false", "False"};

    for (size_t i = 0; i < 6; i++) {
        if (strcmp(s, yes[i]) == 0 || strcmp(s, no[i]) == 0) {
            *ret = strcmp(s, yes[i]) == 0;
            return true;
        }
    }
    return false;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 99;
}

/* Go allows an underscore between digits, or between the base prefix and a digit, and nowhere else.
 */
static bool underscores_ok(const char *s, size_t prefix_len)
{
    bool digit_before = prefix_len > 0;

    for (const char *p = s + prefix_len; *p; p++) {
        if (*p == '_' && (!digit_before || p[1] == '_' || p[1] == '\0'))
            return false;
        digit_before = *p != '_';
    }
    return true;
}

static int base_of(const char *s, size_t *ret_prefix_len)
{
    *ret_prefix_len = 0;
    if (s[0] != '0' || s[1] == '\0')
        return 10;
    *ret_prefix_len = 2;
    switch (s[1] | 0x20) {
    case 'x': return 16;
    case 'b': return 2;
    case 'o': return 8;
    }
    *ret_prefix_len = 1;
    return 8;
}

int go_uint_parse(const char *s, uint64_t max, uint64_t *ret)
{
    size_t prefix_len;
    int base = base_of(s, &prefix_len);
    uint64_t v = 0;
    bool overflow = false;

    if (!s[0] || !s[prefix_len] || !underscores_ok(s, prefix_len))
        return 1;
    for (const char *p = s + prefix_len; *p; p++) {
        if (*p == '_')
            continue;
        int d = digit_value(*p);
        if (d >= base)
            return 1;
        overflow |= __builtin_mul_overflow(v, (uint64_t)base, &v) ||
                    __builtin_add_overflow(v, (uint64_t)d, &v);
    }
    overflow |= v > max;
    *ret = overflow ? max : v;
    return overflow ? 2 : 0;
}

int go_int_parse(const char *s, int64_t *ret)
{
    bool negative = s[0] == '-';
    uint64_t v;

    if (s[0] == '-' || s[0] == '+')
        s++;
    int r = go_uint_parse(s, negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX, &v);
    if (r != 1)
        *ret = negative ? (int64_t)(0 - v) : (int64_t)v;
    return r;
}

static bool duration_unit(const char **s, double *ret_ns)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {
        {"ns", 1},   {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"\xce\xbcs", 1e3},
        {"ms", 1e6}, {"s", 1e9},  {"m", 60e9},        {"h", 3600e9},
    };
    size_t len = strcspn(*s, ".0123456789");

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (len == strlen(units[i].name) && memcmp(*s, units[i].name, len) == 0) {
            *ret_ns = units[i].ns;
            *s += len;
            return true;
        }
    }
    return false;
}

static int duration_error(const char *whole, const char *what, const char *unit, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    buf_printf(&b, "time: %s ", what);
    if (unit) {
        size_t len = strcspn(unit, ".0123456789");
        _cleanup_(mem_freep) char *name = mem_strndup(unit, len);
        go_quote(&b, name);
        buf_append_str(&b, " in duration ");
    }
    go_quote(&b, whole);
    if (ret_error)
        *ret_error = mem_strdup(buf_cstr(&b));
    return 1;
}

/* Reads digits with an optional fraction; the integer part exactly, so that nanoseconds survive. */
static bool duration_number(const char **s, uint64_t *ret_whole, double *ret_fraction)
{
    const char *p = *s;
    uint64_t whole = 0;
    double fraction = 0, scale = 1;

    for (; isdigit((unsigned char)*p); p++) {
        if (__builtin_mul_overflow(whole, 10u, &whole) ||
            __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
            return false;
    }
    size_t n_digits = (size_t)(p - *s);
    if (*p == '.') {
        for (p++; isdigit((unsigned char)*p); p++, n_digits++) {
            scale /= 10;
            fraction += (*p - '0') * scale;
        }
    }
    *s = p;
    *ret_whole = whole;
    *ret_fraction = fraction;
    return n_digits > 0;
}

int go_duration_parse(const char *s, int64_t *ret, char **ret_error)
{
    const char *whole_text = s;
    bool negative = s[0] == '-';
    uint64_t sum = 0;

    if (*s == '-' || *s == '+')
        s++;
    if (strcmp(s, "0") == 0) {
        *ret = 0;
        return 0;
    }
    if (!*s)
        return duration_error(whole_text, "invalid duration", NULL, ret_error);
    while (*s) {
        uint64_t whole, part;
        double fraction, unit_ns;

        if (!duration_number(&s, &whole, &fraction))
            return duration_error(whole_text, "invalid duration", NULL, ret_error);
        if (strcspn(s, ".0123456789") == 0)
            return duration_error(whole_text, "missing unit in duration", NULL, ret_error);
        const char *unit = s;
        if (!duration_unit(&s, &unit_ns))
            return duration_error(whole_text, "unknown unit", unit, ret_error);
        if (__builtin_mul_overflow(whole, (uint64_t)unit_ns, &part) ||
            __builtin_add_overflow(part, (uint64_t)(fraction * unit_ns + 1e-6), &part) ||
            __builtin_add_overflow(sum, part, &sum) || sum > (uint64_t)INT64_MAX + negative)
            return duration_error(whole_text, "invalid duration", NULL, ret_error);
    }
    *ret = negative ? (int64_t)(0 - sum) : (int64_t)sum;
    return 0;
}

void go_quote(struct buf *b, const char *s)
{
    static const char escapes[] = "\a\b\f\n\r\t\v";

    buf_append_u8(b, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        const char *e = strchr(escapes, c);
        if (c == '"' || c == '\\')
            buf_printf(b, "\\%c", c);
        else if (e)
            buf_printf(b, "\\%c", "abfnrtv"[e - escapes]);
        else if (c < 0x20 || c == 0x7f)
            buf_printf(b, "\\x%02x", c);
        else
            buf_append_u8(b, c);
    }
    buf_append_u8(b, '"');
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int string_list_split(const char *text, bool unique, struct string_list *ret)
{
    struct string_list list = {NULL, 0};
    size_t n = 1;

    for (const char *p = text; *p; p++)
        n += *p == ',';
    list.items = mem_alloc(n * sizeof(char *));
    for (;;) {
        size_t len = strcspn(text, ",");
        list.items[list.len++] = mem_strndup(text, len);
        if (!text[len])
            break;
        text += len + 1;
    }
    if (unique) {
        size_t kept = 0;
        qsort(list.items, list.len, sizeof(char *), compare_strings);
        for (size_t i = 0; i < list.len; i++) {
            if (kept > 0 && strcmp(list.items[kept - 1], list.items[i]) == 0)
                free(list.items[i]);
            else
                list.items[kept++] = list.items[i];
        }
        list.len = kept;
    }
    *ret = list;
    return 0;
}

int config_invalid(char **ret_error, const char *format, ...)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    va_list args;

    va_start(args, format);
    buf_vprintf(&b, format, args);
    va_end(args);
    *ret_error = mem_strdup(buf_cstr(&b));
    return 1;
}

int config_invalid_quoted(char **ret_error, const char *before, const char *word, const char *after)
{
    _cleanup_(buf_deinit) struct buf quoted = BUF_NULL;

    go_quote(&quoted, word);
    return config_invalid(ret_error, "%s%s%s", before, buf_cstr(&quoted), after);
}

void string_list_join(const struct string_list *list, struct buf *out)
{
    for (size_t i = 0; i < list->len; i++) {
        if (i > 0)
            buf_append_u8(out, ',');
        buf_append_str(out, list->items[i]);
    }
}

void string_list_deinit(struct string_list *list)
{
    for (size_t i = 0; i < list->len; i++)
        free(list->items[i]);
    free(list->items);
    *list = (struct string_list){NULL, 0};
}
