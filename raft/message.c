/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a message from another member must look like before it may change anything. Whatever passes
 * here is handled by total functions; whatever does not is RAFT_E_INVALID and leaves no trace.
 * Thread: the raft thread.
 */
#include "raft/core.h"

static bool from_network(enum raft_message_type type)
{
    switch (type) {
    case RAFT_MSG_PROP:
    case RAFT_MSG_APP:
    case RAFT_MSG_APP_RESP:
    case RAFT_MSG_VOTE:
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_SNAP:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_HEARTBEAT_RESP:
    case RAFT_MSG_TRANSFER_LEADER:
    case RAFT_MSG_TIMEOUT_NOW:
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_PRE_VOTE_RESP:
        return true;
    default:
        return false;
    }
}

/* Consecutive behind the previous entry, terms that never fall and never exceed the sender's. */
static bool append_valid(const struct raft_message *m)
{
    uint64_t index = m->index;
    uint64_t term = m->log_term;
    if (term > m->term || m->index > RAFT_INDEX_MAX)
        return false;
    for (size_t i = 0; i < m->n_entries; i++) {
        const struct raft_entry *e = &m->entries[i];
        if (e->index != ++index || e->term < term || e->term > m->term || e->term == 0)
            return false;
        term = e->term;
    }
    return true;
}

static bool snapshot_valid(const struct raft_message *m)
{
    const struct raft_snapshot *s = m->snapshot;
    return s && s->index > 0 && s->index <= RAFT_INDEX_MAX && s->term > 0 && s->term <= m->term &&
           s->conf.voters.len > 0 && conf_valid(&s->conf);
}

static bool is_response(enum raft_message_type type)
{
    return type == RAFT_MSG_APP_RESP || type == RAFT_MSG_VOTE_RESP ||
           type == RAFT_MSG_HEARTBEAT_RESP || type == RAFT_MSG_READ_INDEX_RESP ||
           type == RAFT_MSG_PRE_VOTE_RESP;
}

bool raft_message_valid(const struct raft *r, const struct raft_message *m)
{
    if (!from_network(m->type) || m->to != r->id || m->from == 0 || m->from == r->id ||
        m->term > RAFT_TERM_MAX)
        return false;
    if (m->term == 0 && m->type != RAFT_MSG_PROP && m->type != RAFT_MSG_READ_INDEX)
        return false;
    if (m->context.len > RAFT_CONTEXT_MAX || (m->n_entries > 0 && !m->entries))
        return false;
    if (is_response(m->type) && !member_find(r, m->from))      /* nobody that we could have asked */
        return false;
    switch (m->type) {
    case RAFT_MSG_APP:
        return append_valid(m);
    case RAFT_MSG_SNAP:
        return snapshot_valid(m);
    case RAFT_MSG_PROP:
        return m->n_entries > 0;
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
        return m->n_entries == 1;
    default:
        return true;
    }
}
