/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one place that reads (key, range_end). Pure functions; any thread.
 *
 * A range_end of the single byte 0x00 means "all keys from here"; it is never compared with a key
 * as a byte string.
 */
#include "storage/interval.h"

struct interval interval_parse(struct bytes key, struct bytes range_end)
{
    if (range_end.len == 0)
        return (struct interval){INTERVAL_POINT, key, BYTES_NULL};
    if (range_end.len == 1 && range_end.data[0] == 0)
        return (struct interval){INTERVAL_FROM, key, BYTES_NULL};
    if (bytes_compare(range_end, key) <= 0)
        return (struct interval){INTERVAL_EMPTY, key, BYTES_NULL};
    return (struct interval){INTERVAL_RANGE, key, range_end};
}

bool interval_contains(const struct interval *i, struct bytes key)
{
    switch (i->kind) {
    case INTERVAL_EMPTY: return false;
    case INTERVAL_POINT: return bytes_equal(key, i->key);
    case INTERVAL_RANGE: return bytes_compare(key, i->key) >= 0 && bytes_compare(key, i->end) < 0;
    case INTERVAL_FROM: return bytes_compare(key, i->key) >= 0;
    }
    return false;
}
