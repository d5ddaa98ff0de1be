/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The last words of a broken invariant. Written straight to stderr, without the log module: a check
 * may fail inside the log, with a lock held or without memory. Thread: any.
 */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void check_failed(const char *expression, const char *file, int line)
{
    char text[512];
    int len = snprintf(text, sizeof(text), "check failed: %s (%s:%d)\n", expression, file, line);
    if (len >= (int)sizeof(text)) {
        len = (int)sizeof(text);
        text[sizeof(text) - 1] = '\n';
    }
    if (len > 0 && write(STDERR_FILENO, text, (size_t)len) < 0)
        _exit(134);
    abort();
}
