/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of a snapshot as a directory of files, of any bytes: the first says how large the pieces
 * are in which it comes. Properties: in pieces and as a whole the same end and the same files, and
 * no file anywhere else; a directory that was made gives a body of the same length, and that the
 * same directory.
 *
 * What the files say is the database's own business. Link with --wrap of fsync, which would be all
 * that the run does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/peer_tables.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/mem.h"
#include "storage/test_dir.h"
#include "tests/fuzz/fuzz.h"

struct result {
    int outcome;
    size_t used;
    struct buf body; /* the files that are there, as a sender would put them, in order of names */
};

static char *dir, *target;

int __wrap_fsync(int fd);

int __wrap_fsync(int fd)
{
    return 0;
}

/* ---- the scratch directory ---- */

static void dir_remove(void)
{
    test_dir_remove(dir);
    free(target);
}

static void dir_make_once(void)
{
    if (dir)
        return;
    dir = test_dir_new();
    target = mem_printf("%s/target", dir);
    atexit(dir_remove);
}

static struct buf file_content(const char *name)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", target, name);
    struct buf content = BUF_NULL;
    uint8_t piece[4096];
    FILE *f = fopen(path, "rb");
    size_t n;

    check(f);
    while ((n = fread(piece, 1, sizeof(piece), f)) > 0)
        buf_append(&content, piece, n);
    fclose(f);
    return content;
}

/* ---- a body ---- */

/* As a sender would write it. */
static void file_append(struct buf *body, const struct peer_table_file *file)
{
    _cleanup_(buf_deinit) struct buf content = file_content(file->name);

    check(content.len == file->bytes);
    peer_tables_head(body, file);
    buf_append_bytes(body, buf_bytes(&content));
    buf_append_u32_be(body, crc32c(0, content.data, content.len));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct peer_table_file *)a)->name,
                  ((const struct peer_table_file *)b)->name);
}

static void look(struct result *r)
{
    struct peer_tables t = {0};

    check(peer_tables_list(target, &t) == 0);
    if (t.len > 0)
        qsort(t.files, t.len, sizeof(*t.files), compare_names);
    for (size_t i = 0; i < t.len; i++)
        file_append(&r->body, &t.files[i]);
    buf_append_zero(&r->body, 2);
    check(r->body.len == t.body_bytes && (r->outcome != 0 || r->body.len == r->used));
    peer_tables_deinit(&t);
    check(test_dir_count(dir) == 1);
}

/* Files come in any order, so a body has the bytes of its directory's, in another order. */
static uint64_t bytes_sum(struct bytes s)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < s.len; i++)
        sum += s.data[i];
    return sum;
}

static struct result feed(struct bytes all, size_t piece)
{
    struct result r = {.outcome = PEER_TABLES_MORE};
    struct peer_tables_reader reader;

    check(peer_tables_reader_init(&reader, target) == 0);
    for (size_t i = 0, n; i < all.len && r.outcome == PEER_TABLES_MORE; i += n) {
        n = piece < all.len - i ? piece : all.len - i;
        struct bytes in = bytes_of(all.data + i, n);
        r.outcome = peer_tables_read(&reader, &in);
        r.used += n - in.len;
    }
    check(r.outcome >= 0 && r.outcome <= PEER_TABLES_WRONG);
    peer_tables_reader_deinit(&reader);
    look(&r);
    peer_tables_remove(target);
    check(test_dir_count(dir) == 0);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    dir_make_once();
    struct bytes all = bytes_of(data + 1, size - 1);
    struct result whole = feed(all, all.len), pieces = feed(all, 1 + data[0] % 64);
    check(whole.outcome == pieces.outcome && whole.used == pieces.used);
    check(bytes_equal(buf_bytes(&whole.body), buf_bytes(&pieces.body)));
    if (whole.outcome == 0) {
        struct result again = feed(buf_bytes(&whole.body), whole.body.len);
        check(again.outcome == 0 && bytes_equal(buf_bytes(&whole.body), buf_bytes(&again.body)));
        check(bytes_sum(bytes_of(all.data, whole.used)) == bytes_sum(buf_bytes(&whole.body)));
        buf_deinit(&again.body);
    }
    buf_deinit(&whole.body);
    buf_deinit(&pieces.body);
    return 0;
}
