/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Metrics of the network between members: names, texts and buckets are etcd's.
 *
 * Thread: any; one lock around the sets.
 */
#include "api/peer_metrics.h"

#include <inttypes.h>
#include <pthread.h>

#include "base/map.h"
#include "base/mem.h"

enum { HEARTBEAT_BYTES = 2 }; /* a message with nothing but a type */

static const double snapshot_bounds[10] = {0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2};
static const double round_trip_bounds[16] = {0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032,
                                             0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048,
                                             0.4096, 0.8192, 1.6384, 3.2768};

#define COUNTER(n, text)                                                                           \
    {                                                                                              \
        .name = "etcd_network_" n, .help = text, .kind = METRIC_COUNTER                            \
    }
#define GAUGE(n, text)                                                                             \
    {                                                                                              \
        .name = "etcd_network_" n, .help = text, .kind = METRIC_GAUGE                              \
    }
#define HISTOGRAM(n, text, b)                                                                      \
    {                                                                                              \
        .name = "etcd_network_" n, .help = text, .kind = METRIC_HISTOGRAM, .bounds = (b),          \
        .n_bounds = sizeof(b) / sizeof((b)[0])                                                     \
    }

enum label { LABEL_PAIR, LABEL_TO, LABEL_FROM };

static struct row {
    struct metric_family family;
    enum label label;
    size_t offset;
} rows[] = {
    {GAUGE("active_peers", "The current number of active peer connections."), LABEL_PAIR,
     offsetof(struct peer_metrics, active)},
    {COUNTER("disconnected_peers_total", "The total number of disconnected peers."), LABEL_PAIR,
     offsetof(struct peer_metrics, disconnected)},
    {COUNTER("peer_sent_bytes_total", "The total number of bytes sent to peers."), LABEL_TO,
     offsetof(struct peer_metrics, sent_bytes)},
    {COUNTER("peer_sent_failures_total", "The total number of send failures from peers."), LABEL_TO,
     offsetof(struct peer_metrics, sent_failures)},
    {COUNTER("peer_received_bytes_total", "The total number of bytes received from peers."),
     LABEL_FROM, offsetof(struct peer_metrics, received_bytes)},
    {COUNTER("peer_received_failures_total", "The total number of receive failures from peers."),
     LABEL_FROM, offsetof(struct peer_metrics, received_failures)},
    {HISTOGRAM("peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers",
               round_trip_bounds),
     LABEL_TO, offsetof(struct peer_metrics, round_trip)},
    {COUNTER("snapshot_send_success", "Total number of successful snapshot sends"), LABEL_TO,
     offsetof(struct peer_metrics, snapshot_sent)},
    {GAUGE("snapshot_send_inflights_total", "Total number of inflight snapshot sends"), LABEL_TO,
     offsetof(struct peer_metrics, snapshot_send_inflight)},
    {COUNTER("snapshot_send_failures", "Total number of snapshot send failures"), LABEL_TO,
     offsetof(struct peer_metrics, snapshot_send_failures)},
    {HISTOGRAM("snapshot_send_total_duration_seconds",
               "Total latency distributions of v3 snapshot sends", snapshot_bounds),
     LABEL_TO, offsetof(struct peer_metrics, snapshot_send_seconds)},
    {COUNTER("snapshot_receive_success", "Total number of successful snapshot receives"),
     LABEL_FROM, offsetof(struct peer_metrics, snapshot_received)},
    {GAUGE("snapshot_receive_inflights_total", "Total number of inflight snapshot receives"),
     LABEL_FROM, offsetof(struct peer_metrics, snapshot_receive_inflight)},
    {COUNTER("snapshot_receive_failures", "Total number of snapshot receive failures"), LABEL_FROM,
     offsetof(struct peer_metrics, snapshot_receive_failures)},
    {HISTOGRAM("snapshot_receive_total_duration_seconds",
               "Total latency distributions of v3 snapshot receives", snapshot_bounds),
     LABEL_FROM, offsetof(struct peer_metrics, snapshot_receive_seconds)},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct map_u64 sets; /* by remote member; a process is one local member */
static struct peer_metrics unread;
static struct metric heartbeats_received;
static pthread_once_t heartbeats_once = PTHREAD_ONCE_INIT;

static struct metric *metric_at(struct peer_metrics *m, size_t row)
{
    return (struct metric *)(void *)((char *)m + rows[row].offset);
}

static struct peer_metrics *set_new(uint64_t local, uint64_t remote)
{
    struct peer_metrics *m = mem_new(struct peer_metrics);
    const char *labels[] = {
        [LABEL_PAIR] = mem_printf("Local=\"%" PRIx64 "\",Remote=\"%" PRIx64 "\"", local, remote),
        [LABEL_TO] = mem_printf("To=\"%" PRIx64 "\"", remote),
        [LABEL_FROM] = mem_printf("From=\"%" PRIx64 "\"", remote)};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        metrics_register_labelled(&rows[i].family, metric_at(m, i), labels[rows[i].label]);
    }
    return m;
}

/* It counts, and is not rendered. */
static struct peer_metrics *unread_set(void)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        metric_at(&unread, i)->family = &rows[i].family;
    return &unread;
}

static void heartbeats_register(void)
{
    struct row *row = rows;

    while (row->offset != offsetof(struct peer_metrics, received_bytes))
        row++;
    metrics_register_labelled(&row->family, &heartbeats_received, "From=\"0\"");
}

void peer_metrics_heartbeats(uint64_t n)
{
    if (n == 0)
        return;
    pthread_once(&heartbeats_once, heartbeats_register);
    metric_add(&heartbeats_received, n * HEARTBEAT_BYTES);
}

struct peer_metrics *peer_metrics_of(uint64_t local, uint64_t remote)
{
    pthread_mutex_lock(&lock);
    struct peer_metrics *m = map_u64_get(&sets, remote);
    if (!m && sets.len < PEER_METRICS_MAX) {
        m = set_new(local, remote);
        map_u64_put(&sets, remote, m);
    } else if (!m) {
        m = unread_set();
    }
    pthread_mutex_unlock(&lock);
    return m;
}
