/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HashKV from records in any order. Thread: that of the scan.
 *
 * etcd's rule. Feed "key", then for each record of the key bucket in revision order its key (main
 * u64 BE, '_', sub u64 BE, and 't' for a tombstone) and its value, unless it is filtered: above the
 * revision; or at or below the compacted revision and not kept (only if anything is kept at all);
 * or a tombstone exactly at the compacted revision. Kept is the newest record of each key at the
 * revision of the request, if it is a put.
 *
 * Invariant: parts holds each record that may count. One that counts only if nothing is kept is
 * marked, and no longer added once something is.
 */
#include "storage/hash.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/mem.h"
#include "storage/kv.h"

struct hash_part {
    uint64_t main;
    uint32_t sub;
    uint32_t len;
    uint32_t crc;
    bool unkept;
};

enum { REV_KEY_BYTES = 17, PARTS_MIN = 256 };

void hash_scan_init(struct hash_scan *h, int64_t revision, int64_t compacted, bool keep_tombstones)
{
    *h = (struct hash_scan){
        .revision = revision, .compacted = compacted, .keep_tombstones = keep_tombstones};
}

void hash_scan_deinit(struct hash_scan *h)
{
    free(h->parts);
    h->parts = NULL;
    h->n_parts = h->cap = 0;
}

static struct hash_part *part_new(struct hash_scan *h)
{
    if (h->n_parts == h->cap) {
        h->cap = h->cap ? h->cap * 2 : PARTS_MIN;
        h->parts = mem_realloc(h->parts, h->cap * sizeof(*h->parts));
    }
    return &h->parts[h->n_parts++];
}

void hash_scan_add(struct hash_scan *h, struct rev rev, bool newest, struct bytes value)
{
    if (rev.main > h->revision)
        return;
    bool tombstone = kv_is_tombstone(value);
    bool kept = newest && (!tombstone || (h->keep_tombstones && rev.main == h->revision));
    h->any_kept |= kept;
    bool unkept = rev.main <= h->compacted && !kept;
    if ((unkept && h->any_kept) || (tombstone && rev.main == h->compacted))
        return;
    uint8_t key[REV_KEY_BYTES + 1];
    u64_be_put(key, (uint64_t)rev.main);
    key[8] = '_';
    u64_be_put(key + 9, rev.sub);
    key[REV_KEY_BYTES] = 't';
    size_t key_len = REV_KEY_BYTES + tombstone;
    check(value.len < UINT32_MAX - sizeof(key));
    *part_new(h) = (struct hash_part){
        .main = (uint64_t)rev.main,
        .sub = rev.sub,
        .len = (uint32_t)(key_len + value.len),
        .crc = crc32c(crc32c(0, key, key_len), value.data, value.len),
        .unkept = unkept,
    };
}

static int part_compare(const void *a, const void *b)
{
    const struct hash_part *x = a, *y = b;
    if (x->main != y->main)
        return x->main < y->main ? -1 : 1;
    return (x->sub > y->sub) - (x->sub < y->sub);
}

uint32_t hash_scan_finish(struct hash_scan *h)
{
    if (h->n_parts)
        qsort(h->parts, h->n_parts, sizeof(*h->parts), part_compare);
    uint32_t crc = crc32c(0, "key", 3);
    for (size_t i = 0; i < h->n_parts; i++)
        if (!(h->parts[i].unkept && h->any_kept))
            crc = crc32c_combine(crc, h->parts[i].crc, h->parts[i].len);
    return crc;
}
