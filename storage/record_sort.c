/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sorting on disk: records are gathered until the memory is full, sorted and written as one run;
 * in the end the runs are merged, each through a window of its own. What fits into memory never
 * touches the disk.
 *
 *   record   key bytes 4, value bytes 4, CRC-32C of what surrounds it 4, key, value
 *
 * Numbers are in the machine's order: the file does not outlive the process that means to read it.
 *
 * Invariants
 *  (I1) While entries point into data, data does not move: it is reserved at once, and a larger
 *       record comes alone.
 *  (I2) heap[0] is the run with the lowest key. The record that was handed out last is its head;
 *       the run moves on at the next call.
 *  (I3) A window holds the head's key. Its value may lie behind the window, and is then read into
 *       the one buffer that there is for values, so that large values are not held once a run.
 *
 * Thread: see the header.
 */
#include "storage/record_sort.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/file.h"

enum {
    HEAD_BYTES = 12,
    OUT_BYTES = 256 << 10,
    WINDOW_BYTES_MIN = 4 << 10,
    WINDOW_BYTES_MAX = 1 << 20,
    RUNS_MAX = 8192,
};

struct head {
    uint32_t key_len;
    uint32_t value_len;
    uint32_t crc;
};

/* A record in memory. */
struct entry {
    uint64_t prefix; /* the first bytes of its key, to compare most of them without a look there */
    const uint8_t *record;
};

struct run {
    uint64_t pos; /* of the head, in the file */
    uint64_t end;
    struct buf window; /* what the file holds from window_start on */
    uint64_t window_start;
    struct head head;
    struct bytes key;
};

struct record_sort {
    char *path;
    size_t memory_bytes;
    struct buf data; /* the records in memory */
    struct entry *entries;
    size_t n_entries;
    size_t entries_cap;
    struct file *file;
    uint64_t file_bytes;
    struct run *runs;
    size_t n_runs;
    bool sorted;
    bool handed_out;
    size_t at; /* without runs: the next entry */
    struct run **heap;
    size_t n_heap;
    size_t window_bytes;
    struct buf value; /* a value; before that, a part of a run on its way to the disk */
};

void record_sort_new(struct record_sort **ret, const struct record_sort_options *options)
{
    struct record_sort *s = mem_new(struct record_sort);
    s->path = mem_strdup(options->path);
    s->memory_bytes = options->memory_bytes ? options->memory_bytes : RECORD_SORT_BYTES;
    *ret = s;
}

struct record_sort *record_sort_free(struct record_sort *s)
{
    if (!s)
        return NULL;
    if (s->file) {
        file_close(s->file);
        (void)file_remove(s->path);
    }
    for (size_t i = 0; i < s->n_runs; i++)
        buf_deinit(&s->runs[i].window);
    free(s->runs);
    free(s->heap);
    free(s->entries);
    buf_deinit(&s->data);
    buf_deinit(&s->value);
    free(s->path);
    free(s);
    return NULL;
}

/* ---- records in memory ---- */

static struct head head_of(const uint8_t *record)
{
    struct head h;
    memcpy(&h, record, HEAD_BYTES);
    return h;
}

static struct bytes key_of(const uint8_t *record)
{
    return bytes_of(record + HEAD_BYTES, head_of(record).key_len);
}

static uint64_t prefix_of(struct bytes key)
{
    uint8_t first[8] = {0};
    memcpy(first, key.data, key.len < sizeof(first) ? key.len : sizeof(first));
    return u64_be_get(first);
}

static int entry_compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->prefix != y->prefix)
        return x->prefix < y->prefix ? -1 : 1;
    return bytes_compare(key_of(x->record), key_of(y->record));
}

static void entries_sort(struct record_sort *s)
{
    if (s->n_entries > 0)
        qsort(s->entries, s->n_entries, sizeof(*s->entries), entry_compare);
}

/* ---- runs ---- */

static int file_make(struct record_sort *s)
{
    int r = file_open(&s->file, s->path, FILE_READ | FILE_WRITE | FILE_CREATE);
    if (r == 0)
        r = file_truncate(s->file, 0);
    return r < 0 ? err_origin(r) : 0;
}

static int out_write(struct record_sort *s)
{
    int r = file_write(s->file, s->file_bytes, s->value.data, s->value.len);
    s->file_bytes += s->value.len;
    buf_clear(&s->value);
    return r < 0 ? err_origin(r) : 0;
}

static uint32_t record_crc(struct head h, const uint8_t *key, const uint8_t *value)
{
    uint32_t crc = crc32c(0, &h, offsetof(struct head, crc));
    return crc32c(crc32c(crc, key, h.key_len), value, h.value_len);
}

static int record_write(struct record_sort *s, const uint8_t *record)
{
    struct head h = head_of(record);
    const uint8_t *key = record + HEAD_BYTES;
    h.crc = record_crc(h, key, key + h.key_len);
    buf_append(&s->value, &h, HEAD_BYTES);
    buf_append(&s->value, key, (size_t)h.key_len + h.value_len);
    return s->value.len >= OUT_BYTES ? out_write(s) : 0;
}

/* What is in memory becomes a run. */
static int run_write(struct record_sort *s)
{
    if (s->n_runs == RUNS_MAX)
        return err_origin(-EFBIG);
    int r = s->file ? 0 : file_make(s);
    uint64_t start = s->file_bytes;
    entries_sort(s);
    for (size_t i = 0; i < s->n_entries && r == 0; i++)
        r = record_write(s, s->entries[i].record);
    if (r == 0)
        r = out_write(s);
    if (r < 0)
        return r;
    s->runs = mem_realloc(s->runs, (s->n_runs + 1) * sizeof(*s->runs));
    s->runs[s->n_runs++] = (struct run){.pos = start, .end = s->file_bytes};
    s->n_entries = 0;
    buf_clear(&s->data);
    return 0;
}

static void entry_add(struct record_sort *s, struct entry e)
{
    if (s->n_entries == s->entries_cap) {
        s->entries_cap = s->entries_cap ? s->entries_cap * 2 : 256;
        s->entries = mem_realloc(s->entries, s->entries_cap * sizeof(*s->entries));
    }
    s->entries[s->n_entries++] = e;
}

int record_sort_add(struct record_sort *s, struct bytes key, struct bytes value)
{
    check(!s->sorted && key.len > 0 && key.len <= RECORD_SORT_KEY_BYTES_MAX &&
          value.len <= UINT32_MAX);
    struct head h = {(uint32_t)key.len, (uint32_t)value.len, 0};
    size_t len = HEAD_BYTES + key.len + value.len;
    if (s->n_entries > 0 &&
        s->data.len + len + (s->n_entries + 1) * sizeof(struct entry) > s->memory_bytes) {
        int r = run_write(s);
        if (r < 0)
            return r;
    }
    if (s->n_entries == 0) /* (I1) */
        buf_reserve(&s->data, len > s->memory_bytes ? len : s->memory_bytes);
    uint8_t *record = s->data.data + s->data.len;
    buf_append(&s->data, &h, HEAD_BYTES);
    buf_append_bytes(&s->data, key);
    buf_append_bytes(&s->data, value);
    check(record + len == s->data.data + s->data.len);
    entry_add(s, (struct entry){prefix_of(key), record});
    return 0;
}

/* ---- merging ---- */

static int run_damaged(struct record_sort *s, uint64_t offset)
{
    log_error("a temporary file does not hold what was written to it", LOG_STR("path", s->path),
              LOG_U64("offset", offset));
    return err_origin(-EBADMSG);
}

static int run_read(struct record_sort *s, uint64_t offset, uint8_t *data, size_t len)
{
    size_t n;
    int r = file_read(s->file, offset, data, len, &n);
    if (r < 0)
        return err_origin(r);
    return n < len ? run_damaged(s, offset) : 0;
}

static bool window_has(const struct run *run, size_t len)
{
    return run->pos >= run->window_start && run->pos + len <= run->window_start + run->window.len;
}

/* Sees to it that the first len bytes from the head on are in the window. */
static int window_load(struct record_sort *s, struct run *run, uint64_t len)
{
    if (run->end - run->pos < len)
        return run_damaged(s, run->pos);
    if (window_has(run, len))
        return 0;
    uint64_t want = len > s->window_bytes ? len : s->window_bytes;
    if (want > run->end - run->pos)
        want = run->end - run->pos;
    buf_clear(&run->window);
    buf_reserve(&run->window, want);
    int r = run_read(s, run->pos, run->window.data, want);
    if (r < 0)
        return r;
    run->window_start = run->pos;
    run->window.len = want;
    return 0;
}

static const uint8_t *window_at(const struct run *run, uint64_t offset)
{
    return run->window.data + (run->pos + offset - run->window_start);
}

/* The head where the run stands. (I3) */
static int head_load(struct record_sort *s, struct run *run)
{
    int r = window_load(s, run, HEAD_BYTES);
    if (r < 0)
        return r;
    run->head = head_of(window_at(run, 0));
    uint64_t len = HEAD_BYTES + (uint64_t)run->head.key_len;
    if (run->head.key_len > RECORD_SORT_KEY_BYTES_MAX ||
        len + run->head.value_len > run->end - run->pos)
        return run_damaged(s, run->pos);
    r = window_load(s, run, len);
    if (r == 0)
        run->key = bytes_of(window_at(run, HEAD_BYTES), run->head.key_len);
    return r;
}

static int value_load(struct record_sort *s, const struct run *run, struct bytes *ret)
{
    size_t before = HEAD_BYTES + (size_t)run->head.key_len, len = run->head.value_len;
    *ret = bytes_of(window_at(run, before), len);
    if (!window_has(run, before + len)) {
        buf_clear(&s->value);
        buf_reserve(&s->value, len);
        *ret = bytes_of(s->value.data, len);
        int r = run_read(s, run->pos + before, s->value.data, len);
        if (r < 0)
            return r;
    }
    if (record_crc(run->head, run->key.data, ret->data) != run->head.crc)
        return run_damaged(s, run->pos);
    return 0;
}

static void heap_sink(struct record_sort *s, size_t i)
{
    for (;;) {
        size_t low = i, child = 2 * i + 1;
        for (size_t c = child; c < child + 2 && c < s->n_heap; c++)
            if (bytes_compare(s->heap[c]->key, s->heap[low]->key) < 0)
                low = c;
        if (low == i)
            return;
        struct run *run = s->heap[i];
        s->heap[i] = s->heap[low];
        s->heap[low] = run;
        i = low;
    }
}

static int merge_begin(struct record_sort *s)
{
    if (s->n_runs == 0) {
        entries_sort(s);
        return 0;
    }
    int r = run_write(s);
    buf_deinit(&s->data);
    size_t share = s->memory_bytes / s->n_runs;
    s->window_bytes = share < WINDOW_BYTES_MIN   ? WINDOW_BYTES_MIN
                      : share > WINDOW_BYTES_MAX ? WINDOW_BYTES_MAX
                                                 : share;
    s->heap = mem_alloc(s->n_runs * sizeof(struct run *));
    for (size_t i = 0; i < s->n_runs && r == 0; i++) {
        r = head_load(s, &s->runs[i]);
        s->heap[s->n_heap++] = &s->runs[i];
    }
    for (size_t i = s->n_heap; i > 0 && r == 0; i--)
        heap_sink(s, i - 1);
    return r;
}

/* Moves the run that was read from last to its next record. (I2) */
static int merge_advance(struct record_sort *s)
{
    struct run *run = s->heap[0];
    run->pos += HEAD_BYTES + (uint64_t)run->head.key_len + run->head.value_len;
    if (run->pos == run->end) {
        buf_deinit(&run->window);
        s->heap[0] = s->heap[--s->n_heap];
    } else {
        int r = head_load(s, run);
        if (r < 0)
            return r;
    }
    heap_sink(s, 0);
    return 0;
}

static void entry_next(struct record_sort *s, bool *ret_found, struct bytes *ret_key,
                       struct bytes *ret_value)
{
    *ret_found = s->at < s->n_entries;
    if (!*ret_found)
        return;
    const uint8_t *record = s->entries[s->at++].record;
    *ret_key = key_of(record);
    *ret_value = bytes_of(ret_key->data + ret_key->len, head_of(record).value_len);
}

int record_sort_next(struct record_sort *s, bool *ret_found, struct bytes *ret_key,
                     struct bytes *ret_value)
{
    int r = 0;
    if (!s->sorted)
        r = merge_begin(s);
    else if (s->handed_out)
        r = merge_advance(s);
    s->sorted = true;
    if (r < 0)
        return r;
    if (s->n_runs == 0) {
        entry_next(s, ret_found, ret_key, ret_value);
        return 0;
    }
    *ret_found = s->handed_out = s->n_heap > 0;
    if (!*ret_found)
        return 0;
    *ret_key = s->heap[0]->key;
    return value_load(s, s->heap[0], ret_value);
}
