/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is kept for peers that lag (see catchup.h).
 *
 * Invariant: marks are ascending by index and by bytes. When there are too many, every other one
 * goes, never the last: then what may stay is found a little coarser, and cut a little too much.
 *
 * Thread: raft.
 */
#include "server/catchup.h"

#include <string.h>

#include "base/check.h"

static void thin_out(struct catchup *c)
{
    size_t len = 0;

    for (size_t i = 1; i < c->len; i += 2)
        c->marks[len++] = c->marks[i];
    c->len = len;
}

void catchup_add(struct catchup *c, uint64_t index, uint64_t bytes)
{
    check(c->len == 0 || c->marks[c->len - 1].index < index);
    if (c->len == CATCHUP_MARKS_MAX)
        thin_out(c);
    c->total_bytes += bytes;
    c->marks[c->len++] = (struct catchup_mark){index, c->total_bytes};
}

uint64_t catchup_over(const struct catchup *c, uint64_t bytes_max)
{
    size_t low = 0, high = c->len; /* the first mark behind which no more than that stays */

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c->total_bytes - c->marks[middle].total_bytes <= bytes_max)
            high = middle;
        else
            low = middle + 1;
    }
    if (c->len == 0 || c->total_bytes - c->dropped_bytes <= bytes_max)
        return 0;
    return c->marks[low].index;
}

void catchup_drop(struct catchup *c, uint64_t index)
{
    size_t n = 0;

    while (n < c->len && c->marks[n].index <= index)
        n++;
    if (n > 0)
        c->dropped_bytes = c->marks[n - 1].total_bytes;
    c->len -= n;
    memmove(c->marks, c->marks + n, c->len * sizeof(*c->marks));
}
