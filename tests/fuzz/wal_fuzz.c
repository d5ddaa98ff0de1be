/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raft logs whose sums are right and whose records say anything: what is left when damage meets its
 * checksum, or another version has written. On a disk in memory. The input: a byte of settings,
 * then frames { type 1, subtype 1, length varint, payload }, sealed and laid behind a log of ours.
 * By the settings the bytes go behind it as they are instead, which is a torn tail or damage.
 *
 * Properties:
 *   the log opens or is refused, never more than that; a refusal changes nothing
 *   what comes back is consecutive, and begins behind what the options say
 *   a log that opened takes the next entry, and has it and all others after a power loss
 *   a reader beside it comes to the same verdict
 */
#include "base/check.h"
#include "base/log.h"
#include "storage/file_fault.h"
#include "storage/wal_internal.h"
#include "tests/fuzz/fuzz.h"

enum { SEGMENT_BYTES = 8192, ENTRIES = 6, COMMIT = 4, TERM = 3, INPUT_BYTES_MAX = 4096 };

static const char dir[] = "wal";

struct settings {
    bool raw;
    bool clean;
    uint64_t applied;
};

static struct wal_options options_of(const struct settings *s)
{
    return (struct wal_options){.dir = dir,
                                .create = true,
                                .cluster_id = 1,
                                .member_id = 2,
                                .segment_bytes = SEGMENT_BYTES,
                                .applied_index = s->applied,
                                .salt = 7,
                                .single_threaded = true};
}

/* ---- a log of ours, and what comes behind it ---- */

struct place {
    uint64_t offset;
    struct wal_frame frame;
    uint32_t chain, salt;
};

static void make_log(struct place *ret)
{
    const struct raft_hard_state hs = {.term = TERM, .vote = 2, .commit = COMMIT};
    struct wal_options options = options_of(&(struct settings){0});
    struct raft_entry entries[ENTRIES] = {{0}};
    struct wal_recovery recovery;
    struct wal *w;

    for (uint64_t i = 0; i < ENTRIES; i++)
        entries[i] = (struct raft_entry){.term = TERM, .index = 1 + i};
    check(wal_open(&w, &options, &recovery) == 0 && recovery.created);
    wal_recovery_deinit(&recovery);
    check(wal_append(w, &hs, entries, ENTRIES) == 0 && wal_sync(w) == 0);
    *ret = (struct place){
        .offset = w->buf_offset + w->buf_len,
        .frame = {.generation = w->generation, .lsn = wal_lsn(w), .durable_lsn = w->durable_lsn},
        .chain = w->chain,
        .salt = w->salt};
    wal_abandon(w);
}

static bool take(struct bytes *in, size_t len, struct bytes *ret)
{
    if (in->len < len)
        return false;
    *ret = bytes_of(in->data, len);
    *in = bytes_of(in->data + len, in->len - len);
    return true;
}

static bool take_frame(struct bytes *in, struct wal_frame *f)
{
    struct bytes head;
    uint64_t len;

    if (!take(in, 2, &head))
        return false;
    f->type = (enum wal_type)head.data[0];
    f->subtype = head.data[1];
    return varint_get(in, &len) && len <= in->len && take(in, (size_t)len, &f->payload);
}

static void patch(const struct place *p, const char *path, const uint8_t *data, size_t len)
{
    uint64_t room = SEGMENT_BYTES - p->offset;

    fault_patch(path, p->offset, data, len < room ? len : (size_t)room);
}

static void append_frames(struct place *p, const char *path, struct bytes in)
{
    uint8_t bytes[SEGMENT_BYTES];

    while (take_frame(&in, &p->frame)) {
        size_t size = wal_frame_size(p->frame.payload.len);
        if (p->offset + size > SEGMENT_BYTES)
            return;
        memset(bytes, 0, size);
        if (p->frame.payload.len > 0)
            memcpy(bytes + WAL_FRAME_BYTES, p->frame.payload.data, p->frame.payload.len);
        wal_frame_seal(bytes, &p->frame, p->salt, &p->chain);
        patch(p, path, bytes, size);
        p->offset += size;
        p->frame.lsn += size;
    }
}

/* ---- the properties ---- */

static int visit(void *arg, const struct wal_record *record)
{
    return 0;
}

static int read_verdict(void)
{
    char *error = NULL;
    int r = wal_read(dir, visit, NULL, &error);

    check((r == WAL_E_CORRUPT) == (error != NULL));
    free(error);
    return r;
}

static void check_consecutive(const struct wal_recovery *rec, uint64_t applied)
{
    check(rec->base_index >= applied);
    for (size_t i = 0; i < rec->n_entries; i++)
        check(rec->entries[i].index == rec->base_index + 1 + i);
}

/* Another entry, a power loss, and all of it again. */
static void check_goes_on(struct wal *w, const struct wal_recovery *rec, const struct settings *s)
{
    struct wal_options options = options_of(s);
    struct raft_entry next = {.index = rec->base_index + rec->n_entries + 1,
                              .term = rec->hard_state.term};
    struct wal_recovery again;

    if (next.index == UINT64_MAX) { /* nobody gets that far */
        wal_abandon(w);
        return;
    }
    check(wal_append(w, NULL, &next, 1) == 0 && wal_sync(w) == 0);
    wal_abandon(w);
    fault_power_cycle();
    check(wal_open(&w, &options, &again) == 0);
    check(again.n_entries == rec->n_entries + 1 && again.base_index == rec->base_index);
    check(again.hard_state.term == rec->hard_state.term);
    check(again.hard_state.commit == rec->hard_state.commit);
    wal_recovery_deinit(&again);
    wal_close(w);
}

static void open_it(const struct settings *s)
{
    struct wal_options options = options_of(s);
    struct wal_recovery recovery;
    struct wal *w = NULL;
    uint64_t calls = fault_calls();
    int verdict = read_verdict();
    int r = wal_open(&w, &options, &recovery);

    check(r == 0 || r == WAL_E_CORRUPT);
    check(verdict == 0 || verdict == WAL_E_CORRUPT);
    if (r == 0) {
        check(verdict == 0);
        check_consecutive(&recovery, s->applied);
        check_goes_on(w, &recovery, s);
    } else {
        check(!w && recovery.error && fault_calls() == calls);
    }
    wal_recovery_deinit(&recovery);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct settings s;
    struct place place;

    if (size == 0 || size > INPUT_BYTES_MAX)
        return 0;
    log_level_min = LOG_FATAL;
    s = (struct settings){.raw = data[0] & 1, .applied = data[0] >> 1 & 7};
    fault_reset(1);
    make_log(&place);
    char *path = wal_path_segment(dir, 1);
    if (s.raw)
        patch(&place, path, data + 1, size - 1);
    else
        append_frames(&place, path, bytes_of(data + 1, size - 1));
    open_it(&s);
    free(path);
    fault_reset(0);
    return 0;
}
