/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes: a GET /raft/probing every 4 s says how long a round trip takes and how far the clocks are
 * apart. It is for the log and the metrics; nothing depends on it.
 *
 * Thread: the loop.
 */
#include "api/peer_private.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { REPORT_SOON_MS = 5000, REPORT_MS = 30000, ANSWER_BYTES_MAX = 4096 };
enum { NS_PER_S = 1000000000, YEAR_MIN = 1970, YEAR_MAX = 2200 };

#define ROUND_TRIPPER "ROUND_TRIPPER_RAFT_MESSAGE"

/* ---- the answer ---- */

/* RFC 3339, as Go prints times: "2026-11-28T15:04:05.999999999+01:00". */
static bool time_read(const char *text, int64_t *ret_ns)
{
    int64_t fraction = 0, unit = NS_PER_S, offset_s = 0;
    struct tm tm = {0};
    const char *c = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

    if (!c || tm.tm_year < YEAR_MIN - 1900 || tm.tm_year > YEAR_MAX - 1900)
        return false;
    if (*c == '.') {
        for (c++; *c >= '0' && *c <= '9'; c++) {
            unit /= 10;
            fraction += (*c - '0') * unit;
        }
    }
    if (*c != 'Z') {
        int hours, minutes;
        char sign;
        if (sscanf(c, "%c%2d:%2d", &sign, &hours, &minutes) != 3 || (sign != '+' && sign != '-'))
            return false;
        offset_s = (hours * 60 + minutes) * 60 * (sign == '-' ? -1 : 1);
    }
    *ret_ns = ((int64_t)timegm(&tm) - offset_s) * NS_PER_S + fraction;
    return true;
}

static bool answer_read(struct bytes body, int64_t *ret_then_ns)
{
    json_t *json = json_loadb((const char *)body.data, body.len, JSON_DISABLE_EOF_CHECK, NULL);
    const char *now = json_string_value(json_object_get(json, "Now"));
    bool ok = json_is_true(json_object_get(json, "OK")) && now && time_read(now, ret_then_ns);

    json_decref(json);
    return ok;
}

static void failed(struct peer_probe *p, const char *why)
{
    p->healthy = false;
    snprintf(p->why, sizeof(p->why), "%s", why);
    peer_link_url_failed(p->link, p->url);
}

static void answered(struct peer_probe *p, uint64_t round_trip_ns)
{
    int64_t then_ns, now_ns = (int64_t)clock_wall_ns();

    if (p->call.reply.head.status != 200) {
        failed(p, "got unexpected HTTP status code");
        return;
    }
    if (!answer_read(buf_bytes(&p->call.answer), &then_ns)) {
        failed(p, "not an answer to a probe");
        return;
    }
    p->healthy = true;
    p->why[0] = '\0';
    /* etcd's smoothing, one part in eight. */
    p->round_trip_ns = p->round_trip_ns
                           ? p->round_trip_ns - p->round_trip_ns / 8 + round_trip_ns / 8
                           : round_trip_ns;
    p->clock_ahead_ns = now_ns - then_ns - (int64_t)p->round_trip_ns / 2;
}

/* ---- probing ---- */

static void done(struct peer_call *call, const char *error)
{
    struct peer_probe *p = container_of(call, struct peer_probe, call);

    if (error)
        failed(p, error);
    else
        answered(p, clock_mono_ns() - p->sent_ns);
}

static void probe(struct peer_timer *timer)
{
    struct peer_probe *p = container_of(timer, struct peer_probe, next);
    struct peer *peer = p->link->peer;
    const struct url *url = peer_link_url(p->link);
    struct peer_request request = {.method = "GET", .path = BYTES_LIT("/raft/probing")};

    peer_timer_set(&peer->loop, &p->next, clock_mono_ms() + peer->timing.probe);
    if (p->call.active)
        return;
    free(p->url);
    p->url = mem_strdup(url->text);
    p->sent_ns = clock_mono_ns();
    peer_call_start(&p->call, &peer->pool,
                    &(struct peer_call_options){.url = url,
                                                .request = request,
                                                .dial_ms = peer_dial_ms(peer),
                                                .answer_ms = peer->timing.post,
                                                .answer_bytes_max = ANSWER_BYTES_MAX,
                                                .reuse = true,
                                                .repeat = true});
}

static void report(struct peer_timer *timer)
{
    struct peer_probe *p = container_of(timer, struct peer_probe, report);
    struct peer_link *link = p->link;
    int64_t apart_ns = p->clock_ahead_ns < 0 ? -p->clock_ahead_ns : p->clock_ahead_ns;

    if (!p->healthy)
        log_warn("prober detected unhealthy status", LOG_STR("round-tripper-name", ROUND_TRIPPER),
                 LOG_ID("remote-peer-id", link->id), LOG_DURATION("rtt", p->round_trip_ns),
                 LOG_STR("error", p->why));
    if (apart_ns > NS_PER_S)
        log_warn("prober found high clock drift", LOG_STR("round-tripper-name", ROUND_TRIPPER),
                 LOG_ID("remote-peer-id", link->id), LOG_DURATION("clock-drift", p->clock_ahead_ns),
                 LOG_DURATION("rtt", p->round_trip_ns));
    if (p->round_trip_ns)
        metric_observe(&link->metrics->round_trip, (double)p->round_trip_ns / NS_PER_S);
    peer_timer_set(&link->peer->loop, timer,
                   clock_mono_ms() + (p->healthy ? REPORT_MS : REPORT_SOON_MS));
}

/* ---- life ---- */

void peer_probe_init(struct peer_probe *p, struct peer_link *link)
{
    *p = (struct peer_probe){.link = link,
                             .call = {.done = done},
                             .next = {.expired = probe},
                             .report = {.expired = report}};
}

void peer_probe_start(struct peer_probe *p)
{
    uint64_t now_ms = clock_mono_ms();

    peer_timer_set(&p->link->peer->loop, &p->next, now_ms + p->link->peer->timing.probe);
    peer_timer_set(&p->link->peer->loop, &p->report, now_ms + REPORT_SOON_MS);
}

void peer_probe_deinit(struct peer_probe *p)
{
    peer_timer_clear(&p->link->peer->loop, &p->next);
    peer_timer_clear(&p->link->peer->loop, &p->report);
    peer_call_cancel(&p->call);
    free(p->url);
    p->url = NULL;
}
