/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linearizable reads without a log entry (dissertation 6.4). A read's index is the commit index
 * when it arrives; it is answered when a quorum has confirmed, by a heartbeat sent after that, that
 * this leader still leads.
 *
 *   READ --leader--> postponed --entry of own term committed--> unconfirmed --quorum of its
 *   round--> reads of the next ready READ --follower--> READ_INDEX to the leader
 *   --READ_INDEX_RESP--> reads of the next ready
 *
 * Invariants
 *   (Q1) each read is a round of its own with the next number; a heartbeat carries the newest
 *        number, its answer returns it, and an answer to an older heartbeat confirms only older
 *        reads. Numbers begin anew with each term, and answers of another term never get here.
 *   (Q2) no read is answered before an entry of the own term is committed, also not by a sole
 *        voter: until then the commit index may lag behind what an earlier leader, or this one
 *        before its restart, has acknowledged.
 *   (Q3) a read that will not be answered because the leader is gone is reported as lost, once.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

bool read_index_own_term_committed(const struct raft *r)
{
    return raft_log_matches(&r->log, r->log.committed, r->term);
}

static void answer(struct raft *r, const struct raft_read_request *q, uint64_t index)
{
    if (q->from == 0) {
        *vec_push(&r->reads) = (struct raft_read){q->id, index};
        return;
    }
    const struct raft_entry e = {.data = q->data};
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_READ_INDEX_RESP,
                     .to = q->from,
                     .index = index,
                     .entries = raft_keep_entries(r, &e, 1),
                     .n_entries = 1,
                 });
    blob_unref(q->data);
}

static uint64_t newest_round(const struct raft *r)
{
    return r->reads_confirmed + r->reads_unconfirmed.len;
}

static int take(struct raft *r, struct raft_read_request q)
{
    if (!read_index_own_term_committed(r)) {                                       /* (Q2) */
        *vec_push(&r->reads_postponed) = q;
        return 0;
    }
    q.index = r->log.committed;
    if (conf_is_singleton(&r->conf) && r->conf.voters.ids[0] == r->id) {
        answer(r, &q, q.index);
        return 0;
    }
    *vec_push(&r->reads_unconfirmed) = q;
    struct progress *self = member_find(r, r->id);
    if (self)
        self->read_acked = newest_round(r);
    replicate_broadcast_heartbeat(r);
    return 0;
}

static bool full(const struct raft *r)
{
    return r->reads_postponed.len + r->reads_unconfirmed.len >= RAFT_READS_PENDING_MAX;
}

static int forward_own(struct raft *r, uint64_t id)
{
    if (r->role != RAFT_FOLLOWER || r->leader == 0)
        return RAFT_E_DROPPED;
    if (r->reads_forwarded.len == RAFT_READS_FORWARDED_MAX) {
        *vec_push(&r->reads_lost) = r->reads_forwarded.items[0];
        r->reads_forwarded.len--;
        memmove(r->reads_forwarded.items, r->reads_forwarded.items + 1,
                r->reads_forwarded.len * sizeof(uint64_t));
    }
    *vec_push(&r->reads_forwarded) = id;
    struct blob *data = blob_new(sizeof(id));
    u64_be_put(data->data, id);
    const struct raft_entry e = {.data = data};
    raft_send(r, (struct raft_message){
                     .type = RAFT_MSG_READ_INDEX,
                     .to = r->leader,
                     .entries = raft_keep_entries(r, &e, 1),
                     .n_entries = 1,
                 });
    blob_unref(data);
    return 0;
}

int read_index_start(struct raft *r, uint64_t id)
{
    check(id != 0);
    if (r->role != RAFT_LEADER)
        return forward_own(r, id);
    return full(r) ? RAFT_E_DROPPED : take(r, (struct raft_read_request){.id = id});
}

int read_index_handle_request(struct raft *r, const struct raft_message *m)
{
    if (full(r))
        return RAFT_E_DROPPED;
    return take(r,
                (struct raft_read_request){.from = m->from, .data = blob_ref(m->entries[0].data)});
}

int read_index_handle_response(struct raft *r, const struct raft_message *m)
{
    const struct blob *data = m->entries[0].data;
    if (!data || data->len != sizeof(uint64_t))
        return RAFT_E_INVALID;
    uint64_t id = u64_be_get(data->data);
    for (size_t i = 0; i < r->reads_forwarded.len; i++) {
        if (r->reads_forwarded.items[i] != id)
            continue;
        r->reads_forwarded.len--;
        memmove(&r->reads_forwarded.items[i], &r->reads_forwarded.items[i + 1],
                (r->reads_forwarded.len - i) * sizeof(id));
        *vec_push(&r->reads) = (struct raft_read){id, m->index};
        return 0;
    }
    return 0;                            /* answered twice, or given up */
}

struct bytes read_index_context(struct raft *r)
{
    if (r->reads_unconfirmed.len == 0)
        return BYTES_NULL;
    /* little-endian on the wire, as etcd has it */
    uint64_t round = __builtin_bswap64(newest_round(r));
    uint8_t bytes[sizeof(round)];
    u64_be_put(bytes, round);
    return raft_keep_bytes(r, bytes_of(bytes, sizeof(bytes)));
}

static uint64_t read_acked_of(const void *context, uint64_t id)
{
    const struct progress *p = member_find(context, id);
    return p ? p->read_acked : 0;
}

int read_index_acked(struct raft *r, struct progress *p, struct bytes context)
{
    if (context.len != sizeof(uint64_t))
        return RAFT_E_INVALID;
    uint64_t round = __builtin_bswap64(u64_be_get(context.data));
    if (round > newest_round(r))
        return RAFT_E_INVALID;
    if (p->read_acked < round)
        p->read_acked = round;
    uint64_t confirmed = quorum_joint_index(&r->conf, read_acked_of, r);            /* (Q1) */
    if (confirmed <= r->reads_confirmed || confirmed > newest_round(r))
        return 0;
    size_t n = (size_t)(confirmed - r->reads_confirmed);
    struct raft_read_requests *q = &r->reads_unconfirmed;
    for (size_t i = 0; i < n; i++)
        answer(r, &q->items[i], q->items[i].index);
    q->len -= n;
    memmove(q->items, q->items + n, q->len * sizeof(*q->items));
    r->reads_confirmed = confirmed;
    return 0;
}

void read_index_term_committed(struct raft *r)
{
    if (r->reads_postponed.len == 0 || !read_index_own_term_committed(r))
        return;
    struct raft_read_requests waiting = r->reads_postponed;
    r->reads_postponed = (struct raft_read_requests){0};
    for (size_t i = 0; i < waiting.len; i++)
        take(r, waiting.items[i]);
    free(waiting.items);
}

static void lose(struct raft *r, struct raft_read_requests *q)
{
    for (size_t i = 0; i < q->len; i++) {
        if (q->items[i].from == 0)
            *vec_push(&r->reads_lost) = q->items[i].id;                            /* (Q3) */
        else
            blob_unref(q->items[i].data);
    }
    q->len = 0;
}

void read_index_leader_gone(struct raft *r)
{
    lose(r, &r->reads_postponed);
    lose(r, &r->reads_unconfirmed);
    for (size_t i = 0; i < r->reads_forwarded.len; i++)
        *vec_push(&r->reads_lost) = r->reads_forwarded.items[i];
    r->reads_forwarded.len = 0;
    r->reads_confirmed = 0;
}

void read_index_deinit(struct raft *r)
{
    read_index_leader_gone(r);
    free(r->reads_postponed.items);
    free(r->reads_unconfirmed.items);
    free(r->reads_forwarded.items);
    free(r->reads.items);
    free(r->reads_lost.items);
}
