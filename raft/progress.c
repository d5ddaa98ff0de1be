/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flow control per member.
 *
 * Invariants
 *   (P1) match < next. Entries in (match, next) are under way.
 *   (P2) in state snapshot nothing is sent; next is snapshot_index + 1, unless a late rejection
 *        lowered it.
 *   (P3) the window's byte counter is the sum of its messages' bytes; a change of state empties
 *        both together.
 *
 * Thread: the raft thread.
 */
#include "raft/progress.h"

#include "base/check.h"
#include "base/mem.h"

void inflights_init(struct inflights *in, uint32_t messages_max, uint64_t bytes_max)
{
    check(messages_max > 0);
    *in = (struct inflights){.messages_max = messages_max, .bytes_max = bytes_max};
}

void inflights_deinit(struct inflights *in)
{
    free(in->ring);
    *in = (struct inflights){0};
}

static void grow(struct inflights *in)
{
    uint32_t cap = in->cap ? in->cap * 2 : 4;
    if (cap > in->messages_max || cap < in->cap)
        cap = in->messages_max;
    struct inflight *ring = mem_alloc_raw(cap * sizeof(*ring));
    for (uint32_t i = 0; i < in->len; i++)
        ring[i] = in->ring[(in->start + i) % in->cap];
    free(in->ring);
    in->ring = ring;
    in->cap = cap;
    in->start = 0;
}

void inflights_add(struct inflights *in, uint64_t index, uint64_t bytes)
{
    check(!inflights_full(in));
    if (in->len == in->cap)
        grow(in);
    in->ring[(in->start + in->len) % in->cap] = (struct inflight){index, bytes};
    in->len++;
    in->bytes += bytes;
}

void inflights_free_to(struct inflights *in, uint64_t index)
{
    while (in->len > 0 && in->ring[in->start].index <= index) {
        in->bytes -= in->ring[in->start].bytes;
        in->start = (in->start + 1) % in->cap;
        in->len--;
    }
}

void inflights_reset(struct inflights *in)
{
    in->start = in->len = 0;
    in->bytes = 0;
}

bool inflights_full(const struct inflights *in)
{
    return in->len == in->messages_max || (in->bytes_max != 0 && in->bytes >= in->bytes_max);
}

void progress_init(struct progress *p, uint64_t id, uint64_t next, bool is_learner,
                   uint32_t messages_max, uint64_t bytes_max)
{
    /*
     * A new member counts as active: it has had no chance to speak yet, and must not make the
     * quorum check fail.
     */
    *p = (struct progress){.id = id, .next = next, .is_learner = is_learner, .recent_active = true};
    inflights_init(&p->inflights, messages_max, bytes_max);
}

void progress_deinit(struct progress *p)
{
    inflights_deinit(&p->inflights);
}

void progress_reset(struct progress *p, uint64_t match, uint64_t next)
{
    struct inflights in = p->inflights;
    inflights_reset(&in);
    *p = (struct progress){
        .id = p->id, .match = match, .next = next, .is_learner = p->is_learner, .inflights = in};
}

static void change_state(struct progress *p, enum progress_state state)
{
    p->state = state;
    p->flow_paused = false;
    p->snapshot_index = 0;
    inflights_reset(&p->inflights);                                                /* (P3) */
}

static void regress_commit(struct progress *p)
{
    if (p->commit_sent > p->next - 1)
        p->commit_sent = p->next - 1;
}

void progress_become_probe(struct progress *p)
{
    /* After a snapshot that was delivered, what it covers need not be sent again. */
    uint64_t from = p->state == PROGRESS_SNAPSHOT && p->snapshot_index > p->match
                        ? p->snapshot_index
                        : p->match;
    change_state(p, PROGRESS_PROBE);
    p->next = from + 1;
    regress_commit(p);
}

void progress_become_replicate(struct progress *p)
{
    change_state(p, PROGRESS_REPLICATE);
    p->next = p->match + 1;
}

void progress_become_snapshot(struct progress *p, uint64_t snapshot_index)
{
    change_state(p, PROGRESS_SNAPSHOT);
    p->snapshot_index = snapshot_index;
    p->next = snapshot_index + 1;
    p->commit_sent = snapshot_index;
}

void progress_sent(struct progress *p, size_t n_entries, uint64_t bytes)
{
    check(p->state != PROGRESS_SNAPSHOT);
    if (p->state == PROGRESS_PROBE) {
        if (n_entries > 0)
            p->flow_paused = true;
        return;
    }
    if (n_entries > 0) {
        p->next += n_entries;
        inflights_add(&p->inflights, p->next - 1, bytes);
    }
    p->flow_paused = inflights_full(&p->inflights);
}

bool progress_acked(struct progress *p, uint64_t index)
{
    if (index <= p->match)
        return false;
    p->match = index;
    if (p->next <= index)
        p->next = index + 1;                                                       /* (P1) */
    p->flow_paused = false;
    return true;
}

bool progress_rejected(struct progress *p, uint64_t rejected, uint64_t hint)
{
    if (p->state == PROGRESS_REPLICATE) {
        if (rejected <= p->match)        /* overtaken by an acknowledgement */
            return false;
        p->next = p->match + 1;
        regress_commit(p);
        return true;
    }
    if (p->next - 1 != rejected)         /* one probe is out at a time: this is not its answer */
        return false;
    uint64_t next = hint < rejected ? hint + 1 : rejected;
    p->next = next > p->match ? next : p->match + 1;
    regress_commit(p);
    p->flow_paused = false;
    return true;
}

bool progress_wants_commit(const struct progress *p, uint64_t commit)
{
    return commit > p->commit_sent && p->commit_sent < p->next - 1;
}

bool progress_paused(const struct progress *p)
{
    return p->state == PROGRESS_SNAPSHOT || p->flow_paused;
}

void progress_sanity(const struct progress *p)
{
    check(p->match < p->next);                                                     /* (P1) */
    check(p->state == PROGRESS_SNAPSHOT || p->snapshot_index == 0);                /* (P2) */
    check(p->state == PROGRESS_REPLICATE || p->inflights.len == 0);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < p->inflights.len; i++)
        bytes += p->inflights.ring[(p->inflights.start + i) % p->inflights.cap].bytes;
    check(bytes == p->inflights.bytes);                                            /* (P3) */
}
