/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One tree is under construction at a time: that of the current bucket, and at the end that of the
 * buckets themselves. A page that is full is written and its place, with its first key, becomes an
 * element of the level above.
 *
 *     items -> leaf -> branches[0] -> branches[1] -> ... -> root page
 *
 * Invariants
 *  (I1) Pages are numbered in the order in which they are written, from 2 on, without a hole. So
 *       the file has no free pages, and says so with an empty freelist page, which spares whoever
 *       opens it a walk over all pages.
 *  (I2) A branch page has at least two children, or bbolt can't balance it later: the newest
 *       element of a full one stays behind, as the first of its successor.
 *  (I3) A page holds what fits into one page. Only a single item, or at most three elements of a
 *       branch, may be larger; the page then goes over into those that follow.
 *  (I4) A bucket is inline exactly if bbolt would have it inline.
 *  (I5) The meta pages are written when all else is on the disk: whole metas, whole file.
 *
 * Thread: see the header.
 */
#include "storage/bbolt_write.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "storage/bbolt_format.h"
#include "storage/file.h"

enum {
    OUT_BYTES_MAX = 256 << 10,
    INLINE_PART = 4,      /* an inline bucket takes a fourth of a page at most */
    BRANCH_ITEMS_MIN = 3, /* (I2): two to write, one to keep */
    TRANSACTION = 2,      /* bbolt's next one then goes to page 1 */
};

struct item {
    uint32_t flags;
    uint32_t key_len;
    uint32_t value_len;
    uint64_t child; /* of a branch */
};

/* A page that fills. */
struct node {
    struct item *items;
    size_t n_items;
    size_t cap;
    struct buf data; /* keys and values, one behind the other */
};

struct bucket {
    char *name;
    struct buf value;
};

struct bbolt_writer {
    struct file *file;
    size_t page_bytes;
    uint64_t next_page;
    struct buf out; /* whole pages, not written yet */
    struct node leaf;
    struct node branches[BBOLT_DEPTH_MAX];
    size_t n_branches; /* in use */
    struct buf last;   /* the newest key */
    struct bucket buckets[BBOLT_BUCKETS_MAX];
    size_t n_buckets;
};

/* ---- nodes ---- */

static size_t node_bytes(const struct node *n)
{
    return BBOLT_HEADER_BYTES + n->n_items * BBOLT_ELEMENT_BYTES + n->data.len;
}

static bool node_fits(const struct bbolt_writer *w, const struct node *n, size_t more)
{
    return node_bytes(n) + BBOLT_ELEMENT_BYTES + more <= w->page_bytes;
}

static void node_add(struct node *n, struct item item, struct bytes key, struct bytes value)
{
    if (n->n_items == n->cap) {
        n->cap = n->cap ? n->cap * 2 : 64;
        n->items = mem_realloc(n->items, n->cap * sizeof(*n->items));
    }
    n->items[n->n_items++] = item;
    buf_append_bytes(&n->data, key);
    buf_append_bytes(&n->data, value);
}

static size_t item_bytes(const struct item *item)
{
    return (size_t)item->key_len + item->value_len;
}

static struct bytes node_first_key(const struct node *n)
{
    return bytes_of(n->data.data, n->items[0].key_len);
}

/* Without its first count items, of data_len bytes. */
static void node_drop(struct node *n, size_t count, size_t data_len)
{
    if (count == 0)
        return;
    n->n_items -= count;
    memmove(n->items, n->items + count, n->n_items * sizeof(*n->items));
    n->data.len -= data_len;
    memmove(n->data.data, n->data.data + data_len, n->data.len);
}

static void node_deinit(struct node *n)
{
    free(n->items);
    buf_deinit(&n->data);
}

static void element_put(uint8_t *e, const struct item *item, bool leaf, size_t pos)
{
    if (leaf) {
        bbolt_put(e, item->flags, 4);
        bbolt_put(e + 4, pos, 4);
        bbolt_put(e + 8, item->key_len, 4);
        bbolt_put(e + 12, item->value_len, 4);
    } else {
        bbolt_put(e, pos, 4);
        bbolt_put(e + 4, item->key_len, 4);
        bbolt_put(e + 8, item->child, 8);
    }
}

/* Appends the image of a page with the first count items of n. Returns the length of their data. */
static size_t image_append(struct buf *out, const struct node *n, size_t count, bool leaf,
                           struct bbolt_header header)
{
    size_t table = count * BBOLT_ELEMENT_BYTES, data_len = 0;
    buf_reserve(out, BBOLT_HEADER_BYTES + table);
    uint8_t *p = out->data + out->len;
    bbolt_header_put(p, header);
    p += BBOLT_HEADER_BYTES;
    for (size_t i = 0; i < count; i++) {
        size_t offset = i * BBOLT_ELEMENT_BYTES;
        element_put(p + offset, &n->items[i], leaf, table - offset + data_len);
        data_len += item_bytes(&n->items[i]);
    }
    out->len += BBOLT_HEADER_BYTES + table;
    buf_append(out, n->data.data, data_len);
    return data_len;
}

/* ---- pages ---- */

/* (I1) */
static int out_write(struct bbolt_writer *w)
{
    uint64_t first = w->next_page - w->out.len / w->page_bytes;
    int r = file_write(w->file, first * w->page_bytes, w->out.data, w->out.len);
    buf_clear(&w->out);
    return r < 0 ? err_origin(r) : 0;
}

/* Moves the first count items of n into a page of their own. */
static int node_write(struct bbolt_writer *w, struct node *n, size_t count, uint64_t *ret_page)
{
    bool leaf = n == &w->leaf;
    size_t start = w->out.len;
    struct bbolt_header header = {w->next_page, leaf ? BBOLT_LEAF : BBOLT_BRANCH, (uint16_t)count,
                                  0};
    size_t data_len = image_append(&w->out, n, count, leaf, header);
    size_t len = w->out.len - start;
    size_t pages = (len + w->page_bytes - 1) / w->page_bytes;
    check(count <= UINT16_MAX && pages > 0 && pages <= UINT32_MAX);
    header.overflow = (uint32_t)(pages - 1);
    bbolt_header_put(w->out.data + start, header);
    buf_append_zero(&w->out, pages * w->page_bytes - len);
    w->next_page += pages;
    node_drop(n, count, data_len);
    *ret_page = header.id;
    return w->out.len >= OUT_BYTES_MAX ? out_write(w) : 0;
}

static int branch_add(struct bbolt_writer *w, size_t level, struct bytes key, uint64_t child);

/* Writes the first count items of the node below a level and adds the page to that level. */
static int node_write_below(struct bbolt_writer *w, struct node *n, size_t count, size_t level)
{
    _cleanup_(buf_deinit) struct buf first = BUF_NULL;
    uint64_t page;
    buf_append_bytes(&first, node_first_key(n));
    int r = node_write(w, n, count, &page);
    return r < 0 ? r : branch_add(w, level, buf_bytes(&first), page);
}

/* (I2). Each level fills at least twice as slowly as the one below it, so the depth is bounded. */
static int branch_add(struct bbolt_writer *w, size_t level, struct bytes key, uint64_t child)
{
    if (level == BBOLT_DEPTH_MAX)
        return err_origin(-EFBIG);
    struct node *n = &w->branches[level];
    if (level == w->n_branches)
        w->n_branches++;
    if (n->n_items >= BRANCH_ITEMS_MIN && !node_fits(w, n, key.len)) {
        int r = node_write_below(w, n, n->n_items - 1, level + 1);
        if (r < 0)
            return r;
    }
    node_add(n, (struct item){.key_len = (uint32_t)key.len, .child = child}, key, BYTES_NULL);
    return 0;
}

/* (I3) */
static int leaf_add(struct bbolt_writer *w, uint32_t flags, struct bytes key, struct bytes value)
{
    if (w->leaf.n_items > 0 && !node_fits(w, &w->leaf, key.len + value.len)) {
        int r = node_write_below(w, &w->leaf, w->leaf.n_items, 0);
        if (r < 0)
            return r;
    }
    struct item item = {flags, (uint32_t)key.len, (uint32_t)value.len, 0};
    node_add(&w->leaf, item, key, value);
    return 0;
}

/* Writes what is left of the tree, from below. */
static int tree_finish(struct bbolt_writer *w, uint64_t *ret_root)
{
    struct node *n = &w->leaf;
    for (size_t level = 0; level < w->n_branches; level++) {
        int r = node_write_below(w, n, n->n_items, level);
        if (r < 0)
            return r;
        n = &w->branches[level];
        check(n->n_items > 1);
    }
    w->n_branches = 0;
    return node_write(w, n, n->n_items, ret_root);
}

/* ---- buckets ---- */

/* (I4) */
static int bucket_end(struct bbolt_writer *w)
{
    if (w->n_buckets == 0)
        return 0;
    struct buf *value = &w->buckets[w->n_buckets - 1].value;
    buf_append_zero(value, BBOLT_BUCKET_BYTES);
    if (w->n_branches == 0 && node_bytes(&w->leaf) <= w->page_bytes / INLINE_PART) {
        struct bbolt_header header = {0, BBOLT_LEAF, (uint16_t)w->leaf.n_items, 0};
        size_t len = image_append(value, &w->leaf, w->leaf.n_items, true, header);
        node_drop(&w->leaf, w->leaf.n_items, len);
        return 0;
    }
    uint64_t root;
    int r = tree_finish(w, &root);
    if (r == 0)
        bbolt_put(value->data, root, 8);
    return r;
}

int bbolt_write_bucket(struct bbolt_writer *w, const char *name)
{
    size_t len = strlen(name);
    check(w->n_buckets < BBOLT_BUCKETS_MAX);
    if (len == 0 || len > BBOLT_KEY_BYTES_MAX)
        return BBOLT_WRITE_E_SIZE;
    if (w->n_buckets > 0 && strcmp(w->buckets[w->n_buckets - 1].name, name) >= 0)
        return BBOLT_WRITE_E_ORDER;
    int r = bucket_end(w);
    if (r < 0)
        return r;
    w->buckets[w->n_buckets++].name = mem_strdup(name);
    buf_clear(&w->last);
    return 0;
}

int bbolt_write_item(struct bbolt_writer *w, struct bytes key, struct bytes value)
{
    check(w->n_buckets > 0);
    if (key.len == 0 || key.len > BBOLT_KEY_BYTES_MAX || value.len > BBOLT_VALUE_BYTES_MAX)
        return BBOLT_WRITE_E_SIZE;
    if (bytes_compare(buf_bytes(&w->last), key) >= 0)
        return BBOLT_WRITE_E_ORDER;
    buf_clear(&w->last);
    buf_append_bytes(&w->last, key);
    return leaf_add(w, 0, key, value);
}

/* ---- the file ---- */

int bbolt_write_open(struct bbolt_writer **ret, const struct bbolt_write_options *options)
{
    size_t page_bytes = options->page_bytes ? options->page_bytes : BBOLT_PAGE_BYTES;
    check(page_bytes >= BBOLT_PAGE_BYTES_MIN && page_bytes <= BBOLT_PAGE_BYTES_MAX &&
          (page_bytes & (page_bytes - 1)) == 0);
    _cleanup_(bbolt_write_closep) struct bbolt_writer *w = mem_new(struct bbolt_writer);
    w->page_bytes = page_bytes;
    w->next_page = 2;
    int r = file_open(&w->file, options->path, FILE_WRITE | FILE_CREATE);
    if (r == 0)
        r = file_truncate(w->file, 0);
    if (r < 0)
        return err_origin(r);
    *ret = w;
    w = NULL;
    return 0;
}

struct bbolt_writer *bbolt_write_close(struct bbolt_writer *w)
{
    if (!w)
        return NULL;
    file_close(w->file);
    buf_deinit(&w->out);
    node_deinit(&w->leaf);
    for (size_t i = 0; i < BBOLT_DEPTH_MAX; i++)
        node_deinit(&w->branches[i]);
    buf_deinit(&w->last);
    for (size_t i = 0; i < w->n_buckets; i++) {
        free(w->buckets[i].name);
        buf_deinit(&w->buckets[i].value);
    }
    free(w);
    return NULL;
}

static int buckets_write(struct bbolt_writer *w, uint64_t *ret_root)
{
    int r = bucket_end(w);
    for (size_t i = 0; i < w->n_buckets && r == 0; i++)
        r = leaf_add(w, BBOLT_ELEMENT_BUCKET, bytes_str(w->buckets[i].name),
                     buf_bytes(&w->buckets[i].value));
    return r < 0 ? r : tree_finish(w, ret_root);
}

static void freelist_append(struct bbolt_writer *w)
{
    size_t start = w->out.len;
    buf_append_zero(&w->out, w->page_bytes);
    bbolt_header_put(w->out.data + start,
                     (struct bbolt_header){w->next_page, BBOLT_FREELIST, 0, 0});
    w->next_page++;
}

static int metas_write(struct bbolt_writer *w, uint64_t root)
{
    struct bbolt_meta meta = {(uint32_t)w->page_bytes, root, w->next_page - 1, w->next_page, 0};
    buf_append_zero(&w->out, 2 * w->page_bytes);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *page = w->out.data + i * w->page_bytes;
        meta.transaction = TRANSACTION - i;
        bbolt_header_put(page, (struct bbolt_header){i, BBOLT_META, 0, 0});
        bbolt_meta_put(page + BBOLT_HEADER_BYTES, &meta);
    }
    int r = file_write(w->file, 0, w->out.data, w->out.len);
    return r < 0 ? err_origin(r) : 0;
}

static int sync_all(struct bbolt_writer *w)
{
    int r = file_sync(w->file);
    return r < 0 ? err_origin(r) : 0;
}

int bbolt_write_finish(struct bbolt_writer *w, uint64_t *ret_bytes)
{
    uint64_t root;
    int r = buckets_write(w, &root);
    if (r < 0)
        return r;
    freelist_append(w);
    r = out_write(w);
    if (r == 0)
        r = sync_all(w); /* (I5) */
    if (r == 0)
        r = metas_write(w, root);
    if (r == 0)
        r = sync_all(w);
    if (r < 0)
        return r;
    *ret_bytes = w->next_page * w->page_bytes;
    return 0;
}
