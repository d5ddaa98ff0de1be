/* SPDX-License-Identifier: Apache-2.0 */
/* etcd's metrics that the server counts (names and buckets are etcd's). Registered once by
 * server_metrics_register(). */
#pragma once

#include "base/metrics.h"
#include "server/config.h"

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
extern struct metric metric_watch_streams;
extern struct metric metric_watchers;
extern struct metric metric_slow_watchers;
extern struct metric metric_watch_events;
extern struct metric metric_pending_events;
extern struct metric metric_lease_granted;
extern struct metric metric_lease_revoked;
extern struct metric metric_lease_renewed;
extern struct metric metric_lease_expired;

extern struct metric metric_slow_read_indexes;
extern struct metric metric_read_indexes_failed;
extern struct metric metric_learner_promotions;
extern struct metric metric_hash_duration;
extern struct metric metric_hash_rev_duration;
extern struct metric metric_defrag_duration;
extern struct metric metric_snapshot_duration;
extern struct metric metric_lease_ttl;

/* What one transaction of the store did. */
struct mvcc_counts {
    uint32_t ranges;
    uint32_t puts;
    uint32_t deletes;
    uint64_t put_bytes; /* keys and values */
};
/* Adds to etcd_mvcc_*: more than one operation counts as a transaction, too. */
void server_metrics_count_mvcc(const struct mvcc_counts *counts);

/* A defragmentation begins or ends; any thread, several at once. */
void server_metrics_defrag(bool begins);

/* Composition root, before the first use. Registers for good: the labels are those of the first
 * member of the process. */
void server_metrics_register(const struct config *config, uint64_t member_id);
/* The members that there are, also this one; any thread. Who was one before is shown with 0. */
enum { KNOWN_PEERS_MAX = 512 }; /* since the start; later ones are not shown */
void server_metrics_peers(uint64_t local, const uint64_t *ids, size_t n);
/* "3.7.0"; any thread. The one before it stays as a label with value 0. */
void server_metrics_cluster_version(const char *version);
