/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's metrics of the network between members, one set for each other member. They stay for the
 * life of the process, as labels must. Thread: any.
 */
#pragma once

#include "base/metrics.h"

enum { PEER_METRICS_MAX = 1024 }; /* members ever seen; later ones share a set that nobody reads */

struct peer_metrics {
    struct metric active;
    struct metric disconnected;
    struct metric sent_bytes;
    struct metric sent_failures;
    struct metric received_bytes;
    struct metric received_failures;
    struct metric round_trip;
    struct metric snapshot_sent;
    struct metric snapshot_send_inflight;
    struct metric snapshot_send_failures;
    struct metric snapshot_send_seconds;
    struct metric snapshot_received;
    struct metric snapshot_receive_inflight;
    struct metric snapshot_receive_failures;
    struct metric snapshot_receive_seconds;
};

/* Heartbeats of streams have no sender: etcd counts their bytes as received from member 0. */
void peer_metrics_heartbeats(uint64_t n);
struct peer_metrics *peer_metrics_of(uint64_t local, uint64_t remote);
