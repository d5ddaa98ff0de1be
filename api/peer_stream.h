/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two stream codecs of the peer protocol, as machines that take bytes in any pieces, and with
 * them the beginning of a snapshot's body:
 *
 *     message   { u64 length, raftpb.Message }*
 *     snapshot  one of them; the database follows it
 *     msgapp    appends only ("msgappv2"):
 *                   00                                                  link heartbeat
 *                   01 u64 n { u64 length, raftpb.Entry }*n u64 commit  continues the last append
 *                   02 u64 length, raftpb.Message                       any other
 *
 * A link heartbeat on `message` is a HEARTBEAT from 0 to 0. Numbers are big-endian. Both ends of
 * msgapp keep the term and the index of the last append, 0 and 0 at first, so that a continuing one
 * needs to say neither.
 *
 * Above them is HTTP: a body in chunks, whose borders mean nothing. Thread: any, one per stream.
 */
#pragma once

#include "api/peer_message.h"

enum peer_stream_kind { PEER_STREAM_MESSAGE, PEER_STREAM_MSGAPP, PEER_STREAM_SNAPSHOT };

/* ---- reading ---- */

/* Outcomes. */
enum {
    PEER_STREAM_MORE = 1,  /* the bytes are used up */
    PEER_STREAM_WRONG = 2, /* not the protocol, or beyond a limit: the connection is to be closed */
};

enum {
    /* Of one message by default; etcd's own appends are 1 MiB or a single entry. */
    PEER_STREAM_BYTES_MAX = 64 << 20,
    PEER_STREAM_KEPT_BYTES_MAX = 1 << 20, /* memory that a reader keeps between messages */
};

struct peer_stream_options {
    enum peer_stream_kind kind;
    uint64_t local; /* msgapp: whom its appends are to, and from */
    uint64_t remote;
    uint64_t bytes_max; /* of one message; 0: PEER_STREAM_BYTES_MAX or PEER_SNAPSHOT_BYTES_MAX */
};

struct peer_stream_reader {
    struct peer_stream_options options;
    uint64_t term; /* of the last append */
    uint64_t index;
    int state;
    uint64_t wanted;             /* bytes of the piece that the state waits for */
    uint64_t entries_left;       /* of the append at hand, */
    uint64_t bytes_left;         /* and what they may take */
    struct buf piece;            /* its beginning, if it came in several */
    struct peer_message message; /* at hand, */
    bool handed_out;             /* and the caller's for now */
    uint64_t n_heartbeats;       /* seen so far: of the link, */
    uint64_t n_ignored;          /* and messages passed over (PEER_MESSAGE_E_IGNORED) */
};

void peer_stream_reader_init(struct peer_stream_reader *r, const struct peer_stream_options *o);
void peer_stream_reader_deinit(struct peer_stream_reader *r);
/*
 * Takes bytes from *in up to the end of a message. 0: *ret is the message, borrowed until the next
 * call; of a snapshot's body it may be of any type (etcd's answer to another is 400 "wrong raft
 * message type"). After PEER_STREAM_WRONG the reader is of no more use.
 */
int peer_stream_read(struct peer_stream_reader *r, struct bytes *in,
                     const struct peer_message **ret);

/* ---- writing: message and msgapp ---- */

struct peer_stream_writer {
    enum peer_stream_kind kind;
    uint64_t term;
    uint64_t index;
};

void peer_stream_writer_init(struct peer_stream_writer *w, enum peer_stream_kind kind);
/*
 * Appends m to out; to a msgapp stream goes APP only, to no stream SNAP. On PEER_MESSAGE_E_UNSAFE
 * neither out nor the writer has changed.
 */
int peer_stream_write(struct peer_stream_writer *w, const struct raft_message *m, struct buf *out);
void peer_stream_write_heartbeat(const struct peer_stream_writer *w, struct buf *out);

/*
 * Puts what is appended to out between the two into one chunk of an HTTP body (nothing: no chunk).
 * peer_chunk_begin() returns what peer_chunk_end() wants.
 */
size_t peer_chunk_begin(struct buf *out);
void peer_chunk_end(struct buf *out, size_t begin);
#define PEER_CHUNK_LAST BYTES_LIT("0\r\n\r\n")
