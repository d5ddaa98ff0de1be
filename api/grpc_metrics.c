/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters per method. Thread: registration by whoever starts first; counting is relaxed atomics.
 * The client versions are the only label set that grows: under a mutex, up to CLIENT_VERSIONS_MAX;
 * each thread remembers the version it saw last.
 */
#include "api/grpc_metrics.h"

#include <pthread.h>

#include "base/check.h"
#include "base/mem.h"

struct method_metrics method_metrics[METHOD_COUNT];
struct metric grpc_metrics_received_bytes;
struct metric grpc_metrics_sent_bytes;

static struct metric_family started = {.name = "grpc_server_started_total",
                                       .help = "Total number of RPCs started on the server.",
                                       .kind = METRIC_COUNTER};
static struct metric_family handled = {
    .name = "grpc_server_handled_total",
    .help = "Total number of RPCs completed on the server, regardless of success or failure.",
    .kind = METRIC_COUNTER};
static struct metric_family received = {
    .name = "grpc_server_msg_received_total",
    .help = "Total number of RPC stream messages received on the server.",
    .kind = METRIC_COUNTER};
static struct metric_family sent = {.name = "grpc_server_msg_sent_total",
                                    .help =
                                        "Total number of gRPC stream messages sent by the server.",
                                    .kind = METRIC_COUNTER};
static struct metric_family seconds = {.name = "grpc_server_handling_seconds",
                                       .help =
                                           "Histogram of response latency (seconds) of gRPC that "
                                           "had been application-level handled by the server.",
                                       .kind = METRIC_HISTOGRAM,
                                       .bounds = metric_bounds_default,
                                       .n_bounds = sizeof(metric_bounds_default) / sizeof(double)};
static struct metric_family received_bytes = {
    .name = "etcd_network_client_grpc_received_bytes_total",
    .help = "The total number of bytes received from grpc clients.",
    .kind = METRIC_COUNTER};
static struct metric_family sent_bytes = {.name = "etcd_network_client_grpc_sent_bytes_total",
                                          .help = "The total number of bytes sent to grpc clients.",
                                          .kind = METRIC_COUNTER};
static struct metric_family client_requests = {
    .name = "etcd_server_client_requests_total",
    .help = "The total number of client requests per client version.",
    .kind = METRIC_COUNTER};

static bool registered;
static bool extensive_metrics;

static void register_method(const struct method *method)
{
    struct method_metrics *m = method_metrics_of(method);
    struct bytes service = method_service(method), name = method_name(method);
    const char *labels = mem_printf("grpc_method=\"%.*s\",grpc_service=\"%.*s\",grpc_type=\"%s\"",
                                    (int)name.len, (const char *)name.data, (int)service.len,
                                    (const char *)service.data, method_type_name(method->type));
    metrics_register_labelled(&started, &m->started, labels);
    metrics_register_labelled(&received, &m->received, labels);
    metrics_register_labelled(&sent, &m->sent, labels);
    if (extensive_metrics)
        metrics_register_labelled(&seconds, &m->seconds, labels);
    for (enum status_code code = 0; code < STATUS_CODE_COUNT; code++)
        metrics_register_labelled(
            &handled, &m->handled[code],
            mem_printf("grpc_code=\"%s\",%s", status_code_name(code), labels));
}

void grpc_metrics_register(bool extensive)
{
    if (registered)
        return;
    registered = true;
    extensive_metrics = extensive;
    for (size_t i = 0; i < METHOD_COUNT; i++)
        register_method(&methods[i]);
    metrics_register(&received_bytes, &grpc_metrics_received_bytes);
    metrics_register(&sent_bytes, &grpc_metrics_sent_bytes);
}

bool grpc_metrics_extensive(void)
{
    return extensive_metrics;
}

/* ---- client versions ---- */

struct client_version {
    struct bytes version;
    struct metric calls[2]; /* unary, stream */
    bool registered[2];
};

static pthread_mutex_t versions_lock = PTHREAD_MUTEX_INITIALIZER;
static struct client_version *versions[CLIENT_VERSIONS_MAX];
static size_t n_versions;

static struct client_version *version_find(struct bytes version)
{
    for (size_t i = 0; i < n_versions; i++)
        if (bytes_equal(versions[i]->version, version))
            return versions[i];
    if (version.len > CLIENT_VERSION_LEN_MAX || n_versions >= CLIENT_VERSIONS_MAX - 1) {
        if (!bytes_equal(version, BYTES_LIT("other")))
            return version_find(BYTES_LIT("other"));
    }
    struct client_version *v = mem_new(struct client_version);
    uint8_t *copy = mem_alloc(version.len + 1);
    memcpy(copy, version.data, version.len);
    v->version = bytes_of(copy, version.len);
    versions[n_versions++] = v;
    return v;
}

static const char *version_labels(struct bytes version, bool stream)
{
    struct buf b = BUF_NULL;
    buf_append_str(&b, "client_api_version=\"");
    for (size_t i = 0; i < version.len; i++) {
        uint8_t c = version.data[i];
        if (c == '\n')
            buf_append_str(&b, "\\n");
        else if (c == '"' || c == '\\')
            buf_printf(&b, "\\%c", c);
        else
            buf_append_u8(&b, c);
    }
    buf_printf(&b, "\",type=\"%s\"", stream ? "stream" : "unary");
    buf_cstr(&b);
    return (const char *)buf_take(&b).data;
}

void grpc_metrics_client_request(bool stream, struct bytes version)
{
    static _Thread_local struct client_version *last[2];
    struct client_version *v = last[stream];
    if (!v || !bytes_equal(v->version, version)) {
        check(pthread_mutex_lock(&versions_lock) == 0);
        v = version_find(version);
        if (!v->registered[stream])
            metrics_register_labelled(&client_requests, &v->calls[stream],
                                      version_labels(v->version, stream));
        v->registered[stream] = true;
        check(pthread_mutex_unlock(&versions_lock) == 0);
        last[stream] = v;
    }
    metric_add(&v->calls[stream], 1);
}
