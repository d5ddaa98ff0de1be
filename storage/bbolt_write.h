/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a bbolt file in one go: buckets in ascending order of their names, in each the items in
 * ascending order of their keys. Pages leave in the order in which they fill, so memory stays small
 * whatever the size of the file: a page a level, the largest item, and a buffer.
 *
 * The file is none before bbolt_write_finish() returned: its meta pages come last.
 *
 * Outcomes, see below. Negative: writing failed, and the writer is done with. Thread: one at a
 * time.
 */
#pragma once

#include "base/bytes.h"

struct bbolt_writer;

enum {
    BBOLT_WRITE_E_ORDER = 1, /* not above the name or the key before it */
    BBOLT_WRITE_E_SIZE = 2,  /* an empty key or name, or key or value longer than bbolt takes */
};

struct bbolt_write_options {
    const char *path;    /* a file that is there is overwritten */
    uint32_t page_bytes; /* a power of two from 512 to 65536; 0: 4096 */
};

enum { BBOLT_BUCKETS_MAX = 64 };

int bbolt_write_open(struct bbolt_writer **ret, const struct bbolt_write_options *options);
/* Accepts NULL. */
struct bbolt_writer *bbolt_write_close(struct bbolt_writer *w);
static inline void bbolt_write_closep(struct bbolt_writer **w)
{
    *w = bbolt_write_close(*w);
}
/* The items that follow are in this bucket. At most BBOLT_BUCKETS_MAX. */
int bbolt_write_bucket(struct bbolt_writer *w, const char *name);
int bbolt_write_item(struct bbolt_writer *w, struct bytes key, struct bytes value);
/* Writes what is left and syncs. *ret_bytes: the length of the file. */
int bbolt_write_finish(struct bbolt_writer *w, uint64_t *ret_bytes);
