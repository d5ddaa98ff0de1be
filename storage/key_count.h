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

/* exact: the view is known to hold no change above revision. */
int key_count(struct db *db, const struct db_view *view, const struct interval *interval,
              int64_t revision, bool exact, int64_t *ret);

/* The h records of an interval: [lower, upper). Appends to both. */
void key_count_bounds(const struct interval *interval, struct buf *lower, struct buf *upper);
