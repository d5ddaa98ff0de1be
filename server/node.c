/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft worker (see node.h).
 *
 *   inbox -> raft_step() -> raft_ready() -> messages -> wal_append, one wal_sync
 *         -> durable messages -> PERSISTED -> committed -> apply
 *
 * Invariants:
 *   (I1) nothing that promises durability leaves before wal_sync() has returned 0: the member's own
 *        acknowledgement is the PERSISTED input.
 *   (I2) entries reach the apply inbox in index order, each once, each durable here; a snapshot
 *        takes the place of those that it holds, when the log says so durably.
 *   (I3) what has come is stepped before the time that has passed: a member that was stopped hears
 *        of its leader before it misses it. Time that passed meanwhile does not come in a burst.
 *   (I4) what is committed is known here before any other member hears of it: who has applied it
 *        there may ask here, and "wait until that is applied" must mean it.
 *
 * Thread: raft.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/apply.h"
#include "server/node_private.h"
#include "server/server_metrics.h"
#include "server/snapshot.h"
#include "server/transport.h"

enum { SLOW_SYNC_MS = 1000, ADVANCE_MS = 5000 };

static void catchup_fill(struct node *n)
{
    for (size_t i = 0; i < n->o.n_entries && n->o.entries[i].index <= n->o.applied; i++)
        catchup_add(&n->catchup, n->o.entries[i].index, blob_bytes(n->o.entries[i].data).len);
    n->o.entries = NULL;
}

struct node *node_new(const struct node_options *options)
{
    struct node *n = mem_new(struct node);

    n->o = *options;
    n->raft = options->raft;
    n->wal = options->wal;
    n->state = options->state;
    n->applied = options->applied;
    inbox_init(&n->inbox, NODE_INBOX_MAX);
    catchup_fill(n);
    return n;
}

struct node *node_free(struct node *n)
{
    if (!n)
        return NULL;
    node_free_inbox(n);
    node_drop_delayed(n);
    node_proposals_deinit(n);
    raft_free(n->raft);
    wal_close(n->wal);
    free(n->reads.next.items);
    free(n->reads.round.items);
    free(n->scratch);
    free(n);
    return NULL;
}

void node_wake(struct node *n)
{
    inbox_wake(&n->inbox);
}

void node_wait(struct node *n)
{
    uint64_t tick_ms = n->last_tick_ms + n->o.tick_ms, reads_ms = node_reads_deadline(n);

    inbox_wait(&n->inbox, tick_ms < reads_ms ? tick_ms : reads_ms);
}

void grow(void **items, size_t *cap, size_t len, size_t size)
{
    if (len < *cap)
        return;
    while (*cap <= len)
        *cap = *cap ? 2 * *cap : 64;
    *items = mem_realloc(*items, *cap * size);
}

void ids_add(struct ids *ids, uint64_t id)
{
    grow((void **)&ids->items, &ids->cap, ids->len, sizeof(*ids->items));
    ids->items[ids->len++] = id;
}

/* ---- time ---- */

static void forget_moves(struct node *n)
{
    size_t len = 0;

    for (size_t i = 0; i < n->n_moves; i++) {
        if (wait_contains(n->o.wait, n->moves[i].id))
            n->moves[len++] = n->moves[i];
    }
    n->n_moves = len;
}

static size_t active_peers(const struct node *n)
{
    const struct raft_conf_state *conf = raft_conf(n->raft);
    const struct raft_ids *all[] = {&conf->voters, &conf->learners};
    struct transport *t = n->o.transport;
    size_t active = 0;

    for (int k = 0; t && k < 2; k++) {
        for (size_t i = 0; i < all[k]->len; i++)
            active +=
                all[k]->ids[i] != n->state->member_id && t->ops->active_ms(t, all[k]->ids[i]) > 0;
    }
    return active;
}

/* A start need not wait for a whole election timeout, if it would have heard of a leader: as etcd,
 * which wants to see more than one peer before it hurries. */
static void advance_ticks(struct node *n)
{
    uint32_t ticks = n->o.election_ticks - 2;

    if (n->advance_until_ms == 0)
        return;
    if (n->now_ms >= n->advance_until_ms) {
        n->advance_until_ms = 0;
        return;
    }
    if (active_peers(n) <= 1)
        return;
    n->advance_until_ms = 0;
    log_info("initialized peer connections; fast-forwarding election ticks",
             LOG_ID("local-member-id", n->state->member_id), LOG_U64("forward-ticks", ticks));
    for (uint32_t i = 0; i < ticks; i++)
        (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_TICK});
}

/* (I3): at most one tick a turn. */
static void tick(struct node *n)
{
    uint64_t last_ms = n->last_tick_ms, now_ms = n->now_ms;

    if (last_ms != 0 && now_ms < last_ms + n->o.tick_ms)
        return;
    if (last_ms == 0)
        n->advance_until_ms = n->o.tick_advance ? now_ms + ADVANCE_MS : 0;
    n->ticked_ms = clock_mono_ms();
    n->last_tick_ms =
        last_ms != 0 && now_ms < last_ms + 2 * n->o.tick_ms ? last_ms + n->o.tick_ms : now_ms;
    node_proposals_tick(n);
    forget_moves(n);
    node_reads_tick(n);
    node_sends_tick(n);
    advance_ticks(n);
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_TICK});
}

/* ---- feeding raft ---- */

static void tell_applied(struct node *n)
{
    if (n->applied_seen <= n->applied)
        return;
    n->applied = n->applied_seen;
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_APPLIED, .index = n->applied});
}

/* What may have become possible: also in the middle of a turn, when this member has just become
 * leader. */
static void node_feed(struct node *n)
{
    struct raft_status status;

    tell_applied(n);
    node_step_early(n);
    node_send_delayed(n);
    raft_status(n->raft, &status);
    if (status.sole_voter && status.role == RAFT_FOLLOWER)
        (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_CAMPAIGN});
    if (status.leader != 0)
        node_proposals_release(n);
    node_proposals_step(n, &status);
    node_reads_start(n);
}

/* ---- doing what a ready says ---- */

static int sync_log(struct node *n)
{
    uint64_t start = clock_mono_ns();
    int r = wal_sync(n->wal);
    uint64_t took = clock_mono_ns() - start;

    metric_observe(&metric_wal_fsync, (double)took / 1e9);
    if (took > SLOW_SYNC_MS * UINT64_C(1000000))
        log_warn("slow fdatasync", LOG_DURATION("took", took),
                 LOG_DURATION("expected-duration", SLOW_SYNC_MS * INT64_C(1000000)));
    return r;
}

/* What raft has been given in this turn is its own now, or of no use. */
static void settle_received(struct node *n, const struct received *taken)
{
    while (n->received) {
        struct received *r = n->received;
        n->received = r->next;
        if (r != taken)
            snapshots_discard(n->o.snapshots, r, true);
    }
}

static struct received *received_find(struct node *n, const struct raft_snapshot *s)
{
    struct received *r = n->received;

    while (r && (r->message->snapshot->index != s->index || r->message->snapshot->term != s->term))
        r = r->next;
    return r;
}

/* The database first gets the name under which a start looks for it, then the log its mark. */
static int persist_snapshot(struct node *n, const struct raft_snapshot *s)
{
    struct received *r = received_find(n, s);
    int e;

    check(r && r->path);
    e = snapshots_accept(n->o.snapshots, r);
    failpoint("raftBeforeSaveSnap");
    if (e == 0)
        e = wal_append_snapshot(n->wal, s->index, s->term);
    failpoint("raftAfterSaveSnap");
    return e;
}

static int persist(struct node *n, const struct raft_ready *rd)
{
    int r = 0;

    if (!rd->hard_state_changed && rd->n_entries == 0 && !rd->snapshot)
        return 0;
    failpoint("raftBeforeSave");
    if (rd->snapshot)
        r = persist_snapshot(n, rd->snapshot);
    if (r == 0)
        r = wal_append(n->wal, rd->hard_state_changed ? &rd->hard_state : NULL, rd->entries,
                       rd->n_entries);
    if (r == 0)
        r = rd->must_sync ? sync_log(n) : wal_flush(n->wal);
    failpoint("raftAfterSave");
    return r;
}

static void keep_for_peers(struct node *n, const struct raft_entry *entries, size_t len)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < len; i++)
        bytes += blob_bytes(entries[i].data).len;
    catchup_add(&n->catchup, entries[len - 1].index, bytes);
}

static int hand_over(struct node *n, const struct raft_ready *rd)
{
    int r = 0;

    if (rd->snapshot) {
        struct received *taken = received_find(n, rd->snapshot);
        settle_received(n, taken);
        apply_push_snapshot(n->o.apply, taken);
    }
    if (rd->n_committed > 0) {
        keep_for_peers(n, rd->committed, rd->n_committed);
        if (!apply_now(n->o.apply, rd->committed, rd->n_committed, &r))
            apply_push_entries(n->o.apply, rd->committed, rd->n_committed);
    }
    node_reads_ready(n, rd);
    return r;
}

/* The only voter's own state serves linearizable reads, once everything is applied that anyone may
 * have been told of before this member led. */
static bool local_reads(struct node *n, const struct raft_status *status)
{
    bool leads = status->role == RAFT_LEADER && status->sole_voter && status->committed_in_term;

    if (!leads)
        n->local_reads_index = 0;
    else if (n->local_reads_index == 0)
        n->local_reads_index = status->commit;
    return leads &&
           atomic_load_explicit(&n->state->applied, memory_order_acquire) >= n->local_reads_index;
}

/* Apply is full, or a change of members waits for the one before: it goes on when some more is
 * applied, not at the next event. The flag and applied are written and read in opposite orders here
 * and in the apply turn. */
static void want_applied(struct node *n, bool wanted)
{
    struct server_state *s = n->state;

    if (!wanted && !atomic_load_explicit(&s->applied_wanted, memory_order_relaxed))
        return;
    atomic_store(&s->applied_wanted, wanted);
    if (wanted && atomic_load(&s->applied) > n->applied)
        node_wake(n);
}

static void publish(struct node *n)
{
    struct server_state *s = n->state;
    struct raft_status status;

    raft_status(n->raft, &status);
    atomic_store_explicit(&s->committed, status.commit, memory_order_release);
    atomic_store_explicit(&s->term, status.term, memory_order_release);
    atomic_store_explicit(&s->local_reads, local_reads(n, &status), memory_order_release);
    atomic_store_explicit(&s->tick_ms, n->ticked_ms, memory_order_release); /* behind the rest */
    want_applied(n, status.applying_paused || n->early || n->held.len > 0);
    metric_set(&metric_proposals_committed, (double)status.commit);
}

static void finish_moves(struct node *n, uint64_t leader)
{
    size_t len = 0;

    for (size_t i = 0; i < n->n_moves; i++) {
        struct request *request;
        if (n->moves[i].to != leader) {
            n->moves[len++] = n->moves[i];
            continue;
        }
        request = wait_take(n->o.wait, n->moves[i].id);
        if (request)
            request->finish(request, OUTCOME_OK);
    }
    n->n_moves = len;
}

/* In etcd's words, which people and tools look for. */
static void log_lead(const struct node *n, uint64_t term)
{
    char text[80];

    snprintf(text, sizeof(text), "%" PRIx64 " became leader at term %" PRIu64, n->state->member_id,
             term);
    log_info(text);
}

static void leader_found(struct node *n, const struct raft_ready *rd)
{
    struct server_state *s = n->state;

    if (rd->leader == s->member_id) { /* as in etcd, only of its own */
        atomic_store_explicit(&s->leader_since_ms, clock_mono_ms(), memory_order_release);
        log_lead(n, rd->hard_state.term);
    }
    metric_add(&metric_leader_changes, 1);
    log_info("raft.node: elected leader", LOG_ID("local-member-id", s->member_id),
             LOG_ID("leader-id", rd->leader));
    node_reads_leader_changed(n);
}

static void leader_lost(struct node *n, uint64_t leader)
{
    atomic_store_explicit(&n->state->leader_lost_ms, clock_mono_ms(), memory_order_release);
    log_info("raft.node: lost leader", LOG_ID("local-member-id", n->state->member_id),
             LOG_ID("leader-id", leader));
}

static void publish_leader(struct node *n, const struct raft_ready *rd)
{
    struct server_state *s = n->state;
    uint64_t old = atomic_load_explicit(&s->leader, memory_order_relaxed);

    metric_set(&metric_has_leader, rd->leader != 0);
    metric_set(&metric_is_leader, rd->role == RAFT_LEADER);
    if (rd->leader != old) {
        atomic_store_explicit(&s->leader, rd->leader, memory_order_release);
        if (rd->leader != 0)
            leader_found(n, rd);
        else
            leader_lost(n, old);
    }
    if (rd->leader != 0)
        finish_moves(n, rd->leader);
}

static int act(struct node *n)
{
    struct raft_ready rd;
    int r;

    raft_ready(n->raft, &rd);
    if (rd.soft_changed)
        publish_leader(n, &rd);
    if (rd.hard_state_changed) /* (I4) */
        atomic_store_explicit(&n->state->committed, rd.hard_state.commit, memory_order_release);
    node_send(n, &rd);
    r = persist(n, &rd); /* (I1) */
    if (r < 0)
        return err_trace(r);
    node_send_durable(n, &rd);
    r = hand_over(n, &rd);
    if (r < 0)
        return err_trace(r);
    raft_advance(n->raft);
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_PERSISTED});
    return 0;
}

int node_turn(struct node *n, uint64_t now_ms)
{
    int r;

    n->now_ms = now_ms;
    n->applied_seen = atomic_load_explicit(&n->state->applied, memory_order_acquire);
    node_compact(n);
    r = node_take_inbox(n);
    tick(n);
    node_feed(n);
    while (r == 0 && raft_has_ready(n->raft)) {
        r = act(n);
        if (r == 0)
            node_feed(n);
    }
    settle_received(n, NULL);
    if (r < 0)
        return err_trace(r);
    publish(n);
    return 0;
}
