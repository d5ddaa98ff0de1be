/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words in which raft is shown. An entry is term/index, type unless normal, data; a message is
 * from->to, name, term, and whatever of its fields says something. Data is quoted when it is short
 * and printable. Thread: any.
 */
#include "raft/describe.h"

#include "base/check.h"

enum { DATA_SHOWN_MAX = 24 };

const char *describe_message_type(enum raft_message_type type)
{
    switch (type) {
    case RAFT_MSG_HUP: return "hup";
    case RAFT_MSG_BEAT: return "beat";
    case RAFT_MSG_PROP: return "propose";
    case RAFT_MSG_APP: return "append";
    case RAFT_MSG_APP_RESP: return "append-answer";
    case RAFT_MSG_VOTE: return "vote";
    case RAFT_MSG_VOTE_RESP: return "vote-answer";
    case RAFT_MSG_SNAP: return "snapshot";
    case RAFT_MSG_HEARTBEAT: return "heartbeat";
    case RAFT_MSG_HEARTBEAT_RESP: return "heartbeat-answer";
    case RAFT_MSG_UNREACHABLE: return "unreachable";
    case RAFT_MSG_SNAP_STATUS: return "snapshot-status";
    case RAFT_MSG_CHECK_QUORUM: return "check-quorum";
    case RAFT_MSG_TRANSFER_LEADER: return "transfer-leader";
    case RAFT_MSG_TIMEOUT_NOW: return "timeout-now";
    case RAFT_MSG_READ_INDEX: return "read-index";
    case RAFT_MSG_READ_INDEX_RESP: return "read-index-answer";
    case RAFT_MSG_PRE_VOTE: return "pre-vote";
    case RAFT_MSG_PRE_VOTE_RESP: return "pre-vote-answer";
    case RAFT_MSG_FORGET_LEADER: return "forget-leader";
    }
    return "unknown";
}

const char *describe_role(enum raft_role role)
{
    switch (role) {
    case RAFT_FOLLOWER: return "follower";
    case RAFT_PRE_CANDIDATE: return "pre-candidate";
    case RAFT_CANDIDATE: return "candidate";
    case RAFT_LEADER: return "leader";
    }
    return "unknown";
}

static bool printable(const struct blob *data)
{
    for (size_t i = 0; i < data->len; i++)
        if (data->data[i] < 0x20 || data->data[i] > 0x7e || data->data[i] == '"')
            return false;
    return data->len <= DATA_SHOWN_MAX;
}

static void describe_data(struct buf *b, const struct blob *data)
{
    if (!data || data->len == 0)
        return;
    if (printable(data))
        buf_printf(b, " \"%.*s\"", (int)data->len, (const char *)data->data);
    else
        buf_printf(b, " <%zu bytes>", data->len);
}

void describe_entry(struct buf *b, const struct raft_entry *e)
{
    buf_printf(b, "%llu/%llu", (unsigned long long)e->term, (unsigned long long)e->index);
    if (e->type == RAFT_ENTRY_CONF_CHANGE)
        buf_append_str(b, " conf");
    else if (e->type == RAFT_ENTRY_CONF_CHANGE_V2)
        buf_append_str(b, " conf2");
    describe_data(b, e->data);
}

static void describe_u64(struct buf *b, const char *name, uint64_t v)
{
    buf_printf(b, " %s %llu", name, (unsigned long long)v);
}

static void describe_position(struct buf *b, const char *name, uint64_t term, uint64_t index)
{
    buf_printf(b, " %s %llu/%llu", name, (unsigned long long)term, (unsigned long long)index);
}

static void describe_entries(struct buf *b, const struct raft_message *m)
{
    for (size_t i = 0; i < m->n_entries; i++) {
        buf_append_str(b, i == 0 ? " [" : ", ");
        if (m->type == RAFT_MSG_PROP)
            buf_append_str(b, "?");
        else
            describe_entry(b, &m->entries[i]);
        if (m->type == RAFT_MSG_PROP)
            describe_data(b, m->entries[i].data);
    }
    if (m->n_entries > 0)
        buf_append_str(b, "]");
}

static void describe_read(struct buf *b, const struct raft_message *m)
{
    const struct blob *data = m->n_entries == 1 ? m->entries[0].data : NULL;
    if (data && data->len == sizeof(uint64_t))
        describe_u64(b, "read", u64_be_get(data->data));
    if (m->type == RAFT_MSG_READ_INDEX_RESP)
        describe_u64(b, "index", m->index);
}

static void describe_append_answer(struct buf *b, const struct raft_message *m)
{
    if (m->reject) {
        describe_u64(b, "rejected", m->index);
        describe_position(b, "hint", m->log_term, m->reject_hint);
    } else {
        describe_u64(b, "index", m->index);
    }
}

static void describe_context(struct buf *b, struct bytes context)
{
    if (context.len == sizeof(uint64_t))
        describe_u64(b, "round", __builtin_bswap64(u64_be_get(context.data)));
    else if (context.len > 0)
        buf_printf(b, " (%.*s)", (int)context.len, (const char *)context.data);
}

void describe_message(struct buf *b, const struct raft_message *m)
{
    buf_printf(b, "%llu->%llu %s", (unsigned long long)m->from, (unsigned long long)m->to,
               describe_message_type(m->type));
    if (m->term != 0)
        describe_u64(b, "term", m->term);
    switch (m->type) {
    case RAFT_MSG_APP:
        describe_position(b, "after", m->log_term, m->index);
        describe_u64(b, "commit", m->commit);
        describe_entries(b, m);
        break;
    case RAFT_MSG_APP_RESP:
        describe_append_answer(b, m);
        break;
    case RAFT_MSG_VOTE:
    case RAFT_MSG_PRE_VOTE:
        describe_position(b, "last", m->log_term, m->index);
        break;
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_PRE_VOTE_RESP:
        buf_append_str(b, m->reject ? " refused" : " granted");
        break;
    case RAFT_MSG_HEARTBEAT:
        describe_u64(b, "commit", m->commit);
        break;
    case RAFT_MSG_SNAP:
        describe_position(b, "at", m->snapshot->term, m->snapshot->index);
        buf_append_str(b, " ");
        describe_conf(b, &m->snapshot->conf);
        break;
    case RAFT_MSG_PROP:
        describe_entries(b, m);
        break;
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
        describe_read(b, m);
        break;
    default:
        break;
    }
    describe_context(b, m->context);
}

static void describe_ids(struct buf *b, const char *name, const struct raft_ids *s)
{
    if (s->len == 0)
        return;
    buf_append_str(b, name);
    for (size_t i = 0; i < s->len; i++)
        buf_printf(b, "%s%llu", i == 0 ? "(" : " ", (unsigned long long)s->ids[i]);
    buf_append_str(b, ")");
}

void describe_conf(struct buf *b, const struct raft_conf_state *c)
{
    describe_ids(b, "voters", &c->voters);
    describe_ids(b, " outgoing", &c->voters_outgoing);
    describe_ids(b, " learners", &c->learners);
    describe_ids(b, " learners-next", &c->learners_next);
    if (c->auto_leave)
        buf_append_str(b, " auto-leave");
}

void describe_progress(struct buf *b, const struct raft_progress *p)
{
    static const char *const states[] = {"probe", "replicate", "snapshot"};
    check(p->state < sizeof(states) / sizeof(states[0]));
    buf_printf(b, "%llu %s match %llu next %llu", (unsigned long long)p->id, states[p->state],
               (unsigned long long)p->match, (unsigned long long)p->next);
    if (p->is_learner)
        buf_append_str(b, " learner");
    if (p->paused)
        buf_append_str(b, " paused");
    if (p->snapshot_index > 0)
        describe_u64(b, "pending", p->snapshot_index);
    if (!p->recent_active)
        buf_append_str(b, " inactive");
    if (p->inflight_messages > 0)
        describe_u64(b, "inflight", p->inflight_messages);
}

static void describe_state(struct buf *b, const struct raft_ready *rd, const char *indent)
{
    if (rd->soft_changed)
        buf_printf(b, "%sis %s, leader %llu\n", indent, describe_role(rd->role),
                   (unsigned long long)rd->leader);
    if (rd->hard_state_changed) {
        buf_printf(b, "%sterm %llu vote %llu commit %llu", indent,
                   (unsigned long long)rd->hard_state.term, (unsigned long long)rd->hard_state.vote,
                   (unsigned long long)rd->hard_state.commit);
        if (rd->hard_state.lost_tail_index > 0)
            describe_position(b, "lost tail", rd->hard_state.lost_tail_term,
                              rd->hard_state.lost_tail_index);
        buf_append_str(b, rd->must_sync ? "\n" : " (no sync)\n");
    }
    if (rd->snapshot) {
        buf_printf(b, "%sinstall snapshot %llu/%llu ", indent,
                   (unsigned long long)rd->snapshot->term, (unsigned long long)rd->snapshot->index);
        describe_conf(b, &rd->snapshot->conf);
        buf_append_str(b, "\n");
    }
}

static void describe_list(struct buf *b, const char *indent, const char *verb,
                          const struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_printf(b, "%s%s ", indent, verb);
        describe_entry(b, &entries[i]);
        buf_append_str(b, "\n");
    }
}

static void describe_queue(struct buf *b, const char *indent, const char *verb,
                           const struct raft_message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        buf_printf(b, "%s%s ", indent, verb);
        describe_message(b, &messages[i]);
        buf_append_str(b, "\n");
    }
}

void describe_ready(struct buf *b, const struct raft_ready *rd, const char *indent)
{
    describe_state(b, rd, indent);
    describe_list(b, indent, "write", rd->entries, rd->n_entries);
    describe_queue(b, indent, "send", rd->messages, rd->n_messages);
    describe_queue(b, indent, "send-durable", rd->messages_durable, rd->n_messages_durable);
    describe_list(b, indent, "apply", rd->committed, rd->n_committed);
    for (size_t i = 0; i < rd->n_reads; i++)
        buf_printf(b, "%sread %llu at %llu\n", indent, (unsigned long long)rd->reads[i].id,
                   (unsigned long long)rd->reads[i].index);
    for (size_t i = 0; i < rd->n_reads_lost; i++)
        buf_printf(b, "%sread %llu lost\n", indent, (unsigned long long)rd->reads_lost[i]);
}
