/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One step of a cohort: the next slice of events to whoever in it wants them.
 *
 *   read      from the ring, or the store if the ring does not reach back; outside of the lock
 *   match     each event with the index, once: pairs of set and event, chained by set
 *   prev_kv   if a set wants it: read once per event, outside of the lock
 *   deliver   one batch a set, one response a watcher; no room in its stream, or not its turn: it
 *             is parked at the revision where the slice began
 *   move on   those who waited for the new position come into step; at the head the cohort ends
 *
 * A slice ends before the revision that the next watcher ahead waits for, so it comes into step in
 * time.
 *
 * Thread: the hub's.
 */
#include "base/check.h"
#include "base/mem.h"
#include "server/server_metrics.h"
#include "server/watch_private.h"

enum { NO_MATCH = UINT32_MAX };

/* ---- match ---- */

struct matching {
    struct watch_scratch *s;
    uint32_t event;
};

static void touch(struct watch_scratch *s, struct watch_set *set)
{
    set->touched = true;
    set->n_matches = 0;
    set->first_match = set->last_match = NO_MATCH;
    if (s->n_touched == s->cap_touched) {
        s->cap_touched = s->cap_touched ? 2 * s->cap_touched : 64;
        s->touched = mem_realloc(s->touched, s->cap_touched * sizeof(struct watch_set *));
    }
    s->touched[s->n_touched++] = set;
}

static void add_match(void *arg, struct watch_set *set)
{
    struct matching *m = arg;
    struct watch_scratch *s = m->s;
    struct watch_slice_event *e = &s->slice.events[m->event];
    uint32_t at = (uint32_t)s->n_matches;

    if (!set->touched)
        touch(s, set);
    if (s->n_matches == s->cap_matches) {
        s->cap_matches = s->cap_matches ? 2 * s->cap_matches : 256;
        s->matches = mem_realloc(s->matches, s->cap_matches * sizeof(*s->matches));
    }
    s->matches[s->n_matches++] = (struct watch_match){m->event, NO_MATCH};
    if (set->last_match == NO_MATCH)
        set->first_match = at;
    else
        s->matches[set->last_match].next = at;
    set->last_match = at;
    set->n_matches++;
    e->previous_wanted |= set->interest->flags & WATCH_PREVIOUS && e->record->kind != SCHEMA_CREATE;
}

/* True: an event's previous KeyValue is wanted. */
static bool match(struct watch_scratch *s, const struct watch_cohort *c)
{
    struct matching m = {.s = s};
    bool previous = false;

    check(s->slice.n_events < NO_MATCH);
    s->n_touched = s->n_matches = 0;
    for (size_t i = 0; i < s->slice.n_events; i++) {
        const struct watch_record *r = s->slice.events[i].record;

        m.event = (uint32_t)i;
        watch_index_match(&c->index, watch_record_key(r), r->kind, add_match, &m);
        check(s->n_matches < NO_MATCH);
        previous |= s->slice.events[i].previous_wanted;
    }
    return previous;
}

/* ---- deliver ---- */

struct watch_batch *watch_batch_unref(struct watch_batch *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) > 1)
        return NULL;
    for (size_t i = 0; i < b->n_blocks; i++)
        watch_block_unref(b->blocks[i]);
    watch_memory_give(b->memory, b->own);
    free(b->blocks);
    free(b);
    return NULL;
}

/* An event's block and that of what was before come in turn. */
static void batch_refer(struct watch_batch *b, struct watch_block *block)
{
    for (size_t back = 1; back <= 2 && back <= b->n_blocks; back++)
        if (b->blocks[b->n_blocks - back] == block)
            return;
    if ((b->n_blocks & (b->n_blocks - 1)) == 0) /* room for a power of two */
        b->blocks = mem_realloc(b->blocks,
                                (b->n_blocks ? 2 * b->n_blocks : 1) * sizeof(struct watch_block *));
    b->blocks[b->n_blocks++] = watch_block_ref(block);
    b->held += block->cap;
}

static void batch_add(struct watch_batch *b, const struct watch_slice_event *e, bool previous)
{
    struct bytes event = watch_record_event(e->record);

    batch_refer(b, e->block);
    if (previous && e->with_previous.len > 0) {
        event = e->with_previous;
        batch_refer(b, e->with_block);
    }
    b->last = e->record->rev.main;
    b->events[b->n_events++] = (struct watch_event){event, b->last};
    b->bytes += event.len;
}

/* Empty if the slice became shorter (watch_history_previous()) than when it was matched. */
static struct watch_batch *batch_new(struct watch_hub *h, const struct watch_set *set)
{
    const struct watch_scratch *s = &h->scratch;
    bool previous = set->interest->flags & WATCH_PREVIOUS;
    size_t own = sizeof(struct watch_batch) + set->n_matches * sizeof(struct watch_event);
    struct watch_batch *b = mem_alloc_raw(own);

    *b = (struct watch_batch){.memory = h->memory, .own = own, .events = (void *)(b + 1)};
    atomic_init(&b->refs, 1);
    watch_memory_take(h->memory, own);
    for (uint32_t at = set->first_match; at != NO_MATCH && s->matches[at].event < s->slice.n_events;
         at = s->matches[at].next)
        batch_add(b, &s->slice.events[s->matches[at].event], previous);
    return b;
}

/* Its consumer has a response in its hands and has not come back for long. */
static bool is_stuck(const struct watch_stream *s)
{
    int64_t revision = atomic_load_explicit(&s->hub->revision, memory_order_relaxed);

    return s->holds && revision - s->taken_revision > s->hub->o.held_revisions_max;
}

/* What belongs to a step goes out together. Under both locks. */
static bool may_push(struct watch_stream *s, const struct watcher *w, bool crowded)
{
    if (s->first && s->step == s->hub->step)
        return true;
    return !is_stuck(s) && (!crowded || watch_round_may(s));
}

static void park(struct watch_stream *s, struct watcher *w, bool crowded)
{
    watcher_park(w);
    s->wants_round |= crowded;
    if (s->armed)
        watch_round_wait(s);
}

static bool deliver_to(struct watcher *w, struct watch_batch *b, int64_t revision)
{
    struct watch_stream *s = w->stream;
    bool crowded = watch_is_crowded(w), done;

    pthread_mutex_lock(&s->lock);
    done = may_push(s, w, crowded) && watch_push_events(s, w, b, revision);
    if (!done)
        park(s, w, crowded);
    pthread_mutex_unlock(&s->lock);
    return done;
}

/* What the header says: at the head the event's own revision; for one who catches up how far the
 * store is. */
static int64_t header_revision(const struct watch_cohort *c, const struct watch_batch *b)
{
    return c == &c->hub->head ? b->last : atomic_load(&c->hub->revision);
}

static void deliver_set(struct watch_cohort *c, struct watch_set *set)
{
    struct watch_batch *b = batch_new(c->hub, set);
    int64_t revision = header_revision(c, b);
    size_t n = 0;

    list_for_each_safe (it, next, &set->watchers)
        n += b->n_events > 0 && deliver_to(container_of(it, struct watcher, link), b, revision);
    metric_gauge_add(&metric_pending_events, (double)(n * b->n_events));
    watch_batch_unref(b);
}

static void deliver(struct watch_hub *h, struct watch_cohort *c)
{
    struct watch_scratch *s = &h->scratch;

    h->step++;
    for (size_t i = 0; i < s->n_touched; i++) {
        struct watch_set *set = s->touched[i];

        if (!list_empty(&set->watchers))
            deliver_set(c, set);
        set->touched = false;
        if (list_empty(&set->watchers))
            watch_index_remove(&c->index, set);
    }
    s->n_touched = 0;
}

/* ---- a step ---- */

static int64_t limit_of(const struct watch_hub *h, const struct watch_cohort *c)
{
    return c == &h->head ? atomic_load_explicit(&h->revision, memory_order_acquire)
                         : h->head.position - 1;
}

/* False: nothing to read. */
static bool begin(struct watch_hub *h, struct watch_cohort *c, struct watch_slice_options *ret)
{
    int64_t limit;
    struct heap_node *n;
    bool any;

    watch_lock(h);
    if (c != &h->head)
        watch_cohort_overtaken(c, atomic_load(&h->compacted));
    limit = limit_of(h, c);
    watch_cohort_jump(c, limit);
    any = c->position <= limit;
    n = heap_top(&c->ahead);
    *ret = (struct watch_slice_options){
        .from = c->position,
        .upto = n && n->key <= limit ? n->key - 1 : limit,
        .events_max = h->o.slice_events_max,
        .bytes_max = watch_round_bytes(c),
    };
    if (!any && c != &h->head)
        watch_cohort_merge(c);
    watch_unlock(h);
    return any;
}

/* Outcome 1: there is nothing to deliver, but to look at again. */
static int read(struct watch_hub *h, struct watch_cohort *c,
                const struct watch_slice_options *options)
{
    struct watch_slice *slice = &h->scratch.slice;

    if (watch_ring_slice(&h->ring, options, &c->ring_place, slice))
        return 0;
    c->ring_place = (struct watch_ring_place){0};
    if (c != &h->head)
        return watch_history_slice(h, c, options, slice);
    watch_lock(h);
    watch_head_split(h);
    watch_unlock(h);
    return 1;
}

static int end(struct watch_hub *h, struct watch_cohort *c)
{
    struct watch_slice *slice = &h->scratch.slice;
    int r = 0;

    watch_lock(h);
    if (match(&h->scratch, c)) {
        watch_unlock(h); /* (I3) */
        r = watch_history_previous(h, slice, &c->ring_place);
        watch_lock(h);
    }
    deliver(h, c);
    h->passed = slice->next - c->position;
    watch_cohort_move(c, slice->next);
    if (c != &h->head && c->position == h->head.position)
        watch_cohort_merge(c);
    else
        h->turns.full |= c->crowd > 0;
    watch_turns_give(h);
    watch_unlock(h);
    return r;
}

int watch_cohort_step(struct watch_hub *h, struct watch_cohort *c)
{
    struct watch_slice_options options;
    int r;

    if (!begin(h, c, &options))
        return 0;
    r = read(h, c, &options);
    if (r == 0)
        r = end(h, c);
    watch_slice_clear(&h->scratch.slice);
    return r < 0 ? r : 0;
}
