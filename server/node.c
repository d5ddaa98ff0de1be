/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft worker (see node.h).
 *
 *   inbox -> raft_step() -> raft_ready() -> wal_append, one wal_sync -> PERSISTED -> committed ->
 *   apply
 *
 * Invariants:
 *   (I1) nothing that promises durability leaves before wal_sync() has returned 0: the member's own
 *        acknowledgement is the PERSISTED input.
 *   (I2) entries reach the apply inbox in index order, each once, each durable here.
 *   (I3) a proposal without a leader stays in `held` until there is one or its request is gone; it
 *        is never proposed twice.
 *   (I4) reads that wait share one read index round: ids arriving later go into the next round,
 *        never into one under way.
 *
 * Thread: raft.
 */
#include "server/node.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/apply.h"
#include "server/server_metrics.h"

enum { SLOW_SYNC_MS = 1000, PROPOSAL_OVERHEAD_BYTES = 256 };

enum note_kind { NOTE_PROPOSAL, NOTE_READ, NOTE_CONF_APPLIED, NOTE_RELEASE };

struct note {
    struct inbox_item item;
    enum note_kind kind;
    uint64_t id; /* PROPOSAL, READ; RELEASE, CONF_APPLIED: the index */
    struct blob *data;
    struct raft_conf_single change;
};

struct ids {
    uint64_t *items;
    size_t len;
    size_t cap;
};

struct node {
    struct raft *raft;
    struct wal *wal;
    struct apply *apply;
    struct wait_table *wait;
    struct server_state *state;
    uint64_t tick_ms;
    uint64_t last_tick_ms;
    uint64_t applied;      /* last told to raft */
    uint64_t applied_seen; /* before this turn's drain of the inbox: its configurations are known */
    uint64_t local_reads_index; /* local reads from here on; 0: not now */

    struct inbox inbox;
    _Atomic uint64_t waiting_bytes; /* proposals in the inbox and held */

    struct raft_entry *batch; /* proposals of this turn */
    uint64_t *batch_ids;
    size_t n_batch, cap_batch;
    struct raft_entry *held; /* (I3) */
    uint64_t *held_ids;
    size_t n_held, cap_held;

    struct ids reads_next; /* (I4) */
    struct ids reads_round;
    uint64_t round; /* id of the round under way; 0: none */
    uint64_t rounds;
};

struct node *node_new(const struct node_options *options)
{
    struct node *n = mem_new(struct node);

    *n = (struct node){
        .raft = options->raft,
        .wal = options->wal,
        .apply = options->apply,
        .wait = options->wait,
        .state = options->state,
        .tick_ms = options->tick_ms,
    };
    inbox_init(&n->inbox, NODE_INBOX_MAX);
    return n;
}

static void note_free(struct note *note)
{
    blob_unref(note->data);
    free(note);
}

struct node *node_free(struct node *n)
{
    struct inbox_item *item, *next;

    if (!n)
        return NULL;
    for (item = inbox_drain(&n->inbox, NULL); item; item = next) {
        next = item->next;
        note_free(container_of(item, struct note, item));
    }
    for (size_t i = 0; i < n->n_held; i++)
        blob_unref(n->held[i].data);
    inbox_deinit(&n->inbox);
    raft_free(n->raft);
    wal_close(n->wal);
    free(n->batch);
    free(n->batch_ids);
    free(n->held);
    free(n->held_ids);
    free(n->reads_next.items);
    free(n->reads_round.items);
    free(n);
    return NULL;
}

/* ---- the doors of other threads ---- */

static struct note *note_new(enum note_kind kind, uint64_t id)
{
    struct note *note = mem_new(struct note);

    note->kind = kind;
    note->id = id;
    return note;
}

static uint64_t cost(const struct blob *data)
{
    return data->len + PROPOSAL_OVERHEAD_BYTES;
}

static void uncharge(struct node *n, const struct blob *data)
{
    atomic_fetch_sub_explicit(&n->waiting_bytes, cost(data), memory_order_relaxed);
}

bool node_propose(struct node *n, uint64_t id, struct blob *data)
{
    struct note *note;

    if (atomic_fetch_add_explicit(&n->waiting_bytes, cost(data), memory_order_relaxed) >
        NODE_INBOX_BYTES_MAX) {
        uncharge(n, data);
        return false;
    }
    note = note_new(NOTE_PROPOSAL, id);
    note->data = data;
    if (inbox_push(&n->inbox, &note->item))
        return true;
    uncharge(n, data);
    free(note);
    return false;
}

bool node_read(struct node *n, uint64_t id)
{
    struct note *note = note_new(NOTE_READ, id);

    if (inbox_push(&n->inbox, &note->item))
        return true;
    free(note);
    return false;
}

void node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change)
{
    struct note *note = note_new(NOTE_CONF_APPLIED, index);

    note->change = change;
    inbox_push_always(&n->inbox, &note->item);
}

void node_release(struct node *n, uint64_t index)
{
    inbox_push_always(&n->inbox, &note_new(NOTE_RELEASE, index)->item);
}

void node_wake(struct node *n)
{
    inbox_wake(&n->inbox);
}

void node_wait(struct node *n)
{
    inbox_wait(&n->inbox, n->last_tick_ms + n->tick_ms);
}

/* ---- feeding raft ---- */

static void grow(void **items, size_t *cap, size_t len, size_t size)
{
    if (len < *cap)
        return;
    *cap = *cap ? 2 * *cap : 64;
    *items = mem_realloc(*items, *cap * size);
}

static void batch_add(struct node *n, uint64_t id, struct blob *data)
{
    size_t cap = n->cap_batch;

    grow((void **)&n->batch, &cap, n->n_batch, sizeof(*n->batch));
    grow((void **)&n->batch_ids, &n->cap_batch, n->n_batch, sizeof(*n->batch_ids));
    n->batch[n->n_batch] = (struct raft_entry){.type = RAFT_ENTRY_NORMAL, .data = data};
    n->batch_ids[n->n_batch++] = id;
}

static void hold(struct node *n, uint64_t id, struct raft_entry entry)
{
    size_t cap = n->cap_held;

    grow((void **)&n->held, &cap, n->n_held, sizeof(*n->held));
    grow((void **)&n->held_ids, &n->cap_held, n->n_held, sizeof(*n->held_ids));
    n->held[n->n_held] = entry;
    n->held_ids[n->n_held++] = id;
}

static void ids_add(struct ids *ids, uint64_t id)
{
    grow((void **)&ids->items, &ids->cap, ids->len, sizeof(*ids->items));
    ids->items[ids->len++] = id;
}

static void conf_applied(struct node *n, const struct note *note)
{
    struct raft_conf_change change = {.changes = &note->change, .n_changes = 1};

    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_CONF_APPLIED, .conf = &change});
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_APPLIED, .index = note->id});
    n->applied = note->id;
}

static int take_note(struct node *n, struct note *note)
{
    switch (note->kind) {
    case NOTE_PROPOSAL:
        batch_add(n, note->id, note->data);
        note->data = NULL;
        return 0;
    case NOTE_READ: ids_add(&n->reads_next, note->id); return 0;
    case NOTE_CONF_APPLIED: conf_applied(n, note); return 0;
    case NOTE_RELEASE: return wal_release(n->wal, note->id);
    }
    return 0;
}

static int take_inbox(struct node *n)
{
    struct inbox_item *item = inbox_drain(&n->inbox, NULL), *next;
    int r = 0;

    for (; item; item = next) {
        struct note *note = container_of(item, struct note, item);
        next = item->next;
        if (r >= 0)
            r = take_note(n, note);
        note_free(note);
    }
    return r < 0 ? err_trace(r) : 0;
}

static void drop_held(struct node *n, size_t i)
{
    uncharge(n, n->held[i].data);
    blob_unref(n->held[i].data);
}

/* Held proposals whose request is gone (time-out, client away) are dropped: they were never
 * proposed. */
static void release_held(struct node *n)
{
    size_t n_held = n->n_held;

    n->n_held = 0;
    for (size_t i = 0; i < n_held; i++) {
        if (wait_contains(n->wait, n->held_ids[i]))
            batch_add(n, n->held_ids[i], n->held[i].data);
        else
            drop_held(n, i);
    }
}

/* While there is no leader: what nobody waits for any more makes room. */
static void forget_gone(struct node *n)
{
    size_t n_held = 0, n_reads = 0;

    for (size_t i = 0; i < n->n_held; i++) {
        if (!wait_contains(n->wait, n->held_ids[i])) {
            drop_held(n, i);
            continue;
        }
        n->held[n_held] = n->held[i];
        n->held_ids[n_held++] = n->held_ids[i];
    }
    n->n_held = n_held;
    for (size_t i = 0; i < n->reads_next.len; i++) {
        if (wait_contains(n->wait, n->reads_next.items[i]))
            n->reads_next.items[n_reads++] = n->reads_next.items[i];
    }
    n->reads_next.len = n_reads;
}

static void propose(struct node *n)
{
    int r;

    if (n->n_batch == 0)
        return;
    r = raft_step(n->raft, &(struct raft_input){
                               .type = RAFT_PROPOSE, .entries = n->batch, .n_entries = n->n_batch});
    for (size_t i = 0; i < n->n_batch; i++) {
        if (r == RAFT_E_DROPPED)
            hold(n, n->batch_ids[i], n->batch[i]);
        else {
            uncharge(n, n->batch[i].data);
            blob_unref(n->batch[i].data);
        }
    }
    n->n_batch = 0;
}

/* Time that passed while we were stopped or waiting for the disk does not come in a burst: at most
 * one tick a turn. */
static void tick(struct node *n, uint64_t now_ms)
{
    if (n->last_tick_ms != 0 && now_ms < n->last_tick_ms + n->tick_ms)
        return;
    n->last_tick_ms = n->last_tick_ms != 0 && now_ms < n->last_tick_ms + 2 * n->tick_ms
                          ? n->last_tick_ms + n->tick_ms
                          : now_ms;
    forget_gone(n);
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_TICK});
}

static void start_read_round(struct node *n)
{
    struct ids empty = n->reads_round;

    if (n->round != 0 || n->reads_next.len == 0)
        return;
    empty.len = 0;
    n->reads_round = n->reads_next;
    n->reads_next = empty;
    n->round = ++n->rounds;
    if (raft_step(n->raft, &(struct raft_input){.type = RAFT_READ, .read_id = n->round}) ==
        RAFT_E_DROPPED) {
        for (size_t i = 0; i < n->reads_round.len; i++)
            ids_add(&n->reads_next, n->reads_round.items[i]);
        n->reads_round.len = 0;
        n->round = 0;
    }
}

static void tell_applied(struct node *n, const struct raft_status *status)
{
    uint64_t applied = n->applied_seen;

    if (applied <= n->applied)
        return;
    n->applied = applied;
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_APPLIED, .index = applied});
    if (status->sole_voter)
        (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_COMPACT, .index = applied});
}

/* What may have become possible: also in the middle of a turn, when this member has just become
 * leader. */
static void node_feed(struct node *n)
{
    struct raft_status status;

    raft_status(n->raft, &status);
    tell_applied(n, &status);
    if (status.sole_voter && status.role == RAFT_FOLLOWER)
        (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_CAMPAIGN});
    if (status.leader != 0)
        release_held(n);
    propose(n);
    start_read_round(n);
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

static int persist(struct node *n, const struct raft_ready *rd)
{
    int r;

    if (!rd->hard_state_changed && rd->n_entries == 0)
        return 0;
    failpoint("raftBeforeSave");
    r = wal_append(n->wal, rd->hard_state_changed ? &rd->hard_state : NULL, rd->entries,
                   rd->n_entries);
    if (r == 0)
        r = rd->must_sync ? sync_log(n) : wal_flush(n->wal);
    failpoint("raftAfterSave");
    return r;
}

static int hand_over(struct node *n, const struct raft_ready *rd)
{
    int r = 0;

    if (rd->n_committed > 0 && !apply_now(n->apply, rd->committed, rd->n_committed, &r))
        apply_push_entries(n->apply, rd->committed, rd->n_committed);
    for (size_t i = 0; i < rd->n_reads; i++) {
        if (rd->reads[i].id != n->round)
            continue;
        apply_push_reads(n->apply, rd->reads[i].index, n->reads_round.items, n->reads_round.len);
        n->reads_round.len = 0;
        n->round = 0;
    }
    for (size_t i = 0; i < rd->n_reads_lost; i++) {
        if (rd->reads_lost[i] != n->round)
            continue;
        for (size_t k = 0; k < n->reads_round.len; k++)
            ids_add(&n->reads_next, n->reads_round.items[k]);
        n->reads_round.len = 0;
        n->round = 0;
    }
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

static void publish(struct node *n)
{
    struct server_state *s = n->state;
    struct raft_status status;

    raft_status(n->raft, &status);
    atomic_store_explicit(&s->committed, status.commit, memory_order_release);
    atomic_store_explicit(&s->term, status.term, memory_order_release);
    atomic_store_explicit(&s->local_reads, local_reads(n, &status), memory_order_release);
    metric_set(&metric_proposals_committed, (double)status.commit);
}

static void publish_leader(struct node *n, const struct raft_ready *rd)
{
    struct server_state *s = n->state;
    uint64_t old = atomic_load_explicit(&s->leader, memory_order_relaxed);

    metric_set(&metric_has_leader, rd->leader != 0);
    metric_set(&metric_is_leader, rd->role == RAFT_LEADER);
    if (rd->leader == old)
        return;
    atomic_store_explicit(&s->leader, rd->leader, memory_order_release);
    if (rd->leader == 0)
        return;
    atomic_store_explicit(&s->leader_since_ms, clock_mono_ms(), memory_order_release);
    metric_add(&metric_leader_changes, 1);
    log_info("raft.node: elected leader", LOG_ID("local-member-id", s->member_id),
             LOG_ID("leader-id", rd->leader));
}

static int act(struct node *n)
{
    struct raft_ready rd;
    int r;

    raft_ready(n->raft, &rd);
    /* The only member has no peers. */
    check(rd.n_messages == 0 && rd.n_messages_durable == 0 && !rd.snapshot);
    r = persist(n, &rd);
    if (r < 0)
        return err_trace(r);
    if (rd.soft_changed)
        publish_leader(n, &rd);
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

    n->applied_seen = atomic_load_explicit(&n->state->applied, memory_order_acquire);
    r = take_inbox(n);
    tick(n, now_ms);
    node_feed(n);
    while (r == 0 && raft_has_ready(n->raft)) {
        r = act(n);
        node_feed(n);
    }
    if (r < 0)
        return err_trace(r);
    publish(n);
    return 0;
}
