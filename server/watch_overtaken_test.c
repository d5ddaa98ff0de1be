/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watchers that something overtakes: a compaction those whose stream has no room, a snapshot those
 * who have been told everything, a cancellation those in any place. Others lost, repeated or kept
 * just these.
 */
#include "server/watch_hub.h"

#include "server/test_watch.h"

/* One response a stream, and no ring: who is parked needs the store. */
static const struct watch_hub_options narrow = {.stream_bytes_max = 1, .ring_bytes = 1};

static void open_both(struct watch_box **b, struct watch_client *c,
                      const struct watch_hub_options *o)
{
    *b = watch_box_new(o);
    client_open(c, *b);
}

static void close_both(struct watch_box *b, struct watch_client *c)
{
    watch_stream_close(c->stream);
    watch_box_free(b);
}

static void puts_of_a(struct watch_box *b, int n)
{
    for (int i = 0; i < n; i++) {
        put(b, "a", "v");
        turns(b);
    }
}

/* A watcher on a stream without room is not moved over what it was not told: when there is room it
 * hears that it was overtaken, after what it had, and nothing of what came later. */
static void test_compacted_while_parked(void **state)
{
    struct watch_box *b;
    struct watch_client c;

    open_both(&b, &c, &narrow);
    watch_create(c.stream, &(struct watch_request){.key = BYTES_LIT("a")});
    assert_taken(b, &c, "#0 r1 created");
    puts_of_a(b, 4); /* 2 to 5 */
    compact(b, 5);
    turns(b);
    assert_taken(b, &c, "#0 r2 +a=v@2");
    turns(b);
    assert_taken(b, &c, "#0 r0 canceled compacted=5");
    puts_of_a(b, 1);
    assert_taken(b, &c, "");
    close_both(b, &c);
}

/* The compaction stops short of what it wants next. */
static void test_compacted_up_to_parked(void **state)
{
    struct watch_box *b;
    struct watch_client c;

    open_both(&b, &c, &narrow);
    watch_create(c.stream, &(struct watch_request){.key = BYTES_LIT("a")});
    assert_taken(b, &c, "#0 r1 created");
    puts_of_a(b, 4);
    compact(b, 3);
    turns(b);
    assert_taken(b, &c, "#0 r2 +a=v@2");
    turns(b);
    assert_taken(b, &c, "#0 r5 +a=v@3 +a=v@4 +a=v@5");
    close_both(b, &c);
}

/* What was told before a snapshot came is not told again after it, in whatever place the watcher
 * was: in step, or parked and back. */
static void test_nothing_again_after_snapshot(void **state)
{
    struct watch_box *b;
    struct watch_client c, slow;

    open_both(&b, &c, &(struct watch_hub_options){.stream_bytes_max = 1});
    client_open(&slow, b);
    watch_create(c.stream, &(struct watch_request){.key = BYTES_LIT("a"), .start_revision = 1});
    watch_create(slow.stream, &(struct watch_request){.key = BYTES_LIT("a"), .start_revision = 1});
    turns(b);
    assert_taken(b, &c, "#0 r1 created");
    assert_taken(b, &slow, "#0 r1 created");
    puts_of_a(b, 1);
    assert_taken(b, &c, "#0 r2 +a=v@2");
    puts_of_a(b, 1);
    assert_taken(b, &c, "#0 r3 +a=v@3");
    watch_hub_reset(b->hub);
    turns(b);
    assert_taken(b, &c, "");
    assert_taken(b, &slow, "#0 r2 +a=v@2");
    turns(b);
    assert_taken(b, &slow, "#0 r3 +a=v@3");
    watch_hub_reset(b->hub);
    puts_of_a(b, 1);
    assert_taken(b, &c, "#0 r4 +a=v@4");
    assert_taken(b, &slow, "#0 r4 +a=v@4");
    watch_stream_close(slow.stream);
    close_both(b, &c);
}

/* A cancellation leaves nothing of a watcher behind, wherever it is, at once and without a turn. */
static void test_cancel_frees_at_once(void **state)
{
    /* 1 to 3: in step at the head, ahead of it, behind it; 4 is overtaken, 5 parked */
    static const int64_t starts[] = {0, 99, 4};
    struct watch_request q = {.key = BYTES_LIT("a"), .id = 5};
    struct watch_box *b;
    struct watch_client c;

    open_both(&b, &c, &narrow);
    watch_create(c.stream, &q);
    puts_of_a(b, 4); /* the second finds no room */
    compact(b, 3);
    q.start_revision = 2;
    q.id = 4;
    watch_create(c.stream, &q);
    turns(b);
    for (q.id = 1; q.id <= 3; q.id++) {
        q.start_revision = starts[q.id - 1];
        watch_create(c.stream, &q);
    }
    assert_int_equal(c.stream->watchers.len, 5);
    assert_int_equal(b->hub->head.index.n_sets + b->hub->head.ahead.len, 2);
    assert_false(list_empty(&c.stream->parked) || list_empty(&b->hub->behind));
    for (int64_t id = 1; id <= 5; id++)
        watch_cancel(c.stream, id);
    assert_int_equal(c.stream->watchers.len, 0);
    assert_int_equal(c.stream->n_slow, 0);
    assert_true(list_empty(&c.stream->parked) && list_empty(&b->hub->behind));
    assert_int_equal(b->hub->head.index.n_sets, 0);
    assert_int_equal(b->hub->head.ahead.len, 0);
    close_both(b, &c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compacted_while_parked),
        cmocka_unit_test(test_compacted_up_to_parked),
        cmocka_unit_test(test_nothing_again_after_snapshot),
        cmocka_unit_test(test_cancel_frees_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
