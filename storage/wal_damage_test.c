/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log when bits of it are not what they were: every bit of a small log flipped, its
 * files cut at every byte, sectors and whole files lost. The answer is exact for each place:
 * refused; or, for the last write before an unclean stop, a torn tail that is cut off.
 */
#include "storage/wal_test_log.h"

#include "base/log.h"

/* A log of three segments whose last write is entries 61 and 62 and a hard state. */
enum { LOG_ENTRIES = 62, LOG_BEFORE_LAST = 60, LOG_COMMIT = 59, LOG_COMMIT_BEFORE = 50 };

struct log_map {
    struct fault_image *image;
    char *paths[8];
    uint64_t ends[8]; /* where the frames of each segment end */
    size_t n;
    uint64_t last_write; /* offset in the last segment */
};

static void map_segment(struct log_map *m, const struct wal *w)
{
    if (m->n && m->n == w->n_segments)
        return;
    m->paths[m->n] = wal_path_segment(DIR, w->segments[m->n].seq);
    m->n++;
}

static void log_make(struct log_map *m, bool clean)
{
    *m = (struct log_map){0};
    struct wal *w = test_create();
    map_segment(m, w);
    for (uint64_t i = 1; i <= LOG_BEFORE_LAST; i++) {
        test_append(w, i, i, 1);
        if (i == LOG_BEFORE_LAST)
            test_commit(w, 1, LOG_COMMIT_BEFORE);
        if (i % 3 == 0 || i == LOG_BEFORE_LAST)
            assert_int_equal(wal_sync(w), 0);
        map_segment(m, w);
    }
    m->last_write = w->buf_offset + w->buf_len;
    test_append(w, LOG_BEFORE_LAST + 1, LOG_ENTRIES, 1);
    test_commit(w, 1, LOG_COMMIT);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(m->n, 3);
    assert_int_equal(w->n_segments, 3);
    for (size_t i = 0; i < 2; i++)
        m->ends[i] = w->segments[i + 1].base_lsn - w->segments[i].base_lsn;
    m->ends[2] = w->buf_offset + w->buf_len;
    assert_true(m->last_write > 1000 && m->ends[2] < SEGMENT - 600);
    if (clean)
        wal_close(w);
    else
        wal_abandon(w);
    m->image = fault_save();
}

static void log_free(struct log_map *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->paths[i]);
    fault_image_free(m->image);
}

enum outcome { REFUSED, WHOLE, WITHOUT_LAST };

/* Nothing but a prefix of the truth may come back, and at most the last write may be missing
 * from it. */
static enum outcome outcome_of(const struct wal_recovery *rec)
{
    assert_true(rec->n_entries >= LOG_BEFORE_LAST && rec->n_entries <= LOG_ENTRIES);
    for (uint64_t i = 1; i <= rec->n_entries; i++)
        assert_true(test_entry_is(&rec->entries[i - 1], i, 1, test_payload_len(i)));
    assert_int_equal(rec->hard_state.term, 1);
    assert_int_equal(rec->hard_state.vote, MEMBER);
    if (rec->hard_state.commit == LOG_COMMIT && rec->n_entries == LOG_ENTRIES)
        return WHOLE;
    assert_int_equal(rec->hard_state.commit, LOG_COMMIT_BEFORE);
    return WITHOUT_LAST;
}

/* The repaired log takes what comes next. */
static void outcome_continue(struct wal *w, uint64_t n)
{
    test_append(w, n + 1, n + 4, 2);
    assert_int_equal(wal_sync(w), 0);
    wal_abandon(w);
    fault_power_cycle();
    struct wal_recovery rec;
    w = test_open(n, &rec);
    test_assert_entries(&rec, n + 1, n + 4, 2);
    wal_recovery_deinit(&rec);
    wal_abandon(w);
}

static bool open_refused(void)
{
    struct wal_options o = test_options();
    struct wal_recovery rec;
    struct wal *w = NULL;
    int r = wal_open(&w, &o, &rec);
    wal_recovery_deinit(&rec);
    wal_abandon(w);
    return r == WAL_E_CORRUPT;
}

static enum outcome open_damaged(void)
{
    struct wal_options o = test_options();
    struct wal_recovery rec;
    struct wal *w = NULL;
    uint64_t calls = fault_calls();
    int r = wal_open(&w, &o, &rec);
    enum outcome outcome = REFUSED;
    if (r == WAL_E_CORRUPT) {
        assert_null(w);
        assert_non_null(rec.error);
        assert_int_equal(fault_calls(), calls); /* nothing was changed */
    } else {
        assert_int_equal(r, 0);
        outcome = outcome_of(&rec);
        if (outcome == WITHOUT_LAST)
            outcome_continue(w, rec.n_entries);
        else
            wal_abandon(w);
    }
    wal_recovery_deinit(&rec);
    return outcome;
}

/* What must happen when the byte at offset of segment i is damaged. */
static enum outcome outcome_due(const struct log_map *m, size_t i, uint64_t offset, bool clean)
{
    if (offset >= m->ends[i])
        return WHOLE;
    return i + 1 < m->n || clean || offset < m->last_write ? REFUSED : WITHOUT_LAST;
}

static void flip_every_bit(bool clean)
{
    int real_level = (int)log_level_min;
    log_level_min = LOG_FATAL;
    struct log_map m;
    log_make(&m, clean);
    size_t seen[3] = {0};
    for (size_t i = 0; i < m.n; i++) {
        /* Behind the end all is alike. */
        for (uint64_t bit = 0; bit < 8 * (m.ends[i] + 64) && bit < 8 * SEGMENT; bit++) {
            fault_restore(m.image);
            fault_flip(m.paths[i], bit);
            enum outcome got = open_damaged();
            if (got != outcome_due(&m, i, bit / 8, clean))
                fail_msg("segment %zu bit %zu of byte %zu: outcome %d", i, (size_t)bit % 8,
                         (size_t)bit / 8, got);
            seen[got]++;
        }
    }
    for (uint64_t bit = 0; clean && bit < 8 * WAL_CLEAN_BYTES; bit++) {
        fault_restore(m.image);
        fault_flip(DIR "/" WAL_CLEAN_NAME, bit);
        assert_int_equal(open_damaged(), WHOLE);
    }
    assert_true(seen[REFUSED] > 60000 && seen[WHOLE] > 100);
    assert_true(clean ? seen[WITHOUT_LAST] == 0 : seen[WITHOUT_LAST] > 1000);
    log_free(&m);
    log_level_min = (enum log_level)real_level;
}

static void test_flip_unclean(void **state)
{
    flip_every_bit(false);
}

static void test_flip_clean(void **state)
{
    flip_every_bit(true);
}

/* The files have their full size before they are used, so no crash makes one shorter. */
static void test_cut(void **state)
{
    for (int clean = 0; clean < 2; clean++) {
        struct log_map m;
        log_make(&m, clean);
        for (size_t i = 0; i < m.n; i++) {
            for (uint64_t size = 0; size < SEGMENT; size++) {
                fault_restore(m.image);
                fault_cut(m.paths[i], size);
                assert_int_equal(open_damaged(), REFUSED);
            }
        }
        log_free(&m);
    }
}

/* A write that ends at any byte is torn; a hole before the last write is damage. */
static void test_zeros(void **state)
{
    struct log_map m;
    log_make(&m, false);
    uint8_t zeros[SEGMENT] = {0};
    for (uint64_t from = m.last_write; from < m.ends[2]; from++) {
        fault_restore(m.image);
        fault_patch(m.paths[2], from, zeros, (size_t)(SEGMENT - from));
        /* The last frame ends with four zeros. */
        assert_int_equal(open_damaged(), from + 4 < m.ends[2] ? WITHOUT_LAST : WHOLE);
    }
    for (uint64_t from = 0; from + 8 < m.last_write; from++) {
        fault_restore(m.image);
        fault_patch(m.paths[2], from, zeros, (size_t)(m.last_write - from));
        assert_int_equal(open_damaged(), REFUSED);
    }
    log_free(&m);
}

/* One sector is lost: it reads as zeros, as noise, or as it was before an earlier write. */
static void test_sectors(void **state)
{
    for (int clean = 0; clean < 2; clean++) {
        struct log_map m;
        log_make(&m, clean);
        uint8_t noise[512], zeros[512] = {0};
        for (size_t i = 0; i < sizeof(noise); i++)
            noise[i] = (uint8_t)(i * 167 + 13);
        for (size_t i = 0; i < m.n; i++) {
            for (uint64_t at = 0; at < SEGMENT; at += 512) {
                for (int kind = 0; kind < 2; kind++) {
                    fault_restore(m.image);
                    fault_patch(m.paths[i], at, kind ? noise : zeros, 512);
                    enum outcome due = outcome_due(&m, i, at, clean), got = open_damaged();
                    assert_true(got == due || (due == WHOLE && got == WHOLE));
                }
            }
        }
        log_free(&m);
    }
}

/* A segment in the middle, or the first one that is needed, is gone. */
static void test_missing_segment(void **state)
{
    for (size_t i = 0; i < 2; i++) {
        struct log_map m;
        log_make(&m, false);
        assert_int_equal(file_remove(m.paths[i]), 0);
        assert_int_equal(open_damaged(), REFUSED);
        log_free(&m);
    }
}

/* Only the segments that are needed are read in full; a check of the whole log finds the rest. */
static int visit_nothing(void *arg, const struct wal_record *record)
{
    return 0;
}

static void test_old_damage(void **state)
{
    struct log_map m;
    log_make(&m, false);
    fault_flip(m.paths[0], 8 * 1000);
    struct wal_recovery rec;
    struct wal *w = test_open(LOG_COMMIT, &rec);
    assert_int_equal(rec.n_entries, LOG_ENTRIES - LOG_COMMIT);
    wal_recovery_deinit(&rec);
    w = wal_close(w);
    char *error = NULL;
    assert_int_equal(wal_read(DIR, visit_nothing, NULL, &error), WAL_E_CORRUPT);
    assert_non_null(strstr(error, "altered"));
    free(error);
    log_free(&m);
}

/* A client stores what looks like a frame of this very place, and the write that has it is torn. */
static void test_forged_frame(void **state)
{
    for (int knows_salt = 0; knows_salt < 2; knows_salt++) {
        struct wal *w = test_create();
        test_append(w, 1, 1, 1);
        assert_int_equal(wal_sync(w), 0);
        uint64_t at = w->buf_offset + w->buf_len;
        uint64_t place = wal_lsn(w) + WAL_FRAME_BYTES + WAL_ENTRY_HEAD_BYTES +
                         4; /* the next aligned place in the value */
        struct raft_entry e = {.index = 2, .term = 1, .data = blob_new(200)};
        memset(e.data->data, 0, 200);
        uint32_t chain = 0;
        struct wal_frame f = {
            .type = WAL_TYPE_OPEN, .generation = 9, .lsn = place, .durable_lsn = place};
        wal_frame_seal(e.data->data + 4, &f, knows_salt ? test_options().salt : 0, &chain);
        assert_int_equal(wal_append(w, NULL, &e, 1), 0);
        blob_unref(e.data);
        assert_int_equal(wal_sync(w), 0);
        wal_abandon(w);
        _cleanup_(mem_freep) char *path = wal_path_segment(DIR, 1);
        fault_flip(path, 8 * at);
        struct wal_options o = test_options();
        struct wal_recovery rec;
        w = NULL;
        assert_int_equal(wal_open(&w, &o, &rec), knows_salt ? WAL_E_CORRUPT : 0);
        assert_true(knows_salt || rec.repaired_bytes > 80);
        wal_recovery_deinit(&rec);
        wal_abandon(w);
    }
}

/* A release of which a power loss kept only the later renames. */
static void test_release_half_done(void **state)
{
    struct log_map m;
    log_make(&m, false);
    assert_int_equal(file_remove(m.paths[1]), 0);
    struct wal_recovery rec;
    struct wal_header h = {0};
    struct wal_reader r;
    assert_int_equal(wal_reader_open(&r, m.paths[2]), 0);
    h = r.header;
    wal_reader_close(&r);
    struct wal *w = test_open(h.last_index, &rec);
    test_assert_entries(&rec, h.last_index + 1, LOG_ENTRIES, 1);
    assert_int_equal(rec.first_index, h.last_index + 1);
    wal_recovery_deinit(&rec);
    assert_int_equal(fault_size(m.paths[0]), 0);
    wal_close(w);
    log_free(&m);
}

/* Whether the log takes a well-formed frame at its end that differs from a true one in one
 * respect. */
static bool takes_frame(int difference)
{
    struct wal *w = test_create();
    test_append(w, 1, 5, 1);
    struct wal_recovery rec;
    assert_int_equal(wal_sync(w), 0);
    uint64_t at = w->buf_offset + w->buf_len;
    struct wal_frame f = {.type = WAL_TYPE_ENTRY,
                          .lsn = wal_lsn(w),
                          .durable_lsn = w->durable_lsn,
                          .generation = w->generation,
                          .payload = bytes_of(NULL, WAL_ENTRY_HEAD_BYTES)};
    uint32_t chain = w->chain, salt = w->salt;
    wal_abandon(w);
    f.lsn += difference == 1 ? 8 : 0;
    f.generation -= difference == 2;
    chain ^= difference == 3;
    salt ^= difference == 4;
    uint8_t bytes[64] = {0};
    wal_entry_head_put(bytes + WAL_FRAME_BYTES, &(struct raft_entry){.index = 6, .term = 1});
    wal_frame_seal(bytes, &f, salt, &chain);
    _cleanup_(mem_freep) char *path = wal_path_segment(DIR, 1);
    fault_patch(path, at, bytes, wal_frame_size(WAL_ENTRY_HEAD_BYTES));
    w = test_open(0, &rec);
    assert_int_equal(w->generation, 2);
    size_t n = rec.n_entries;
    wal_recovery_deinit(&rec);
    wal_close(w);
    return n == 6;
}

/* What an earlier life of the file or a torn tail left behind, should it ever stand in the right
 * place. */
static void test_stale_frames(void **state)
{
    assert_true(takes_frame(0));
    for (int difference = 1; difference <= 4; difference++)
        assert_false(takes_frame(difference));
}

/* The last frame of a full segment is gone, and nothing in the state shows it. */
static void test_segment_end(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 1, 1);
    uint64_t last = 0;
    while (w->n_segments == 1) {
        last = w->buf_offset + w->buf_len;
        test_commit(w, 1, 1);
    }
    test_append(w, 2, 3, 1);
    assert_int_equal(wal_sync(w), 0);
    wal_abandon(w);
    _cleanup_(mem_freep) char *path = wal_path_segment(DIR, 1);
    fault_flip(path, 8 * (last - 20));
    assert_true(open_refused());
}

/* After an orderly stop and a new start: the first record of the new process is damaged, later
 * ones are not. */
static void test_damage_after_clean(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 5, 1);
    wal_close(w);
    assert_int_not_equal(fault_size(DIR "/" WAL_CLEAN_NAME), 0);
    struct wal_recovery rec;
    w = test_open(0, &rec);
    wal_recovery_deinit(&rec);
    assert_int_equal(fault_size(DIR "/" WAL_CLEAN_NAME), 0);
    uint64_t end = w->buf_offset + w->buf_len;
    test_append(w, 6, 7, 1);
    assert_int_equal(wal_sync(w), 0);
    test_append(w, 8, 8, 1);
    assert_int_equal(wal_sync(w), 0);
    wal_abandon(w);
    _cleanup_(mem_freep) char *path = wal_path_segment(DIR, 1);
    fault_flip(path, 8 * (end - 20));
    assert_true(open_refused());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flip_unclean),
        cmocka_unit_test(test_flip_clean),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_sectors),
        cmocka_unit_test(test_missing_segment),
        cmocka_unit_test(test_old_damage),
        cmocka_unit_test(test_forged_frame),
        cmocka_unit_test(test_release_half_done),
        cmocka_unit_test(test_stale_frames),
        cmocka_unit_test(test_segment_end),
        cmocka_unit_test(test_damage_after_clean),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fault_reset(0);
    return failed;
}
