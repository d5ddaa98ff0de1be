/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream of any bytes: the first chooses the codec, the second the size of the pieces.
 * Properties: in pieces and as a whole the same messages and the same end; nothing is allocated for
 * what has only been announced; what a writer makes of the messages is read as the same again.
 */
#include "api/peer_message_test.h"
#include "api/peer_stream.h"
#include "tests/fuzz/fuzz.h"

enum { MESSAGES_MAX = 64 };

struct result {
    struct buf messages; /* those that may be written, one behind the other */
    size_t n;
    uint64_t n_heartbeats, n_ignored;
    int outcome;
};

static void take(struct result *ret, const struct raft_message *m, struct peer_stream_writer *w,
                 struct buf *written)
{
    ret->n++;
    buf_append_u8(&ret->messages, (uint8_t)m->n_entries);
    if (peer_message_encode(m, &ret->messages) == 0)
        (void)peer_stream_write(w, m, written);
}

static void feed(const struct peer_stream_options *options, struct bytes all, size_t piece,
                 struct result *ret, struct buf *written)
{
    struct peer_stream_reader reader;
    struct peer_stream_writer w;
    const struct peer_message *m = NULL;

    *ret = (struct result){.outcome = PEER_STREAM_MORE};
    peer_stream_reader_init(&reader, options);
    peer_stream_writer_init(&w, options->kind == PEER_STREAM_MSGAPP ? PEER_STREAM_MSGAPP
                                                                    : PEER_STREAM_MESSAGE);
    for (size_t i = 0, n; i < all.len && ret->outcome == PEER_STREAM_MORE; i += n) {
        n = piece < all.len - i ? piece : all.len - i;
        struct bytes in = bytes_of(all.data + i, n);
        while ((ret->outcome = peer_stream_read(&reader, &in, &m)) == 0)
            take(ret, &m->raft, &w, written);
        check(reader.piece.cap <= 2 * all.len + 64);
        check(reader.message.entries_cap <= 2 * all.len + 64);
    }
    ret->n_heartbeats = reader.n_heartbeats;
    ret->n_ignored = reader.n_ignored;
    peer_stream_reader_deinit(&reader);
}

static void check_written(const struct peer_stream_options *options, struct bytes written)
{
    _cleanup_(buf_deinit) struct buf again = BUF_NULL;
    struct result r;

    if (written.len == 0)
        return;
    feed(options, written, written.len, &r, &again);
    check(r.outcome == PEER_STREAM_MORE && r.n > 0);
    check(bytes_equal(written, buf_bytes(&again)));
    buf_deinit(&r.messages);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(buf_deinit) struct buf written = BUF_NULL, written_too = BUF_NULL;
    struct result whole, pieces;

    if (size < 3)
        return 0;
    struct peer_stream_options options = {
        .kind = (enum peer_stream_kind)(data[0] % 3), .local = 1, .remote = 2};
    struct bytes all = bytes_of(data + 2, size - 2);
    feed(&options, all, all.len, &whole, &written);
    feed(&options, all, 1 + data[1] % 32, &pieces, &written_too);
    check(whole.outcome == pieces.outcome && whole.n == pieces.n);
    check(whole.n_heartbeats == pieces.n_heartbeats && whole.n_ignored == pieces.n_ignored);
    check(bytes_equal(buf_bytes(&whole.messages), buf_bytes(&pieces.messages)));
    check_written(&options, buf_bytes(&written));
    buf_deinit(&whole.messages);
    buf_deinit(&pieces.messages);
    return 0;
}
