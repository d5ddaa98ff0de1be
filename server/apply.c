/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The apply worker's turns (see apply.h); apply_entry.c has what one entry does.
 *
 *   inbox -> each entry: effects into the batch -> batch and applied index: one db_write
 *         -> publish the revision -> finish the requests that wait here, and reads come so far
 *
 * Invariants:
 *   (I1) entry.index == applied + 1, always.
 *   (I2) the batch that holds an entry's effects holds its applied index; nothing else writes that
 *        key. So after any crash the database is the state after a prefix of the log, and the index
 *        says which.
 *   (I3) whoever waits is answered after the write, never before: reads that nothing is missing for
 *        at once, on the raft thread, since applied is published behind the write.
 *   (I4) one turn at a time, on whichever thread: the lock `turn` is held for the whole of it. What
 *        apply owns, here and below in storage/, is touched by the turn alone.
 *   (I5) apply_now() applies nothing while the inbox holds something or another turn runs: entries
 *        stay in order.
 *   (I6) raft hears of a configuration when it is written, and before the applied index shows it.
 *   (I7) an answer that waits for the NOSPACE alarm is in the wait table, so it expires, is taken
 *        back and is stopped as any other; `held` has its id until the alarm is applied.
 *   (I8) a snapshot takes the place of all entries up to its index: what comes behind it continues
 *        there. The database was made and checked before (snapshot.h); here it gets its place.
 *
 * Thread: the apply turn: one at a time, under apply's turn lock, on the apply thread or
 * (apply_now) the raft thread. The push functions, apply_wait() and apply_wake(): see apply.h.
 */
#include "server/apply_private.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/housekeeper.h"
#include "server/internal_request.h"
#include "server/lease_ask.h"
#include "server/node.h"
#include "server/server_metrics.h"
#include "server/snapshot.h"
#include "server/txn.h"
#include "server/watch_hub.h"

/* One delivery from the raft thread. */
struct delivery {
    struct inbox_item item;
    struct delivery *next; /* in the list of those whose reads wait */
    size_t n_entries;
    struct received *received; /* a snapshot; nothing else then */
    uint64_t read_index;
    size_t n_reads;
    uint64_t *reads;
    struct raft_entry entries[];
};

struct apply *apply_new(const struct apply_options *options)
{
    struct apply *a = mem_new(struct apply);

    a->o = *options;
    a->applied = options->applied;
    a->applied_term = options->applied_term;
    a->reads.last = &a->reads.first;
    inbox_init(&a->inbox, SIZE_MAX); /* bounded by raft's budget of entries handed out */
    pthread_mutex_init(&a->turn, NULL);
    arena_init(&a->arena);
    a->batch = db_batch_new();
    mvcc_batch(a->o.store->mvcc, a->batch);
    return a;
}

void apply_set_node(struct apply *a, struct node *node)
{
    a->node = node;
}

static void delivery_free(struct apply *a, struct delivery *d)
{
    if (d->received)
        snapshots_discard(a->o.snapshots, d->received, true);
    for (size_t i = 0; i < d->n_entries; i++)
        blob_unref(d->entries[i].data);
    free(d->reads);
    free(d);
}

static struct delivery *pop_reads(struct apply *a)
{
    struct delivery *d = a->reads.first;

    a->reads.first = d->next;
    if (!a->reads.first)
        a->reads.last = &a->reads.first;
    return d;
}

struct apply *apply_free(struct apply *a)
{
    struct inbox_item *item, *next;

    if (!a)
        return NULL;
    for (item = inbox_drain(&a->inbox, NULL); item; item = next) {
        next = item->next;
        delivery_free(a, container_of(item, struct delivery, item));
    }
    while (a->reads.first)
        delivery_free(a, pop_reads(a));
    inbox_deinit(&a->inbox);
    pthread_mutex_destroy(&a->turn);
    arena_deinit(&a->arena);
    db_batch_free(a->batch);
    free(a->results);
    free(a->held.ids);
    free(a);
    return NULL;
}

void apply_push_entries(struct apply *a, const struct raft_entry *entries, size_t n)
{
    struct delivery *d = mem_alloc_raw(sizeof(*d) + n * sizeof(*entries));

    *d = (struct delivery){.n_entries = n};
    for (size_t i = 0; i < n; i++) {
        d->entries[i] = entries[i];
        blob_ref(entries[i].data);
    }
    inbox_push_always(&a->inbox, &d->item);
}

void apply_push_snapshot(struct apply *a, struct received *received)
{
    struct delivery *d = mem_new(struct delivery);

    d->received = received;
    inbox_push_always(&a->inbox, &d->item);
}

static void answer(struct apply *a, const uint64_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct request *request = wait_take(a->o.wait, ids[i]);
        if (request)
            request->finish(request, OUTCOME_OK);
    }
}

void apply_reads(struct apply *a, uint64_t index, const uint64_t *ids, size_t n)
{
    struct delivery *d;

    if (atomic_load_explicit(&a->o.state->applied, memory_order_acquire) >= index) {
        answer(a, ids, n);
        return;
    }
    d = mem_new(struct delivery);
    d->read_index = index;
    d->n_reads = n;
    d->reads = mem_alloc_raw((n + 1) * sizeof(*ids));
    memcpy(d->reads, ids, n * sizeof(*ids));
    inbox_push_always(&a->inbox, &d->item);
}

void apply_wait(struct apply *a)
{
    inbox_wait(&a->inbox, UINT64_MAX);
}

void apply_wake(struct apply *a)
{
    inbox_wake(&a->inbox);
}

/* ---- the end of a turn ---- */

static void put_applied(struct apply *a)
{
    struct buf key = BUF_NULL, value = BUF_NULL;

    schema_meta(&key, "applied");
    buf_append_u64_be(&value, a->applied);
    buf_append_u64_be(&value, a->applied_term);
    db_batch_put(a->batch, buf_bytes(&key), buf_bytes(&value));
    buf_deinit(&key);
    buf_deinit(&value);
}

/* (I7) A request that is in the table may be gone at any moment. */
static void hold(struct apply *a, struct request *request)
{
    struct held *h = &a->held;
    uint64_t id = request->id;

    if (h->len == APPLY_HELD_MAX) {
        request->finish(request, OUTCOME_NO_SPACE);
        return;
    }
    if (!wait_add(a->o.wait, request)) {
        request->finish(request, OUTCOME_STOPPED);
        return;
    }
    if (h->len == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 16;
        h->ids = mem_realloc(h->ids, h->cap * sizeof(*h->ids));
    }
    h->ids[h->len++] = id;
}

static void release_held(struct apply *a)
{
    for (size_t i = 0; i < a->held.len; i++) {
        struct request *request = wait_take(a->o.wait, a->held.ids[i]);
        if (request)
            request->finish(request, OUTCOME_NO_SPACE);
    }
    a->held.len = 0;
}

static void finish_result(struct apply *a, const struct result *result)
{
    switch (result->time) {
    case ANSWER_WRITTEN: result->request->finish(result->request, result->outcome); break;
    case ANSWER_COMPACTED:
        housekeeper_await_compaction(a->o.housekeeper, result->request, result->revision);
        break;
    case ANSWER_ALARMED: hold(a, result->request); break;
    }
}

/* The alarm's own answer comes first: it ends the proposal, and a new one can be due behind it. */
static void finish_results(struct apply *a)
{
    for (size_t i = 0; i < a->n_results; i++)
        finish_result(a, &a->results[i]);
    a->n_results = 0;
    if (a->alarm_due)
        a->o.raise_alarm(a->o.raise_alarm_arg);
    else
        release_held(a);
}

static void report(struct apply *a)
{
    metric_set(&metric_proposals_applied, (double)a->applied);
    metric_set(&metric_current_revision, (double)mvcc_revision(a->o.store->mvcc));
    housekeeper_note_written(a->o.housekeeper, a->turn_entries, a->turn_bytes);
    a->turn_entries = 0;
    a->turn_bytes = 0;
}

/* Raft: (I6). The housekeeper hears of a compaction when it can find it. */
static void tell_others(struct apply *a)
{
    bool conf_changed = a->conf_changed;

    if (conf_changed)
        node_conf_applied(a->node, a->applied, a->conf);
    a->conf_changed = false;
    atomic_store(&a->o.state->applied, a->applied);
    if (atomic_load(&a->o.state->applied_wanted))
        node_wake(a->node);
    if (conf_changed && a->conf.node_id != 0 && a->o.members_changed)
        a->o.members_changed(a->o.members_changed_arg);
    if (a->compaction_accepted)
        housekeeper_wake(a->o.housekeeper);
    a->compaction_accepted = false;
    lease_asks_applied(a->o.lease_asks, a->applied);
}

static void tell_watchers(struct apply *a)
{
    size_t n;
    const struct mvcc_change *changes = mvcc_changes(a->o.store->mvcc, &n);

    watch_hub_append(a->o.watch_hub, changes, n);
}

/* (I2), (I3). Watchers are handed the changes first, and see them when they are published. */
int apply_commit(struct apply *a)
{
    uint64_t start;
    int r;

    if (a->turn_entries == 0)
        return 0;
    tell_watchers(a);
    mvcc_seal(a->o.store->mvcc);
    put_applied(a);
    start = clock_mono_ns();
    failpoint("beforeCommit");
    r = db_write(a->o.store->db, a->batch);
    if (r < 0)
        return err_trace(r);
    failpoint("afterCommit");
    metric_observe(&metric_backend_commit, (double)(clock_mono_ns() - start) / 1e9);
    db_batch_clear(a->batch);
    mvcc_publish(a->o.store->mvcc);
    watch_hub_wake(a->o.watch_hub);
    tell_others(a);
    finish_results(a);
    report(a);
    return 0;
}

/* ---- a turn ---- */

/* Raft first: (I6). */
static void tell_installed(struct apply *a)
{
    struct mvcc *mvcc = a->o.store->mvcc;

    node_snapshot_installed(a->node, a->applied);
    atomic_store_explicit(&a->o.state->applied, a->applied, memory_order_release);
    if (a->o.members_changed)
        a->o.members_changed(a->o.members_changed_arg);
    housekeeper_wake(a->o.housekeeper);
    metric_set(&metric_proposals_applied, (double)a->applied);
    metric_set(&metric_current_revision, (double)mvcc_revision(mvcc));
    metric_set(&metric_compact_revision, (double)mvcc_compacted(mvcc));
}

/* (I8). The old state's batch goes first: whoever waits for what was in it is answered. */
static int install(struct apply *a, const struct received *received)
{
    const struct raft_snapshot *s = received->message->snapshot;
    struct store *store = a->o.store;
    uint64_t start = clock_mono_ns();
    int r = apply_commit(a);

    arena_reset(&a->arena);
    if (r == 0)
        r = store_exchange(store, received->path);
    if (r == 0)
        r = store_applied(store->db, NULL, &a->applied, &a->applied_term);
    if (r < 0)
        return err_trace(r);
    check(a->applied == s->index && a->applied_term == s->term);
    mvcc_batch(store->mvcc, a->batch);
    watch_hub_reset(a->o.watch_hub);
    tell_installed(a);
    log_info("applied snapshot", LOG_U64("snapshot-index", a->applied),
             LOG_U64("snapshot-term", a->applied_term),
             LOG_DURATION("took", clock_mono_ns() - start));
    return 0;
}

static int apply_delivery(struct apply *a, const struct delivery *d)
{
    if (d->received)
        return install(a, d->received);
    uint64_t start = clock_mono_ns();
    int r = 0;

    for (size_t i = 0; r == 0 && i < d->n_entries; i++) {
        r = apply_entry(a, &d->entries[i]);
        if (r == 0 &&
            (a->turn_entries >= APPLY_TURN_ENTRIES_MAX || a->turn_bytes >= APPLY_TURN_BYTES_MAX)) {
            r = apply_commit(a);
            arena_reset(&a->arena);
        }
    }
    uint64_t took = clock_mono_ns() - start;
    if (d->n_entries > 0 && took / d->n_entries > (uint64_t)a->o.warning_duration_ns) {
        metric_add(&metric_slow_applies, 1);
        log_warn("apply request took too long", LOG_DURATION("took", took),
                 LOG_U64("entries", d->n_entries),
                 LOG_DURATION("expected-duration", a->o.warning_duration_ns));
    }
    return r;
}

/* Raft hands committed entries out in portions, so a read index may be ahead of what has come. */
static void keep_reads(struct apply *a, struct delivery *d)
{
    d->next = NULL;
    *a->reads.last = d;
    a->reads.last = &d->next;
}

static void answer_reads(struct apply *a)
{
    while (a->reads.first && a->reads.first->read_index <= a->applied) {
        struct delivery *d = pop_reads(a);
        answer(a, d->reads, d->n_reads);
        delivery_free(a, d);
    }
}

/* r: what the entries came to. */
static int end_turn(struct apply *a, int r)
{
    if (r == 0)
        r = apply_commit(a);
    if (r == 0)
        answer_reads(a);
    arena_reset(&a->arena);
    return r < 0 ? err_trace(r) : 0;
}

static int turn(struct apply *a)
{
    struct inbox_item *first = inbox_drain(&a->inbox, NULL), *next;
    int r = 0;

    for (struct inbox_item *item = first; r == 0 && item; item = item->next)
        r = apply_delivery(a, container_of(item, struct delivery, item));
    for (struct inbox_item *item = first; item; item = next) {
        struct delivery *d = container_of(item, struct delivery, item);
        next = item->next;
        if (d->n_reads > 0)
            keep_reads(a, d);
        else
            delivery_free(a, d);
    }
    return end_turn(a, r);
}

int apply_turn(struct apply *a)
{
    int r;

    pthread_mutex_lock(&a->turn);
    r = turn(a);
    pthread_mutex_unlock(&a->turn);
    return r;
}

/* A single put, or a transaction that looks at single keys: it costs what a change of threads does.
 * */
static bool is_quick(struct apply *a, const struct raft_entry *entry)
{
    enum { PUT_TAG = 0x22, TXN_TAG = 0x32 };
    struct bytes data = blob_bytes(entry->data);
    Etcdserverpb__InternalRaftRequest *q;

    if (entry->type != RAFT_ENTRY_NORMAL || data.len == 0 || data.len > APPLY_NOW_BYTES_MAX)
        return false;
    if (data.data[0] == PUT_TAG)
        return true;
    if (data.data[0] != TXN_TAG)
        return false;
    q = internal_request_decode(data, &a->arena);
    return q && q->txn && !txn_txn_scans(q->txn);
}

static int turn_now(struct apply *a, const struct raft_entry *entries, size_t n)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = apply_entry(a, &entries[i]);
    return end_turn(a, r);
}

bool apply_now(struct apply *a, const struct raft_entry *entries, size_t n, int *ret_error)
{
    bool quick;

    if (n > APPLY_NOW_ENTRIES_MAX || pthread_mutex_trylock(&a->turn) != 0)
        return false;
    quick = inbox_len(&a->inbox) == 0;
    for (size_t i = 0; quick && i < n; i++)
        quick = is_quick(a, &entries[i]);
    if (quick)
        *ret_error = turn_now(a, entries, n);
    pthread_mutex_unlock(&a->turn);
    return quick;
}
