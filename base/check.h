/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check(): an assertion that stays on in release builds. For invariants of our own code only: bytes
 * from the disk, the wire or the user are errors, never checks. A failed check prints the
 * expression and its place and aborts.
 */
#pragma once

#include <stdbool.h>

_Noreturn void check_failed(const char *expression, const char *file, int line);

#define check(x) (__builtin_expect(!!(x), true) ? (void)0 : check_failed(#x, __FILE__, __LINE__))
