/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The responses of a stream: put into its queue by the hub, taken by its consumer.
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
 * Fragments are cut when they are taken. Their size is etcd's: that of the whole message, header
 * included, and one event at least.
 *
 * Thread: pushing under the hub's lock, taking the consumer's; the queue is under its stream's.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/server_metrics.h"
#include "server/watch_private.h"

/* ---- pieces ---- */

static struct watch_piece *piece_new(struct watch_stream *s, const struct watch_response *response)
{
    struct watch_piece *p = mem_alloc_raw(sizeof(*p));

    *p = (struct watch_piece){.response = *response, .hub = s->hub};
    if (!p->response.cancel_reason)
        p->response.cancel_reason = "";
    p->cost = sizeof(*p) + response->bytes;
    atomic_fetch_add_explicit(&s->hub->memory, sizeof(*p), memory_order_relaxed);
    return p;
}

struct watch_response *watch_response_free(struct watch_response *r)
{
    struct watch_piece *p = container_of(r, struct watch_piece, response);

    if (!r)
        return NULL;
    watch_batch_unref(p->batch);
    atomic_fetch_sub_explicit(&p->hub->memory, sizeof(*p), memory_order_relaxed);
    free(p);
    return NULL;
}

static bool has_events(const struct watch_piece *p)
{
    return p->response.n_events > 0;
}

/* ---- pushing ---- */

/* Under both locks. */
static void push(struct watch_stream *s, struct watch_piece *p)
{
    p->next = NULL;
    *s->last = p;
    s->last = &p->next;
    s->bytes += p->cost;
    s->n_answers += !has_events(p);
    if (s->armed && !list_linked(&s->call_link))
        list_push(&s->hub->to_call, &s->call_link);
    s->armed = false;
}

void watch_push_answer(struct watch_stream *s, const struct watch_response *response)
{
    struct watch_piece *p = piece_new(s, response);

    pthread_mutex_lock(&s->lock);
    push(s, p);
    pthread_mutex_unlock(&s->lock);
}

/* What the step has in hand doesn't count. */
static bool memory_is_short(const struct watch_hub *h, const struct watch_batch *b)
{
    size_t memory = atomic_load_explicit(&h->memory, memory_order_relaxed);

    return memory >= h->o.bytes_max + h->scratch.slice.memory + b->memory;
}

bool watch_push_events(struct watch_stream *s, struct watcher *w, struct watch_batch *b,
                       int64_t revision)
{
    struct watch_response response = {.id = w->id,
                                      .revision = revision,
                                      .n_events = b->n_events,
                                      .events = b->events,
                                      .bytes = b->bytes};
    struct watch_piece *p;

    if (s->first && memory_is_short(s->hub, b)) {
        s->hub->starved = true;
        return false;
    }
    if (s->bytes >= s->hub->o.stream_bytes_max)
        return false;
    p = piece_new(s, &response);
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    p->batch = b;
    p->serial = w->serial;
    p->fragment = w->fragment;
    w->quiet = false;
    push(s, p);
    return true;
}

/* ---- taking ---- */

static size_t field_size(uint64_t v)
{
    return v ? 1 + varint_size(v) : 0;
}

/* Of a WatchResponse of events but for these. */
static size_t frame_size(const struct watch_piece *p)
{
    const struct server_state *state = p->hub->o.state;
    size_t header = field_size(state->cluster_id) + field_size(state->member_id) +
                    field_size((uint64_t)p->response.revision) +
                    field_size(atomic_load_explicit(&state->term, memory_order_relaxed));

    return 1 + varint_size(header) + header + field_size((uint64_t)p->response.id);
}

static size_t event_size(const struct watch_event *e)
{
    return 1 + varint_size(e->encoded.len) + e->encoded.len;
}

/* How many events the next fragment has; all that are left: none is cut off. */
static size_t fragment_events(const struct watch_piece *p)
{
    enum { FRAGMENT_FIELD_BYTES = 2 };
    const struct watch_response *r = &p->response;
    size_t max = p->hub->o.response_bytes_max, size = frame_size(p), n;

    for (n = 0; n < r->n_events && size < max; n++)
        size += event_size(&r->events[n]);
    if (!p->begun && (size < max || r->n_events < 2))
        return r->n_events;
    size = frame_size(p) + FRAGMENT_FIELD_BYTES;
    for (n = 0; n < r->n_events; n++) {
        size += event_size(&r->events[n]);
        if (n > 0 && size >= max)
            break;
    }
    return n;
}

/* A response of the first n events, which the rest does not have any more. */
static struct watch_piece *cut(struct watch_stream *s, struct watch_piece *p, size_t n)
{
    struct watch_response first = p->response;
    struct watch_piece *piece;

    first.n_events = n;
    first.fragment = true;
    first.bytes = 0;
    for (size_t i = 0; i < n; i++)
        first.bytes += first.events[i].encoded.len;
    piece = piece_new(s, &first);
    piece->batch = p->batch;
    atomic_fetch_add_explicit(&p->batch->refs, 1, memory_order_relaxed);
    p->response.events += n;
    p->response.n_events -= n;
    p->response.bytes -= first.bytes;
    p->cost -= first.bytes;
    p->begun = true;
    s->bytes -= first.bytes;
    return piece;
}

static struct watch_piece *pop(struct watch_stream *s)
{
    struct watch_piece *p = s->first;

    s->first = p->next;
    if (!s->first)
        s->last = &s->first;
    s->bytes -= p->cost;
    s->n_answers -= !has_events(p);
    return p;
}

static struct watch_piece *take(struct watch_stream *s)
{
    struct watch_piece *p = s->first;
    size_t n;

    s->taken = true;
    if (!p)
        return NULL;
    n = p->fragment ? fragment_events(p) : p->response.n_events;
    return n < p->response.n_events ? cut(s, p, n) : pop(s);
}

/* Under the stream's lock. */
static void tell_room(struct watch_stream *s)
{
    struct watch_bell *bell = &s->hub->bell;

    s->has_parked = false;
    pthread_mutex_lock(&bell->lock);
    if (!list_linked(&s->room_link))
        list_push(&bell->room, &s->room_link);
    pthread_mutex_unlock(&bell->lock);
    watch_ring_bell(s->hub);
}

struct watch_response *watch_stream_take(struct watch_stream *s)
{
    struct watch_piece *p;

    pthread_mutex_lock(&s->lock);
    p = take(s);
    if (!p)
        s->armed = true;
    if (s->has_parked && s->bytes <= s->hub->o.stream_bytes_max / 2)
        tell_room(s);
    pthread_mutex_unlock(&s->lock);
    if (!p)
        return NULL;
    if (has_events(p)) {
        metric_add(&metric_watch_events, p->response.n_events);
        metric_gauge_add(&metric_pending_events, -(double)p->response.n_events);
    }
    return &p->response;
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

static bool is_progress(const struct watch_piece *p)
{
    return !has_events(p) && !p->response.created && !p->response.canceled;
}

/* What can be done without: not what was begun, or answers. */
static struct watch_piece *unlink_events(struct watch_stream *s)
{
    struct watch_piece *out = NULL, **last = &out, **at = &s->first;

    while (*at) {
        struct watch_piece *p = *at;
        if (p->begun || !(has_events(p) || is_progress(p))) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        s->bytes -= p->cost;
        s->n_answers -= !has_events(p);
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
    if (w->place == WATCHER_PARKED && w->next <= p->batch->first)
        return;
    watcher_park(w);
    w->next = p->batch->first;
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
        if (has_events(p))
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

void watch_queue_drop(struct watch_stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->first) {
        struct watch_piece *p = pop(s);
        metric_gauge_add(&metric_pending_events, -(double)p->response.n_events);
        watch_response_free(&p->response);
    }
    pthread_mutex_unlock(&s->lock);
}
