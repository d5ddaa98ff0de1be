/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the raft log without owning it: for dumps and checks, also beside a running member.
 * Thread: any. Changes nothing.
 *
 * Invariants
 *  (I1) Every record is checked as wal_open() checks it, from the first segment to the end.
 *  (I2) A member that writes meanwhile is no damage: a frame that seems to be missing is looked
 *       at again once it is proven to have been synced, for by then it must be there.
 *  (I3) A member that releases a segment meanwhile may overwrite it under the reader: whatever
 *       seems wrong in a file counts only if the file still has its name. Else the answer is
 *       -ESTALE: begin anew.
 */
#include "storage/wal_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/mem.h"
#include "storage/wal_replay.h"

struct reading {
    const char *dir;
    int (*visit)(void *arg, const struct wal_record *record);
    void *arg;
    char **ret_error;
    struct wal_reader reader;
    struct wal_replay replay;
    bool started;
    uint64_t end_lsn; /* of the segment before */
    uint32_t end_chain;
};

static void reading_deinit(struct reading *g)
{
    wal_reader_close(&g->reader);
    wal_replay_deinit(&g->replay);
}

static int reading_corrupt(struct reading *g, const char *path, uint64_t offset,
                           const char *problem)
{
    bool exists;
    int r = file_exists(path, &exists);
    if (r < 0)
        return err_origin(r);
    if (!exists)
        return -ESTALE; /* (I3) */
    *g->ret_error = mem_printf("%s: damaged at offset %" PRIu64 ": %s", path, offset, problem);
    return WAL_E_CORRUPT;
}

/* Entries are borrowed from the reader's buffer, but a raft_entry owns a blob: one is made for
 * the visit. */
static int reading_visit(struct reading *g, const struct wal_frame *f)
{
    struct wal_record rec = {
        .file = g->reader.path, .offset = g->reader.frame_offset, .lsn = f->lsn};
    struct bytes data = BYTES_NULL;
    switch (f->type) {
    case WAL_TYPE_ENTRY:
        rec.type = WAL_RECORD_ENTRY;
        (void)wal_entry_get(f, &rec.entry, &data);
        break;
    case WAL_TYPE_HARD_STATE:
        rec.type = WAL_RECORD_HARD_STATE;
        (void)wal_hard_state_get(f->payload, &rec.hard_state);
        break;
    case WAL_TYPE_SNAPSHOT:
        rec.type = WAL_RECORD_SNAPSHOT;
        (void)wal_snapshot_get(f->payload, &rec.snapshot_index, &rec.snapshot_term);
        break;
    case WAL_TYPE_SEGMENT:
    case WAL_TYPE_OPEN: return 0;
    }
    rec.entry.data = data.len ? blob_copy(data) : NULL;
    int r = g->visit(g->arg, &rec);
    blob_unref(rec.entry.data);
    return r;
}

/* What the oldest segment's header carries over from released ones. */
static int reading_visit_header(struct reading *g)
{
    const struct wal_header *h = &g->reader.header;
    struct wal_record rec = {.file = g->reader.path,
                             .lsn = g->reader.base_lsn,
                             .hard_state = h->hard_state,
                             .snapshot_index = h->snapshot_index,
                             .snapshot_term = h->snapshot_term};
    int r = 0;
    rec.type = WAL_RECORD_SNAPSHOT;
    if (h->snapshot_index)
        r = g->visit(g->arg, &rec);
    rec.type = WAL_RECORD_HARD_STATE;
    if (r == 0 && h->hard_state.term)
        r = g->visit(g->arg, &rec);
    return r;
}

static int reading_frames(struct reading *g)
{
    struct wal_reader *r = &g->reader;
    for (;;) {
        struct wal_frame f;
        int e = wal_reader_next(r, &f);
        if (e == WAL_READER_END)
            return 0;
        if (e)
            return e < 0 ? e : reading_corrupt(g, r->path, r->offset, r->problem);
        const char *problem = wal_replay_frame(&g->replay, &f);
        if (problem)
            return reading_corrupt(g, r->path, r->frame_offset, problem);
        e = reading_visit(g, &f);
        if (e)
            return e;
    }
}

/* The end of the newest segment. */
static int reading_end(struct reading *g)
{
    struct wal_reader *r = &g->reader;
    for (;;) {
        uint64_t proof, torn_bytes, end = r->offset;
        int e = wal_reader_judge(r, &proof, &torn_bytes);
        if (e < 0 || !proof)
            return e;
        r->buf_len = 0;
        e = reading_frames(g); /* (I2) */
        if (e)
            return e;
        if (r->offset == end)
            return reading_corrupt(
                g, r->path, end,
                "a record is missing or altered, and a later one proves that it was synced");
    }
}

static const char *segment_problem(struct reading *g, uint64_t seq)
{
    const struct wal_reader *r = &g->reader;
    if (r->header.seq != seq)
        return "the header is that of another segment";
    if (!g->started)
        return NULL;
    if (r->base_lsn != g->end_lsn || r->header.chain != g->end_chain)
        return "the segment does not continue the one before it: a record is missing or altered "
               "there";
    return wal_replay_compare(&g->replay, &r->header);
}

static int reading_segment(struct reading *g, uint64_t seq, bool last)
{
    _cleanup_(mem_freep) char *path = wal_path_segment(g->dir, seq);
    struct wal_reader *r = &g->reader;
    wal_reader_close(r);
    int e = wal_reader_open(r, path);
    if (e == -ENOENT)
        return -ESTALE;
    if (e)
        return e < 0 ? e : reading_corrupt(g, path, 0, r->problem);
    const char *problem = segment_problem(g, seq);
    if (problem)
        return reading_corrupt(g, path, 0, problem);
    if (!g->started) {
        wal_replay_start(&g->replay, &r->header, UINT64_MAX, UINT64_MAX, 0);
        e = reading_visit_header(g);
    }
    g->started = true;
    if (e == 0)
        e = reading_frames(g);
    if (e == 0 && last)
        e = reading_end(g);
    g->end_lsn = wal_reader_lsn(r);
    g->end_chain = r->chain;
    return e;
}

static int reading_clean(struct reading *g)
{
    bool found;
    struct wal_clean clean;
    int e = wal_dir_clean(g->dir, &found, &clean);
    if (e < 0)
        return e;
    if (found && clean.lsn > g->end_lsn) {
        *g->ret_error = mem_printf(
            "%s: the log ends before its clean marker: a record is missing or altered", g->dir);
        return WAL_E_CORRUPT;
    }
    return 0;
}

int wal_read(const char *dir, int (*visit)(void *arg, const struct wal_record *record), void *arg,
             char **ret_error)
{
    struct wal_dir d = {0};
    int r = wal_dir_list(dir, &d);
    if (r < 0)
        return r == -ENOENT ? WAL_E_MISSING : r;
    _cleanup_(reading_deinit) struct reading g = {
        .dir = dir, .visit = visit, .arg = arg, .ret_error = ret_error};
    if (!d.n_seqs)
        r = WAL_E_MISSING;
    for (size_t i = d.first; i < d.n_seqs && r == 0; i++)
        r = reading_segment(&g, d.seqs[i], i + 1 == d.n_seqs);
    if (r == 0 && d.clean)
        r = reading_clean(&g);
    wal_dir_deinit(&d);
    return r;
}
