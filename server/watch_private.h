/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the watch hub, for the watch_*.c files only.
 *
 *   watch_ring     recent events                     watch_index    who watches a key
 *   watch_cohort   watchers that are equally far     watch_history  slices from the store, prev_kv
 *   watch_deliver  events to watchers                watch_queue    responses, also taken back
 *   watch_take     responses, taken by consumers     watch_stream   what clients ask for
 *   watch_turns    crowds                            watch_hub      the turn
 *
 * A watcher is in one of these places, and knows the revision that it wants next:
 *
 *            create, start > revision or 0              create, start <= revision
 *                       │                                          │
 *   AHEAD of a cohort ──┤   revision comes                      BEHIND ── assigned to a cohort ──┐
 *        ^              v                                          ^                             │
 *        │           IN STEP: gets all that its cohort passes      │ the stream has room again   │
 *        │              │                    no room in the stream │                             │
 *        │              ├──────────────────────────────────────> PARKED                          │
 *        └──────────────┼────────────────────────────────────────────────────────────────────────┘
 *                       └── the cohort lies below a compaction ──> COMPACTED, until it is canceled
 *
 * Invariants:
 *   (I1) a watcher in step has got all events of its interest from its start up to its cohort's
 *        position, in order, once, into its stream's queue, and none beyond.
 *   (I2) the head cohort's position is at most revision + 1; every other one's is below the head's
 *        between two turns, and the hub's thread alone moves a position.
 *   (I3) outside of the lock the hub's thread reads; meanwhile watchers may leave a cohort but
 *        nobody comes into step, because only that thread and a creation at the very head let one.
 *
 * Locks, in this order: hub.lock, stream.lock, hub.bell.lock or ring.lock. The apply turn takes the
 * last two only, a consumer the stream's and the bell's.
 */
#pragma once

#include "base/clock.h"
#include "base/heap.h"
#include "base/rng.h"
#include "server/watch_hub.h"
#include "server/watch_index.h"
#include "server/watch_ring.h"

enum {
    WATCH_COHORTS_MAX = 64,          /* catching up at once; more wait */
    WATCH_COHORT_SPAN_MAX = 10000,   /* revisions that a watcher waits for a cohort from behind */
    WATCH_SLICE_BYTES_MAX = 1 << 20, /* of one revision: all */
    WATCH_ROUND_BYTES = 4 << 20,     /* for a crowd, of all its responses together, */
    WATCH_ROUND_EACH_MIN = 4 << 10,  /* but of each no less than this and no more than that */
    WATCH_ROUND_EACH_MAX = 64 << 10,
    WATCH_ROUND_BEHIND = 2048, /* as much more for each so many revisions that it lags */
    WATCH_RECLAIM_MS = 50,
    WATCH_QUIET_NS = 100 * 1000 * 1000, /* without writes: those who catch up need not hold back */
};

enum watcher_place {
    WATCHER_NOWHERE,
    WATCHER_AHEAD,    /* in cohort->ahead, by next */
    WATCHER_IN_STEP,  /* in a set of the cohort's index */
    WATCHER_BEHIND,   /* in hub->behind */
    WATCHER_PARKED,   /* in stream->parked */
    WATCHER_COMPACTED /* in its stream alone */
};

struct watch_cohort {
    struct list link;
    struct watch_hub *hub;
    int64_t position; /* the revision that it passes next */
    struct watch_ring_place ring_place;
    struct watch_index index;
    struct heap ahead;
    size_t crowd; /* watchers that want the same as one in it; 0: they are no crowd */
};

struct watcher {
    struct watch_stream *stream;
    struct watch_interest *interest;
    int64_t id;
    uint64_t serial; /* ids are used again */
    int64_t start;   /* as asked for */
    int64_t next;    /* not kept up to date in step */
    enum watcher_place place;
    struct watch_cohort *cohort; /* AHEAD, IN_STEP */
    struct watch_set *set;       /* IN_STEP */
    struct list link;            /* IN_STEP, BEHIND, PARKED */
    struct heap_node ahead;
    bool fragment, progress_notify;
    bool quiet; /* no event since the last tick */
    bool slow;  /* counted as such */
};

/* Events for a set, made once and shared by the responses of its watchers. */
struct watch_batch {
    atomic_uint refs;
    struct watch_memory *memory;
    size_t own;   /* its own bytes, without the blocks */
    int64_t last; /* revision */
    size_t bytes;
    size_t held; /* of the blocks */
    size_t n_events, n_blocks;
    struct watch_event *events;
    struct watch_block **blocks; /* references */
};

/* A response in a queue; what the consumer sees of it is the first member. */
struct watch_piece {
    struct watch_response response;
    struct watch_piece *next;
    struct watch_hub *hub; /* while it is in the queue */
    struct watch_memory *memory;
    struct watch_batch *batch;
    uint64_t serial; /* of the watcher */
    size_t cost;     /* bytes in the stream's budget */
    bool fragment;   /* may be split anywhere, others between revisions */
    bool begun;      /* a fragment was taken: the rest must follow */
};

static inline bool watch_piece_has_events(const struct watch_piece *p)
{
    return p->response.n_events > 0;
}

static inline bool watch_piece_is_progress(const struct watch_piece *p)
{
    return !watch_piece_has_events(p) && !p->response.created && !p->response.canceled;
}

struct watch_stream {
    struct watch_hub *hub;
    void (*ready)(void *arg);
    void *arg;
    struct list link;
    /* under the hub's lock */
    struct map_u64 watchers;
    int64_t next_id;
    struct list parked;
    size_t n_slow;
    struct list call_link;     /* in hub->to_call or hub->turns.queued */
    struct list wait_link;     /* in hub->turns.waiting */
    struct list progress_link; /* in hub->progress: an answer is owed */
    int64_t progress_from;     /* the revision when it was asked for */
    struct heap_node tick;     /* in hub->ticks: a watcher wants progress notifications */
    uint64_t opened_ns, tick_ns;
    /* under its own lock */
    pthread_mutex_t lock;
    struct watch_piece *first, **last;
    size_t bytes, n_answers;
    uint64_t step;          /* of the last events in it */
    uint64_t round;         /* of a crowd */
    int64_t taken_revision; /* published when the consumer took last */
    size_t taken_bytes;     /* in the consumer's hands, see watch_take.c */
    bool armed;             /* ready() is due when something comes */
    bool taken;             /* something was taken since the last time memory was short */
    bool holds;             /* the last one taken may not have left */
    bool has_parked;        /* the hub wants to hear when there is room */
    bool wants_round;       /* not before all has been taken; written under both locks */
    bool has_turn;
    /* under the bell's lock */
    struct list room_link; /* in hub->bell.room */
    struct list turn_link; /* in hub->turns.given */
};

/* What wakes the hub's thread. */
struct watch_bell {
    pthread_mutex_t lock; /* a leaf */
    pthread_cond_t cond;
    bool rung, waiting, stop;
    struct list room; /* streams that have room again */
};

/* See watch_turns.c. */
struct watch_turns {
    uint64_t round, round_ns; /* and when it began */
    bool began;               /* somebody has got something in it */
    bool full;                /* there was more */
    struct list waiting;      /* streams that wait for the next one */
    struct list queued;       /* streams of this one that are to be called */
    bool closed;              /* none is called before those that were have taken, */
    uint64_t open_ns;         /* and the pause is over; 0: they have not */
    uint64_t given_ns;        /* the last time that some were called */
    int64_t revision;         /* at that time */
    /* under the bell's lock */
    struct list given; /* streams that were called and have not taken */
    size_t n_given;
    bool awaited; /* the last of these rings */
};

/* Of those far behind, see watch_hub.c; the hub's thread's. */
struct watch_rest {
    uint64_t until_ns; /* 0: there is none */
    /* since the last decision on one */
    uint64_t worked_ns; /* of the processor */
    int64_t passed;     /* revisions, by all */
    int64_t revision;   /* published then */
};

struct watch_match {
    uint32_t event, next;
};

/* What a step reads into; the hub's thread's. */
struct watch_scratch {
    struct watch_slice slice;
    struct watch_set **touched;
    size_t n_touched, cap_touched;
    struct watch_match *matches;
    size_t n_matches, cap_matches;
    struct watch_past *past;
    size_t n_past, cap_past;
    struct mvcc_version *versions;
    size_t cap_versions;
    struct buf keys, values;
    size_t values_max;       /* read at once: as many as have bytes enough */
    size_t values_bytes_max; /* kept of what is read */
};

struct watch_hub {
    struct watch_hub_options o;
    struct watch_ring ring;
    atomic_int_fast64_t revision, compacted; /* published */
    atomic_bool ring_wanted;                 /* there was a stream */
    atomic_size_t n_streams;
    struct watch_memory *memory; /* of pieces, batches, and blocks that are not the ring's */
    atomic_size_t taken; /* bytes of events in the hands of consumers, of responses not short */
    struct watch_bell bell;

    pthread_mutex_t lock; /* guards what follows, and sets, watchers and parts of streams */
    struct list streams;
    struct watch_cohort head;
    struct list cohorts; /* those that catch up, the next one first */
    size_t n_cohorts;
    struct list behind;
    struct list to_call;  /* streams whose ready() is due before the lock is given back */
    struct list progress; /* streams that are owed an answer */
    struct watch_turns turns;
    uint64_t step; /* counts them */
    struct heap ticks;
    uint64_t next_serial;
    struct rng rng;
    bool starved; /* memory was short */
    uint64_t reclaimed_ms;

    struct watch_scratch scratch;
    struct watch_rest rest;
    int64_t passed;      /* revisions, by the last step */
    int64_t seen;        /* the revision, at the end of the last turn */
    uint64_t written_ns; /* when it was another one */
    bool more;           /* the last turn left work; the hub's thread's */
    uint64_t wait_until_ns;
};

/* The hub's thread: nothing has been written for a while. */
static inline bool watch_is_quiet(const struct watch_hub *h)
{
    return clock_mono_ns() >= h->written_ns + WATCH_QUIET_NS;
}

static inline bool watch_is_near(const struct watch_hub *h, int64_t revision)
{
    return h->head.position - revision <= h->o.near;
}

static inline void watch_lock(struct watch_hub *h)
{
    pthread_mutex_lock(&h->lock);
}

/* Calls the ready() of the streams that it is due for, then gives the lock back. */
void watch_unlock(struct watch_hub *h);
void watch_ring_bell(struct watch_hub *h);

/* ---- watch_cohort.c; under the lock ---- */

struct watch_cohort *watch_cohort_new(struct watch_hub *h, int64_t position);
void watch_cohort_init(struct watch_cohort *c, struct watch_hub *h, int64_t position);
void watch_cohort_deinit(struct watch_cohort *c); /* it is empty */
/* Takes a watcher out of wherever it is; its next is right then. */
void watcher_leave(struct watcher *w);
/* From nowhere into a cohort at or below its next. */
void watcher_join(struct watcher *w, struct watch_cohort *c);
void watcher_put_behind(struct watcher *w);
void watcher_park(struct watcher *w); /* the stream's lock is held, too */
void watcher_compacted(struct watcher *w);
/* Those that wait for its position come into step. */
void watch_cohort_move(struct watch_cohort *c, int64_t position);
/* With nobody in step it moves on to whoever waits next, at most to limit + 1. */
void watch_cohort_jump(struct watch_cohort *c, int64_t limit);
/* Cancels all that want what a compaction took. */
void watch_cohort_overtaken(struct watch_cohort *c, int64_t compacted);
/* It has reached the head: its watchers go there, and it ends. */
void watch_cohort_merge(struct watch_cohort *c);
/* The ring does not reach back to the head: who is in step there catches up as any. */
void watch_head_split(struct watch_hub *h);
void watch_assign(struct watch_hub *h); /* those behind to cohorts */

/* ---- watch_history.c; the hub's thread, outside of the lock ---- */

/* Outcome 1: a compaction was faster, or the store is about to be exchanged. */
int watch_history_slice(struct watch_hub *h, struct watch_cohort *c,
                        const struct watch_slice_options *options, struct watch_slice *ret);
/* What the keys of events that want it were before. That may be much: then the slice is cut, and
 * place with it. */
int watch_history_previous(struct watch_hub *h, struct watch_slice *slice,
                           struct watch_ring_place *place);

/* ---- watch_deliver.c; the hub's thread ---- */

/* One slice of events for a cohort. Negative errors only. */
int watch_cohort_step(struct watch_hub *h, struct watch_cohort *c);

/* ---- watch_queue.c ---- */

struct watch_batch *watch_batch_unref(struct watch_batch *b);
struct watch_piece *watch_piece_new(struct watch_stream *s, const struct watch_response *response);
/* Under the hub's lock. */
void watch_push_answer(struct watch_stream *s, const struct watch_response *response);
/* Under both locks. False: no room. */
bool watch_push_events(struct watch_stream *s, struct watcher *w, struct watch_batch *b,
                       int64_t revision);
/* Takes back the events of streams that took nothing since the last time; under the hub's lock. */
void watch_reclaim(struct watch_hub *h);

/* ---- watch_take.c ---- */

void watch_queue_drop(struct watch_stream *s); /* at the stream's end */

/* ---- watch_turns.c; under the hub's lock, if nothing else is said ---- */

bool watch_is_crowded(const struct watcher *w);     /* many want the same */
bool watch_round_may(const struct watch_stream *s); /* under the stream's lock, too */
void watch_round_add(struct watch_stream *s);
void watch_round_wait(struct watch_stream *s);
size_t watch_round_bytes(const struct watch_cohort *c); /* how long a slice may be */
void watch_round_begin(struct watch_hub *h);            /* if the last one is over */
void watch_turns_give(struct watch_hub *h);
void watch_turn_end(struct watch_stream *s); /* under the stream's lock */
uint64_t watch_turns_next_ns(struct watch_hub *h);

/* ---- watch_stream.c; under the lock ---- */

void watch_stream_resume(struct watch_stream *s);

void watch_streams_resume(struct watch_hub *h); /* those that have room again */
void watch_streams_tick(struct watch_hub *h, uint64_t now_ns);
void watch_streams_progress(struct watch_hub *h);
/* Memory was short: takes back what can be, once in a while. */
void watch_streams_starved(struct watch_hub *h, uint64_t now_ms);
