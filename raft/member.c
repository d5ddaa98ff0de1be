/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members as this node sees them: one progress per voter and learner, kept in step with the
 * configuration, which changes when a committed configuration entry is applied, and when a snapshot
 * is restored.
 *
 * Invariants
 *   (M1) members holds exactly the ids of conf, ascending.
 *   (M2) a leader that is no voter any more steps down as soon as it has applied that.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

struct progress *member_find(const struct raft *r, uint64_t id)
{
    for (size_t i = 0; i < r->members.len; i++)
        if (r->members.items[i].id == id)
            return &r->members.items[i];
    return NULL;
}

static void remove_stale(struct raft *r, const struct raft_ids *fresh)
{
    size_t kept = 0;
    for (size_t i = 0; i < r->members.len; i++) {
        struct progress *p = &r->members.items[i];
        if (conf_is_member(&r->conf, p->id) && !raft_ids_contains(fresh, p->id))
            r->members.items[kept++] = *p;
        else
            progress_deinit(p);
    }
    r->members.len = kept;
}

static void add_missing(struct raft *r, const struct raft_ids *ids)
{
    for (size_t i = 0; i < ids->len; i++) {
        uint64_t id = ids->ids[i];
        if (member_find(r, id))
            continue;
        vec_push(&r->members);
        size_t at = r->members.len - 1;
        for (; at > 0 && r->members.items[at - 1].id > id; at--)
            r->members.items[at] = r->members.items[at - 1];
        uint64_t last = raft_log_last(&r->log);
        progress_init(&r->members.items[at], id, last > 0 ? last : 1, false,
                      r->inflight_messages_max, r->inflight_bytes_max);
    }
}

/* More may be committed now, and new members are waiting. */
static void resume_as_leader(struct raft *r)
{
    if (replicate_commit(r)) {
        replicate_broadcast(r);
    } else {
        for (size_t i = 0; i < r->members.len; i++)
            if (r->members.items[i].id != r->id)
                replicate_send(r, &r->members.items[i], false);
    }
    if (!conf_is_voter(&r->conf, r->lead_transferee))
        r->lead_transferee = 0;
}

void member_switch(struct raft *r, const struct raft_conf_state *conf, const struct raft_ids *fresh)
{
    struct raft_conf_state copy;
    conf_copy(&copy, conf);
    conf_deinit(&r->conf);
    r->conf = copy;
    remove_stale(r, fresh);
    add_missing(r, &r->conf.voters);
    add_missing(r, &r->conf.voters_outgoing);
    add_missing(r, &r->conf.learners);
    for (size_t i = 0; i < r->members.len; i++)
        r->members.items[i].is_learner =
            raft_ids_contains(&r->conf.learners, r->members.items[i].id);
    if (r->role != RAFT_LEADER)
        return;
    if (conf_is_voter(&r->conf, r->id))
        resume_as_leader(r);
    else
        raft_become_follower(r, r->term, 0);                                       /* (M2) */
}

int member_conf_applied(struct raft *r, const struct raft_conf_change *change)
{
    struct raft_conf_state conf;
    struct raft_ids fresh;
    if (conf_change(&r->conf, change, &conf, &fresh) != 0)
        return RAFT_E_INVALID;
    member_switch(r, &conf, &fresh);
    conf_deinit(&conf);
    raft_ids_deinit(&fresh);
    return 0;
}

static enum quorum_vote activity_of(const void *context, uint64_t id)
{
    const struct progress *p = member_find(context, id);
    return p && p->recent_active ? QUORUM_VOTE_YES : QUORUM_VOTE_NO;
}

bool member_quorum_active(const struct raft *r)
{
    return quorum_joint_votes(&r->conf, activity_of, r) == QUORUM_WON;
}

bool member_unapplied_change(const struct raft *r)
{
    const struct raft_log *l = &r->log;
    uint64_t from = l->applied > l->base_index ? l->applied : l->base_index;
    for (uint64_t i = from + 1; i <= l->committed; i++)
        if (raft_log_at(l, i)->type != RAFT_ENTRY_NORMAL)
            return true;
    return false;
}
