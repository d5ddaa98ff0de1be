/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's requests to other members (struct transport_fetch): one URL after the other, until
 * one answers, whatever it answers.
 *
 * A member that takes connections and says nothing must not use up the time of those behind it:
 * each URL gets its part of what is left.
 *
 * Thread: the loop; peer_fetch() any.
 */
#include "api/peer_private.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

struct fetch {
    struct peer_task task;
    struct peer *peer;
    struct list link;
    struct transport_fetch *f;
    struct peer_call call;
    struct peer_timer timer; /* of the URL at hand */
    size_t next;             /* URL */
    uint64_t deadline_ms;
};

static void fetch_end(struct fetch *k)
{
    struct transport_fetch *f = k->f;

    list_remove(&k->link);
    atomic_fetch_sub(&k->peer->n_fetches, 1);
    peer_timer_clear(&k->peer->loop, &k->timer);
    peer_call_cancel(&k->call);
    free(k);
    f->private = NULL;
    f->done(f);
}

static void answer_take(struct fetch *k)
{
    const struct http_response *head = &k->call.reply.head;
    struct bytes id;

    k->f->status = head->status;
    if (!http_header_find(head->headers, "X-Etcd-Cluster-ID", &id) ||
        !peer_id_parse(id, &k->f->cluster_id))
        k->f->cluster_id = 0;
    buf_append_bytes(&k->f->answer, buf_bytes(&k->call.answer));
}

static bool url_read(const char *text, struct url_list *ret)
{
    char *error = NULL;
    bool ok = url_list_parse(text, ret, &error) == 0;

    free(error);
    if (ok && ret->len != 1)
        url_list_deinit(ret);
    return ok && ret->len == 1;
}

static void url_try(struct fetch *k, const struct url *url)
{
    const struct transport_fetch *f = k->f;
    bool is_get = strcmp(f->method, "GET") == 0;
    uint64_t bytes_max = f->answer_bytes_max ? f->answer_bytes_max : TRANSPORT_ANSWER_BYTES_MAX;
    struct peer_request request = {.method = f->method,
                                   .path = bytes_str(f->path),
                                   .content_type = f->content_type,
                                   .authorization = f->authorization,
                                   .body = f->body.len > 0 || !is_get ? PEER_BODY_LENGTH
                                                                      : PEER_BODY_NONE,
                                   .body_bytes = f->body.len};

    peer_call_start(&k->call, &k->peer->pool,
                    &(struct peer_call_options){.url = url,
                                                .request = request,
                                                .body = f->body,
                                                .dial_ms = f->timeout_ms,
                                                .answer_ms = f->timeout_ms,
                                                .answer_bytes_max = bytes_max,
                                                .reuse = true,
                                                /* A change may have been made at the first time. */
                                                .repeat = is_get});
}

/* The next URL that is one; or the end. */
static void fetch_go_on(struct fetch *k)
{
    struct transport_fetch *f = k->f;
    uint64_t now_ms = clock_mono_ms();
    struct url_list urls = {NULL, 0};

    while (k->next < f->n_urls && now_ms < k->deadline_ms) {
        uint64_t part_ms = (k->deadline_ms - now_ms) / (f->n_urls - k->next);
        if (url_read(f->urls[k->next++], &urls)) {
            url_try(k, &urls.items[0]);
            peer_timer_set(&k->peer->loop, &k->timer, now_ms + part_ms);
            url_list_deinit(&urls);
            return;
        }
    }
    fetch_end(k);
}

static void part_over(struct peer_timer *timer)
{
    struct fetch *k = container_of(timer, struct fetch, timer);

    peer_call_cancel(&k->call);
    fetch_go_on(k);
}

static void call_done(struct peer_call *call, const char *error)
{
    struct fetch *k = container_of(call, struct fetch, call);

    if (error) {
        log_debug("a request to another member failed", LOG_STR("path", k->f->path),
                  LOG_STR("url", k->f->urls[k->next - 1]), LOG_STR("error", error));
        fetch_go_on(k);
        return;
    }
    answer_take(k);
    fetch_end(k);
}

static void fetch_run(struct peer_task *task)
{
    struct fetch *k = container_of(task, struct fetch, task);

    list_push(&k->peer->fetches, &k->link);
    fetch_go_on(k);
}

void peer_fetch(struct transport *t, struct transport_fetch *f)
{
    struct peer *p = container_of(t, struct peer, transport);

    f->status = 0;
    f->cluster_id = 0;
    f->answer = BUF_NULL;
    pthread_rwlock_rdlock(&p->links_lock);
    bool taken = !atomic_load(&p->stopped) && atomic_load(&p->n_fetches) < PEER_FETCHES_MAX;
    if (taken) {
        struct fetch *k = mem_new(struct fetch);
        *k = (struct fetch){.task = {.run = fetch_run},
                            .peer = p,
                            .f = f,
                            .call = {.done = call_done},
                            .timer = {.expired = part_over},
                            .deadline_ms = clock_mono_ms() + f->timeout_ms};
        f->private = k;
        atomic_fetch_add(&p->n_fetches, 1);
        peer_loop_post(&p->loop, &k->task);
    }
    pthread_rwlock_unlock(&p->links_lock);
    if (!taken)
        f->done(f);
}

void peer_fetch_stop(struct peer *p)
{
    while (!list_empty(&p->fetches))
        fetch_end(container_of(p->fetches.next, struct fetch, link));
}
