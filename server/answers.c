/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers from local state: everything that needs no log entry. Each takes a decoded request and
 * appends the encoded response.
 *
 * Each holds the store while it looks at it (store.h).
 *
 * Thread: any. Functions that scan (ranges of many keys, hashes, defragmentation) belong on the
 * scan pool; the caller decides.
 */
#include <inttypes.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_answer.h"
#include "server/peer_door.h"
#include "server/quota.h"
#include "server/range.h"
#include "server/server_metrics.h"
#include "server/server_private.h"
#include "server/txn.h"

static enum outcome outcome_of(int r)
{
    if (r == 0)
        return OUTCOME_OK;
    if (r < 0)
        server_fatal("the database failed while reading", r);
    return r == MVCC_E_COMPACTED ? OUTCOME_COMPACTED : OUTCOME_FUTURE_REVISION;
}

/* A whole answer: all of the range, counted. */
static enum outcome range_whole(struct server *s, const void *request, struct buf *response,
                                struct range_summary *ret)
{
    int r;

    store_hold(&s->store);
    struct range_view view = {.mvcc = s->store.mvcc};
    r = range_encode(&view, request, (struct range_flags){.with_count = true}, response, ret);
    store_release(&s->store);
    metric_add(&metric_mvcc_range, 1);
    return outcome_of(r);
}

enum outcome server_range(struct server *s, const void *request, struct buf *response)
{
    struct range_summary summary;
    enum outcome outcome = range_whole(s, request, response, &summary);

    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(s, summary.current);
        encode_header(response, &header);
    }
    return outcome;
}

enum outcome server_txn_read_only(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, 0);
    int r;

    store_hold(&s->store);
    r = txn_read_only(s->store.mvcc, &header, request, response);
    store_release(&s->store);
    if (r < 0)
        server_fatal("the database failed while reading", r);
    return (enum outcome)r;
}

/* ---- leases ---- */

/* Holds the store; to be released. */
static void hold_with_header(struct server *s, struct buf *response)
{
    store_hold(&s->store);
    struct response_header header = server_header(s, mvcc_revision(s->store.mvcc));
    encode_header(response, &header);
}

enum outcome server_lease_leases(struct server *s, const void *request, struct buf *response)
{
    struct lease_info *infos;
    size_t n;

    (void)request;
    hold_with_header(s, response);
    n = lease_list(s->store.leases, &infos);
    store_release(&s->store);
    for (size_t i = 0; i < n; i++) {
        size_t mark = encode_begin(response, 2);
        encode_i64(response, 1, infos[i].id);
        encode_end(response, mark);
    }
    free(infos);
    return OUTCOME_OK;
}

/* ---- members ---- */

/* etcd's member list carries a header without a revision. */
enum outcome server_member_list(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, 0);

    (void)request;
    encode_header(response, &header);
    store_hold(&s->store);
    member_answer_list(response, 2, s->store.members);
    store_release(&s->store);
    return OUTCOME_OK;
}

/* ---- maintenance ---- */

/* DowngradeInfo, empty while none is under way. */
static void append_downgrade(struct server *s, struct buf *out)
{
    struct downgrade downgrade;
    size_t mark = encode_begin(out, 13);

    members_downgrade(s->store.members, &downgrade);
    encode_bool(out, 1, downgrade.enabled);
    encode_bytes(out, 2, bytes_str(downgrade.target));
    encode_end(out, mark);
}

enum outcome server_maintenance_status(struct server *s, const void *request, struct buf *response)
{
    uint64_t leader = atomic_load(&s->state.leader);

    (void)request;
    hold_with_header(s, response);
    encode_bytes(response, 2, bytes_str(SERVER_COMPATIBLE_VERSION));
    encode_u64(response, 3, db_disk_bytes(s->store.db) + db_unflushed_bytes(s->store.db));
    encode_u64(response, 4, leader);
    encode_u64(response, 5, atomic_load(&s->state.committed));
    encode_u64(response, 6, atomic_load(&s->state.term));
    encode_u64(response, 7, atomic_load(&s->state.applied));
    if (leader == 0)
        encode_bytes(response, 8, bytes_str("etcdserver: no leader"));
    alarms_describe(s->store.alarms, 8, response);
    encode_u64(response, 9, db_used_bytes(s->store.db));
    encode_bool(response, 10, atomic_load(&s->state.is_learner));
    encode_bytes(response, 11, bytes_str(SERVER_STORAGE_VERSION));
    encode_i64(response, 12, quota_bytes(s->config));
    append_downgrade(s, response);
    store_release(&s->store);
    return OUTCOME_OK;
}

/* Begins anew when the store was exchanged under it. */
static enum outcome hash_kv(struct server *s, int64_t revision, struct mvcc_hash *ret)
{
    int r;

    do {
        store_hold_job(&s->store);
        r = mvcc_hash_kv(s->store.mvcc, revision, ret);
        store_release_job(&s->store);
    } while (r == -ECANCELED);
    return outcome_of(r);
}

enum outcome server_hash_kv(struct server *s, const void *request, struct buf *response)
{
    const Etcdserverpb__HashKVRequest *q = request;
    uint64_t start = clock_mono_ns();
    struct mvcc_hash hash;
    enum outcome outcome = hash_kv(s, q->revision, &hash);

    metric_observe(&metric_hash_rev_duration, (double)(clock_mono_ns() - start) / 1e9);
    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(s, hash.current);
        encode_header(response, &header);
        encode_u64(response, 2, hash.hash);
        encode_i64(response, 3, hash.compact_revision);
        encode_i64(response, 4, hash.revision);
    }
    return outcome;
}

/* As Go's encoder writes etcd's answer: zeros are left out. */
enum outcome server_peer_hash_kv(struct server *s, int64_t revision, struct buf *response)
{
    struct mvcc_hash hash;
    enum outcome outcome = hash_kv(s, revision, &hash);

    if (outcome != OUTCOME_OK)
        return outcome;
    buf_printf(response, "{\"header\":{\"revision\":%" PRId64 "}", hash.current);
    if (hash.hash != 0)
        buf_printf(response, ",\"hash\":%" PRIu32, hash.hash);
    if (hash.compact_revision != 0)
        buf_printf(response, ",\"compact_revision\":%" PRId64, hash.compact_revision);
    if (hash.revision != 0)
        buf_printf(response, ",\"hash_revision\":%" PRId64, hash.revision);
    buf_append_str(response, "}");
    return OUTCOME_OK;
}

/* etcd hashes its backend file; tools don't compare it across members. Ours is a digest of the
 * whole history at the current revision. */
enum outcome server_hash(struct server *s, const void *request, struct buf *response)
{
    uint64_t start = clock_mono_ns();
    struct mvcc_hash hash;
    enum outcome outcome = hash_kv(s, 0, &hash);

    (void)request;
    metric_observe(&metric_hash_duration, (double)(clock_mono_ns() - start) / 1e9);
    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(s, hash.current);
        encode_header(response, &header);
        encode_u64(response, 2, hash.hash);
    }
    return outcome;
}

static bool not_stopping(struct server *s)
{
    return !atomic_load_explicit(&s->state.stopping, memory_order_acquire);
}

enum { DEFRAGMENT_SPARE_BYTES = 1 << 20 }; /* filters, records of files */

struct defragment {
    struct server *server;
    bool no_room; /* it ended for that */
    bool holds;
};

/* A step writes as much as it reads before it removes anything, and may find too little room for
 * that. It does no harm if then the room is enough for the database that it began with, and if
 * nobody else writes meanwhile. So what is in memory is flushed first. */
static int make_room(struct defragment *d)
{
    struct server *s = d->server;
    uint64_t least = DB_ROOM_BYTES + db_unflushed_bytes(s->store.db) + DEFRAGMENT_SPARE_BYTES;
    uint64_t all = least + db_disk_bytes(s->store.db);

    if (disk_room_short(s->room) ? disk_room_make(s->room, all) : disk_room_fits(s->room, all))
        return 0;
    if (!disk_room_make(s->room, least))
        return -ENOSPC;
    disk_room_hold(s->room);
    d->holds = true;
    return db_flush(s->store.db);
}

static void let_go(struct defragment *d)
{
    if (d->holds)
        disk_room_let_go(d->server->room);
    d->holds = false;
}

static bool next_step(void *arg)
{
    struct defragment *d = arg;
    int r;

    let_go(d);
    if (!not_stopping(d->server))
        return false;
    r = make_room(d);
    if (r < 0 && r != -ENOSPC)
        server_fatal("the database failed while flushing", r);
    d->no_room = r < 0;
    return r == 0;
}

/* A store that a snapshot has just brought needs none: an interrupted one is done. */
static int compact(struct server *s, uint64_t *ret_bytes)
{
    struct defragment d = {.server = s};
    int r;

    store_hold_job(&s->store);
    r = db_compact(s->store.db, next_step, &d);
    let_go(&d);
    if (d.no_room)
        r = -ENOSPC;
    *ret_bytes = db_disk_bytes(s->store.db);
    store_release_job(&s->store);
    return r == -ECANCELED ? 0 : r;
}

/* Reads and writes go on meanwhile. */
enum outcome server_defragment(struct server *s, const void *request, struct buf *response)
{
    uint64_t start = clock_mono_ns(), bytes;
    int r;

    (void)request;
    (void)response; /* etcd's answer is an empty message */
    log_info("starting defragment");
    server_metrics_defrag(true);
    r = compact(s, &bytes);
    server_metrics_defrag(false);
    if (r == -ENOSPC)
        return OUTCOME_NO_SPACE;
    if (r < 0)
        server_fatal("the database failed while compacting", r);
    if (!not_stopping(s))
        return OUTCOME_STOPPED;
    uint64_t took = clock_mono_ns() - start;
    metric_observe(&metric_defrag_duration, (double)took / 1e9);
    log_info("finished defragment", LOG_DURATION("took", took), LOG_U64("size-bytes", bytes));
    return OUTCOME_OK;
}

/* ---- RangeStream ---- */

enum { FIRST_CHUNK = 10 };

struct range_stream {
    struct server *server;
    Etcdserverpb__RangeRequest request; /* a shallow copy; key, limit and revision move on */
    struct buf key;                     /* the running start key */
    int64_t total;                      /* 0: unlimited */
    int64_t sent;
    int64_t chunk;
    struct response_header header;
    bool begun;
};

struct range_stream *range_stream_new(struct server *s, const void *request)
{
    struct range_stream *rs = mem_new(struct range_stream);

    rs->server = s;
    rs->request = *(const Etcdserverpb__RangeRequest *)request;
    rs->total = rs->request.limit;
    rs->chunk = rs->total > 0 && rs->total < FIRST_CHUNK ? rs->total
                : rs->total < 0                          ? rs->total
                                                         : FIRST_CHUNK;
    buf_append_bytes(&rs->key, bytes_of_pb(rs->request.key));
    return rs;
}

struct range_stream *range_stream_free(struct range_stream *rs)
{
    if (!rs)
        return NULL;
    buf_deinit(&rs->key);
    free(rs);
    return NULL;
}

/* Keys that remain behind the last one sent, at the pinned revision. */
static enum outcome count_rest(struct range_stream *rs, struct bytes last_key, int64_t *ret)
{
    struct range_summary summary;
    struct buf start = BUF_NULL, ignored = BUF_NULL;
    Etcdserverpb__RangeRequest q = rs->request;
    enum outcome outcome;

    buf_append_bytes(&start, last_key);
    buf_append_u8(&start, 0);
    q.key = (ProtobufCBinaryData){start.len, start.data};
    q.count_only = true;
    outcome = range_whole(rs->server, &q, &ignored, &summary);
    *ret = summary.count;
    buf_deinit(&start);
    buf_deinit(&ignored);
    return outcome;
}

static void next_chunk(struct range_stream *rs, size_t chunk_bytes)
{
    uint64_t target = rs->server->config->max_request_bytes;

    if (chunk_bytes < target / 2)
        rs->chunk *= 2;
    else if (chunk_bytes > 2 * target && rs->chunk > 1)
        rs->chunk /= 2;
    if (rs->total > 0 && rs->chunk > rs->total - rs->sent)
        rs->chunk = rs->total - rs->sent;
}

static enum outcome count_only(struct range_stream *rs, struct buf *body)
{
    struct range_summary summary;
    enum outcome outcome = range_whole(rs->server, &rs->request, body, &summary);

    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(rs->server, summary.current);
        encode_header(body, &header);
    }
    return outcome;
}

/* The last message alone carries header, more and the count of everything; the encoded more and
 * count of the chunk are cut off. */
static enum outcome finish_stream(struct range_stream *rs, struct buf *body, size_t kvs_end,
                                  const struct range_summary *summary)
{
    int64_t rest = 0;
    enum outcome outcome = OUTCOME_OK;

    if (summary->more)
        outcome = count_rest(rs, buf_bytes(&summary->last_key), &rest);
    body->len = kvs_end;
    encode_bool(body, 3, summary->more);
    encode_i64(body, 4, rs->sent + rest);
    encode_header(body, &rs->header);
    return outcome;
}

/* Bytes that more and count take at the end of an encoded chunk. */
static size_t trailer_len(const struct range_summary *summary)
{
    return (summary->more ? 2 : 0) +
           (summary->count != 0 ? 1 + varint_size((uint64_t)summary->count) : 0);
}

/* The sizes that steer the chunks are those of etcd's RangeResponse, whose header holds a revision.
 */
static size_t header_len(int64_t revision)
{
    return 3 + varint_size((uint64_t)revision);
}

static enum outcome read_chunk(struct range_stream *rs, struct buf *body, struct range_summary *ret)
{
    struct store *store = &rs->server->store;
    int r;

    rs->request.key = (ProtobufCBinaryData){rs->key.len, rs->key.data};
    rs->request.limit = rs->chunk;
    store_hold(store);
    struct range_view view = {.mvcc = store->mvcc};
    r = range_encode(&view, &rs->request, (struct range_flags){.keep_last_key = true}, body, ret);
    store_release(store);
    metric_add(&metric_mvcc_range, 1);
    return outcome_of(r);
}

static enum outcome chunk(struct range_stream *rs, struct buf *body, bool *ret_last)
{
    struct range_summary summary;
    enum outcome outcome = read_chunk(rs, body, &summary);

    if (outcome == OUTCOME_OK) {
        size_t kvs_end = body->len - trailer_len(&summary);
        if (!rs->begun) {
            rs->begun = true;
            rs->header = server_header(rs->server, summary.current);
            if (rs->request.revision == 0)
                rs->request.revision = summary.current;
        }
        rs->sent += summary.sent;
        *ret_last = !summary.more || (rs->total > 0 && rs->sent >= rs->total);
        if (*ret_last) {
            outcome = finish_stream(rs, body, kvs_end, &summary);
        } else {
            next_chunk(rs, body->len + header_len(summary.current));
            body->len = kvs_end;
            buf_clear(&rs->key);
            buf_append_bytes(&rs->key, buf_bytes(&summary.last_key));
            buf_append_u8(&rs->key, 0);
        }
    }
    buf_deinit(&summary.last_key);
    return outcome;
}

enum outcome range_stream_next(struct range_stream *rs, struct buf *response, bool *ret_last)
{
    struct buf body = BUF_NULL;
    enum outcome outcome;

    *ret_last = true;
    outcome = rs->request.count_only ? count_only(rs, &body) : chunk(rs, &body, ret_last);
    if (outcome == OUTCOME_OK)
        encode_present_bytes(response, 1, buf_bytes(&body));
    buf_deinit(&body);
    return outcome;
}

/* ---- state for HTTP and logs ---- */

void server_info(struct server *s, struct server_info *ret)
{
    store_hold(&s->store);
    *ret = (struct server_info){
        .cluster_id = s->state.cluster_id,
        .member_id = s->state.member_id,
        .leader_id = atomic_load(&s->state.leader),
        .term = atomic_load(&s->state.term),
        .raft_index = atomic_load(&s->state.committed),
        .applied_index = atomic_load(&s->state.applied),
        .revision = mvcc_revision(s->store.mvcc),
        .is_learner = atomic_load(&s->state.is_learner),
        .no_space_alarm = alarms_no_space(s->store.alarms),
        .corrupt_alarm = alarms_corrupt(s->store.alarms),
    };
    members_cluster_version(s->store.members, ret->cluster_version);
    store_release(&s->store);
}

void server_response_header(struct server *s, int64_t revision, struct response_header *ret)
{
    *ret = server_header(s, revision);
}

const struct config *server_config(const struct server *s)
{
    return s->config;
}
