/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For targets that end in a store: what it says, whether two are the same, and how many errors have
 * been logged. Link with --wrap of log_line, whose lines are formatted as ever and dropped, and of
 * head_cache_new, head_cache_put and head_cache_free.
 */
#pragma once

#include "server/store.h"

/* What its tables say and keys hash to. Everything is read on the way. */
void fuzz_store_describe(struct store *s, struct buf *out);
/* Record by record. */
bool fuzz_store_equal(struct store *a, struct store *b);
/* Lines of the level "error" and above, since the start. */
uint64_t fuzz_log_errors(void);
