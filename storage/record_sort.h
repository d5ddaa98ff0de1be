/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Puts any number of records into the bytewise order of their keys, with bounded memory: what does
 * not fit goes to a file in sorted runs, which are merged at the end. Keys are distinct.
 *
 * Negative: the file failed. Thread: one at a time.
 */
#pragma once

#include "base/bytes.h"

struct record_sort;

struct record_sort_options {
    const char *path;    /* of the file, made when needed and removed in the end */
    size_t memory_bytes; /* used at most, about, but for two records; 0: RECORD_SORT_BYTES */
};

enum { RECORD_SORT_BYTES = 32 << 20 };
enum { RECORD_SORT_KEY_BYTES_MAX = 8 << 20 };

void record_sort_new(struct record_sort **ret, const struct record_sort_options *options);
/* Accepts NULL. */
struct record_sort *record_sort_free(struct record_sort *s);
static inline void record_sort_freep(struct record_sort **s)
{
    *s = record_sort_free(*s);
}
/* Copies both. -EFBIG: more than some 250 GiB with the default memory. */
int record_sort_add(struct record_sort *s, struct bytes key, struct bytes value);
/* The next in order, borrowed until the call after; nothing is added any more. -EBADMSG: the file
 * gave back something else, noticed at the latest with the record in question. */
int record_sort_next(struct record_sort *s, bool *ret_found, struct bytes *ret_key,
                     struct bytes *ret_value);
