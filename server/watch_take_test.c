/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a consumer takes of its stream's responses: how much, cut where, and what becomes of the
 * rest. Revision 1 is the empty store.
 */
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

static void close_all(struct fixture *f)
{
    watch_stream_close(f->c.stream);
    watch_box_free(f->b);
}

static void create(struct fixture *f, struct watch_request q)
{
    watch_create(f->c.stream, &q);
}

static size_t events_of_one(struct fixture *f)
{
    struct watch_response *r = watch_stream_take(f->c.stream);
    size_t n = r ? r->n_events : 0;

    assert_non_null(r);
    watch_response_free(r);
    return n;
}

enum { TAKEN_MIN = 200, VALUE_BYTES = 50, PAIRS = 100 };

/* Two events in each revision. */
static void put_pairs(struct fixture *f)
{
    char value[VALUE_BYTES + 1] = {0};

    memset(value, 'v', VALUE_BYTES);
    for (int i = 0; i < PAIRS; i++) {
        entry_begin(f->b);
        entry_put(f->b, BYTES_LIT("a"), bytes_str(value));
        entry_put(f->b, BYTES_LIT("b"), bytes_str(value));
        mvcc_end(f->b->store.mvcc);
        batch_write(f->b, true);
    }
}

/* Takes what is left behind so many events; how many there are with these. In whole revisions. */
static size_t take_pairs(struct fixture *f, struct watch_client *c, size_t had)
{
    struct watch_response *r;
    size_t n = had;

    while ((r = watch_stream_take(c->stream))) {
        assert_false(r->fragment);
        assert_int_equal(r->n_events % 2, 0);
        for (size_t i = 0; i < r->n_events; i++)
            assert_int_equal(r->events[i].revision, 2 + (n + i) / 2);
        n += r->n_events;
        watch_response_free(r);
        turns(f->b);
    }
    return n;
}

/* The more is in the hands of who does not read, the less each gets; together no more than there
 * may be, and a little each. What they did not get is not lost. */
static void test_taken_is_bounded(void **state)
{
    enum { STUCK = 200, MAX = 40 << 10 };
    struct fixture all, *f = &all;
    static struct watch_client stuck[STUCK];
    static struct watch_response *held[STUCK];
    struct watch_request q = watch_of("a", "c");
    size_t sum = 0;

    open_with(f, &(struct watch_hub_options){
                     .taken_bytes_max = MAX, .taken_bytes_min = TAKEN_MIN, .turns_max = SIZE_MAX});
    put_pairs(f);
    q.start_revision = 2;
    for (int i = 0; i < STUCK; i++) {
        client_open(&stuck[i], f->b);
        watch_create(stuck[i].stream, &q);
    }
    turns(f->b);
    for (int i = 0; i < STUCK; i++) {
        watch_response_free(watch_stream_take(stuck[i].stream)); /* created */
        held[i] = watch_stream_take(stuck[i].stream);
        assert_non_null(held[i]);
        assert_int_equal(held[i]->n_events % 2, 0);
        assert_in_range(held[i]->bytes, 1, MAX / 16);
        sum += held[i]->bytes > TAKEN_MIN ? held[i]->bytes : 0;
        assert_int_equal(atomic_load(&f->b->hub->taken), sum);
    }
    assert_true(held[0]->bytes > MAX / 32);
    assert_in_range(held[STUCK - 1]->bytes, TAKEN_MIN / 2, TAKEN_MIN);
    assert_in_range(sum, MAX / 2, MAX);
    create(f, q); /* who reads goes on, in short responses */
    turns(f->b);
    assert_int_equal(take_pairs(f, &f->c, 0), 2 * PAIRS);
    for (int i = 0; i < STUCK; i++) {
        if (i % 2)
            assert_int_equal(take_pairs(f, &stuck[i], held[i]->n_events), 2 * PAIRS);
        watch_response_free(held[i]);
        watch_stream_close(stuck[i].stream);
    }
    assert_int_equal(atomic_load(&f->b->hub->taken), 0);
    close_all(f);
}

/* A revision that is longer than anybody may take is taken whole. */
static void test_taken_whole_revision(void **state)
{
    struct fixture all, *f = &all;

    open_with(f, &(struct watch_hub_options){.taken_bytes_max = 1, .taken_bytes_min = 1});
    create(f, watch_of("a", "c"));
    put_pairs(f);
    turns(f->b);
    assert_int_equal(events_of_one(f), 0);
    for (int i = 0; i < PAIRS; i++)
        assert_int_equal(events_of_one(f), 2);
    assert_taken(f->b, &f->c, "");
    close_all(f);
}

/* The rest of a response that was cut is taken back as others are. */
static void test_cut_and_taken_back(void **state)
{
    struct fixture all, *f = &all;

    open_with(
        f, &(struct watch_hub_options){.taken_bytes_max = 1, .taken_bytes_min = 1, .bytes_max = 1});
    create(f, watch_of("a", NULL));
    taken(f->b, &f->c);
    for (int i = 0; i < 3; i++)
        put(f->b, "a", "1");
    turns(f->b);
    struct watch_response *r = watch_stream_take(f->c.stream);
    assert_int_equal(r->n_events, 1);
    assert_true(r->more);
    watch_response_free(r);
    watch_reclaim(f->b->hub); /* it has taken just now */
    assert_non_null(f->c.stream->first);
    watch_reclaim(f->b->hub);
    assert_null(f->c.stream->first);
    assert_taken(f->b, &f->c, "");
    turns(f->b);
    assert_taken(f->b, &f->c, "#0 r4 +a=1@3\n#0 r4 +a=1@4");
    close_all(f);
}

/* Another one is promised if it comes for certain. */
static void test_more(void **state)
{
    struct fixture all, *f = &all;
    struct watch_response *r;

    open_with(f, &(struct watch_hub_options){0});
    create(f, watch_of("a", NULL));
    create(f, watch_of("a", NULL));
    put(f->b, "a", "1");
    turns(f->b);
    watch_progress(f->c.stream);
    turns(f->b);
    for (size_t i = 0; i < 2; i++) {
        r = watch_stream_take(f->c.stream);
        assert_true(r->created && r->more);
        watch_response_free(r);
    }
    for (size_t i = 0; i < 2; i++) {
        r = watch_stream_take(f->c.stream);
        assert_int_equal(r->n_events, 1);
        assert_int_equal(r->more, i == 0); /* then a notification, which may be taken back */
        watch_response_free(r);
    }
    assert_taken(f->b, &f->c, "#-1 r2");
    close_all(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken_is_bounded),
        cmocka_unit_test(test_taken_whole_revision),
        cmocka_unit_test(test_cut_and_taken_back),
        cmocka_unit_test(test_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
