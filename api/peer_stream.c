/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream codecs (see peer_stream.h).
 *
 * The reader waits for one piece of known length after the other. A piece that lies in the input as
 * a whole is read in place; one that comes in several parts is put together in a buffer that grows
 * with what arrives.
 *
 *     message   LENGTH(8) ──> BODY(length) ──> LENGTH              (snapshot: the same, once)
 *     msgapp    KIND(1) ──00──> KIND
 *                 ├──02──> LENGTH(8) ──> BODY(length) ──> KIND
 *                 └──01──> COUNT(8) ─┬─> ENTRY_LENGTH(8) ──> ENTRY(length) ─┬─> COMMIT(8) ──> KIND
 *                                    │        └──────<── entries left ──<───┤
 *                                    └───────────>── no entries ──>─────────┘
 *
 * Invariants:
 *  1. No memory is taken for bytes that have not arrived, whatever length or number announces them.
 *  2. term and index follow every append, also one that is passed over: what continues it does.
 *  3. An append that leaves out where it continues is written only where the reader stands.
 *
 * Thread: any, one per stream.
 */
#include "api/peer_stream.h"

#include "base/check.h"

enum {
    STATE_KIND,
    STATE_LENGTH,
    STATE_BODY,
    STATE_COUNT,
    STATE_ENTRY_LENGTH,
    STATE_ENTRY,
    STATE_COMMIT
};
enum { KIND_HEARTBEAT = 0, KIND_CONTINUE = 1, KIND_MESSAGE = 2 };

/* ---- reading ---- */

static void expect(struct peer_stream_reader *r, int state, uint64_t wanted)
{
    r->state = state;
    r->wanted = wanted;
}

static void expect_next(struct peer_stream_reader *r)
{
    if (r->options.kind == PEER_STREAM_MSGAPP)
        expect(r, STATE_KIND, 1);
    else
        expect(r, STATE_LENGTH, sizeof(uint64_t));
}

void peer_stream_reader_init(struct peer_stream_reader *r, const struct peer_stream_options *o)
{
    bool is_snapshot = o->kind == PEER_STREAM_SNAPSHOT;

    *r = (struct peer_stream_reader){.options = *o};
    if (r->options.bytes_max == 0)
        r->options.bytes_max = is_snapshot ? PEER_SNAPSHOT_BYTES_MAX : PEER_STREAM_BYTES_MAX;
    if (r->options.bytes_max > PEER_MESSAGE_BYTES_MAX)
        r->options.bytes_max = PEER_MESSAGE_BYTES_MAX;
    expect_next(r);
}

void peer_stream_reader_deinit(struct peer_stream_reader *r)
{
    peer_message_deinit(&r->message);
    buf_deinit(&r->piece);
}

static void piece_drop(struct peer_stream_reader *r)
{
    buf_clear(&r->piece);
    if (r->piece.cap > PEER_STREAM_KEPT_BYTES_MAX)
        buf_deinit(&r->piece);
}

/* True: *ret is the piece that the state waits for, until piece_drop(). */
static bool piece_take(struct peer_stream_reader *r, struct bytes *in, struct bytes *ret)
{
    size_t rest = (size_t)r->wanted - r->piece.len, n = rest < in->len ? rest : in->len;

    *ret = bytes_of(in->data, n);
    if (n > 0)
        *in = bytes_of(in->data + n, in->len - n);
    if (n == r->wanted)
        return true;
    buf_append_bytes(&r->piece, *ret);
    *ret = buf_bytes(&r->piece);
    return n == rest;
}

static void follow(struct peer_stream_reader *r, const struct raft_message *m)
{
    r->term = m->term;
    r->index = m->n_entries > 0 ? m->entries[m->n_entries - 1].index : m->index;
}

static bool is_link_heartbeat(const struct raft_message *m)
{
    return m->type == RAFT_MSG_HEARTBEAT && m->from == 0 && m->to == 0;
}

/* The message at hand is complete: 0 hands it out, PEER_STREAM_MORE goes on behind it. */
static int message_end(struct peer_stream_reader *r, const struct peer_message **ret)
{
    const struct peer_message *m = &r->message;

    r->handed_out = true;
    expect_next(r);
    if (r->options.kind == PEER_STREAM_SNAPSHOT ||
        (!is_link_heartbeat(&m->raft) && !peer_message_ignored(m))) {
        *ret = m;
        return 0;
    }
    if (is_link_heartbeat(&m->raft))
        r->n_heartbeats++;
    else
        r->n_ignored++;
    return PEER_STREAM_MORE;
}

static int read_kind(struct peer_stream_reader *r, uint8_t kind)
{
    switch (kind) {
    case KIND_HEARTBEAT: r->n_heartbeats++; return PEER_STREAM_MORE;
    case KIND_CONTINUE: expect(r, STATE_COUNT, sizeof(uint64_t)); return PEER_STREAM_MORE;
    case KIND_MESSAGE: expect(r, STATE_LENGTH, sizeof(uint64_t)); return PEER_STREAM_MORE;
    default: return PEER_STREAM_WRONG;
    }
}

static int read_length(struct peer_stream_reader *r, uint64_t length)
{
    if (length > r->options.bytes_max)
        return PEER_STREAM_WRONG;
    expect(r, STATE_BODY, length);
    return PEER_STREAM_MORE;
}

static int read_body(struct peer_stream_reader *r, struct bytes body,
                     const struct peer_message **ret)
{
    if (peer_message_decode(body, &r->message) == PEER_MESSAGE_E_WIRE)
        return PEER_STREAM_WRONG;
    if (r->options.kind == PEER_STREAM_MSGAPP)
        follow(r, &r->message.raft);
    return message_end(r, ret);
}

static void expect_entry_or_commit(struct peer_stream_reader *r)
{
    expect(r, r->entries_left > 0 ? STATE_ENTRY_LENGTH : STATE_COMMIT, sizeof(uint64_t));
}

static int read_count(struct peer_stream_reader *r, uint64_t count)
{
    if (count > PEER_MESSAGE_ENTRIES_MAX)
        return PEER_STREAM_WRONG;
    struct raft_message *m = &r->message.raft;
    m->type = RAFT_MSG_APP;
    m->from = r->options.remote;
    m->to = r->options.local;
    m->term = r->term;
    m->log_term = r->term;
    m->index = r->index;
    r->entries_left = count;
    r->bytes_left = r->options.bytes_max;
    expect_entry_or_commit(r);
    return PEER_STREAM_MORE;
}

static int read_entry_length(struct peer_stream_reader *r, uint64_t length)
{
    if (length > r->bytes_left)
        return PEER_STREAM_WRONG;
    r->bytes_left -= length;
    expect(r, STATE_ENTRY, length);
    return PEER_STREAM_MORE;
}

static int read_entry(struct peer_stream_reader *r, struct bytes entry)
{
    if (!peer_message_add_entry(&r->message, entry))
        return PEER_STREAM_WRONG;
    r->message.encoded_bytes += entry.len;
    r->index++;
    r->entries_left--;
    expect_entry_or_commit(r);
    return PEER_STREAM_MORE;
}

static int read_commit(struct peer_stream_reader *r, uint64_t commit,
                       const struct peer_message **ret)
{
    r->message.raft.commit = commit;
    return message_end(r, ret);
}

static int read_piece(struct peer_stream_reader *r, struct bytes piece,
                      const struct peer_message **ret)
{
    switch (r->state) {
    case STATE_KIND: return read_kind(r, piece.data[0]);
    case STATE_LENGTH: return read_length(r, u64_be_get(piece.data));
    case STATE_BODY: return read_body(r, piece, ret);
    case STATE_COUNT: return read_count(r, u64_be_get(piece.data));
    case STATE_ENTRY_LENGTH: return read_entry_length(r, u64_be_get(piece.data));
    case STATE_ENTRY: return read_entry(r, piece);
    case STATE_COMMIT: return read_commit(r, u64_be_get(piece.data), ret);
    }
    check(false);
    return PEER_STREAM_WRONG;
}

int peer_stream_read(struct peer_stream_reader *r, struct bytes *in,
                     const struct peer_message **ret)
{
    struct bytes piece;
    int outcome = PEER_STREAM_MORE;

    while (outcome == PEER_STREAM_MORE) {
        if (r->handed_out)
            peer_message_clear(&r->message);
        r->handed_out = false;
        if (!piece_take(r, in, &piece))
            return PEER_STREAM_MORE;
        outcome = read_piece(r, piece, ret);
        piece_drop(r);
    }
    return outcome;
}

/* ---- writing ---- */

void peer_stream_writer_init(struct peer_stream_writer *w, enum peer_stream_kind kind)
{
    check(kind == PEER_STREAM_MESSAGE || kind == PEER_STREAM_MSGAPP);
    *w = (struct peer_stream_writer){.kind = kind};
}

static int write_message(const struct raft_message *m, struct buf *out)
{
    size_t begin = out->len;

    buf_append_u64_be(out, 0);
    int outcome = peer_message_encode(m, out);
    if (outcome != 0)
        out->len = begin;
    else
        u64_be_put(out->data + begin, out->len - begin - sizeof(uint64_t));
    return outcome;
}

static void write_continuing(const struct raft_message *m, struct buf *out)
{
    buf_append_u8(out, KIND_CONTINUE);
    buf_append_u64_be(out, m->n_entries);
    for (size_t i = 0; i < m->n_entries; i++) {
        size_t size = peer_entry_size(&m->entries[i]);
        buf_reserve(out, sizeof(uint64_t) + size);
        u64_be_put(out->data + out->len, size);
        uint8_t *end = peer_entry_put(out->data + out->len + sizeof(uint64_t), &m->entries[i]);
        out->len = (size_t)(end - out->data);
    }
    buf_append_u64_be(out, m->commit);
}

static int write_append(struct peer_stream_writer *w, const struct raft_message *m, struct buf *out)
{
    if (m->type != RAFT_MSG_APP || peer_message_unsafe(m))
        return PEER_MESSAGE_E_UNSAFE;
    if (w->index == m->index && w->term == m->log_term && m->log_term == m->term) {
        write_continuing(m, out);
    } else {
        buf_append_u8(out, KIND_MESSAGE);
        int outcome = write_message(m, out);
        check(outcome == 0);
    }
    w->term = m->term;
    w->index = m->index + m->n_entries;
    return 0;
}

int peer_stream_write(struct peer_stream_writer *w, const struct raft_message *m, struct buf *out)
{
    return w->kind == PEER_STREAM_MSGAPP ? write_append(w, m, out) : write_message(m, out);
}

void peer_stream_write_heartbeat(const struct peer_stream_writer *w, struct buf *out)
{
    static const uint8_t heartbeat[] = {0, 0, 0, 0, 0, 0, 0, 2, 8, RAFT_MSG_HEARTBEAT};

    if (w->kind == PEER_STREAM_MSGAPP)
        buf_append_u8(out, KIND_HEARTBEAT);
    else
        buf_append(out, heartbeat, sizeof(heartbeat));
}

/* ---- chunks ---- */

enum { CHUNK_HEAD_BYTES = 10 }; /* eight digits and the line's end */

size_t peer_chunk_begin(struct buf *out)
{
    size_t begin = out->len;

    buf_append_zero(out, CHUNK_HEAD_BYTES);
    return begin;
}

void peer_chunk_end(struct buf *out, size_t begin)
{
    static const char digits[] = "0123456789abcdef";
    size_t len = out->len - begin - CHUNK_HEAD_BYTES;

    check(len <= UINT32_MAX);
    if (len == 0) {
        out->len = begin;
        return;
    }
    for (unsigned i = 0; i < 8; i++)
        out->data[begin + i] = (uint8_t)digits[len >> (28 - 4 * i) & 15];
    memcpy(out->data + begin + 8, "\r\n", 2);
    buf_append_str(out, "\r\n");
}
