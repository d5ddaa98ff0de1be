/* SPDX-License-Identifier: Apache-2.0 */
/* etcd's metrics that the server counts (names and buckets are etcd's). Registered once by
 * server_metrics_register(). */
#pragma once

#include "base/metrics.h"

extern struct metric metric_has_leader;
extern struct metric metric_is_leader;
extern struct metric metric_is_learner;
extern struct metric metric_leader_changes;
extern struct metric metric_proposals_committed;
extern struct metric metric_proposals_applied;
extern struct metric metric_proposals_pending;
extern struct metric metric_proposals_failed;
extern struct metric metric_slow_applies;
extern struct metric metric_quota_bytes;
extern struct metric metric_wal_fsync;
extern struct metric metric_backend_commit;
extern struct metric metric_db_total_size;
extern struct metric metric_db_size_in_use;
extern struct metric metric_mvcc_put;
extern struct metric metric_mvcc_delete;
extern struct metric metric_mvcc_range;
extern struct metric metric_mvcc_txn;
extern struct metric metric_current_revision;
extern struct metric metric_compact_revision;
extern struct metric metric_lease_granted;
extern struct metric metric_lease_revoked;

/* id: the member's, as a label. Strings must outlive the process. */
void server_metrics_register(const char *version, const char *member_id);
