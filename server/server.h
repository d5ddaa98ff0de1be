/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server as api/ and the composition roots see it. It knows nothing of gRPC: requests come as
 * struct request and leave through their finish(). server/README.md has the threads and the order
 * of start and stop.
 */
#pragma once

#include "server/config.h"
#include "server/request.h"

struct server;
struct transport;

/* What we answer when asked for etcd's version: the one whose behaviour this is. */
#define SERVER_COMPATIBLE_VERSION "3.7.1"
#define SERVER_CLUSTER_VERSION "3.7.0"
#define SERVER_STORAGE_VERSION "3.7.0"

/* Opens the data directory, recovers, starts the raft, apply, compactor and scan threads. Returns
 * when recovery is done; the member may not have a leader yet. Positive outcome 1: refused with a
 * message already logged (lock held, corruption, foreign data, flags that contradict the data).
 * Negative: -errno. transport: the network between members; NULL: a member alone without one. It is
 * started by whoever made it, stopped between server_drain() and server_stop(), freed after. */
int server_start(struct server **ret, const struct config *config, struct transport *transport);
/* The first step of a stop: whoever waits for a physical compaction, which may take long, is
 * answered, and nobody waits for one any more. */
void server_release_waiting(struct server *s);
/* A leader hands its leadership over first, for which the transport must still be there; at most
 * two election timeouts. Then it stops taking requests: all that wait and all that come are
 * finished with OUTCOME_STOPPED. */
void server_drain(struct server *s);
/* Joins the threads, flushes, closes. After server_drain(), and after api/ has let go of
 * everything. Accepts NULL. */
struct server *server_stop(struct server *s);
/* Waits until this member has published itself (etcd serves clients only then). False: not within
 * timeout_ms. */
bool server_wait_ready(struct server *s, uint64_t timeout_ms);

/* ---- requests; any thread ---- */

/* The seven steps of the request path (propose.c). */
void server_submit(struct server *s, struct request *request);
/* Finishes with OUTCOME_OK once a linearizable read may run on the local state. kind must be
 * REQUEST_READ_INDEX. False: it was finished before this returned, as mostly where the member is
 * alone; raft has nothing of it. */
bool server_read_index(struct server *s, struct request *request);
/* Behind the last of several requests that came with `more`: they may wait for this. */
void server_submitted(struct server *s);
/* A change of members: kind is MEMBER_ADD, MEMBER_REMOVE or MEMBER_UPDATE, message the decoded
 * request, which is looked at before this returns. */
void server_change_members(struct server *s, struct request *request, const void *message);
void server_promote_member(struct server *s, struct request *request, uint64_t member_id);
void server_move_leader(struct server *s, struct request *request, uint64_t member_id);
/* True: the request was taken back, finish() will not be called. False: finish() was called or is
 * about to be. */
bool server_cancel(struct server *s, struct request *request);
/* A lease id as etcd makes them: unique, positive. */
int64_t server_lease_id(struct server *s);

/* Work that may take long (scans, hashes), run in turn by the scan threads. run() must not block on
 * other jobs. */
struct scan_job {
    struct scan_job *next;
    void (*run)(struct scan_job *job);
};
/* False: the pool is full (SCAN_JOBS_MAX) or stopping; the job is not run. */
bool server_scan(struct server *s, struct scan_job *job);

/* ---- answers from local state; any thread; request is the decoded message, *response gets the
 * encoded one (appended) ---- */

enum outcome server_range(struct server *s, const void *request,
                          struct buf *response); /* RangeRequest */
enum outcome server_txn_read_only(struct server *s, const void *request,
                                  struct buf *response); /* TxnRequest of ranges only */
enum outcome server_lease_leases(struct server *s, const void *request, struct buf *response);
enum outcome server_member_list(struct server *s, const void *request, struct buf *response);
enum outcome server_maintenance_status(struct server *s, const void *request, struct buf *response);
enum outcome server_hash(struct server *s, const void *request, struct buf *response);
enum outcome server_hash_kv(struct server *s, const void *request, struct buf *response);
enum outcome server_defragment(struct server *s, const void *request, struct buf *response);

/* RangeStream: one call per message. range_stream_new borrows request (a RangeRequest). */
struct range_stream;
struct range_stream *range_stream_new(struct server *s, const void *request);
struct range_stream *range_stream_free(struct range_stream *rs);
/* Appends one encoded RangeStreamResponse; *ret_last: no more messages. */
enum outcome range_stream_next(struct range_stream *rs, struct buf *response, bool *ret_last);

/* True: the quota refuses a request of that cost (bytes as etcd reckons them); an
 * alarm is then raised by the server. */
bool server_quota_exceeded(struct server *s, uint64_t cost_bytes);

/* ---- state for HTTP, logs and metrics; any thread ---- */

struct server_info {
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t leader_id; /* 0: none */
    uint64_t term;
    uint64_t raft_index; /* committed */
    uint64_t applied_index;
    int64_t revision;
    bool is_learner;
    bool no_space_alarm;
    bool corrupt_alarm;
    char cluster_version[16]; /* "" until decided */
};
void server_info(struct server *s, struct server_info *ret);
static inline bool server_has_leader(struct server *s)
{
    struct server_info info;

    server_info(s, &info);
    return info.leader_id != 0;
}
/* What each response says about who made it; encode.h encodes it. */
struct response_header;
void server_response_header(struct server *s, int64_t revision, struct response_header *ret);
/* The hub of watch_hub.h; as long as the server. */
struct watch_hub *server_watch_hub(struct server *s);
/* A learner serves hardly anything. */
bool server_is_learner(const struct server *s);
/* True: this member was removed from the cluster and has lived on for as long as it may; it must
 * stop, and its data are of no use any more. */
bool server_is_removed(struct server *s);
const struct config *server_config(const struct server *s);
