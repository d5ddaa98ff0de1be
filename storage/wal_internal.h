/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the raft log share. Only storage/wal*.c include this.
 *
 *   wal_format   bytes <-> frames and records
 *   wal_reader   one segment: frame after frame, and the judgement over its end
 *   wal_dir      the names in the directory
 *   wal_spare    files ready to become segments, and the thread that makes them
 *   wal          writing
 *   wal_open     recovery and repair
 *   wal_read     reading without owning
 */
#pragma once

#include <pthread.h>

#include "storage/file.h"
#include "storage/wal.h"
#include "storage/wal_format.h"

enum {
    /* Frames kept in memory before they are written; one larger frame may exceed it. */
    WAL_BUFFER_BYTES_MAX = 1 << 20,
    /* A new log starts small, so that its first file costs a millisecond or two; each next one is
     * that many times larger, up to segment_bytes. */
    WAL_SEGMENT_BYTES_FIRST = 1 << 20,
    WAL_SEGMENT_GROWTH = 4,
    WAL_READ_CHUNK_BYTES = 256 << 10,
    WAL_SPARES_MAX = 8,
    WAL_REMOVALS_MAX = 64,
};

#define WAL_CLEAN_NAME "CLEAN"

/* ---- wal_reader.c ---- */

enum {
    WAL_READER_END = 1, /* no valid frame at offset: the end, torn or damaged */
    WAL_READER_BAD = 2, /* no crash can have left this; problem says what it is */
};

struct wal_reader {
    struct file *file;
    const char *path; /* borrowed */
    struct wal_header header;
    uint64_t base_lsn;
    uint64_t offset;       /* of the next frame */
    uint64_t frame_offset; /* of the frame returned last */
    uint32_t chain;
    uint32_t generation;
    uint64_t durable_lsn; /* highest that a frame claimed */
    const char *problem;
    uint8_t *buf;
    size_t buf_cap;
    size_t buf_len;
    uint64_t buf_offset;
    size_t chunk_bytes; /* read at a time */
};

int wal_reader_open(struct wal_reader *r, const char *path); /* WAL_READER_BAD: no segment header */
void wal_reader_close(struct wal_reader *r);                 /* accepts a zeroed one */
/* The payload is borrowed until the next call. */
int wal_reader_next(struct wal_reader *r, struct wal_frame *ret);
static inline uint64_t wal_reader_lsn(const struct wal_reader *r)
{
    return r->base_lsn + r->offset;
}
/* After WAL_READER_END: looks at what lies behind. *ret_proof is the offset of a frame which
 * proves that there was more, durably, or 0; *ret_torn_bytes the length of what remains of an
 * unfinished write. */
int wal_reader_judge(struct wal_reader *r, uint64_t *ret_proof, uint64_t *ret_torn_bytes);

/* ---- wal_dir.c ---- */

struct wal_dir {
    uint64_t *seqs; /* ascending */
    size_t n_seqs;
    size_t first; /* seqs[first..] have no gap; those before are leftovers of a release */
    uint64_t *spares;
    size_t n_spares;
    char **garbage; /* unfinished files */
    size_t n_garbage;
    bool clean; /* there is a clean marker */
};

int wal_dir_list(const char *dir, struct wal_dir *ret);
void wal_dir_deinit(struct wal_dir *d);
char *wal_path_segment(const char *dir, uint64_t seq);
char *wal_path_spare(const char *dir, uint64_t id);
char *wal_path_name(const char *dir, const char *name);
/* The clean marker; false: none, or not readable as one. */
int wal_dir_clean(const char *dir, bool *ret_found, struct wal_clean *ret);

/* ---- wal_spare.c ---- */

struct wal_spare {
    uint64_t id;
    uint64_t bytes;
};

/* mutex guards everything below it; it is never held during I/O. */
struct wal_spares {
    char *dir;
    uint32_t kept_max;
    uint64_t segment_bytes; /* recycled files of another size are not kept */
    bool threaded;
    bool started;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct wal_room room; /* wal_set_room(); zeroed: none */
    struct wal_spare ready[WAL_SPARES_MAX];
    size_t n_ready;
    uint64_t id_next;
    uint64_t wanted_bytes;               /* the thread is to make one of this size; 0 = nothing */
    uint64_t removals[WAL_REMOVALS_MAX]; /* and to remove these */
    size_t n_removals;
    bool starved; /* the disk had no room for the last one: whatever is given back is kept */
    bool stopping;
};

/* Functions that return int: 0 or -errno. */
void wal_spares_init(struct wal_spares *s, const char *dir, const struct wal_options *options);
/* Takes over a spare file found at open, or removes it. */
int wal_spares_adopt(struct wal_spares *s, uint64_t id);
void wal_spares_deinit(struct wal_spares *s); /* stops the thread; accepts a zeroed one */
/* Asks for a file of that size to be made in the background, unless one is there. */
void wal_spares_want(struct wal_spares *s, uint64_t bytes);
/* A file of at least min_bytes, written once: a ready one, else a new one of new_bytes. Its name
 * is wal_path_spare(*ret_id). */
int wal_spares_take(struct wal_spares *s, uint64_t min_bytes, uint64_t new_bytes, uint64_t *ret_id,
                    struct file **ret);
/* The file at path is not needed any more: keeps it as a spare, or removes it. The caller syncs
 * the directory before the next take. */
int wal_spares_give(struct wal_spares *s, const char *path, uint64_t bytes);

/* ---- wal.c ---- */

struct wal_segment {
    uint64_t seq;
    uint64_t base_lsn;
    uint64_t last_index; /* last entry before this segment */
    uint64_t file_bytes;
};

struct wal {
    char *dir;
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t segment_bytes;
    bool unsafe_no_sync;
    bool keep_all;
    int failed; /* the first error; all later calls fail */

    struct wal_segment *segments; /* oldest first; the last is being written */
    size_t n_segments;
    size_t cap_segments;
    uint64_t largest_bytes; /* of all segments seen */
    struct file *file;      /* of the last segment */
    struct wal_spares spares;

    uint8_t *buf; /* block-aligned in memory and in the file */
    size_t buf_cap;
    size_t buf_len;
    uint64_t buf_offset; /* file offset of buf[0] */
    bool unwritten;      /* buf holds frames that are not in the file */
    bool unsynced;       /* the file holds frames that are not synced */
    bool want_sent;      /* the next segment is ordered */

    uint64_t durable_lsn;
    uint32_t chain;
    uint32_t generation;
    uint32_t salt;

    struct raft_hard_state hard_state;
    uint64_t first_index; /* since the last reset by a snapshot */
    uint64_t last_index;
    uint64_t last_term;
    uint64_t snapshot_index;
    uint64_t snapshot_term;
};

struct wal *wal_new(const struct wal_options *options);
struct wal *wal_free(struct wal *w);
static inline void wal_freep(struct wal **w)
{
    *w = wal_free(*w);
}
static inline uint64_t wal_lsn(const struct wal *w)
{
    return w->segments[w->n_segments - 1].base_lsn + w->buf_offset + w->buf_len;
}
void wal_segment_push(struct wal *w, const struct wal_segment *s);
/* Ends the current segment, if there is one, and starts the next with room for need bytes after
 * its header. */
int wal_segment_switch(struct wal *w, uint64_t need);
int wal_put_open(struct wal *w);
void wal_buffer_reserve(struct wal *w, size_t bytes);
