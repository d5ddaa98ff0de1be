/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bbolt's file, version 2, as far as its reader and its writer share it. Page n begins at n * P, P
 * being the page size; all numbers are little-endian, nothing is padded.
 *
 *   page     id 8, flags 2, count 2, overflow 4; it spans overflow + 1 pages
 *   meta     pages 0 and 1: magic 4, version 4, page size 4, flags 4, root page 8, sequence 8,
 *            freelist page 8, high water 8, transaction 8, FNV-1a 64 of the 56 bytes before 8. The
 *            valid one with the higher transaction counts; pages from high water on are not in use
 *   leaf     count elements {flags 4, pos 4, key bytes 4, value bytes 4}, then keys and values,
 *            each value behind its key; pos counts from the element
 *   branch   count elements {pos 4, key bytes 4, child page 8}, then the lowest key of each child
 *   bucket   an element with BBOLT_ELEMENT_BUCKET; its value is root page 8, sequence 8, and if the
 *            root page is 0 a whole leaf page without overflow
 *   freelist page ids 8 each: which pages are free
 */
#pragma once

#include "base/bytes.h"

#define BBOLT_NO_FREELIST UINT64_MAX
#define BBOLT_MAGIC 0xED0CDAEDu

enum {
    BBOLT_VERSION = 2,
    BBOLT_PAGE_BYTES = 4096, /* what the writer takes unless told otherwise */
    BBOLT_PAGE_BYTES_MIN = 512,
    BBOLT_PAGE_BYTES_MAX = 65536,
    BBOLT_HEADER_BYTES = 16,
    BBOLT_META_BYTES = 64,
    BBOLT_SUM_OFFSET = 56,
    BBOLT_ELEMENT_BYTES = 16,
    BBOLT_BUCKET_BYTES = 16,
    BBOLT_KEY_BYTES_MAX = 32768,
    BBOLT_VALUE_BYTES_MAX = INT32_MAX - 1,
    BBOLT_DEPTH_MAX = 32, /* branch pages above a leaf: with two children each, 2^32 leaves */
};

enum { BBOLT_BRANCH = 0x01, BBOLT_LEAF = 0x02, BBOLT_META = 0x04, BBOLT_FREELIST = 0x10 };
enum { BBOLT_ELEMENT_BUCKET = 0x01 };

/* ---- numbers ---- */

static inline uint64_t bbolt_get(const uint8_t *p, size_t bytes)
{
    uint64_t v = 0;
    for (size_t i = bytes; i > 0; i--)
        v = v << 8 | p[i - 1];
    return v;
}

static inline uint32_t bbolt_get_u32(const uint8_t *p)
{
    return (uint32_t)bbolt_get(p, 4);
}

static inline uint64_t bbolt_get_u64(const uint8_t *p)
{
    return bbolt_get(p, 8);
}

static inline void bbolt_put(uint8_t *p, uint64_t v, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++, v >>= 8)
        p[i] = (uint8_t)v;
}

/* ---- the head of a page ---- */

struct bbolt_header {
    uint64_t id;
    uint16_t flags;
    uint16_t count;
    uint32_t overflow;
};

static inline struct bbolt_header bbolt_header_get(const uint8_t *page)
{
    return (struct bbolt_header){bbolt_get_u64(page), (uint16_t)bbolt_get(page + 8, 2),
                                 (uint16_t)bbolt_get(page + 10, 2), bbolt_get_u32(page + 12)};
}

static inline void bbolt_header_put(uint8_t *page, struct bbolt_header h)
{
    bbolt_put(page, h.id, 8);
    bbolt_put(page + 8, h.flags, 2);
    bbolt_put(page + 10, h.count, 2);
    bbolt_put(page + 12, h.overflow, 4);
}

/* ---- meta ---- */

struct bbolt_meta {
    uint32_t page_bytes;
    uint64_t root;
    uint64_t freelist;
    uint64_t high_water;
    uint64_t transaction;
};

static inline uint64_t bbolt_sum(const uint8_t *meta)
{
    uint64_t sum = 0xcbf29ce484222325;
    for (size_t i = 0; i < BBOLT_SUM_OFFSET; i++)
        sum = (sum ^ meta[i]) * 0x100000001b3;
    return sum;
}

/* What follows the head of a meta page. False: it is none. */
static inline bool bbolt_meta_get(const uint8_t *p, struct bbolt_meta *ret)
{
    if (bbolt_get_u32(p) != BBOLT_MAGIC || bbolt_get_u32(p + 4) != BBOLT_VERSION ||
        bbolt_get_u64(p + BBOLT_SUM_OFFSET) != bbolt_sum(p))
        return false;
    *ret = (struct bbolt_meta){
        .page_bytes = bbolt_get_u32(p + 8),
        .root = bbolt_get_u64(p + 16),
        .freelist = bbolt_get_u64(p + 32),
        .high_water = bbolt_get_u64(p + 40),
        .transaction = bbolt_get_u64(p + 48),
    };
    return true;
}

/* p is zeroed. */
static inline void bbolt_meta_put(uint8_t *p, const struct bbolt_meta *meta)
{
    bbolt_put(p, BBOLT_MAGIC, 4);
    bbolt_put(p + 4, BBOLT_VERSION, 4);
    bbolt_put(p + 8, meta->page_bytes, 4);
    bbolt_put(p + 16, meta->root, 8);
    bbolt_put(p + 32, meta->freelist, 8);
    bbolt_put(p + 40, meta->high_water, 8);
    bbolt_put(p + 48, meta->transaction, 8);
    bbolt_put(p + BBOLT_SUM_OFFSET, bbolt_sum(p), 8);
}
