/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Floating point numbers as Go prints them: the shortest decimal digits that read back as the same
 * double. Prometheus' text form wants Go's 'g' format, zap's JSON Go's 'f'. NaN, +Inf and -Inf
 * print as these words in both.
 */
#pragma once

#include "base/bytes.h"

void number_append_g(struct buf *b,
                     double v); /* strconv 'g', precision -1: 100000, 1e+06, 1.5e-07 */
void number_append_f(struct buf *b, double v); /* strconv 'f', precision -1: never an exponent */
