/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes in from other members: the server's door for api/peer_*.c and the simulator's network.
 *
 * Thread: any, unless a function says otherwise. Nothing here blocks on raft or the disk.
 */
#pragma once

#include "raft/types.h"
#include "server/member.h"
#include "server/server.h"
#include "server/transport.h"

enum peer_verdict {
    PEER_OK,
    PEER_FULL,     /* the raft worker's inbox is full: dropped */
    PEER_WRONG_TO, /* addressed to another member */
    PEER_REMOVED,  /* the sender was removed from the cluster */
    PEER_INVALID,  /* a SNAP without its file, a message of a local type */
    PEER_STOPPED,
};

/* A message for raft. The server copies what it keeps and takes references to payloads. A SNAP
 * comes through server_peer_snapshot() only. */
enum peer_verdict server_peer_message(struct server *s, const struct raft_message *message);
void server_peer_unreachable(struct server *s, uint64_t member_id);
/* Another member has said that this one was removed from the cluster: it stops, with etcd's "the
 * member has been permanently removed from the cluster". May come more than once. */
void server_peer_we_are_removed(struct server *s);

/* Where an incoming snapshot's body goes: a new name in the data directory, in a form that the next
 * start removes if it was not finished. Free with free(). The receiver writes and syncs the file
 * (or directory of table files), then calls server_peer_snapshot(). */
char *server_peer_snapshot_path(struct server *s, uint64_t index);
/* message: the SNAP. path: complete and durable; the server's from here on, also when it is
 * refused. PEER_OK: it will be looked at, made into a database, and given to raft. */
enum peer_verdict server_peer_snapshot(struct server *s, const struct raft_message *message,
                                       const char *path);
/* Likewise, and after PEER_OK done() comes once, on any thread and maybe before this returns, when
 * raft has it (true), or when it was damaged, outdated or the server stops (false). Whoever answers
 * the sender only then keeps it from cutting its log, and from asking for entries that are not here
 * yet; a database of a gigabyte takes some ten seconds. */
enum peer_verdict server_peer_snapshot_then(struct server *s, const struct raft_message *message,
                                            const char *path, void (*done)(void *arg, bool ok),
                                            void *arg);

/* ---- the member table ---- */

bool server_peer_is_removed(struct server *s, uint64_t member_id);
bool server_peer_is_known(struct server *s, uint64_t member_id);
/* Every member but this one, ascending; under the table's lock: visit must be short. */
void server_peer_visit(struct server *s, void (*visit)(void *arg, const struct member *m),
                       void *arg);

/* ---- /members/promote/<id> ---- */

/* The request goes through server_promote_member(), with the Authorization header as its token.
 * This says what to answer when it is finished: returns the HTTP status, appends the body, which is
 * JSON or else plain text. */
int server_peer_promote_answer(const struct request *request, enum outcome outcome,
                               struct buf *body, bool *ret_json);
/* /downgrade/enabled, behind a read index. */
bool server_peer_downgrade_enabled(struct server *s);

/* ---- bodies of the peer port's own paths ---- */

/* /members: the JSON array. */
void server_peer_members(struct server *s, struct buf *response);
/* /members/hashkv: JSON. A scan: on the scan pool. revision 0: the latest. */
enum outcome server_peer_hash_kv(struct server *s, int64_t revision, struct buf *response);
