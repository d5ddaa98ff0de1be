/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cursor holds the branch pages above its item, one a level, and one leaf; each page is checked
 * in full when it is read, so that what stands in memory can be used without a further look.
 *
 * Invariants
 *  (I1) A page that passed page_check() has its elements, keys and values inside it, its keys
 *       strictly ascending, none below the key its parent gives for it and none at or above the
 *       next one's.
 *  (I2) Only the root page of a bucket may be empty, and no leaf lies deeper than BBOLT_DEPTH_MAX.
 *       With (I1) every leaf that is read holds a key that none before it held: a walk ends,
 *       whatever the file says.
 *  (I3) Memory: at most BBOLT_DEPTH_MAX branch pages and one leaf, each bounded, and none larger
 *       than the file.
 *
 * Thread: see the header.
 */
#include "storage/bbolt_read.h"

#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "storage/bbolt_format.h"
#include "storage/file.h"

enum { ERROR_BYTES = 160 };

struct bbolt {
    struct file *file;
    struct bbolt_meta meta;
    char error[ERROR_BYTES];
};

/* A page in memory, checked. */
struct page {
    uint64_t id; /* 0: an inline bucket's */
    struct buf memory;
    unsigned count;
    unsigned at; /* the element that the cursor goes through */
    bool leaf;
};

struct element {
    uint32_t flags; /* of a leaf's */
    struct bytes key;
    struct bytes value;
    uint64_t child; /* of a branch's */
};

struct bbolt_cursor {
    struct bbolt *b;
    uint64_t root; /* 0: the bucket is inline, leaf holds it */
    bool buckets;  /* it walks the buckets themselves */
    struct page branches[BBOLT_DEPTH_MAX];
    unsigned depth;
    struct page leaf;
};

static int damaged(struct bbolt *b, uint64_t page, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int damaged(struct bbolt *b, uint64_t page, const char *format, ...)
{
    va_list args;
    int n = snprintf(b->error, sizeof(b->error), "page %llu: ", (unsigned long long)page);
    va_start(args, format);
    vsnprintf(b->error + n, sizeof(b->error) - (size_t)n, format, args);
    va_end(args);
    return BBOLT_E_DAMAGED;
}

const char *bbolt_error(const struct bbolt *b)
{
    return b->error;
}

uint64_t bbolt_used_bytes(const struct bbolt *b)
{
    return b->meta.high_water * b->meta.page_bytes;
}

/* ---- opening ---- */

static bool page_bytes_valid(uint32_t n)
{
    return n >= BBOLT_PAGE_BYTES_MIN && n <= BBOLT_PAGE_BYTES_MAX && (n & (n - 1)) == 0;
}

/* The meta page that begins at offset, which must be what its number says if page_bytes is given.
 * *ret_found: it is one. */
static int meta_read(struct bbolt *b, uint64_t offset, struct bbolt_meta *ret, bool *ret_found)
{
    uint8_t bytes[BBOLT_HEADER_BYTES + BBOLT_META_BYTES];
    size_t n;
    int r = file_read(b->file, offset, bytes, sizeof(bytes), &n);
    if (r < 0)
        return err_origin(r);
    *ret_found = n == sizeof(bytes) && bbolt_meta_get(bytes + BBOLT_HEADER_BYTES, ret) &&
                 page_bytes_valid(ret->page_bytes) && (offset == 0 || ret->page_bytes == offset);
    return 0;
}

/* The second meta page lies where the page size says, and only a meta page says what that is. */
static int second_meta_find(struct bbolt *b, bool *ret_found)
{
    int r = 0;
    for (uint64_t n = BBOLT_PAGE_BYTES_MIN; n <= BBOLT_PAGE_BYTES_MAX && r == 0 && !*ret_found;
         n *= 2)
        r = meta_read(b, n, &b->meta, ret_found);
    return r;
}

static int meta_choose(struct bbolt *b)
{
    struct bbolt_meta second;
    bool first_found = false, second_found = false;
    int r = meta_read(b, 0, &b->meta, &first_found);
    if (r == 0 && first_found)
        r = meta_read(b, b->meta.page_bytes, &second, &second_found);
    else if (r == 0)
        r = second_meta_find(b, &first_found);
    if (r < 0)
        return r;
    if (!first_found)
        return damaged(b, 0, "neither meta page is whole, or this is no bbolt file");
    if (second_found && second.transaction > b->meta.transaction)
        b->meta = second;
    return 0;
}

static int meta_check(struct bbolt *b)
{
    const struct bbolt_meta *m = &b->meta;
    uint64_t size;
    int r = file_size(b->file, &size);
    if (r < 0)
        return err_origin(r);
    if (m->high_water > size / m->page_bytes)
        return damaged(b, 0, "the file ends before its %llu pages do",
                       (unsigned long long)m->high_water);
    if (m->root < 2 || m->root >= m->high_water)
        return damaged(b, 0, "the root page is %llu of %llu", (unsigned long long)m->root,
                       (unsigned long long)m->high_water);
    return 0;
}

int bbolt_open(struct bbolt **ret, const char *path, char **ret_error)
{
    check(ret && path && ret_error);
    _cleanup_(bbolt_closep) struct bbolt *b = mem_new(struct bbolt);
    int r = file_open(&b->file, path, FILE_READ);
    if (r < 0)
        return r;
    r = meta_choose(b);
    if (r == 0)
        r = meta_check(b);
    if (r > 0)
        *ret_error = mem_strdup(b->error);
    if (r != 0)
        return r;
    *ret = b;
    b = NULL;
    return 0;
}

struct bbolt *bbolt_close(struct bbolt *b)
{
    if (!b)
        return NULL;
    file_close(b->file);
    free(b);
    return NULL;
}

/* ---- elements ---- */

/* (I1) */
static struct element element_get(const struct page *p, unsigned i)
{
    const uint8_t *e = p->memory.data + BBOLT_HEADER_BYTES + (size_t)i * BBOLT_ELEMENT_BYTES;
    check(i < p->count);
    if (!p->leaf)
        return (struct element){
            .key = bytes_of(e + bbolt_get_u32(e), bbolt_get_u32(e + 4)),
            .child = bbolt_get_u64(e + 8),
        };
    const uint8_t *key = e + bbolt_get_u32(e + 4);
    uint32_t key_len = bbolt_get_u32(e + 8);
    return (struct element){
        .flags = bbolt_get_u32(e),
        .key = bytes_of(key, key_len),
        .value = bytes_of(key + key_len, bbolt_get_u32(e + 12)),
    };
}

/* Key and value lie behind the table of elements and inside the page. */
static bool element_inside(const struct page *p, unsigned i)
{
    size_t offset = BBOLT_HEADER_BYTES + (size_t)i * BBOLT_ELEMENT_BYTES;
    const uint8_t *e = p->memory.data + offset;
    uint64_t table_end = BBOLT_HEADER_BYTES + (uint64_t)p->count * BBOLT_ELEMENT_BYTES;
    uint64_t pos = bbolt_get_u32(p->leaf ? e + 4 : e);
    uint64_t key_len = bbolt_get_u32(p->leaf ? e + 8 : e + 4);
    uint64_t value_len = p->leaf ? bbolt_get_u32(e + 12) : 0;
    return key_len > 0 && key_len <= BBOLT_KEY_BYTES_MAX && offset + pos >= table_end &&
           offset + pos + key_len + value_len <= p->memory.len;
}

/* What the parents say of the keys of the page below them: [lower, upper); upper NULL: no limit. */
static void bounds(const struct bbolt_cursor *c, struct bytes *ret_lower, struct bytes *ret_upper)
{
    *ret_lower = *ret_upper = BYTES_NULL;
    if (c->depth > 0)
        *ret_lower = element_get(&c->branches[c->depth - 1], c->branches[c->depth - 1].at).key;
    for (unsigned d = c->depth; d > 0; d--) {
        const struct page *p = &c->branches[d - 1];
        if (p->at + 1 < p->count) {
            *ret_upper = element_get(p, p->at + 1).key;
            return;
        }
    }
}

static int element_check(struct bbolt_cursor *c, const struct page *p, unsigned i)
{
    struct element e = element_get(p, i);
    if (!p->leaf) {
        if (e.child < 2 || e.child >= c->b->meta.high_water)
            return damaged(c->b, p->id, "element %u leads to page %llu", i,
                           (unsigned long long)e.child);
        return 0;
    }
    if (e.flags != (c->buckets ? BBOLT_ELEMENT_BUCKET : 0))
        return damaged(c->b, p->id, "element %u has flags %x", i, e.flags);
    if (c->buckets && e.value.len < BBOLT_BUCKET_BYTES)
        return damaged(c->b, p->id, "element %u is no bucket", i);
    return 0;
}

/* (I1), (I2) */
static int page_check(struct bbolt_cursor *c, const struct page *p)
{
    struct bytes lower, upper;
    if (BBOLT_HEADER_BYTES + (size_t)p->count * BBOLT_ELEMENT_BYTES > p->memory.len)
        return damaged(c->b, p->id, "%u elements don't fit into it", p->count);
    if (p->count == 0 && (c->depth > 0 || !p->leaf))
        return damaged(c->b, p->id, "it is empty");
    bounds(c, &lower, &upper);
    for (unsigned i = 0; i < p->count; i++) {
        if (!element_inside(p, i))
            return damaged(c->b, p->id, "element %u reaches out of it", i);
        struct bytes key = element_get(p, i).key;
        int order = bytes_compare(lower, key);
        if (order > 0 || (order == 0 && i > 0) || (upper.data && bytes_compare(key, upper) >= 0))
            return damaged(c->b, p->id, "element %u is out of order", i);
        int r = element_check(c, p, i);
        if (r != 0)
            return r;
        lower = key;
    }
    return 0;
}

/* ---- pages ---- */

/* Into c->leaf, of whatever kind it is. */
static int page_read(struct bbolt_cursor *c, uint64_t id)
{
    struct bbolt *b = c->b;
    struct page *p = &c->leaf;
    size_t page_bytes = b->meta.page_bytes, n;
    check(id >= 2 && id < b->meta.high_water);
    buf_clear(&p->memory);
    buf_reserve(&p->memory, page_bytes);
    int r = file_read(b->file, id * page_bytes, p->memory.data, page_bytes, &n);
    if (r < 0)
        return err_origin(r);
    if (n < page_bytes)
        return damaged(b, id, "the file ends in it");
    struct bbolt_header h = bbolt_header_get(p->memory.data);
    if (h.id != id || (h.flags != BBOLT_BRANCH && h.flags != BBOLT_LEAF))
        return damaged(b, id, "it calls itself page %llu with flags %x", (unsigned long long)h.id,
                       h.flags);
    p->id = id;
    p->leaf = h.flags == BBOLT_LEAF;
    p->count = h.count;
    size_t max = p->leaf ? BBOLT_LEAF_BYTES_MAX : BBOLT_BRANCH_BYTES_MAX;
    if (h.overflow >= b->meta.high_water - id || h.overflow >= max / page_bytes)
        return damaged(b, id, "it spans %llu pages", h.overflow + 1ULL);
    size_t rest = h.overflow * page_bytes;
    p->memory.len = page_bytes;
    buf_reserve(&p->memory, rest);
    r = file_read(b->file, (id + 1) * page_bytes, p->memory.data + page_bytes, rest, &n);
    if (r < 0)
        return err_origin(r);
    if (n < rest)
        return damaged(b, id, "the file ends in it");
    p->memory.len += rest;
    return 0;
}

/* Makes the page just read the next of the branches. */
static int branch_push(struct bbolt_cursor *c)
{
    if (c->depth == BBOLT_DEPTH_MAX)
        return damaged(c->b, c->leaf.id, "it lies below %u others", c->depth);
    struct page *p = &c->branches[c->depth];
    struct buf memory = p->memory;
    *p = c->leaf;
    p->at = 0;
    c->leaf.memory = memory;
    c->depth++;
    return 0;
}

/* The last element whose key is not above key, or the first. */
static unsigned child_for(const struct page *p, struct bytes key)
{
    unsigned low = 0, high = p->count;
    while (high - low > 1) {
        unsigned middle = low + (high - low) / 2;
        if (bytes_compare(element_get(p, middle).key, key) <= 0)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* From page id down to a leaf: the leftmost, or the one where target would be. */
static int descend(struct bbolt_cursor *c, uint64_t id, const struct bytes *target)
{
    for (;;) {
        int r = page_read(c, id);
        if (r == 0)
            r = page_check(c, &c->leaf);
        if (r != 0 || c->leaf.leaf)
            return r;
        r = branch_push(c);
        if (r != 0)
            return r;
        struct page *p = &c->branches[c->depth - 1];
        p->at = target ? child_for(p, *target) : 0;
        id = element_get(p, p->at).child;
    }
}

/* ---- the cursor ---- */

static struct bbolt_cursor *cursor_new(struct bbolt *b, uint64_t root, bool buckets)
{
    struct bbolt_cursor *c = mem_new(struct bbolt_cursor);
    c->b = b;
    c->root = root;
    c->buckets = buckets;
    return c;
}

struct bbolt_cursor *bbolt_cursor_close(struct bbolt_cursor *c)
{
    if (!c)
        return NULL;
    for (unsigned i = 0; i < BBOLT_DEPTH_MAX; i++)
        buf_deinit(&c->branches[i].memory);
    buf_deinit(&c->leaf.memory);
    free(c);
    return NULL;
}

/* The page that lies in the value of its bucket, in the leaf page within. */
static int inline_page_take(struct bbolt_cursor *c, uint64_t within, struct bytes value)
{
    struct page *p = &c->leaf;
    if (value.len < BBOLT_BUCKET_BYTES + BBOLT_HEADER_BYTES)
        return damaged(c->b, within, "an inline bucket is cut short");
    buf_append(&p->memory, value.data + BBOLT_BUCKET_BYTES, value.len - BBOLT_BUCKET_BYTES);
    struct bbolt_header h = bbolt_header_get(p->memory.data);
    if (h.flags != BBOLT_LEAF || h.overflow != 0)
        return damaged(c->b, within, "an inline bucket is no leaf");
    p->id = within;
    p->leaf = true;
    p->count = h.count;
    return page_check(c, p);
}

static int bucket_open(struct bbolt_cursor **ret, struct bbolt *b, uint64_t within,
                       struct bytes value)
{
    uint64_t root = bbolt_get_u64(value.data);
    if (root != 0 && (root < 2 || root >= b->meta.high_water))
        return damaged(b, within, "a bucket's root page is %llu", (unsigned long long)root);
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = cursor_new(b, root, false);
    int r = root == 0 ? inline_page_take(c, within, value) : 0;
    if (r != 0)
        return r;
    *ret = c;
    c = NULL;
    return 0;
}

int bbolt_cursor_open(struct bbolt_cursor **ret, struct bbolt *b, struct bytes bucket)
{
    check(ret && b);
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *root = cursor_new(b, b->meta.root, true);
    if (bucket.len == 0) {
        *ret = root;
        root = NULL;
        return 0;
    }
    bool found = false;
    int r = bbolt_seek(root, bucket, &found);
    if (r != 0)
        return r;
    if (!found || !bytes_equal(bbolt_key(root), bucket))
        return BBOLT_E_NO_BUCKET;
    return bucket_open(ret, b, root->leaf.id, bbolt_value(root));
}

/* On to the first item behind the leaf. */
static int leaf_leave(struct bbolt_cursor *c, bool *ret_found)
{
    while (c->depth > 0 && c->branches[c->depth - 1].at + 1 >= c->branches[c->depth - 1].count)
        c->depth--;
    if (c->depth == 0) {
        c->leaf.at = c->leaf.count;
        *ret_found = false;
        return 0;
    }
    struct page *p = &c->branches[c->depth - 1];
    p->at++;
    int r = descend(c, element_get(p, p->at).child, NULL);
    c->leaf.at = 0;
    *ret_found = true;
    return r;
}

int bbolt_seek(struct bbolt_cursor *c, struct bytes key, bool *ret_found)
{
    if (c->root != 0) {
        c->depth = 0;
        int r = descend(c, c->root, &key);
        if (r != 0)
            return r;
    }
    struct page *p = &c->leaf;
    p->at = 0;
    while (p->at < p->count && bytes_compare(element_get(p, p->at).key, key) < 0)
        p->at++;
    *ret_found = p->at < p->count;
    return *ret_found ? 0 : leaf_leave(c, ret_found);
}

int bbolt_first(struct bbolt_cursor *c, bool *ret_found)
{
    return bbolt_seek(c, BYTES_NULL, ret_found);
}

int bbolt_next(struct bbolt_cursor *c, bool *ret_found)
{
    check(c->leaf.at < c->leaf.count);
    c->leaf.at++;
    *ret_found = c->leaf.at < c->leaf.count;
    return *ret_found ? 0 : leaf_leave(c, ret_found);
}

struct bytes bbolt_key(const struct bbolt_cursor *c)
{
    return element_get(&c->leaf, c->leaf.at).key;
}

struct bytes bbolt_value(const struct bbolt_cursor *c)
{
    return element_get(&c->leaf, c->leaf.at).value;
}
