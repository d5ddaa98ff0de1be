/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The checks and their texts. Owns: the metrics of health checks. etcd runs a set's checks in the
 * random order of a Go map; here the order is that of the table. A series of
 * etcd_server_healthcheck appears with the first run of its check, as etcd's do.
 *
 * Thread: the HTTP side's.
 */
#include "api/http_health.h"

#include <stdio.h>

#include "api/http_parse.h"
#include "api/status.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "rpc.pb-c.h"

enum check_kind {
    CHECK_CORRUPT,
    CHECK_SERIALIZABLE,
    CHECK_LINEARIZABLE,
    CHECK_LEARNER,
    CHECK_COUNT
};

#define BIT(check) (1u << (check))

static const char *const check_names[CHECK_COUNT] = {"data_corruption", "serializable_read",
                                                     "linearizable_read", "non_learner"};
static const char *const kind_names[] = {"health", "livez", "readyz"};

static struct metric_family success_family = {.name = "etcd_server_health_success",
                                              .help =
                                                  "The total number of successful health checks",
                                              .kind = METRIC_COUNTER};
static struct metric_family failures_family = {.name = "etcd_server_health_failures",
                                               .help = "The total number of failed health checks",
                                               .kind = METRIC_COUNTER};
static struct metric_family gauge_family = {.name = "etcd_server_healthcheck",
                                            .help = "The result of each kind of healthcheck.",
                                            .kind = METRIC_GAUGE};
static struct metric_family counter_family = {.name = "etcd_server_healthchecks_total",
                                              .help =
                                                  "The total number of each kind of healthcheck.",
                                              .kind = METRIC_COUNTER};

static struct metric success, failures;
static struct metric gauges[3][CHECK_COUNT], counters[3][CHECK_COUNT][2];
static bool gauge_made[3][CHECK_COUNT], counter_made[3][CHECK_COUNT][2];
static char gauge_labels[3][CHECK_COUNT][64], counter_labels[3][CHECK_COUNT][2][96];

void health_metrics_register(void)
{
    metrics_register(&success_family, &success);
    metrics_register(&failures_family, &failures);
}

static void check_record(enum health_kind kind, enum check_kind check, bool ok)
{
    if (!gauge_made[kind][check]) {
        snprintf(gauge_labels[kind][check], sizeof(gauge_labels[0][0]), "name=\"%s\",type=\"%s\"",
                 check_names[check], kind_names[kind]);
        metrics_register_labelled(&gauge_family, &gauges[kind][check], gauge_labels[kind][check]);
        gauge_made[kind][check] = true;
    }
    if (!counter_made[kind][check][ok]) {
        snprintf(counter_labels[kind][check][ok], sizeof(counter_labels[0][0][0]),
                 "name=\"%s\",status=\"%s\",type=\"%s\"", check_names[check],
                 ok ? "success" : "error", kind_names[kind]);
        metrics_register_labelled(&counter_family, &counters[kind][check][ok],
                                  counter_labels[kind][check][ok]);
        counter_made[kind][check][ok] = true;
    }
    metric_set(&gauges[kind][check], ok);
    metric_add(&counters[kind][check][ok], 1);
}

/* ---- asking ---- */

static unsigned checks_of(enum health_kind kind)
{
    if (kind == HEALTH_LIVEZ)
        return BIT(CHECK_SERIALIZABLE);
    return kind == HEALTH_READYZ ? BIT(CHECK_COUNT) - 1 : 0;
}

static unsigned check_find(const char *name, unsigned among)
{
    for (unsigned i = 0; i < CHECK_COUNT; i++) {
        if ((among & BIT(i)) && strcmp(name, check_names[i]) == 0)
            return BIT(i);
    }
    return 0;
}

static void exclude(struct health *h, const char *name)
{
    unsigned bit = check_find(name, checks_of(h->kind));

    if (h->kind == HEALTH_HEALTH) {
        h->exclude_no_space |= strcmp(name, "NOSPACE") == 0;
        h->exclude_corrupt |= strcmp(name, "CORRUPT") == 0;
    } else if (!bit && *name) {
        log_warn("some health checks cannot be excluded", LOG_STR("missing-health-checks", name));
    } else {
        h->total &= ~bit;
    }
}

static void query_apply(struct health *h, struct bytes query, bool single)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL, value = BUF_NULL;
    bool has_serializable = false;
    size_t pos = 0;

    while (http_query_next(query, &pos, &key, &value)) {
        const char *name = buf_cstr(&key), *text = buf_cstr(&value);
        h->verbose |= strcmp(name, "verbose") == 0;
        if (strcmp(name, "exclude") == 0 && !single)
            exclude(h, text);
        if (strcmp(name, "serializable") == 0 && !has_serializable) {
            has_serializable = true;
            h->serializable = strcmp(text, "true") == 0;
        }
    }
}

bool health_check_exists(const char *set, const char *name)
{
    return check_find(
        name, checks_of(strcmp(set, kind_names[HEALTH_LIVEZ]) == 0 ? HEALTH_LIVEZ : HEALTH_READYZ));
}

void health_begin(struct health *h, enum health_kind kind, const char *name, struct bytes query,
                  void (*finish)(struct request *request, enum outcome outcome))
{
    unsigned total = *name ? check_find(name, checks_of(kind)) : checks_of(kind);

    check(total || kind == HEALTH_HEALTH);
    *h = (struct health){.kind = kind,
                         .total = total,
                         .status = 200,
                         .request = {.kind = REQUEST_READ_INDEX, .finish = finish}};
    query_apply(h, query, *name);
    h->checks = h->total;
}

void health_deinit(struct health *h)
{
    buf_deinit(&h->text);
    buf_deinit(&h->request.response);
}

/* ---- reading ---- */

/* A read of one key from local state, the smallest that touches the store. */
static enum outcome read_local(struct server *server)
{
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    _cleanup_(buf_deinit) struct buf response = BUF_NULL;
    uint8_t key[] = "health";

    range.key.data = key;
    range.key.len = sizeof(key) - 1;
    range.limit = 1;
    range.keys_only = true;
    range.serializable = true;
    return server_range(server, &range, &response);
}

/* The server puts its own deadline on it, as etcd's ReqTimeout(). */
static int read_linearizable(struct health *h, struct server *server)
{
    server_read_index(server, &h->request);
    return HEALTH_WAIT;
}

static const char *outcome_text(enum outcome outcome)
{
    return outcome == OUTCOME_DEADLINE ? "context deadline exceeded" : status_of(outcome)->text;
}

/* ---- /livez and /readyz ---- */

static void check_done(struct health *h, enum check_kind check, const char *error)
{
    h->checks &= ~BIT(check);
    if (error) {
        buf_printf(&h->text, "[-]%s failed: %s\n", check_names[check], error);
        h->failed |= BIT(check);
    } else {
        buf_printf(&h->text, "[+]%s ok\n", check_names[check]);
    }
    check_record(h->kind, check, !error);
}

static int set_run(struct health *h, struct server *server)
{
    struct server_info info;

    server_info(server, &info);
    if (h->checks & BIT(CHECK_CORRUPT))
        check_done(h, CHECK_CORRUPT, info.corrupt_alarm ? "alarm activated: CORRUPT" : NULL);
    if (h->checks & BIT(CHECK_SERIALIZABLE)) {
        enum outcome outcome = read_local(server);
        check_done(h, CHECK_SERIALIZABLE, outcome ? outcome_text(outcome) : NULL);
    }
    if (h->checks & BIT(CHECK_LINEARIZABLE))
        return read_linearizable(h, server);
    if (h->checks & BIT(CHECK_LEARNER))
        check_done(h, CHECK_LEARNER, info.is_learner ? "not supported for learner" : NULL);
    return 0;
}

static void set_finish(struct health *h)
{
    if (h->failed) {
        h->status = 503;
        log_error("Health check error", LOG_STR("path", kind_names[h->kind]),
                  LOG_STR("reason", buf_cstr(&h->text)), LOG_I64("status-code", h->status));
        buf_append_str(&h->text, "\n");
        return;
    }
    if (!h->verbose)
        buf_clear(&h->text);
    buf_append_str(&h->text, "ok\n");
}

/* ---- /health ---- */

static void health_finish(struct health *h, const char *reason, const char *detail)
{
    buf_printf(&h->text, "{\"health\":\"%s\",\"reason\":\"%s%s\"}", reason ? "false" : "true",
               reason ? reason : "", detail);
    metric_add(reason ? &failures : &success, 1);
    if (!reason)
        return;
    h->status = 503;
    log_warn("/health error", LOG_STR("output", buf_cstr(&h->text)),
             LOG_I64("status-code", h->status));
    buf_append_str(&h->text, "\n");
}

static int health_run_one(struct health *h, struct server *server)
{
    struct server_info info;

    server_info(server, &info);
    if (info.no_space_alarm && !h->exclude_no_space)
        health_finish(h, "ALARM NOSPACE", "");
    else if (info.corrupt_alarm && !h->exclude_corrupt)
        health_finish(h, "ALARM CORRUPT", "");
    else if (!h->serializable && info.leader_id == 0)
        health_finish(h, "RAFT NO LEADER", "");
    else if (!h->serializable)
        return read_linearizable(h, server);
    else
        health_resume(h, server, OUTCOME_OK);
    return 0;
}

int health_run(struct health *h, struct server *server)
{
    if (h->kind == HEALTH_HEALTH)
        return h->text.len ? 0 : health_run_one(h, server);
    int r = set_run(h, server);
    if (r == 0)
        set_finish(h);
    return r;
}

void health_resume(struct health *h, struct server *server, enum outcome outcome)
{
    if (outcome == OUTCOME_OK)
        outcome = read_local(server);
    if (h->kind != HEALTH_HEALTH)
        check_done(h, CHECK_LINEARIZABLE, outcome ? outcome_text(outcome) : NULL);
    else if (outcome)
        health_finish(h, "RANGE ERROR:", outcome_text(outcome));
    else
        health_finish(h, NULL, "");
}
