/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes in from other members (see peer_door.h): looked at, then given to the raft worker or
 * the snapshot worker. Whether a message makes sense is for raft to judge; here it only must be one
 * for this member, from a member that is not removed, of a type that travels.
 *
 * Thread: any.
 */
#include "server/peer_door.h"

#include "base/log.h"
#include "server/member_json.h"
#include "server/server_private.h"
#include "server/snapshot.h"

static bool travels(enum raft_message_type type)
{
    switch (type) {
    case RAFT_MSG_HUP:
    case RAFT_MSG_BEAT:
    case RAFT_MSG_UNREACHABLE:
    case RAFT_MSG_SNAP_STATUS:
    case RAFT_MSG_CHECK_QUORUM: return false;
    default: return true;
    }
}

static enum peer_verdict judge(struct server *s, const struct raft_message *m)
{
    if (atomic_load_explicit(&s->state.stopping, memory_order_acquire))
        return PEER_STOPPED;
    if (m->to != s->state.member_id)
        return PEER_WRONG_TO;
    if (server_peer_is_removed(s, m->from))
        return PEER_REMOVED;
    return travels(m->type) ? PEER_OK : PEER_INVALID;
}

enum peer_verdict server_peer_message(struct server *s, const struct raft_message *message)
{
    enum peer_verdict verdict = judge(s, message);

    if (verdict != PEER_OK)
        return verdict;
    if (message->type == RAFT_MSG_SNAP)
        return PEER_INVALID; /* without its data */
    return node_message(s->node, message) ? PEER_OK : PEER_FULL;
}

void server_peer_unreachable(struct server *s, uint64_t member_id)
{
    node_unreachable(s->node, member_id);
}

/* ---- snapshots ---- */

char *server_peer_snapshot_path(struct server *s, uint64_t index)
{
    return snapshots_path(s->snapshots, index);
}

enum peer_verdict server_peer_snapshot_then(struct server *s, const struct raft_message *message,
                                            const char *path, void (*done)(void *arg, bool ok),
                                            void *arg)
{
    enum peer_verdict verdict = judge(s, message);

    if (verdict == PEER_OK && (message->type != RAFT_MSG_SNAP || !message->snapshot))
        verdict = PEER_INVALID;
    if (verdict != PEER_OK) {
        snapshots_refuse(s->snapshots, path);
        return verdict;
    }
    log_info("received database snapshot", LOG_ID("local-member-id", s->state.member_id),
             LOG_ID("from", message->from), LOG_U64("snapshot-index", message->snapshot->index));
    return snapshots_take(s->snapshots, message, path, done, arg) ? PEER_OK : PEER_FULL;
}

enum peer_verdict server_peer_snapshot(struct server *s, const struct raft_message *message,
                                       const char *path)
{
    return server_peer_snapshot_then(s, message, path, NULL, NULL);
}

/* ---- the member table ---- */

bool server_peer_is_removed(struct server *s, uint64_t member_id)
{
    bool removed;

    store_hold(&s->store);
    removed = members_is_removed(s->store.members, member_id);
    store_release(&s->store);
    return removed;
}

bool server_peer_is_known(struct server *s, uint64_t member_id)
{
    bool known;

    store_hold(&s->store);
    known = members_find(s->store.members, member_id, NULL);
    store_release(&s->store);
    return known;
}

struct others {
    uint64_t local_id;
    void (*visit)(void *arg, const struct member *m);
    void *arg;
};

static void visit_other(void *arg, const struct member *m)
{
    const struct others *o = arg;

    if (m->id != o->local_id)
        o->visit(o->arg, m);
}

void server_peer_visit(struct server *s, void (*visit)(void *arg, const struct member *m),
                       void *arg)
{
    struct others others = {.local_id = s->state.member_id, .visit = visit, .arg = arg};

    store_hold(&s->store);
    members_visit(s->store.members, visit_other, &others);
    store_release(&s->store);
}

void server_peer_members(struct server *s, struct buf *response)
{
    struct member_list list;

    store_hold(&s->store);
    members_copy(s->store.members, &list);
    store_release(&s->store);
    member_json_list(response, &list);
    member_list_deinit(&list);
}
