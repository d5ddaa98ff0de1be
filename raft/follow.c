/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A follower's answers to its leader's appends and heartbeats (dissertation 3.5; fast rejection:
 * end of 3.5).
 *
 * Invariants
 *   (F1) an entry is replaced only by one that conflicts with it, and never a committed one.
 *   (F2) commit never passes what we have of this leader's log.
 *   (F3) a leader that counts on entries we don't have proves that our log was lost: until they are
 *        here again we neither vote nor campaign, because we could elect a leader without entries
 *        that were committed thanks to us.
 *   (F4) what (F3) has proved outlives a restart: the hard state has the mark, and goes to the disk
 *        before anything that is sent behind it.
 *   (F5) the leader that counts on what we lost hears no rejection: it never goes below what it
 *        counts on, so it would answer each at once with the append that was rejected, for ever.
 *        The leader of the next term starts from nothing.
 *   (F6) the entries are here again when one of a later term is committed here, at or behind the
 *        mark. Its leader was elected without us, by a majority that has all that was committed
 *        with our help, and we have what stands before its entry. The mark alone would not do: the
 *        heartbeat names only what was committed then, and more may be, by what we acknowledged.
 *        Or a snapshot behind the mark comes from the leader that counts on us: it sends one only
 *        where it has none of the entries behind that any more.
 *
 * The mark and the disk. The heartbeat that proves the loss is not answered; it brings a ready with
 * the mark, which must be synced. The entries and the commit index that end it are written before
 * or in the hard state that has no mark any more, and are synced with it. So a crash leaves
 *
 *   no mark, old log       the heartbeat was not heard: the leader's next one proves the loss again
 *   the mark               neither vote nor campaign, also if the entries are here: a leader must
 *                          say again that they are committed
 *   no mark, all entries   as if nothing had been
 *
 * Before a leader has spoken to an older copy there is no mark, nor can there be: the operator who
 * puts one back must know that.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

bool follow_lost_tail(const struct raft *r)
{
    uint64_t committed = r->log.committed, term;
    if (r->lost_tail_index == 0 || committed < r->lost_tail_index)
        return r->lost_tail_index > 0;
    return !raft_log_term(&r->log, committed, &term) || term <= r->lost_tail_term;     /* (F6) */
}

static void acknowledge(struct raft *r, uint64_t to, uint64_t index)
{
    raft_send(r, (struct raft_message){.type = RAFT_MSG_APP_RESP, .to = to, .index = index});
}

/*
 * The hint is the largest position where the logs can still agree: not above the leader's position,
 * and of a term not above the leader's there. It skips our whole uncommitted tail of larger terms
 * at once.
 */
static void reject(struct raft *r, const struct raft_message *m)
{
    uint64_t last = raft_log_last(&r->log);
    uint64_t hint_term;
    uint64_t hint =
        raft_log_find_by_term(&r->log, m->index < last ? m->index : last, m->log_term, &hint_term);
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_APP_RESP,
                     .to = m->from,
                     .index = m->index,
                     .reject = true,
                     .reject_hint = hint,
                     .log_term = hint_term,
                 });
}

int follow_handle_append(struct raft *r, const struct raft_message *m)
{
    struct raft_log *l = &r->log;
    if (m->index < l->committed) {       /* an old message: tell it how far we are */
        acknowledge(r, m->from, l->committed);
        return 0;
    }
    if (!raft_log_matches(l, m->index, m->log_term)) {
        if (follow_lost_tail(r) && r->lost_tail_term == r->term)                   /* (F5) */
            return RAFT_E_LOST_TAIL;
        reject(r, m);
        return 0;
    }
    size_t known = raft_log_find_new(l, m->entries, m->n_entries);
    if (known < m->n_entries) {
        uint64_t from = m->entries[known].index;
        check(from > l->committed);  /* (F1): it is behind m->index, which is not below committed */
        if (from <= raft_log_last(l)) {
            raft_pin_messages(r);
            raft_log_truncate(l, from);
        }
        raft_log_append(l, m->entries + known, m->n_entries - known);
    }
    uint64_t last_new = m->index + m->n_entries;
    raft_log_commit(l, m->commit < last_new ? m->commit : last_new);               /* (F2) */
    acknowledge(r, m->from, last_new);
    return 0;
}

int follow_handle_heartbeat(struct raft *r, const struct raft_message *m)
{
    if (m->commit > raft_log_last(&r->log)) {                                      /* (F3) */
        if (r->lost_tail_index < m->commit)
            r->lost_tail_index = m->commit;
        r->lost_tail_term = r->term;
        return RAFT_E_LOST_TAIL;
    }
    raft_log_commit(&r->log, m->commit);
    raft_send(r, (struct raft_message){.type = RAFT_MSG_HEARTBEAT_RESP,
                                       .to = m->from,
                                       .context = raft_keep_bytes(r, m->context)});
    return 0;
}
