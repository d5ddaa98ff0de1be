/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening the raft log: reads what is there, decides whether it is whole, and puts it in order
 * for writing.
 *
 *   list -> headers -> replay -> judge the end -> compare with the database
 *        -> (only now is anything changed) rewrite the tail, sync
 *
 * Thread: the composition root, before the owner runs.
 *
 * Invariants
 *  (I1) Nothing on disk is changed before everything has been checked. A log that is refused is
 *       left as it was.
 *  (I2) Only what is needed is read in full: from the newest segment whose header says that all
 *       entries before it are applied. Of older ones the header is read. Damage in them can't
 *       reach the state, since the database holds what they said; `log verify` finds it.
 *  (I3) After an unclean stop everything behind the highest durable_lsn in the log is written
 *       again and synced before wal_open() returns: a sync that failed may have left pages that
 *       can be read here but are not on the disk. What lies before was synced successfully.
 *  (I4) Each open writes a record with a new generation, so that remains of a torn tail can
 *       never be taken for the log (wal_reader.c I2).
 *  (I5) The clean marker says where the log ends and is gone, durably, before anything is
 *       written behind that end. With it, a log that is one byte shorter is damage, and nothing
 *       behind the end needs to be read.
 */
#include "storage/wal_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/wal_replay.h"

struct opening_segment {
    char *path;
    struct wal_header header;
    uint64_t base_lsn;
    uint32_t generation;
};

struct opening {
    const struct wal_options *options;
    struct wal_recovery *recovery;
    struct wal_dir dir;
    struct opening_segment *segments;
    size_t n_segments;
    struct wal_replay replay;
    struct wal_reader reader; /* the last segment, read to its end */
    bool clean;
    uint64_t torn_bytes;
};

static void opening_deinit(struct opening *o)
{
    for (size_t i = 0; i < o->n_segments; i++)
        free(o->segments[i].path);
    free(o->segments);
    wal_reader_close(&o->reader);
    wal_replay_deinit(&o->replay);
    wal_dir_deinit(&o->dir);
}

static int opening_corrupt(struct opening *o, const char *path, uint64_t offset,
                           const char *problem)
{
    o->recovery->error = mem_printf("%s: damaged at offset %" PRIu64 ": %s", path, offset, problem);
    return WAL_E_CORRUPT;
}

static const char *header_problem(const struct opening_segment *s, uint64_t seq,
                                  const struct opening_segment *before)
{
    const struct wal_header *h = &s->header;
    if (h->seq != seq)
        return "the header is that of another segment";
    if (!before)
        return NULL;
    const struct wal_header *b = &before->header;
    if (h->salt != b->salt || h->cluster_id != b->cluster_id || h->member_id != b->member_id)
        return "the header is that of another log";
    if (s->base_lsn <= before->base_lsn || s->base_lsn > before->base_lsn + b->file_bytes ||
        s->generation < before->generation)
        return "the header does not continue the segment before it";
    return NULL;
}

static int opening_header(struct opening *o, uint64_t seq)
{
    struct opening_segment *s = &o->segments[o->n_segments++];
    *s = (struct opening_segment){.path = wal_path_segment(o->options->dir, seq)};
    struct wal_reader r;
    int e = wal_reader_open(&r, s->path);
    if (e < 0)
        return e;
    s->header = r.header;
    s->base_lsn = r.base_lsn;
    s->generation = r.generation;
    wal_reader_close(&r);
    const char *problem = e ? r.problem : header_problem(s, seq, o->n_segments > 1 ? s - 1 : NULL);
    return problem ? opening_corrupt(o, s->path, 0, problem) : 0;
}

static int opening_headers(struct opening *o)
{
    size_t n = o->dir.n_seqs - o->dir.first;
    o->segments = mem_alloc(n * sizeof(*o->segments));
    for (size_t i = 0; i < n; i++) {
        int r = opening_header(o, o->dir.seqs[o->dir.first + i]);
        if (r)
            return r;
    }
    const struct wal_header *h = &o->segments[n - 1].header;
    const struct wal_options *want = o->options;
    o->recovery->cluster_id = h->cluster_id;
    o->recovery->member_id = h->member_id;
    if ((!want->cluster_id || want->cluster_id == h->cluster_id) &&
        (!want->member_id || want->member_id == h->member_id))
        return 0;
    o->recovery->error =
        mem_printf("%s: the log belongs to member %" PRIx64 " of cluster %" PRIx64
                   ", not to member %" PRIx64 " of cluster %" PRIx64,
                   want->dir, h->member_id, h->cluster_id, want->member_id, want->cluster_id);
    return WAL_E_FOREIGN;
}

/* Reads all frames of the open reader's segment into the replay. */
static int opening_replay_frames(struct opening *o)
{
    struct wal_reader *r = &o->reader;
    for (;;) {
        struct wal_frame f;
        int e = wal_reader_next(r, &f);
        if (e == WAL_READER_BAD)
            return opening_corrupt(o, r->path, r->offset, r->problem);
        if (e)
            return e < 0 ? e : 0;
        const char *problem = wal_replay_frame(&o->replay, &f);
        if (problem)
            return opening_corrupt(o, r->path, r->frame_offset, problem);
    }
}

static int opening_replay_segment(struct opening *o, size_t i)
{
    struct opening_segment *s = &o->segments[i];
    struct wal_reader *r = &o->reader;
    wal_reader_close(r);
    int e = wal_reader_open(r, s->path);
    if (e)
        return e < 0 ? e : opening_corrupt(o, s->path, 0, r->problem);
    e = opening_replay_frames(o);
    if (e || i + 1 == o->n_segments)
        return e;
    struct opening_segment *next = s + 1;
    if (wal_reader_lsn(r) != next->base_lsn || r->chain != next->header.chain ||
        r->generation > next->generation)
        return opening_corrupt(o, s->path, r->offset,
                               "a record is missing or altered, and there is a later segment");
    const char *problem = wal_replay_compare(&o->replay, &next->header);
    return problem ? opening_corrupt(o, next->path, 0, problem) : 0;
}

/* (I2). What is wanted of the applied entries may be gone. */
static int opening_replay(struct opening *o)
{
    const struct wal_options *options = o->options;
    uint64_t applied = options->applied_index, above = 0;
    size_t i = o->n_segments - 1;
    if (applied > options->kept_entries)
        above = applied - options->kept_entries;
    while (i > 0 && o->segments[i].header.last_index > above)
        i--;
    const struct wal_header *h = &o->segments[i].header;
    if (h->last_index > above)
        above = h->last_index < applied ? h->last_index : applied;
    wal_replay_start(&o->replay, h, above, applied, options->kept_bytes_max);
    for (; i < o->n_segments; i++) {
        int r = opening_replay_segment(o, i);
        if (r)
            return r;
    }
    wal_replay_end(&o->replay);
    return 0;
}

/* Torn or damaged: see wal_reader.c. */
static int opening_judge(struct opening *o)
{
    struct wal_reader *r = &o->reader;
    bool found;
    struct wal_clean clean;
    int e = wal_dir_clean(o->options->dir, &found, &clean);
    if (e < 0)
        return e;
    if (o->dir.clean && !found)
        log_warn("the raft log's clean marker is not readable", LOG_STR("dir", o->options->dir));
    if (found && (clean.lsn > wal_reader_lsn(r) ||
                  (clean.lsn == wal_reader_lsn(r) && clean.chain != r->chain)))
        return opening_corrupt(o, r->path, r->offset,
                               "a record is missing or altered, and the last stop was clean");
    o->clean = found && clean.lsn == wal_reader_lsn(r);
    if (o->clean)
        return 0;
    uint64_t proof;
    e = wal_reader_judge(r, &proof, &o->torn_bytes);
    if (e < 0)
        return e;
    if (proof)
        return opening_corrupt(
            o, r->path, r->offset,
            "a record is missing or altered, and a later one proves that it was synced");
    return 0;
}

static int opening_compare(struct opening *o)
{
    const struct wal_replay *p = &o->replay;
    uint64_t applied = o->options->applied_index;
    if (p->last_index < applied) {
        o->recovery->error = mem_printf("%s: the log ends at index %" PRIu64
                                        ", but the database has applied %" PRIu64,
                                        o->options->dir, p->last_index, applied);
        return WAL_E_CORRUPT;
    }
    /* A snapshot that is not in the database yet, or the entry behind the applied one. */
    uint64_t first = p->n_entries ? p->entries[0].index : p->last_index + 1;
    if (p->first_index > applied + 1 ? first != p->first_index : first > applied + 1) {
        o->recovery->error = mem_printf("%s: the log begins at index %" PRIu64
                                        ", but the database has applied only %" PRIu64,
                                        o->options->dir, first, applied);
        return WAL_E_CORRUPT;
    }
    return 0;
}

/* 0: the log does not hold it any more. */
static uint64_t applied_term(const struct opening *o)
{
    const struct wal_replay *p = &o->replay;
    uint64_t applied = o->options->applied_index;
    if (applied == p->keep_above)
        return p->keep_above_term;
    for (size_t i = 0; i < p->n_entries && p->entries[i].index <= applied; i++)
        if (p->entries[i].index == applied)
            return p->entries[i].term;
    return 0;
}

static void opening_report(struct opening *o, struct wal *w)
{
    struct wal_recovery *rec = o->recovery;
    struct wal_replay *p = &o->replay;
    rec->clean = o->clean;
    rec->repaired_bytes = o->torn_bytes;
    rec->hard_state = p->hard_state;
    rec->snapshot_index = p->snapshot_index;
    rec->snapshot_term = p->snapshot_term;
    rec->first_index = wal_first_index(w);
    rec->entries = p->entries;
    rec->n_entries = p->n_entries;
    rec->base_index = p->keep_above;
    rec->base_term = p->keep_above_term;
    if (p->first_index > p->keep_above + 1) {
        rec->base_index = p->snapshot_index;
        rec->base_term = p->snapshot_term;
    }
    rec->applied_term = applied_term(o);
    p->entries = NULL;
    p->n_entries = p->cap_entries = 0;
}

static struct wal *opening_writer(struct opening *o)
{
    struct wal *w = wal_new(o->options);
    const struct wal_replay *p = &o->replay;
    w->cluster_id = o->recovery->cluster_id;
    w->member_id = o->recovery->member_id;
    w->salt = o->reader.header.salt;
    w->chain = o->reader.chain;
    w->generation = o->reader.generation + 1;
    w->hard_state = p->hard_state;
    w->first_index = p->first_index;
    w->last_index = p->last_index;
    w->last_term = p->last_term;
    w->snapshot_index = p->snapshot_index;
    w->snapshot_term = p->snapshot_term;
    for (size_t i = 0; i < o->n_segments; i++) {
        const struct opening_segment *s = &o->segments[i];
        wal_segment_push(w, &(struct wal_segment){.seq = s->header.seq,
                                                  .base_lsn = s->base_lsn,
                                                  .last_index = s->header.last_index,
                                                  .file_bytes = s->header.file_bytes});
    }
    return w;
}

/* Puts everything that may not be on the disk into the writer's buffer, as if it had just been
 * appended (I3). */
static int opening_load_tail(struct opening *o, struct wal *w)
{
    const struct wal_reader *r = &o->reader;
    uint64_t durable = o->clean ? wal_reader_lsn(r) : r->durable_lsn;
    if (durable < r->base_lsn)
        durable = r->base_lsn;
    check(durable <= wal_reader_lsn(r));
    w->durable_lsn = durable;
    w->buf_offset = (durable - r->base_lsn) / WAL_BLOCK_BYTES * WAL_BLOCK_BYTES;
    size_t want = (size_t)(r->offset - w->buf_offset);
    wal_buffer_reserve(w, wal_round_up(want + 1, WAL_BLOCK_BYTES));
    int e = file_open(&w->file, r->path, FILE_READ | FILE_WRITE);
    if (e == 0)
        e = file_read(w->file, w->buf_offset, w->buf, want, &w->buf_len);
    if (e == 0 && w->buf_len != want)
        e = -EIO;
    w->unwritten = want > 0;
    return e < 0 ? err_origin(e) : 0;
}

/* Removes what no part of the log is: unfinished files, segments whose release a crash
 * interrupted. */
static int opening_tidy(struct opening *o, struct wal *w)
{
    int r = 0;
    for (size_t i = 0; i < o->dir.n_garbage && r == 0; i++) {
        _cleanup_(mem_freep) char *path = wal_path_name(o->options->dir, o->dir.garbage[i]);
        r = file_remove(path);
    }
    for (size_t i = 0; i < o->dir.first && r == 0; i++) {
        _cleanup_(mem_freep) char *path = wal_path_segment(o->options->dir, o->dir.seqs[i]);
        r = file_remove(path);
    }
    for (size_t i = 0; i < o->dir.n_spares && r == 0; i++)
        r = wal_spares_adopt(&w->spares, o->dir.spares[i]);
    return r < 0 ? err_origin(r) : 0;
}

/* Removes the clean marker (I5) and makes all names durable that can be seen: the directory's
 * last sync may have failed. */
static int opening_names(struct opening *o)
{
    int r = 0;
    if (o->dir.clean) {
        _cleanup_(mem_freep) char *path = wal_path_name(o->options->dir, WAL_CLEAN_NAME);
        r = file_remove(path);
    }
    if (r == 0 && !o->options->unsafe_no_sync)
        r = dir_sync(o->options->dir);
    return r < 0 ? err_origin(r) : 0;
}

static int opening_existing(struct opening *o, struct wal **ret)
{
    int r = opening_headers(o);
    if (!r)
        r = opening_replay(o);
    if (!r)
        r = opening_judge(o);
    if (!r)
        r = opening_compare(o);
    if (r)
        return r;
    _cleanup_(wal_freep) struct wal *w = opening_writer(o);
    r = opening_names(o);
    if (!r)
        r = opening_tidy(o, w);
    if (!r)
        r = opening_load_tail(o, w);
    if (!r)
        r = wal_put_open(w);
    if (!r)
        r = wal_sync(w);
    if (r)
        return r;
    opening_report(o, w);
    *ret = w;
    w = NULL;
    return 0;
}

static int opening_create(struct opening *o, struct wal **ret)
{
    const struct wal_options *options = o->options;
    if (!options->create && !o->dir.clean)
        return WAL_E_MISSING;
    if (options->applied_index || o->dir.clean) {
        o->recovery->error =
            mem_printf("%s: there are no segments, but the %s says that there was a log",
                       options->dir, o->dir.clean ? "clean marker" : "database");
        return WAL_E_CORRUPT;
    }
    int r = dir_make(options->dir);
    if (r < 0)
        return err_origin(r);
    _cleanup_(wal_freep) struct wal *w = wal_new(options);
    w->generation = 1;
    r = opening_tidy(o, w);
    if (r == 0)
        r = wal_segment_switch(w, 0);
    if (r < 0)
        return r;
    o->recovery->created = true;
    o->recovery->clean = true;
    o->recovery->cluster_id = options->cluster_id;
    o->recovery->member_id = options->member_id;
    *ret = w;
    w = NULL;
    return 0;
}

int wal_open(struct wal **ret, const struct wal_options *options, struct wal_recovery *recovery)
{
    *recovery = (struct wal_recovery){0};
    _cleanup_(opening_deinit) struct opening o = {.options = options, .recovery = recovery};
    int r = wal_dir_list(options->dir, &o.dir);
    if (r < 0 && r != -ENOENT)
        return r;
    return o.dir.n_seqs ? opening_existing(&o, ret) : opening_create(&o, ret);
}

void wal_recovery_deinit(struct wal_recovery *recovery)
{
    for (size_t i = 0; i < recovery->n_entries; i++)
        blob_unref(recovery->entries[i].data);
    free(recovery->entries);
    free(recovery->error);
    *recovery = (struct wal_recovery){0};
}
