/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A link: everything between this member and another (see peer_private.h), its URLs and whether it
 * is active.
 *
 * Active is a member since a stream was attached, dialled or a POST answered, until a dial, a read,
 * a write or a POST fails. Changes of the membership ask for it.
 *
 * Thread: the loop; active_since_ms and takes_tables are read by any.
 */
#include "api/peer_private.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum { LOG_INTERVAL_MS = 1000 };

const char *peer_stream_name(enum peer_stream_kind kind)
{
    return kind == PEER_STREAM_MSGAPP ? "stream MsgApp v2" : "stream Message";
}

/* ---- URLs ---- */

bool peer_urls_read(char *const *texts, size_t n, struct url_list *ret)
{
    struct url_list all = {.items = mem_alloc((n + 1) * sizeof(struct url))};

    for (size_t i = 0; i < n; i++) {
        struct url_list one = {NULL, 0};
        char *error = NULL;
        if (url_list_parse(texts[i], &one, &error) == 0 && one.len == 1 &&
            one.items[0].port_valid) {
            all.items[all.len++] = one.items[0];
            free(one.items);
            continue;
        }
        log_warn("passed over an unusable peer URL", LOG_STR("url", texts[i]),
                 LOG_STR("error", error ? error : "not one URL"));
        url_list_deinit(&one);
        free(error);
    }
    if (all.len == 0)
        url_list_deinit(&all);
    else
        *ret = all;
    return all.len > 0;
}

const struct url *peer_link_url(const struct peer_link *link)
{
    check(link->picked < link->urls.len);
    return &link->urls.items[link->picked];
}

void peer_link_url_failed(struct peer_link *link, const char *text)
{
    if (strcmp(peer_link_url(link)->text, text) == 0)
        link->picked = (link->picked + 1) % link->urls.len;
}

static bool urls_equal(const struct url_list *a, const struct url_list *b)
{
    bool equal = a->len == b->len;

    for (size_t i = 0; equal && i < a->len; i++)
        equal = strcmp(a->items[i].text, b->items[i].text) == 0;
    return equal;
}

/* What is under way goes on as it is; the next attempt goes to the first of the new ones. */
void peer_link_update(struct peer_link *link, struct url_list *urls)
{
    if (urls_equal(&link->urls, urls)) {
        url_list_deinit(urls);
        return;
    }
    url_list_deinit(&link->urls);
    link->urls = *urls;
    link->picked = 0;
    log_info("updated remote peer", LOG_ID("local-member-id", link->peer->identity.member_id),
             LOG_ID("updated-remote-peer-id", link->id));
}

/* ---- active or not ---- */

void peer_link_activate(struct peer_link *link)
{
    if (atomic_load(&link->active_since_ms) != 0)
        return;
    atomic_store(&link->active_since_ms, clock_mono_ms() | 1);
    metric_set(&link->metrics->active, 1);
    log_info("peer became active", LOG_ID("peer-id", link->id));
}

void peer_link_deactivate(struct peer_link *link, struct peer_failure f)
{
    char why[2 * PEER_ERROR_BYTES_MAX];

    if (atomic_load(&link->active_since_ms) == 0)
        return;
    atomic_store(&link->active_since_ms, 0);
    metric_set(&link->metrics->active, 0);
    metric_add(&link->metrics->disconnected, 1);
    snprintf(why, sizeof(why), "failed to %s %" PRIx64 " on %s (%s)", f.action, link->id, f.source,
             f.error);
    log_warn("peer became inactive (message send to peer failed)", LOG_ID("peer-id", link->id),
             LOG_STR("error", why));
}

bool peer_link_may_log(struct peer_link *link)
{
    uint64_t now_ms = clock_mono_ms();

    if (now_ms - link->logged_ms < LOG_INTERVAL_MS)
        return false;
    link->logged_ms = now_ms;
    return true;
}

/* ---- life ---- */

static void free_run(struct peer_task *task)
{
    struct peer_link *link = container_of(task, struct peer_link, free_task);

    peer_pipeline_deinit(&link->pipeline);
    url_list_deinit(&link->urls);
    free(link);
}

struct peer_link *peer_link_new(struct peer *p, uint64_t id, struct url_list *urls)
{
    struct peer_link *link = mem_new(struct peer_link);

    link->peer = p;
    link->id = id;
    link->urls = *urls;
    link->free_task.run = free_run;
    link->metrics = peer_metrics_of(p->identity.member_id, id);
    for (int kind = 0; kind < PEER_STREAMS; kind++) {
        peer_writer_init(&link->writers[kind], link, kind);
        peer_reader_init(&link->readers[kind], link, kind);
    }
    peer_pipeline_init(&link->pipeline, link);
    peer_probe_init(&link->probe, link);
    return link;
}

void peer_link_start(struct peer_link *link)
{
    check(link->is_member);
    for (int kind = 0; kind < PEER_STREAMS; kind++)
        peer_reader_start(&link->readers[kind]);
    peer_probe_start(&link->probe);
}

void peer_link_remove(struct peer_link *link)
{
    for (int kind = 0; kind < PEER_STREAMS; kind++) {
        peer_reader_deinit(&link->readers[kind]);
        peer_writer_deinit(&link->writers[kind]);
    }
    peer_probe_deinit(&link->probe);
    peer_pipeline_stop(&link->pipeline);
    metric_set(&link->metrics->active, 0);
    /* Behind what the pipeline may have posted: then nobody points here any more. */
    peer_loop_post(&link->peer->loop, &link->free_task);
}
