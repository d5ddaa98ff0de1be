/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the store costs, without the rest of the server: CPU of the calling thread per operation,
 * and of the whole process (flushes and compactions of the database included).
 *
 *   mvcc_bench [keys] [value bytes] [directory]
 *
 * Keys look like those of a benchmark client: eight random bytes, or the ordered names of a list.
 */
#include <sys/resource.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/rng.h"
#include "storage/mvcc.h"
#include "storage/test_dir.h"

enum {
    KEY_BYTES = 24,
    BATCH_MAX = 100,
    GETS = 200000,
    PAGES = 300,
    PAGE = 500,
    COMPACTION_STEP = 1000,
    POOL_BYTES = 1 << 20
};

struct bench {
    struct db *db;
    struct mvcc *m;
    struct db_batch *batch;
    uint8_t *pool; /* values are cut out of it: they don't compress */
    size_t value_len;
    uint64_t n_keys;
    uint64_t n_among; /* overwrites go to the first so many */
    struct rng rng;
    uint64_t thread_ns;
    uint64_t process_ns;
};

static uint64_t process_ns(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * 1000000000 +
           ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * 1000;
}

static void begin(struct bench *b)
{
    b->process_ns = process_ns();
    b->thread_ns = clock_thread_cpu_ns();
}

static void end(struct bench *b, const char *what, uint64_t n)
{
    double thread_us = (double)(clock_thread_cpu_ns() - b->thread_ns) / 1000;
    double all_us = (double)(process_ns() - b->process_ns) / 1000;
    printf("%-34s %9.3f us thread %9.3f us process   (n = %llu)\n", what, thread_us / (double)n,
           all_us / (double)n, (unsigned long long)n);
    fflush(stdout);
}

static struct bytes key_of(uint64_t i, uint8_t out[KEY_BYTES])
{
    memcpy(out, "/registry/pods/", 15);
    u64_be_put(out + 15, i * 0x9E3779B97F4A7C15);
    out[23] = 'x';
    return bytes_of(out, KEY_BYTES);
}

static struct bytes value_of(struct bench *b)
{
    return bytes_of(b->pool + rng_below(&b->rng, POOL_BYTES), b->value_len);
}

static void turn(struct bench *b, const uint64_t *numbers, size_t n)
{
    static uint8_t keys[BATCH_MAX][KEY_BYTES];
    uint8_t applied[16] = {0};
    for (size_t i = 0; i < n; i++) {
        mvcc_begin(b->m);
        check(mvcc_put(b->m, key_of(numbers[i], keys[i]), value_of(b), 0) == 0);
        mvcc_end(b->m);
    }
    mvcc_seal(b->m);
    db_batch_put(b->batch, BYTES_LIT("mapplied"), bytes_of(applied, sizeof(applied)));
    check(db_write(b->db, b->batch) == 0);
    mvcc_publish(b->m);
    db_batch_clear(b->batch);
}

/* first > 0: keys [first, first + n) in a scattered order; 0: n overwrites of random keys. */
static void puts_measure(struct bench *b, const char *what, size_t batch, uint64_t n,
                         uint64_t first)
{
    uint64_t numbers[BATCH_MAX];
    size_t filled = 0;
    begin(b);
    for (uint64_t i = 0; i < n; i++) {
        numbers[filled++] = first ? first + i : 1 + rng_below(&b->rng, b->n_among);
        if (filled == batch || i + 1 == n) {
            turn(b, numbers, filled);
            filled = 0;
        }
    }
    end(b, what, n);
}

static int visit_count(void *arg, const struct mvcc_item *item)
{
    *(uint64_t *)arg += item->encoded.len;
    return 0;
}

static void read_one(struct bench *b, const struct mvcc_range_options *o)
{
    uint64_t bytes = 0;
    struct mvcc_range_result result;
    check(mvcc_range(b->m, o, visit_count, &bytes, &result) == 0);
}

static void gets_measure(struct bench *b, const char *what, uint64_t among, int64_t revision)
{
    uint8_t key[KEY_BYTES];
    begin(b);
    for (uint64_t i = 0; i < GETS; i++) {
        struct interval point = {INTERVAL_POINT, key_of(1 + rng_below(&b->rng, among), key),
                                 BYTES_NULL};
        read_one(b, &(struct mvcc_range_options){.interval = point, .revision = revision});
    }
    end(b, what, GETS);
}

static void pages_measure(struct bench *b, const char *what, struct mvcc_range_options o)
{
    uint8_t key[KEY_BYTES];
    begin(b);
    for (uint64_t i = 0; i < PAGES; i++) {
        o.interval = (struct interval){INTERVAL_FROM,
                                       key_of(1 + rng_below(&b->rng, b->n_keys), key), BYTES_NULL};
        read_one(b, &o);
    }
    end(b, what, PAGES * PAGE);
}

struct last {
    uint8_t key[KEY_BYTES + 1];
};

static int visit_last(void *arg, const struct mvcc_item *item)
{
    memcpy(((struct last *)arg)->key, item->key.data, KEY_BYTES);
    return 0;
}

/* As kube-apiserver lists: page by page at one revision, each with the count of what is left. */
static void list_measure(struct bench *b, const char *what)
{
    struct last last = {0}, from_key;
    struct mvcc_range_options o = {.limit = PAGE, .revision = mvcc_revision(b->m)};
    struct mvcc_range_result result = {.count = INT64_MAX};
    uint64_t pages = 0;
    begin(b);
    for (struct bytes from = BYTES_LIT("/"); result.count > PAGE; pages++) {
        o.interval = interval_parse(from, BYTES_LIT("0"));
        check(mvcc_range(b->m, &o, visit_last, &last, &result) == 0);
        from_key = last;
        from = bytes_of(from_key.key, sizeof(from_key.key));
    }
    end(b, what, pages);
}

static void scans_measure(struct bench *b)
{
    struct interval all = {INTERVAL_FROM, BYTES_LIT("/"), BYTES_NULL};
    begin(b);
    read_one(b, &(struct mvcc_range_options){.interval = all, .count_only = true});
    end(b, "count of all keys, per key", b->n_keys);
    begin(b);
    read_one(b, &(struct mvcc_range_options){.interval = all});
    end(b, "range of all keys, per key", b->n_keys);
    struct mvcc_hash h;
    int64_t current = mvcc_revision(b->m);
    begin(b);
    check(mvcc_hash_kv(b->m, 0, &h) == 0);
    end(b, "HashKV, per revision", (uint64_t)current);
}

static void compaction_measure(struct bench *b)
{
    int64_t current = mvcc_revision(b->m);
    begin(b);
    check(mvcc_compact(b->m, current, false) == 0);
    mvcc_seal(b->m);
    check(db_write(b->db, b->batch) == 0);
    mvcc_publish(b->m);
    db_batch_clear(b->batch);
    bool done = false;
    int64_t finished;
    while (!done)
        check(mvcc_compact_step(b->m, &done, &finished) == 0);
    end(b, "compaction, per revision", (uint64_t)current);
    begin(b);
    check(db_compact(b->db, NULL, NULL) == 0);
    end(b, "reclaiming space, per revision", (uint64_t)current);
}

static void run(struct bench *b)
{
    uint64_t n = b->n_among = b->n_keys;
    puts_measure(b, "put new, 100 a batch", 100, n / 2, 1);
    puts_measure(b, "put new, 16 a batch", 16, n / 4, n / 2 + 1);
    puts_measure(b, "put new, 1 a batch", 1, n / 4, n / 4 * 3 + 1);
    puts_measure(b, "overwrite, 100 a batch", 100, n / 4, 0);
    puts_measure(b, "overwrite, 16 a batch", 16, n / 4, 0);
    puts_measure(b, "overwrite, 1 a batch", 1, n / 4, 0);
    b->n_among = 1000;
    puts_measure(b, "overwrite of 1000 keys, 16 a batch", 16, n / 4, 0);
    b->n_among = n;
    gets_measure(b, "get, any key", n, 0);
    gets_measure(b, "get, of 1000 keys", 1000, 0);
    gets_measure(b, "get, older revision", n, mvcc_revision(b->m) / 2);
    pages_measure(b, "page of 500, per key",
                  (struct mvcc_range_options){.limit = PAGE, .no_count = true});
    pages_measure(b, "page of 500, keys only, per key",
                  (struct mvcc_range_options){.limit = PAGE, .no_count = true, .keys_only = true});
    list_measure(b, "list in pages, per page of 500");
    list_measure(b, "list again, per page of 500");
    scans_measure(b);
    compaction_measure(b);
    gets_measure(b, "get, any key, compacted", n, 0);
    pages_measure(b, "page of 500, compacted, per key",
                  (struct mvcc_range_options){.limit = PAGE, .no_count = true});
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    b.n_keys = argc > 1 ? strtoull(argv[1], NULL, 10) : 200000;
    b.value_len = argc > 2 ? strtoull(argv[2], NULL, 10) : 256;
    b.pool = mem_alloc(POOL_BYTES + b.value_len);
    rng_init(&b.rng, 1);
    for (size_t i = 0; i < POOL_BYTES + b.value_len; i++)
        b.pool[i] = (uint8_t)rng_next(&b.rng);
    log_level_min = LOG_WARN;
    char *dir = argc > 3 ? mem_strdup(argv[3]) : test_dir_new();
    b.db = test_db_open(dir);
    b.batch = db_batch_new();
    check(mvcc_open(&b.m, &(struct mvcc_options){.db = b.db,
                                                 .compaction_batch_max = COMPACTION_STEP}) == 0);
    mvcc_batch(b.m, b.batch);
    run(&b);
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("largest resident size %ld MiB, tables %llu MiB\n", u.ru_maxrss >> 10,
           (unsigned long long)db_disk_bytes(b.db) >> 20);
    mvcc_close(b.m);
    db_batch_free(b.batch);
    db_close(b.db);
    if (argc <= 3)
        test_dir_remove(dir);
    else
        free(dir);
    free(b.pool);
    return 0;
}
