/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the raft log costs on this disk: append and sync at several batch sizes, and opening.
 *
 *   wal_bench DIR        DIR is made, and left empty
 *
 * Thread: main, beside the log's own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "storage/file.h"
#include "storage/wal.h"

enum { ENTRY_BYTES = 300, BATCH_MAX = 512, ROUNDS_MAX = 8000, OPEN_ENTRIES = 1000000 };

static const char *dir;
static struct blob *data;
static struct raft_entry entries[BATCH_MAX];
static double took_us[ROUNDS_MAX];

static double now_us(void)
{
    return (double)clock_mono_ns() / 1e3;
}

static int remove_one(void *arg, const char *name)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", dir, name);
    return file_remove(path);
}

static struct wal *bench_open(uint64_t applied, const char *what)
{
    struct wal_options o = {.dir = dir, .create = true, .salt = 1, .applied_index = applied};
    struct wal_recovery rec;
    struct wal *w = NULL;
    double start = now_us();
    check(wal_open(&w, &o, &rec) == 0);
    printf("open %-8s applied %7llu: %7.2f ms, %zu entries\n", what, (unsigned long long)applied,
           (now_us() - start) / 1e3, rec.n_entries);
    wal_recovery_deinit(&rec);
    return w;
}

static void append(struct wal *w, uint64_t *index, size_t n)
{
    struct raft_hard_state hs = {.term = 1, .vote = 1, .commit = *index};
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct raft_entry){.term = 1, .index = ++*index, .data = data};
    check(wal_append(w, &hs, entries, n) == 0);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void bench_batch(size_t n, size_t rounds)
{
    check(n <= BATCH_MAX && rounds <= ROUNDS_MAX);
    struct wal *w = bench_open(0, "new");
    uint64_t index = 0, append_ns = 0;
    uint64_t cpu_ns = clock_thread_cpu_ns();
    for (size_t i = 0; i < rounds; i++) {
        double start = now_us();
        uint64_t before_ns = clock_thread_cpu_ns();
        append(w, &index, n);
        append_ns += clock_thread_cpu_ns() - before_ns;
        check(wal_sync(w) == 0);
        took_us[i] = now_us() - start;
    }
    cpu_ns = clock_thread_cpu_ns() - cpu_ns;
    qsort(took_us, rounds, sizeof(*took_us), compare);
    printf("batch %3zu: p50 %.0f us, p99 %.0f us, max %.0f us; CPU %.1f us, of it append %.3f us "
           "per entry\n",
           n, took_us[rounds / 2], took_us[rounds * 99 / 100], took_us[rounds - 1],
           (double)cpu_ns / 1e3 / (double)rounds, (double)append_ns / 1e3 / (double)index);
    wal_close(w);
    check(dir_list(dir, remove_one, NULL) == 0);
}

static void bench_opens(void)
{
    struct wal *w = bench_open(0, "new");
    for (uint64_t index = 0; index < OPEN_ENTRIES;) {
        append(w, &index, 500);
        check(wal_sync(w) == 0);
    }
    wal_abandon(w);
    for (int clean = 0; clean < 2; clean++) {
        for (uint64_t applied = 0; applied <= OPEN_ENTRIES; applied += OPEN_ENTRIES / 2) {
            w = bench_open(applied, clean ? "clean" : "unclean");
            w = clean || applied == OPEN_ENTRIES ? wal_close(w) : wal_abandon(w);
        }
    }
    check(dir_list(dir, remove_one, NULL) == 0);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: wal_bench DIR\n");
        return 2;
    }
    dir = argv[1];
    data = blob_new(ENTRY_BYTES);
    memset(data->data, 'x', data->len);
    bench_batch(1, 8000);
    bench_batch(16, 8000);
    bench_batch(100, 3000);
    bench_batch(500, 1000);
    bench_opens();
    blob_unref(data);
    (void)rmdir(dir);
    return 0;
}
