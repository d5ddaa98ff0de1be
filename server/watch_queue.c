/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The responses of a stream: put into its queue by the hub, and taken back (watch_take.c: taken by
 * its consumer).
 *
 * The queue is a convenience, not the truth: events in it can be taken back at any time, because
 * their watcher then knows the revision to go on from. That is what bounds the memory of many
 * streams that don't read: when all together hold too much, those that have taken nothing since
 * the last time lose the events they were queued, and their watchers are parked. One response can
 * always be queued, for what stuck consumers hold in their hands nobody can take back, and who
 * reads must not wait for them; so a parked watcher has a consumer that will take. Answers
 * (created, canceled) stay; there are no more of them than requests, which the consumer stops to
 * read when watch_stream_is_full().
 *
 * Thread: under the hub's lock, the queue is under its stream's.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/server_metrics.h"
#include "server/watch_private.h"

/* ---- pieces ---- */

struct watch_piece *watch_piece_new(struct watch_stream *s, const struct watch_response *response)
{
    struct watch_piece *p = mem_alloc_raw(sizeof(*p));

    *p = (struct watch_piece){.response = *response, .hub = s->hub, .memory = s->hub->memory};
    if (!p->response.cancel_reason)
        p->response.cancel_reason = "";
    p->cost = sizeof(*p) + response->bytes;
    watch_memory_take(p->memory, sizeof(*p));
    return p;
}

struct watch_response *watch_response_free(struct watch_response *r)
{
    struct watch_piece *p = container_of(r, struct watch_piece, response);

    if (!r)
        return NULL;
    watch_batch_unref(p->batch);
    watch_memory_give(p->memory, sizeof(*p));
    free(p);
    return NULL;
}

/* ---- pushing ---- */

/* An answer takes a stream out of its round. Under both locks. */
static void call(struct watch_stream *s, bool crowded)
{
    if (!crowded) {
        list_remove(&s->call_link);
        list_push(&s->hub->to_call, &s->call_link);
    } else if (!list_linked(&s->call_link)) {
        watch_round_add(s);
    }
    s->armed = false;
}

static void push(struct watch_stream *s, struct watch_piece *p, bool crowded)
{
    p->next = NULL;
    *s->last = p;
    s->last = &p->next;
    s->bytes += p->cost;
    s->n_answers += !watch_piece_has_events(p);
    if (s->armed || (!crowded && list_linked(&s->call_link)))
        call(s, crowded);
}

void watch_push_answer(struct watch_stream *s, const struct watch_response *response)
{
    struct watch_piece *p = watch_piece_new(s, response);

    pthread_mutex_lock(&s->lock);
    push(s, p, false);
    pthread_mutex_unlock(&s->lock);
}

/* What the step has in hand doesn't count. */
static bool memory_is_short(const struct watch_hub *h, const struct watch_batch *b)
{
    return watch_memory_bytes(h->memory) >= h->o.bytes_max + h->scratch.slice.memory + b->own;
}

bool watch_push_events(struct watch_stream *s, struct watcher *w, struct watch_batch *b,
                       int64_t revision)
{
    struct watch_response response = {.id = w->id,
                                      .revision = revision,
                                      .n_events = b->n_events,
                                      .events = b->events,
                                      .bytes = b->bytes,
                                      .memory = b->own + b->held};
    struct watch_piece *p;

    if (s->first && memory_is_short(s->hub, b)) {
        s->hub->starved = true;
        return false;
    }
    if (s->bytes >= s->hub->o.stream_bytes_max)
        return false;
    p = watch_piece_new(s, &response);
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    p->batch = b;
    p->serial = w->serial;
    p->fragment = w->fragment;
    w->quiet = false;
    s->step = s->hub->step;
    push(s, p, watch_is_crowded(w));
    return true;
}

bool watch_stream_is_full(struct watch_stream *s)
{
    bool full;

    pthread_mutex_lock(&s->lock);
    full = s->n_answers >= WATCH_ANSWERS_MAX;
    pthread_mutex_unlock(&s->lock);
    return full;
}

/* ---- taking back ---- */

/* What can be done without: not what was begun, or answers. */
static struct watch_piece *unlink_events(struct watch_stream *s)
{
    struct watch_piece *out = NULL, **last = &out, **at = &s->first;

    while (*at) {
        struct watch_piece *p = *at;
        if (p->begun || !(watch_piece_has_events(p) || watch_piece_is_progress(p))) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        s->bytes -= p->cost;
        s->n_answers -= !watch_piece_has_events(p);
        p->next = NULL;
        *last = p;
        last = &p->next;
    }
    s->last = at;
    return out;
}

/* Its watcher goes on from there. */
static void take_back(struct watch_stream *s, struct watch_piece *p)
{
    struct watcher *w = map_u64_get(&s->watchers, (uint64_t)p->response.id);

    metric_gauge_add(&metric_pending_events, -(double)p->response.n_events);
    if (!w || w->serial != p->serial || w->place == WATCHER_COMPACTED)
        return;
    int64_t first = p->response.events[0].revision;
    if (w->place == WATCHER_PARKED && w->next <= first)
        return;
    watcher_park(w);
    w->next = first;
}

static void owe_progress(struct watch_stream *s, const struct watch_piece *p)
{
    if (p->response.id != WATCH_ID_NONE || list_linked(&s->progress_link))
        return;
    s->progress_from = p->response.revision;
    list_push(&s->hub->progress, &s->progress_link);
}

static void reclaim(struct watch_stream *s)
{
    struct watch_piece *p, *next;

    pthread_mutex_lock(&s->lock);
    p = s->taken ? NULL : unlink_events(s);
    s->taken = false;
    for (; p; p = next) {
        next = p->next;
        if (watch_piece_has_events(p))
            take_back(s, p);
        else
            owe_progress(s, p);
        watch_response_free(&p->response);
    }
    pthread_mutex_unlock(&s->lock);
}

void watch_reclaim(struct watch_hub *h)
{
    list_for_each (it, &h->streams)
        reclaim(container_of(it, struct watch_stream, link));
}
