/* SPDX-License-Identifier: Apache-2.0 */
/* Files of snapshots for the targets (see snapshot_input.h). Thread: one. */
#include "tests/fuzz/snapshot_input.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "storage/bbolt_format.h"
#include "storage/bbolt_write.h"

enum { AS_IT_IS, SUMS_RIGHT, ITEMS, N_FORMS };
enum { ITEMS_MAX = 512 };

void memory_file_open(struct memory_file *f)
{
    if (f->path[0])
        return;
    f->fd = memfd_create("fuzz", MFD_CLOEXEC);
    check(f->fd >= 0);
    snprintf(f->path, sizeof(f->path), "/proc/self/fd/%d", f->fd);
}

static void sum_mend(struct buf *b, size_t at)
{
    if (b->len < at + BBOLT_HEADER_BYTES + BBOLT_META_BYTES)
        return;
    uint8_t *meta = b->data + at + BBOLT_HEADER_BYTES;
    if (bbolt_get_u32(meta) == BBOLT_MAGIC)
        bbolt_put(meta + BBOLT_SUM_OFFSET, bbolt_sum(meta), 8);
}

static void file_make(struct memory_file *f, struct bytes in, bool sums_right)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    buf_append_bytes(&b, in);
    if (sums_right) {
        sum_mend(&b, 0);
        sum_mend(&b, BBOLT_PAGE_BYTES_MIN);
        sum_mend(&b, BBOLT_PAGE_BYTES);
    }
    check(ftruncate(f->fd, 0) == 0);
    check(pwrite(f->fd, b.data, b.len, 0) == (ssize_t)b.len);
}

/* ---- a file of items ---- */

/* Ascending. */
static const char *const buckets[] = {"alarm",           "auth", "authRoles", "authUsers",
                                      "cluster",         "key",  "lease",     "members",
                                      "members_removed", "meta", "new"};
enum { N_BUCKETS = sizeof(buckets) / sizeof(buckets[0]) };

struct item {
    unsigned bucket;
    struct bytes key, value;
};

static struct bytes take(struct bytes *in)
{
    uint64_t len;

    if (!varint_get(in, &len) || len > in->len)
        len = in->len;
    struct bytes taken = bytes_of(in->data, (size_t)len);
    *in = bytes_of(in->data + len, in->len - (size_t)len);
    return taken;
}

static int compare_items(const void *a, const void *b)
{
    const struct item *x = a, *y = b;

    return x->bucket != y->bucket ? (int)x->bucket - (int)y->bucket : bytes_compare(x->key, y->key);
}

/* What the writer does not take (a key twice, or none) is left out. */
static void items_write(struct bbolt_writer *w, const struct item *items, size_t n)
{
    uint64_t bytes;

    for (unsigned bucket = 0; bucket < N_BUCKETS; bucket++) {
        check(bbolt_write_bucket(w, buckets[bucket]) == 0);
        for (size_t i = 0; i < n; i++)
            if (items[i].bucket == bucket)
                check(bbolt_write_item(w, items[i].key, items[i].value) >= 0);
    }
    check(bbolt_write_finish(w, &bytes) == 0);
}

static void file_make_of_items(struct memory_file *f, struct bytes in)
{
    _cleanup_(bbolt_write_closep) struct bbolt_writer *w = NULL;
    static struct item items[ITEMS_MAX];
    size_t n = 0;

    for (; in.len > 0 && n < ITEMS_MAX; n++) {
        items[n].bucket = in.data[0] % N_BUCKETS;
        in = bytes_of(in.data + 1, in.len - 1);
        items[n].key = take(&in);
        items[n].value = take(&in);
    }
    qsort(items, n, sizeof(*items), compare_items);
    check(ftruncate(f->fd, 0) == 0);
    check(bbolt_write_open(&w, &(struct bbolt_write_options){f->path, BBOLT_PAGE_BYTES_MIN}) == 0);
    items_write(w, items, n);
}

void snapshot_input_write(struct memory_file *f, struct bytes input)
{
    struct bytes rest = bytes_of(input.data + 1, input.len - 1);

    switch (input.data[0] % N_FORMS) {
    case ITEMS: file_make_of_items(f, rest); break;
    default: file_make(f, rest, input.data[0] % N_FORMS == SUMS_RIGHT);
    }
}
