/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What watching costs, on the hub's and the apply turn's side, without gRPC (not built by default):
 *
 *   append    on the path of a put, without a stream ever, with one that is open and idle
 *   fan out   1,000 watchers on one key in 10 streams, also 10,000 watchers in 100; a response
 *             taken and freed each
 *   catch up  one watcher of a range, from the ring and from the store
 *
 *   watch_bench [revisions to catch up with]
 */

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"
#include "server/watch_private.h"
#include "storage/test_dir.h"

enum { VALUE_BYTES = 256, KEYS = 10000, BATCH = 100 };

struct bench {
    char *dir, *path;
    struct store store;
    struct server_state state;
    struct db_batch *batch;
    struct watch_hub *hub;
};

static void open_bench(struct bench *b, size_t ring_bytes)
{
    struct watch_hub_options options = {.store = &b->store,
                                        .state = &b->state,
                                        .ring_bytes = ring_bytes,
                                        .response_bytes_max = 2 << 20,
                                        .turns_max = SIZE_MAX,  /* neither crowds */
                                        .work_ns = UINT64_MAX}; /* nor rests */

    b->dir = test_dir_new();
    b->path = mem_printf("%s/db", b->dir);
    check(store_open(&b->store, &(struct store_options){.path = b->path}) == 0);
    b->batch = db_batch_new();
    mvcc_batch(b->store.mvcc, b->batch);
    b->hub = watch_hub_new(&options);
}

static void close_bench(struct bench *b)
{
    watch_hub_free(b->hub);
    db_batch_free(b->batch);
    store_close(&b->store);
    test_dir_remove(b->dir);
    free(b->path);
}

static void put_batch(struct bench *b, uint64_t first, uint64_t n)
{
    static uint8_t value[VALUE_BYTES];
    static char names[BATCH][32];
    size_t n_changes;

    for (uint64_t i = 0; i < n; i++) {
        size_t len = (size_t)snprintf(names[i], sizeof(names[i]), "/key/%08" PRIu64,
                                      (first + i) * 7919 % KEYS);
        mvcc_begin(b->store.mvcc);
        check(mvcc_put(b->store.mvcc, bytes_of(names[i], len), bytes_of(value, VALUE_BYTES), 0) ==
              0);
        mvcc_end(b->store.mvcc);
    }
    const struct mvcc_change *changes = mvcc_changes(b->store.mvcc, &n_changes);
    watch_hub_append(b->hub, changes, n_changes);
    mvcc_seal(b->store.mvcc);
    check(db_write(b->store.db, b->batch) == 0);
    db_batch_clear(b->batch);
    mvcc_publish(b->store.mvcc);
    watch_hub_wake(b->hub);
}

static void nothing(void *arg)
{
}

static uint64_t drain(struct watch_stream *s)
{
    struct watch_response *r;
    uint64_t n = 0;

    while ((r = watch_stream_take(s))) {
        n += r->n_events;
        watch_response_free(r);
    }
    return n;
}

/* In ns a put. */
static double tell(struct bench *b)
{
    enum { PUTS = 1000000 };
    static uint8_t value[VALUE_BYTES];
    struct mvcc_change change = {
        .kv = {BYTES_LIT("/key/00000000"), 1, 1, 1, bytes_of(value, VALUE_BYTES), 0}};
    uint64_t start = clock_thread_cpu_ns();

    for (int64_t i = 1; i <= PUTS; i++) {
        change.rev.main = change.kv.mod = i;
        watch_hub_append(b->hub, &change, 1);
        watch_hub_wake(b->hub);
    }
    return (double)(clock_thread_cpu_ns() - start) / PUTS;
}

static void bench_append(void)
{
    struct bench b = {0};
    struct watch_stream *s;
    double never, open;

    open_bench(&b, 0);
    never = tell(&b);
    s = watch_stream_open(b.hub, nothing, NULL);
    open = tell(&b);
    watch_stream_close(s);
    printf("append: %.0f ns a put before any stream, %.0f ns with one, %.0f ns after it\n", never,
           open, tell(&b));
    close_bench(&b);
}

static void bench_fan_out(size_t n_streams, size_t n_watchers, size_t batch)
{
    enum { EVENTS = 1000 };
    struct bench b = {0};
    struct watch_stream *streams[100];
    uint64_t start, cpu = 0, n = 0;

    open_bench(&b, 0);
    for (size_t i = 0; i < n_streams; i++) {
        streams[i] = watch_stream_open(b.hub, nothing, NULL);
        for (size_t k = 0; k < n_watchers / n_streams; k++)
            watch_create(streams[i], &(struct watch_request){.key = BYTES_LIT("/"),
                                                             .range_end = BYTES_LIT("0")});
        drain(streams[i]);
    }
    for (uint64_t i = 0; i < EVENTS; i += batch) {
        put_batch(&b, i, batch);
        start = clock_thread_cpu_ns();
        while (watch_hub_turn(b.hub) > 0)
            ;
        for (size_t k = 0; k < n_streams; k++)
            n += drain(streams[k]);
        cpu += clock_thread_cpu_ns() - start;
    }
    check(n == EVENTS * n_watchers);
    for (size_t i = 0; i < n_streams; i++)
        watch_stream_close(streams[i]);
    printf("fan out to %5zu watchers in %3zu streams, batches of %3zu: %4.0f ns an event\n",
           n_watchers, n_streams, batch, (double)cpu / (double)n);
    close_bench(&b);
}

static void bench_catch_up(uint64_t revisions, bool ring, bool prev_kv)
{
    struct bench b = {0};
    struct watch_stream *s;
    uint64_t start, cpu, n = 0;

    open_bench(&b, ring ? (size_t)1 << 30 : 0);
    s = watch_stream_open(b.hub, nothing, NULL);
    for (uint64_t i = 0; i < revisions; i += BATCH)
        put_batch(&b, i, BATCH);
    if (!ring)
        watch_hub_reset(b.hub);
    while (watch_hub_turn(b.hub) > 0)
        ;
    watch_create(s, &(struct watch_request){.key = BYTES_LIT("/"),
                                            .range_end = BYTES_LIT("0"),
                                            .start_revision = 2,
                                            .prev_kv = prev_kv});
    start = clock_mono_ns();
    cpu = clock_thread_cpu_ns();
    while (n < revisions) {
        check(watch_hub_turn(b.hub) >= 0);
        n += drain(s);
    }
    printf("catch up with %" PRIu64
           " revisions from the %s%s: %.2f us a revision, %.2f us of CPU\n",
           revisions, ring ? "ring" : "store", prev_kv ? " with prev_kv" : "",
           (double)(clock_mono_ns() - start) / 1e3 / (double)revisions,
           (double)(clock_thread_cpu_ns() - cpu) / 1e3 / (double)revisions);
    watch_stream_close(s);
    close_bench(&b);
}

int main(int argc, char **argv)
{
    uint64_t revisions = argc > 1 ? strtoull(argv[1], NULL, 10) : 200000;

    log_level_min = LOG_ERROR;
    bench_append();
    bench_fan_out(10, 1000, 1);
    bench_fan_out(10, 1000, BATCH);
    bench_fan_out(100, 10000, 1);
    bench_catch_up(revisions, true, false);
    bench_catch_up(revisions, false, false);
    bench_catch_up(revisions / 10, false, true);
    return 0;
}
