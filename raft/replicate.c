/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leader's work: taking proposals, sending entries and heartbeats, counting acknowledgements,
 * and checking that a quorum is still there (dissertation 3.5, 3.6, 6.2; pipelining 10.2.1).
 *
 * Invariants
 *   (A1) only an entry of the own term is committed by counting; it carries the older ones with it
 *        (figure 3.7).
 *   (A2) a heartbeat's commit index is never above what the receiver is known to have.
 *   (A3) at most one configuration change is under way: what may not be proposed is replaced by an
 *        empty entry.
 *   (A4) payloads appended and not yet applied stay below the limit, but a single proposal of any
 *        size passes when there are none.
 *
 * Thread: the raft thread.
 */
#include "base/mem.h"
#include "raft/core.h"

bool replicate_append_own(struct raft *r, const struct raft_entry *entries, size_t n)
{
    uint64_t bytes = raft_payload_bytes(entries, n);
    if (r->uncommitted_bytes > 0 && bytes > 0 &&
        r->uncommitted_bytes + bytes > r->uncommitted_bytes_max)
        return false;                                                              /* (A4) */
    r->uncommitted_bytes += bytes;
    raft_log_append_own(&r->log, entries, n, r->term);
    raft_self_ack(r, RAFT_MSG_APP_RESP, r->term, raft_log_last(&r->log));
    return true;
}

static bool change_allowed(const struct raft *r, bool leaves)
{
    return r->conf_index_pending <= r->log.applied && conf_is_joint(&r->conf) == leaves;
}

/*
 * Copies the entries with every configuration change that is not allowed replaced (A3). NULL: there
 * is none among them.
 */
static struct raft_entry *check_changes(struct raft *r, const struct raft_entry *entries, size_t n,
                                        bool leave_joint)
{
    struct raft_entry *copy = NULL;
    for (size_t i = 0; i < n; i++) {
        if (entries[i].type == RAFT_ENTRY_NORMAL)
            continue;
        bool empty = entries[i].type == RAFT_ENTRY_CONF_CHANGE_V2 &&
                     (!entries[i].data || entries[i].data->len == 0);
        if (change_allowed(r, leave_joint || empty)) {
            r->conf_index_pending = raft_log_last(&r->log) + 1 + i;
            continue;
        }
        if (!copy) {
            copy = mem_alloc_raw(n * sizeof(*copy));
            memcpy(copy, entries, n * sizeof(*copy));
        }
        copy[i] = (struct raft_entry){.type = RAFT_ENTRY_NORMAL};
    }
    return copy;
}

int replicate_propose(struct raft *r, const struct raft_entry *entries, size_t n, bool leave_joint)
{
    if (!member_find(r, r->id) || r->lead_transferee != 0)
        return RAFT_E_DROPPED;
    struct raft_entry *copy = check_changes(r, entries, n, leave_joint);
    bool taken = replicate_append_own(r, copy ? copy : entries, n);
    free(copy);
    if (!taken)
        return RAFT_E_DROPPED;
    replicate_broadcast(r);
    return 0;
}

bool replicate_send(struct raft *r, struct progress *p, bool even_if_empty)
{
    if (progress_paused(p))
        return false;
    uint64_t prev_term;
    /* compacted: the entries it needs are gone */
    if (!raft_log_term(&r->log, p->next - 1, &prev_term))
        return snapshot_send(r, p);
    size_t n = 0;
    /*
     * A full window still lets an empty append through, or a follower that lost all of them would
     * never be heard again.
     */
    if (p->state != PROGRESS_REPLICATE || !inflights_full(&p->inflights))
        n = raft_log_fit(&r->log, p->next, raft_log_last(&r->log), r->message_bytes_max);
    if (n == 0 && !even_if_empty)
        return false;
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_APP,
                     .to = p->id,
                     .index = p->next - 1,
                     .log_term = prev_term,
                     .commit = r->log.committed,
                     .n_entries = n,
                 });
    uint64_t bytes = n > 0 && r->inflight_bytes_max != 0
                         ? raft_payload_bytes(raft_log_at(&r->log, p->next), n)
                         : 0;
    progress_sent(p, n, bytes);
    p->commit_sent = r->log.committed;
    return true;
}

void replicate_broadcast(struct raft *r)
{
    for (size_t i = 0; i < r->members.len; i++)
        if (r->members.items[i].id != r->id)
            replicate_send(r, &r->members.items[i], true);
}

void replicate_broadcast_heartbeat(struct raft *r)
{
    struct bytes context = read_index_context(r);
    for (size_t i = 0; i < r->members.len; i++) {
        struct progress *p = &r->members.items[i];
        if (p->id == r->id)
            continue;
        uint64_t commit = p->match < r->log.committed ? p->match : r->log.committed; /* (A2) */
        raft_send(
            r, (struct raft_message){
                   .type = RAFT_MSG_HEARTBEAT, .to = p->id, .commit = commit, .context = context});
        p->commit_sent = commit;
    }
}

static uint64_t match_of(const void *context, uint64_t id)
{
    const struct progress *p = member_find(context, id);
    return p ? p->match : 0;
}

bool replicate_commit(struct raft *r)
{
    uint64_t index = quorum_joint_index(&r->conf, match_of, r);
    return raft_log_matches(&r->log, index, r->term) && raft_log_commit(&r->log, index); /* (A1) */
}

/*
 * A snapshot may have brought the member to any index; all that matters is whether our log
 * continues from there.
 */
static void leave_waiting_state(struct raft *r, struct progress *p, uint64_t index)
{
    if (p->state == PROGRESS_PROBE) {
        progress_become_replicate(p);
    } else if (p->state == PROGRESS_SNAPSHOT) {
        if (p->match + 1 >= raft_log_first(&r->log)) {
            progress_become_probe(p);
            progress_become_replicate(p);
        }
    } else {
        inflights_free_to(&p->inflights, index);
    }
}

void replicate_acked(struct raft *r, struct progress *p, uint64_t index)
{
    p->recent_active = true;
    if (!progress_acked(p, index) && !(p->match == index && p->state == PROGRESS_PROBE))
        return;
    leave_waiting_state(r, p, index);
    bool self = p->id == r->id;
    if (replicate_commit(r)) {
        read_index_term_committed(r);
        replicate_broadcast(r);
    } else if (!self && progress_wants_commit(p, r->log.committed)) {
        replicate_send(r, p, true);
    }
    if (self)
        return;
    while (replicate_send(r, p, false))      /* the window has room again */
        ;
    transfer_continue(r, p);
}

static void rejected(struct raft *r, struct progress *p, const struct raft_message *m)
{
    uint64_t hint = m->reject_hint;
    uint64_t term;
    /*
     * The member says: at hint I have log_term, and nothing above can agree with you. Where our
     * terms are larger than that, we can't agree either, so the next probe goes below them: at most
     * one probe per term, not per entry.
     */
    if (m->log_term > 0)
        hint = raft_log_find_by_term(&r->log, hint, m->log_term, &term);
    if (!progress_rejected(p, m->index, hint))
        return;
    if (p->state == PROGRESS_REPLICATE)
        progress_become_probe(p);
    replicate_send(r, p, true);
}

int replicate_handle_response(struct raft *r, struct progress *p, const struct raft_message *m)
{
    if (!m->reject && m->index > raft_log_last(&r->log))      /* it can't have what we never sent */
        return RAFT_E_INVALID;
    p->recent_active = true;
    if (m->reject)
        rejected(r, p, m);
    else
        replicate_acked(r, p, m->index);
    return 0;
}

int replicate_handle_heartbeat_response(struct raft *r, struct progress *p,
                                        const struct raft_message *m)
{
    p->recent_active = true;
    p->flow_paused = false;
    if (p->match < raft_log_last(&r->log) || p->state == PROGRESS_PROBE)
        replicate_send(r, p, true);
    return m->context.len > 0 ? read_index_acked(r, p, m->context) : 0;
}

static void check_quorum(struct raft *r)
{
    if (!member_quorum_active(r))
        raft_become_follower(r, r->term, 0);
    for (size_t i = 0; i < r->members.len; i++)
        if (r->members.items[i].id != r->id)
            r->members.items[i].recent_active = false;
}

void replicate_tick(struct raft *r)
{
    r->heartbeat_elapsed++;
    r->election_elapsed++;
    if (r->election_elapsed >= r->election_ticks) {
        r->election_elapsed = 0;
        if (r->check_quorum)
            check_quorum(r);
        r->lead_transferee = 0;      /* it had its time */
    }
    if (r->role != RAFT_LEADER)
        return;
    if (r->heartbeat_elapsed >= r->heartbeat_ticks) {
        r->heartbeat_elapsed = 0;
        replicate_broadcast_heartbeat(r);
    }
}
