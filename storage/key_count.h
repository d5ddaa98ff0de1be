/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many keys an interval has: at the head by counting heads, at an older revision by taking back
 * what was created and deleted since.
 *
 * All under one view, so that heads and changes fit together, whatever is written meanwhile. The
 * view must not be behind the revision, and nothing above the revision may have been compacted in
 * it.
 */
#pragma once

#include "storage/db.h"
#include "storage/interval.h"

/* So many changes since that counting the keys at the revision itself is cheaper. */
enum { KEY_COUNT_E_TOO_FAR = 1 };

struct key_count_span {
    int64_t after;
    int64_t upto; /* INT64_MAX: all that the view has */
    int64_t most;
};

/* exact: the view is known to hold no change above revision. */
int key_count(struct db *db, const struct db_view *view, const struct interval *interval,
              int64_t revision, bool exact, int64_t *ret);

/* Adds to *count what was created, less what was deleted, in (after, upto]; reads `most` changes at
 * most (KEY_COUNT_E_TOO_FAR). Nothing above `after` may have been compacted in the view. */
int key_count_changes(struct db *db, const struct db_view *view, const struct interval *interval,
                      struct key_count_span span, int64_t *count);

/* The h records of an interval: [lower, upper). Appends to both. */
void key_count_bounds(const struct interval *interval, struct buf *lower, struct buf *upper);
