/* SPDX-License-Identifier: Apache-2.0 */
/* Allocation that cannot fail: small, bounded objects abort the process when memory is gone. */
#pragma once

#include <stdlib.h>

void *mem_alloc(size_t size);     /* zeroed */
void *mem_alloc_raw(size_t size); /* not zeroed */
void *mem_realloc(void *p, size_t size);
char *mem_strdup(const char *s); /* accepts NULL */
char *mem_strndup(const char *s, size_t len);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline void mem_freep(void *pp) /* for _cleanup_ */
{
    free(*(void **)pp);
}

#define mem_new(type) ((type *)mem_alloc(sizeof(type)))
