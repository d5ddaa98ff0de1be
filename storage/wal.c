/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing the raft log. wal_format.c has the frames, wal_dir.c the names, wal_open.c the
 * recovery.
 *
 * Frames are built in one buffer that mirrors the file from a block boundary on, and go out
 * whole blocks at a time: the last, partly filled block stays in the buffer and is written again
 * with what follows it. So no write makes the kernel read a block first, and the rest of the
 * last block is always zeros.
 *
 *   wal_append ---> buffer --wal_write_buffer--> file --wal_sync--> durable
 *                      \--- does not fit: sync, wal_segment_switch ---/
 *
 * A switch, in durable steps: the old segment is synced; the header is written to a spare and
 * synced; the spare gets the segment's name; the directory is synced. A file with a segment's
 * name therefore always has a header, and only the last segment may have a torn tail.
 *
 * Thread: one owner.
 *
 * Invariants
 *  (I1) durable_lsn in a frame is never ahead of the truth: it is what had been synced when the
 *       frame was built, and with --unsafe-no-fsync it stays where it was.
 *  (I2) The first failure of a write, sync or rename is the last thing that happens to the log
 *       (failed).
 *  (I3) hard_state.commit <= last_index, and an entry is never overwritten at or below it. Raft
 *       guarantees both; recovery relies on them.
 *  (I4) A snapshot marker above the commit index replaces the log; at or below it, it only
 *       records that there is a snapshot.
 */
#include "storage/wal_internal.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"

static struct metric write_metric, bytes_metric;

void wal_metrics_register(void)
{
    static struct metric_family write_family = {
        .name = "etcd_disk_wal_write_duration_seconds",
        .kind = METRIC_HISTOGRAM,
        .help = "The latency distributions of write called by WAL.",
        .bounds = metric_bounds_1ms_x2_14,
        .n_bounds = 14};
    static struct metric_family bytes_family = {.name = "etcd_disk_wal_write_bytes_total",
                                                .kind = METRIC_GAUGE,
                                                .help = "Total number of bytes written in WAL."};
    metrics_register(&write_family, &write_metric);
    metrics_register(&bytes_family, &bytes_metric);
}

static int wal_fail(struct wal *w, int error)
{
    check(error < 0);
    if (!w->failed) {
        w->failed = error;
        log_error("raft log failed", LOG_STR("dir", w->dir), LOG_ERRNO("error", error));
    }
    return error;
}

void wal_buffer_reserve(struct wal *w, size_t bytes)
{
    if (w->buf_cap >= bytes)
        return;
    size_t cap = w->buf_cap ? w->buf_cap : 64 << 10;
    while (cap < bytes)
        cap *= 2;
    uint8_t *buf = aligned_alloc(WAL_BLOCK_BYTES, cap);
    check(buf);
    if (w->buf_len)
        memcpy(buf, w->buf, w->buf_len);
    free(w->buf);
    w->buf = buf;
    w->buf_cap = cap;
}

/* Gives back what a very large entry needed; all but the last block is written. */
static void buffer_shrink(struct wal *w)
{
    if (w->buf_cap <= 2 * WAL_BUFFER_BYTES_MAX)
        return;
    uint8_t *old = w->buf;
    w->buf = NULL;
    w->buf_cap = 0;
    size_t len = w->buf_len;
    w->buf_len = 0;
    wal_buffer_reserve(w, WAL_BUFFER_BYTES_MAX);
    memcpy(w->buf, old, len);
    w->buf_len = len;
    free(old);
}

static int wal_write_buffer(struct wal *w)
{
    if (!w->unwritten)
        return 0;
    size_t padded = wal_round_up(w->buf_len, WAL_BLOCK_BYTES);
    check(padded <= w->buf_cap &&
          w->buf_offset + padded <= w->segments[w->n_segments - 1].file_bytes);
    memset(w->buf + w->buf_len, 0, padded - w->buf_len);
    uint64_t start_ns = clock_mono_ns();
    int r = file_write(w->file, w->buf_offset, w->buf, padded);
    if (r < 0)
        return wal_fail(w, err_origin(r));
    if (write_metric.family)
        metric_observe(&write_metric, (double)(clock_mono_ns() - start_ns) / 1e9);
    metric_gauge_add(&bytes_metric, (double)padded);
    size_t tail = w->buf_len % WAL_BLOCK_BYTES;
    size_t done = w->buf_len - tail;
    memmove(w->buf, w->buf + done, tail);
    w->buf_offset += done;
    w->buf_len = tail;
    w->unwritten = false;
    w->unsynced = true;
    buffer_shrink(w);
    return 0;
}

static int wal_sync_file(struct wal *w, struct file *f)
{
    if (w->unsafe_no_sync)
        return 0;
    failpoint("walBeforeSync");
    int r = file_sync(f);
    failpoint("walAfterSync");
    return r < 0 ? wal_fail(w, err_origin(r)) : 0;
}

int wal_sync(struct wal *w)
{
    if (w->failed)
        return -EIO;
    int r = wal_write_buffer(w);
    if (r < 0 || !w->unsynced)
        return r;
    r = wal_sync_file(w, w->file);
    if (r < 0)
        return r;
    w->unsynced = false;
    if (!w->unsafe_no_sync)
        w->durable_lsn = wal_lsn(w);
    return 0;
}

int wal_flush(struct wal *w)
{
    return w->failed ? -EIO : wal_write_buffer(w);
}

void wal_segment_push(struct wal *w, const struct wal_segment *s)
{
    if (w->n_segments == w->cap_segments) {
        w->cap_segments = w->cap_segments ? 2 * w->cap_segments : 8;
        w->segments = mem_realloc(w->segments, w->cap_segments * sizeof(*w->segments));
    }
    w->segments[w->n_segments++] = *s;
    if (w->largest_bytes < s->file_bytes)
        w->largest_bytes = s->file_bytes;
}

static uint64_t segment_bytes_next(const struct wal *w)
{
    uint64_t bytes =
        w->n_segments ? w->largest_bytes * WAL_SEGMENT_GROWTH : WAL_SEGMENT_BYTES_FIRST;
    return bytes < w->segment_bytes ? bytes : w->segment_bytes;
}

/* The frame that is built at the end of the buffer; its payload must be there. */
static void frame_seal(struct wal *w, enum wal_type type, uint8_t subtype, size_t payload_len)
{
    struct wal_frame f = {
        .type = type,
        .subtype = subtype,
        .generation = w->generation,
        .lsn = wal_lsn(w),
        .durable_lsn = w->durable_lsn,
        .payload = bytes_of(NULL, payload_len),
    };
    wal_frame_seal(w->buf + w->buf_len, &f, w->salt, &w->chain);
    w->buf_len += wal_frame_size(payload_len);
    w->unwritten = true;
}

static void header_put(struct wal *w, const struct wal_segment *s)
{
    const struct wal_header h = {
        .salt = w->salt,
        .chain = w->chain,
        .cluster_id = w->cluster_id,
        .member_id = w->member_id,
        .seq = s->seq,
        .file_bytes = s->file_bytes,
        .first_index = w->first_index,
        .last_index = w->last_index,
        .last_term = w->last_term,
        .hard_state = w->hard_state,
        .snapshot_index = w->snapshot_index,
        .snapshot_term = w->snapshot_term,
    };
    wal_buffer_reserve(w, WAL_BLOCK_BYTES);
    wal_header_put(w->buf + WAL_FRAME_BYTES, &h);
    frame_seal(w, WAL_TYPE_SEGMENT, 0, WAL_HEADER_BYTES);
}

/* Writes the header of the newest segment into its file and gives the file the segment's name. */
static int segment_publish(struct wal *w, uint64_t spare_id)
{
    const struct wal_segment *s = &w->segments[w->n_segments - 1];
    header_put(w, s);
    int r = wal_sync(w);
    if (r < 0)
        return r;
    _cleanup_(mem_freep) char *from = wal_path_spare(w->dir, spare_id);
    _cleanup_(mem_freep) char *to = wal_path_segment(w->dir, s->seq);
    r = file_rename(from, to);
    if (r == 0 && !w->unsafe_no_sync)
        r = dir_sync(w->dir);
    return r < 0 ? wal_fail(w, err_origin(r)) : 0;
}

int wal_segment_switch(struct wal *w, uint64_t need)
{
    struct wal_segment s = {.seq = 1, .base_lsn = WAL_LSN_FIRST, .last_index = w->last_index};
    if (w->n_segments) {
        int r = wal_sync(w);
        if (r < 0)
            return r;
        s.seq = w->segments[w->n_segments - 1].seq + 1;
        s.base_lsn = wal_lsn(w);
    }
    uint64_t bytes_min = wal_round_up(wal_frame_size(WAL_HEADER_BYTES) + need, WAL_BLOCK_BYTES);
    uint64_t bytes_new = segment_bytes_next(w);
    /* If the background is late, a short one costs least now. */
    if (w->spares.threaded && bytes_new > WAL_SEGMENT_BYTES_FIRST)
        bytes_new = WAL_SEGMENT_BYTES_FIRST;
    bytes_new = wal_round_up(bytes_new > bytes_min ? bytes_new : bytes_min, WAL_BLOCK_BYTES);
    uint64_t id;
    struct file *f = NULL;
    int r = wal_spares_take(&w->spares, bytes_min, bytes_new, &id, &f);
    if (r < 0)
        return wal_fail(w, r);
    file_close(w->file);
    w->file = f;
    r = file_size(f, &s.file_bytes);
    if (r < 0)
        return wal_fail(w, err_origin(r));
    check(s.file_bytes >= bytes_min);
    w->buf_offset = w->buf_len = 0;
    w->want_sent = false;
    wal_segment_push(w, &s);
    return segment_publish(w, id);
}

/* The next segment is prepared from the moment when a quarter of this one is used. */
static void spare_want(struct wal *w)
{
    if (w->want_sent || 4 * w->buf_offset < w->segments[w->n_segments - 1].file_bytes)
        return;
    w->want_sent = true;
    wal_spares_want(&w->spares, wal_round_up(segment_bytes_next(w), WAL_BLOCK_BYTES));
}

/* Makes the buffer, and the segment, ready for one more frame. *ret is where its payload goes. */
static int frame_begin(struct wal *w, size_t payload_len, uint8_t **ret)
{
    size_t size = wal_frame_size(payload_len);
    int r = 0;
    if (w->buf_offset + w->buf_len + size > w->segments[w->n_segments - 1].file_bytes)
        r = wal_segment_switch(w, size);
    else if (w->buf_len + size > WAL_BUFFER_BYTES_MAX)
        r = wal_write_buffer(w);
    if (r < 0)
        return r;
    wal_buffer_reserve(w, wal_round_up(w->buf_len + size, WAL_BLOCK_BYTES));
    spare_want(w);
    *ret = w->buf + w->buf_len + WAL_FRAME_BYTES;
    return 0;
}

int wal_put_open(struct wal *w)
{
    uint8_t *p;
    int r = frame_begin(w, 0, &p);
    if (r < 0)
        return r;
    frame_seal(w, WAL_TYPE_OPEN, 0, 0);
    return 0;
}

static int put_entry(struct wal *w, const struct raft_entry *e)
{
    check(e->index > w->hard_state.commit && e->index >= w->first_index &&
          e->index <= w->last_index + 1);
    struct bytes data = blob_bytes(e->data);
    size_t len = WAL_ENTRY_HEAD_BYTES + data.len;
    if (len > WAL_RECORD_BYTES_MAX)
        return wal_fail(w, err_origin(-EMSGSIZE));
    uint8_t *p;
    int r = frame_begin(w, len, &p);
    if (r < 0)
        return r;
    wal_entry_head_put(p, e);
    if (data.len)
        memcpy(p + WAL_ENTRY_HEAD_BYTES, data.data, data.len);
    frame_seal(w, WAL_TYPE_ENTRY, (uint8_t)e->type, len);
    w->last_index = e->index;
    w->last_term = e->term;
    return 0;
}

static int put_hard_state(struct wal *w, const struct raft_hard_state *hs)
{
    check(hs->commit <= w->last_index);
    uint8_t *p;
    int r = frame_begin(w, WAL_HARD_STATE_BYTES_MAX, &p);
    if (r < 0)
        return r;
    frame_seal(w, WAL_TYPE_HARD_STATE, 0, wal_hard_state_put(p, hs));
    w->hard_state = *hs;
    return 0;
}

int wal_append(struct wal *w, const struct raft_hard_state *hard_state,
               const struct raft_entry *entries, size_t n_entries)
{
    if (w->failed)
        return -EIO;
    for (size_t i = 0; i < n_entries; i++) {
        int r = put_entry(w, &entries[i]);
        if (r < 0)
            return r;
    }
    return hard_state ? put_hard_state(w, hard_state) : 0;
}

int wal_append_snapshot(struct wal *w, uint64_t index, uint64_t term)
{
    if (w->failed)
        return -EIO;
    check(index > 0);
    uint8_t *p;
    int r = frame_begin(w, WAL_SNAPSHOT_BYTES, &p);
    if (r < 0)
        return r;
    wal_snapshot_put(p, index, term);
    frame_seal(w, WAL_TYPE_SNAPSHOT, 0, WAL_SNAPSHOT_BYTES);
    if (index > w->snapshot_index) {
        w->snapshot_index = index;
        w->snapshot_term = term;
    }
    if (index > w->hard_state.commit) { /* (I4) */
        w->first_index = index + 1;
        w->last_index = index;
        w->last_term = term;
    }
    return 0;
}

int wal_release(struct wal *w, uint64_t index)
{
    if (w->failed)
        return -EIO;
    if (w->keep_all)
        return 0;
    size_t n = 0;
    int r = 0;
    while (n + 1 < w->n_segments && w->segments[n + 1].last_index <= index && r == 0) {
        _cleanup_(mem_freep) char *path = wal_path_segment(w->dir, w->segments[n].seq);
        r = wal_spares_give(&w->spares, path, w->segments[n].file_bytes);
        n++;
    }
    if (n == 0)
        return 0;
    if (r == 0 && !w->unsafe_no_sync)
        r = dir_sync(w->dir); /* before any of the files lives again under another name */
    if (r < 0)
        return wal_fail(w, err_origin(r));
    w->n_segments -= n;
    memmove(w->segments, w->segments + n, w->n_segments * sizeof(*w->segments));
    return 0;
}

void wal_set_room(struct wal *w, const struct wal_room *room)
{
    pthread_mutex_lock(&w->spares.mutex);
    w->spares.room = *room;
    pthread_mutex_unlock(&w->spares.mutex);
}

uint64_t wal_first_index(const struct wal *w)
{
    uint64_t first = w->segments[0].last_index + 1;
    if (first < w->first_index)
        first = w->first_index;
    return first <= w->last_index ? first : 0;
}

uint64_t wal_size_bytes(const struct wal *w)
{
    return wal_lsn(w) - w->segments[0].base_lsn;
}

struct wal *wal_new(const struct wal_options *options)
{
    struct wal *w = mem_new(struct wal);
    w->dir = mem_strdup(options->dir);
    w->cluster_id = options->cluster_id;
    w->member_id = options->member_id;
    w->salt = options->salt;
    w->unsafe_no_sync = options->unsafe_no_sync;
    w->keep_all = options->keep_all;
    w->first_index = 1;
    wal_spares_init(&w->spares, options->dir, options);
    w->segment_bytes = w->spares.segment_bytes;
    return w;
}

struct wal *wal_free(struct wal *w)
{
    if (!w)
        return NULL;
    wal_spares_deinit(&w->spares);
    file_close(w->file);
    free(w->segments);
    free(w->buf);
    free(w->dir);
    free(w);
    return NULL;
}

/* A whole file under a temporary name first: it is there with all its bytes, or not at all. */
static int clean_write(struct wal *w)
{
    uint8_t bytes[WAL_CLEAN_BYTES];
    wal_clean_put(bytes, &(struct wal_clean){.lsn = wal_lsn(w), .chain = w->chain});
    _cleanup_(mem_freep) char *path = wal_path_name(w->dir, WAL_CLEAN_NAME);
    _cleanup_(mem_freep) char *tmp = wal_path_name(w->dir, WAL_CLEAN_NAME ".tmp");
    _cleanup_(file_closep) struct file *f = NULL;
    int r = file_open(&f, tmp, FILE_WRITE | FILE_CREATE);
    if (r == 0)
        r = file_write(f, 0, bytes, sizeof(bytes));
    if (r == 0)
        r = file_sync(f);
    if (r == 0)
        r = file_rename(tmp, path);
    return r == 0 ? dir_sync(w->dir) : r;
}

struct wal *wal_close(struct wal *w)
{
    if (!w)
        return NULL;
    bool clean = wal_sync(w) == 0 && !w->unsafe_no_sync;
    int r = clean ? clean_write(w) : 0;
    if (r < 0)
        log_warn("failed to mark the raft log clean", LOG_STR("dir", w->dir),
                 LOG_ERRNO("error", r));
    return wal_free(w);
}

struct wal *wal_abandon(struct wal *w)
{
    return wal_free(w);
}
