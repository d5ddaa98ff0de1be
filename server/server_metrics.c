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
    X(metric_compact_revision, "etcd_debugging_mvcc_compact_revision", METRIC_GAUGE,               \
      "The revision of the last compaction in store.")                                             \
    X(metric_lease_granted, "etcd_debugging_lease_granted_total", METRIC_COUNTER,                  \
      "The total number of granted leases.")                                                       \
    X(metric_lease_revoked, "etcd_debugging_lease_revoked_total", METRIC_COUNTER,                  \
      "The total number of revoked leases.")                                                       \
    X(metric_slow_read_indexes, "etcd_server_slow_read_indexes_total", METRIC_COUNTER,             \
      "The total number of pending read indexes not in sync with leader's or timed out read "     \
      "index requests.")                                                                           \
    X(metric_read_indexes_failed, "etcd_server_read_indexes_failed_total", METRIC_COUNTER,         \
      "The total number of failed read indexes seen.")                                             \
    X(metric_defrag_inflight, "etcd_disk_defrag_inflight", METRIC_GAUGE,                           \
      "Whether or not defrag is active on the member. 1 means active, 0 means not.")               \
    X(metric_compaction_last, "etcd_debugging_mvcc_db_compaction_last", METRIC_GAUGE,              \
      "The unix time of the last db compaction. Resets to 0 on start.")                            \
    X(heartbeat_failures, "etcd_server_heartbeat_send_failures_total", METRIC_COUNTER,             \
      "The total number of leader heartbeat send failures (likely overloaded from slow disk).")   \
    X(snapshot_applying, "etcd_server_snapshot_apply_in_progress_total", METRIC_GAUGE,             \
      "1 if the server is applying the incoming snapshot. 0 if none.")                             \
    X(learner_promotions, "etcd_server_learner_promote_successes", METRIC_COUNTER,                 \
      "The total number of successful learner promotions while this member is leader.")

METRICS(FAMILY)

#define HISTOGRAM(var, metric_name, metric_bounds, text)                                           \
    struct metric var;                                                                             \
    static struct metric_family var##_family = {                                                   \
        .name = (metric_name),                                                                     \
        .help = (text),                                                                            \
        .kind = METRIC_HISTOGRAM,                                                                  \
        .bounds = (metric_bounds),                                                                 \
        .n_bounds = sizeof(metric_bounds) / sizeof((metric_bounds)[0])};

static const double bounds_10ms[] = {0.01, 0.02, 0.04,  0.08,  0.16,  0.32,  0.64,   1.28,  2.56,
                                     5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36};
