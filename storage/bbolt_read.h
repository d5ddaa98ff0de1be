/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a bbolt file: its buckets, and the items of a bucket in key order. Nothing in the file is
 * trusted, and nothing is written. What follows the pages (the digest of a saved snapshot) is not
 * looked at. Buckets within buckets are refused: etcd has none.
 *
 * Outcomes, see below. Negative: the file can't be read. Thread: one at a time.
 */
#pragma once

#include "base/bytes.h"

struct bbolt;
struct bbolt_cursor;

enum {
    BBOLT_E_DAMAGED = 1,   /* bbolt_error() says what and in which page; the cursor is done with */
    BBOLT_E_NO_BUCKET = 2, /* bbolt_cursor_open(): no bucket of that name */
};

enum {
    BBOLT_BRANCH_BYTES_MAX =
        4 << 20,                     /* of one branch page; the cursor keeps those above its item */
    BBOLT_LEAF_BYTES_MAX = 64 << 20, /* of one leaf page, all its values included */
};

/* BBOLT_E_DAMAGED with *ret_error (malloc'd). */
int bbolt_open(struct bbolt **ret, const char *path, char **ret_error);
/* Accepts NULL. Cursors are closed by then. */
struct bbolt *bbolt_close(struct bbolt *b);
static inline void bbolt_closep(struct bbolt **b)
{
    *b = bbolt_close(*b);
}
/* Of the newest damage. */
const char *bbolt_error(const struct bbolt *b);
/* The length of all pages in use: where something else may follow. */
uint64_t bbolt_used_bytes(const struct bbolt *b);

/* Stands nowhere at first. With an empty name it walks the buckets: the keys are their names. */
int bbolt_cursor_open(struct bbolt_cursor **ret, struct bbolt *b, struct bytes bucket);
struct bbolt_cursor *bbolt_cursor_close(struct bbolt_cursor *c);
static inline void bbolt_cursor_closep(struct bbolt_cursor **c)
{
    *c = bbolt_cursor_close(*c);
}
int bbolt_first(struct bbolt_cursor *c, bool *ret_found);
int bbolt_seek(struct bbolt_cursor *c, struct bytes key, bool *ret_found); /* first key >= key */
int bbolt_next(struct bbolt_cursor *c, bool *ret_found);                   /* stands on an item */
struct bytes bbolt_key(const struct bbolt_cursor *c);                      /* until the next move */
struct bytes bbolt_value(const struct bbolt_cursor *c);
