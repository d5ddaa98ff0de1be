/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The metrics of the gRPC side, with the names and labels of etcd (which takes grpc_* from
 * go-grpc-middleware). All label sets of all methods exist from the start with value 0. Thread:
 * any, but grpc_metrics_register() comes first.
 */
#pragma once

#include "api/status.h"
#include "api/table.h"
#include "base/metrics.h"

struct method_metrics {
    struct metric started;
    struct metric received;
    struct metric sent;
    struct metric handled[STATUS_CODE_COUNT];
    struct metric seconds; /* registered and counted with --metrics=extensive only */
};

extern struct method_metrics method_metrics[METHOD_COUNT]; /* in the order of methods[] */
extern struct metric grpc_metrics_received_bytes;
extern struct metric grpc_metrics_sent_bytes;

/* Once per process; later calls change nothing. */
void grpc_metrics_register(bool extensive);
bool grpc_metrics_extensive(void);

static inline struct method_metrics *method_metrics_of(const struct method *method)
{
    return &method_metrics[method - methods];
}

enum { CLIENT_VERSIONS_MAX = 64, CLIENT_VERSION_LEN_MAX = 64 };

/* Counts a call of a client that calls its API version so (from metadata, any bytes that are
 * UTF-8). Versions that are too many or too long are counted as "other", so that a client can't
 * fill the memory. */
void grpc_metrics_client_request(bool stream, struct bytes version);
