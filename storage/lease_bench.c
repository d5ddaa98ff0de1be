/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What leases cost in memory and CPU time: lease_bench [leases]. The table alone;
 * the store's part of a grant is in it, that of raft and gRPC is not.
 */
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "storage/lease.h"
#include "storage/test_dir.h"

enum { BATCH = 1000, FOUND = 800 };

#define SECOND UINT64_C(1000000000)

static uint64_t began_ns;

static void begin(void)
{
    began_ns = clock_thread_cpu_ns();
}

static void end(const char *what, uint64_t n)
{
    uint64_t took = clock_thread_cpu_ns() - began_ns;

    printf("%-36s %10.1f ms %10.1f ns each\n", what, (double)took / 1e6, (double)took / (double)n);
}

static size_t heap_bytes(void)
{
    struct mallinfo2 m = mallinfo2();

    return m.uordblks + m.hblkhd;
}

static void grant_all(struct lease_table *t, struct db *db, int64_t n)
{
    struct db_batch *batch = db_batch_new();
    int64_t ttl;

    for (int64_t id = 1; id <= n; id++) {
        check(lease_grant(t, batch, id * 7919, 3600 + id % 3600, &ttl) == 0);
        if (id % BATCH == 0) {
            check(db_write(db, batch) == 0);
            db_batch_clear(batch);
        }
    }
    db_batch_free(batch);
}

static void renew_all(struct lease_table *t, int64_t n)
{
    struct rng rng;

    rng_init(&rng, 1);
    for (int64_t i = 0; i < n; i++) {
        struct lease_renew r = {.id = (1 + (int64_t)rng_below(&rng, (uint64_t)n)) * 7919,
                                .now_ns = clock_mono_ns()};
        check(lease_renew(t, &r) == 0);
    }
}

/* Those that were renewed go to where they belong; the longest hold of the lock is what others
 * wait. */
static void find(struct lease_table *t, uint64_t now_ns, uint64_t *ret_longest_ns, uint64_t *ret_n)
{
    struct lease_look look = {.now_ns = now_ns, .again_ns = UINT64_MAX >> 1};
    int64_t ids[FOUND];

    *ret_longest_ns = *ret_n = 0;
    do {
        uint64_t start = clock_thread_cpu_ns();
        *ret_n += lease_find_expired(t, &look, ids, FOUND);
        uint64_t took = clock_thread_cpu_ns() - start;
        *ret_longest_ns = took > *ret_longest_ns ? took : *ret_longest_ns;
    } while (look.more);
}

static void run(struct lease_table *t, struct db *db, int64_t n)
{
    struct lease_leadership leads = {.term = 1, .now_ns = clock_mono_ns(), .extend_ns = SECOND};
    struct lease_info *list;
    uint64_t longest_ns, found;
    size_t before = heap_bytes();

    lease_promote(t, &leads);
    begin();
    grant_all(t, db, n);
    end("grant, with its record in the store", (uint64_t)n);
    printf("%-36s %10zu bytes\n", "memory a lease", (heap_bytes() - before) / (size_t)n);
    begin();
    renew_all(t, n);
    end("renew, at random", (uint64_t)n);
    begin();
    find(t, clock_mono_ns() + 7100 * SECOND, &longest_ns, &found);
    end("find expired, move those renewed", (uint64_t)n);
    printf("%-36s %10" PRIu64 ", longest hold %.2f ms\n", "found", found, (double)longest_ns / 1e6);
    begin();
    leads.term = 2;
    lease_promote(t, &leads);
    end("promote", (uint64_t)n);
    begin();
    free((lease_list(t, &list), list));
    end("list", (uint64_t)n);
    begin();
    lease_demote(t, leads.term);
    end("demote", (uint64_t)n);
}

int main(int argc, char **argv)
{
    int64_t n = argc > 1 ? strtoll(argv[1], NULL, 10) : 1000000;
    char *dir = test_dir_new();
    struct db *db = test_db_open(dir);
    struct lease_table *t;

    check(lease_table_open(&t, db, 1) == 0);
    run(t, db, n);
    lease_table_close(t);
    db_close(db);
    test_dir_remove(dir);
    return 0;
}
