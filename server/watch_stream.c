/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a client asks of its stream: watchers, cancellations, progress. Answers are queued here, in
 * the order of the questions, and before any event of their watcher.
 *
 * Ids: 0 asks for the next free one, counted per stream; any other, also a negative one, is taken
 * as it is, unless the stream has it. A watcher that a compaction has overtaken keeps its id until
 * it is canceled, and is answered `canceled` then once more, as in etcd.
 *
 * Progress notifications: every interval (lengthened by up to a tenth, at random, once a stream)
 * since the stream was opened, for each watcher that wants them, is in step at the head and has
 * sent no event since the last time.
 *
 * Thread: any; under the hub's lock.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/server_metrics.h"
#include "server/watch_private.h"

#define REASON_COMPACTED "etcdserver: mvcc: required revision has been compacted"
#define REASON_EMPTY_RANGE "mvcc: watcher range is empty"
#define REASON_DUPLICATE_ID "mvcc: duplicate watch ID provided on the WatchStream"

static int64_t published(const struct watch_hub *h)
{
    return atomic_load_explicit(&h->revision, memory_order_acquire);
}

static int64_t done(const struct watch_hub *h)
{
    return h->head.position - 1;
}

/* ---- streams ---- */

struct watch_stream *watch_stream_open(struct watch_hub *h, void (*ready)(void *arg), void *arg)
{
    struct watch_stream *s = mem_new(struct watch_stream);

    s->hub = h;
    s->ready = ready;
    s->arg = arg;
    list_init(&s->parked);
    pthread_mutex_init(&s->lock, NULL);
    s->last = &s->first;
    s->armed = true;
    s->opened_ns = clock_mono_ns();
    atomic_store(&h->ring_wanted, true);
    atomic_fetch_add(&h->n_streams, 1);
    watch_lock(h);
    s->tick_ns = (uint64_t)h->o.progress_interval_ns +
                 rng_below(&h->rng, (uint64_t)h->o.progress_interval_ns / 10 + 1);
    list_push(&h->streams, &s->link);
    watch_unlock(h);
    metric_gauge_add(&metric_watch_streams, 1);
    return s;
}

static void watcher_free(struct watcher *w)
{
    watcher_leave(w);
    watch_interest_unref(w->interest);
    free(w);
    metric_gauge_add(&metric_watchers, -1);
}

void watch_stream_close(struct watch_stream *s)
{
    struct watch_hub *h = s->hub;
    struct watcher *w;
    size_t at = 0;

    watch_lock(h);
    while ((w = map_u64_next(&s->watchers, &at, NULL)))
        watcher_free(w);
    map_u64_deinit(&s->watchers);
    list_remove(&s->link);
    list_remove(&s->call_link);
    list_remove(&s->progress_link);
    list_remove(&s->wait_link);
    heap_remove(&h->ticks, &s->tick);
    pthread_mutex_lock(&h->bell.lock);
    list_remove(&s->room_link);
    pthread_mutex_unlock(&h->bell.lock);
    watch_unlock(h);
    watch_queue_drop(s); /* ends its turn */
    pthread_mutex_destroy(&s->lock);
    atomic_fetch_sub(&h->n_streams, 1);
    metric_gauge_add(&metric_watch_streams, -1);
    free(s);
}

/* ---- creating and canceling ---- */

static void refuse(struct watch_stream *s, const char *reason)
{
    watch_push_answer(s, &(struct watch_response){.id = WATCH_ID_NONE,
                                                  .revision = published(s->hub),
                                                  .created = true,
                                                  .canceled = true,
                                                  .cancel_reason = reason});
}

void watch_refuse(struct watch_stream *s, const char *reason)
{
    watch_lock(s->hub);
    refuse(s, reason);
    watch_unlock(s->hub);
}

static int64_t free_id(struct watch_stream *s)
{
    while (map_u64_get(&s->watchers, (uint64_t)s->next_id))
        s->next_id++;
    return s->next_id++;
}

static struct watcher *watcher_new(struct watch_stream *s, const struct watch_request *q,
                                   const struct interval *interval)
{
    struct watcher *w = mem_new(struct watcher);
    unsigned flags = (q->no_put ? WATCH_NO_PUT : 0u) | (q->no_delete ? WATCH_NO_DELETE : 0u) |
                     (q->prev_kv ? WATCH_PREVIOUS : 0u);

    w->stream = s;
    w->interest = watch_interest_new(interval, (enum watch_flags)flags);
    w->id = q->id == WATCH_ID_AUTO ? free_id(s) : q->id;
    w->serial = ++s->hub->next_serial;
    w->start = q->start_revision;
    w->fragment = q->fragment;
    w->progress_notify = q->progress_notify;
    w->quiet = true;
    map_u64_put(&s->watchers, (uint64_t)w->id, w);
    metric_gauge_add(&metric_watchers, 1);
    return w;
}

/* The first multiple of its interval since it was opened that lies ahead. */
static void schedule_tick(struct watch_stream *s, uint64_t now_ns)
{
    uint64_t passed = (now_ns - s->opened_ns) / s->tick_ns;

    if (!heap_linked(&s->tick))
        heap_push(&s->hub->ticks, &s->tick, (int64_t)(s->opened_ns + (passed + 1) * s->tick_ns));
}

/* A head that lags must not show it what was before. */
static void place(struct watcher *w, int64_t revision)
{
    struct watch_hub *h = w->stream->hub;

    if (w->start == 0 || w->start > revision) {
        w->next = w->start > revision ? w->start : revision + 1;
        watcher_join(w, &h->head);
    } else {
        w->next = w->start;
        watcher_put_behind(w);
    }
}

static void create(struct watch_stream *s, const struct watch_request *q)
{
    struct bytes key = q->key.len > 0 ? q->key : bytes_of("", 1); /* the smallest key */
    struct interval interval = interval_parse(key, q->range_end);
    struct watch_hub *h = s->hub;
    int64_t revision = published(h);
    struct watcher *w;

    if (q->start_revision < 0) {
        refuse(s, REASON_COMPACTED);
    } else if (interval.kind == INTERVAL_EMPTY) {
        refuse(s, REASON_EMPTY_RANGE);
    } else if (q->id != WATCH_ID_AUTO && map_u64_get(&s->watchers, (uint64_t)q->id)) {
        refuse(s, REASON_DUPLICATE_ID);
    } else {
        w = watcher_new(s, q, &interval);
        watch_push_answer(
            s, &(struct watch_response){.id = w->id, .revision = revision, .created = true});
        place(w, revision);
        if (w->progress_notify)
            schedule_tick(s, clock_mono_ns());
        if (w->place != WATCHER_IN_STEP || w->progress_notify)
            watch_ring_bell(h);
    }
}

void watch_create(struct watch_stream *s, const struct watch_request *request)
{
    watch_lock(s->hub);
    create(s, request);
    watch_unlock(s->hub);
}

void watch_cancel(struct watch_stream *s, int64_t id)
{
    struct watcher *w;

    watch_lock(s->hub);
    w = map_u64_remove(&s->watchers, (uint64_t)id);
    if (w) {
        watch_push_answer(
            s, &(struct watch_response){.id = id, .revision = published(s->hub), .canceled = true});
        watcher_free(w);
        if (list_linked(&s->progress_link)) /* that watcher may be what it waited for */
            watch_ring_bell(s->hub);
    }
    watch_unlock(s->hub);
}

/* ---- room ---- */

void watch_stream_resume(struct watch_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->wants_round = false;
    pthread_mutex_unlock(&s->lock);
    while (!list_empty(&s->parked))
        watcher_put_behind(container_of(s->parked.next, struct watcher, link));
}

static struct watch_stream *room_pop(struct watch_hub *h)
{
    struct list *it;

    pthread_mutex_lock(&h->bell.lock);
    it = list_pop(&h->bell.room);
    pthread_mutex_unlock(&h->bell.lock);
    return it ? container_of(it, struct watch_stream, room_link) : NULL;
}

void watch_streams_resume(struct watch_hub *h)
{
    struct watch_stream *s;

    while ((s = room_pop(h))) {
        if (s->wants_round)
            watch_round_wait(s);
        else
            watch_stream_resume(s);
    }
}

void watch_streams_starved(struct watch_hub *h, uint64_t now_ms)
{
    if (!h->starved || now_ms - h->reclaimed_ms < WATCH_RECLAIM_MS)
        return;
    h->starved = false;
    h->reclaimed_ms = now_ms;
    watch_reclaim(h);
}

/* ---- progress ---- */

static bool in_step_at_head(const struct watcher *w)
{
    const struct watch_hub *h = w->stream->hub;

    return w->place == WATCHER_IN_STEP && w->cohort == &h->head && w->start <= done(h);
}

static void push_progress(struct watch_stream *s, int64_t id)
{
    watch_push_answer(s, &(struct watch_response){.id = id, .revision = done(s->hub)});
}

static void tick(struct watch_stream *s)
{
    struct watcher *w;
    size_t at = 0, n = 0;

    while ((w = map_u64_next(&s->watchers, &at, NULL))) {
        if (!w->progress_notify || w->place == WATCHER_COMPACTED)
            continue;
        n++;
        if (w->quiet && in_step_at_head(w) && !watch_stream_is_full(s))
            push_progress(s, w->id);
        w->quiet = true;
    }
    if (n > 0)
        schedule_tick(s, clock_mono_ns());
}

void watch_streams_tick(struct watch_hub *h, uint64_t now_ns)
{
    struct heap_node *n;

    while ((n = heap_top(&h->ticks)) && (uint64_t)n->key <= now_ns) {
        heap_remove(&h->ticks, n);
        tick(container_of(n, struct watch_stream, tick));
    }
}

/* False: asked again later. */
static bool answer_progress(struct watch_stream *s)
{
    struct watch_hub *h = s->hub;
    struct watcher *w;
    size_t at = 0;

    /* Who is asked while there is nobody must not answer when there is. */
    if (s->watchers.len == 0)
        return true;
    while ((w = map_u64_next(&s->watchers, &at, NULL)))
        if (w->place == WATCHER_COMPACTED || w->start > s->progress_from)
            return true;
    if (done(h) < s->progress_from || s->n_slow > 0)
        return false;
    push_progress(s, WATCH_ID_NONE);
    return true;
}

void watch_progress(struct watch_stream *s)
{
    watch_lock(s->hub);
    s->progress_from = published(s->hub);
    if (answer_progress(s)) {
        list_remove(&s->progress_link);
    } else {
        if (!list_linked(&s->progress_link))
            list_push(&s->hub->progress, &s->progress_link);
        watch_ring_bell(s->hub);
    }
    watch_unlock(s->hub);
}

void watch_streams_progress(struct watch_hub *h)
{
    list_for_each_safe (it, next, &h->progress) {
        if (answer_progress(container_of(it, struct watch_stream, progress_link)))
            list_remove(it);
    }
}
