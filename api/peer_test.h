/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the transport: a server of their own behind it, which remembers what came in, and a
 * network of transports in one process. The tests wait for what should happen, with a deadline.
 */
#pragma once

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/peer_private.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/lessor.h"
#include "server/scan.h"
#include "storage/test_dir.h"

enum { TEST_CLUSTER = 0xc1, TEST_PATIENCE_MS = 20000, TEST_IDS = 8 };

/* ---- the server ---- */

struct heard {
    struct raft_message m; /* entries, snapshot and context are not kept */
    size_t n_entries;
    uint64_t first_index;
    uint8_t context[RAFT_CONTEXT_MAX];
};

struct server {
    struct config config;
    struct server_info info;
    char *dir; /* snapshots */
    pthread_mutex_t lock;
    pthread_cond_t cond;

    char *urls[TEST_IDS]; /* by id; NULL: no member */
    char *second_url;     /* of each */
    bool removed[TEST_IDS];

    struct heard *heard;
    size_t n_heard;
    bool keep_nothing; /* counts only */
    enum peer_verdict verdict;
    unsigned unreachable[TEST_IDS];
    unsigned we_are_removed;
    unsigned n_snapshots;
    uint64_t snapshot_index;
    char *snapshot_path;
    enum peer_verdict snapshot_verdict;
    bool hold_snapshots; /* the test says when raft has them */
    void (*snapshot_done)(void *arg, bool ok);
    void *snapshot_arg;

    bool hold_reads;
    struct request *held;
    enum outcome read_outcome;
    uint64_t promoted;
    int64_t lease;
    bool lease_keys;
    bool downgrades;
    enum outcome hash_outcome;
    int64_t hash_revision;
    bool scan_full;
    unsigned n_jobs;
};

const struct config *server_config(const struct server *s)
{
    return &s->config;
}

void server_info(struct server *s, struct server_info *ret)
{
    *ret = s->info;
}

static inline void heard_add(struct server *s, const struct raft_message *m)
{
    struct heard h = {.m = *m, .n_entries = m->n_entries};

    h.first_index = m->n_entries > 0 ? m->entries[0].index : 0;
    if (m->context.len > 0)
        memcpy(h.context, m->context.data, m->context.len);
    if (!s->keep_nothing) {
        if ((s->n_heard & (s->n_heard + 1)) == 0)
            s->heard = mem_realloc(s->heard, 2 * (s->n_heard + 1) * sizeof(*s->heard));
        s->heard[s->n_heard] = h;
    }
    s->n_heard++;
}

enum peer_verdict server_peer_message(struct server *s, const struct raft_message *m)
{
    enum peer_verdict verdict;

    pthread_mutex_lock(&s->lock);
    verdict = s->verdict;
    if (m->from < TEST_IDS && s->removed[m->from])
        verdict = PEER_REMOVED;
    else if (m->to != s->info.member_id)
        verdict = PEER_WRONG_TO;
    if (verdict == PEER_OK)
        heard_add(s, m);
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    return verdict;
}

void server_peer_unreachable(struct server *s, uint64_t member_id)
{
    pthread_mutex_lock(&s->lock);
    s->unreachable[member_id % TEST_IDS]++;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

void server_peer_we_are_removed(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    s->we_are_removed++;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
}

char *server_peer_snapshot_path(struct server *s, uint64_t index)
{
    static atomic_uint n;

    return mem_printf("%s/in-%u", s->dir, atomic_fetch_add(&n, 1));
}

enum peer_verdict server_peer_snapshot_then(struct server *s, const struct raft_message *m,
                                            const char *path, void (*done)(void *arg, bool ok),
                                            void *arg)
{
    pthread_mutex_lock(&s->lock);
    s->n_snapshots++;
    s->snapshot_index = m->snapshot->index;
    free(s->snapshot_path);
    s->snapshot_path = mem_strdup(path);
    enum peer_verdict verdict = s->snapshot_verdict;
    bool hold = s->hold_snapshots;
    if (hold && verdict == PEER_OK) {
        s->snapshot_done = done;
        s->snapshot_arg = arg;
    }
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    if (!hold && verdict == PEER_OK)
        done(arg, true);
    return verdict;
}

bool server_peer_is_removed(struct server *s, uint64_t member_id)
{
    pthread_mutex_lock(&s->lock);
    bool removed = member_id < TEST_IDS && s->removed[member_id];
    pthread_mutex_unlock(&s->lock);
    return removed;
}

void server_peer_visit(struct server *s, void (*visit)(void *arg, const struct member *m),
                       void *arg)
{
    pthread_mutex_lock(&s->lock);
    for (uint64_t id = 1; id < TEST_IDS; id++) {
        char *urls[] = {s->urls[id], s->second_url};
        size_t n = s->second_url ? 2 : 1;
        if (s->urls[id] && id != s->info.member_id)
            visit(arg, &(struct member){.id = id, .peer_urls = urls, .n_peer_urls = n});
    }
    pthread_mutex_unlock(&s->lock);
}

void server_peer_members(struct server *s, struct buf *response)
{
    buf_append_str(response, "[{\"id\":1}]\n");
}

enum outcome server_peer_hash_kv(struct server *s, int64_t revision, struct buf *response)
{
    s->hash_revision = revision;
    buf_printf(response, "{\"hash\":9,\"hash_revision\":%lld}", (long long)revision);
    return s->hash_outcome;
}

static inline void *scan_job_run(void *arg)
{
    struct scan_job *job = arg;

    job->run(job);
    return NULL;
}

bool server_scan(struct server *s, struct scan_job *job)
{
    pthread_t thread;

    if (s->scan_full)
        return false;
    check(pthread_create(&thread, NULL, scan_job_run, job) == 0);
    check(pthread_detach(thread) == 0);
    return true;
}

bool server_read_index(struct server *s, struct request *request)
{
    pthread_mutex_lock(&s->lock);
    bool hold = s->hold_reads;
    if (hold)
        s->held = request;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    if (!hold)
        request->finish(request, s->read_outcome);
    return hold;
}

/* As a read: what is answered is the test's. */
void server_promote_member(struct server *s, struct request *request, uint64_t member_id)
{
    s->promoted = member_id;
    buf_append_bytes(&request->response, request->credentials.token);
    server_read_index(s, request);
}

void server_peer_lease_renew(struct server *s, struct request *request, int64_t id)
{
    s->lease = id;
    buf_append_str(&request->response, "renewed");
    server_read_index(s, request);
}

void server_peer_lease_time_to_live(struct server *s, struct request *request, int64_t id,
                                    bool keys)
{
    s->lease = id;
    s->lease_keys = keys;
    buf_append_str(&request->response, "left");
    server_read_index(s, request);
}

int server_peer_promote_answer(const struct request *request, enum outcome outcome,
                               struct buf *body, bool *ret_json)
{
    buf_append_bytes(body, buf_bytes(&request->response));
    buf_append_str(body, outcome == OUTCOME_OK ? "[]\n" : "no\n");
    *ret_json = outcome == OUTCOME_OK;
    return outcome == OUTCOME_OK ? 200 : 412;
}

bool server_peer_downgrade_enabled(struct server *s)
{
    return s->downgrades;
}

bool server_cancel(struct server *s, struct request *request)
{
    pthread_mutex_lock(&s->lock);
    bool taken_back = s->held == request;
    if (taken_back)
        s->held = NULL;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    return taken_back;
}

static inline struct request *held_take(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    struct request *held = s->held;
    s->held = NULL;
    pthread_mutex_unlock(&s->lock);
    return held;
}

/* ---- waiting ---- */

/* Waits until the condition holds; looks when the server hears of something, and now and then. */
#define wait_until(s, condition)                                                                   \
    do {                                                                                           \
        uint64_t deadline_ms_ = clock_mono_ms() + TEST_PATIENCE_MS;                                \
        pthread_mutex_lock(&(s)->lock);                                                            \
        while (!(condition)) {                                                                     \
            if (clock_mono_ms() > deadline_ms_) {                                                  \
                pthread_mutex_unlock(&(s)->lock);                                                  \
                fail_msg("waited in vain for: %s", #condition);                                    \
            }                                                                                      \
            server_wait_(s);                                                                       \
        }                                                                                          \
        pthread_mutex_unlock(&(s)->lock);                                                          \
    } while (0)

/* The same for what is not the server's: looked at without its lock. */
#define wait_for(s, condition)                                                                     \
    do {                                                                                           \
        uint64_t deadline_ms_ = clock_mono_ms() + TEST_PATIENCE_MS;                                \
        while (!(condition)) {                                                                     \
            if (clock_mono_ms() > deadline_ms_)                                                    \
                fail_msg("waited in vain for: %s", #condition);                                    \
            pthread_mutex_lock(&(s)->lock);                                                        \
            server_wait_(s);                                                                       \
            pthread_mutex_unlock(&(s)->lock);                                                      \
        }                                                                                          \
    } while (0)

static inline void server_wait_(struct server *s)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += 5000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&s->cond, &s->lock, &t);
}

/* ---- members ---- */

struct node {
    struct server server;
    struct peer *peer;
};

/* Faster than etcd, for tests; not so fast that a busy machine is taken for a dead one. */
static const struct peer_timing test_timing = {.heartbeat = 100,
                                               .silence = 3000,
                                               .redial = 20,
                                               .probe = 50,
                                               .post = 3000,
                                               .request = 3000,
                                               .idle = 3000,
                                               .snapshot_answer = 10000};

static inline struct node *node_new_timed(uint64_t id, struct peer_timing timing)
{
    struct node *n = mem_new(struct node);
    char *error = NULL;

    n->server = (struct server){
        .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER, .dir = test_dir_new()};
    n->server.info = (struct server_info){
        .cluster_id = TEST_CLUSTER, .member_id = id, .cluster_version = "3.7.0"};
    n->server.config.election_timeout_ms = 1000;
    n->server.config.max_request_bytes = 1536 * 1024;
    assert_int_equal(
        url_list_parse("http://127.0.0.1:0", &n->server.config.listen_peer_urls, &error), 0);
    assert_int_equal(peer_new(&n->peer, &n->server.config), 0);
    n->peer->timing = timing;
    return n;
}

static inline struct node *node_new(uint64_t id)
{
    return node_new_timed(id, test_timing);
}

static inline void node_start(struct node *n)
{
    assert_int_equal(peer_start(n->peer, &n->server), 0);
}

static inline char *node_url(const struct node *n)
{
    return mem_printf("http://127.0.0.1:%u", peer_port(n->peer, 0));
}

static inline void node_knows(struct node *n, uint64_t id, char *url) /* takes url; NULL: not */
{
    pthread_mutex_lock(&n->server.lock);
    free(n->server.urls[id]);
    n->server.urls[id] = url;
    pthread_mutex_unlock(&n->server.lock);
    n->peer->transport.ops->members_changed(&n->peer->transport);
}

static inline struct node *node_free(struct node *n)
{
    peer_free(n->peer);
    for (int i = 0; i < TEST_IDS; i++)
        free(n->server.urls[i]);
    url_list_deinit(&n->server.config.listen_peer_urls);
    url_list_deinit(&n->server.config.initial_advertise_peer_urls);
    free(n->server.heard);
    free(n->server.snapshot_path);
    test_dir_remove(n->server.dir);
    free(n);
    return NULL;
}

static inline void node_send(struct node *n, const struct raft_message *messages, size_t len)
{
    n->peer->transport.ops->send(&n->peer->transport, messages, len);
}

static inline uint64_t node_active_ms(struct node *n, uint64_t id)
{
    return n->peer->transport.ops->active_ms(&n->peer->transport, id);
}

static inline bool node_has_link(struct node *n, uint64_t id)
{
    pthread_rwlock_rdlock(&n->peer->links_lock);
    bool has = map_u64_get(&n->peer->links, id) != NULL;
    pthread_rwlock_unlock(&n->peer->links_lock);
    return has;
}

/* Whether the streams that id dials are there, so that nothing goes through the pipeline. */
static inline bool node_has_streams(struct node *n, uint64_t id)
{
    bool both = false;

    pthread_rwlock_rdlock(&n->peer->links_lock);
    struct peer_link *link = map_u64_get(&n->peer->links, id);
    if (link && link->is_member) {
        both = true;
        for (int kind = 0; kind < PEER_STREAMS; kind++) {
            pthread_mutex_lock(&link->writers[kind].lock);
            both &= link->writers[kind].conn != NULL;
            pthread_mutex_unlock(&link->writers[kind].lock);
        }
    }
    pthread_rwlock_unlock(&n->peer->links_lock);
    return both;
}

/* Two members that know each other, with all four streams. */
struct pair {
    struct node *a; /* 1 */
    struct node *b; /* 2 */
};

static inline struct pair pair_new(void)
{
    struct pair p = {node_new(1), node_new(2)};

    node_start(p.a);
    node_start(p.b);
    node_knows(p.a, 2, node_url(p.b));
    node_knows(p.b, 1, node_url(p.a));
    wait_for(&p.a->server, node_has_streams(p.a, 2));
    wait_for(&p.b->server, node_has_streams(p.b, 1));
    return p;
}

static inline void pair_free(struct pair *p)
{
    node_free(p->a);
    node_free(p->b);
}
