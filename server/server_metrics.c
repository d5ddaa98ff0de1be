/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The definitions behind server_metrics.h. One line a metric: variable, etcd's name, kind, help.
 *
 * Thread: registration from the composition root; updates from any thread.
 */
#include "server/server_metrics.h"

#include "base/mem.h"
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
    X(metric_compact_revision, "etcd_debugging_mvcc_compact_revision", METRIC_GAUGE,               \
      "The revision of the last compaction in store.")                                             \
    X(metric_lease_granted, "etcd_debugging_lease_granted_total", METRIC_COUNTER,                  \
      "The total number of granted leases.")                                                       \
    X(metric_lease_revoked, "etcd_debugging_lease_revoked_total", METRIC_COUNTER,                  \
      "The total number of revoked leases.")

METRICS(FAMILY)

struct metric metric_wal_fsync;
static struct metric_family metric_wal_fsync_family = {
    .name = "etcd_disk_wal_fsync_duration_seconds",
    .kind = METRIC_HISTOGRAM,
    .help = "The latency distributions of fsync called by WAL.",
    .bounds = metric_bounds_1ms_x2_14,
    .n_bounds = 14};
struct metric metric_backend_commit;
static struct metric_family metric_backend_commit_family = {
    .name = "etcd_disk_backend_commit_duration_seconds",
    .kind = METRIC_HISTOGRAM,
    .help = "The latency distributions of commit called by backend.",
    .bounds = metric_bounds_1ms_x2_14,
    .n_bounds = 14};

static struct metric metric_version;
static struct metric_family metric_version_family = {
    .name = "etcd_server_version",
    .kind = METRIC_GAUGE,
    .help = "Which version is running. 1 for 'server_version' label with current version."};
static struct metric metric_id;
static struct metric_family metric_id_family = {
    .name = "etcd_server_id",
    .kind = METRIC_GAUGE,
    .help = "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID."};

void server_metrics_register(const char *version, const char *member_id)
{
#define REGISTER(var, name, kind, text) metrics_register(&var##_family, &var);
    METRICS(REGISTER)
    wal_metrics_register();
    metrics_register(&metric_wal_fsync_family, &metric_wal_fsync);
    metrics_register(&metric_backend_commit_family, &metric_backend_commit);
    if (!metric_version.family)
        metrics_register_labelled(&metric_version_family, &metric_version,
                                  mem_printf("server_version=\"%s\"", version));
    if (!metric_id.family)
        metrics_register_labelled(&metric_id_family, &metric_id,
                                  mem_printf("server_id=\"%s\"", member_id));
    metric_set(&metric_version, 1);
    metric_set(&metric_id, 1);
}
