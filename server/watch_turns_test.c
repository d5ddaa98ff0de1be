/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A crowd: many streams that watch the same, called in turns and served in rounds; and consumers
 * that do not come back. The clock of rounds and turns is set by hand. Revision 1 is the empty
 * store.
 */
#include "server/test_watch.h"

enum { CROWD = 5, TURNS = 2, PUTS = 100, HELD = 3 };

#define NEVER (UINT64_MAX / 2)

struct fixture {
    struct watch_box *b;
    struct watch_client crowd[CROWD], other;
};

static void hold_clock(struct fixture *f)
{
    struct watch_turns *t = &f->b->hub->turns;

    t->round_ns = t->given_ns = t->open_ns = NEVER;
}

/* The hub's turns, while no time passes. */
static void turns_now(struct fixture *f)
{
    turns(f->b);
    hold_clock(f);
}

static void put_now(struct fixture *f, const char *key, const char *value)
{
    put(f->b, key, value);
    turns_now(f);
}

/* Pauses are over; whoever is called has still to take. */
static void pass_pause(struct fixture *f)
{
    struct watch_turns *t = &f->b->hub->turns;

    t->round_ns = 0;
    t->open_ns = 1;
    turns_now(f);
}

static void open_one(struct fixture *f, struct watch_client *c, const char *key)
{
    struct watch_request q = watch_of(key, NULL);

    client_open(c, f->b);
    watch_create(c->stream, &q);
    assert_taken(f->b, c, "#0 r1 created");
    c->n_ready = 0;
}

static void open_with(struct fixture *f, const struct watch_hub_options *tuning)
{
    f->b = watch_box_new(tuning);
    open_one(f, &f->other, "b");
    for (int i = 0; i < CROWD; i++)
        open_one(f, &f->crowd[i], "a");
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    open_with(f, &(struct watch_hub_options){.turns_max = TURNS, .held_revisions_max = HELD});
    *state = f;
    return 0;
}

static void close_one(struct watch_client *c)
{
    if (c->stream)
        watch_stream_close(c->stream);
    c->stream = NULL;
}

static void close_all(struct fixture *f)
{
    for (int i = 0; i < CROWD; i++)
        close_one(&f->crowd[i]);
    close_one(&f->other);
    watch_box_free(f->b);
}

static int teardown(void **state)
{
    close_all(*state);
    free(*state);
    return 0;
}

static int n_called(const struct fixture *f)
{
    int n = 0;

    for (int i = 0; i < CROWD; i++)
        n += f->crowd[i].n_ready;
    return n;
}

/* Whoever has been called takes that; how many there were. */
static int take_called(struct fixture *f, const char *text)
{
    int n = 0;

    for (int i = 0; i < CROWD; i++) {
        struct watch_client *c = &f->crowd[i];
        if (!c->stream || c->n_ready == 0)
            continue;
        assert_int_equal(c->n_ready, 1);
        assert_taken(f->b, c, text);
        c->n_ready = 0;
        n++;
    }
    return n;
}

/* Of the response that it takes. */
static size_t n_events(struct watch_client *c)
{
    struct watch_response *r = watch_stream_take(c->stream);
    size_t n = r ? r->n_events : 0;

    watch_response_free(r);
    if (r)
        assert_null(watch_stream_take(c->stream));
    return n;
}

/* The rest of a round, turn by turn. */
static void take_round(struct fixture *f, const char *text, int left)
{
    for (; left > 0; pass_pause(f)) {
        int n = take_called(f, text);
        assert_int_equal(n, left < TURNS ? left : TURNS);
        left -= n;
    }
}

static void test_turns(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    assert_int_equal(n_called(f), TURNS);
    pass_pause(f);
    assert_int_equal(n_called(f), TURNS); /* they have not taken */
    take_round(f, "#0 r2 +a=1@2", CROWD);
}

/* Nothing was written meanwhile: no pause. */
static void test_no_pause(void **state)
{
    struct fixture *f = *state;

    put(f->b, "a", "1");
    turns(f->b);
    for (int left = CROWD; left > 0; left -= TURNS) {
        assert_int_equal(take_called(f, "#0 r2 +a=1@2"), left < TURNS ? left : TURNS);
        turns(f->b);
    }
}

static void test_pause(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    put(f->b, "c", "");
    f->b->hub->turns.given_ns = f->b->hub->turns.open_ns = 0;
    take_called(f, "#0 r2 +a=1@2");
    turns(f->b); /* the pause is 20 ms: these have taken very long */
    assert_int_equal(n_called(f), 0);
    pass_pause(f);
    assert_int_equal(n_called(f), TURNS);
}

/* What comes during a round is one response in the next; and that begins when all have taken and
 * some time has passed. */
static void test_rounds(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    take_called(f, "#0 r2 +a=1@2");
    for (int i = 2; i < 5; i++)
        put_now(f, "a", "2");
    assert_int_equal(n_called(f), 0);
    pass_pause(f);
    take_round(f, "#0 r2 +a=1@2", CROWD - TURNS);
    take_round(f, "#0 r5 +a=2@3 +a=2@4 +a=2@5", CROWD);
    assert_int_equal(n_called(f), 0);
    put_now(f, "a", "3");
    assert_int_equal(n_called(f), TURNS); /* after a quiet while at once */
    take_round(f, "#0 r6 +a=3@6", CROWD);
}

static void test_round_takes_time(void **state)
{
    struct fixture *f = *state;
    struct watch_turns *t = &f->b->hub->turns;

    put_now(f, "a", "1");
    for (int n = 0; n < CROWD; n += take_called(f, "#0 r2 +a=1@2")) {
        t->open_ns = 1;
        turns_now(f);
    }
    put_now(f, "a", "2");
    assert_int_equal(n_called(f), 0);
    pass_pause(f);
    take_round(f, "#0 r3 +a=2@3", CROWD);
}

/* Who does not read costs a put nothing: the index that it is matched with does not have him. */
static void test_parked(void **state)
{
    struct fixture *f = *state;
    struct watch_response *held[CROWD];
    size_t memory;

    put_now(f, "a", "1");
    for (int i = 0; i < CROWD; i++) {
        held[i] = watch_stream_take(f->crowd[i].stream);
        assert_non_null(held[i]);
    }
    pass_pause(f);
    put_now(f, "a", "2");
    pass_pause(f);
    memory = watch_memory_bytes(f->b->hub->memory);
    for (int i = 0; i < PUTS; i++) {
        put_now(f, "a", "2");
        pass_pause(f);
        assert_int_equal(f->b->hub->head.index.n_sets, 1); /* of the other one */
        assert_int_equal(f->b->hub->n_cohorts, 0);
        assert_in_range(watch_memory_bytes(f->b->hub->memory), 0, memory);
    }
    for (int i = 0; i < CROWD; i++) {
        watch_response_free(held[i]);
        assert_taken(f->b, &f->crowd[i], "");
    }
    pass_pause(f);
    for (int i = 0; i < CROWD; i++, pass_pause(f))
        assert_int_equal(n_events(&f->crowd[i]), PUTS + 1);
}

/* A response is short, and when there was more the next round begins at once. */
static void test_full(void **state)
{
    struct fixture *f = *state;
    char value[1000] = {0};
    size_t n = 0;

    memset(value, 'v', sizeof(value) - 1);
    put_now(f, "a", "1");
    for (int i = 0; i < PUTS; i++)
        put_now(f, "a", value);
    pass_pause(f);
    take_round(f, "#0 r2 +a=1@2", CROWD);
    for (int i = 0; i < CROWD * PUTS && n < CROWD * PUTS; i++) {
        struct watch_turns *t = &f->b->hub->turns;
        size_t one = n_events(&f->crowd[i % CROWD]);
        assert_in_range(one, 0, WATCH_ROUND_EACH_MAX / sizeof(value) + 1);
        n += one;
        t->open_ns = 1;
        t->round_ns = t->full ? 0 : NEVER; /* the last one is not */
        turns_now(f);
    }
    assert_int_equal(n, CROWD * PUTS);
}

static void test_bytes(void **state)
{
    struct fixture *f = *state;
    struct watch_hub *h = f->b->hub;
    struct watch_cohort c = {.hub = h, .position = h->head.position};

    h->written_ns = NEVER; /* it is written all the time */
    assert_int_equal(watch_round_bytes(&c), WATCH_SLICE_BYTES_MAX);
    c.crowd = 1 << 30;
    assert_int_equal(watch_round_bytes(&c), WATCH_ROUND_EACH_MIN);
    c.crowd = WATCH_ROUND_BYTES / WATCH_ROUND_EACH_MIN / 2;
    assert_int_equal(watch_round_bytes(&c), 2 * WATCH_ROUND_EACH_MIN);
    c.position = h->head.position - 2 * WATCH_ROUND_BEHIND;
    assert_int_equal(watch_round_bytes(&c), 3 * 2 * WATCH_ROUND_EACH_MIN);
    c.position = h->head.position - 100 * WATCH_ROUND_BEHIND;
    assert_int_equal(watch_round_bytes(&c), WATCH_ROUND_EACH_MAX);
    c.position = h->head.position;
    h->written_ns = 0;
    assert_int_equal(watch_round_bytes(&c), WATCH_ROUND_EACH_MAX);
}

/* Others don't wait for a crowd. */
static void test_others(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    put_now(f, "a", "2");
    put_now(f, "b", "1");
    assert_int_equal(f->other.n_ready, 1);
    assert_taken(f->b, &f->other, "#0 r4 +b=1@4");
}

/* So few are no crowd. */
static void test_few(void **state)
{
    struct fixture *f = *state;

    close_all(f);
    open_with(f, &(struct watch_hub_options){.turns_max = CROWD + 1});
    put_now(f, "a", "1");
    put_now(f, "a", "2");
    assert_int_equal(n_called(f), CROWD);
    assert_int_equal(take_called(f, "#0 r2 +a=1@2\n#0 r3 +a=2@3"), CROWD);
}

/* Nor are many watchers of few streams. */
static void test_few_streams(void **state)
{
    struct fixture *f = *state;
    struct watch_request q = watch_of("b", NULL);
    size_t n = 0;

    close_all(f);
    open_with(f, &(struct watch_hub_options){.turns_max = CROWD + 1});
    for (int i = 0; i < 2 * CROWD; i++)
        watch_create(f->other.stream, &q);
    taken(f->b, &f->other);
    put_now(f, "b", "1");
    put_now(f, "b", "2");
    for (struct watch_response *r; (r = watch_stream_take(f->other.stream)); n++)
        watch_response_free(r);
    assert_int_equal(n, 2 * (2 * CROWD + 1));
}

/* An answer calls who is not called yet. */
static void test_answer(void **state)
{
    struct fixture *f = *state;
    struct watch_client *c = &f->crowd[CROWD - 1];
    struct watch_request q = watch_of("c", NULL);

    put_now(f, "a", "1");
    assert_int_equal(c->n_ready, 0);
    watch_create(c->stream, &q);
    assert_int_equal(c->n_ready, 1);
    assert_taken(f->b, c, "#0 r2 +a=1@2\n#1 r2 created");
    c->n_ready = 0;
    take_round(f, "#0 r2 +a=1@2", CROWD - 1);
}

/* Streams end at any point of a round. */
static void test_closed(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    put_now(f, "a", "2");
    close_one(&f->crowd[0]);         /* called */
    close_one(&f->crowd[CROWD - 1]); /* not called yet */
    assert_int_equal(take_called(f, "#0 r2 +a=1@2"), TURNS - 1);
    close_one(&f->crowd[1]); /* waits for the next round */
    pass_pause(f);
    take_round(f, "#0 r2 +a=1@2", CROWD - TURNS - 1);
    take_round(f, "#0 r3 +a=2@3", CROWD - TURNS - 1);
}

/* Who is called and does not come is not waited for for ever. */
static void test_patience(void **state)
{
    struct fixture *f = *state;

    put_now(f, "a", "1");
    assert_int_equal(n_called(f), TURNS);
    f->b->hub->turns.given_ns = 0;
    pass_pause(f);
    assert_int_equal(n_called(f), 2 * TURNS);
    assert_int_equal(take_called(f, "#0 r2 +a=1@2"), 2 * TURNS);
    pass_pause(f);
    take_round(f, "#0 r2 +a=1@2", 1);
}

/* One who has a response in his hands, and no crowd: queued for him is what came in so many
 * revisions. */
static void test_held(void **state)
{
    struct fixture *f = *state;
    struct watch_response *held;

    put_now(f, "b", "1");
    held = watch_stream_take(f->other.stream);
    for (int i = 0; i < HELD + 3; i++)
        put_now(f, "b", "2");
    assert_int_equal(f->b->hub->head.index.n_sets, 1);
    watch_response_free(held);
    assert_taken(f->b, &f->other, "#0 r3 +b=2@3\n#0 r4 +b=2@4\n#0 r5 +b=2@5");
    turns_now(f);
    assert_taken(f->b, &f->other, "#0 r8 +b=2@6 +b=2@7 +b=2@8");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_turns),
        T(test_no_pause),
        T(test_pause),
        T(test_rounds),
        T(test_round_takes_time),
        T(test_parked),
        T(test_full),
        T(test_bytes),
        T(test_others),
        T(test_few),
        T(test_few_streams),
        T(test_answer),
        T(test_closed),
        T(test_patience),
        T(test_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
