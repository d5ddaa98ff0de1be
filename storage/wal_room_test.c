/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log on a disk that is full: who hears of it, who is asked, who waits, and that a log
 * which gets its old segments back needs no room. On a real file system, with the log's thread;
 * writes that would make a file grow fail on demand, and nothing is synced, which would be 25,000
 * times (the linker wraps file_write() and file_sync()).
 */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/mem.h"
#include "storage/test_dir.h"
#include "storage/wal_internal.h"

enum { ENTRY_BYTES = 4000, SEGMENT_BYTES = 4 << 20, PATIENCE_MS = 30000 };

int __real_file_write(struct file *f, uint64_t offset, const void *data, size_t len);
int __wrap_file_write(struct file *f, uint64_t offset, const void *data, size_t len);

static _Atomic bool full;

int __wrap_file_write(struct file *f, uint64_t offset, const void *data, size_t len)
{
    uint64_t size = 0;

    if (atomic_load(&full) && (file_size(f, &size) < 0 || offset + len > size))
        return -ENOSPC;
    return __real_file_write(f, offset, data, len);
}

int __wrap_file_sync(struct file *f);
int __wrap_file_sync(struct file *f)
{
    return 0;
}

struct fixture {
    char *dir;
    struct wal *wal;
    struct blob *data;
    uint64_t last;
    _Atomic unsigned fits;   /* so many times it does; then no more */
    _Atomic unsigned relief; /* the call that makes room; 0: none */
    _Atomic unsigned calls;  /* of lacks() */
};

static bool fits(void *arg, uint64_t bytes)
{
    struct fixture *f = arg;
    unsigned times = atomic_load(&f->fits);

    assert_true(bytes > 0 && bytes <= SEGMENT_BYTES);
    if (times > 0 && times < UINT_MAX)
        atomic_store(&f->fits, times - 1);
    return times > 0;
}

static void lacks(void *arg)
{
    struct fixture *f = arg;

    if (atomic_fetch_add(&f->calls, 1) + 1 == atomic_load(&f->relief))
        atomic_store(&full, false);
}

static int open_log(struct fixture *f, struct wal_recovery *rec)
{
    struct wal_options o = {.dir = f->dir,
                            .create = true,
                            .cluster_id = 1,
                            .member_id = 2,
                            .segment_bytes = SEGMENT_BYTES,
                            .salt = 3};

    int r = wal_open(&f->wal, &o, rec);
    if (r == 0)
        wal_set_room(f->wal, &(struct wal_room){fits, lacks, 0, f});
    return r;
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    struct wal_recovery rec;

    atomic_store(&full, false);
    f->dir = test_dir_new();
    f->data = blob_new(ENTRY_BYTES);
    memset(f->data->data, 'd', ENTRY_BYTES);
    atomic_store(&f->fits, UINT_MAX);
    assert_int_equal(open_log(f, &rec), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    atomic_store(&full, false);
    wal_abandon(f->wal);
    blob_unref(f->data);
    test_dir_remove(f->dir);
    free(f);
    return 0;
}

static int append_one(struct fixture *f)
{
    struct raft_entry e = {.index = f->last + 1, .term = 1, .data = f->data};
    struct raft_hard_state hs = {.term = 1, .vote = 1, .commit = e.index};
    int r = wal_append(f->wal, NULL, &e, 1);

    if (r == 0)
        r = wal_append(f->wal, &hs, NULL, 0);
    if (r == 0)
        r = wal_sync(f->wal);
    f->last += r == 0;
    return r;
}

static const struct wal_segment *newest(const struct fixture *f)
{
    return &f->wal->segments[f->wal->n_segments - 1];
}

static void append_segments(struct fixture *f, unsigned n)
{
    uint64_t end = newest(f)->seq + n;

    while (newest(f)->seq < end)
        assert_int_equal(append_one(f), 0);
}

/* Until more than a quarter of the segment is used, so that the next one is wanted. */
static void append_quarter(struct fixture *f)
{
    while (4 * f->wal->buf_offset <= newest(f)->file_bytes)
        assert_int_equal(append_one(f), 0);
    assert_int_equal(append_one(f), 0);
}

static bool has_spare(struct fixture *f, bool *ret_busy)
{
    struct wal_spares *s = &f->wal->spares;

    pthread_mutex_lock(&s->mutex);
    bool found = s->n_ready > 0;
    *ret_busy = s->wanted_bytes > 0;
    pthread_mutex_unlock(&s->mutex);
    return found;
}

/* When the thread has made what it was asked for. */
static bool wait_spare(struct fixture *f)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;
    bool busy, found = has_spare(f, &busy);

    while (busy && clock_mono_ms() < end_ms) {
        sched_yield();
        found = has_spare(f, &busy);
    }
    assert_false(busy);
    return found;
}

/* From here on the disk is full, and the log at the beginning of its last file. */
static void fill_disk(struct fixture *f)
{
    append_segments(f, 2);
    while (wait_spare(f))
        append_segments(f, 1);
    assert_int_equal(atomic_load(&f->calls), 0);
    atomic_store(&full, true);
}

static void wait_calls(struct fixture *f, unsigned calls)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    while (atomic_load(&f->calls) < calls && clock_mono_ms() < end_ms)
        sched_yield();
    assert_int_equal(atomic_load(&f->calls), calls);
}

/* What a release gives back is the next segment, of any size, and for as long as it takes. */
static void test_released_segments_need_no_room(void **state)
{
    struct fixture *f = *state;

    fill_disk(f);
    append_quarter(f);
    wait_calls(f, 1);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(wal_release(f->wal, f->last), 0);
        append_segments(f, 1);
    }
}

/* When there is room again the log goes back to segments of the right size. */
static void test_room_again(void **state)
{
    struct fixture *f = *state;

    fill_disk(f);
    append_quarter(f);
    wait_calls(f, 1);
    assert_int_equal(wal_release(f->wal, f->last), 0);
    append_segments(f, 2); /* both that were kept; the first one of all is small */
    atomic_store(&full, false);
    append_quarter(f);
    assert_true(wait_spare(f));
    append_segments(f, 1);
    assert_int_equal(newest(f)->file_bytes, SEGMENT_BYTES);
    assert_false(f->wal->spares.starved);
}

/* Without a release the write path fails in the end, and nothing that was synced is missing. */
static void test_fails_in_the_end(void **state)
{
    struct fixture *f = *state;
    struct wal_recovery rec;
    int r = 0;

    fill_disk(f);
    while (r == 0)
        r = append_one(f);
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(wal_sync(f->wal), -EIO);
    f->wal = wal_abandon(f->wal);
    r = open_log(f, &rec); /* there may be some room left in its last segment */
    assert_true(r == 0 || r == -ENOSPC);
    atomic_store(&full, false);
    if (r != 0) {
        wal_recovery_deinit(&rec);
        assert_int_equal(open_log(f, &rec), 0);
    }
    assert_true(rec.n_entries >= f->last);
    for (size_t i = 0; i < rec.n_entries; i++)
        assert_true(bytes_equal(blob_bytes(rec.entries[i].data), blob_bytes(f->data)));
    f->last = rec.entries[rec.n_entries - 1].index;
    wal_recovery_deinit(&rec);
    append_segments(f, 2);
}

/* What is made ahead takes no room that others need, and gives back what it has taken. */
static void refused_after(struct fixture *f, unsigned chunks)
{
    bool found;

    append_segments(f, 2);
    while (wait_spare(f))
        append_segments(f, 1);
    atomic_store(&f->fits, chunks);
    append_quarter(f);
    wait_calls(f, 1);
    assert_false(wait_spare(f));
    assert_int_equal(atomic_load(&f->fits), 0);
    _cleanup_(mem_freep) char *spare = wal_path_spare(f->dir, f->wal->spares.id_next - 1);
    _cleanup_(mem_freep) char *tmp = mem_printf("%s.tmp", spare);
    assert_int_equal(file_exists(spare, &found), 0);
    assert_false(found);
    assert_int_equal(file_exists(tmp, &found), 0);
    assert_false(found);
    append_segments(f, 1); /* a short one, on the spot */
    assert_true(newest(f)->file_bytes < SEGMENT_BYTES);
    atomic_store(&f->fits, UINT_MAX);
    append_quarter(f);
    assert_true(wait_spare(f));
}

static void test_nothing_ahead(void **state)
{
    refused_after(*state, 0);
}

static void test_nothing_more_ahead(void **state)
{
    refused_after(*state, SEGMENT_BYTES / (256 << 10) - 1);
}

/* The segment that is needed now waits for room; whoever hears of that may make some. */
static void test_waits(void **state)
{
    struct fixture *f = *state;

    wal_set_room(f->wal, &(struct wal_room){fits, lacks, PATIENCE_MS, f});
    fill_disk(f);
    append_quarter(f);
    wait_calls(f, 1); /* from the thread; the second call is from here */
    atomic_store(&f->relief, 2);
    append_segments(f, 1);
    assert_int_equal(atomic_load(&f->calls), 2);
}

/* But not for ever. */
static void test_waits_in_vain(void **state)
{
    struct fixture *f = *state;
    int r = 0;

    wal_set_room(f->wal, &(struct wal_room){fits, lacks, 100, f});
    fill_disk(f);
    append_quarter(f);
    wait_calls(f, 1);
    while (r == 0)
        r = append_one(f);
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(atomic_load(&f->calls), 2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_released_segments_need_no_room),
        T(test_room_again),
        T(test_fails_in_the_end),
        T(test_nothing_ahead),
        T(test_nothing_more_ahead),
        T(test_waits),
        T(test_waits_in_vain),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
