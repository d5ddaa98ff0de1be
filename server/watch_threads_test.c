/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub with its threads: one writes, one is the hub's, some consume, of which some cancel,
 * begin anew and close all the time. Every event arrives once. And the ring alone, read while it is
 * written behind what is published. Meant for the thread sanitizer, too.
 */
#include "server/test_watch.h"

#include <sched.h>

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"

enum { WRITES = 4000, CONSUMERS = 4, PATIENCE_S = 120 };

struct consumer {
    struct watch_box *b;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool lasting; /* one stream for all; else a new one for some events each */
    bool is_ready;
    int64_t next;    /* revision that it is to see */
    unsigned n_anew; /* streams that it used */
};

static _Atomic bool hub_stop;

static void *hub_run(void *arg)
{
    struct watch_hub *h = arg;

    while (!atomic_load(&hub_stop)) {
        check(watch_hub_turn(h) >= 0);
        watch_hub_wait(h);
    }
    return NULL;
}

static void *write_run(void *arg)
{
    struct watch_box *b = arg;

    for (int i = 0; i < WRITES; i++)
        put(b, "key", "value");
    return NULL;
}

static void wake(void *arg)
{
    struct consumer *c = arg;

    pthread_mutex_lock(&c->lock);
    c->is_ready = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void sleep_until_ready(struct consumer *c)
{
    struct timespec ts = cond_until(UINT64_C(1000000000) * PATIENCE_S);

    pthread_mutex_lock(&c->lock);
    while (!c->is_ready)
        check(pthread_cond_timedwait(&c->cond, &c->lock, &ts) == 0);
    c->is_ready = false;
    pthread_mutex_unlock(&c->lock);
}

/* Each event has a revision of its own. */
static void check_response(struct consumer *c, const struct watch_response *r)
{
    for (size_t i = 0; i < r->n_events; i++) {
        Mvccpb__Event *e =
            mvccpb__event__unpack(NULL, r->events[i].encoded.len, r->events[i].encoded.data);
        check(e && e->kv->mod_revision == c->next++);
        mvccpb__event__free_unpacked(e, NULL);
    }
}

/* Up to a revision, or all there is. */
static void consume(struct consumer *c, int64_t until)
{
    struct watch_stream *s = watch_stream_open(c->b->hub, wake, c);
    struct watch_request q = watch_of("key", NULL);
    struct watch_response *r;

    q.start_revision = c->next;
    watch_create(s, &q);
    while (c->next < until) {
        sleep_until_ready(c);
        while ((r = watch_stream_take(s))) {
            check_response(c, r);
            watch_response_free(r);
        }
        watch_progress(s);
    }
    watch_cancel(s, 0);
    watch_stream_close(s);
    c->is_ready = false;
    c->n_anew++;
}

static void *consume_run(void *arg)
{
    struct consumer *c = arg;
    c->next = 2;
    while (c->next < WRITES + 2)
        consume(c, c->lasting ? WRITES + 2 : c->next + 1);
    return NULL;
}

static void test_threads(void **state)
{
    struct watch_box *b = watch_box_new(&(struct watch_hub_options){
        .ring_bytes = 20000, .stream_bytes_max = 20000, .near = 1, .work_ns = 1});
    struct consumer consumers[CONSUMERS] = {0};
    pthread_t hub, writer;

    atomic_store(&hub_stop, false);
    assert_int_equal(pthread_create(&hub, NULL, hub_run, b->hub), 0);
    for (int i = 0; i < CONSUMERS; i++) {
        struct consumer *c = &consumers[i];
        c->b = b;
        c->lasting = i % 2 == 0;
        pthread_mutex_init(&c->lock, NULL);
        cond_init(&c->cond);
        assert_int_equal(pthread_create(&c->thread, NULL, consume_run, c), 0);
    }
    assert_int_equal(pthread_create(&writer, NULL, write_run, b), 0);
    pthread_join(writer, NULL);
    for (int i = 0; i < CONSUMERS; i++) {
        pthread_join(consumers[i].thread, NULL);
        assert_int_equal(consumers[i].next, WRITES + 2);
        pthread_cond_destroy(&consumers[i].cond);
        pthread_mutex_destroy(&consumers[i].lock);
    }
    atomic_store(&hub_stop, true);
    watch_hub_stop_waiting(b->hub);
    pthread_join(hub, NULL);
    watch_box_free(b);
}

/* ---- the ring alone ---- */

enum { APPENDS = 40000, TURN = 7, EVENTS_A_BLOCK = 20, AHEAD_MAX = 40 };

struct ring_box {
    struct watch_ring ring;
    _Atomic int64_t published, read;
};

/* One event a revision; seen when TURN are appended. It keeps near to the reader, for what both do
 * in one block is to be seen. */
static void *append_run(void *arg)
{
    struct ring_box *b = arg;

    for (int64_t rev = 2; rev < APPENDS + 2; rev++) {
        struct mvcc_change change = {.rev = {rev, 0}, .kind = SCHEMA_CREATE};
        change.kv = (struct kv){.key = BYTES_LIT("key"), .create = rev, .mod = rev, .version = 1};
        watch_ring_append(&b->ring, &change, 1);
        if (rev % TURN == 0 || rev == APPENDS + 1)
            atomic_store(&b->published, rev);
        while (rev - atomic_load(&b->read) > AHEAD_MAX)
            sched_yield();
    }
    return NULL;
}

/* Returns the revision to go on from. */
static int64_t read_ring(struct ring_box *b, int64_t from, int64_t upto,
                         struct watch_ring_place *place, struct watch_slice *slice)
{
    struct watch_slice_options o = {from, upto, SIZE_MAX, SIZE_MAX};

    if (!watch_ring_slice(&b->ring, &o, place, slice)) {
        *place = (struct watch_ring_place){0};
        return upto + 1; /* the store would be read */
    }
    for (size_t i = 0; i < slice->n_events; i++)
        assert_int_equal(slice->events[i].record->rev.main, from++);
    assert_int_equal(from, upto + 1);
    assert_int_equal(slice->next, from);
    watch_slice_clear(slice);
    return from;
}

static void test_ring_grows(void **state)
{
    struct ring_box b = {.published = 1};
    struct watch_ring_place place = {0};
    struct watch_slice slice = {0};
    struct watch_memory *memory = watch_memory_new();
    pthread_t writer;

    watch_ring_init(&b.ring, WATCH_RING_BLOCKS * EVENTS_A_BLOCK * watch_record_room(3, 12), memory);
    assert_int_equal(pthread_create(&writer, NULL, append_run, &b), 0);
    for (int64_t from = 2, upto; from < APPENDS + 2;) {
        upto = atomic_load(&b.published);
        if (upto >= from)
            from = read_ring(&b, from, upto, &place, &slice);
        atomic_store(&b.read, from);
    }
    pthread_join(writer, NULL);
    watch_slice_deinit(&slice);
    watch_ring_deinit(&b.ring);
    assert_int_equal(watch_memory_bytes(memory), 0);
    watch_memory_free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ring_grows),
    };

    log_level_min = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
