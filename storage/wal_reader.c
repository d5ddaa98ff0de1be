/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads one segment of the raft log, frame after frame, and judges what stands behind the last
 * valid one. Changes nothing on disk.
 *
 * Thread: whoever opened it.
 *
 * Where the valid frames stop there is one of:
 *   the end       zeros, or what a recycled file held before (frames with other lsns).
 *   a torn tail   a write that a crash cut: any of its sectors are there, any are not.
 *   damage        frames that were synced and are not readable any more.
 *
 * Invariants
 *  (I1) A frame counts only where it was written: its lsn equals the segment's base plus its
 *       offset. So nothing that an earlier life of the file left behind counts.
 *  (I2) The generation never falls. Whoever opens the log after a torn tail raises it, so what
 *       is left of that tail never counts, even if a new frame ends just where one of its frames
 *       begins.
 *  (I3) Damage is proven by any frame in place behind the end whose durable_lsn lies behind the
 *       end: its writer had synced what is not readable now. Without such a proof the only thing
 *       missing is a write that no sync had confirmed to its writer, or the last synced write if
 *       nothing was written after it.
 *  (I4) All lengths are bounded by the file before they are used.
 */
#include "storage/wal_internal.h"

#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"

/* Makes [offset, offset + want) readable at *ret, less at the end of the file. */
static int reader_window(struct wal_reader *r, uint64_t offset, size_t want, const uint8_t **ret,
                         size_t *ret_len)
{
    uint64_t left = offset < r->header.file_bytes ? r->header.file_bytes - offset : 0;
    if (want > left)
        want = (size_t)left;
    if (offset < r->buf_offset || offset + want > r->buf_offset + r->buf_len) {
        size_t len = want < r->chunk_bytes ? r->chunk_bytes : want;
        if (len > left)
            len = (size_t)left;
        if (r->buf_cap < len) {
            free(r->buf);
            r->buf = mem_alloc_raw(len);
            r->buf_cap = len;
        }
        r->buf_len = 0;
        r->buf_offset = offset;
        int e = file_read(r->file, offset, r->buf, len, &r->buf_len);
        if (e < 0)
            return err_origin(e);
    }
    *ret = r->buf + (offset - r->buf_offset);
    *ret_len = (size_t)(r->buf_offset + r->buf_len - offset);
    return 0;
}

static int reader_bad(struct wal_reader *r, const char *problem)
{
    r->problem = problem;
    return WAL_READER_BAD;
}

static int reader_start(struct wal_reader *r)
{
    uint64_t size;
    int e = file_size(r->file, &size);
    if (e < 0)
        return err_origin(e);
    const uint8_t *p;
    size_t len;
    r->header.file_bytes = size;
    r->chunk_bytes = WAL_BLOCK_BYTES; /* whoever wants only the header reads no more */
    e = reader_window(r, 0, WAL_BLOCK_BYTES, &p, &len);
    if (e < 0)
        return e;
    struct wal_frame f;
    struct wal_header h;
    if (!wal_header_parse(bytes_of(p, len), &f, &h))
        return reader_bad(r, "no valid segment header");
    if (h.version != WAL_VERSION)
        return reader_bad(r, "the segment has another format version");
    if (h.file_bytes > size)
        return reader_bad(r, "the file is shorter than it was made");
    r->chunk_bytes = WAL_READ_CHUNK_BYTES;
    r->header = h;
    r->base_lsn = f.lsn;
    r->offset = f.size;
    r->chain = f.crc;
    r->generation = f.generation;
    r->durable_lsn = f.durable_lsn;
    return 0;
}

int wal_reader_open(struct wal_reader *r, const char *path)
{
    *r = (struct wal_reader){.path = path};
    int e = file_open(&r->file, path, FILE_READ);
    if (e < 0)
        return err_origin(e);
    e = reader_start(r);
    if (e < 0)
        wal_reader_close(r);
    return e;
}

void wal_reader_close(struct wal_reader *r)
{
    r->file = file_close(r->file);
    free(r->buf);
    r->buf = NULL;
    r->buf_cap = r->buf_len = 0;
}

int wal_reader_next(struct wal_reader *r, struct wal_frame *ret)
{
    const uint8_t *p;
    size_t len = 0;
    int e = reader_window(r, r->offset, WAL_FRAME_BYTES, &p, &len);
    if (e < 0)
        return e;
    struct wal_frame f;
    if (len < WAL_FRAME_BYTES || !wal_frame_parse(p, r->header.salt, &f))
        return WAL_READER_END;
    if (f.lsn != wal_reader_lsn(r) || f.generation < r->generation)
        return WAL_READER_END;
    if (f.payload.len > WAL_RECORD_BYTES_MAX || f.size > r->header.file_bytes - r->offset)
        return reader_bad(r, "a record is longer than its file");
    e = reader_window(r, r->offset, f.size, &p, &len);
    if (e < 0)
        return e;
    if (len < f.size || !wal_frame_verify(p, &f, r->chain))
        return WAL_READER_END;
    f.payload.data = p + WAL_FRAME_BYTES;
    r->frame_offset = r->offset;
    r->offset += f.size;
    r->chain = f.crc;
    r->generation = f.generation;
    if (f.durable_lsn > r->durable_lsn)
        r->durable_lsn = f.durable_lsn;
    *ret = f;
    return 0;
}

/* The rest of the block at the end is written as zeros with every write; anything else there is
 * part of a torn one. */
static int judge_block(struct wal_reader *r, uint64_t *ret_torn_bytes)
{
    size_t rest = (size_t)(wal_round_up(r->offset, WAL_BLOCK_BYTES) - r->offset);
    const uint8_t *p;
    size_t len;
    int e = reader_window(r, r->offset, rest, &p, &len);
    if (e < 0)
        return e;
    for (size_t i = rest < len ? rest : len; i > 0; i--) {
        if (!p[i - 1])
            continue;
        *ret_torn_bytes = i;
        break;
    }
    return 0;
}

/* Looks for frames in place in the n aligned places from p on, which is offset at of the file. */
static void judge_frames(struct wal_reader *r, const uint8_t *p, uint64_t at, size_t n,
                         uint64_t *ret_proof, uint64_t *ret_torn_bytes)
{
    for (size_t i = 0; i < n; i++, at += WAL_FRAME_ALIGN, p += WAL_FRAME_ALIGN) {
        struct wal_frame f;
        if (u64_be_get(p + 8) != r->base_lsn + at || !wal_frame_parse(p, r->header.salt, &f))
            continue;
        if (f.durable_lsn > wal_reader_lsn(r)) {
            *ret_proof = at;
            return;
        }
        if (f.generation >= r->generation && f.size <= r->header.file_bytes - at)
            *ret_torn_bytes = at + f.size - r->offset;
    }
}

int wal_reader_judge(struct wal_reader *r, uint64_t *ret_proof, uint64_t *ret_torn_bytes)
{
    uint64_t proof = 0, torn = 0;
    r->buf_len = 0; /* the file may have changed since */
    int e = judge_block(r, &torn);
    uint64_t at = r->offset;
    while (e == 0 && !proof && at + WAL_FRAME_BYTES <= r->header.file_bytes) {
        const uint8_t *p;
        size_t len;
        e = reader_window(r, at, WAL_READ_CHUNK_BYTES, &p, &len);
        if (e < 0 || len < WAL_FRAME_BYTES)
            break;
        size_t n = (len - WAL_FRAME_BYTES) / WAL_FRAME_ALIGN + 1;
        judge_frames(r, p, at, n, &proof, &torn);
        at += n * WAL_FRAME_ALIGN;
    }
    if (e < 0)
        return e;
    *ret_proof = proof;
    *ret_torn_bytes = torn;
    return 0;
}
