/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Linearizable reads that need a round: as etcd's, one round at a time for all that wait.
 *
 *   next --round begins--> round --read index--> apply, which answers at that index
 *                            |  ^
 *                            |  +-- no answer for READ_RETRY_MS, or lost: asked again, new id
 *                            +-- a leader that was not there before: "leader changed"
 *
 * Invariants:
 *   (I1) ids that arrive later go into the next round, never into one under way.
 *   (I2) each try has an id that was never used before, on any member: an answer says which round
 *        it is for, and the answer to any try of a round will do, since all came behind its reads.
 *   (I3) a read index that comes together with a change of leader is not used.
 *   (I4) clients that were answered together mostly ask together again. So behind a round of
 *        READ_GATHER_MIN or more the next one begins when as many wait as that had, or
 *        READ_GATHER_MS after its end: fewer and larger rounds. A lone reader never waits.
 *
 * Thread: raft.
 */
#include "base/log.h"
#include "server/apply.h"
#include "server/node_private.h"
#include "server/server_metrics.h"

/* (I2) Without a leader it is lost, and tried again. */
static void try_round(struct node *n)
{
    struct reads *r = &n->reads;
    uint64_t id = server_state_next_id(n->state);

    if (r->n_tries == READ_TRIES_MAX) {
        r->n_tries--;
        memmove(r->tries, r->tries + 1, r->n_tries * sizeof(*r->tries));
    }
    r->tries[r->n_tries++] = id;
    r->retry_ms = n->now_ms + READ_RETRY_MS;
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_READ, .read_id = id});
}

/* (I4) */
static bool gathers(const struct node *n)
{
    const struct reads *r = &n->reads;

    return r->n_tries == 0 && r->next.len > 0 && r->next.len < r->last_len &&
           r->last_len >= READ_GATHER_MIN && n->now_ms < r->last_ms + READ_GATHER_MS;
}

uint64_t node_reads_deadline(const struct node *n)
{
    return gathers(n) ? n->reads.last_ms + READ_GATHER_MS : UINT64_MAX;
}

/* (I1) */
void node_reads_start(struct node *n)
{
    struct reads *r = &n->reads;
    struct ids empty = r->round;

    if (r->n_tries > 0 || r->next.len == 0 || gathers(n))
        return;
    empty.len = 0;
    r->round = r->next;
    r->next = empty;
    try_round(n);
}

static void end_round(struct node *n)
{
    struct reads *r = &n->reads;

    r->last_len = r->round.len;
    r->last_ms = n->now_ms;
    r->round.len = 0;
    r->n_tries = 0;
}

static void forget_gone(struct node *n, struct ids *ids)
{
    size_t len = 0;

    for (size_t i = 0; i < ids->len; i++) {
        if (wait_contains(n->o.wait, ids->items[i]))
            ids->items[len++] = ids->items[i];
    }
    ids->len = len;
}

void node_reads_tick(struct node *n)
{
    struct reads *r = &n->reads;

    forget_gone(n, &r->next);
    forget_gone(n, &r->round);
    if (r->round.len == 0) {
        end_round(n);
    } else if (n->now_ms >= r->retry_ms) {
        log_warn("waiting for ReadIndex response took too long, retrying",
                 LOG_U64("sent-request-id", r->tries[r->n_tries - 1]),
                 LOG_DURATION("retry-timeout", READ_RETRY_MS * INT64_C(1000000)));
        try_round(n);
    }
}

void node_reads_leader_changed(struct node *n)
{
    struct reads *r = &n->reads;

    if (r->n_tries == 0)
        return;
    metric_add(&metric_read_indexes_failed, 1);
    for (size_t i = 0; i < r->round.len; i++) {
        struct request *request = wait_take(n->o.wait, r->round.items[i]);
        if (request)
            request->finish(request, OUTCOME_LEADER_CHANGED);
    }
    end_round(n);
}

static bool is_try(const struct reads *r, uint64_t id)
{
    for (size_t i = 0; i < r->n_tries; i++) {
        if (r->tries[i] == id)
            return true;
    }
    return false;
}

void node_reads_ready(struct node *n, const struct raft_ready *rd)
{
    struct reads *r = &n->reads;

    for (size_t i = 0; i < rd->n_reads; i++) {
        if (!is_try(r, rd->reads[i].id)) { /* late: the round was answered by another try */
            metric_add(&metric_slow_read_indexes, 1);
            continue;
        }
        apply_reads(n->o.apply, rd->reads[i].index, r->round.items, r->round.len);
        end_round(n);
    }
    for (size_t i = 0; i < rd->n_reads_lost; i++) {
        if (is_try(r, rd->reads_lost[i]))
            r->retry_ms = n->now_ms; /* at the next tick */
    }
}
