/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heads of recently written keys, so that overwriting one need not ask the store what it was.
 * Holds live keys only, by their full bytes, within a fixed number of entries; what it says is what
 * the store says.
 *
 * Thread: one at a time, no lock of its own: the apply turn.
 */
#pragma once

#include "storage/schema.h"

struct head_cache;

enum {
    HEAD_CACHE_SETS = 1 << 15,
    HEAD_CACHE_WAYS = 4,
    HEAD_CACHE_KEY_BYTES_MAX = 256,       /* longer keys are not kept */
};

struct head_cache *head_cache_new(void);
struct head_cache *head_cache_free(struct head_cache *c);
bool head_cache_get(const struct head_cache *c, struct bytes key, struct head *ret);
void head_cache_put(struct head_cache *c, struct bytes key, const struct head *head);
void head_cache_remove(struct head_cache *c, struct bytes key);
