/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The definitions behind server_metrics.h. One line a metric: variable, etcd's name, kind, help.
 * docs/metrics.md says which of etcd's families there are, and where one has another meaning.
 *
 * Thread: registration from the composition root; updates from any thread.
 */
#include "server/server_metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/process_metrics.h"
#include "server/server.h"
#include "storage/wal.h"

#define FAMILY(var, metric_name, metric_kind, text)                                                \
    struct metric var;                                                                             \
    static struct metric_family var##_family = {                                                   \
        .name = (metric_name), .help = (text), .kind = (metric_kind)};

#define METRICS(X)                                                                                 \
    X(metric_has_leader, "etcd_server_has_leader", METRIC_GAUGE,                                   \
      "Whether or not a leader exists. 1 is existence, 0 is not.")                                 \
    X(metric_is_leader, "etcd_server_is_leader", METRIC_GAUGE,                                     \
      "Whether or not this member is a leader. 1 if is, 0 otherwise.")                             \
    X(metric_is_learner, "etcd_server_is_learner", METRIC_GAUGE,                                   \
      "Whether or not this member is a learner. 1 if is, 0 otherwise.")                            \
    X(metric_leader_changes, "etcd_server_leader_changes_seen_total", METRIC_COUNTER,              \
      "The number of leader changes seen.")                                                        \
    X(metric_proposals_committed, "etcd_server_proposals_committed_total", METRIC_GAUGE,           \
      "The total number of consensus proposals committed.")                                        \
    X(metric_proposals_applied, "etcd_server_proposals_applied_total", METRIC_GAUGE,               \
      "The total number of consensus proposals applied.")                                          \
    X(metric_proposals_pending, "etcd_server_proposals_pending", METRIC_GAUGE,                     \
      "The current number of pending proposals to commit.")                                        \
    X(metric_proposals_failed, "etcd_server_proposals_failed_total", METRIC_COUNTER,               \
      "The total number of failed proposals seen.")                                                \
    X(metric_slow_applies, "etcd_server_slow_apply_total", METRIC_COUNTER,                         \
      "The total number of slow apply requests (likely overloaded from slow disk).")               \
    X(metric_quota_bytes, "etcd_server_quota_backend_bytes", METRIC_GAUGE,                         \
      "Current backend storage quota size in bytes.")                                              \
    X(metric_db_total_size, "etcd_mvcc_db_total_size_in_bytes", METRIC_GAUGE,                      \
      "Total size of the underlying database physically allocated in bytes.")                      \
    X(metric_db_size_in_use, "etcd_mvcc_db_total_size_in_use_in_bytes", METRIC_GAUGE,              \
      "Total size of the underlying database logically in use in bytes.")                          \
    X(metric_mvcc_put, "etcd_mvcc_put_total", METRIC_COUNTER,                                      \
      "Total number of puts seen by this member.")                                                 \
    X(metric_mvcc_delete, "etcd_mvcc_delete_total", METRIC_COUNTER,                                \
      "Total number of deletes seen by this member.")                                              \
    X(metric_mvcc_range, "etcd_mvcc_range_total", METRIC_COUNTER,                                  \
      "Total number of ranges seen by this member.")                                               \
    X(metric_mvcc_txn, "etcd_mvcc_txn_total", METRIC_COUNTER,                                      \
      "Total number of txns seen by this member.")                                                 \
    X(metric_current_revision, "etcd_debugging_mvcc_current_revision", METRIC_GAUGE,               \
      "The current revision of store.")                                                            \
    X(metric_watch_streams, "etcd_debugging_mvcc_watch_stream_total", METRIC_GAUGE,                \
      "Total number of watch streams.")                                                            \
    X(metric_watchers, "etcd_debugging_mvcc_watcher_total", METRIC_GAUGE,                          \
      "Total number of watchers.")                                                                 \
    X(metric_slow_watchers, "etcd_debugging_mvcc_slow_watcher_total", METRIC_GAUGE,                \
      "Total number of unsynced slow watchers.")                                                   \
    X(metric_watch_events, "etcd_debugging_mvcc_events_total", METRIC_COUNTER,                     \
      "Total number of events sent by this member.")                                               \
    X(metric_pending_events, "etcd_debugging_mvcc_pending_events_total", METRIC_GAUGE,             \
      "Total number of pending events to be sent.")                                                \
    X(metric_compact_revision, "etcd_debugging_mvcc_compact_revision", METRIC_GAUGE,               \
      "The revision of the last compaction in store.")                                             \
    X(metric_lease_granted, "etcd_debugging_lease_granted_total", METRIC_COUNTER,                  \
      "The total number of granted leases.")                                                       \
    X(metric_lease_revoked, "etcd_debugging_lease_revoked_total", METRIC_COUNTER,                  \
      "The total number of revoked leases.")                                                       \
    X(metric_lease_renewed, "etcd_debugging_lease_renewed_total", METRIC_COUNTER,                  \
      "The number of renewed leases seen by the leader.")                                          \
    X(metric_lease_expired, "etcd_debugging_server_lease_expired_total", METRIC_COUNTER,           \
      "The total number of expired leases.")                                                       \
    X(metric_slow_read_indexes, "etcd_server_slow_read_indexes_total", METRIC_COUNTER,             \
      "The total number of pending read indexes not in sync with leader's or timed out read "      \
      "index requests.")                                                                           \
    X(metric_read_indexes_failed, "etcd_server_read_indexes_failed_total", METRIC_COUNTER,         \
      "The total number of failed read indexes seen.")                                             \
    X(metric_learner_promotions, "etcd_server_learner_promote_successes", METRIC_COUNTER,          \
      "The total number of successful learner promotions while this member is leader.")

METRICS(FAMILY)

/* Of families that have nothing to count yet. */
#define ZEROS(X)                                                                                   \
    X(heartbeat_failures, "etcd_server_heartbeat_send_failures_total", METRIC_COUNTER,             \
      "The total number of leader heartbeat send failures (likely overloaded from slow disk).")    \
    X(snapshot_applying, "etcd_server_snapshot_apply_in_progress_total", METRIC_GAUGE,             \
      "1 if the server is applying the incoming snapshot. 0 if none.")

#define STATIC_FAMILY(var, metric_name, metric_kind, text)                                         \
    static struct metric var;                                                                      \
    static struct metric_family var##_family = {                                                   \
        .name = (metric_name), .help = (text), .kind = (metric_kind)};
ZEROS(STATIC_FAMILY)

/* ---- histograms ---- */

static const double bounds_10ms[] = {0.01, 0.02,  0.04,  0.08,  0.16,  0.32,   0.64,   1.28,  2.56,
                                     5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36};
static const double bounds_100ms[] = {0.1,  0.2,  0.4,  0.8,   1.6,   3.2,  6.4,
                                      12.8, 25.6, 51.2, 102.4, 204.8, 409.6};
static const double bounds_1s[] = {
    1,    2,    4,     8,     16,    32,      64,      128,     256,     512,     1024,    2048,
    4096, 8192, 16384, 32768, 65536, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 22, 1 << 23};

/* Bounds that begin with so many of an array. */
#define HISTOGRAMS(X)                                                                              \
    X(metric_wal_fsync, "etcd_disk_wal_fsync_duration_seconds", metric_bounds_1ms_x2_14, 14,       \
      "The latency distributions of fsync called by WAL.")                                         \
    X(metric_backend_commit, "etcd_disk_backend_commit_duration_seconds", metric_bounds_1ms_x2_14, \
      14, "The latency distributions of commit called by backend.")                                \
    X(metric_hash_duration, "etcd_mvcc_hash_duration_seconds", bounds_10ms, 15,                    \
      "The latency distribution of storage hash operation.")                                       \
    X(metric_hash_rev_duration, "etcd_mvcc_hash_rev_duration_seconds", bounds_10ms, 15,            \
      "The latency distribution of storage hash by revision operation.")                           \
    X(metric_defrag_duration, "etcd_disk_backend_defrag_duration_seconds", bounds_100ms, 13,       \
      "The latency distribution of backend defragmentation.")                                      \
    X(metric_snapshot_duration, "etcd_disk_backend_snapshot_duration_seconds", bounds_10ms, 17,    \
      "The latency distribution of backend snapshots.")                                            \
    X(metric_lease_ttl, "etcd_debugging_lease_ttl_total", bounds_1s, 24,                           \
      "Bucketed histogram of lease TTLs.")

#define HISTOGRAM(var, metric_name, metric_bounds, metric_n_bounds, text)                          \
    struct metric var;                                                                             \
    static struct metric_family var##_family = {.name = (metric_name),                             \
                                                .help = (text),                                    \
                                                .kind = METRIC_HISTOGRAM,                          \
                                                .bounds = (metric_bounds),                         \
                                                .n_bounds = (metric_n_bounds)};
HISTOGRAMS(HISTOGRAM)

/* ---- the store's operations ---- */

/* A sum of whole numbers shown as a gauge, as etcd has it. */
static _Atomic uint64_t put_bytes;

static double read_put_bytes(void *arg)
{
    (void)arg;
    return (double)atomic_load_explicit(&put_bytes, memory_order_relaxed);
}

static struct metric metric_put_bytes = {.read = read_put_bytes};
static struct metric_family metric_put_bytes_family = {
    .name = "etcd_debugging_mvcc_total_put_size_in_bytes",
    .kind = METRIC_GAUGE,
    .help = "The total size of put kv pairs seen by this member."};

void server_metrics_count_mvcc(const struct mvcc_counts *c)
{
    if (c->ranges > 0)
        metric_add(&metric_mvcc_range, c->ranges);
    if (c->puts > 0) {
        metric_add(&metric_mvcc_put, c->puts);
        atomic_fetch_add_explicit(&put_bytes, c->put_bytes, memory_order_relaxed);
    }
    if (c->deletes > 0)
        metric_add(&metric_mvcc_delete, c->deletes);
    if ((uint64_t)c->ranges + c->puts + c->deletes > 1)
        metric_add(&metric_mvcc_txn, 1);
}

/* ---- defragmentations ---- */

static _Atomic unsigned defrags_under_way;

static double read_defrag(void *arg)
{
    (void)arg;
    return atomic_load_explicit(&defrags_under_way, memory_order_relaxed) > 0;
}

static struct metric metric_defrag = {.read = read_defrag};
static struct metric_family metric_defrag_family = {
    .name = "etcd_disk_defrag_inflight",
    .kind = METRIC_GAUGE,
    .help = "Whether or not defrag is active on the member. 1 means active, 0 means not."};

void server_metrics_defrag(bool begins)
{
    unsigned before =
        begins ? atomic_fetch_add(&defrags_under_way, 1) : atomic_fetch_sub(&defrags_under_way, 1);
    check(begins || before > 0);
}

/* ---- labels that say something ---- */

static struct metric metric_version, metric_id;
static struct metric_family metric_version_family = {
    .name = "etcd_server_version",
    .kind = METRIC_GAUGE,
    .help = "Which version is running. 1 for 'server_version' label with current version."};
static struct metric_family metric_id_family = {
    .name = "etcd_server_id",
    .kind = METRIC_GAUGE,
    .help = "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID."};

/* With value 1; again: nothing. */
static void register_fact(struct metric_family *family, struct metric *metric, char *labels)
{
    if (metric->family) {
        free(labels);
        return;
    }
    metrics_register_labelled(family, metric, labels);
    metric_set(metric, 1);
}

enum { GATES_MAX = 32 };
static struct metric metric_gates[GATES_MAX];
static struct metric_family metric_gates_family = {
    .name = "etcd_server_feature_enabled",
    .kind = METRIC_GAUGE,
    .help = "Whether or not a feature is enabled. 1 is enabled, 0 is not."};

static void register_gates(const struct config *config)
{
    struct config_gate gate;

    for (size_t i = 0; config_gate(config, i, &gate); i++) {
        check(i < GATES_MAX);
        register_fact(&metric_gates_family, &metric_gates[i],
                      mem_printf("name=\"%s\",stage=\"%s\"", gate.name, gate.stage));
        metric_set(&metric_gates[i], gate.on);
    }
}

/* The cluster versions that there were since the start; they only rise, and seldom. */
enum { CLUSTER_VERSIONS_MAX = 8 };
static struct metric metric_cluster_versions[CLUSTER_VERSIONS_MAX];
static size_t n_cluster_versions;
static pthread_mutex_t cluster_versions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family metric_cluster_version_family = {
    .name = "etcd_cluster_version",
    .kind = METRIC_GAUGE,
    .help = "Which version is running. 1 for 'cluster_version' label with current cluster version"};

void server_metrics_cluster_version(const char *version)
{
    const char *minor = strchr(version, '.');
    size_t len = minor ? (size_t)(minor - version) + 1 + strcspn(minor + 1, ".") : strlen(version);
    char *labels = mem_printf("cluster_version=\"%.*s\"", (int)len, version);
    size_t i = 0;

    pthread_mutex_lock(&cluster_versions_lock);
    for (size_t k = 0; k < n_cluster_versions; k++)
        metric_set(&metric_cluster_versions[k], 0);
    while (i < n_cluster_versions && strcmp(metric_cluster_versions[i].labels, labels) != 0)
        i++;
    if (i == n_cluster_versions && i < CLUSTER_VERSIONS_MAX) {
        metrics_register_labelled(&metric_cluster_version_family, &metric_cluster_versions[i],
                                  labels);
        labels = NULL;
        n_cluster_versions++;
    }
    if (i < n_cluster_versions)
        metric_set(&metric_cluster_versions[i], 1);
    pthread_mutex_unlock(&cluster_versions_lock);
    free(labels);
}

/* ---- members ---- */

/* Whoever was a member since the start, and is remembered with 0 afterwards. */
static struct known_peer {
    uint64_t id;
    struct metric *metric;
} known_peers[KNOWN_PEERS_MAX];
static size_t n_known_peers;
static pthread_mutex_t known_peers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric_family known_peers_family = {.name = "etcd_network_known_peers",
                                                  .kind = METRIC_GAUGE,
                                                  .help = "The current number of known peers."};

static void know_peer(uint64_t local, uint64_t remote)
{
    size_t i = 0;

    while (i < n_known_peers && known_peers[i].id != remote)
        i++;
    if (i == KNOWN_PEERS_MAX)
        return;
    if (i == n_known_peers) {
        known_peers[n_known_peers++] = (struct known_peer){remote, mem_new(struct metric)};
        metrics_register_labelled(
            &known_peers_family, known_peers[i].metric,
            mem_printf("Local=\"%" PRIx64 "\",Remote=\"%" PRIx64 "\"", local, remote));
    }
    metric_set(known_peers[i].metric, 1);
}

void server_metrics_peers(uint64_t local, const uint64_t *ids, size_t n)
{
    pthread_mutex_lock(&known_peers_lock);
    for (size_t i = 0; i < n_known_peers; i++)
        metric_set(known_peers[i].metric, 0);
    for (size_t i = 0; i < n; i++)
        know_peer(local, ids[i]);
    pthread_mutex_unlock(&known_peers_lock);
}

/* ---- registration ---- */

void server_metrics_register(const struct config *config, uint64_t member_id)
{
#define REGISTER(var, ...) metrics_register(&var##_family, &var);
    METRICS(REGISTER)
    ZEROS(REGISTER)
    HISTOGRAMS(REGISTER)
    metrics_register(&metric_put_bytes_family, &metric_put_bytes);
    metrics_register(&metric_defrag_family, &metric_defrag);
    wal_metrics_register();
    process_metrics_register();
    register_fact(&metric_version_family, &metric_version,
                  mem_printf("server_version=\"%s\"", SERVER_COMPATIBLE_VERSION));
    register_fact(&metric_id_family, &metric_id,
                  mem_printf("server_id=\"%" PRIx64 "\"", member_id));
    register_gates(config);
}
