/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proposals on their way to raft.
 *
 *   inbox -> batch -> raft: appended, or sent on to the leader
 *              ^  |
 *              |  +-- no leader, or one that gives up its place --> held
 *              +-- there is one ---------------------------------------+
 *
 * Invariants:
 *   (I1) one that raft could not take stays in `held` until there is a leader or its request is
 *        gone; none is proposed twice.
 *   (I2) they go in the order in which they came, but what waits by (I4) lets later ones pass.
 *   (I3) what one term's leader alone may propose is dropped when this member is not that.
 *   (I4) a change of members waits while the one before is committed but not applied here: whoever
 *        applied it elsewhere may ask here already, and raft would lose what they ask. An own one
 *        waits in `held`; one that a follower passed on in `early`, with the whole of its message.
 *
 * Thread: raft.
 */
#include "base/mem.h"
#include "server/node_private.h"

enum { FORWARD_BYTES_MAX = 1 << 20 };

void proposals_add(struct proposals *p, uint64_t id, const struct raft_entry *entry)
{
    size_t cap = p->cap;

    grow((void **)&p->entries, &cap, p->len, sizeof(*p->entries));
    grow((void **)&p->ids, &p->cap, p->len, sizeof(*p->ids));
    p->entries[p->len] = *entry;
    p->ids[p->len++] = id;
}

static void drop_proposal(struct node *n, struct blob *data)
{
    node_uncharge(n, data);
    blob_unref(data);
}

/* Proposals whose request is gone (time-out, client away) were never proposed: they are dropped. */
void node_proposals_tick(struct node *n)
{
    struct proposals *p = &n->held;
    size_t len = 0;

    for (size_t i = 0; i < p->len; i++) {
        if (!wait_contains(n->o.wait, p->ids[i])) {
            drop_proposal(n, p->entries[i].data);
            continue;
        }
        p->entries[len] = p->entries[i];
        p->ids[len++] = p->ids[i];
    }
    p->len = len;
}

/* They come before those that came later. */
void node_proposals_release(struct node *n)
{
    struct proposals held;

    if (n->held.len == 0)
        return;
    node_proposals_tick(n);
    held = n->held;
    for (size_t i = 0; i < n->batch.len; i++)
        proposals_add(&held, n->batch.ids[i], &n->batch.entries[i]);
    n->held = n->batch;
    n->held.len = 0;
    n->batch = held;
}

/* How many go to raft in one input: a leader takes all, a follower sends them on in messages. */
static size_t portion(const struct proposals *p, size_t first, bool leads)
{
    uint64_t bytes = 0;
    size_t i = first;

    if (leads)
        return p->len - first;
    do
        bytes += blob_bytes(p->entries[i++].data).len;
    while (i < p->len && bytes + blob_bytes(p->entries[i].data).len <= FORWARD_BYTES_MAX);
    return i - first;
}

/* (I4) */
bool node_must_wait(const struct node *n, const struct raft_entry *entries, size_t len)
{
    struct raft_status status;
    size_t i = 0;

    while (i < len && entries[i].type == RAFT_ENTRY_NORMAL)
        i++;
    if (i == len)
        return false;
    raft_status(n->raft, &status);
    return status.conf_index_pending > status.applied && status.conf_index_pending <= status.commit;
}

/* (I3) */
static void drop_foreign(struct node *n, uint64_t id, struct blob *data)
{
    struct request *request = wait_take(n->o.wait, id);

    drop_proposal(n, data);
    if (request)
        request->finish(request, OUTCOME_NOT_LEADER);
}

/* What is left in the batch may be proposed now. */
static void sift(struct node *n, const struct raft_status *status)
{
    struct proposals *p = &n->batch;
    uint64_t term = status->role == RAFT_LEADER ? status->term : 0;
    size_t len = 0;

    for (size_t i = 0; i < p->len; i++) {
        const struct raft_entry *e = &p->entries[i];
        if (e->term != 0 && e->term != term) {
            drop_foreign(n, p->ids[i], e->data);
        } else if (node_must_wait(n, e, 1)) {
            proposals_add(&n->held, p->ids[i], e);
        } else {
            p->entries[len] = *e;
            p->ids[len++] = p->ids[i];
        }
    }
    p->len = len;
}

void node_proposals_step(struct node *n, const struct raft_status *status)
{
    struct proposals *p = &n->batch;
    bool leads = status->role == RAFT_LEADER;

    sift(n, status);
    for (size_t i = 0, len; i < p->len; i += len) {
        len = portion(p, i, leads);
        int r = raft_step(n->raft, &(struct raft_input){.type = RAFT_PROPOSE,
                                                        .entries = &p->entries[i],
                                                        .n_entries = len});
        for (size_t k = i; k < i + len; k++) {
            if (r == RAFT_E_DROPPED)
                proposals_add(&n->held, p->ids[k], &p->entries[k]); /* (I1) */
            else
                drop_proposal(n, p->entries[k].data);
        }
    }
    p->len = 0;
}

static void proposals_deinit(struct proposals *p)
{
    for (size_t i = 0; i < p->len; i++)
        blob_unref(p->entries[i].data);
    free(p->entries);
    free(p->ids);
}

void node_proposals_deinit(struct node *n)
{
    proposals_deinit(&n->batch);
    proposals_deinit(&n->held);
}
