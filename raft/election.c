/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Elections and transfers of leadership (dissertation 3.4, 3.10, 4.2.3 and 9.6).
 *
 *                 timeout                pre-votes of            votes of
 *     follower --------------> pre-candidate ----------> candidate ------> leader
 *        ^                          |         a quorum       |    a quorum   |
 *        |  refused, or a leader    |                        |               |
 *        +--------------------------+------------------------+---------------+
 *                      a higher term, or no quorum for an election timeout
 *
 * Without pre-vote, and when told by TIMEOUT_NOW, a follower becomes candidate at once.
 *
 * Invariants
 *   (E1) a pre-vote changes neither term nor vote, of the asker nor of the asked.
 *   (E2) one vote per term, durable before it is answered and before it counts for ourselves.
 *   (E3) nobody campaigns who is no voter, awaits a snapshot, or has a committed but unapplied
 *        configuration change: it would count the wrong quorum.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

static const char transfer_context[] = "CampaignTransfer";

bool election_promotable(const struct raft *r)
{
    const struct progress *p = member_find(r, r->id);
    return p && !p->is_learner && !r->log.snapshot;
}

static void become_pre_candidate(struct raft *r)
{
    check(r->role != RAFT_LEADER);
    for (size_t i = 0; i < r->members.len; i++)
        r->members.items[i].vote = QUORUM_VOTE_NONE;
    r->role = RAFT_PRE_CANDIDATE;                                                  /* (E1) */
    r->leader = 0;
    read_index_leader_gone(r);
}

static void become_candidate(struct raft *r)
{
    check(r->role != RAFT_LEADER);
    raft_reset(r, r->term + 1);
    r->vote = r->id;
    r->role = RAFT_CANDIDATE;
}

static void become_leader(struct raft *r)
{
    check(r->role == RAFT_CANDIDATE);
    raft_reset(r, r->term);
    r->leader = r->id;
    r->role = RAFT_LEADER;
    struct progress *self = member_find(r, r->id);
    progress_become_replicate(self);
    self->recent_active = true;
    /*
     * There may be an unapplied change among what we took over; scanning for it is not worth while.
     */
    r->conf_index_pending = raft_log_last(&r->log);
    const struct raft_entry empty = {.type = RAFT_ENTRY_NORMAL};
    /* commits what older terms left: only our own term's entries can be counted */
    check(replicate_append_own(r, &empty, 1));
}

static void campaign(struct raft *r, bool pre, bool transfer)
{
    if (pre)
        become_pre_candidate(r);
    else
        become_candidate(r);
    enum raft_message_type ask = pre ? RAFT_MSG_PRE_VOTE : RAFT_MSG_VOTE;
    uint64_t term = pre ? r->term + 1 : r->term;
    for (size_t i = 0; i < r->members.len; i++) {
        uint64_t id = r->members.items[i].id;
        if (!conf_is_voter(&r->conf, id))
            continue;
        if (id == r->id) {
            raft_self_ack(r, pre ? RAFT_MSG_PRE_VOTE_RESP : RAFT_MSG_VOTE_RESP, term, 0); /* (E2) */
            continue;
        }
        raft_send(r, (struct raft_message){
                         .type = ask,
                         .to = id,
                         .term = term,
                         .index = raft_log_last(&r->log),
                         .log_term = raft_log_last_term(&r->log),
                         .context = transfer ? bytes_str(transfer_context) : BYTES_NULL,
                     });
    }
}

int election_start(struct raft *r, bool transfer)
{
    if (r->role == RAFT_LEADER || !election_promotable(r) || member_unapplied_change(r) ||
        follow_lost_tail(r) || r->term >= RAFT_TERM_MAX) /* (E3) */
        return RAFT_E_NOT_READY;
    /* A transfer needs no pre-vote: we know that we are not coming back from a partition. */
    campaign(r, r->pre_vote && !transfer, transfer);
    return 0;
}

void election_tick(struct raft *r)
{
    r->election_elapsed++;
    if (election_promotable(r) && r->election_elapsed >= r->election_timeout) {
        r->election_elapsed = 0;
        election_start(r, false);
    }
}


static bool may_vote_for(const struct raft *r, const struct raft_message *m)
{
    bool pre = m->type == RAFT_MSG_PRE_VOTE;
    bool can = r->vote == m->from || (r->vote == 0 && r->leader == 0) || (pre && m->term > r->term);
    return can && raft_log_up_to_date(&r->log, m->index, m->log_term);
}

/* A learner answers too: it may have been promoted by an entry that it does not have yet. */
void election_handle_request(struct raft *r, const struct raft_message *m)
{
    bool pre = m->type == RAFT_MSG_PRE_VOTE;
    enum raft_message_type answer = pre ? RAFT_MSG_PRE_VOTE_RESP : RAFT_MSG_VOTE_RESP;
    if (follow_lost_tail(r))
        return;
    if (!may_vote_for(r, m)) {
        raft_send(r, (struct raft_message){
                         .type = answer, .to = m->from, .term = r->term, .reject = true});
        return;
    }
    /*
     * The request's term, not ours: they differ for a pre-vote, and the asker drops answers of an
     * old term.
     */
    raft_send(r, (struct raft_message){.type = answer, .to = m->from, .term = m->term});
    if (!pre) {                                                                    /* (E1) */
        r->election_elapsed = 0;
        r->vote = m->from;
    }
}

static enum quorum_vote vote_of(const void *context, uint64_t id)
{
    const struct progress *p = member_find(context, id);
    return p ? p->vote : QUORUM_VOTE_NONE;
}

int election_handle_vote(struct raft *r, uint64_t from, enum raft_message_type type, bool granted)
{
    bool pre = r->role == RAFT_PRE_CANDIDATE;
    if (type != (pre ? RAFT_MSG_PRE_VOTE_RESP : RAFT_MSG_VOTE_RESP))
        return 0;                                  /* of an earlier phase */
    struct progress *p = member_find(r, from);
    if (p && p->vote == QUORUM_VOTE_NONE)
        p->vote = granted ? QUORUM_VOTE_YES : QUORUM_VOTE_NO;
    switch (quorum_joint_votes(&r->conf, vote_of, r)) {
    case QUORUM_WON:
        if (pre) {
            campaign(r, false, false);
        } else {
            become_leader(r);
            replicate_broadcast(r);
        }
        break;
    case QUORUM_LOST:
        raft_become_follower(r, r->term, 0);
        break;
    case QUORUM_PENDING:
        break;
    }
    return 0;
}

static void send_timeout_now(struct raft *r, uint64_t to)
{
    raft_send(r, (struct raft_message){.type = RAFT_MSG_TIMEOUT_NOW, .to = to});
}

static int transfer_as_leader(struct raft *r, uint64_t target)
{
    struct progress *p = member_find(r, target);
    if (!p || p->is_learner)
        return RAFT_E_NOT_READY;
    if (r->lead_transferee == target)
        return 0;
    r->lead_transferee = 0;  /* a new target ends the transfer to the old one */
    if (target == r->id)
        return 0;
    r->election_elapsed = 0;                       /* it has one election timeout to succeed */
    r->lead_transferee = target;
    if (p->match == raft_log_last(&r->log))
        send_timeout_now(r, target);
    else
        replicate_send(r, p, true);
    return 0;
}

int transfer_start(struct raft *r, uint64_t target)
{
    if (r->role == RAFT_LEADER)
        return transfer_as_leader(r, target);
    if (r->role != RAFT_FOLLOWER || r->leader == 0 || target == 0)
        return RAFT_E_NOT_READY;
    /* Forwarded in the name of the target, as etcd does it. */
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_TRANSFER_LEADER, .to = r->leader, .from = target});
    return 0;
}

void transfer_continue(struct raft *r, const struct progress *p)
{
    if (p->id == r->lead_transferee && p->match == raft_log_last(&r->log))
        send_timeout_now(r, p->id);
}
