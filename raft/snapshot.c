/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots: a member whose next entry is compacted gets the whole state instead (dissertation
 * chapter 5).
 *
 * raft only says that one is needed and of what position it must at least be; the owner makes it,
 * sends it and reports the result. On the receiving side the owner has the data before raft sees
 * the message, and installs it when a ready says so.
 *
 * Invariants
 *   (S1) between restore and installation nothing is applied and this member does not campaign.
 *   (S2) a snapshot at or below commit changes nothing; one that our log already reaches only moves
 *        commit.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

bool snapshot_send(struct raft *r, struct progress *p)
{
    if (!p->recent_active || r->log.applied == 0)      /* nobody there to take it */
        return false;
    struct raft_snapshot *s = arena_alloc(&r->arena, sizeof(*s));
    *s = (struct raft_snapshot){.index = r->log.applied};
    if (!raft_log_term(&r->log, s->index, &s->term))
        return false;
    const struct raft_ids *from[] = {&r->conf.voters, &r->conf.learners, &r->conf.voters_outgoing,
                                     &r->conf.learners_next};
    struct raft_ids *to[] = {&s->conf.voters, &s->conf.learners, &s->conf.voters_outgoing,
                             &s->conf.learners_next};
    for (size_t i = 0; i < sizeof(to) / sizeof(to[0]); i++) {
        if (from[i]->len == 0)
            continue;
        to[i]->ids = arena_alloc(&r->arena, from[i]->len * sizeof(uint64_t));
        to[i]->len = from[i]->len;
        memcpy(to[i]->ids, from[i]->ids, from[i]->len * sizeof(uint64_t));
    }
    s->conf.auto_leave = r->conf.auto_leave;
    progress_become_snapshot(p, s->index);
    raft_send(r, (struct raft_message){.type = RAFT_MSG_SNAP, .to = p->id, .snapshot = s});
    return true;
}

void snapshot_done(struct raft *r, uint64_t node, bool ok)
{
    struct progress *p = member_find(r, node);
    if (r->role != RAFT_LEADER || !p || p->state != PROGRESS_SNAPSHOT)
        return;
    if (!ok)
        p->snapshot_index = 0;           /* so that the probe starts where it was */
    progress_become_probe(p);
    p->flow_paused = true;  /* its acknowledgement, or a heartbeat, comes before the next append */
}

/* False: nothing restored. */
static bool restore(struct raft *r, const struct raft_snapshot *s)
{
    if (s->index <= r->log.committed || !conf_is_member(&s->conf, r->id))
        return false;
    if (raft_log_matches(&r->log, s->index, s->term)) {                            /* (S2) */
        raft_log_commit(&r->log, s->index);
        return false;
    }
    raft_pin_messages(r);
    if (r->term == r->lost_tail_term && s->index > r->lost_tail_index)     /* follow.c (F6) */
        r->lost_tail_index = r->lost_tail_term = 0;
    raft_log_restore(&r->log, s);
    struct raft_ids all = {0};
    for (size_t i = 0; i < r->members.len; i++)
        raft_ids_add(&all, r->members.items[i].id);      /* what we knew of them is void */
    member_switch(r, &s->conf, &all);
    raft_ids_deinit(&all);
    return true;
}

int snapshot_handle(struct raft *r, const struct raft_message *m)
{
    bool restored = restore(r, m->snapshot);
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_APP_RESP,
                     .to = m->from,
                     .index = restored ? raft_log_last(&r->log) : r->log.committed,
                 });
    return 0;
}

void snapshot_installed(struct raft *r, uint64_t index)
{
    struct raft_log *l = &r->log;
    raft_log_snapshot_installed(l, index);
    if (index > l->applied && index <= l->committed)
        raft_log_applied(l, index, UINT64_MAX);  /* whatever was being applied is behind it */
}
