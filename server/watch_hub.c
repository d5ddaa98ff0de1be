/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub: what the apply turn tells it, and the turn of its own thread (see watch_hub.h; the parts
 * are in watch_private.h).
 *
 *   turn:  streams that have room again -> their watchers to cohorts -> a step of the head
 *          -> a step of one cohort that catches up -> notifications, owed progress, short memory
 *
 * The head comes first and between any two steps of others, so an event waits for one bounded step
 * at most, however many are behind. Cohorts take turns. Those far behind rest while there are
 * writes: their work, the consumers' and the clients' would take the processors from these. A rest
 * is REST_TIMES as long as the work was, unless that has not passed REST_GAIN times what came, for
 * each cohort: then there might be no end to it.
 *
 * The apply turn never takes the hub's lock: it copies into the ring, under the ring's own, and
 * rings the bell, both held for some instructions. With no stream open it does not even that.
 *
 * Thread: see watch_hub.h.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"
#include "base/mem.h"
#include "server/watch_private.h"

enum { REST_TIMES = 3, REST_GAIN = 4 };
#define REST_NS_MAX UINT64_C(100000000)

#define PROGRESS_INTERVAL_NS INT64_C(600000000000)
#define PROGRESS_INTERVAL_MIN_NS INT64_C(100000000)

static void set_defaults(struct watch_hub_options *o)
{
    if (o->ring_bytes == 0)
        o->ring_bytes = WATCH_RING_BYTES;
    if (o->stream_bytes_max == 0)
        o->stream_bytes_max = WATCH_STREAM_BYTES_MAX;
    if (o->bytes_max == 0)
        o->bytes_max = WATCH_BYTES_MAX;
    if (o->taken_bytes_max == 0)
        o->taken_bytes_max = WATCH_TAKEN_BYTES_MAX;
    if (o->taken_bytes_min == 0)
        o->taken_bytes_min = WATCH_TAKEN_BYTES_MIN;
    if (o->slice_events_max == 0)
        o->slice_events_max = WATCH_SLICE_EVENTS_MAX;
    if (o->turns_max == 0)
        o->turns_max = WATCH_TURNS_MAX;
    if (o->held_revisions_max == 0)
        o->held_revisions_max = WATCH_HELD_REVISIONS_MAX;
    if (o->near == 0)
        o->near = WATCH_NEAR;
    if (o->work_ns == 0)
        o->work_ns = WATCH_WORK_NS;
    if (o->progress_interval_ns <= 0)
        o->progress_interval_ns = PROGRESS_INTERVAL_NS;
    if (o->progress_interval_ns < PROGRESS_INTERVAL_MIN_NS)
        o->progress_interval_ns = PROGRESS_INTERVAL_MIN_NS;
}

static void publish(struct watch_hub *h)
{
    atomic_store_explicit(&h->compacted, mvcc_compacted(h->o.store->mvcc), memory_order_release);
    atomic_store_explicit(&h->revision, mvcc_revision(h->o.store->mvcc), memory_order_release);
}

struct watch_hub *watch_hub_new(const struct watch_hub_options *options)
{
    struct watch_hub *h = mem_new(struct watch_hub);

    h->o = *options;
    set_defaults(&h->o);
    rng_init(&h->rng, options->seed);
    h->memory = watch_memory_new();
    watch_ring_init(&h->ring, h->o.ring_bytes, h->memory);
    pthread_mutex_init(&h->lock, NULL);
    pthread_mutex_init(&h->bell.lock, NULL);
    cond_init(&h->bell.cond);
    list_init(&h->bell.room);
    list_init(&h->streams);
    list_init(&h->cohorts);
    list_init(&h->behind);
    list_init(&h->to_call);
    list_init(&h->progress);
    list_init(&h->turns.waiting);
    list_init(&h->turns.queued);
    list_init(&h->turns.given);
    publish(h);
    h->seen = atomic_load(&h->revision);
    watch_cohort_init(&h->head, h, atomic_load(&h->revision) + 1);
    h->wait_until_ns = UINT64_MAX;
    return h;
}

static void scratch_deinit(struct watch_scratch *s)
{
    watch_slice_deinit(&s->slice);
    free(s->touched);
    free(s->matches);
    free(s->past);
    free(s->versions);
    buf_deinit(&s->keys);
    buf_deinit(&s->values);
}

struct watch_hub *watch_hub_free(struct watch_hub *h)
{
    if (!h)
        return NULL;
    check(list_empty(&h->streams));
    while (!list_empty(&h->cohorts)) {
        struct watch_cohort *c = container_of(list_pop(&h->cohorts), struct watch_cohort, link);
        watch_cohort_deinit(c);
        free(c);
    }
    watch_cohort_deinit(&h->head);
    heap_deinit(&h->ticks);
    scratch_deinit(&h->scratch);
    watch_ring_deinit(&h->ring);
    pthread_cond_destroy(&h->bell.cond);
    pthread_mutex_destroy(&h->bell.lock);
    pthread_mutex_destroy(&h->lock);
    check(atomic_load(&h->taken) == 0);
    watch_memory_free(h->memory);
    free(h);
    return NULL;
}

void watch_unlock(struct watch_hub *h)
{
    struct list *it;

    while ((it = list_pop(&h->to_call))) {
        struct watch_stream *s = container_of(it, struct watch_stream, call_link);
        s->ready(s->arg);
    }
    pthread_mutex_unlock(&h->lock);
}

/* ---- the bell ---- */

void watch_ring_bell(struct watch_hub *h)
{
    struct watch_bell *bell = &h->bell;
    bool signal;

    pthread_mutex_lock(&bell->lock);
    bell->rung = true;
    signal = bell->waiting;
    bell->waiting = false;
    pthread_mutex_unlock(&bell->lock);
    if (signal)
        pthread_cond_signal(&bell->cond);
}

static bool sleep_until(struct watch_bell *bell, uint64_t until_ns)
{
    uint64_t now_ns = clock_mono_ns();

    if (until_ns == UINT64_MAX)
        return pthread_cond_wait(&bell->cond, &bell->lock) == 0;
    if (now_ns >= until_ns)
        return false;
    struct timespec ts = cond_until(until_ns - now_ns);
    return pthread_cond_timedwait(&bell->cond, &bell->lock, &ts) == 0;
}

void watch_hub_wait(struct watch_hub *h)
{
    struct watch_bell *bell = &h->bell;

    pthread_mutex_lock(&bell->lock);
    while (!h->more && !bell->rung && !bell->stop) {
        bell->waiting = true;
        if (!sleep_until(bell, h->wait_until_ns))
            break;
    }
    bell->waiting = false;
    bell->rung = false;
    pthread_mutex_unlock(&bell->lock);
}

void watch_hub_stop_waiting(struct watch_hub *h)
{
    pthread_mutex_lock(&h->bell.lock);
    h->bell.stop = true;
    pthread_cond_signal(&h->bell.cond);
    pthread_mutex_unlock(&h->bell.lock);
}

/* ---- the apply turn ---- */

void watch_hub_append(struct watch_hub *h, const struct mvcc_change *changes, size_t n)
{
    if (atomic_load_explicit(&h->ring_wanted, memory_order_acquire))
        watch_ring_append(&h->ring, changes, n);
}

void watch_hub_wake(struct watch_hub *h)
{
    publish(h);
    /* A stream that is not seen here sees the revision. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&h->n_streams, memory_order_acquire) > 0)
        watch_ring_bell(h);
}

void watch_hub_reset(struct watch_hub *h)
{
    watch_ring_clear(&h->ring);
    watch_hub_wake(h);
}

/* ---- those that catch up ---- */

static bool rests(struct watch_hub *h)
{
    if (h->rest.until_ns > 0 && clock_mono_ns() >= h->rest.until_ns)
        h->rest.until_ns = 0;
    return h->rest.until_ns > 0;
}

/* After a step that took so long. */
static void rest(struct watch_hub *h, uint64_t worked_ns)
{
    struct watch_rest *rest = &h->rest;
    int64_t revision = atomic_load(&h->revision), came = revision - rest->revision;
    int64_t n = h->n_cohorts > 0 ? (int64_t)h->n_cohorts : 1;
    uint64_t ns;

    rest->passed += h->passed;
    rest->worked_ns += worked_ns;
    if (rest->worked_ns < h->o.work_ns)
        return;
    ns = REST_TIMES * rest->worked_ns;
    if (!watch_is_quiet(h) && rest->passed / n >= REST_GAIN * came)
        rest->until_ns = clock_mono_ns() + (ns < REST_NS_MAX ? ns : REST_NS_MAX);
    rest->worked_ns = 0;
    rest->passed = 0;
    rest->revision = revision;
}

static int catch_up(struct watch_hub *h, struct watch_cohort *c)
{
    bool near = watch_is_near(h, c->position);
    uint64_t begun_ns = clock_thread_cpu_ns();
    int r;

    h->passed = 0;
    r = watch_cohort_step(h, c);
    if (!near)
        rest(h, clock_thread_cpu_ns() - begun_ns);
    return r;
}

/* The next one that may go on. */
static struct watch_cohort *next_cohort(struct watch_hub *h)
{
    bool all = !rests(h);

    list_for_each (it, &h->cohorts) {
        struct watch_cohort *c = container_of(it, struct watch_cohort, link);
        if (all || watch_is_near(h, c->position))
            return c;
    }
    return NULL;
}

/* ---- the turn ---- */

/* Whose turn it is to catch up; NULL: nobody's. */
static struct watch_cohort *prepare(struct watch_hub *h)
{
    struct watch_cohort *c;

    watch_lock(h);
    watch_streams_resume(h);
    watch_round_begin(h);
    watch_turns_give(h);
    watch_assign(h);
    c = next_cohort(h);
    if (c) { /* the others come first now */
        list_remove(&c->link);
        list_push(&h->cohorts, &c->link);
    }
    watch_unlock(h);
    return c;
}

static uint64_t wait_until_ns(struct watch_hub *h, uint64_t now_ns)
{
    const struct heap_node *tick = heap_top(&h->ticks);
    uint64_t reclaim_ns = now_ns + WATCH_RECLAIM_MS * UINT64_C(1000000);
    uint64_t until_ns = watch_turns_next_ns(h);

    if (tick && (uint64_t)tick->key < until_ns)
        until_ns = (uint64_t)tick->key;
    if (h->rest.until_ns > 0 && h->rest.until_ns < until_ns)
        until_ns = h->rest.until_ns;
    return h->starved && reclaim_ns < until_ns ? reclaim_ns : until_ns;
}

static void finish(struct watch_hub *h)
{
    int64_t revision = atomic_load(&h->revision);
    uint64_t now_ns = clock_mono_ns();

    if (revision != h->seen)
        h->written_ns = now_ns;
    h->seen = revision;
    watch_lock(h);
    watch_streams_tick(h, now_ns);
    watch_streams_starved(h, now_ns / 1000000);
    watch_streams_progress(h);
    h->more =
        h->head.position <= revision || next_cohort(h) || (!list_empty(&h->behind) && !rests(h));
    h->wait_until_ns = wait_until_ns(h, now_ns);
    watch_unlock(h);
}

int watch_hub_turn(struct watch_hub *h)
{
    struct watch_cohort *c = prepare(h);
    int r = watch_cohort_step(h, &h->head);

    if (r == 0 && c)
        r = catch_up(h, c);
    if (r < 0)
        return err_trace(r);
    finish(h);
    return h->more;
}
