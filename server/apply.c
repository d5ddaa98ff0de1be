/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The apply worker (see apply.h).
 *
 *   inbox -> each entry: decode, one switch, effects into the batch -> batch and applied index: one
 *   db_write -> publish the revision -> finish the requests that wait here
 *
 * Invariants:
 *   (I1) entry.index == applied + 1, always.
 *   (I2) the batch that holds an entry's effects holds its applied index; nothing else writes that
 *        key. So after any crash the database is the state after a prefix of the log, and the index
 *        says which.
 *   (I3) whoever waits is answered after the write, never before.
 *   (I4) what an entry does depends on the entry and the state alone: no clock, no randomness, no
 *        member-local setting.
 *   (I5) every entry advances the applied index: also empty, refused and configuration entries.
 *
 * Thread: apply.
 */
#include "server/apply.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/housekeeper.h"
#include "server/internal_request.h"
#include "server/node.h"
#include "server/server_metrics.h"
#include "server/txn.h"

/* One delivery from the raft thread. */
struct delivery {
    struct inbox_item item;
    struct delivery *next; /* in the list of those whose reads wait */
    size_t n_entries;
    uint64_t read_index;
    size_t n_reads;
    uint64_t *reads;
    struct raft_entry entries[];
};

/* Deliveries whose reads wait, oldest first. */
struct deliveries {
    struct delivery *first;
    struct delivery **last;
};

struct result {
    struct request *request;
    enum outcome outcome;
    bool await; /* the answer waits for a physical compaction */
    int64_t await_revision;
};

struct apply {
    struct apply_options o;
    struct node *node;
    struct inbox inbox;
    pthread_mutex_t turn; /* held while entries are applied */

    struct db_batch *batch;
    struct arena
        arena; /* the decoded entries of the turn; keys and values live here until publish */
    struct result *results;
    size_t n_results, cap_results;
    size_t turn_entries;
    size_t turn_bytes;
    bool compaction_accepted; /* since the last write */
    bool lease_warned;        /* that leases don't expire */
    bool conf_changed;        /* likewise: conf is what raft is to be told */
    struct raft_conf_single conf;
    struct deliveries reads;
    uint64_t applied;
    uint64_t applied_term;
};

struct apply *apply_new(const struct apply_options *options)
{
    struct apply *a = mem_new(struct apply);

    a->o = *options;
    a->applied = options->applied;
    a->reads.last = &a->reads.first;
    inbox_init(&a->inbox, SIZE_MAX); /* bounded by raft's budget of entries handed out */
    pthread_mutex_init(&a->turn, NULL);
    arena_init(&a->arena);
    a->batch = db_batch_new();
    mvcc_batch(a->o.mvcc, a->batch);
    return a;
}

void apply_set_node(struct apply *a, struct node *node)
{
    a->node = node;
}

static void delivery_free(struct delivery *d)
{
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
        delivery_free(container_of(item, struct delivery, item));
    }
    while (a->reads.first)
        delivery_free(pop_reads(a));
    inbox_deinit(&a->inbox);
    pthread_mutex_destroy(&a->turn);
    arena_deinit(&a->arena);
    db_batch_free(a->batch);
    free(a->results);
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

void apply_push_reads(struct apply *a, uint64_t index, const uint64_t *ids, size_t n)
{
    struct delivery *d = mem_new(struct delivery);

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

static void finish_results(struct apply *a)
{
    for (size_t i = 0; i < a->n_results; i++) {
        struct result *result = &a->results[i];
        if (result->await)
            housekeeper_await_compaction(a->o.housekeeper, result->request, result->await_revision);
        else
            result->request->finish(result->request, result->outcome);
    }
    a->n_results = 0;
}

static void report(struct apply *a)
{
    metric_set(&metric_proposals_applied, (double)a->applied);
    metric_set(&metric_current_revision, (double)mvcc_revision(a->o.mvcc));
    housekeeper_note_written(a->o.housekeeper, a->turn_entries, a->turn_bytes);
    a->turn_entries = 0;
    a->turn_bytes = 0;
}

/* The first entry of a leader's term: from here on the leader counts the time of the leases, which
 * starts anew. */
static void begin_term(struct apply *a)
{
    uint64_t leader = atomic_load_explicit(&a->o.state->leader, memory_order_acquire);

    if (leader == a->o.state->member_id)
        lease_promote(a->o.leases, clock_mono_ms(), a->o.state->election_timeout_ms);
}

/* Raft hears of a configuration when it is written, and before the applied index can show that it
 * is (I6). The housekeeper hears of a compaction when it can find it. */
static void tell_others(struct apply *a)
{
    if (a->conf_changed)
        node_conf_applied(a->node, a->applied, a->conf);
    a->conf_changed = false;
    atomic_store_explicit(&a->o.state->applied, a->applied, memory_order_release);
    if (a->compaction_accepted)
        housekeeper_wake(a->o.housekeeper);
    a->compaction_accepted = false;
}

/* Writes what has been applied since the last time, publishes it, answers (I2, I3). The arena
 * stays: an entry may be half way. */
static int commit(struct apply *a)
{
    uint64_t start;
    int r;

    if (a->turn_entries == 0)
        return 0;
    mvcc_seal(a->o.mvcc);
    put_applied(a);
    start = clock_mono_ns();
    failpoint("beforeCommit");
    r = db_write(a->o.db, a->batch);
    if (r < 0)
        return err_trace(r);
    failpoint("afterCommit");
    metric_observe(&metric_backend_commit, (double)(clock_mono_ns() - start) / 1e9);
    db_batch_clear(a->batch);
    mvcc_publish(a->o.mvcc);
    tell_others(a);
    finish_results(a);
    report(a);
    return 0;
}

/* ---- one entry ---- */

static struct response_header header_of(struct apply *a, uint64_t term)
{
    return (struct response_header){.cluster_id = a->o.state->cluster_id,
                                    .member_id = a->o.state->member_id,
                                    .revision = mvcc_writer_revision(a->o.mvcc),
                                    .raft_term = term};
}

static int apply_compaction(struct apply *a, const Etcdserverpb__CompactionRequest *q,
                            struct response_header *header, struct buf *out)
{
    bool replayed = a->applied + 1 <= a->o.replay_to;
    int r = mvcc_compact(a->o.mvcc, q->revision, replayed);

    if (r == MVCC_E_COMPACTED)
        return OUTCOME_COMPACTED;
    if (r == MVCC_E_FUTURE)
        return OUTCOME_FUTURE_REVISION;
    if (r == 0) {
        metric_set(&metric_compact_revision, (double)q->revision);
        if (out)
            encode_header(out, header);
    }
    return r;
}

static int apply_lease_grant(struct apply *a, const Etcdserverpb__LeaseGrantRequest *q,
                             struct response_header *header, struct buf *out)
{
    int64_t ttl;
    int r = lease_grant(a->o.leases, a->batch, q->id, q->ttl, &ttl);

    switch (r) {
    case LEASE_E_NOT_FOUND: return OUTCOME_LEASE_NOT_FOUND;
    case LEASE_E_EXISTS: return OUTCOME_LEASE_EXISTS;
    case LEASE_E_TTL_TOO_LARGE: return OUTCOME_LEASE_TTL_TOO_LARGE;
    default: break;
    }
    if (r == 0 && out) {
        encode_header(out, header);
        encode_i64(out, 2, q->id);
        encode_i64(out, 3, ttl);
    }
    if (r == 0 && !a->lease_warned)
        log_warn("leases don't expire in this version: their keys stay until they are revoked");
    a->lease_warned = true;
    metric_add(&metric_lease_granted, 1);
    metric_observe(&metric_lease_ttl, (double)ttl);
    return r;
}

struct key_list {
    struct arena *arena;
    struct bytes *keys;
    size_t n, cap;
};

static int collect_key(void *arg, struct bytes key)
{
    struct key_list *list = arg;

    if (list->n == list->cap) {
        list->cap = list->cap ? 2 * list->cap : 16;
        list->keys = mem_realloc(list->keys, list->cap * sizeof(*list->keys));
    }
    list->keys[list->n++] = arena_copy(list->arena, key);
    return 0;
}

/* The attached keys go in byte order, in one main revision, in the same batch as the lease itself.
 */
static int apply_lease_revoke(struct apply *a, const Etcdserverpb__LeaseRevokeRequest *q,
                              struct response_header *header, struct buf *out)
{
    struct key_list list = {.arena = &a->arena};
    bool deleted;
    int r;

    if (!lease_exists(a->o.leases, q->id))
        return OUTCOME_LEASE_NOT_FOUND;
    r = mvcc_lease_keys(a->o.mvcc, q->id, collect_key, &list);
    for (size_t i = 0; r == 0 && i < list.n; i++)
        r = mvcc_delete(a->o.mvcc, list.keys[i], &deleted);
    free(list.keys);
    if (r < 0)
        return err_trace(r);
    server_metrics_count_mvcc(&(struct mvcc_counts){.deletes = (uint32_t)list.n});
    r = lease_revoke(a->o.leases, a->batch, q->id);
    if (r != 0)
        return r > 0 ? err_fold(r) : r;
    if (out) {
        header->revision += mvcc_changed(a->o.mvcc) ? 1 : 0;
        encode_header(out, header);
    }
    metric_add(&metric_lease_revoked, 1);
    return 0;
}

static int apply_alarm(struct apply *a, const Etcdserverpb__AlarmRequest *q,
                       struct response_header *header, struct buf *out)
{
    if (out)
        encode_header(out, header);
    alarms_apply(a->o.alarms, a->batch, q, out);
    return 0;
}

static uint64_t puts_cost(Etcdserverpb__RequestOp **ops, size_t n);

/* What grows the store is refused while the NOSPACE alarm is active; everything that changes it
 * while CORRUPT is. */
static enum outcome refused_by_alarm(struct apply *a, const Etcdserverpb__InternalRaftRequest *q)
{
    bool grows = q->put || q->lease_grant ||
                 (q->txn && (puts_cost(q->txn->success, q->txn->n_success) > 0 ||
                             puts_cost(q->txn->failure, q->txn->n_failure) > 0));

    if (alarms_corrupt(a->o.alarms) &&
        (grows || q->delete_range || q->txn || q->compaction || q->lease_revoke))
        return OUTCOME_CORRUPT;
    return grows && alarms_no_space(a->o.alarms) ? OUTCOME_NO_SPACE : OUTCOME_OK;
}

static uint64_t puts_cost(Etcdserverpb__RequestOp **ops, size_t n)
{
    uint64_t puts = 0;

    for (size_t i = 0; i < n; i++) {
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT)
            puts++;
        else if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_TXN)
            puts += puts_cost(ops[i]->request_txn->success, ops[i]->request_txn->n_success) +
                    puts_cost(ops[i]->request_txn->failure, ops[i]->request_txn->n_failure);
    }
    return puts;
}

static int apply_version(struct apply *a, const char *version)
{
    int r = members_apply_version(a->o.members, a->batch, version);

    if (r == 0)
        server_metrics_cluster_version(version);
    return r;
}

static int unknown_request(uint64_t index)
{
    log_error("log entry holds a request that this version can't apply; nothing may be skipped",
              LOG_U64("index", index));
    return err_origin(-EOPNOTSUPP);
}

static int dispatch(struct apply *a, const Etcdserverpb__InternalRaftRequest *q, uint64_t index,
                    uint64_t term, struct buf *out)
{
    struct txn_context ctx = {
        .mvcc = a->o.mvcc, .leases = a->o.leases, .arena = &a->arena, .header = header_of(a, term)};

    if (q->put)
        return txn_put(&ctx, q->put, out);
    if (q->txn)
        return txn_txn(&ctx, q->txn, out);
    if (q->delete_range)
        return txn_delete_range(&ctx, q->delete_range, out);
    if (q->compaction)
        return apply_compaction(a, q->compaction, &ctx.header, out);
    if (q->lease_grant)
        return apply_lease_grant(a, q->lease_grant, &ctx.header, out);
    if (q->lease_revoke)
        return apply_lease_revoke(a, q->lease_revoke, &ctx.header, out);
    if (q->alarm)
        return apply_alarm(a, q->alarm, &ctx.header, out);
    if (q->cluster_member_attr_set) {
        int r = members_apply_attributes(a->o.members, a->batch, q->cluster_member_attr_set);
        return r > 0 ? (int)OUTCOME_MEMBER_NOT_FOUND : r;
    }
    if (q->cluster_version_set)
        return apply_version(a, q->cluster_version_set->ver);
    if (q->downgrade_version_test)
        return 0;
    return unknown_request(index);
}

/* A compaction is no change of keys: it takes no revision. */
static int run(struct apply *a, const Etcdserverpb__InternalRaftRequest *q,
               const struct raft_entry *entry, struct buf *out)
{
    int r;

    if (!q->compaction)
        mvcc_begin(a->o.mvcc);
    r = dispatch(a, q, entry->index, entry->term, out);
    if (!q->compaction)
        (void)mvcc_end(a->o.mvcc);
    return r;
}

static bool scans(const Etcdserverpb__InternalRaftRequest *q)
{
    return (q->txn && txn_txn_scans(q->txn)) ||
           (q->delete_range && txn_delete_range_scans(q->delete_range)) || q->lease_revoke;
}

static void note_result(struct apply *a, const struct result *result)
{
    if (a->n_results == a->cap_results) {
        a->cap_results = a->cap_results ? 2 * a->cap_results : 256;
        a->results = mem_realloc(a->results, a->cap_results * sizeof(*a->results));
    }
    a->results[a->n_results++] = *result;
}

static int apply_request(struct apply *a, const struct raft_entry *entry)
{
    Etcdserverpb__InternalRaftRequest *q =
        internal_request_decode(blob_bytes(entry->data), &a->arena);
    struct request *request;
    uint64_t id;
    int r;

    if (!q)
        return unknown_request(entry->index);
    if (scans(q) && mvcc_range_needs_flush(a->o.mvcc)) {
        r = commit(a);
        if (r < 0)
            return r;
    }
    id = q->header && q->header->id ? q->header->id : q->id;
    request = wait_take(a->o.wait, id);
    failpoint("beforeApplyOneEntryNormal");
    r = (int)refused_by_alarm(a, q);
    if (r == 0)
        r = run(a, q, entry, request ? &request->response : NULL);
    if (request)
        note_result(a, &(struct result){
                           .request = request,
                           .outcome = r < 0 ? OUTCOME_INTERNAL : (enum outcome)r,
                           .await = r == 0 && q->compaction && request->physical,
                           .await_revision = q->compaction ? q->compaction->revision : 0,
                       });
    a->compaction_accepted |= r == 0 && q->compaction;
    return r < 0 ? err_trace(r) : 0;
}

static int apply_conf_change(struct apply *a, const struct raft_entry *entry,
                             struct raft_conf_single *ret)
{
    ProtobufCAllocator allocator = arena_allocator(&a->arena);
    struct bytes data = blob_bytes(entry->data);
    Raftpb__ConfChange *change = raftpb__conf_change__unpack(&allocator, data.len, data.data);

    if (!change || entry->type != RAFT_ENTRY_CONF_CHANGE)
        return unknown_request(entry->index);
    failpoint("beforeApplyOneConfChange");
    return members_apply_conf_change(a->o.members, a->batch, change, ret);
}

static void advance(struct apply *a, const struct raft_entry *entry)
{
    a->applied = entry->index;
    a->applied_term = entry->term;
    a->turn_entries++;
    a->turn_bytes += blob_bytes(entry->data).len;
}

static int apply_entry(struct apply *a, const struct raft_entry *entry)
{
    bool is_conf = entry->type != RAFT_ENTRY_NORMAL;
    int r = 0;

    check(entry->index == a->applied + 1); /* (I1) */
    if (is_conf)
        r = apply_conf_change(a, entry, &a->conf);
    else if (entry->data && entry->data->len > 0)
        r = apply_request(a, entry);
    else
        begin_term(a);
    if (r < 0)
        return r;
    advance(a, entry); /* (I5) */
    a->conf_changed = is_conf;
    return is_conf ? commit(a) : 0; /* one configuration a batch */
}

static int apply_delivery(struct apply *a, const struct delivery *d)
{
    uint64_t start = clock_mono_ns();
    int r = 0;

    for (size_t i = 0; r == 0 && i < d->n_entries; i++) {
        r = apply_entry(a, &d->entries[i]);
        if (r == 0 &&
            (a->turn_entries >= APPLY_TURN_ENTRIES_MAX || a->turn_bytes >= APPLY_TURN_BYTES_MAX)) {
            r = commit(a);
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
        for (size_t i = 0; i < d->n_reads; i++) {
            struct request *request = wait_take(a->o.wait, d->reads[i]);
            if (request)
                request->finish(request, OUTCOME_OK);
        }
        delivery_free(d);
    }
}

/* r: what the entries came to. */
static int end_turn(struct apply *a, int r)
{
    if (r == 0)
        r = commit(a);
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
            delivery_free(d);
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
