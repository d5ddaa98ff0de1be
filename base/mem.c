/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Allocation that aborts instead of failing. Only for objects whose size our own code bounds:
 * whatever a client, a peer or a file sizes is limited by its reader first. Thread: any.
 */
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

void *mem_alloc(size_t size)
{
    void *p = calloc(1, size ? size : 1);
    check(p);
    return p;
}

void *mem_alloc_raw(size_t size)
{
    void *p = malloc(size ? size : 1);
    check(p);
    return p;
}

void *mem_realloc(void *p, size_t size)
{
    p = realloc(p, size ? size : 1);
    check(p);
    return p;
}

char *mem_strdup(const char *s)
{
    return s ? mem_strndup(s, strlen(s)) : NULL;
}

char *mem_strndup(const char *s, size_t len)
{
    if (!s)
        return NULL;
    len = strnlen(s, len);
    char *copy = mem_alloc_raw(len + 1);
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *mem_printf(const char *format, ...)
{
    char *s = NULL;
    va_list args;
    va_start(args, format);
    int len = vasprintf(&s, format, args);
    va_end(args);
    check(len >= 0);
    return s;
}
