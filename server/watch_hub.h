/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub: every watcher sees every event of its keys once, in the order of revisions, and
 * one that does not read slows nobody.
 *
 *     apply turn: events of a write ──> watch_hub_append() ──> ring of recent events, bounded
 *                 mvcc_publish()    ──> watch_hub_wake()         │
 *                                                                │  hub turn
 *          synced watchers   <── interval index <── each event ──┤
 *          unsynced watchers <── ring from their revision on, or the store by revision
 *                 └──> the stream's responses, in order ──> ready() ──> watch_stream_take()
 *
 * A stream is what one client opened: watchers, and one queue of responses for all of them. Its
 * consumer (api/watch.c, or Lock and Election in the same process) takes responses when it can
 * send. While more than WATCH_STREAM_BYTES_MAX wait there, or more than WATCH_BYTES_MAX in all
 * streams together, watchers that have something to say become unsynced: they keep the revision
 * where they stopped and nothing else, and go on from there when the consumer has caught up. One
 * response a stream may have also when memory is short, so who reads goes on. The same happens to a
 * stream whose consumer does not come back for more than WATCH_HELD_REVISIONS_MAX revisions.
 *
 * Where more than WATCH_TURNS_MAX streams want the same they are a crowd: they get it some at a
 * time, those that lag in responses of several revisions, so that puts need not wait for all of
 * them (watch_turns.c). In the worst case such a watcher is a cohort's member most of the time, and
 * what a compaction takes first it misses as any that is behind.
 *
 * What a consumer has taken it may hold for long (its client does not read), and nobody can take
 * that back. So it takes one response at a time, and that is short when all together hold much:
 * whole revisions of at most a sixteenth of what is left of WATCH_TAKEN_BYTES_MAX, down to
 * WATCH_TAKEN_BYTES_MIN or one revision. However many streams are stuck, they hold
 * WATCH_TAKEN_BYTES_MAX, and beyond that the minimum each.
 *
 * An event is encoded once, when it is applied, and shared by all who get it: the bytes belong to a
 * block of the ring, which lives until the last response that points into it is freed.
 *
 * Thread: watch_hub_append() the apply turn; watch_hub_turn() the hub's thread; everything else
 * any. One thread at a time uses a stream as its consumer.
 */
#pragma once

#include "base/bytes.h"
#include "server/state.h"
#include "server/store.h"

struct watch_hub;
struct watch_stream;

enum {
    WATCH_STREAM_BYTES_MAX = 4 << 20, /* not taken yet, of one stream */
    WATCH_BYTES_MAX = 64 << 20,       /* of memory for all, blocks that they alone hold included */
    WATCH_TAKEN_BYTES_MAX = 64 << 20, /* of events in the hands of all consumers together */
    WATCH_TAKEN_BYTES_MIN = 16 << 10, /* of events that one can take in any case */
    WATCH_RESPONSE_OVERHEAD_BYTES = 512 << 10, /* etcd's, over --max-request-bytes */
    WATCH_RING_BYTES = 32 << 20,               /* recent events */
    WATCH_ANSWERS_MAX = 1024,                  /* see watch_stream_is_full() */
    WATCH_SLICE_EVENTS_MAX = 1000,             /* looked at in one step; of one revision: all */
    WATCH_TURNS_MAX = 16,                      /* streams of a crowd that are called at one time */
    WATCH_HELD_REVISIONS_MAX = 64,             /* queued for a consumer that does not come back */
    WATCH_NEAR = 1000,           /* revisions; who is so near waits for nobody who is far */
    WATCH_WORK_NS = 1000 * 1000, /* on what is behind, before it rests for those who write */
};

struct watch_hub_options {
    struct store *store;
    const struct server_state *state; /* whose ids and term a response's header has */
    size_t ring_bytes;                /* 0: WATCH_RING_BYTES */
    int64_t progress_interval_ns; /* of progress_notify, before its jitter; 0: etcd's 10 minutes */
    size_t response_bytes_max;    /* a fragment's; etcd: --max-request-bytes + 512 KiB */
    uint64_t seed;                /* of the jitter */
    size_t stream_bytes_max, bytes_max;      /* 0: WATCH_STREAM_BYTES_MAX, WATCH_BYTES_MAX */
    size_t taken_bytes_max, taken_bytes_min; /* 0: WATCH_TAKEN_BYTES_MAX, WATCH_TAKEN_BYTES_MIN */
    size_t slice_events_max;                 /* 0: WATCH_SLICE_EVENTS_MAX */
    size_t turns_max;                        /* 0: WATCH_TURNS_MAX */
    int64_t held_revisions_max;              /* 0: WATCH_HELD_REVISIONS_MAX */
    int64_t near;                            /* 0: WATCH_NEAR */
    uint64_t work_ns;                        /* 0: WATCH_WORK_NS */
};

struct watch_hub *watch_hub_new(const struct watch_hub_options *options);
struct watch_hub *watch_hub_free(struct watch_hub *h); /* all streams are closed */

/* ---- the apply turn ---- */

/* The changes of a batch in their order, from mvcc_changes(); called before mvcc_seal(). Copies.
 * The ring is filled from the first stream on that was ever opened. */
void watch_hub_append(struct watch_hub *h, const struct mvcc_change *changes, size_t n);
/* After mvcc_publish(): what was appended may go out; a compaction may have overtaken watchers. */
void watch_hub_wake(struct watch_hub *h);
/* The store was exchanged for a snapshot: the ring holds nothing that leads to it. */
void watch_hub_reset(struct watch_hub *h);

/* ---- the hub's thread ---- */

/* Does a bounded piece of work. 1: there is more to do at once. Negative: the store failed; the
 * member must stop. */
int watch_hub_turn(struct watch_hub *h);
void watch_hub_wait(struct watch_hub *h); /* for work, or for the next progress notification */
void watch_hub_stop_waiting(struct watch_hub *h);

/* ---- streams ---- */

enum {
    WATCH_ID_AUTO = 0, /* etcd: 0 asks for the next free id */
    WATCH_ID_NONE = -1 /* what a refusal and a progress of the whole stream carry */
};

struct watch_request {
    struct bytes key, range_end; /* as in the request; no key is the smallest key */
    int64_t start_revision;      /* 0: from the next revision on */
    int64_t id;
    bool prev_kv, no_put, no_delete, fragment, progress_notify;
};

struct watch_event {
    struct bytes encoded; /* mvccpb.Event, without tag and length */
    int64_t revision;
};

/* What etcd's WatchResponse says, but for cluster id, member id and term. */
struct watch_response {
    int64_t id;
    int64_t revision; /* of the header */
    int64_t compact_revision;
    bool created, canceled, fragment;
    const char *cancel_reason; /* lives for ever; "" */
    size_t n_events;
    const struct watch_event *events;
    size_t bytes;  /* of all events */
    size_t memory; /* what is kept from being freed for these events, at most */
    bool more;     /* another response follows at once, or nearly */
};

/* ready() is called (on any thread, also from inside watch_create() and its like, never from inside
 * watch_stream_take()) when a stream that had nothing to take has something; once, until
 * watch_stream_take() has returned NULL again. What was queued may be taken back meanwhile from a
 * stream that does not read, so the first take may find nothing. ready() must not block and calls
 * no function of the hub; and since the hub's lock is held, whoever calls a function below, but for
 * take and free, holds no lock that ready() takes. */
struct watch_stream *watch_stream_open(struct watch_hub *h, void (*ready)(void *arg), void *arg);
/* ready() is not called any more once this has returned. Responses taken before stay valid. */
void watch_stream_close(struct watch_stream *s);

/* Answered by a response `created`, or `created` and `canceled`, before any event of that watcher.
 * Copies. */
void watch_create(struct watch_stream *s, const struct watch_request *request);
/* A refusal by the caller (permission), in its place among the answers: created and canceled, with
 * WATCH_ID_NONE. The reason lives for ever. A negative start_revision is refused before anybody
 * looks at permissions: by watch_create(). */
void watch_refuse(struct watch_stream *s, const char *reason);
/* Too many answers (created, canceled, progress) wait there: the consumer reads no more requests
 * until it has taken some. */
bool watch_stream_is_full(struct watch_stream *s);
/* Answered by `canceled`; an unknown id by nothing. No event of it comes afterwards. */
void watch_cancel(struct watch_stream *s, int64_t id);
/* Answered, behind all events up to its revision, as soon as all watchers of the stream are synced,
 * by a response of WATCH_ID_NONE without events. As in etcd not at all if there is no watcher, or
 * one that waits for a revision to come, or one that was overtaken by a compaction and not canceled
 * since. */
void watch_progress(struct watch_stream *s);

/* The next response, or NULL. The caller frees it; its events live until then. Who takes says by
 * that that the one before has left. */
struct watch_response *watch_stream_take(struct watch_stream *s);
struct watch_response *watch_response_free(struct watch_response *r);
