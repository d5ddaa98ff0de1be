/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The housekeeper (see housekeeper.h).
 *
 * Invariants:
 *   (I1) the log is released only up to an applied index read before a flush that succeeded.
 *   (I2) compaction goes in bounded steps, and between two of them the configured pause lets others
 *        at the disk.
 *   (I3) no flush begins that the disk has no room for: a database that fails in the middle of one
 *        takes no more writes. It is put off; the log keeps what would have become durable. Only
 *        if it can't wait does it get the room that was set aside.
 *   (I4) while the disk is short a flush can't wait from half of the database's own mark on, so
 *        that it never begins one itself; and the log is cut to what is flushed: peers that lag get
 *        a snapshot.
 *   (I5) --snapshot-count is looked at with the tick, not with each entry: however small it is, no
 *        more than one flush a tick comes of it.
 *   (I6) while the disk is short the database's brake is off, for a flush would wait for a
 *        compaction that has no room.
 *
 * Thread: housekeeper, at the priority of the others: a lower one would make the apply worker wait
 * behind a writer who does not get the processor (measured: put p99 of 150 ms instead of 19).
 */
#include "server/housekeeper.h"

#include <pthread.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/disk_room.h"
#include "server/node.h"
#include "server/server_metrics.h"

enum {
    FLUSH_SHORT_BYTES = DB_WRITE_BUFFER_BYTES / 2, /* (I4) */
    FLUSH_SPARE_BYTES = 1 << 20,                   /* beyond the data: filters, records of files */
};

struct awaiting {
    struct awaiting *next;
    struct request *request;
    int64_t revision;
};

struct housekeeper {
    struct housekeeper_options o;
    struct node *node;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stop;
    bool draining;
    bool woken;
    struct awaiting *awaiting;

    _Atomic uint64_t written_entries; /* since the last flush */
    _Atomic uint64_t written_bytes;
    _Atomic uint64_t used_bytes;
    _Atomic bool room_wanted; /* by the log: a flush can't wait */
    bool flush_soon;          /* the disk has become short: while it still fits */
    bool counted;             /* (I5): more is applied than may wait */
    bool put_off;             /* (I3) */
    bool compacting;          /* there may be more to do */
    uint64_t next_tick_ms;
    uint64_t durable; /* applied index of the last flush, or of the start */
};

struct housekeeper *housekeeper_new(const struct housekeeper_options *options)
{
    struct housekeeper *h = mem_new(struct housekeeper);

    h->o = *options;
    h->compacting = true; /* one that a restart interrupted */
    h->durable = atomic_load_explicit(&h->o.state->applied, memory_order_relaxed);
    pthread_mutex_init(&h->lock, NULL);
    cond_init(&h->cond);
    return h;
}

void housekeeper_wake(struct housekeeper *h)
{
    pthread_mutex_lock(&h->lock);
    h->woken = true;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

void housekeeper_await_compaction(struct housekeeper *h, struct request *request, int64_t revision)
{
    struct awaiting *a = mem_new(struct awaiting);
    bool draining;

    a->request = request;
    a->revision = revision;
    pthread_mutex_lock(&h->lock);
    draining = h->draining;
    if (!draining) {
        a->next = h->awaiting;
        h->awaiting = a;
        h->woken = true;
        pthread_cond_signal(&h->cond);
    }
    pthread_mutex_unlock(&h->lock);
    if (draining) {
        free(a);
        request->finish(request, OUTCOME_STOPPED);
    }
}

void housekeeper_note_written(struct housekeeper *h, uint64_t entries, uint64_t bytes)
{
    uint64_t e =
        atomic_fetch_add_explicit(&h->written_entries, entries, memory_order_relaxed) + entries;
    uint64_t b = atomic_fetch_add_explicit(&h->written_bytes, bytes, memory_order_relaxed) + bytes;

    if ((e >= FLUSH_ENTRIES_MAX && e - entries < FLUSH_ENTRIES_MAX) ||
        (b >= FLUSH_BYTES_MAX && b - bytes < FLUSH_BYTES_MAX))
        housekeeper_wake(h);
}

void housekeeper_make_room(struct housekeeper *h)
{
    atomic_store(&h->room_wanted, true);
    housekeeper_wake(h);
}

uint64_t housekeeper_used_bytes(const struct housekeeper *h)
{
    return atomic_load_explicit(&h->used_bytes, memory_order_relaxed);
}

/* Finishes those whose compaction is done (all of them with stopped when stopping). */
static void answer_awaiting(struct housekeeper *h, int64_t finished, bool stopping)
{
    struct awaiting *done = NULL, **p;

    pthread_mutex_lock(&h->lock);
    for (p = &h->awaiting; *p;) {
        struct awaiting *a = *p;
        if (a->revision > finished && !stopping) {
            p = &a->next;
            continue;
        }
        *p = a->next;
        a->next = done;
        done = a;
    }
    pthread_mutex_unlock(&h->lock);
    while (done) {
        struct awaiting *a = done;
        done = a->next;
        a->request->finish(a->request, a->revision <= finished ? OUTCOME_OK : OUTCOME_STOPPED);
        free(a);
    }
}

static void compact(struct housekeeper *h)
{
    int64_t finished = -1;
    bool done;
    int r = mvcc_compact_step(h->o.store->mvcc, &done, &finished);

    if (r == -ECANCELED)
        return; /* the store is being exchanged */
    if (r < 0)
        server_fatal("physical compaction failed", r);
    h->compacting = !done;
    answer_awaiting(h, finished, false);
}

/* (I1) */
static void flush(struct housekeeper *h)
{
    uint64_t applied = atomic_load_explicit(&h->o.state->applied, memory_order_acquire);
    bool wanted = atomic_exchange(&h->room_wanted, false);
    uint64_t kept = wanted || disk_room_short(h->o.room) ? 0 : h->o.catchup_entries;
    uint64_t start = clock_mono_ns();
    int r;

    h->o.replay_to = 0;
    h->flush_soon = false;
    atomic_store_explicit(&h->written_entries, 0, memory_order_relaxed);
    atomic_store_explicit(&h->written_bytes, 0, memory_order_relaxed);
    r = db_flush(h->o.store->db);
    if (r < 0)
        server_fatal("could not flush the database", r);
    if (applied > kept)
        node_release(h->node, applied - kept);
    h->durable = applied;
    if (h->counted)
        log_info("saved snapshot to disk", LOG_U64("snapshot-index", applied));
    h->counted = false;
    log_debug("flushed the database", LOG_U64("applied-index", applied),
              LOG_DURATION("took", clock_mono_ns() - start));
}

/* (I6). Also while a Defragment holds the room, whose flush may be what waits for a compaction. */
static void set_brake(struct housekeeper *h)
{
    if (!disk_room_has(h->o.room, DB_BRAKE_BYTES))
        return;
    int r = db_set_brake(h->o.store->db, !disk_room_short(h->o.room));
    if (r < 0)
        server_fatal("could not set the database's brake", r);
}

static bool flush_due(const struct housekeeper *h)
{
    uint64_t applied = atomic_load_explicit(&h->o.state->applied, memory_order_acquire);

    return atomic_load_explicit(&h->written_entries, memory_order_relaxed) >= FLUSH_ENTRIES_MAX ||
           atomic_load_explicit(&h->written_bytes, memory_order_relaxed) >= FLUSH_BYTES_MAX ||
           (h->o.replay_to > 0 && applied >= h->o.replay_to) || h->flush_soon || h->counted;
}

static bool memory_is_full(const struct housekeeper *h)
{
    return db_unflushed_bytes(h->o.store->db) >= FLUSH_SHORT_BYTES;
}

/* (I3, I4). What can wait leaves room for whoever is filling the disk meanwhile. */
static void flush_if_due(struct housekeeper *h)
{
    bool must = atomic_load(&h->room_wanted) || (disk_room_short(h->o.room) && memory_is_full(h));
    uint64_t bytes = db_unflushed_bytes(h->o.store->db) + FLUSH_SPARE_BYTES;
    bool was = h->put_off;

    h->put_off = false;
    if (!must && !flush_due(h))
        return;
    if (must ? disk_room_make(h->o.room, bytes) : disk_room_fits(h->o.room, 2 * bytes)) {
        set_brake(h); /* there may not have been the room for it before */
        flush(h);
        return;
    }
    h->put_off = true;
    if (!was)
        log_warn(
            "the disk is full: the database will be flushed when there is room; until then the "
            "raft log keeps what it holds");
}

static void look_at_disk(struct housekeeper *h)
{
    bool was = disk_room_short(h->o.room);

    disk_room_check(h->o.room);
    set_brake(h);
    if (!disk_room_short(h->o.room))
        return;
    h->flush_soon |= !was;
    h->o.disk_short(h->o.arg);
}

/* (I5). The lines are etcd's, which counts the same and saves a snapshot then. */
static void count_entries(struct housekeeper *h)
{
    uint64_t applied = atomic_load_explicit(&h->o.state->applied, memory_order_acquire);

    if (h->counted || applied - h->durable <= h->o.snapshot_count)
        return;
    h->counted = true;
    log_info("triggering snapshot", LOG_ID("local-member-id", h->o.state->member_id),
             LOG_U64("local-member-applied-index", applied),
             LOG_U64("local-member-snapshot-index", h->durable),
             LOG_U64("local-member-snapshot-count", h->o.snapshot_count),
             LOG_BOOL("snapshot-forced", false));
}

static void tick(struct housekeeper *h, uint64_t now_ms)
{
    uint64_t disk = db_disk_bytes(h->o.store->db) + db_unflushed_bytes(h->o.store->db);
    uint64_t used = db_used_bytes(h->o.store->db);

    h->next_tick_ms = now_ms + HOUSEKEEPER_TICK_MS;
    atomic_store_explicit(&h->used_bytes, used, memory_order_relaxed);
    metric_set(&metric_db_total_size, (double)disk);
    metric_set(&metric_db_size_in_use, (double)used);
    look_at_disk(h);
    count_entries(h);
}

/* Sleeps until woken, the next tick, or (while compacting) for the pause between two steps. False:
 * stop. */
static bool rest(struct housekeeper *h)
{
    uint64_t now_ns = clock_mono_ns();
    uint64_t until_ns = h->next_tick_ms * UINT64_C(1000000);
    bool stop;

    if (h->compacting && now_ns + (uint64_t)h->o.compaction_sleep_ns < until_ns)
        until_ns = now_ns + (uint64_t)h->o.compaction_sleep_ns;
    struct timespec ts = cond_until(until_ns > now_ns ? until_ns - now_ns : 0);
    pthread_mutex_lock(&h->lock);
    while (!h->stop && !h->woken && pthread_cond_timedwait(&h->cond, &h->lock, &ts) == 0)
        ;
    stop = h->stop;
    pthread_mutex_unlock(&h->lock);
    return !stop;
}

/* Whoever wakes may have brought a compaction. */
static void take_wake_up(struct housekeeper *h)
{
    pthread_mutex_lock(&h->lock);
    h->compacting |= h->woken;
    h->woken = false;
    pthread_mutex_unlock(&h->lock);
}

void housekeeper_turn(struct housekeeper *h, uint64_t now_ms)
{
    take_wake_up(h);
    store_hold_job(h->o.store);
    if (h->compacting && !(h->put_off && memory_is_full(h)))
        compact(h);
    flush_if_due(h);
    if (now_ms >= h->next_tick_ms)
        tick(h, now_ms);
    store_release_job(h->o.store);
}

static void *run(void *arg)
{
    struct housekeeper *h = arg;

    pthread_setname_np(pthread_self(), "housekeeper");
    while (rest(h))
        housekeeper_turn(h, clock_mono_ms());
    return NULL;
}

void housekeeper_set_node(struct housekeeper *h, struct node *node)
{
    h->node = node;
}

int housekeeper_start(struct housekeeper *h)
{
    int r = pthread_create(&h->thread, NULL, run, h);

    h->started = r == 0;
    return r == 0 ? 0 : err_origin(-r);
}

void housekeeper_drain(struct housekeeper *h)
{
    pthread_mutex_lock(&h->lock);
    h->draining = true;
    pthread_mutex_unlock(&h->lock);
    answer_awaiting(h, -1, true);
}

void housekeeper_stop(struct housekeeper *h)
{
    if (!h->started)
        return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    h->started = false;
}

struct housekeeper *housekeeper_free(struct housekeeper *h)
{
    if (!h)
        return NULL;
    check(!h->started && !h->awaiting);
    pthread_cond_destroy(&h->cond);
    pthread_mutex_destroy(&h->lock);
    free(h);
    return NULL;
}
