/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The names in the directory of the raft log. Thread: any; nothing is kept.
 *
 *   %016x.log       a segment; the name is its sequence number. Its header was durable before.
 *   spare-%016x     a file that was written once and may become a segment; means nothing.
 *   *.tmp           unfinished; removed at the next open.
 *   CLEAN           the last stop was orderly (wal_open.c).
 *
 * Other names are left alone. A release renames the oldest segments one after the other; a crash
 * may leave any of them under the old name, so only the newest run of consecutive numbers
 * counts. Whether that run is enough is for the indices in its headers to say.
 */
#include "storage/wal_internal.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"

enum { HEX_DIGITS = 16 };

static bool parse_hex(const char *s, uint64_t *ret)
{
    uint64_t n = 0;
    for (int i = 0; i < HEX_DIGITS; i++) {
        char c = s[i];
        if (c >= '0' && c <= '9')
            n = n << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            n = n << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    *ret = n;
    return true;
}

static void push_number(uint64_t **list, size_t *n, uint64_t value)
{
    *list = mem_realloc(*list, (*n + 1) * sizeof(**list));
    (*list)[(*n)++] = value;
}

static int visit_name(void *arg, const char *name)
{
    struct wal_dir *d = arg;
    size_t len = strlen(name);
    uint64_t number;
    if (len == HEX_DIGITS + 4 && parse_hex(name, &number) &&
        strcmp(name + HEX_DIGITS, ".log") == 0) {
        push_number(&d->seqs, &d->n_seqs, number);
    } else if (len == HEX_DIGITS + 6 && strncmp(name, "spare-", 6) == 0 &&
               parse_hex(name + 6, &number)) {
        push_number(&d->spares, &d->n_spares, number);
    } else if (len > 4 && strcmp(name + len - 4, ".tmp") == 0) {
        d->garbage = mem_realloc(d->garbage, (d->n_garbage + 1) * sizeof(*d->garbage));
        d->garbage[d->n_garbage++] = mem_strdup(name);
    } else if (strcmp(name, WAL_CLEAN_NAME) == 0) {
        d->clean = true;
    }
    return 0;
}

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int wal_dir_list(const char *dir, struct wal_dir *ret)
{
    struct wal_dir d = {0};
    int r = dir_list(dir, visit_name, &d);
    if (r < 0) {
        wal_dir_deinit(&d);
        return r == -ENOENT ? r : err_origin(r);
    }
    if (d.n_seqs) {
        qsort(d.seqs, d.n_seqs, sizeof(*d.seqs), compare_numbers);
        d.first = d.n_seqs - 1;
        while (d.first > 0 && d.seqs[d.first - 1] == d.seqs[d.first] - 1)
            d.first--;
    }
    *ret = d;
    return 0;
}

void wal_dir_deinit(struct wal_dir *d)
{
    for (size_t i = 0; i < d->n_garbage; i++)
        free(d->garbage[i]);
    free(d->garbage);
    free(d->seqs);
    free(d->spares);
    *d = (struct wal_dir){0};
}

char *wal_path_segment(const char *dir, uint64_t seq)
{
    return mem_printf("%s/%016llx.log", dir, (unsigned long long)seq);
}

char *wal_path_spare(const char *dir, uint64_t id)
{
    return mem_printf("%s/spare-%016llx", dir, (unsigned long long)id);
}

char *wal_path_name(const char *dir, const char *name)
{
    return mem_printf("%s/%s", dir, name);
}

int wal_dir_clean(const char *dir, bool *ret_found, struct wal_clean *ret)
{
    _cleanup_(mem_freep) char *path = wal_path_name(dir, WAL_CLEAN_NAME);
    _cleanup_(file_closep) struct file *f = NULL;
    *ret_found = false;
    int r = file_open(&f, path, FILE_READ);
    if (r == -ENOENT)
        return 0;
    uint8_t bytes[WAL_CLEAN_BYTES];
    size_t len = 0;
    if (r == 0)
        r = file_read(f, 0, bytes, sizeof(bytes), &len);
    if (r < 0)
        return err_origin(r);
    *ret_found = wal_clean_get(bytes_of(bytes, len), ret);
    return 0;
}
