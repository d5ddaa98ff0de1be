/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer protocol's codecs behind a pipe, for comparison with etcd's own; and their speed.
 *
 *     peer_wire            commands on stdin, answers on stdout
 *     peer_wire --bench    nanoseconds of an append of 100 entries of 300 bytes
 *
 * A command is a letter, a u32 length and so many bytes; an answer a number, a u32 length and
 * bytes. All numbers are big-endian.
 *
 *     m  raftpb.Message               read; what it is written as (nothing, if an entry is of an
 *                                     unknown type). Number: the outcome of the reading + 16 times
 *                                     that of the writing
 *     o  kind, u64 local, u64 remote  opens a stream (kind 0 message, 1 msgapp)
 *     r  bytes of an HTTP response    read as that stream: { u32 length, raftpb.Message }*.
 *                                     Number: 1 more is expected, 0 the body is complete, 2 not
 *                                     HTTP, 3 not the codec, 16 + n refused by the head
 *     w  raftpb.Message               a chunk of that stream. Number: the outcome
 *     h                               a chunk with a link heartbeat
 *     q  kind, u64 member, u64 cluster, u64 to, u64 body bytes, host
 *                                     a request's head (kind as above, 2 POST /raft, 3 snapshot)
 *     s  raftpb.Message               a snapshot's envelope. Number: the outcome
 *     j  JSON                         members, read and written. Number: the outcome
 */
#include <stdio.h>
#include <stdlib.h>

#include "api/peer_header.h"
#include "api/peer_stream.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/member_json.h"

enum { COMMAND_BYTES_MAX = 256 << 20 };

static struct {
    struct peer_reply reply;
    struct peer_stream_reader reader;
    struct peer_stream_writer writer;
} stream;

/* ---- messages ---- */

static int message_write(const struct raft_message *m, struct buf *out)
{
    return m->type == RAFT_MSG_SNAP ? peer_snapshot_encode(m, out) : peer_message_encode(m, out);
}

static int run_message(struct bytes in, struct buf *out)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};
    int read = peer_message_decode(in, &m), written = 0;

    if (read != PEER_MESSAGE_E_WIRE && !m.has_unknown_entry)
        written = message_write(&m.raft, out);
    return read + 16 * written;
}

static int run_snapshot(struct bytes in, struct buf *out)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    (void)peer_message_decode(in, &m);
    return peer_snapshot_encode(&m.raft, out);
}

/* ---- streams ---- */

static int run_open(struct bytes in)
{
    check(in.len == 17);
    struct peer_stream_options options = {.kind = (enum peer_stream_kind)in.data[0],
                                          .local = u64_be_get(in.data + 1),
                                          .remote = u64_be_get(in.data + 9)};
    peer_reply_deinit(&stream.reply);
    peer_stream_reader_deinit(&stream.reader);
    peer_reply_init(&stream.reply, PEER_REPLY_STREAM);
    peer_stream_reader_init(&stream.reader, &options);
    peer_stream_writer_init(&stream.writer, options.kind);
    return 0;
}

static bool messages_read(struct bytes body, struct buf *out)
{
    const struct peer_message *m = NULL;
    int r;

    while ((r = peer_stream_read(&stream.reader, &body, &m)) == 0) {
        size_t begin = out->len;
        buf_append_u32_be(out, 0);
        check(peer_message_encode(&m->raft, out) == 0);
        u32_be_put(out->data + begin, (uint32_t)(out->len - begin - sizeof(uint32_t)));
    }
    return r == PEER_STREAM_MORE;
}

static int run_read(struct bytes in, struct buf *out)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    int r = peer_reply_read(&stream.reply, &in, &body);

    if (r == PEER_REPLY_HEAD) {
        int refused = peer_stream_reply_check(&stream.reply.head);
        if (refused != 0)
            return 16 + refused;
        r = peer_reply_read(&stream.reply, &in, &body);
    }
    if (r == PEER_REPLY_WRONG)
        return 2;
    return messages_read(buf_bytes(&body), out) ? r : 3;
}

static int run_write(struct bytes in, struct buf *out)
{
    _cleanup_(peer_message_deinit) struct peer_message m = {0};

    check(peer_message_decode(in, &m) == 0);
    size_t begin = peer_chunk_begin(out);
    int r = peer_stream_write(&stream.writer, &m.raft, out);
    peer_chunk_end(out, begin);
    return r;
}

static int run_heartbeat(struct buf *out)
{
    size_t begin = peer_chunk_begin(out);

    peer_stream_write_heartbeat(&stream.writer, out);
    peer_chunk_end(out, begin);
    return 0;
}

/* ---- heads and members ---- */

static int run_request(struct bytes in, struct buf *out)
{
    static const char *const paths[] = {PEER_STREAM_PATH_MESSAGE, PEER_STREAM_PATH_MSGAPP, "/raft",
                                        "/raft/snapshot"};
    _cleanup_(buf_deinit) struct buf path = BUF_NULL;

    check(in.len > 33 && in.data[0] < 4);
    bool is_stream = in.data[0] < 2;
    struct peer_identity identity = {.member_id = u64_be_get(in.data + 1),
                                     .cluster_id = u64_be_get(in.data + 9),
                                     .peer_urls = BYTES_LIT("http://127.0.0.1:1")};
    struct peer_request q = {.method = is_stream ? "GET" : "POST",
                             .host = bytes_of(in.data + 33, in.len - 33),
                             .identity = &identity,
                             .to = u64_be_get(in.data + 17),
                             .content_type = is_stream ? NULL : "application/protobuf",
                             .body = is_stream ? PEER_BODY_NONE : PEER_BODY_LENGTH,
                             .body_bytes = u64_be_get(in.data + 25)};
    buf_append_str(&path, paths[in.data[0]]);
    if (is_stream)
        peer_id_append(&path, identity.member_id);
    q.path = buf_bytes(&path);
    return peer_request_head(out, &q);
}

static int run_members(struct bytes in, struct buf *out)
{
    struct member_list m;
    int r = member_json_list_parse(in, &m);

    if (r != 0)
        return r;
    member_json_list(out, &m);
    member_list_deinit(&m);
    return 0;
}

/* ---- commands ---- */

static int run(char command, struct bytes in, struct buf *out)
{
    switch (command) {
    case 'm': return run_message(in, out);
    case 'o': return run_open(in);
    case 'r': return run_read(in, out);
    case 'w': return run_write(in, out);
    case 'h': return run_heartbeat(out);
    case 'q': return run_request(in, out);
    case 's': return run_snapshot(in, out);
    case 'j': return run_members(in, out);
    }
    check(false);
    return 0;
}

static void commands(void)
{
    _cleanup_(buf_deinit) struct buf in = BUF_NULL, out = BUF_NULL;
    uint8_t head[5];

    while (fread(head, 1, sizeof(head), stdin) == sizeof(head)) {
        size_t len = u32_be_get(head + 1);
        check(len <= COMMAND_BYTES_MAX);
        buf_clear(&in);
        buf_clear(&out);
        buf_reserve(&in, len + 1);
        in.len = fread(in.data, 1, len, stdin);
        check(in.len == len);
        head[0] = (uint8_t)run((char)head[0], buf_bytes(&in), &out);
        u32_be_put(head + 1, (uint32_t)out.len);
        fwrite(head, 1, sizeof(head), stdout);
        if (out.len > 0)
            fwrite(out.data, 1, out.len, stdout);
        fflush(stdout);
    }
}

/* ---- speed ---- */

enum { BENCH_ENTRIES = 100, BENCH_ENTRY_BYTES = 300, BENCH_ROUNDS = 20000 };

static void bench_report(const char *what, uint64_t begin_ns, size_t bytes)
{
    double ns = (double)(clock_mono_ns() - begin_ns) / BENCH_ROUNDS;

    printf("%-28s %7.1f ns an entry, %6.2f us a message of %zu bytes\n", what, ns / BENCH_ENTRIES,
           ns / 1000, bytes);
}

/* piece: how many bytes come at a time. */
static void bench_read(const char *what, enum peer_stream_kind kind, struct bytes all, size_t piece)
{
    struct peer_stream_options options = {.kind = kind, .local = 1, .remote = 2};
    struct peer_stream_reader r;
    const struct peer_message *m = NULL;
    size_t n = 0;
    uint64_t begin = clock_mono_ns();

    peer_stream_reader_init(&r, &options);
    for (int i = 0; i < BENCH_ROUNDS; i++) {
        for (size_t at = 0; at < all.len; at += piece) {
            struct bytes in = bytes_of(all.data + at, piece < all.len - at ? piece : all.len - at);
            while (peer_stream_read(&r, &in, &m) == 0)
                n += m->raft.n_entries;
        }
    }
    bench_report(what, begin, all.len);
    check(n == (size_t)BENCH_ROUNDS * BENCH_ENTRIES);
    peer_stream_reader_deinit(&r);
}

static void bench_codec(enum peer_stream_kind kind, const struct raft_message *m)
{
    bool is_message = kind == PEER_STREAM_MESSAGE;
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct peer_stream_writer w;
    uint64_t begin = clock_mono_ns();

    for (int i = 0; i < BENCH_ROUNDS; i++) {
        /* As if it continued what was sent before. */
        w = (struct peer_stream_writer){.kind = kind, .term = m->term, .index = m->index};
        buf_clear(&out);
        check(peer_stream_write(&w, m, &out) == 0);
    }
    bench_report(is_message ? "message, write" : "msgapp, write", begin, out.len);
    bench_read(is_message ? "message, read" : "msgapp, read", kind, buf_bytes(&out), out.len);
    bench_read(is_message ? "message, read by 4096 bytes" : "msgapp, read by 4096 bytes", kind,
               buf_bytes(&out), 4096);
}

static void bench(void)
{
    struct raft_entry entries[BENCH_ENTRIES];
    struct raft_message m = {.type = RAFT_MSG_APP,
                             .to = 0x1fcfdbb73019296f,
                             .from = 0xb71f75320dc06a6c,
                             .term = 3,
                             .log_term = 3,
                             .index = 1000000,
                             .commit = 999999,
                             .entries = entries,
                             .n_entries = BENCH_ENTRIES};

    for (size_t i = 0; i < BENCH_ENTRIES; i++) {
        struct blob *data = blob_new(BENCH_ENTRY_BYTES);
        memset(data->data, 'x', BENCH_ENTRY_BYTES);
        entries[i] = (struct raft_entry){.term = 3, .index = m.index + 1 + i, .data = data};
    }
    bench_codec(PEER_STREAM_MESSAGE, &m);
    bench_codec(PEER_STREAM_MSGAPP, &m);
    for (size_t i = 0; i < BENCH_ENTRIES; i++)
        blob_unref(entries[i].data);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        bench();
        return 0;
    }
    commands();
    peer_reply_deinit(&stream.reply);
    peer_stream_reader_deinit(&stream.reader);
    return 0;
}
