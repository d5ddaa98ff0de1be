/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers from local state: everything that needs no log entry. Each takes a decoded request and
 * appends the encoded response.
 *
 * Thread: any. Functions that scan (ranges of many keys, hashes, defragmentation) belong on the
 * scan pool; the caller decides.
 */
#include <inttypes.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
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

enum outcome server_range(struct server *s, const void *request, struct buf *response)
{
    struct range_view view = {.mvcc = s->mvcc};
    struct range_summary summary;
    enum outcome outcome = outcome_of(
        range_encode(&view, request, (struct range_flags){.with_count = true}, response, &summary));

    metric_add(&metric_mvcc_range, 1);
    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(s, summary.current);
        encode_header(response, &header);
    }
    return outcome;
}

enum outcome server_txn_read_only(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, 0);
    int r = txn_read_only(s->mvcc, &header, request, response);

    if (r < 0)
        server_fatal("the database failed while reading", r);
    return (enum outcome)r;
}

/* ---- leases ---- */

static int append_key(void *arg, struct bytes key)
{
    encode_present_bytes(arg, 5, key);
    return 0;
}

enum outcome server_lease_time_to_live(struct server *s, const void *request, struct buf *response)
{
    const Etcdserverpb__LeaseTimeToLiveRequest *q = request;
    struct response_header header = server_header(s, mvcc_revision(s->mvcc));
    struct lease_info info;

    encode_header(response, &header);
    encode_i64(response, 2, q->id);
    if (lease_get(s->leases, q->id, &info) != 0) {
        encode_i64(response, 3, -1);
        return OUTCOME_OK;
    }
    uint64_t now = clock_mono_ms();
    /* A lease not yet a millisecond old has less than its whole time left. */
    uint64_t left_ms = info.expiry_ms > now ? info.expiry_ms - now - 1 : 0;
    if (info.expiry_ms == UINT64_MAX)
        left_ms = (uint64_t)info.ttl_s * 1000;
    encode_i64(response, 3, (int64_t)(left_ms / 1000));
    encode_i64(response, 4, info.ttl_s);
    if (q->keys && mvcc_lease_keys(s->mvcc, q->id, append_key, response) < 0)
        server_fatal("the database failed while reading", -EIO);
    return OUTCOME_OK;
}

enum outcome server_lease_leases(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, mvcc_revision(s->mvcc));
    struct lease_info *infos;
    size_t n = lease_list(s->leases, &infos);

    (void)request;
    encode_header(response, &header);
    for (size_t i = 0; i < n; i++) {
        size_t mark = encode_begin(response, 2);
        encode_i64(response, 1, infos[i].id);
        encode_end(response, mark);
    }
    free(infos);
    return OUTCOME_OK;
}

/* ---- members ---- */

static void append_strings(struct buf *out, uint32_t field, char *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        encode_present_bytes(out, field, bytes_str(items[i]));
}

static void append_member(void *arg, const struct member *m)
{
    struct buf *out = arg;
    size_t mark = encode_begin(out, 2);

    encode_u64(out, 1, m->id);
    encode_bytes(out, 2, bytes_str(m->name));
    append_strings(out, 3, m->peer_urls, m->n_peer_urls);
    append_strings(out, 4, m->client_urls, m->n_client_urls);
    encode_bool(out, 5, m->is_learner);
    encode_end(out, mark);
}

/* etcd's member list carries a header without a revision. */
enum outcome server_member_list(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, 0);

    (void)request;
    encode_header(response, &header);
    members_visit(s->members, append_member, response);
    return OUTCOME_OK;
}

/* ---- maintenance ---- */

enum outcome server_maintenance_status(struct server *s, const void *request, struct buf *response)
{
    struct response_header header = server_header(s, mvcc_revision(s->mvcc));
    uint64_t leader = atomic_load(&s->state.leader);

    (void)request;
    encode_header(response, &header);
    encode_bytes(response, 2, bytes_str(SERVER_COMPATIBLE_VERSION));
    encode_u64(response, 3, db_disk_bytes(s->db) + db_unflushed_bytes(s->db));
    encode_u64(response, 4, leader);
    encode_u64(response, 5, atomic_load(&s->state.committed));
    encode_u64(response, 6, header.raft_term);
    encode_u64(response, 7, atomic_load(&s->state.applied));
    if (leader == 0)
        encode_bytes(response, 8, bytes_str("etcdserver: no leader"));
    alarms_describe(s->alarms, 8, response);
    encode_u64(response, 9, db_used_bytes(s->db));
    encode_bytes(response, 11, bytes_str(SERVER_STORAGE_VERSION));
    encode_i64(response, 12, quota_bytes(s->config));
    encode_present_bytes(response, 13, BYTES_NULL); /* no downgrade under way */
    return OUTCOME_OK;
}

enum outcome server_hash_kv(struct server *s, const void *request, struct buf *response)
{
    const Etcdserverpb__HashKVRequest *q = request;
    uint64_t start = clock_mono_ns();
    struct mvcc_hash hash;
    enum outcome outcome = outcome_of(mvcc_hash_kv(s->mvcc, q->revision, &hash));

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

/* etcd hashes its backend file; tools don't compare it across members. Ours is a digest of the
 * whole history at the current revision. */
enum outcome server_hash(struct server *s, const void *request, struct buf *response)
{
    uint64_t start = clock_mono_ns();
    struct mvcc_hash hash;
    enum outcome outcome = outcome_of(mvcc_hash_kv(s->mvcc, 0, &hash));

    (void)request;
    metric_observe(&metric_hash_duration, (double)(clock_mono_ns() - start) / 1e9);
    if (outcome == OUTCOME_OK) {
        struct response_header header = server_header(s, hash.current);
        encode_header(response, &header);
        encode_u64(response, 2, hash.hash);
    }
    return outcome;
}

static bool not_stopping(void *arg)
{
    struct server *s = arg;

    return !atomic_load_explicit(&s->state.stopping, memory_order_acquire);
}

/* Reads and writes go on meanwhile. It may write as much as there is before it removes anything. */
enum outcome server_defragment(struct server *s, const void *request, struct buf *response)
{
    uint64_t start = clock_mono_ns();
    int r;

    (void)request;
    (void)response; /* etcd's answer is an empty message */
    log_info("starting defragment");
    server_metrics_defrag(true);
    if (disk_room_short(s->room))
        (void)disk_room_make(s->room, db_disk_bytes(s->db));
    r = db_compact(s->db, not_stopping, s);
    server_metrics_defrag(false);
    if (r == -ENOSPC)
        return OUTCOME_NO_SPACE;
    if (r < 0)
        server_fatal("the database failed while compacting", r);
    if (!not_stopping(s))
        return OUTCOME_STOPPED;
    uint64_t took = clock_mono_ns() - start;
    metric_observe(&metric_defrag_duration, (double)took / 1e9);
    log_info("finished defragment", LOG_DURATION("took", took),
             LOG_U64("size-bytes", db_disk_bytes(s->db)));
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
    struct range_view view = {.mvcc = rs->server->mvcc};
    struct range_summary summary;
    struct buf start = BUF_NULL, ignored = BUF_NULL;
    Etcdserverpb__RangeRequest q = rs->request;
    enum outcome outcome;

    buf_append_bytes(&start, last_key);
    buf_append_u8(&start, 0);
    q.key = (ProtobufCBinaryData){start.len, start.data};
    q.count_only = true;
    metric_add(&metric_mvcc_range, 1);
    outcome = outcome_of(
        range_encode(&view, &q, (struct range_flags){.with_count = true}, &ignored, &summary));
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
    struct range_view view = {.mvcc = rs->server->mvcc};
    struct range_summary summary;
    enum outcome outcome = outcome_of(range_encode(
        &view, &rs->request, (struct range_flags){.with_count = true}, body, &summary));

    metric_add(&metric_mvcc_range, 1);
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

static enum outcome chunk(struct range_stream *rs, struct buf *body, bool *ret_last)
{
    struct range_view view = {.mvcc = rs->server->mvcc};
    struct range_summary summary;
    enum outcome outcome;

    rs->request.key = (ProtobufCBinaryData){rs->key.len, rs->key.data};
    rs->request.limit = rs->chunk;
    outcome = outcome_of(range_encode(&view, &rs->request,
                                      (struct range_flags){.keep_last_key = true}, body, &summary));
    metric_add(&metric_mvcc_range, 1);
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
    *ret = (struct server_info){
        .cluster_id = s->state.cluster_id,
        .member_id = s->state.member_id,
        .leader_id = atomic_load(&s->state.leader),
        .term = atomic_load(&s->state.term),
        .raft_index = atomic_load(&s->state.committed),
        .applied_index = atomic_load(&s->state.applied),
        .revision = mvcc_revision(s->mvcc),
        .no_space_alarm = alarms_no_space(s->alarms),
        .corrupt_alarm = alarms_corrupt(s->alarms),
    };
    members_cluster_version(s->members, ret->cluster_version);
}

const struct config *server_config(const struct server *s)
{
    return s->config;
}
