/* SPDX-License-Identifier: Apache-2.0 */
/* RangeStream: how many keys each message has, and what the last one says. */
#include "server/test_box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static int setup(void **state)
{
    *state = box_start();
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    return 0;
}

static void fill(struct box *b, int n, const char *value)
{
    for (int i = 0; i < n; i++) {
        char *key = (char *)arena_alloc(&b->arena, 8);
        snprintf(key, 8, "k%03d", i);
        assert_int_equal(box_put(b, key, value), OUTCOME_OK);
    }
}

static Etcdserverpb__RangeRequest request(void)
{
    Etcdserverpb__RangeRequest q = ETCDSERVERPB__RANGE_REQUEST__INIT;

    q.key = pb_of("k");
    q.range_end = pb_of("l");
    return q;
}

/* "10 20 5{r36 #35}": the number of keys of each message; header, more and count where present. */
static void text_message(struct buf *text, const Etcdserverpb__RangeResponse *r)
{
    buf_printf(text, "%s%zu", text->len > 0 ? " " : "", r->n_kvs);
    if (r->header)
        buf_printf(text, "{r%" PRId64 "%s", r->header->revision, r->more ? " more" : "");
    if (r->count)
        buf_printf(text, " #%" PRId64, r->count);
    if (r->header)
        buf_append_str(text, "}");
    else
        assert_false(r->more);
}

struct collected {
    struct buf text;
    struct buf keys;
};

static enum outcome collect_next(struct range_stream *rs, struct collected *c, bool *ret_last)
{
    struct buf message = BUF_NULL;
    enum outcome outcome = range_stream_next(rs, &message, ret_last);

    if (outcome == OUTCOME_OK) {
        Etcdserverpb__RangeStreamResponse *r =
            etcdserverpb__range_stream_response__unpack(NULL, message.len, message.data);
        assert_true(r && r->range_response);
        text_message(&c->text, r->range_response);
        for (size_t i = 0; i < r->range_response->n_kvs; i++) {
            const Mvccpb__KeyValue *kv = r->range_response->kvs[i];
            buf_printf(&c->keys, "%.*s ", (int)kv->key.len, (const char *)kv->key.data);
        }
        etcdserverpb__range_stream_response__free_unpacked(r, NULL);
    } else {
        assert_int_equal(message.len, 0);
    }
    buf_deinit(&message);
    return outcome;
}

static void assert_stream(struct box *b, const Etcdserverpb__RangeRequest *q, const char *expected)
{
    struct range_stream *rs = range_stream_new(b->s, q);
    struct collected c = {BUF_NULL, BUF_NULL};
    bool last = false;

    while (!last)
        assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_string_equal(buf_cstr(&c.text), expected);
    buf_deinit(&c.text);
    buf_deinit(&c.keys);
    range_stream_free(rs);
}

static void test_chunks(void **state)
{
    struct box *b = *state;
    Etcdserverpb__RangeRequest q = request();

    assert_stream(b, &q, "0{r1}");
    fill(b, 35, "v");
    assert_stream(b, &q, "10 20 5{r36 #35}");
    q.limit = 25;
    assert_stream(b, &q, "10 15{r36 more #35}");
    q.limit = 35;
    assert_stream(b, &q, "10 20 5{r36 #35}");
    q.limit = 10;
    assert_stream(b, &q, "10{r36 more #35}");
    q.limit = 3;
    assert_stream(b, &q, "3{r36 more #35}");
    q.limit = 36;
    assert_stream(b, &q, "10 20 5{r36 #35}");
    q.limit = -1; /* everything in one message */
    assert_stream(b, &q, "35{r36 #35}");
    q.limit = 0;
    q.count_only = true;
    assert_stream(b, &q, "0{r36 #35}");
    q.count_only = false;
    q.range_end = pb_of("");
    q.key = pb_of("k007");
    assert_stream(b, &q, "1{r36 #1}");
    q.range_end = (ProtobufCBinaryData){1, (uint8_t *)(uintptr_t) "\0"};
    assert_stream(b, &q, "10 18{r36 #28}");
    q.revision = 20;
    assert_stream(b, &q, "10 2{r36 #12}");
}

/* Chunks grow while they are small and shrink when they are large, by the bytes of a message. */
static void test_chunk_sizes(void **state)
{
    struct box *b = *state;
    Etcdserverpb__RangeRequest q = request();
    char *value = mem_alloc(1001);

    memset(value, 'x', 1000);
    fill(b, 70, value);
    free(value);
    b->config.max_request_bytes = 40000; /* below 20,000: twice as many; above 80,000: half */
    assert_stream(b, &q, "10 20 20 20{r71 #70}");
    b->config.max_request_bytes = 5000;
    assert_stream(b, &q, "10 5 5 5 5 5 5 5 5 5 5 5 5{r71 #70}");
    b->config.max_request_bytes = 100;
    assert_stream(b, &q,
                  "10 5 2 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 "
                  "1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1{r71 #70}");
}

/* Writes in between are not seen; a compaction ends it. */
static void test_pinned(void **state)
{
    struct box *b = *state;
    Etcdserverpb__RangeRequest q = request();
    struct collected c = {BUF_NULL, BUF_NULL};
    struct call call;
    bool last = false;

    fill(b, 35, "v");
    struct range_stream *rs = range_stream_new(b->s, &q);
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_int_equal(box_put(b, "k0105", "between"), OUTCOME_OK);
    call_delete(b, &call, "k020", NULL);
    assert_int_equal(call_run(b, &call), OUTCOME_OK);
    while (!last)
        assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_string_equal(buf_cstr(&c.text), "10 20 5{r36 #35}");
    assert_non_null(strstr(buf_cstr(&c.keys), " k010 k011 "));
    assert_non_null(strstr(buf_cstr(&c.keys), " k019 k020 k021 "));
    range_stream_free(rs);

    last = false;
    rs = range_stream_new(b->s, &q);
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_int_equal(box_put(b, "x", ""), OUTCOME_OK);
    call_compact(b, &call, 39, false);
    assert_int_equal(call_run(b, &call), OUTCOME_OK);
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_COMPACTED);
    range_stream_free(rs);

    q.revision = 100;
    rs = range_stream_new(b->s, &q);
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_FUTURE_REVISION);
    range_stream_free(rs);
    buf_deinit(&c.text);
    buf_deinit(&c.keys);
}

/* etcd's oddity: sorted within each chunk, and the next chunk starts behind the last sorted key. */
static void test_unordered_target(void **state)
{
    struct box *b = *state;
    Etcdserverpb__RangeRequest q = request();

    fill(b, 30, "v");
    q.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VERSION;
    assert_int_equal(box_put(b, "k000", "w"), OUTCOME_OK); /* the last of its chunk, and cut off */
    assert_stream(b, &q, "10 19{r32 #29}");
    /* Now k000 is the last one sent, and all behind it come again. */
    assert_int_equal(box_put(b, "k010", "w"), OUTCOME_OK);
    assert_int_equal(box_put(b, "k010", "w"), OUTCOME_OK);
    struct range_stream *rs = range_stream_new(b->s, &q);
    struct collected c = {BUF_NULL, BUF_NULL};
    bool last = false;
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_string_equal(buf_cstr(&c.keys), "k001 k002 k003 k004 k005 k006 k007 k008 k009 k000 ");
    buf_clear(&c.keys);
    assert_int_equal(collect_next(rs, &c, &last), OUTCOME_OK);
    assert_false(last);
    assert_non_null(strstr(buf_cstr(&c.keys), "k001 "));
    range_stream_free(rs);
    buf_deinit(&c.text);
    buf_deinit(&c.keys);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(test_chunks), T(test_chunk_sizes), T(test_pinned),
                                       T(test_unordered_target)};
    log_level_min = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
