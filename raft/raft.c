/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front of the state machine: making it, the inputs, and the rules about terms that every
 * message meets first.
 *
 * Invariants
 *   (R1) term never falls; vote is for this term.
 *   (R2) a pre-vote request, and a granted pre-vote, never change the term.
 *   (R3) role leader: leader is ourselves, we are a member. Other roles: never ourselves.
 *   (R4) an acknowledgement to ourselves is delivered only when the write that it speaks of is
 *        durable.
 *
 * Thread: the raft thread.
 */
#include "raft/raft.h"

#include <errno.h>

#include "base/mem.h"
#include "raft/core.h"

static const char transfer_context[] = "CampaignTransfer";

void raft_reset(struct raft *r, uint64_t term)
{
    check(term >= r->term);                                                        /* (R1) */
    if (r->term != term) {
        r->term = term;
        r->vote = 0;
    }
    r->leader = 0;
    r->election_elapsed = 0;
    r->heartbeat_elapsed = 0;
    r->election_timeout = r->election_ticks + (uint32_t)rng_below(&r->rng, r->election_ticks);
    r->lead_transferee = 0;
    for (size_t i = 0; i < r->members.len; i++) {
        struct progress *p = &r->members.items[i];
        progress_reset(p, p->id == r->id ? r->log.persisted : 0, raft_log_last(&r->log) + 1);
    }
    r->conf_index_pending = 0;
    r->uncommitted_bytes = 0;
    read_index_leader_gone(r);
}

void raft_become_follower(struct raft *r, uint64_t term, uint64_t leader)
{
    raft_reset(r, term);
    r->leader = leader;
    r->role = RAFT_FOLLOWER;
}

static bool in_lease(const struct raft *r)
{
    return r->check_quorum && r->leader != 0 && r->election_elapsed < r->election_ticks;
}

/* False: the message ends here. */
static bool step_higher_term(struct raft *r, const struct raft_message *m)
{
    bool asks_vote = m->type == RAFT_MSG_VOTE || m->type == RAFT_MSG_PRE_VOTE;
    /*
     * Who hears a leader helps nobody to depose it, unless the leader itself wants it (dissertation
     * 4.2.3).
     */
    if (asks_vote && in_lease(r) && !bytes_equal(m->context, bytes_str(transfer_context)))
        return false;
    /* (R2) */
    if (m->type == RAFT_MSG_PRE_VOTE || (m->type == RAFT_MSG_PRE_VOTE_RESP && !m->reject))
        return true;
    bool from_leader =
        m->type == RAFT_MSG_APP || m->type == RAFT_MSG_HEARTBEAT || m->type == RAFT_MSG_SNAP;
    raft_become_follower(r, m->term, from_leader ? m->from : 0);
    return true;
}

/*
 * An old leader, or a member whose term we have left behind. Silence could lock both of us out: it
 * does not hear of our term by votes (they are ignored in a lease) nor we of its entries. So it is
 * told.
 */
static void step_lower_term(struct raft *r, const struct raft_message *m)
{
    if ((m->type == RAFT_MSG_HEARTBEAT || m->type == RAFT_MSG_APP) &&
        (r->check_quorum || r->pre_vote))
        raft_send(r, (struct raft_message){.type = RAFT_MSG_APP_RESP, .to = m->from});
    else if (m->type == RAFT_MSG_PRE_VOTE)
        raft_send(
            r, (struct raft_message){
                   .type = RAFT_MSG_PRE_VOTE_RESP, .to = m->from, .term = r->term, .reject = true});
}

static int step_leader(struct raft *r, const struct raft_message *m, bool leave_joint)
{
    if (m->type == RAFT_MSG_PROP)
        return replicate_propose(r, m->entries, m->n_entries, leave_joint);
    if (m->type == RAFT_MSG_READ_INDEX)
        return read_index_handle_request(r, m);
    struct progress *p = member_find(r, m->from);
    if (!p)
        return 0;
    switch (m->type) {
    case RAFT_MSG_APP_RESP:
        return replicate_handle_response(r, p, m);
    case RAFT_MSG_HEARTBEAT_RESP:
        return replicate_handle_heartbeat_response(r, p, m);
    case RAFT_MSG_TRANSFER_LEADER:
        return transfer_start(r, m->from);
    default:
        return 0;
    }
}

static int step_from_leader(struct raft *r, const struct raft_message *m)
{
    r->election_elapsed = 0;
    r->leader = m->from;
    if (m->type == RAFT_MSG_APP)
        return follow_handle_append(r, m);
    if (m->type == RAFT_MSG_SNAP)
        return snapshot_handle(r, m);
    return follow_handle_heartbeat(r, m);
}

static int step_candidate(struct raft *r, const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_MSG_APP:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SNAP:
        raft_become_follower(r, m->term, m->from);
        return step_from_leader(r, m);
    case RAFT_MSG_VOTE_RESP:
        return election_handle_vote(r, m->from, m->type, !m->reject);
    case RAFT_MSG_PRE_VOTE_RESP:
        if (!m->reject && m->term != r->term + 1)      /* granted to an earlier question of ours */
            return 0;
        return election_handle_vote(r, m->from, m->type, !m->reject);
    case RAFT_MSG_PROP:
    case RAFT_MSG_READ_INDEX:
        return RAFT_E_DROPPED;
    default:
        return 0;
    }
}

/* Passes a message on to the leader, in the name of who sent it. */
static int forward(struct raft *r, const struct raft_message *m)
{
    if (r->leader == 0)
        return RAFT_E_DROPPED;
    struct raft_message copy = {.type = m->type,
                                .to = r->leader,
                                .from = m->from,
                                .context = raft_keep_bytes(r, m->context)};
    copy.entries = raft_keep_entries(r, m->entries, m->n_entries);
    copy.n_entries = m->n_entries;
    raft_send(r, copy);
    return 0;
}

static int step_follower(struct raft *r, const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_MSG_APP:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_SNAP:
        return step_from_leader(r, m);
    case RAFT_MSG_PROP:
    case RAFT_MSG_READ_INDEX:
        return forward(r, m);
    case RAFT_MSG_TRANSFER_LEADER:
        return transfer_start(r, m->from);
    case RAFT_MSG_TIMEOUT_NOW:
        return election_start(r, true);
    case RAFT_MSG_READ_INDEX_RESP:
        return read_index_handle_response(r, m);
    default:
        return 0;
    }
}

int raft_receive(struct raft *r, const struct raft_message *m, bool leave_joint)
{
    if (m->term > r->term) {
        if (!step_higher_term(r, m))
            return 0;
    } else if (m->term != 0 && m->term < r->term) {
        step_lower_term(r, m);
        return 0;
    }
    if (m->type == RAFT_MSG_VOTE || m->type == RAFT_MSG_PRE_VOTE) {
        election_handle_request(r, m);
        return 0;
    }
    switch (r->role) {
    case RAFT_LEADER:
        return step_leader(r, m, leave_joint);
    case RAFT_CANDIDATE:
    case RAFT_PRE_CANDIDATE:
        return step_candidate(r, m);
    default:
        return step_follower(r, m);
    }
}

static int step_propose(struct raft *r, const struct raft_input *in)
{
    check(in->n_entries > 0);
    if (r->role == RAFT_LEADER)
        return replicate_propose(r, in->entries, in->n_entries, in->leave_joint);
    const struct raft_message m = {.type = RAFT_MSG_PROP,
                                   .entries = (struct raft_entry *)in->entries,
                                   .n_entries = in->n_entries};
    return r->role == RAFT_FOLLOWER ? forward(r, &m) : RAFT_E_DROPPED;
}

int raft_applied(struct raft *r, uint64_t index)
{
    struct raft_log *l = &r->log;
    if (index <= l->applied)
        return 0;
    check(index <= l->committed);
    const struct raft_entry *e = NULL;
    size_t n = 0;
    if (l->applied >= l->base_index) {      /* else a snapshot jumped over them */
        e = raft_log_at(l, l->applied + 1);
        n = (size_t)(index - l->applied);
    }
    uint64_t payload = raft_payload_bytes(e, n);
    r->uncommitted_bytes -= payload < r->uncommitted_bytes ? payload : r->uncommitted_bytes;
    raft_log_applied(l, index, raft_entries_bytes(e, n));
    if (r->conf.auto_leave && index >= r->conf_index_pending && r->role == RAFT_LEADER) {
        /*
         * Refused while leadership is being transferred; then the next leader, or the next applied
         * entry, brings it up again.
         */
        const struct raft_entry leave = {.type = RAFT_ENTRY_CONF_CHANGE_V2};
        replicate_propose(r, &leave, 1, true);
    }
    return 0;
}

static void tick(struct raft *r)
{
    if (r->role == RAFT_LEADER)
        replicate_tick(r);
    else
        election_tick(r);
}

static void unreachable(struct raft *r, uint64_t node)
{
    struct progress *p = member_find(r, node);
    /* Messages in flight are probably lost, so optimism is over. */
    if (r->role == RAFT_LEADER && p && p->state == PROGRESS_REPLICATE)
        progress_become_probe(p);
}

static int forget_leader(struct raft *r)
{
    if (r->role == RAFT_FOLLOWER && r->leader != 0) {
        r->leader = 0;
        read_index_leader_gone(r);
    }
    return 0;
}

static int step_message(struct raft *r, const struct raft_input *in)
{
    return raft_message_valid(r, in->message) ? raft_receive(r, in->message, in->leave_joint)
                                              : RAFT_E_INVALID;
}

int raft_step(struct raft *r, const struct raft_input *in)
{
    check(!r->handing_out);
    switch (in->type) {
    case RAFT_TICK:
        tick(r);
        return 0;
    case RAFT_CAMPAIGN:
        return election_start(r, false);
    case RAFT_PROPOSE:
        return step_propose(r, in);
    case RAFT_MESSAGE:
        return step_message(r, in);
    case RAFT_PERSISTED:
        raft_persisted(r, in->number);
        return 0;
    case RAFT_PERSISTED_SNAPSHOT:
        snapshot_installed(r, in->index);
        return 0;
    case RAFT_APPLIED:
        return raft_applied(r, in->index);
    case RAFT_CONF_APPLIED:
        return member_conf_applied(r, in->conf);
    case RAFT_READ:
        return read_index_start(r, in->read_id);
    case RAFT_TRANSFER:
        return transfer_start(r, in->node);
    case RAFT_FORGET_LEADER:
        return forget_leader(r);
    case RAFT_UNREACHABLE:
        unreachable(r, in->node);
        return 0;
    case RAFT_SNAPSHOT_DONE:
        snapshot_done(r, in->node, in->ok);
        return 0;
    case RAFT_COMPACT:
        raft_pin_messages(r);
        raft_log_compact(&r->log, in->index);
        return 0;
    }
    check(false);
    return 0;
}

static bool config_valid(const struct raft_config *c)
{
    if (c->id == 0 || c->heartbeat_ticks == 0 || c->election_ticks <= c->heartbeat_ticks ||
        c->inflight_messages_max == 0)
        return false;
    if (c->inflight_bytes_max != 0 && c->inflight_bytes_max < c->message_bytes_max)
        return false;
    if (c->conf && !conf_valid(c->conf))
        return false;
    uint64_t term = c->snapshot_term;
    for (size_t i = 0; i < c->n_entries; i++) {
        if (c->entries[i].index != c->snapshot_index + 1 + i || c->entries[i].term < term)
            return false;
        term = c->entries[i].term;
    }
    if (term > c->hard_state.term || c->hard_state.term > RAFT_TERM_MAX)
        return false;
    uint64_t last = c->snapshot_index + c->n_entries;
    return c->snapshot_index <= c->applied && c->applied <= c->hard_state.commit &&
           c->hard_state.commit <= last;
}

static void restore(struct raft *r, const struct raft_config *c)
{
    raft_log_init(&r->log, c->snapshot_index, c->snapshot_term, c->applying_bytes_max);
    raft_log_append(&r->log, c->entries, c->n_entries);
    r->log.persisted = r->log.handed = raft_log_last(&r->log);
    r->log.committed = c->hard_state.commit;
    r->log.applied = r->log.applying = c->applied;
    r->term = c->hard_state.term;
    r->vote = c->hard_state.vote;
    r->lost_tail_index = c->hard_state.lost_tail_index;
    r->lost_tail_term = c->hard_state.lost_tail_term;
    r->hard_state_handed = c->hard_state;
    const struct raft_ids none = {0};
    const struct raft_conf_state empty = {0};
    member_switch(r, c->conf ? c->conf : &empty, &none);
    raft_become_follower(r, r->term, 0);
}

int raft_new(struct raft **ret, const struct raft_config *c)
{
    if (!config_valid(c))
        return -EINVAL;
    struct raft *r = mem_new(struct raft);
    r->id = c->id;
    rng_init(&r->rng, c->seed);
    r->election_ticks = c->election_ticks;
    r->heartbeat_ticks = c->heartbeat_ticks;
    r->pre_vote = c->pre_vote;
    r->check_quorum = c->check_quorum;
    r->message_bytes_max = c->message_bytes_max;
    r->inflight_messages_max = c->inflight_messages_max;
    r->inflight_bytes_max = c->inflight_bytes_max;
    r->uncommitted_bytes_max = c->uncommitted_bytes_max ? c->uncommitted_bytes_max : UINT64_MAX;
    arena_init(&r->arena);
    restore(r, c);
    *ret = r;
    return 0;
}
