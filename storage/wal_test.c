/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log on a disk in memory: what it promises in calm weather, and reading it beside its
 * owner. wal_damage_test.c has the damage, wal_crash_test.c the crashes, wal_posix_test.c the
 * real disk.
 */
#include "storage/wal_test_log.h"

static void test_round_trip(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 10, 3);
    test_commit(w, 3, 9);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_first_index(w), 1);
    assert_true(wal_size_bytes(w) > 0);
    w = wal_close(w);

    struct wal_recovery rec;
    w = test_open(0, &rec);
    assert_false(rec.created);
    assert_true(rec.clean);
    assert_int_equal(rec.cluster_id, CLUSTER);
    assert_int_equal(rec.member_id, MEMBER);
    assert_int_equal(rec.repaired_bytes, 0);
    assert_int_equal(rec.hard_state.term, 3);
    assert_int_equal(rec.hard_state.vote, MEMBER);
    assert_int_equal(rec.hard_state.commit, 9);
    assert_int_equal(rec.snapshot_index, 0);
    assert_int_equal(rec.first_index, 1);
    test_assert_entries(&rec, 1, 10, 3);
    wal_recovery_deinit(&rec);

    test_append(w, 11, 12, 4);
    assert_int_equal(wal_sync(w), 0);
    w = wal_abandon(w);
    w = test_open(10, &rec);
    assert_false(rec.clean);
    assert_int_equal(rec.applied_term, 3);
    test_assert_entries(&rec, 11, 12, 4);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

static void test_empty(void **state)
{
    struct wal *w = test_create();
    assert_int_equal(wal_first_index(w), 0);
    assert_int_equal(wal_sync(w), 0);
    w = wal_abandon(w);
    struct wal_recovery rec;
    w = test_open(0, &rec);
    assert_int_equal(rec.n_entries, 0);
    assert_int_equal(rec.first_index, 0);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

/* The hot path: one write and one sync, and nothing if there is nothing to do. */
static void test_calls(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 3, 1);
    test_commit(w, 1, 1);
    uint64_t calls = fault_calls();
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(fault_calls() - calls, 2);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(fault_calls() - calls, 2);
    test_commit(w, 1, 2);
    assert_int_equal(wal_flush(w), 0);
    assert_int_equal(fault_calls() - calls, 3);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(fault_calls() - calls, 4);
    wal_close(w);
}

static void test_unsafe_no_sync(void **state)
{
    fault_reset(1);
    struct wal_options o = test_options();
    o.unsafe_no_sync = true;
    struct wal *w;
    struct wal_recovery rec;
    assert_int_equal(wal_open(&w, &o, &rec), 0);
    uint64_t syncs = fault_syncs();
    for (uint64_t i = 1; i <= 40; i++) {
        assert_int_equal(test_append_sized(w, i, 1, 100), 0);
        assert_int_equal(wal_sync(w), 0);
    }
    assert_true(w->n_segments == 2);
    assert_int_equal(fault_syncs() - syncs, 1); /* of the second segment's zeros */
    assert_int_equal(w->durable_lsn, 0);
    w = wal_abandon(w);
    assert_int_equal(wal_open(&w, &o, &rec), 0); /* flushed all the same */
    assert_int_equal(rec.n_entries, 40);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

static size_t count_files(bool spares)
{
    struct wal_dir d;
    assert_int_equal(wal_dir_list(DIR, &d), 0);
    size_t n = spares ? d.n_spares : d.n_seqs;
    wal_dir_deinit(&d);
    return n;
}

static void test_segments(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 300, 1);
    test_commit(w, 1, 300);
    assert_int_equal(wal_sync(w), 0);
    size_t n = count_files(false);
    assert_true(n > 8);
    assert_int_equal(wal_release(w, 200), 0);
    assert_true(count_files(false) < n);
    assert_int_equal(count_files(true), 2); /* spare_segments_max */
    uint64_t first = wal_first_index(w);
    assert_true(first > 150 && first <= 201);
    w = wal_abandon(w);

    struct wal_recovery rec;
    w = test_open(200, &rec);
    assert_int_equal(rec.first_index, first);
    assert_int_equal(rec.applied_term, 1);
    test_assert_entries(&rec, 201, 300, 1);
    wal_recovery_deinit(&rec);
    test_append(w, 301, 400, 2); /* into the recycled files and new ones */
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(count_files(true), 0);
    w = wal_close(w);
    w = test_open(300, &rec);
    test_assert_entries(&rec, 301, 400, 2);
    wal_recovery_deinit(&rec);
    assert_int_equal(wal_release(w, 400), 0);
    assert_int_equal(count_files(false), 1); /* the one that is being written stays */
    wal_close(w);
}

/* The log must reach from the database's end to its own. */
static void test_applied(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 200, 1);
    test_commit(w, 1, 200);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_release(w, 150), 0);
    uint64_t first = wal_first_index(w);
    w = wal_abandon(w);
    struct wal_options o = test_options();
    struct wal_recovery rec;
    o.applied_index = 201;
    assert_int_equal(wal_open(&w, &o, &rec), WAL_E_CORRUPT);
    assert_non_null(strstr(rec.error, "ends at index 200"));
    wal_recovery_deinit(&rec);
    o.applied_index = first - 2;
    assert_int_equal(wal_open(&w, &o, &rec), WAL_E_CORRUPT);
    assert_non_null(strstr(rec.error, "log begins at index"));
    wal_recovery_deinit(&rec);
    for (uint64_t applied = first - 1; applied <= 200; applied++) {
        w = test_open(applied, &rec);
        assert_int_equal(rec.applied_term, 1);
        test_assert_entries(&rec, applied + 1, 200, 1);
        wal_recovery_deinit(&rec);
        w = wal_abandon(w);
    }
}

static void test_overwrite(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 100, 1);
    test_commit(w, 1, 42);
    assert_int_equal(wal_sync(w), 0);
    test_append(w, 43, 60, 2);
    test_append(w, 50, 80, 3);
    assert_int_equal(wal_sync(w), 0);
    w = wal_abandon(w);
    struct wal_recovery rec;
    w = test_open(10, &rec);
    assert_int_equal(rec.n_entries, 70);
    for (uint64_t i = 11; i <= 80; i++)
        assert_true(test_entry_is(&rec.entries[i - 11], i,
                                  i <= 42  ? 1
                                  : i < 50 ? 2
                                           : 3,
                                  test_payload_len(i)));
    wal_recovery_deinit(&rec);
    test_append(w, 81, 90, 3);
    w = wal_close(w);
    w = test_open(42, &rec);
    assert_int_equal(rec.n_entries, 48);
    assert_int_equal(rec.applied_term, 1);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

static struct wal *open_kept(uint64_t applied, uint64_t entries, uint64_t bytes_max,
                             struct wal_recovery *ret)
{
    struct wal_options o = test_options();
    struct wal *w;
    o.applied_index = applied;
    o.kept_entries = entries;
    o.kept_bytes_max = bytes_max;
    assert_int_equal(wal_open(&w, &o, ret), 0);
    return w;
}

/* The last term that was written at an index of the log below. */
static uint64_t kept_term(uint64_t index)
{
    return index <= 42 ? 1 : index < 50 ? 2 : 3;
}

static void kept_check(uint64_t applied, uint64_t kept, uint64_t bytes_max, uint64_t first_held)
{
    struct wal_recovery rec;
    uint64_t bytes = 0, base = applied;
    struct wal *w = open_kept(applied, kept, bytes_max, &rec);
    while (base > first_held - 1 && applied - base < kept &&
           bytes + test_payload_len(base) <= bytes_max)
        bytes += test_payload_len(base--);
    assert_int_equal(rec.base_index, base);
    assert_int_equal(rec.base_term, base == 0 ? 0 : kept_term(base));
    assert_int_equal(rec.applied_term, kept_term(applied));
    assert_int_equal(rec.n_entries, 120 - base);
    for (uint64_t i = base + 1; i <= 120; i++)
        assert_true(test_entry_is(&rec.entries[i - base - 1], i, kept_term(i),
                                  test_payload_len(i)));
    wal_recovery_deinit(&rec);
    wal_abandon(w);
}

/* A leader that restarts has entries for peers that lag. */
static void test_kept(void **state)
{
    static const uint64_t kept[] = {0, 1, 7, 30, 1000}, bytes_max[] = {0, 100, 1000, 1 << 20};
    struct wal *w = test_create();
    test_append(w, 1, 100, 1);
    test_commit(w, 1, 42);
    test_append(w, 43, 60, 2);
    test_append(w, 50, 120, 3);
    test_commit(w, 3, 110);
    assert_int_equal(wal_sync(w), 0);
    for (uint64_t released = 0; released < 100; released += 45) {
        assert_int_equal(wal_release(w, released), 0);
        uint64_t first = wal_first_index(w);
        w = wal_abandon(w);
        for (uint64_t applied = first; applied <= 110; applied += 3)
            for (size_t k = 0; k < 5; k++)
                for (size_t b = 0; b < 4; b++)
                    kept_check(applied, kept[k], bytes_max[b], first);
        struct wal_recovery rec;
        w = open_kept(110, 0, 0, &rec);
        wal_recovery_deinit(&rec);
    }
    wal_close(w);
}

/* Not from before a snapshot that replaced the log. */
static void test_kept_snapshot(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 50, 1);
    test_commit(w, 1, 40);
    assert_int_equal(wal_append_snapshot(w, 500, 7), 0);
    test_commit(w, 7, 500);
    test_append(w, 501, 520, 7);
    test_commit(w, 7, 515);
    assert_int_equal(wal_sync(w), 0);
    w = wal_abandon(w);
    for (uint64_t applied = 40; applied <= 510; applied += applied < 45 ? 1 : 5) {
        struct wal_recovery rec;
        w = open_kept(applied, 1000, 1 << 20, &rec);
        assert_int_equal(rec.base_index, 500);
        assert_int_equal(rec.base_term, 7);
        assert_int_equal(rec.applied_term, applied >= 500 ? 7 : 0);
        test_assert_entries(&rec, 501, 520, 7);
        wal_recovery_deinit(&rec);
        w = wal_abandon(w);
    }
}

static void test_snapshot(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 50, 1);
    test_commit(w, 1, 40);
    assert_int_equal(wal_append_snapshot(w, 30, 1), 0); /* of what is committed: nothing changes */
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_first_index(w), 1);
    assert_int_equal(wal_append_snapshot(w, 500, 7), 0); /* from a leader: replaces the log */
    test_commit(w, 7, 500);
    test_append(w, 501, 520, 7);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_first_index(w), 501);
    w = wal_abandon(w);
    struct wal_recovery rec;
    w = test_open(40, &rec); /* not installed yet */
    assert_int_equal(rec.snapshot_index, 500);
    assert_int_equal(rec.snapshot_term, 7);
    assert_int_equal(rec.applied_term, 0);
    assert_int_equal(rec.hard_state.commit, 500);
    test_assert_entries(&rec, 501, 520, 7);
    wal_recovery_deinit(&rec);
    test_append(w, 521, 600, 7);
    w = wal_close(w);
    w = test_open(500, &rec);
    assert_int_equal(rec.applied_term, 7);
    assert_int_equal(rec.first_index, 501);
    test_assert_entries(&rec, 501, 600, 7);
    wal_recovery_deinit(&rec);
    assert_int_equal(wal_release(w, 500), 0);
    w = wal_close(w);
    w = test_open(510, &rec);
    assert_int_equal(rec.snapshot_index, 500); /* also without the segment that had the marker */
    test_assert_entries(&rec, 511, 600, 7);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

static void test_foreign_and_missing(void **state)
{
    fault_reset(1);
    struct wal_options o = test_options();
    struct wal_recovery rec;
    struct wal *w = NULL;
    o.create = false;
    assert_int_equal(wal_open(&w, &o, &rec), WAL_E_MISSING);
    o.create = true;
    o.applied_index = 5;
    assert_int_equal(wal_open(&w, &o, &rec), WAL_E_CORRUPT);
    wal_recovery_deinit(&rec);
    assert_null(w);
    w = wal_close(test_create());
    o = test_options();
    o.create = false;
    o.member_id++;
    assert_int_equal(wal_open(&w, &o, &rec), WAL_E_FOREIGN);
    assert_non_null(
        strstr(rec.error, "belongs to member 3e of cluster c1, not to member 3f of cluster c1"));
    wal_recovery_deinit(&rec);
    o.member_id = 0;
    o.cluster_id = 0;
    assert_int_equal(wal_open(&w, &o, &rec), 0);
    assert_int_equal(rec.member_id, MEMBER);
    wal_recovery_deinit(&rec);
    w = wal_close(w);
    _cleanup_(mem_freep) char *path = wal_path_segment(DIR, 1);
    assert_int_equal(file_remove(path), 0);
    assert_int_equal(wal_open(&w, &o, &rec),
                     WAL_E_CORRUPT); /* the clean marker says that there was one */
    wal_recovery_deinit(&rec);
}

static void test_large_entry(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 5, 1);
    assert_int_equal(test_append_sized(w, 6, 1, 3 << 20), 0);
    assert_int_equal(test_append_sized(w, 7, 1, 100000), 0);
    assert_int_equal(test_append_sized(w, 8, 1, 10), 0);
    assert_int_equal(wal_sync(w), 0);
    assert_true(w->buf_cap <= 2 * WAL_BUFFER_BYTES_MAX);
    w = wal_abandon(w);
    struct wal_recovery rec;
    w = test_open(5, &rec);
    assert_int_equal(rec.n_entries, 3);
    assert_true(test_entry_is(&rec.entries[0], 6, 1, 3 << 20));
    assert_true(test_entry_is(&rec.entries[1], 7, 1, 100000));
    wal_recovery_deinit(&rec);
    assert_int_equal(test_append_sized(w, 9, 1, WAL_RECORD_BYTES_MAX), -EMSGSIZE);
    assert_int_equal(wal_sync(w), -EIO);
    wal_abandon(w);
}

/* What waits in memory is bounded, however much is appended between two syncs. */
static void test_buffer_bound(void **state)
{
    fault_reset(1);
    struct wal_options o = test_options();
    o.segment_bytes = 6 << 20;
    struct wal *w;
    struct wal_recovery rec;
    assert_int_equal(wal_open(&w, &o, &rec), 0);
    for (uint64_t i = 1; i <= 50; i++)
        assert_int_equal(test_append_sized(w, i, 1, 100000), 0);
    assert_true(w->buf_cap <= 2 * WAL_BUFFER_BYTES_MAX);
    assert_int_equal(wal_sync(w), 0);
    w = wal_abandon(w);
    w = test_open(0, &rec);
    assert_int_equal(rec.n_entries, 50);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

static void test_failure_is_final(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 3, 1);
    fault_arm(2, FAULT_ERROR);
    assert_int_equal(wal_sync(w), -EIO);
    assert_true(fault_met());
    assert_int_equal(wal_sync(w), -EIO);
    assert_int_equal(test_append_sized(w, 4, 1, 10), -EIO);
    assert_int_equal(wal_flush(w), -EIO);
    assert_int_equal(wal_append_snapshot(w, 1, 1), -EIO);
    assert_int_equal(wal_release(w, 1), -EIO);
    wal_close(w);
    struct wal_recovery rec;
    w = test_open(0, &rec);
    assert_false(rec.clean);
    wal_recovery_deinit(&rec);
    wal_close(w);
}

/* ---- reading without owning ---- */

struct seen {
    uint64_t entries;
    uint64_t last_index;
    uint64_t commit;
    uint64_t snapshot;
    struct wal *writer; /* appends an entry at each visit */
    uint64_t append_left;
    uint64_t release_at;
};

static int visit_seen(void *arg, const struct wal_record *record)
{
    struct seen *s = arg;
    switch (record->type) {
    case WAL_RECORD_ENTRY:
        assert_true(test_entry_is(&record->entry, record->entry.index, record->entry.term,
                                  test_payload_len(record->entry.index)));
        s->entries++;
        s->last_index = record->entry.index;
        break;
    case WAL_RECORD_HARD_STATE: s->commit = record->hard_state.commit; break;
    case WAL_RECORD_SNAPSHOT: s->snapshot = record->snapshot_index; break;
    }
    if (s->append_left) {
        s->append_left--;
        test_append(s->writer, s->writer->last_index + 1, s->writer->last_index + 1, 1);
        assert_int_equal(wal_sync(s->writer), 0);
    }
    if (s->writer && s->entries == s->release_at)
        assert_int_equal(wal_release(s->writer, s->writer->last_index), 0);
    return s->entries == 1000 ? 77 : 0;
}

/* Also when the segment that had them is gone. */
static void test_read_carried_over(void **state)
{
    struct wal *w = test_create();
    assert_int_equal(wal_append_snapshot(w, 10, 1), 0);
    test_append(w, 11, 11, 1);
    test_commit(w, 1, 11);
    test_append(w, 12, 60, 1);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_release(w, 11 + 30), 0);
    assert_true(wal_first_index(w) > 12);
    wal_close(w);
    struct seen s = {0};
    char *error = NULL;
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), 0);
    assert_int_equal(s.commit, 11);
    assert_int_equal(s.snapshot, 10);
    assert_int_equal(s.last_index, 60);
}

static void test_read(void **state)
{
    fault_reset(1);
    struct seen s = {0};
    char *error = NULL;
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), WAL_E_MISSING);
    struct wal *w = test_create();
    test_append(w, 1, 60, 1);
    test_append(w, 50, 70, 2);
    test_commit(w, 2, 65);
    assert_int_equal(wal_append_snapshot(w, 33, 1), 0);
    assert_int_equal(wal_sync(w), 0);
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), 0);
    assert_int_equal(s.entries, 81);
    assert_int_equal(s.last_index, 70);
    assert_int_equal(s.commit, 65);
    assert_int_equal(s.snapshot, 33);
    w = wal_close(w);
    s = (struct seen){.entries = 990};
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), 77);
    assert_null(error);
}

/* Beside a member that appends, and beside one that releases what is being read. */
static void test_read_beside_writer(void **state)
{
    struct wal *w = test_create();
    test_append(w, 1, 20, 1);
    assert_int_equal(wal_sync(w), 0);
    struct seen s = {.writer = w, .append_left = 15};
    char *error = NULL;
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), 0);
    assert_true(s.last_index >= 20);
    test_append(w, 36, 200, 1);
    test_commit(w, 1, 200);
    assert_int_equal(wal_sync(w), 0);
    s = (struct seen){.writer = w, .release_at = 40, .append_left = 0};
    assert_int_equal(wal_read(DIR, visit_seen, &s, &error), -ESTALE);
    assert_null(error);
    wal_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_unsafe_no_sync),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_applied),
        cmocka_unit_test(test_overwrite),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_kept_snapshot),
        cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_foreign_and_missing),
        cmocka_unit_test(test_large_entry),
        cmocka_unit_test(test_buffer_bound),
        cmocka_unit_test(test_failure_is_final),
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_read_carried_over),
        cmocka_unit_test(test_read_beside_writer),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fault_reset(0);
    return failed;
}
