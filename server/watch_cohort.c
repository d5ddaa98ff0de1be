/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cohorts: watchers that are equally far go through history together, so that each event is read
 * and matched once for all of them. The head is the cohort of those who have seen everything;
 * others catch up with it and end there. See watch_private.h for the places of a watcher.
 *
 * Thread: under the hub's lock.
 */
#include "base/check.h"
#include "base/mem.h"
#include "server/server_metrics.h"
#include "server/watch_private.h"

void watch_cohort_init(struct watch_cohort *c, struct watch_hub *h, int64_t position)
{
    *c = (struct watch_cohort){.hub = h, .position = position};
    list_init(&c->link);
}

struct watch_cohort *watch_cohort_new(struct watch_hub *h, int64_t position)
{
    struct watch_cohort *c = mem_new(struct watch_cohort);

    watch_cohort_init(c, h, position);
    list_push(&h->cohorts, &c->link);
    h->n_cohorts++;
    return c;
}

void watch_cohort_deinit(struct watch_cohort *c)
{
    check(c->ahead.len == 0);
    heap_deinit(&c->ahead);
    watch_index_deinit(&c->index);
}

static bool is_head(const struct watch_cohort *c)
{
    return c == &c->hub->head;
}

/* ---- places ---- */

static void count_slow(struct watcher *w)
{
    bool slow = w->place == WATCHER_BEHIND || w->place == WATCHER_PARKED ||
                (w->cohort && !is_head(w->cohort));

    if (slow == w->slow)
        return;
    w->slow = slow;
    w->stream->n_slow += slow ? 1 : (size_t)-1;
    metric_gauge_add(&metric_slow_watchers, slow ? 1 : -1);
}

static void leave_set(struct watcher *w)
{
    struct watch_set *set = w->set;

    w->next = w->cohort->position;
    w->set = NULL;
    list_remove(&w->link);
    if (list_empty(&set->watchers) && !set->touched)
        watch_index_remove(&w->cohort->index, set);
}

void watcher_leave(struct watcher *w)
{
    switch (w->place) {
    case WATCHER_AHEAD: heap_remove(&w->cohort->ahead, &w->ahead); break;
    case WATCHER_IN_STEP: leave_set(w); break;
    case WATCHER_BEHIND:
    case WATCHER_PARKED: list_remove(&w->link); break;
    case WATCHER_NOWHERE:
    case WATCHER_COMPACTED: break;
    }
    w->place = WATCHER_NOWHERE;
    w->cohort = NULL;
    count_slow(w);
}

static void come_into_step(struct watcher *w, struct watch_cohort *c)
{
    w->set = watch_index_get(&c->index, w->interest);
    if (w->set->interest != w->interest) {
        watch_interest_unref(w->interest);
        w->interest = watch_interest_ref(w->set->interest);
    }
    list_push(&w->set->watchers, &w->link);
    w->place = WATCHER_IN_STEP;
}

void watcher_join(struct watcher *w, struct watch_cohort *c)
{
    check(w->place == WATCHER_NOWHERE && w->next >= c->position);
    w->cohort = c;
    if (!is_head(c) && watch_is_crowded(w) && w->interest->refs > c->crowd)
        c->crowd = w->interest->refs;
    if (w->next == c->position) {
        come_into_step(w, c);
    } else {
        w->place = WATCHER_AHEAD;
        heap_push(&c->ahead, &w->ahead, w->next);
    }
    count_slow(w);
}

void watcher_put_behind(struct watcher *w)
{
    watcher_leave(w);
    w->place = WATCHER_BEHIND;
    list_push(&w->stream->hub->behind, &w->link);
    count_slow(w);
}

void watcher_park(struct watcher *w)
{
    watcher_leave(w);
    w->place = WATCHER_PARKED;
    list_push(&w->stream->parked, &w->link);
    w->stream->has_parked = true;
    count_slow(w);
}

/* Told without a revision and without a reason, as etcd does; and the id stays taken until the
 * client cancels it. */
void watcher_compacted(struct watcher *w)
{
    watcher_leave(w);
    w->place = WATCHER_COMPACTED;
    watch_push_answer(w->stream, &(struct watch_response){
                                     .id = w->id,
                                     .canceled = true,
                                     .compact_revision = atomic_load(&w->stream->hub->compacted)});
}

/* ---- moving ---- */

void watch_cohort_move(struct watch_cohort *c, int64_t position)
{
    struct heap_node *n;

    check(position >= c->position);
    c->position = position;
    while ((n = heap_top(&c->ahead)) && n->key <= position) {
        struct watcher *w = container_of(n, struct watcher, ahead);
        check(n->key == position);
        heap_remove(&c->ahead, n);
        come_into_step(w, c);
    }
}

void watch_cohort_jump(struct watch_cohort *c, int64_t limit)
{
    struct heap_node *n = heap_top(&c->ahead);
    int64_t position = n && n->key <= limit ? n->key : limit + 1;

    if (c->index.n_sets > 0 || position <= c->position)
        return;
    c->ring_place = (struct watch_ring_place){0};
    watch_cohort_move(c, position);
}

/* Calls act for every watcher in step; act may take it away. */
static void for_each_in_step(struct watch_cohort *c, void (*act)(struct watcher *w))
{
    size_t n = c->index.n_sets;
    _cleanup_(mem_freep) struct watch_set **sets = watch_index_list(&c->index);

    for (size_t i = 0; i < n; i++) {
        struct list *watchers = &sets[i]->watchers;
        bool last = list_empty(watchers);
        while (!last) {
            struct watcher *w = container_of(watchers->next, struct watcher, link);
            last = w->link.next == watchers; /* the set goes with its last watcher */
            act(w);
        }
    }
}

void watch_cohort_overtaken(struct watch_cohort *c, int64_t compacted)
{
    struct heap_node *n;

    if (c->position >= compacted)
        return;
    for_each_in_step(c, watcher_compacted);
    while ((n = heap_top(&c->ahead)) && n->key < compacted)
        watcher_compacted(container_of(n, struct watcher, ahead));
}

static void move_to_head(struct watcher *w)
{
    struct watch_cohort *head = &w->stream->hub->head;

    watcher_leave(w);
    watcher_join(w, head);
}

void watch_cohort_merge(struct watch_cohort *c)
{
    struct watch_hub *h = c->hub;
    struct heap_node *n;

    check(c->position == h->head.position);
    for_each_in_step(c, move_to_head);
    while ((n = heap_top(&c->ahead)))
        move_to_head(container_of(n, struct watcher, ahead));
    list_remove(&c->link);
    h->n_cohorts--;
    watch_cohort_deinit(c);
    free(c);
}

void watch_head_split(struct watch_hub *h)
{
    int64_t revision = atomic_load(&h->revision);
    struct heap_node *n;

    for_each_in_step(&h->head, watcher_put_behind);
    while ((n = heap_top(&h->head.ahead)) && n->key <= revision)
        watcher_put_behind(container_of(n, struct watcher, ahead));
    watch_cohort_jump(&h->head, revision);
}

/* The one that passes there soonest. */
static struct watch_cohort *nearest(struct watch_hub *h, int64_t revision)
{
    struct watch_cohort *best = NULL;

    list_for_each (it, &h->cohorts) {
        struct watch_cohort *c = container_of(it, struct watch_cohort, link);
        if (c->position <= revision && (!best || c->position > best->position))
            best = c;
    }
    return best;
}

/* Too far to wait for it. */
static bool is_far(const struct watch_hub *h, const struct watch_cohort *c, const struct watcher *w)
{
    bool choosy = watch_is_near(h, w->next) && h->n_cohorts < WATCH_COHORTS_MAX;

    return w->next - c->position > (choosy ? h->o.near : WATCH_COHORT_SPAN_MAX);
}

/* False: there is no cohort that it can join, and no more may be made. */
static bool assign(struct watch_hub *h, struct watcher *w)
{
    struct watch_cohort *c = &h->head;

    if (w->next < c->position) {
        c = nearest(h, w->next);
        if (c && is_far(h, c, w))
            c = NULL;
        if (!c && h->n_cohorts == WATCH_COHORTS_MAX)
            return false;
        if (!c)
            c = watch_cohort_new(h, w->next);
    }
    watcher_leave(w);
    watcher_join(w, c);
    return true;
}

/* Who asks for what a compaction took is told, also if the head has not passed there yet. */
void watch_assign(struct watch_hub *h)
{
    int64_t compacted = atomic_load(&h->compacted);
    bool more = true;

    while (more && !list_empty(&h->behind)) {
        struct watcher *w = container_of(h->behind.next, struct watcher, link);

        if (w->next < compacted)
            watcher_compacted(w);
        else
            more = assign(h, w);
    }
}
