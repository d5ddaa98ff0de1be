/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hand-over: what has changed since the last ready, what the disk has acknowledged, and the
 * view from outside.
 *
 * raft_ready() only looks; raft_advance() moves the cursors. Between the two nothing may change, so
 * that a ready can point into the log and the queues.
 *
 * A write is remembered from advance to PERSISTED with the term in which it was handed out. If the
 * term has changed by then, later writes may be replacing the same entries with others and back
 * again, so the acknowledgement says nothing about the log; the next write, which a change of term
 * always brings, covers it.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

static bool lost_tail_equal(const struct raft_hard_state *a, const struct raft_hard_state *b)
{
    return a->lost_tail_index == b->lost_tail_index && a->lost_tail_term == b->lost_tail_term;
}

static bool hard_state_equal(const struct raft_hard_state *a, const struct raft_hard_state *b)
{
    return a->term == b->term && a->vote == b->vote && a->commit == b->commit &&
           lost_tail_equal(a, b);
}

static struct raft_hard_state hard_state(const struct raft *r)
{
    struct raft_hard_state hs = {.term = r->term, .vote = r->vote, .commit = r->log.committed};
    if (follow_lost_tail(r)) {
        hs.lost_tail_index = r->lost_tail_index;
        hs.lost_tail_term = r->lost_tail_term;
    }
    return hs;
}

static bool new_self_ack(const struct raft *r)
{
    return r->self_acks.len > 0 && r->self_acks.items[r->self_acks.len - 1].number == 0;
}

bool raft_has_ready(const struct raft *r)
{
    struct raft_hard_state hs = hard_state(r);
    const struct raft_entry *e;
    return r->messages.len > 0 || r->messages_durable.len > 0 || new_self_ack(r) ||
           r->role != r->role_handed || r->leader != r->leader_handed ||
           !hard_state_equal(&hs, &r->hard_state_handed) ||
           (r->log.snapshot && !r->log.snapshot_handed) || raft_log_to_write(&r->log, &e) > 0 ||
           raft_log_to_apply(&r->log, &e) > 0 || r->reads.len > 0 || r->reads_lost.len > 0;
}

static void point_into_log(struct raft *r)
{
    for (size_t i = 0; i < r->messages.len; i++) {
        struct raft_message *m = &r->messages.items[i];
        if (m->n_entries > 0 && !m->entries)
            m->entries = raft_log_at(&r->log, m->index + 1);
    }
}

void raft_ready(struct raft *r, struct raft_ready *ret)
{
    check(!r->handing_out);
    r->handing_out = true;
    point_into_log(r);
    struct raft_hard_state hs = hard_state(r);
    *ret = (struct raft_ready){
        .number = r->number + 1,
        .soft_changed = r->role != r->role_handed || r->leader != r->leader_handed,
        .role = r->role,
        .leader = r->leader,
        .hard_state_changed = !hard_state_equal(&hs, &r->hard_state_handed),
        .hard_state = hs,
        .snapshot = r->log.snapshot_handed ? NULL : r->log.snapshot,
        .messages = r->messages.items,
        .n_messages = r->messages.len,
        .messages_durable = r->messages_durable.items,
        .n_messages_durable = r->messages_durable.len,
        .reads = r->reads.items,
        .n_reads = r->reads.len,
        .reads_lost = r->reads_lost.items,
        .n_reads_lost = r->reads_lost.len,
    };
    ret->n_entries = raft_log_to_write(&r->log, &ret->entries);
    ret->n_committed = raft_log_to_apply(&r->log, &ret->committed);
    r->handing_out_applying = r->log.applying + ret->n_committed;
    ret->must_sync = ret->n_entries > 0 || ret->snapshot || hs.term != r->hard_state_handed.term
        || hs.vote != r->hard_state_handed.vote || !lost_tail_equal(&hs, &r->hard_state_handed);
}

static void drop_messages(struct raft *r)
{
    for (size_t i = 0; i < r->owned.len; i++)
        for (size_t k = 0; k < r->owned.items[i].n; k++)
            blob_unref(r->owned.items[i].entries[k].data);
    r->owned.len = r->messages.len = r->messages_durable.len = 0;
    arena_reset(&r->arena);
}

static void remember_write(struct raft *r)
{
    for (size_t i = r->self_acks.len; i > 0 && r->self_acks.items[i - 1].number == 0; i--)
        r->self_acks.items[i - 1].number = r->number;
    if (r->log.persisted == raft_log_last(&r->log))
        return;
    struct raft_write w = {r->number, r->term, raft_log_last(&r->log), raft_log_last_term(&r->log)};
    const struct raft_write *before =
        r->writes.len > 0 ? &r->writes.items[r->writes.len - 1] : NULL;
    if (before && before->term == w.term && before->last_index == w.last_index &&
        before->last_term == w.last_term)
        return;  /* nothing to write was added, so the older acknowledgement will do */
    check(r->writes.len < RAFT_WRITES_MAX);
    *vec_push(&r->writes) = w;
}

static void deliver(struct raft *r, const struct raft_self_ack *ack)
{
    if (ack->type == RAFT_MSG_PRE_VOTE_RESP) {
        if (r->role == RAFT_PRE_CANDIDATE && ack->term == r->term + 1)
            election_handle_vote(r, r->id, ack->type, true);
        return;
    }
    if (ack->term != r->term)
        return;
    if (ack->type == RAFT_MSG_VOTE_RESP && r->role == RAFT_CANDIDATE)
        election_handle_vote(r, r->id, ack->type, true);
    if (ack->type == RAFT_MSG_APP_RESP && r->role == RAFT_LEADER) {
        struct progress *self = member_find(r, r->id);
        if (self)
            replicate_acked(r, self, ack->index);
    }
}

/* Takes out and delivers the acknowledgements that match. Delivery may add new ones behind them. */
static void deliver_self_acks(struct raft *r, uint64_t number, bool pre_votes)
{
    size_t i = 0;
    while (i < r->self_acks.len) {
        struct raft_self_ack ack = r->self_acks.items[i];
        bool due = pre_votes ? ack.type == RAFT_MSG_PRE_VOTE_RESP
                             : ack.number != 0 && ack.number <= number;
        if (!due) {
            i++;
            continue;
        }
        r->self_acks.len--;
        memmove(&r->self_acks.items[i], &r->self_acks.items[i + 1],
                (r->self_acks.len - i) * sizeof(ack));
        deliver(r, &ack);
    }
}

void raft_advance(struct raft *r)
{
    check(r->handing_out);
    r->handing_out = false;
    r->number++;
    r->role_handed = r->role;
    r->leader_handed = r->leader;
    r->hard_state_handed = hard_state(r);
    remember_write(r);
    raft_log_advance_write(&r->log);
    if (r->handing_out_applying > r->log.applying)
        raft_log_advance_apply(&r->log, r->handing_out_applying);
    drop_messages(r);
    r->reads.len = r->reads_lost.len = 0;
    deliver_self_acks(r, 0, true);      /* a pre-vote promises nothing, so it waits for no disk */
}

void raft_persisted(struct raft *r, uint64_t number)
{
    if (number == 0 || number > r->number)
        number = r->number;
    deliver_self_acks(r, number, false);
    size_t n = 0;
    while (n < r->writes.len && r->writes.items[n].number <= number) {
        const struct raft_write *w = &r->writes.items[n++];
        if (w->term == r->term)
            raft_log_persist(&r->log, w->last_index, w->last_term);
    }
    r->writes.len -= n;
    if (n > 0)
        memmove(r->writes.items, r->writes.items + n, r->writes.len * sizeof(*r->writes.items));
}

void raft_status(const struct raft *r, struct raft_status *ret)
{
    *ret = (struct raft_status){
        .id = r->id,
        .term = r->term,
        .vote = r->vote,
        .leader = r->leader,
        .role = r->role,
        .commit = r->log.committed,
        .applied = r->log.applied,
        .applying_paused = r->log.applying_paused,
        .first_index = raft_log_first(&r->log),
        .last_index = raft_log_last(&r->log),
        .persisted_index = r->log.persisted,
        .committed_in_term = r->role == RAFT_LEADER && read_index_own_term_committed(r),
        .sole_voter = conf_is_singleton(&r->conf) && r->conf.voters.ids[0] == r->id,
        .lead_transferee = r->lead_transferee,
        .conf_index_pending = r->role == RAFT_LEADER ? r->conf_index_pending : 0,
        .uncommitted_bytes = r->uncommitted_bytes,
        .election_timeout_ticks = r->election_timeout,
        .lost_tail = follow_lost_tail(r),
    };
}

const struct raft_conf_state *raft_conf(const struct raft *r)
{
    return &r->conf;
}

size_t raft_progress(const struct raft *r, struct raft_progress *ret, size_t max)
{
    if (r->role != RAFT_LEADER)
        return 0;
    for (size_t i = 0; i < r->members.len && i < max; i++) {
        const struct progress *p = &r->members.items[i];
        ret[i] = (struct raft_progress){
            .id = p->id,
            .match = p->match,
            .next = p->next,
            .is_learner = p->is_learner,
            .recent_active = p->recent_active,
            .state = (uint8_t)p->state,
            .paused = progress_paused(p),
            .snapshot_index = p->snapshot_index,
            .inflight_messages = p->inflights.len,
        };
    }
    return r->members.len;
}

void raft_sanity(const struct raft *r)
{
    raft_log_sanity(&r->log);
    check(conf_valid(&r->conf));
    check(r->term <= RAFT_TERM_MAX && r->term >= raft_log_last_term(&r->log));
    check((r->role == RAFT_LEADER) == (r->leader == r->id));                       /* (R3) */
    for (size_t i = 0; i < r->members.len; i++) {
        const struct progress *p = &r->members.items[i];
        check(conf_is_member(&r->conf, p->id) &&
              p->is_learner == raft_ids_contains(&r->conf.learners, p->id));
        check(i == 0 || p[-1].id < p->id);
        progress_sanity(p);
        if (r->role == RAFT_LEADER && p->id == r->id)
            check(p->match <= raft_log_last(&r->log));
    }
    if (r->role == RAFT_LEADER && r->log.applied == raft_log_last(&r->log))
        check(r->uncommitted_bytes == 0);
}

struct raft *raft_free(struct raft *r)
{
    if (!r)
        return NULL;
    drop_messages(r);
    arena_deinit(&r->arena);
    raft_log_deinit(&r->log);
    conf_deinit(&r->conf);
    read_index_deinit(r);
    for (size_t i = 0; i < r->members.len; i++)
        progress_deinit(&r->members.items[i]);
    free(r->members.items);
    free(r->messages.items);
    free(r->messages_durable.items);
    free(r->owned.items);
    free(r->self_acks.items);
    free(r->writes.items);
    free(r);
    return NULL;
}
