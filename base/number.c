/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shortest decimal digits by trial: printf with ever more digits until strtod gives the number
 * back. 15 digits do for most numbers and 17 for all; only subnormal ones can need fewer than 15 in
 * a way that rounding at 15 does not show. Below a power of two the doubles lie twice as dense as
 * above, so there a text of 16 digits may read back that is not the nearest one: number_round_up()
 * finds it. Needs the C locale, which the server never leaves. Thread: any.
 */
#include "base/number.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

enum { NUMBER_DIGITS_MAX = 17, NUMBER_TEXT_LEN = 32 };

/* The number is 0.d1d2d3... * 10^point. */
struct number_digits {
    char digits[NUMBER_DIGITS_MAX + 1];
    int len;
    int point;
};

/* Replaces a text of 17 digits by the next larger one of 16, if that reads back as v too. */
static void number_round_up(char text[NUMBER_TEXT_LEN], double v)
{
    char shorter[NUMBER_TEXT_LEN];
    const uint64_t e15 = 1000000000000000;
    uint64_t digits = 0;
    for (const char *p = text; p < text + NUMBER_DIGITS_MAX; p++)
        if (*p != '.')
            digits = digits * 10 + (uint64_t)(*p - '0');
    digits++;
    snprintf(shorter, sizeof(shorter), "%d.%015llu%s", (int)(digits / e15),
             (unsigned long long)(digits % e15), strchr(text, 'e'));
    if (digits < 10 * e15 && strtod(shorter, NULL) == v)
        memcpy(text, shorter, sizeof(shorter));
}

static void number_split(double v, struct number_digits *ret)
{
    char text[NUMBER_TEXT_LEN];
    int n = v < DBL_MIN ? 1 : 15;
    for (; n <= NUMBER_DIGITS_MAX; n++) {
        snprintf(text, sizeof(text), "%.*e", n - 1, v);
        if (strtod(text, NULL) == v)
            break;
    }
    check(n <= NUMBER_DIGITS_MAX);
    if (n == NUMBER_DIGITS_MAX)
        number_round_up(text, v);
    char *exponent = strchr(text, 'e');
    check(exponent);
    ret->len = 0;
    for (char *p = text; p < exponent; p++)
        if (*p != '.')
            ret->digits[ret->len++] = *p;
    while (ret->len > 1 && ret->digits[ret->len - 1] == '0')
        ret->len--;
    ret->point = v == 0 ? 1 : atoi(exponent + 1) + 1;
}

static void number_append_plain(struct buf *b, const struct number_digits *d)
{
    if (d->point <= 0) {
        buf_append_str(b, "0.");
        for (int i = d->point; i < 0; i++)
            buf_append_u8(b, '0');
        buf_append(b, d->digits, (size_t)d->len);
        return;
    }
    int whole = d->len < d->point ? d->len : d->point;
    buf_append(b, d->digits, (size_t)whole);
    for (int i = whole; i < d->point; i++)
        buf_append_u8(b, '0');
    if (d->len > whole) {
        buf_append_u8(b, '.');
        buf_append(b, d->digits + whole, (size_t)(d->len - whole));
    }
}

static void number_append_exponent(struct buf *b, const struct number_digits *d)
{
    int exponent = d->point - 1;
    buf_append(b, d->digits, 1);
    if (d->len > 1) {
        buf_append_u8(b, '.');
        buf_append(b, d->digits + 1, (size_t)(d->len - 1));
    }
    buf_printf(b, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
}

static void number_append(struct buf *b, double v, bool with_exponent)
{
    struct number_digits d;
    if (isnan(v)) {
        buf_append_str(b, "NaN");
        return;
    }
    if (isinf(v)) {
        buf_append_str(b, v > 0 ? "+Inf" : "-Inf");
        return;
    }
    if (signbit(v))
        buf_append_u8(b, '-');
    number_split(fabs(v), &d);
    int exponent = d.point - 1;
    /* Go decides this as if the precision were 6, however many digits there are. */
    if (with_exponent && (exponent < -4 || exponent >= 6))
        number_append_exponent(b, &d);
    else
        number_append_plain(b, &d);
}

void number_append_g(struct buf *b, double v)
{
    number_append(b, v, true);
}

void number_append_f(struct buf *b, double v)
{
    number_append(b, v, false);
}
