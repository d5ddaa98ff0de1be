/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A consumer takes the next response of its stream. It may hold that for as long as its client
 * does not read, so what all of them hold is counted, and a response is cut to what its consumer
 * may have now:
 *
 *   taken by all ──> room(): a part of what is left ──> whole revisions, one at least
 *
 * A watcher that allows fragments gets, of what that leaves, the pieces that etcd would make: a
 * fragment's size is that of the whole message, header included, and one event at least.
 *
 * Short ones (taken_bytes_min) don't count: everybody may have one of these, and the counter is
 * fought over.
 *
 * Thread: the consumer's. Invariants:
 *  1. hub.taken is the sum of the streams' taken_bytes: of the one response that each has taken
 *     last and not given back by taking again, if it is not short.
 *  2. It exceeds taken_bytes_max by no more than one revision for each stream, or one fragment of
 *     what was begun.
 */
#include "server/server_metrics.h"
#include "server/watch_private.h"

/* ---- how much ---- */

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

/* How many bytes of events its consumer may take now. */
static size_t room(const struct watch_stream *s)
{
    enum { SHARE = 16 }; /* the part of what is left that one may have */
    const struct watch_hub *h = s->hub;
    size_t taken = atomic_load_explicit(&h->taken, memory_order_relaxed) - s->taken_bytes;
    size_t max = h->o.taken_bytes_max, share = taken < max ? (max - taken) / SHARE : 0;

    return share > h->o.taken_bytes_min ? share : h->o.taken_bytes_min;
}

/* How many of its events go now, whole revisions. */
static size_t revision_events(const struct watch_piece *p, size_t max)
{
    const struct watch_response *r = &p->response;
    size_t n = 0, bytes = 0;

    if (r->bytes <= max)
        return r->n_events;
    for (size_t i = 0; i < r->n_events; i++) {
        if (i > 0 && r->events[i].revision != r->events[i - 1].revision)
            n = i;
        bytes += r->events[i].encoded.len;
        if (n > 0 && bytes > max)
            return n;
    }
    return r->n_events;
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

/* ---- cutting ---- */

/* A response of the first n events, which the rest does not have any more. */
static struct watch_piece *cut(struct watch_stream *s, struct watch_piece *p, size_t n)
{
    struct watch_response first = p->response;
    struct watch_piece *piece;

    first.n_events = n;
    first.bytes = 0;
    for (size_t i = 0; i < n; i++)
        first.bytes += first.events[i].encoded.len;
    piece = watch_piece_new(s, &first);
    piece->batch = p->batch;
    piece->serial = p->serial;
    piece->fragment = p->fragment;
    atomic_fetch_add_explicit(&p->batch->refs, 1, memory_order_relaxed);
    p->response.events += n;
    p->response.n_events -= n;
    p->response.bytes -= first.bytes;
    p->cost -= first.bytes;
    s->bytes -= first.bytes;
    return piece;
}

static struct watch_piece *cut_fragment(struct watch_stream *s, struct watch_piece *p, size_t n)
{
    struct watch_piece *piece = cut(s, p, n);

    piece->response.fragment = true;
    p->begun = true;
    return piece;
}

/* The first n events become a response of their own. */
static struct watch_piece *split(struct watch_stream *s, struct watch_piece *p, size_t n)
{
    struct watch_piece *piece = cut(s, p, n);

    piece->next = p;
    s->first = piece;
    s->bytes += piece->cost;
    return piece;
}

/* ---- taking ---- */

static struct watch_piece *pop(struct watch_stream *s)
{
    struct watch_piece *p = s->first;

    s->first = p->next;
    if (!s->first)
        s->last = &s->first;
    s->bytes -= p->cost;
    s->n_answers -= !watch_piece_has_events(p);
    return p;
}

static bool is_short(const struct watch_piece *p)
{
    return p->response.bytes <= p->hub->o.taken_bytes_min;
}

static void set_taken(struct watch_stream *s, size_t bytes)
{
    if (bytes == s->taken_bytes)
        return;
    atomic_fetch_add_explicit(&s->hub->taken, bytes - s->taken_bytes, memory_order_relaxed);
    s->taken_bytes = bytes;
}

/* Something is there to follow. A notification may be taken back for good; events come again, or
 * their watcher's end. */
static bool has_more(const struct watch_stream *s)
{
    return s->first && !watch_piece_is_progress(s->first);
}

/* Takes the first response as far as it goes now. */
static struct watch_piece *take_first(struct watch_stream *s)
{
    struct watch_piece *p = s->first;
    bool whole = p->begun || is_short(p);
    size_t n = whole ? p->response.n_events : revision_events(p, room(s));

    if (n < p->response.n_events)
        p = split(s, p, n);
    n = p->fragment ? fragment_events(p) : p->response.n_events;
    return n < p->response.n_events ? cut_fragment(s, p, n) : pop(s);
}

static struct watch_piece *take(struct watch_stream *s)
{
    struct watch_piece *p = s->first ? take_first(s) : NULL;

    s->taken = true;
    s->holds = p != NULL;
    s->taken_revision = atomic_load_explicit(&s->hub->revision, memory_order_relaxed);
    watch_turn_end(s);
    set_taken(s, p && !is_short(p) ? p->response.bytes : 0);
    if (p)
        p->response.more = has_more(s);
    return p;
}

/* More could be put into its queue (watch_push_events()). */
static bool has_room(const struct watch_stream *s)
{
    const struct watch_hub *h = s->hub;

    if (s->wants_round)
        return s->armed;
    return s->bytes <= h->o.stream_bytes_max / 2 &&
           (!s->first || watch_memory_bytes(h->memory) < h->o.bytes_max);
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
    if (s->has_parked && has_room(s))
        tell_room(s);
    pthread_mutex_unlock(&s->lock);
    if (!p)
        return NULL;
    if (watch_piece_has_events(p)) {
        metric_add(&metric_watch_events, p->response.n_events);
        metric_gauge_add(&metric_pending_events, -(double)p->response.n_events);
    }
    return &p->response;
}

void watch_queue_drop(struct watch_stream *s)
{
    pthread_mutex_lock(&s->lock);
    set_taken(s, 0);
    watch_turn_end(s);
    while (s->first) {
        struct watch_piece *p = pop(s);
        metric_gauge_add(&metric_pending_events, -(double)p->response.n_events);
        watch_response_free(&p->response);
    }
    pthread_mutex_unlock(&s->lock);
}
