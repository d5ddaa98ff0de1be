/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The times of a leader (see lease.h).
 *
 * A renewal moves a lease's expiry and leaves its place in the heap: when that comes up, the lease
 * goes to where it belongs by then. So a keep-alive costs a lookup, and each lease is moved once in
 * its TTL, however often it is renewed.
 *
 * Checkpoints are due a fixed time after they were scheduled, so a queue holds them in order. What
 * one says is older than what comes between its look at the lease and its place in the state. A
 * renewal in between would be lost to the next leader, which counts from the checkpoint; etcd
 * makes it. Here it waits until the checkpoint is there, and then takes it away first, as any
 * renewal does. The entry of an earlier leader comes before this one keeps times at all. What is
 * left are checkpoints that are not this leader's: an etcd member proposes one, is deposed, and has
 * it sent on to us; and a lease that is revoked and granted again with its id meanwhile. The next
 * renewal, or checkpoint, mends those.
 *
 * Invariants:
 *   (I1) term != 0: each lease is in the heap once, due at its expiry or before, or, once it was
 *        found expired, when it is to be found again.
 *   (I2) term == 0: heap and queue are empty. A member that does not lead pays for neither.
 *   (I3) nothing makes an expiry earlier than what a renewal or a grant has promised.
 *   (I4) what is renewed has no checkpoint, in the state or on its way there.
 *
 * Thread: any; promote and demote: see lease.h.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/mem.h"
#include "storage/lease_impl.h"

#define SECOND_NS UINT64_C(1000000000)

enum {
    SPREAD_LEASES_MIN = 1000, /* from here on, a new leader spreads the expiries */
    SPREAD_PER_SECOND = 750,
    QUEUE_CAP_MIN = 64,
};

/* Of a record or an entry: any number. */
static uint64_t seconds_ns(int64_t s)
{
    if (s <= 0)
        return 0;
    return (uint64_t)(s < LEASE_TTL_MAX_S ? s : LEASE_TTL_MAX_S) * SECOND_NS;
}

static uint64_t left_ns(const struct lease *l)
{
    return seconds_ns(l->remaining_s > 0 ? l->remaining_s : l->ttl_s);
}

/* ---- the queue of checkpoints ---- */

static void queue_deinit(struct lease_queue *q)
{
    free(q->items);
    *q = (struct lease_queue){0};
}

static void queue_grow(struct lease_queue *q)
{
    size_t cap = q->cap ? 2 * q->cap : QUEUE_CAP_MIN;
    struct lease_queued *items = mem_alloc(cap * sizeof(*items));

    for (size_t i = 0; i < q->len; i++)
        items[i] = q->items[(q->first + i) & (q->cap - 1)];
    free(q->items);
    *q = (struct lease_queue){.items = items, .len = q->len, .cap = cap};
}

void lease_queue_add(struct lease_table *t, struct lease *l, uint64_t now_ns)
{
    struct lease_queue *q = &t->queue;

    if (t->term == 0 || t->checkpoint_ns == 0 || l->queued || left_ns(l) <= t->checkpoint_ns)
        return;
    if (q->len == q->cap)
        queue_grow(q);
    l->queued = true;
    q->items[(q->first + q->len++) & (q->cap - 1)] =
        (struct lease_queued){now_ns + t->checkpoint_ns, l->id, l->serial};
}

static struct lease_queued queue_pop(struct lease_queue *q)
{
    struct lease_queued item = q->items[q->first];

    q->first = (q->first + 1) & (q->cap - 1);
    q->len--;
    return item;
}

/* False: there is nothing to say of it. etcd forgets a lease that was renewed this very second;
 * here its turn comes again. */
static bool checkpoint_of(struct lease_table *t, struct lease_queued queued, uint64_t now_ns,
                          struct lease_left *ret)
{
    struct lease *l = map_u64_get(&t->leases, (uint64_t)queued.id);

    if (!l || l->serial != queued.serial)
        return false;
    l->queued = false;
    if (l->expiry_ns <= now_ns)
        return false;
    lease_queue_add(t, l, now_ns);
    uint64_t left_s = (l->expiry_ns - now_ns + SECOND_NS - 1) / SECOND_NS;
    if ((int64_t)left_s >= l->ttl_s)
        return false;
    l->found = t->looks;
    *ret = (struct lease_left){l->id, (int64_t)left_s};
    return true;
}

size_t lease_find_checkpoints(struct lease_table *t, struct lease_look *look,
                              struct lease_left *leases, size_t n)
{
    struct lease_queue *q = &t->queue;
    size_t found = 0, looked = 0;

    pthread_mutex_lock(&t->lock);
    check(!t->checkpointing);
    t->looks++;
    look->term = t->term;
    while (q->len > 0 && found < n && looked++ < LEASE_LOOKS_MAX &&
           q->items[q->first].due_ns <= look->now_ns)
        found += checkpoint_of(t, queue_pop(q), look->now_ns, &leases[found]);
    look->more = q->len > 0 && q->items[q->first].due_ns <= look->now_ns;
    t->checkpointing = found > 0;
    pthread_mutex_unlock(&t->lock);
    return found;
}

void lease_checkpoints_end(struct lease_table *t)
{
    pthread_mutex_lock(&t->lock);
    t->checkpointing = false;
    pthread_mutex_unlock(&t->lock);
}

/* Its checkpoint was found, and is not in the state yet. */
static bool is_checkpointing(const struct lease_table *t, const struct lease *l)
{
    return t->checkpointing && l->found == t->looks;
}

/* ---- one lease ---- */

static void due_at(struct lease_table *t, struct lease *l, uint64_t due_ns)
{
    heap_remove(&t->heap, &l->due);
    heap_push(&t->heap, &l->due, (int64_t)due_ns);
}

/* NULL: none is due by then. */
static struct lease *first_due(const struct lease_table *t, uint64_t now_ns)
{
    struct heap_node *top = heap_top(&t->heap);

    return top && (uint64_t)top->key <= now_ns ? container_of(top, struct lease, due) : NULL;
}

void lease_time_begin(struct lease_table *t, struct lease *l)
{
    if (t->term == 0)
        return;
    uint64_t now_ns = clock_mono_ns();
    l->expiry_ns = now_ns + left_ns(l);
    due_at(t, l, l->expiry_ns);
    lease_queue_add(t, l, now_ns);
}

void lease_time_end(struct lease_table *t, struct lease *l)
{
    if (t->term != 0)
        heap_remove(&t->heap, &l->due);
}

static int may_renew(const struct lease_table *t, const struct lease *l, struct lease_renew *r)
{
    if (t->term == 0 || t->term < r->term)
        return LEASE_E_NOT_PRIMARY;
    if (!l || (r->serial != 0 && r->serial != l->serial))
        return LEASE_E_NOT_FOUND;
    if (l->expiry_ns <= r->now_ns) {
        r->serial = l->serial;
        return LEASE_E_EXPIRED;
    }
    if (is_checkpointing(t, l))
        return LEASE_E_CHECKPOINTING;
    return l->remaining_s > 0 ? LEASE_E_CHECKPOINTED : 0;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* etcd gives a lease that has a checkpoint the rest again, while it promises the whole; and it
 * leaves the checkpoint to the next leader if its feature gate was on elsewhere, or earlier. And it
 * counts from now on, even if the leader before it, not knowing that, has promised more. */
int lease_renew(struct lease_table *t, struct lease_renew *r)
{
    pthread_mutex_lock(&t->lock);
    struct lease *l = map_u64_get(&t->leases, (uint64_t)r->id);
    int e = may_renew(t, l, r);
    if (e == 0) {
        r->ttl_s = l->ttl_s;
        l->expiry_ns = later(r->now_ns, t->begins_ns) + seconds_ns(l->ttl_s);
        if (l->expiry_ns < (uint64_t)l->due.key) /* a new leader had extended it */
            due_at(t, l, l->expiry_ns);
    }
    pthread_mutex_unlock(&t->lock);
    return e;
}

/* ---- expiry ---- */

size_t lease_find_expired(struct lease_table *t, struct lease_look *look, int64_t *ids, size_t n)
{
    size_t found = 0, looked = 0;
    struct lease *l;

    pthread_mutex_lock(&t->lock);
    look->term = t->term;
    while (found < n && looked++ < LEASE_LOOKS_MAX && (l = first_due(t, look->now_ns))) {
        bool over = l->expiry_ns <= look->now_ns;
        if (over)
            ids[found++] = l->id;
        due_at(t, l, over ? look->again_ns : l->expiry_ns);
    }
    look->more = first_due(t, look->now_ns) != NULL;
    pthread_mutex_unlock(&t->lock);
    return found;
}

/* ---- leadership ---- */

/* The times lie side by side: of a million leases most are not in the processor's cache. */
struct dated {
    uint64_t expiry_ns;
    struct lease *lease;
};

static int dated_compare(const void *a, const void *b)
{
    const struct dated *x = a, *y = b;

    return (x->expiry_ns > y->expiry_ns) - (x->expiry_ns < y->expiry_ns);
}

/*
 * Thousands of leases that were granted together would expire, and be revoked, together. In order
 * of expiry, each window of a second takes SPREAD_PER_SECOND; what exceeds it is moved behind, and
 * the window with it. The order stays.
 */
static void spread(struct dated *sorted, size_t n)
{
    uint64_t window_start = sorted[0].expiry_ns;
    uint64_t window_end = window_start + SECOND_NS;
    uint64_t in_window = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t expiry = sorted[i].expiry_ns;
        if (expiry > window_end) {
            window_start = expiry;
            window_end = expiry + SECOND_NS;
            in_window = 1;
            continue;
        }
        if (++in_window <= SPREAD_PER_SECOND)
            continue;
        uint64_t moved = window_start + in_window * SECOND_NS / SPREAD_PER_SECOND;
        if (moved > expiry) /* (I3) */
            sorted[i].expiry_ns = moved;
        window_end = moved > window_end ? moved : window_end;
    }
}

/* All leases with their new times, in order of them. */
static struct dated *date_all(struct lease_table *t, uint64_t from_ns)
{
    size_t n = t->leases.len, i = 0, pos = 0;
    struct dated *all = mem_alloc_raw((n + 1) * sizeof(*all));

    for (struct lease *l; (l = map_u64_next(&t->leases, &pos, NULL)); i++)
        all[i] = (struct dated){from_ns + left_ns(l), l};
    check(i == n);
    qsort(all, n, sizeof(*all), dated_compare);
    if (n >= SPREAD_LEASES_MIN)
        spread(all, n);
    return all;
}

static void forget(struct lease_table *t)
{
    t->term = 0;
    t->checkpointing = false;
    heap_deinit(&t->heap);
    queue_deinit(&t->queue);
}

/* In ascending order a heap takes each one at its end. */
void lease_promote(struct lease_table *t, const struct lease_leadership *leads)
{
    check(leads->term != 0);
    pthread_mutex_lock(&t->lock);
    forget(t);
    t->term = leads->term;
    t->begins_ns = leads->now_ns + leads->extend_ns;
    struct dated *all = date_all(t, t->begins_ns);
    for (size_t i = 0; i < t->leases.len; i++) {
        struct lease *l = all[i].lease;
        l->expiry_ns = all[i].expiry_ns;
        l->due.place = 0; /* in the heap of an earlier leadership */
        heap_push(&t->heap, &l->due, (int64_t)l->expiry_ns);
        l->queued = false;
        lease_queue_add(t, l, leads->now_ns);
    }
    free(all);
    pthread_mutex_unlock(&t->lock);
}

void lease_demote(struct lease_table *t, uint64_t term)
{
    pthread_mutex_lock(&t->lock);
    if (t->term == term)
        forget(t); /* (I2) */
    pthread_mutex_unlock(&t->lock);
}

uint64_t lease_primary_term(struct lease_table *t)
{
    pthread_mutex_lock(&t->lock);
    uint64_t term = t->term;
    pthread_mutex_unlock(&t->lock);
    return term;
}
