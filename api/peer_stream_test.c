/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream codecs: bytes of real etcd members, any message in pieces of any size, limits that
 * hold before anything is allocated, and streams with every single bit wrong.
 */
#include "api/peer_stream.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "api/http_parse.h"
#include "api/peer_message_test.h"

#define TO "10 e7f4d59289baf7970f"
#define FROM "18 efd2e480f3f6f6e71f"

static const uint64_t to = 0x0f2fddd092557a67, from = 0x1fcfdbb73019296f;
static const struct peer_stream_options message_options = {.kind = PEER_STREAM_MESSAGE},
                                        msgapp_options = {.kind = PEER_STREAM_MSGAPP,
                                                          .local = 0x0f2fddd092557a67,
                                                          .remote = 0x1fcfdbb73019296f};

/* What a stream gave: each message as bytes behind its length, then how it ended. */
struct result {
    struct buf messages;
    size_t n;
    uint64_t n_heartbeats, n_ignored;
    int outcome;
};

static void result_deinit(struct result *r)
{
    buf_deinit(&r->messages);
}

/* Feeds the bytes in pieces of so many or (0) of random length, each in memory of its own. */
static void feed(const struct peer_stream_options *options, struct bytes all, size_t piece,
                 struct rng *rng, struct result *ret)
{
    struct peer_stream_reader reader;
    const struct peer_message *m = NULL;

    *ret = (struct result){.outcome = PEER_STREAM_MORE};
    peer_stream_reader_init(&reader, options);
    for (size_t i = 0, n; i < all.len && ret->outcome == PEER_STREAM_MORE; i += n) {
        n = piece ? piece : 1 + (size_t)rng_below(rng, 40);
        n = n < all.len - i ? n : all.len - i;
        uint8_t *exact = mem_alloc_raw(n);
        memcpy(exact, all.data + i, n);
        struct bytes in = bytes_of(exact, n);
        while ((ret->outcome = peer_stream_read(&reader, &in, &m)) == 0) {
            size_t begin = ret->messages.len;
            buf_append_u64_be(&ret->messages, 0);
            /* What may not be written counts all the same. */
            peer_message_encode(&m->raft, &ret->messages);
            u64_be_put(ret->messages.data + begin, ret->messages.len - begin - 8);
            ret->n++;
        }
        free(exact);
    }
    ret->n_heartbeats = reader.n_heartbeats;
    ret->n_ignored = reader.n_ignored;
    peer_stream_reader_deinit(&reader);
}

static void assert_results_equal(const struct result *a, const struct result *b)
{
    assert_int_equal(a->outcome, b->outcome);
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_heartbeats, b->n_heartbeats);
    assert_int_equal(a->n_ignored, b->n_ignored);
    assert_true(bytes_equal(buf_bytes(&a->messages), buf_bytes(&b->messages)));
}

/* The next message out of all of *in. */
static const struct raft_message *next(struct peer_stream_reader *r, struct bytes *in)
{
    const struct peer_message *m = NULL;

    assert_int_equal(peer_stream_read(r, in, &m), 0);
    return &m->raft;
}

static void assert_used_up(struct peer_stream_reader *r, struct bytes *in)
{
    const struct peer_message *m = NULL;

    assert_int_equal(peer_stream_read(r, in, &m), PEER_STREAM_MORE);
    assert_int_equal(in->len, 0);
    assert_null(m);
}

static void test_golden_message(void **state)
{
    _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
    _cleanup_(buf_deinit) struct buf b = BUF_NULL, written = BUF_NULL;
    struct peer_stream_writer w;

    test_hex(&b, "00000000 0000001a 08 08" TO FROM "20 02 40 06"
                 "00000000 00000002 08 08");
    struct bytes in = buf_bytes(&b);
    peer_stream_reader_init(&r, &message_options);
    const struct raft_message *m = next(&r, &in);
    const struct raft_message expected = {
        .type = RAFT_MSG_HEARTBEAT, .to = to, .from = from, .term = 2, .commit = 6};
    assert_true(test_messages_equal(m, &expected));
    peer_stream_writer_init(&w, PEER_STREAM_MESSAGE);
    assert_int_equal(peer_stream_write(&w, m, &written), 0);
    assert_used_up(&r, &in);
    assert_int_equal(r.n_heartbeats, 1);
    peer_stream_write_heartbeat(&w, &written);
    assert_true(bytes_equal(buf_bytes(&written), buf_bytes(&b)));
}

#define PUBLISH                                                                                    \
    "22 37 | aa51 27 08 efd2e480f3f6f6e71f 12 1b 0a 01 'a' 12 16 'http://127.0.0.1:24379'"         \
    "a206 0a 08 efd2e480f3f6f6e71f"

static const char msgapp_golden[] =
    "02 00000000 00000024 | 08 03" TO FROM "20 02 28 01 30 02 3a 04 10 02 18 03 40 02"
    "00"
    "01 00000000 00000002 | 00000000 0000003d | 10 02 18 04" PUBLISH
    "                       00000000 0000003d | 10 02 18 05" PUBLISH "00000000 00000003"
    "01 00000000 00000000 00000000 00000005";

static void test_golden_msgapp(void **state)
{
    _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
    _cleanup_(buf_deinit) struct buf b = BUF_NULL, written = BUF_NULL;
    struct peer_stream_writer w;

    test_hex(&b, msgapp_golden);
    struct bytes in = buf_bytes(&b);
    peer_stream_reader_init(&r, &msgapp_options);
    peer_stream_writer_init(&w, PEER_STREAM_MSGAPP);
    static const uint64_t log_terms[] = {1, 2, 2}, indices[] = {2, 3, 5}, commits[] = {2, 3, 5};
    static const size_t n_entries[] = {1, 2, 0};
    for (int i = 0; i < 3; i++) {
        const struct raft_message *m = next(&r, &in);
        assert_int_equal(m->type, RAFT_MSG_APP);
        assert_int_equal(m->to, to);
        assert_int_equal(m->from, from);
        assert_int_equal(m->term, 2);
        assert_int_equal(m->log_term, log_terms[i]);
        assert_int_equal(m->index, indices[i]);
        assert_int_equal(m->commit, commits[i]);
        assert_int_equal(m->n_entries, n_entries[i]);
        assert_int_equal(peer_stream_write(&w, m, &written), 0);
        if (i == 0)
            peer_stream_write_heartbeat(&w, &written);
    }
    assert_used_up(&r, &in);
    assert_int_equal(r.n_heartbeats, 1);
    assert_true(bytes_equal(buf_bytes(&written), buf_bytes(&b)));
}

/* What continues an append continues it also if that one was passed over. */
static void test_ignored_append(void **state)
{
    _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    test_hex(&b, "02 00000000 00000026 | 08 03" TO FROM
                 "20 02 28 01 30 02 3a 06 08 07 10 02 18 03 40 02"
                 "01 00000000 00000001 | 00000000 00000006 08 07 10 02 18 04 | 00000000 00000002"
                 "01 00000000 00000000 00000000 00000005");
    struct bytes in = buf_bytes(&b);
    peer_stream_reader_init(&r, &msgapp_options);
    const struct raft_message *m = next(&r, &in);
    assert_int_equal(r.n_ignored, 2);
    assert_int_equal(m->index, 4);
    assert_int_equal(m->log_term, 2);
    assert_int_equal(m->commit, 5);
    assert_used_up(&r, &in);
}

static void test_ignored_messages(void **state)
{
    _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    test_hex(&b, "00000000 00000000"                         /* empty: a local HUP */
                 "00000000 00000008 08 07 10 01 18 02 20 03" /* a bare snapshot */
                 "00000000 00000008 08 63 10 01 18 02 20 03" /* a later version's */
                 "00000000 00000008 08 0e 10 01 18 02 20 03");
    struct bytes in = buf_bytes(&b);
    peer_stream_reader_init(&r, &message_options);
    assert_int_equal(next(&r, &in)->type, RAFT_MSG_TIMEOUT_NOW);
    assert_int_equal(r.n_ignored, 3);
    assert_used_up(&r, &in);
}

static void test_snapshot_body(void **state)
{
    struct peer_stream_options options = {.kind = PEER_STREAM_SNAPSHOT};
    uint64_t ids[] = {1, 2};
    struct raft_snapshot s = {.index = 9, .term = 3, .conf.voters = {ids, 2}};
    struct raft_message sent = {
        .type = RAFT_MSG_SNAP, .to = 1, .from = 2, .term = 3, .snapshot = &s};
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    assert_int_equal(peer_snapshot_encode(&sent, &b), 0);
    test_hex(&b, "00000000 00000008 08 0e 10 01 18 02 20 03"); /* an unwanted type */
    buf_append_str(&b, "database");
    for (size_t cut = 0; cut <= b.len - 24; cut++) {
        struct peer_stream_reader r;
        const struct peer_message *m = NULL;
        struct bytes in = bytes_of(b.data, cut), rest = bytes_of(b.data + cut, b.len - cut);
        peer_stream_reader_init(&r, &options);
        int first = peer_stream_read(&r, &in, &m);
        assert_int_equal(first == 0, cut == b.len - 24);
        if (first == 0)
            rest = bytes_of(rest.data - in.len, rest.len + in.len);
        else
            assert_int_equal(peer_stream_read(&r, &rest, &m), 0);
        assert_true(test_messages_equal(&m->raft, &sent));
        assert_int_equal(next(&r, &rest)->type, RAFT_MSG_TIMEOUT_NOW);
        assert_true(bytes_equal(rest, BYTES_LIT("database")));
        peer_stream_reader_deinit(&r);
    }
}

/* ---- limits ---- */

static int read_hex(const struct peer_stream_options *options, const char *hex,
                    struct peer_stream_reader *r)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    const struct peer_message *m = NULL;

    test_hex(&b, hex);
    struct bytes in = buf_bytes(&b);
    peer_stream_reader_init(r, options);
    return peer_stream_read(r, &in, &m);
}

static void test_limits(void **state)
{
    static const struct peer_stream_options small = {.kind = PEER_STREAM_MSGAPP, .bytes_max = 9},
                                            large = {.kind = PEER_STREAM_MESSAGE,
                                                     .bytes_max = UINT64_MAX},
                                            snapshot = {.kind = PEER_STREAM_SNAPSHOT};
    static const struct {
        const struct peer_stream_options *options;
        const char *hex;
        int outcome;
    } cases[] = {
        {&message_options, "00000000 04000000", PEER_STREAM_MORE},
        {&message_options, "00000000 04000001", PEER_STREAM_WRONG},
        {&message_options, "ffffffff ffffffff", PEER_STREAM_WRONG},
        {&large, "00000000 20000000", PEER_STREAM_MORE},
        {&large, "00000000 20000001", PEER_STREAM_WRONG},
        {&snapshot, "00000000 04000000", PEER_STREAM_MORE},
        {&snapshot, "00000000 04000001", PEER_STREAM_WRONG},
        {&msgapp_options, "03", PEER_STREAM_WRONG},
        {&msgapp_options, "02 00000000 04000000", PEER_STREAM_MORE},
        {&msgapp_options, "02 00000000 04000001", PEER_STREAM_WRONG},
        {&msgapp_options, "01 00000000 00040000", PEER_STREAM_MORE},
        {&msgapp_options, "01 00000000 00040001", PEER_STREAM_WRONG},
        {&msgapp_options, "01 ffffffff ffffffff", PEER_STREAM_WRONG},
        {&msgapp_options, "01 00000000 00000001 ffffffff ffffffff", PEER_STREAM_WRONG},
        {&msgapp_options, "01 00000000 00000001 00000000 00000001 08", PEER_STREAM_WRONG},
        {&small,
         "01 00000000 00000003 00000000 00000004 10011801 00000000 00000004 10011802"
         "00000000 00000001",
         PEER_STREAM_MORE},
        {&small,
         "01 00000000 00000003 00000000 00000004 10011801 00000000 00000004 10011802"
         "00000000 00000002",
         PEER_STREAM_WRONG},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
        if (read_hex(cases[i].options, cases[i].hex, &r) != cases[i].outcome)
            fail_msg("case %zu: %s", i, cases[i].hex);
        /* Nothing was allocated for what was only announced. */
        assert_in_range(r.piece.cap + r.message.entries_cap * sizeof(struct raft_entry), 0, 1024);
    }
}

/* A large message does not make a reader large for ever. */
static void test_memory_is_given_back(void **state)
{
    _cleanup_(peer_stream_reader_deinit) struct peer_stream_reader r;
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct raft_entry e = {.data = blob_new(3 * PEER_STREAM_KEPT_BYTES_MAX)};
    struct raft_message m = {
        .type = RAFT_MSG_PROP, .to = 1, .from = 2, .entries = &e, .n_entries = 1};
    struct peer_stream_writer w;

    memset(e.data->data, 'x', e.data->len);
    peer_stream_writer_init(&w, PEER_STREAM_MESSAGE);
    assert_int_equal(peer_stream_write(&w, &m, &b), 0);
    peer_stream_reader_init(&r, &message_options);
    struct bytes first = bytes_of(b.data, b.len / 2),
                 second = bytes_of(b.data + b.len / 2, b.len - b.len / 2);
    assert_used_up(&r, &first);
    assert_in_range(r.piece.cap, b.len / 2 - 8, 2 * b.len);
    assert_true(test_messages_equal(next(&r, &second), &m));
    assert_in_range(r.piece.cap, 0, PEER_STREAM_KEPT_BYTES_MAX);
    assert_used_up(&r, &second);
    assert_int_equal(r.message.raft.n_entries, 0); /* the payload is let go of */
    blob_unref(e.data);
}

/* ---- writing ---- */

static void test_unsafe_is_not_written(void **state)
{
    struct raft_entry e = {.term = 2, .index = 6};
    const struct raft_message append = {.type = RAFT_MSG_APP,
                                        .to = 1,
                                        .from = 2,
                                        .term = 2,
                                        .log_term = 2,
                                        .index = 5,
                                        .entries = &e,
                                        .n_entries = 1};
    const struct raft_message heartbeat = {
        .type = RAFT_MSG_HEARTBEAT, .to = 1, .from = 2, .term = 2};
    const struct raft_message snap = {.type = RAFT_MSG_SNAP, .to = 1, .from = 2, .term = 2};
    struct raft_message gap = append;
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct peer_stream_writer w;

    gap.index = 4;
    peer_stream_writer_init(&w, PEER_STREAM_MSGAPP);
    assert_int_equal(peer_stream_write(&w, &append, &out), 0);
    assert_int_equal(out.data[0], 2);
    struct peer_stream_writer before = w;
    size_t len = out.len;
    assert_int_equal(peer_stream_write(&w, &gap, &out), PEER_MESSAGE_E_UNSAFE);
    assert_int_equal(peer_stream_write(&w, &heartbeat, &out), PEER_MESSAGE_E_UNSAFE);
    assert_int_equal(out.len, len);
    assert_memory_equal(&before, &w, sizeof(w));
    peer_stream_writer_init(&w, PEER_STREAM_MESSAGE);
    assert_int_equal(peer_stream_write(&w, &snap, &out), PEER_MESSAGE_E_UNSAFE);
    assert_int_equal(peer_stream_write(&w, &gap, &out), PEER_MESSAGE_E_UNSAFE);
    assert_int_equal(out.len, len);
}

static void test_chunks(void **state)
{
    static const struct http_response head = {.status = 200, .is_chunked = true};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL, body = BUF_NULL;
    struct http_error error;
    struct http_body b;

    size_t begin = peer_chunk_begin(&out);
    peer_chunk_end(&out, begin);
    assert_int_equal(out.len, 0);
    for (size_t len = 1; len < 70000; len = len * 3 + 1) {
        begin = peer_chunk_begin(&out);
        buf_append_zero(&out, len);
        peer_chunk_end(&out, begin);
        assert_int_equal(out.len - begin, len + 12);
    }
    assert_memory_equal(out.data, "00000001\r\n\0\r\n00000004\r\n", 23);
    buf_append_bytes(&out, PEER_CHUNK_LAST);
    http_body_init_response(&b, &head);
    struct bytes in = buf_bytes(&out);
    assert_int_equal(http_body_read(&b, &in, &body, &error), 0);
    assert_int_equal(in.len, 0);
    assert_int_equal(body.len, 1 + 4 + 13 + 40 + 121 + 364 + 1093 + 3280 + 9841 + 29524);
}

/* ---- at random ---- */

/*
 * A stream of appends as leaders send them: mostly each behind the last, some of them empty, with
 * jumps and new terms.
 */
static void random_append(struct rng *rng, struct peer_message *m, const struct raft_message *last)
{
    test_message(rng, RAFT_MSG_APP, m);
    if (rng_below(rng, 5) == 0 || last->term == 0)
        return;
    for (size_t i = 0; i < m->raft.n_entries; i++)
        blob_unref(m->raft.entries[i].data);
    m->raft.n_entries = 0;
    m->raft.to = to;
    m->raft.from = from;
    m->raft.term = last->term;
    m->raft.log_term = rng_below(rng, 8) ? last->term : last->log_term;
    m->raft.index = last->index;
    m->raft.reject = false;
    m->raft.reject_hint = 0;
    m->raft.context = BYTES_NULL;
    test_append(rng, m, (size_t)rng_below(rng, 6));
}

/* Fills b with a stream and messages with what it says; returns how many messages it holds. */
static size_t random_stream(struct rng *rng, enum peer_stream_kind kind, size_t n, struct buf *b,
                            struct buf *messages, size_t *ret_continuing)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};
    struct raft_message last = {0};
    struct peer_stream_writer w;

    *ret_continuing = 0;
    peer_stream_writer_init(&w, kind);
    for (size_t i = 0; i < n; i++) {
        if (rng_below(rng, 4) == 0)
            peer_stream_write_heartbeat(&w, b);
        if (kind == PEER_STREAM_MSGAPP)
            random_append(rng, &m, &last);
        else
            test_message(rng, test_types[rng_below(rng, TEST_TYPES)], &m);
        size_t at = b->len, begin = messages->len;
        assert_int_equal(peer_stream_write(&w, &m.raft, b), 0);
        *ret_continuing += kind == PEER_STREAM_MSGAPP && b->data[at] == 1;
        last = (struct raft_message){.term = m.raft.term,
                                     .log_term = m.raft.log_term,
                                     .index = m.raft.index + m.raft.n_entries};
        buf_append_u64_be(messages, 0);
        assert_int_equal(peer_message_encode(&m.raft, messages), 0);
        u64_be_put(messages->data + begin, messages->len - begin - 8);
    }
    return n;
}

static void test_pieces(void **state)
{
    struct rng rng;
    uint64_t seed = 20261129;

    print_message("seed %llu\n", (unsigned long long)seed);
    rng_init(&rng, seed);
    for (int round = 0; round < 60; round++) {
        const struct peer_stream_options *options = round % 2 ? &msgapp_options : &message_options;
        _cleanup_(buf_deinit) struct buf b = BUF_NULL, messages = BUF_NULL;
        size_t continuing;
        size_t n = random_stream(&rng, options->kind, 40, &b, &messages, &continuing);
        if (round % 2)
            assert_in_range(continuing, 5, 40);
        static const size_t pieces[] = {1 << 30, 1, 2, 7, 0, 0};
        for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
            _cleanup_(result_deinit) struct result r;
            feed(options, buf_bytes(&b), pieces[i], &rng, &r);
            assert_int_equal(r.outcome, PEER_STREAM_MORE);
            assert_int_equal(r.n, n);
            assert_true(bytes_equal(buf_bytes(&r.messages), buf_bytes(&messages)));
        }
    }
}

/* Whatever bit is wrong: an outcome, and the same whether the bytes come at once or one by one. */
static void test_every_bit(void **state)
{
    struct rng rng;

    rng_init(&rng, 11);
    for (int round = 0; round < 4; round++) {
        const struct peer_stream_options *options = round % 2 ? &msgapp_options : &message_options;
        _cleanup_(buf_deinit) struct buf b = BUF_NULL, messages = BUF_NULL;
        size_t continuing;
        if (round < 2)
            random_stream(&rng, options->kind, 2, &b, &messages, &continuing);
        else if (round == 2)
            test_hex(&b, "00000000 0000001a 08 08" TO FROM "20 02 40 06 00000000 00000002 08 08");
        else
            test_hex(&b, msgapp_golden);
        for (size_t bit = 0; bit < 8 * b.len; bit++) {
            _cleanup_(result_deinit) struct result whole, pieces;
            b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            feed(options, buf_bytes(&b), b.len, &rng, &whole);
            feed(options, buf_bytes(&b), bit % 2, &rng, &pieces);
            assert_results_equal(&whole, &pieces);
            b.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_message),
        cmocka_unit_test(test_golden_msgapp),
        cmocka_unit_test(test_ignored_append),
        cmocka_unit_test(test_ignored_messages),
        cmocka_unit_test(test_snapshot_body),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_memory_is_given_back),
        cmocka_unit_test(test_unsafe_is_not_written),
        cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_every_bit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
