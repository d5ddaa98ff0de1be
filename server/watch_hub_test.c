/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub, turn by turn: what each kind of request is answered, what comes live, from the
 * ring and from the store, and what happens to who does not read. Revision 1 is the empty store.
 */
#include "server/watch_hub.h"

#include "base/clock.h"
#include "server/test_watch.h"

struct fixture {
    struct watch_box *b;
    struct watch_client c;
};

static void open_with(struct fixture *f, const struct watch_hub_options *tuning)
{
    f->b = watch_box_new(tuning);
    client_open(&f->c, f->b);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    open_with(f, &(struct watch_hub_options){0});
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    watch_stream_close(f->c.stream);
    watch_box_free(f->b);
    free(f);
    return 0;
}

static void reopen(struct fixture *f, const struct watch_hub_options *tuning)
{
    watch_stream_close(f->c.stream);
    watch_box_free(f->b);
    open_with(f, tuning);
}

static void create(struct fixture *f, struct watch_request q)
{
    watch_create(f->c.stream, &q);
}

/* ---- requests and answers ---- */

static void test_head(void **state)
{
    struct fixture *f = *state;

    put(f->b, "a", "0");
    create(f, watch_of("a", NULL));
    assert_taken(f->b, &f->c, "#0 r2 created");
    put(f->b, "a", "1");
    put(f->b, "b", "1");
    turns(f->b);
    del(f->b, "a");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r3 +a=1@3\n#0 r5 -a@5");
    watch_cancel(f->c.stream, 0);
    put(f->b, "a", "2");
    turns(f->b);
    watch_cancel(f->c.stream, 0);
    watch_cancel(f->c.stream, 7);
    assert_taken(f->b, &f->c, "#0 r5 canceled");
}

static void test_ids(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    q.id = 1;
    create(f, q);
    create(f, q);
    q.id = 0;
    create(f, q);
    create(f, q);
    q.id = -1;
    create(f, q);
    assert_taken(f->b, &f->c,
                 "#1 r1 created\n"
                 "#-1 r1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)\n"
                 "#0 r1 created\n"
                 "#2 r1 created\n"
                 "#-1 r1 created");
    watch_cancel(f->c.stream, 1);
    q.id = 1;
    create(f, q);
    assert_taken(f->b, &f->c, "#1 r1 canceled\n#1 r1 created");
}

static void test_refused(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("b", "a");

    create(f, q);
    create(f, watch_of("a", "a"));
    q.start_revision = -1;
    create(f, q);
    watch_refuse(f->c.stream, "no");
    assert_taken(
        f->b, &f->c,
        "#-1 r1 created canceled (mvcc: watcher range is empty)\n"
        "#-1 r1 created canceled (mvcc: watcher range is empty)\n"
        "#-1 r1 created canceled (etcdserver: mvcc: required revision has been compacted)\n"
        "#-1 r1 created canceled (no)");
    assert_int_equal(f->c.n_ready, 1);
}

static void test_intervals(void **state)
{
    struct fixture *f = *state;
    struct watch_request all = {.range_end = BYTES_LIT("\0")};
    struct watch_request from = {.key = BYTES_LIT("b"), .range_end = BYTES_LIT("\0")};

    create(f, watch_of("b", "c")); /* 0 */
    create(f, all);                /* 1 */
    create(f, from);               /* 2 */
    create(f, watch_of("", NULL)); /* 3: the key 00 */
    taken(f->b, &f->c);
    put(f->b, "a", "1");
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r2 +a=1@2");
    put(f->b, "bb", "1");
    turns(f->b);
    taken(f->b, &f->c);
    put(f->b, "c", "1");
    turns(f->b);
    assert_non_null(strstr(taken(f->b, &f->c), "#2 r4 +c=1@4"));
    assert_null(strstr(buf_cstr(&f->b->text), "#0"));
    assert_null(strstr(buf_cstr(&f->b->text), "#3"));
    entry_begin(f->b);
    entry_put(f->b, bytes_of("", 1), BYTES_LIT("1"));
    mvcc_end(f->b->store.mvcc);
    batch_write(f->b, true);
    turns(f->b);
    assert_non_null(strstr(taken(f->b, &f->c), "#3 r5 +"));
    assert_non_null(strstr(buf_cstr(&f->b->text), "#1 r5 +"));
    assert_null(strstr(buf_cstr(&f->b->text), "#0"));
    assert_null(strstr(buf_cstr(&f->b->text), "#2"));
}

static void test_filters_and_previous(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    q.no_put = true;
    create(f, q);
    q = watch_of("a", NULL);
    q.no_delete = q.prev_kv = true;
    create(f, q);
    q.no_put = true;
    create(f, q);
    taken(f->b, &f->c);
    put(f->b, "a", "1");
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r2 +a=1@2");
    put(f->b, "a", "2");
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r3 +a=2@3<1@2");
    del(f->b, "a");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r4 -a@4");
    put(f->b, "a", "3");
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r5 +a=3@5");
}

/* ---- history ---- */

static void history(struct fixture *f)
{
    put(f->b, "a", "1"); /* 2 */
    put(f->b, "b", "1");
    put(f->b, "a", "2"); /* 4 */
    del(f->b, "a");
    put(f->b, "a", "3"); /* 6 */
}

#define ALL_OF_A "#0 r6 +a=1@2 +a=2@4<1@2 -a@5<2@4 +a=3@6"

static void catch_up(struct fixture *f, int64_t start)
{
    struct watch_request q = watch_of("a", NULL);

    q.start_revision = start;
    q.prev_kv = true;
    create(f, q);
    assert_int_equal(f->b->hub->head.position, 7);
    turns(f->b);
}

static void test_ring(void **state)
{
    struct fixture *f = *state;

    history(f);
    turns(f->b);
    catch_up(f, 1);
    assert_taken(f->b, &f->c, "#0 r6 created\n" ALL_OF_A);
    put(f->b, "a", "4");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r7 +a=4@7<3@6");
}

static void test_store(void **state)
{
    struct fixture *f = *state;

    history(f);
    watch_hub_reset(f->b->hub);
    turns(f->b);
    catch_up(f, 2);
    assert_taken(f->b, &f->c, "#0 r6 created\n" ALL_OF_A);
    put(f->b, "a", "4");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r7 +a=4@7<3@6");
}

/* An exchange that is about to come ends the reading; that is no error. */
static void test_store_interrupted(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    history(f);
    watch_hub_reset(f->b->hub);
    turns(f->b);
    db_interrupt(f->b->store.db);
    q.start_revision = 2;
    create(f, q);
    assert_int_equal(watch_hub_turn(f->b->hub), 1);
    assert_int_equal(watch_hub_turn(f->b->hub), 1);
    assert_taken(f->b, &f->c, "#0 r6 created");
}

static void test_start_inside(void **state)
{
    struct fixture *f = *state;

    history(f);
    turns(f->b);
    catch_up(f, 5);
    assert_taken(f->b, &f->c, "#0 r6 created\n#0 r6 -a@5<2@4 +a=3@6");
}

static void test_future(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    q.start_revision = 4;
    create(f, q);
    q.start_revision = 5;
    create(f, q);
    history(f);
    turns(f->b);
    assert_taken(f->b, &f->c,
                 "#0 r1 created\n#1 r1 created\n#0 r4 +a=2@4\n#0 r6 -a@5 +a=3@6\n#1 r6 -a@5 "
                 "+a=3@6");
}

/* The snapshot leaps over the revision that it waits for. */
static void test_future_and_reset(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    create(f, q);
    q.start_revision = 5;
    create(f, q);
    q.start_revision = 9;
    create(f, q);
    turns(f->b);
    taken(f->b, &f->c);
    history(f);
    watch_hub_reset(f->b->hub);
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r6 +a=1@2 +a=2@4\n#0 r6 -a@5 +a=3@6\n#1 r6 -a@5 +a=3@6");
    put(f->b, "b", "");
    put(f->b, "b", "");
    put(f->b, "a", "4");
    turns(f->b);
    taken(f->b, &f->c);
    assert_non_null(strstr(buf_cstr(&f->b->text), "#2 r9 +a=4@9"));
}

static void test_compacted(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    history(f);
    compact(f->b, 5);
    turns(f->b);
    q.start_revision = 4;
    create(f, q);
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r6 created\n#0 r0 canceled compacted=5");
    watch_progress(f->c.stream);
    q.id = 0;
    q.start_revision = 5;
    q.prev_kv = true;
    create(f, q);
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r6 created\n#1 r6 -a@5 +a=3@6");
    watch_cancel(f->c.stream, 0); /* its id was still taken */
    assert_taken(f->b, &f->c, "#0 r6 canceled");
}

/* Those who have been told everything, or will be from the ring, are not overtaken. */
static void test_compaction_of_the_present(void **state)
{
    struct fixture *f = *state;

    create(f, watch_of("a", NULL));
    history(f);
    compact(f->b, 6);
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r1 created\n#0 r6 +a=1@2 +a=2@4 -a@5 +a=3@6");
}

/* ---- transactions ---- */

static void put_many(struct watch_box *b, int n)
{
    char key[16];

    entry_begin(b);
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof(key), "k%05d", i);
        entry_put(b, bytes_str(key), BYTES_LIT("v"));
    }
    mvcc_end(b->store.mvcc);
    batch_write(b, true);
}

static size_t events_of_one(struct fixture *f)
{
    struct watch_response *r = watch_stream_take(f->c.stream);
    size_t n = r ? r->n_events : 0;

    assert_non_null(r);
    watch_response_free(r);
    return n;
}

/* Longer than a slice, than a block of the ring, than the ring. */
static void whole_revisions(struct fixture *f, bool live)
{
    enum { MANY = 3 * WATCH_SLICE_EVENTS_MAX };
    struct watch_request q = watch_of("k", "l");

    q.start_revision = live ? 0 : 2;
    if (live)
        create(f, q);
    put_many(f->b, MANY);
    put_many(f->b, MANY);
    if (!live)
        create(f, q);
    turns(f->b);
    assert_int_equal(events_of_one(f), 0);
    assert_int_equal(events_of_one(f), MANY);
    assert_int_equal(events_of_one(f), MANY);
    assert_taken(f->b, &f->c, "");
}

static void test_whole_revisions(void **state)
{
    struct fixture *f = *state;

    whole_revisions(f, true);
    reopen(f, &(struct watch_hub_options){0});
    whole_revisions(f, false);
    reopen(f, &(struct watch_hub_options){.ring_bytes = 1});
    whole_revisions(f, true);
    reopen(f, &(struct watch_hub_options){.ring_bytes = 1});
    whole_revisions(f, false);
}

enum { LARGE_BYTES = WATCH_SLICE_BYTES_MAX / 4 };

static void put_large(struct fixture *f, int n)
{
    _cleanup_(buf_deinit) struct buf value = BUF_NULL;

    buf_append_zero(&value, LARGE_BYTES);
    for (int i = 0; i < n; i++) {
        entry_begin(f->b);
        entry_put(f->b, bytes_of((const char[]){'k', (char)i}, 2), buf_bytes(&value));
        mvcc_end(f->b->store.mvcc);
        batch_write(f->b, true);
    }
}

/* All n events, in responses that are not much longer than a slice may be. */
static void take_bounded(struct fixture *f, size_t n)
{
    size_t got = 0;

    watch_response_free(watch_stream_take(f->c.stream)); /* created */
    while (got < n) {
        struct watch_response *r = watch_stream_take(f->c.stream);
        size_t bytes = r ? r->bytes : 0;

        assert_non_null(r);
        got += r->n_events;
        watch_response_free(r);
        assert_in_range(bytes, 1, WATCH_SLICE_BYTES_MAX + 2 * LARGE_BYTES);
        turns(f->b);
    }
    assert_int_equal(got, n);
    assert_taken(f->b, &f->c, "");
}

/* How many values are read at once has grown with short ones when the long ones come. */
static void test_large_values(void **state)
{
    enum { SHORT = 200, MANY = 40 };
    struct fixture *f = *state;
    struct watch_request q = watch_of("k", "l");

    reopen(f, &(struct watch_hub_options){.ring_bytes = 1});
    for (int i = 0; i < SHORT; i++)
        put(f->b, "k", "");
    put_large(f, MANY);
    q.start_revision = 2;
    create(f, q);
    turns(f->b);
    take_bounded(f, SHORT + MANY);
}

/* What keys were before counts, too: deletions are short. */
static void test_large_previous(void **state)
{
    enum { MANY = 20 };
    struct fixture *f = *state;
    struct watch_request q = watch_of("k", "l");

    put_large(f, MANY);
    for (int i = 0; i < MANY; i++) {
        entry_begin(f->b);
        assert_true(entry_delete(f->b, bytes_of((const char[]){'k', (char)i}, 2)));
        mvcc_end(f->b->store.mvcc);
        batch_write(f->b, true);
    }
    q.start_revision = MANY + 2;
    q.prev_kv = true;
    create(f, q);
    turns(f->b);
    take_bounded(f, MANY);
}

static void test_fragments(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", "b");

    /* Message: frame of 4 (header with a revision) + events; an event of "a1"="x" has 17. */
    reopen(f, &(struct watch_hub_options){.response_bytes_max = 45});
    q.fragment = true;
    create(f, q);
    taken(f->b, &f->c);
    entry_begin(f->b);
    for (char key[] = "a1"; key[1] <= '5'; key[1]++)
        entry_put(f->b, bytes_str(key), BYTES_LIT("x"));
    mvcc_end(f->b->store.mvcc);
    batch_write(f->b, true);
    turns(f->b);
    assert_taken(f->b, &f->c,
                 "#0 r2 fragment +a1=x@2 +a2=x@2\n#0 r2 fragment +a3=x@2 +a4=x@2\n#0 r2 +a5=x@2");
}

/* ---- progress ---- */

static void test_progress(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    watch_progress(f->c.stream); /* no watcher: no answer */
    create(f, q);
    put(f->b, "a", "1");
    watch_progress(f->c.stream);
    assert_taken(f->b, &f->c, "#0 r1 created");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r2 +a=1@2\n#-1 r2");
    watch_progress(f->c.stream);
    assert_taken(f->b, &f->c, "#-1 r2");
    q.start_revision = 2;
    create(f, q);
    watch_progress(f->c.stream);
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r2 created\n#1 r2 +a=1@2\n#-1 r2");
    q.start_revision = 9;
    create(f, q);
    watch_progress(f->c.stream);
    turns(f->b);
    assert_taken(f->b, &f->c, "#2 r2 created");
}

/* The clock is not waited for: the stream's opening is put back. */
static void pass(struct fixture *f)
{
    struct watch_hub *h = f->b->hub;
    struct watch_stream *s = f->c.stream;

    s->opened_ns -= s->tick_ns;
    if (heap_linked(&s->tick)) {
        heap_remove(&h->ticks, &s->tick);
        heap_push(&h->ticks, &s->tick, 0);
    }
    turns(f->b);
}

static void test_progress_notify(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);
    uint64_t interval = UINT64_C(600000000000);

    assert_in_range(f->c.stream->tick_ns, interval, interval + interval / 10);
    create(f, q);
    q.progress_notify = true;
    create(f, q);
    q.start_revision = 9;
    create(f, q);
    taken(f->b, &f->c);
    pass(f);
    assert_taken(f->b, &f->c, "#1 r1");
    put(f->b, "b", "1");
    turns(f->b);
    pass(f);
    assert_taken(f->b, &f->c, "#1 r2");
    put(f->b, "a", "1");
    turns(f->b);
    pass(f);
    assert_taken(f->b, &f->c, "#0 r3 +a=1@3\n#1 r3 +a=1@3"); /* that tells as much */
    pass(f);
    assert_taken(f->b, &f->c, "#1 r3");
    watch_cancel(f->c.stream, 1);
    watch_cancel(f->c.stream, 2);
    pass(f);
    assert_false(heap_linked(&f->c.stream->tick));
}

/* A head that lags notifies nobody of less than what `created` said. */
static void test_progress_notify_behind(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    reopen(f, &(struct watch_hub_options){.slice_events_max = 1});
    create(f, q);
    for (int i = 0; i < 3; i++)
        put(f->b, "b", "1");
    q.progress_notify = true;
    create(f, q);
    heap_remove(&f->b->hub->ticks, &f->c.stream->tick);
    heap_push(&f->b->hub->ticks, &f->c.stream->tick, 0);
    watch_hub_turn(f->b->hub);
    assert_int_equal(f->b->hub->head.position, 3);
    assert_taken(f->b, &f->c, "#0 r1 created\n#1 r4 created");
    turns(f->b);
    pass(f);
    assert_taken(f->b, &f->c, "#1 r4");
}

/* The watcher that progress waited for is gone. */
static void test_progress_after_cancel(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);

    put(f->b, "a", "1");
    turns(f->b);
    create(f, q);
    q.start_revision = 2;
    create(f, q);
    watch_progress(f->c.stream);
    assert_taken(f->b, &f->c, "#0 r2 created\n#1 r2 created");
    f->b->hub->bell.rung = false;
    watch_cancel(f->c.stream, 1);
    assert_true(f->b->hub->bell.rung);
    turns(f->b);
    assert_taken(f->b, &f->c, "#1 r2 canceled\n#-1 r2");
}

/* ---- who does not read ---- */

static void test_slow_stream(void **state)
{
    struct fixture *f = *state;
    struct watch_client other;

    reopen(f, &(struct watch_hub_options){.stream_bytes_max = 1});
    client_open(&other, f->b);
    create(f, watch_of("a", NULL));
    taken(f->b, &f->c);
    watch_create(other.stream, &(struct watch_request){.key = BYTES_LIT("a")});
    taken(f->b, &other);
    for (int i = 0; i < 3; i++) {
        put(f->b, "a", "1");
        turns(f->b);
        assert_string_not_equal(taken(f->b, &other), "");
    }
    watch_progress(f->c.stream);
    turns(f->b);
    assert_int_equal(f->c.stream->n_slow, 1);
    assert_taken(f->b, &f->c, "#0 r2 +a=1@2");
    assert_int_equal(f->c.n_ready, 2);
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r4 +a=1@3 +a=1@4\n#-1 r4");
    assert_int_equal(f->c.n_ready, 3);
    watch_stream_close(other.stream);
}

static void test_memory_taken_back(void **state)
{
    enum { STREAMS = 20, PUTS = 400 };
    static struct watch_client idle[STREAMS];
    struct fixture *f = *state;
    const size_t max = 64 << 10;
    int got = 0;

    reopen(f, &(struct watch_hub_options){.bytes_max = max, .ring_bytes = 1});
    create(f, watch_of("a", NULL));
    taken(f->b, &f->c);
    for (int i = 0; i < STREAMS; i++) {
        client_open(&idle[i], f->b);
        watch_create(idle[i].stream, &(struct watch_request){.key = BYTES_LIT("a")});
    }
    for (int i = 0; i < PUTS; i++) {
        put(f->b, "a", "1");
        f->b->hub->reclaimed_ms = 0;
        turns(f->b);
        assert_in_range(watch_memory_bytes(f->b->hub->memory), 0, max + (16 << 10));
        for (const char *text = taken(f->b, &f->c); (text = strstr(text, "+a=1@")); text++)
            got++;
    }
    while (got < PUTS) { /* what it was short of at the end */
        f->b->hub->reclaimed_ms = 0;
        turns(f->b);
        for (const char *text = taken(f->b, &f->c); (text = strstr(text, "+a=1@")); text++)
            got++;
    }
    for (int i = 0; i < STREAMS; i++) {
        int n = 0;
        do {
            for (const char *text = taken(f->b, &idle[i]); (text = strstr(text, "+a=1@")); text++)
                n++;
            f->b->hub->reclaimed_ms = 0;
            turns(f->b);
        } while (n < PUTS);
        assert_int_equal(n, PUTS);
        watch_stream_close(idle[i].stream);
    }
}

/* gRPC may hold the last ones until after the stop. */
static void test_response_outlives_hub(void **state)
{
    struct fixture *f = *state;

    create(f, watch_of("a", NULL));
    taken(f->b, &f->c);
    put(f->b, "a", "1");
    turns(f->b);
    struct watch_response *held = watch_stream_take(f->c.stream);
    assert_non_null(held);
    watch_stream_close(f->c.stream);
    f->b->hub = watch_hub_free(f->b->hub);
    assert_int_equal(held->n_events, 1);
    watch_response_free(held);
    f->b->hub = watch_hub_new(&(struct watch_hub_options){.store = &f->b->store});
    client_open(&f->c, f->b);
}

/* What stuck consumers hold in their hands nobody can take back; others get their events. */
static void test_memory_held_by_others(void **state)
{
    enum { STUCK = 20 };
    struct fixture *f = *state;
    struct watch_client stuck[STUCK];
    struct watch_response *held[STUCK];

    reopen(f, &(struct watch_hub_options){.bytes_max = 4 << 10, .ring_bytes = 1});
    for (int i = 0; i < STUCK; i++) {
        client_open(&stuck[i], f->b);
        watch_create(stuck[i].stream, &(struct watch_request){.key = BYTES_LIT("a")});
        taken(f->b, &stuck[i]);
        put(f->b, "a", "a value of some length, so that all that are held are more than may be");
        turns(f->b);
        held[i] = watch_stream_take(stuck[i].stream);
        assert_non_null(held[i]);
    }
    put(f->b, "b", "");
    assert_true(watch_memory_bytes(f->b->hub->memory) >= 4 << 10);
    create(f, watch_of("b", NULL));
    taken(f->b, &f->c);
    for (int i = 0; i < 3; i++) {
        put(f->b, "b", "");
        put(f->b, "b", "");
        turns(f->b);
        assert_string_not_equal(taken(f->b, &f->c), "");
    }
    turns(f->b);
    taken(f->b, &f->c);
    watch_progress(f->c.stream);
    turns(f->b);
    assert_taken(f->b, &f->c, "#-1 r28");
    for (int i = 0; i < STUCK; i++) {
        watch_response_free(held[i]);
        watch_stream_close(stuck[i].stream);
    }
}

static void test_full(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("b", "a");

    for (int i = 0; i < WATCH_ANSWERS_MAX; i++) {
        assert_false(watch_stream_is_full(f->c.stream));
        create(f, q);
    }
    assert_true(watch_stream_is_full(f->c.stream));
    watch_response_free(watch_stream_take(f->c.stream));
    assert_false(watch_stream_is_full(f->c.stream));
}

static void test_ready(void **state)
{
    struct fixture *f = *state;

    create(f, watch_of("a", NULL));
    assert_int_equal(f->c.n_ready, 1);
    put(f->b, "a", "1");
    turns(f->b);
    assert_int_equal(f->c.n_ready, 1);
    watch_response_free(watch_stream_take(f->c.stream));
    put(f->b, "a", "2");
    turns(f->b);
    assert_int_equal(f->c.n_ready, 1);
    assert_taken(f->b, &f->c, "#0 r2 +a=1@2\n#0 r3 +a=2@3");
    put(f->b, "a", "3");
    turns(f->b);
    assert_int_equal(f->c.n_ready, 2);
}

/* A response outlives its stream and the ring's block. */
static void test_response_outlives(void **state)
{
    struct fixture *f = *state;
    struct watch_response *r;

    create(f, watch_of("a", NULL));
    taken(f->b, &f->c);
    put(f->b, "a", "1");
    turns(f->b);
    r = watch_stream_take(f->c.stream);
    watch_stream_close(f->c.stream);
    watch_hub_reset(f->b->hub);
    buf_clear(&f->b->text);
    text_response(&f->b->text, r);
    assert_string_equal(buf_cstr(&f->b->text), "#0 r2 +a=1@2");
    watch_response_free(r);
    client_open(&f->c, f->b);
}

/* Many at once, far apart: more than can catch up at the same time. */
static void test_many_cohorts(void **state)
{
    enum { WATCHERS = 200 };
    struct fixture *f = *state;
    struct watch_request q = watch_of("a", NULL);
    size_t n = 0;

    for (int i = 0; i < WATCHERS; i++)
        put(f->b, "a", "1");
    turns(f->b);
    for (int i = WATCHERS; i > 0; i--) {
        q.start_revision = i + 1;
        create(f, q);
    }
    turns(f->b);
    assert_int_equal(f->b->hub->n_cohorts, 0);
    for (const char *text = taken(f->b, &f->c); (text = strstr(text, "+a=1@")); text++)
        n++;
    assert_int_equal(n, WATCHERS * (WATCHERS + 1) / 2);
}

/* ---- rests ---- */

enum { NEAR = 20, FAR = 100, SLICE = 8 };

/* Far behind, beside one at the head. */
static void open_far(struct fixture *f)
{
    reopen(f, &(struct watch_hub_options){.slice_events_max = SLICE, .near = NEAR, .work_ns = 1});
    for (int i = 0; i < FAR; i++)
        put(f->b, "a", "1");
    turns(f->b);
    create(f, watch_of("b", NULL));
}

static void create_from(struct fixture *f, int64_t start)
{
    struct watch_request q = watch_of("a", NULL);

    q.start_revision = start;
    create(f, q);
}

static uint64_t held_ns; /* the clock stands still there; 0: it runs */

uint64_t __real_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void)
{
    return held_ns ? held_ns : __real_clock_mono_ns();
}

/* A turn while there are writes, as many as that. True: rests afterwards. */
static bool rests_after(struct fixture *f, int writes)
{
    skip_rest(f->b->hub);
    for (int i = 0; i < writes; i++)
        put(f->b, "b", "1");
    f->b->hub->written_ns = UINT64_MAX / 2;
    held_ns = __real_clock_mono_ns(); /* else the rest might be over within the turn */
    assert_true(watch_hub_turn(f->b->hub) >= 0);
    held_ns = 0;
    return f->b->hub->rest.until_ns > 0;
}

/* Who is far rests beside writes, and the head goes on. */
static void test_rest(void **state)
{
    struct fixture *f = *state;
    struct watch_hub *h;

    open_far(f);
    h = f->b->hub;
    create_from(f, 2);
    h->written_ns = 0; /* long ago */
    assert_int_equal(watch_hub_turn(h), 1);
    assert_int_equal(h->rest.until_ns, 0);
    assert_true(rests_after(f, 1));
    assert_int_equal(h->passed, SLICE);

    taken(f->b, &f->c);
    h->rest.until_ns = UINT64_MAX;
    put(f->b, "b", "2");
    assert_int_equal(watch_hub_turn(h), 0);
    assert_taken(f->b, &f->c, "#0 r103 +b=2@103");
    turns(f->b);
    assert_int_equal(h->n_cohorts, 0);
}

/* All must come nearer. */
static void test_rest_only_with_gain(void **state)
{
    struct fixture *f = *state;

    open_far(f);
    create_from(f, 2);
    assert_false(rests_after(f, 0)); /* from then on it is counted */
    assert_false(rests_after(f, SLICE));
    assert_true(rests_after(f, SLICE / 4));
    create_from(f, 1); /* another cohort */
    assert_false(rests_after(f, SLICE / 4));
    assert_true(rests_after(f, SLICE / 8));
    turns(f->b);
}

/* Who is near waits for nobody who rests, nor for the one that is far. */
static void test_near(void **state)
{
    struct fixture *f = *state;

    open_far(f);
    create_from(f, 2);
    assert_false(rests_after(f, 0));
    assert_true(rests_after(f, 1));
    f->b->hub->rest.until_ns = UINT64_MAX;
    taken(f->b, &f->c);
    create_from(f, FAR - 3);
    while (watch_hub_turn(f->b->hub) > 0)
        ;
    assert_int_equal(f->b->hub->n_cohorts, 1);
    assert_taken(f->b, &f->c, "#2 r102 created\n#2 r102 +a=1@97 +a=1@98 +a=1@99 +a=1@100 +a=1@101");
    turns(f->b);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_head),
        TEST(test_ids),
        TEST(test_refused),
        TEST(test_intervals),
        TEST(test_filters_and_previous),
        TEST(test_ring),
        TEST(test_store),
        TEST(test_store_interrupted),
        TEST(test_start_inside),
        TEST(test_future),
        TEST(test_future_and_reset),
        TEST(test_compacted),
        TEST(test_compaction_of_the_present),
        TEST(test_whole_revisions),
        TEST(test_large_values),
        TEST(test_large_previous),
        TEST(test_fragments),
        TEST(test_progress),
        TEST(test_progress_notify),
        TEST(test_progress_notify_behind),
        TEST(test_progress_after_cancel),
        TEST(test_slow_stream),
        TEST(test_memory_taken_back),
        TEST(test_response_outlives_hub),
        TEST(test_memory_held_by_others),
        TEST(test_full),
        TEST(test_ready),
        TEST(test_response_outlives),
        TEST(test_many_cohorts),
        TEST(test_rest),
        TEST(test_rest_only_with_gain),
        TEST(test_near),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
