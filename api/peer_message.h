/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raftpb.Message on the wire and struct raft_message in memory, both ways.
 *
 * Reading takes what etcd 3.4 to 3.7 write: fields in any order, unknown ones passed over, absent
 * and zero the same. Writing gives what etcd 3.7 writes, and refuses what would make an etcd member
 * abort. Pure functions. Thread: any; a message belongs to one at a time.
 */
#pragma once

#include "raft/types.h"

/* Outcomes. */
enum {
    /* Not a raftpb.Message, or beyond a limit below. The connection is of no use any more. */
    PEER_MESSAGE_E_WIRE = 1,
    /*
     * Well-formed and nothing for raft: of a type that a member sends only to itself, or that we
     * don't know; with an entry of a type that we don't know; a snapshot, which is of use only with
     * its database (peer_stream.h reads both). To be passed over.
     */
    PEER_MESSAGE_E_IGNORED = 2,
    /* Not written, since it could make its receiver abort; peer_message_unsafe() says why. */
    PEER_MESSAGE_E_UNSAFE = 3,
};

enum {
    PEER_MESSAGE_BYTES_MAX = 512 << 20, /* what etcd reads at most */
    /* The envelope of a snapshot, without the database behind it: what etcd reads at most. */
    PEER_SNAPSHOT_BYTES_MAX = 64 << 20,
    /*
     * More than any etcd sends: its appends hold 1 MiB of entries or a single one, and an entry
     * takes 4 bytes at least.
     */
    PEER_MESSAGE_ENTRIES_MAX = 1 << 18,
    PEER_MESSAGE_ENTRIES_KEPT_MAX = 1 << 12, /* room for entries that a cleared message keeps */
    /* Of what we write, so that with all that is around it it is within the limits above. */
    PEER_PAYLOADS_BYTES_MAX = 256 << 20,
    PEER_SNAPSHOT_DATA_BYTES_MAX = 32 << 20,
    PEER_CONTEXT_BYTES_MIN = 8, /* of an answer to a heartbeat, unless empty: etcd reads a number */
};

/*
 * A message that was received. It owns all that raft points to (raft_step() takes references), and
 * must not be moved while it holds one. Zeroed, it is empty.
 */
struct peer_message {
    struct raft_message raft;
    size_t entries_cap;
    size_t encoded_bytes; /* its share of the wire, without the stream's framing */
    bool has_unknown_entry;
    struct raft_snapshot snapshot;
    uint8_t context[RAFT_CONTEXT_MAX];
};

void peer_message_deinit(struct peer_message *m);
void peer_message_clear(struct peer_message *m); /* empty again; keeps some memory */

/*
 * Reads a message into m, whatever was in it. What it points to is copied, each payload once. After
 * 0 and PEER_MESSAGE_E_IGNORED m is complete; whether it may change anything is for raft_step() to
 * say.
 */
int peer_message_decode(struct bytes encoded, struct peer_message *m);
/* Is m one of those that are ignored? */
bool peer_message_ignored(const struct peer_message *m);
/*
 * Appends an entry. False: it is not one, or there are PEER_MESSAGE_ENTRIES_MAX of them. An entry
 * of a type that we don't know is appended and sets has_unknown_entry.
 */
bool peer_message_add_entry(struct peer_message *m, struct bytes encoded);

/* NULL: m may be sent. Else why not; a static text for the log. */
const char *peer_message_unsafe(const struct raft_message *m);
/*
 * Appends the bytes of m to out. It may be of any type but SNAP: without a database behind it a
 * snapshot makes etcd abort. On PEER_MESSAGE_E_UNSAFE out is as it was.
 */
int peer_message_encode(const struct raft_message *m, struct buf *out);
/* A SNAP, as it stands before the database in the body of POST /raft/snapshot: length, message. */
int peer_snapshot_encode(const struct raft_message *m, struct buf *out);

/* One raftpb.Entry. */
size_t peer_entry_size(const struct raft_entry *e);
/* e takes peer_entry_size(e) bytes at p; returns the end. */
uint8_t *peer_entry_put(uint8_t *p, const struct raft_entry *e);
