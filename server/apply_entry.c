/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one committed entry does (see apply.h): decode, one switch, effects into the batch. Also
 * what it does under alarms and over the quota, which must be etcd's to the letter: members of both
 * kinds may share a cluster, and their HashKV must agree.
 *
 *   alarm      refuses, at apply and on every member alike: the entry changes nothing
 *   NOSPACE    put, lease grant, transaction with a put in either branch: "no space"
 *   CORRUPT    all that changes keys or leases, and compaction: "corrupt cluster"
 *   both       CORRUPT answers first. Alarms, membership and versions always pass.
 *
 * The quota is looked at before the entry runs, with this member's own size and limit, so members
 * may disagree. Therefore it refuses nothing: etcd's quotaApplierV3 applies the entry and replaces
 * the answer. What happened has happened, and whoever asked on this member is told "no space"
 * without a header, once the alarm that this raises is active. The alarm is an entry and refuses
 * what comes behind it, everywhere alike. A member raises it for itself for anybody's entry, so one
 * that takes no client's writes also speaks up before its own disk is full. An entry that failed
 * anyway keeps its error and raises nothing.
 *
 * With users (to come): etcd looks at "admin only" before the alarms, at permissions on keys behind
 * them, and before the quota.
 *
 * Invariants:
 *   (I1) what an entry does depends on the entry and the state alone: no clock, no randomness, no
 *        setting or size of this member. The quota changes an answer, never an effect.
 *   (I2) every entry advances the applied index: also empty, refused and configuration entries.
 *   (I3) nothing is skipped: what can't be applied ends in an error, and that stops the member.
 *
 * Thread: the apply turn.
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
#include "server/member_answer.h"
#include "server/quota.h"
#include "server/server_metrics.h"
#include "server/txn.h"

static struct response_header header_of(struct apply *a, uint64_t term)
{
    return (struct response_header){.cluster_id = a->o.state->cluster_id,
                                    .member_id = a->o.state->member_id,
                                    .revision = mvcc_writer_revision(a->o.store->mvcc),
                                    .raft_term = term};
}

static int apply_compaction(struct apply *a, const Etcdserverpb__CompactionRequest *q,
                            struct response_header *header, struct buf *out)
{
    bool replayed = a->applied + 1 <= a->o.replay_to;
    int r = mvcc_compact(a->o.store->mvcc, q->revision, replayed);

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
    int r = lease_grant(a->o.store->leases, a->batch, q->id, q->ttl, &ttl);

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

    if (!lease_exists(a->o.store->leases, q->id))
        return OUTCOME_LEASE_NOT_FOUND;
    r = mvcc_lease_keys(a->o.store->mvcc, q->id, collect_key, &list);
    for (size_t i = 0; r == 0 && i < list.n; i++)
        r = mvcc_delete(a->o.store->mvcc, list.keys[i], &deleted);
    free(list.keys);
    if (r < 0)
        return err_trace(r);
    server_metrics_count_mvcc(&(struct mvcc_counts){.deletes = (uint32_t)list.n});
    r = lease_revoke(a->o.store->leases, a->batch, q->id);
    if (r != 0)
        return r > 0 ? err_fold(r) : r;
    if (out) {
        header->revision += mvcc_changed(a->o.store->mvcc) ? 1 : 0;
        encode_header(out, header);
    }
    metric_add(&metric_lease_revoked, 1);
    return 0;
}

/* Of leases that are gone: nothing. */
static int apply_lease_checkpoint(struct apply *a, const Etcdserverpb__LeaseCheckpointRequest *q,
                                  struct response_header *header, struct buf *out)
{
    for (size_t i = 0; i < q->n_checkpoints; i++)
        (void)lease_checkpoint(a->o.store->leases, a->batch, q->checkpoints[i]->id,
                               q->checkpoints[i]->remaining_ttl);
    if (out)
        encode_header(out, header);
    return 0;
}

static bool is_own_space_alarm(struct apply *a, const Etcdserverpb__AlarmRequest *q)
{
    return q->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE &&
           q->alarm == ETCDSERVERPB__ALARM_TYPE__NOSPACE && q->memberid == a->o.state->member_id;
}

static int apply_alarm(struct apply *a, const Etcdserverpb__AlarmRequest *q,
                       struct response_header *header, struct buf *out)
{
    if (is_own_space_alarm(a, q))
        a->alarm_due = false;
    if (out)
        encode_header(out, header);
    alarms_apply(a->o.store->alarms, a->batch, q, out);
    return 0;
}

static enum outcome refused_by_alarm(struct apply *a, const Etcdserverpb__InternalRaftRequest *q,
                                     bool grows)
{
    if (alarms_corrupt(a->o.store->alarms) &&
        (grows || q->delete_range || q->txn || q->compaction || q->lease_revoke))
        return OUTCOME_CORRUPT;
    return grows && alarms_no_space(a->o.store->alarms) ? OUTCOME_NO_SPACE : OUTCOME_OK;
}

static int apply_version(struct apply *a, const char *version)
{
    int r = members_apply_version(a->o.store->members, a->batch, version);

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
    struct txn_context ctx = {.mvcc = a->o.store->mvcc,
                              .leases = a->o.store->leases,
                              .arena = &a->arena,
                              .header = header_of(a, term)};

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
    if (q->lease_checkpoint)
        return apply_lease_checkpoint(a, q->lease_checkpoint, &ctx.header, out);
    if (q->alarm)
        return apply_alarm(a, q->alarm, &ctx.header, out);
    if (q->cluster_member_attr_set)
        return members_apply_attributes(a->o.store->members, a->batch, q->cluster_member_attr_set);
    if (q->cluster_version_set)
        return apply_version(a, q->cluster_version_set->ver);
    if (q->downgrade_info_set)
        return members_apply_downgrade(a->o.store->members, a->batch, q->downgrade_info_set);
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
        mvcc_begin(a->o.store->mvcc);
    r = dispatch(a, q, entry->index, entry->term, out);
    if (!q->compaction)
        (void)mvcc_end(a->o.store->mvcc);
    return r;
}

/* What came earlier in this turn must be in the store first. */
static bool needs_flush(const struct apply *a, const Etcdserverpb__InternalRaftRequest *q)
{
    const struct mvcc *mvcc = a->o.store->mvcc;

    if (q->lease_revoke)
        return mvcc_lease_needs_flush(mvcc, q->lease_revoke->id);
    return ((q->txn && txn_txn_scans(q->txn)) ||
            (q->delete_range && txn_delete_range_scans(q->delete_range))) &&
           mvcc_range_needs_flush(mvcc);
}

static void note_result(struct apply *a, const struct result *result)
{
    if (a->n_results == a->cap_results) {
        a->cap_results = a->cap_results ? 2 * a->cap_results : 256;
        a->results = mem_realloc(a->results, a->cap_results * sizeof(*a->results));
    }
    a->results[a->n_results++] = *result;
}

/* Fills in all of the result but the request, which is there or NULL. */
static int execute(struct apply *a, const Etcdserverpb__InternalRaftRequest *q,
                   const struct raft_entry *entry, struct result *result)
{
    uint64_t cost = quota_cost(q);
    bool over = quota_exceeded(a->o.quota_bytes, housekeeper_used_bytes(a->o.housekeeper), cost);
    int r = (int)refused_by_alarm(a, q, cost > 0);

    if (r == 0)
        r = run(a, q, entry, result->request ? &result->request->response : NULL);
    result->outcome = r < 0 ? OUTCOME_INTERNAL : (enum outcome)r;
    if (r == 0 && over) {
        a->alarm_due = true;
        result->outcome = OUTCOME_NO_SPACE;
        result->time = ANSWER_ALARMED;
    }
    if (r == 0 && q->compaction) {
        a->compaction_accepted = true;
        result->revision = q->compaction->revision;
        if (result->request && result->request->physical)
            result->time = ANSWER_COMPACTED;
    }
    return r < 0 ? err_trace(r) : 0;
}

/* The first would be carried out, and what was made ready for it be another's. */
static bool is_several(const Etcdserverpb__InternalRaftRequest *q)
{
    return !!q->put + !!q->txn + !!q->delete_range + !!q->compaction + !!q->lease_grant +
               !!q->lease_revoke + !!q->lease_checkpoint + !!q->alarm >
           1;
}

static int apply_request(struct apply *a, const struct raft_entry *entry)
{
    Etcdserverpb__InternalRaftRequest *q =
        internal_request_decode(blob_bytes(entry->data), &a->arena);
    struct result result = {.time = ANSWER_WRITTEN};
    int r = 0;

    if (!q || is_several(q))
        return unknown_request(entry->index);
    if (needs_flush(a, q))
        r = apply_commit(a);
    if (r < 0)
        return r;
    result.request = wait_take(a->o.wait, q->header && q->header->id ? q->header->id : q->id);
    failpoint("beforeApplyOneEntryNormal");
    r = execute(a, q, entry, &result);
    if (result.request)
        note_result(a, &result);
    return r;
}

static int apply_conf_change(struct apply *a, const struct raft_entry *entry)
{
    ProtobufCAllocator allocator = arena_allocator(&a->arena);
    struct bytes data = blob_bytes(entry->data);
    Raftpb__ConfChange *change = raftpb__conf_change__unpack(&allocator, data.len, data.data);
    struct result result = {.time = ANSWER_WRITTEN};
    int r;

    if (!change || entry->type != RAFT_ENTRY_CONF_CHANGE)
        return unknown_request(entry->index);
    failpoint("beforeApplyOneConfChange");
    r = members_apply_conf_change(a->o.store->members, a->batch, change, a->o.learners_max,
                                  &a->conf);
    if (r < 0)
        return r;
    result.outcome = (enum outcome)r;
    result.request = wait_take(a->o.wait, change->id);
    if (!result.request)
        return 0;
    if (r == 0) {
        struct response_header header = header_of(a, entry->term);
        member_answer_change(result.request, &header, a->o.store->members, change->node_id);
        metric_add(&metric_learner_promotions, result.request->kind == REQUEST_MEMBER_PROMOTE);
    }
    note_result(a, &result);
    return 0;
}

static void advance(struct apply *a, const struct raft_entry *entry)
{
    a->applied = entry->index;
    a->applied_term = entry->term;
    a->turn_entries++;
    a->turn_bytes += blob_bytes(entry->data).len;
}

/* The first entry of a leader's term: from here on the leader counts the time of the leases, which
 * starts anew. In a replay there are those of terms that are over. Empty ones that come later are
 * changes of members that raft has refused. */
static void begin_term(struct apply *a, const struct raft_entry *entry)
{
    struct server_state *state = a->o.state;
    uint64_t leader = atomic_load_explicit(&state->leader, memory_order_acquire);

    atomic_store_explicit(&state->term_begun, entry->term, memory_order_release);
    if (leader == state->member_id && entry->term >= atomic_load(&state->term))
        lease_promote(a->o.store->leases, &(struct lease_leadership){
                                              .term = entry->term,
                                              .now_ns = clock_mono_ns(),
                                              .extend_ns = state->election_timeout_ms * 1000000});
}

int apply_entry(struct apply *a, const struct raft_entry *entry)
{
    bool is_conf = entry->type != RAFT_ENTRY_NORMAL;
    int r = 0;

    check(entry->index == a->applied + 1); /* (I1) of apply.c */
    if (is_conf)
        r = apply_conf_change(a, entry);
    else if (entry->data && entry->data->len > 0)
        r = apply_request(a, entry);
    else if (entry->term > a->applied_term)
        begin_term(a, entry);
    if (r < 0)
        return r;
    advance(a, entry); /* (I2) */
    a->conf_changed = is_conf;
    return is_conf ? apply_commit(a) : 0; /* one configuration a batch */
}
