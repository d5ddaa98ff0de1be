/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's HashKV: CRC-32C over "key" and the records of the key space in revision order, as etcd's
 * file has them, with its filters.
 *
 * Records are added in any order; the digest is put together at the end, because the CRC of a
 * concatenation follows from the CRCs of its parts. Costs 24 bytes of memory a record until
 * hash_scan_deinit().
 */
#pragma once

#include "storage/schema.h"

struct hash_part;

struct hash_scan {
    int64_t revision;     /* records above are left out */
    int64_t compacted;    /* records at or below count only if kept; -1 = never compacted */
    bool keep_tombstones; /* the kept ones include a tombstone at revision: compaction's own hash */
    bool any_kept;        /* while nothing is kept, nothing is filtered (etcd's rule) */
    struct hash_part *parts;
    size_t n_parts;
    size_t cap;
};

void hash_scan_init(struct hash_scan *h, int64_t revision, int64_t compacted, bool keep_tombstones);
void hash_scan_deinit(struct hash_scan *h);
/* newest: the newest record of its key at or below the revision. value: the stored KeyValue. */
void hash_scan_add(struct hash_scan *h, struct rev rev, bool newest, struct bytes value);
uint32_t hash_scan_finish(struct hash_scan *h);
