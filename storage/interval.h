/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A range of keys, parsed once from (key, range_end) as etcd reads them; permission checks and
 * executors take only this type, so that they can't understand a request differently
 * (CVE-2026-73499 was that).
 */
#pragma once

#include "base/bytes.h"

enum interval_kind {
    INTERVAL_EMPTY, /* range_end <= key: selects nothing */
    INTERVAL_POINT, /* key alone */
    INTERVAL_RANGE, /* [key, end) */
    INTERVAL_FROM,  /* >= key; from the key 0x00: all */
};

struct interval {
    enum interval_kind kind;
    struct bytes key;
    struct bytes end; /* RANGE only */
};

struct interval interval_parse(struct bytes key, struct bytes range_end);
bool interval_contains(const struct interval *i, struct bytes key);
