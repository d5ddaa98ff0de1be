/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds and turns. An event that a thousand streams want is a thousand messages, and the threads
 * that send them are those that answer puts. So a crowd, that is more than turns_max streams whose
 * watchers want the same, gets events in rounds, and is called in turns:
 *
 *   round  Each stream of a crowd gets events once, of one step, and only when it has taken all
 *          that it had. If more comes it is parked, and from then on costs a put nothing. Those who
 *          are parked go on together in the next round, so what came meanwhile is read once for all
 *          and is one response, short while there are writes (watch_round_bytes()). The next round
 *          begins when all of this one have been called and have taken, and not before ROUND_NS
 *          have passed, unless there was more than a response could carry.
 *   turn   turns_max streams are called at one time. The next ones are when these have taken, and
 *          after a pause, if something was written since the last time: TURNS_PAUSE times as long
 *          as they took. So an answer waits behind few messages, and these take the smaller part of
 *          the processor.
 *
 * One event in a quiet while is sent at once. A consumer that is called and does not come holds up
 * the others for TURNS_PATIENCE_NS.
 *
 * Thread: the hub's, under its lock; a turn ends on the consumer's, under its stream's lock.
 */
#include "base/clock.h"
#include "server/watch_private.h"

enum { TURNS_PAUSE = 7 };
#define ROUND_NS UINT64_C(5000000)
#define TURNS_PATIENCE_NS UINT64_C(100000000)
#define TURNS_PAUSE_MAX_NS UINT64_C(20000000)

bool watch_is_crowded(const struct watcher *w)
{
    const struct watch_hub *h = w->stream->hub;

    return w->interest->refs > h->o.turns_max &&
           atomic_load_explicit(&h->n_streams, memory_order_relaxed) > h->o.turns_max;
}

/* ---- turns ---- */

/* False: its consumer has come by itself. */
static bool give(struct watch_stream *s)
{
    struct watch_hub *h = s->hub;
    struct watch_turns *t = &h->turns;
    bool waits;

    pthread_mutex_lock(&s->lock);
    waits = !s->armed && !s->holds;
    if (waits) {
        s->has_turn = true;
        pthread_mutex_lock(&h->bell.lock);
        list_push(&t->given, &s->turn_link);
        t->n_given++;
        pthread_mutex_unlock(&h->bell.lock);
        list_push(&h->to_call, &s->call_link);
    }
    pthread_mutex_unlock(&s->lock);
    return waits;
}

void watch_turn_end(struct watch_stream *s)
{
    struct watch_hub *h = s->hub;
    bool ring = false;

    if (!s->has_turn)
        return;
    s->has_turn = false;
    pthread_mutex_lock(&h->bell.lock);
    if (list_linked(&s->turn_link)) {
        list_remove(&s->turn_link);
        ring = --h->turns.n_given == 0 && h->turns.awaited;
    }
    pthread_mutex_unlock(&h->bell.lock);
    if (ring)
        watch_ring_bell(h);
}

/* How many are called and have not taken. */
static size_t given(struct watch_hub *h, uint64_t now_ns)
{
    struct watch_turns *t = &h->turns;
    size_t n;

    pthread_mutex_lock(&h->bell.lock);
    if (now_ns >= t->given_ns + TURNS_PATIENCE_NS) {
        while (list_pop(&t->given))
            ;
        t->n_given = 0;
    }
    n = t->n_given;
    pthread_mutex_unlock(&h->bell.lock);
    return n;
}

static uint64_t pause_ns(const struct watch_hub *h, uint64_t took_ns)
{
    uint64_t ns = TURNS_PAUSE * took_ns;

    if (h->turns.revision == atomic_load(&h->revision))
        return 0;
    return ns < TURNS_PAUSE_MAX_NS ? ns : TURNS_PAUSE_MAX_NS;
}

/* True: streams may be called. */
static bool open(struct watch_hub *h, uint64_t now_ns)
{
    struct watch_turns *t = &h->turns;

    if (!t->closed)
        return true;
    if (given(h, now_ns) > 0)
        return false;
    if (t->open_ns == 0)
        t->open_ns = now_ns + pause_ns(h, now_ns - t->given_ns);
    t->closed = now_ns < t->open_ns;
    return !t->closed;
}

void watch_turns_give(struct watch_hub *h)
{
    struct watch_turns *t = &h->turns;
    size_t n;

    if (list_empty(&t->queued))
        return;
    uint64_t now_ns = clock_mono_ns();
    if (!open(h, now_ns))
        return;
    for (n = given(h, now_ns); n < h->o.turns_max && !list_empty(&t->queued);)
        n += give(container_of(list_pop(&t->queued), struct watch_stream, call_link));
    t->given_ns = now_ns;
    t->open_ns = 0;
    t->closed = n >= h->o.turns_max;
    t->revision = atomic_load(&h->revision);
}

/* ---- rounds ---- */

bool watch_round_may(const struct watch_stream *s)
{
    return s->armed && s->round != s->hub->turns.round;
}

void watch_round_add(struct watch_stream *s)
{
    struct watch_turns *t = &s->hub->turns;

    if (list_empty(&t->queued) && !t->began)
        t->round_ns = clock_mono_ns();
    t->began = true;
    s->round = t->round;
    list_push(&t->queued, &s->call_link);
}

void watch_round_wait(struct watch_stream *s)
{
    if (!list_linked(&s->wait_link))
        list_push(&s->hub->turns.waiting, &s->wait_link);
}

/* Short ones cost more an event, so they grow with what there is to catch up with, and need not be
 * short if nothing is written. Long ones for clients that do not read are not only for nothing: the
 * more comes, the larger a window gRPC's clients open. */
size_t watch_round_bytes(const struct watch_cohort *c)
{
    const struct watch_hub *h = c->hub;
    size_t behind = (size_t)(h->head.position - c->position), each;

    if (c->crowd == 0)
        return WATCH_SLICE_BYTES_MAX;
    each = WATCH_ROUND_BYTES / c->crowd;
    if (each < WATCH_ROUND_EACH_MIN)
        each = WATCH_ROUND_EACH_MIN;
    each *= 1 + behind / WATCH_ROUND_BEHIND;
    return watch_is_quiet(h) || each > WATCH_ROUND_EACH_MAX ? WATCH_ROUND_EACH_MAX : each;
}

static uint64_t round_end_ns(const struct watch_turns *t)
{
    return t->full ? t->round_ns : t->round_ns + ROUND_NS;
}

static bool is_over(struct watch_hub *h)
{
    struct watch_turns *t = &h->turns;
    uint64_t now_ns;

    if (!t->began)
        return true;
    if (!list_empty(&t->queued))
        return false;
    now_ns = clock_mono_ns();
    return now_ns >= round_end_ns(t) && given(h, now_ns) == 0;
}

void watch_round_begin(struct watch_hub *h)
{
    struct watch_turns *t = &h->turns;
    struct list *it;

    if (!is_over(h))
        return;
    t->round++;
    t->began = t->full = false;
    while ((it = list_pop(&t->waiting)))
        watch_stream_resume(container_of(it, struct watch_stream, wait_link));
}

uint64_t watch_turns_next_ns(struct watch_hub *h)
{
    struct watch_turns *t = &h->turns;
    bool any = (t->closed && !list_empty(&t->queued)) || !list_empty(&t->waiting);
    size_t n;

    pthread_mutex_lock(&h->bell.lock);
    t->awaited = any;
    n = t->n_given;
    pthread_mutex_unlock(&h->bell.lock);
    if (!any)
        return UINT64_MAX;
    if (n > 0)
        return t->given_ns + TURNS_PATIENCE_NS;
    return list_empty(&t->queued) ? round_end_ns(t) : t->open_ns;
}
