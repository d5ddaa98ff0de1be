/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the multi-version store, for the mvcc*.c files only.
 *
 * Lock order: compactor.lock, hash_lock and count_lock are innermost and never held together. The
 * atomics are what readers share with the writer: ended >= revision always; ended is raised before
 * a batch can be written, revision after it was.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/arena.h"
#include "base/map.h"
#include "storage/hash.h"
#include "storage/head_cache.h"
#include "storage/mvcc.h"

enum {
    MVCC_NEXT_MAX = 16,       /* versions of one key stepped over before seeking */
    MVCC_HASH_CACHE_MAX = 10, /* etcd's */
    MVCC_COUNTED_MAX = 64,    /* counts remembered, with keys of ... */
    MVCC_COUNTED_KEY_BYTES_MAX = 1024,
    MVCC_COMPACTIONS_MAX = 3, /* accepted, not finished: see mvcc_compact.c */
    MVCC_MOVED_BITS = 1024,
};

/* A key as the apply turn knows it: read from the store, or changed since the last
 * mvcc_publish(). */
struct overlay_key {
    struct bytes key;
    struct head head;   /* if live */
    struct bytes value; /* if live and dirty; the bytes of the request */
    bool live;
    bool dirty;       /* changed since the last mvcc_publish(); then also in mvcc.dirty */
    bool live_before; /* at the begin of the entry numbered changed_in */
    uint64_t changed_in;
};

struct compaction {
    int64_t revision;
    int64_t previous; /* compacted before; -1 = never */
    bool hashed;      /* its hash goes into the cache */
};

/* A background compaction under way. Owned by the compactor thread but for queue and n_queued. */
struct compactor {
    pthread_mutex_t lock;                          /* guards queue and n_queued */
    struct compaction queue[MVCC_COMPACTIONS_MAX]; /* oldest first; the first may be running */
    size_t n_queued;
    bool running;
    bool in_revisions; /* the pass over k is done, r is being cleared */
    struct compaction now;
    struct db_view *view;
    struct db_batch *batch;
    struct buf resume;    /* the next record to look at */
    struct buf prefix;    /* the key whose versions are being looked at */
    struct buf tombstone; /* record of that key to delete when all its older versions are */
    bool seen;            /* its newest version at or below the revision was met */
    struct hash_scan hash;
};

/* The number of keys of an interval at a revision, as counted once. */
struct counted {
    enum interval_kind kind;
    struct buf key;
    struct buf end;
    int64_t revision;
    int64_t count;
    uint64_t used; /* the newest use has the highest number; 0 = free */
};

struct mvcc {
    struct db *db;
    uint32_t compaction_batch_max;
    atomic_int_fast64_t revision;  /* published */
    atomic_int_fast64_t ended;     /* of the newest entry that may be in the store */
    atomic_int_fast64_t compacted; /* published; -1 = never */
    atomic_int_fast64_t finished;  /* compaction whose deletion is done; -1 = never */

    /* The apply turn's. */
    struct db_batch *batch;
    struct arena arena; /* of the turn */
    struct map_bytes overlay;
    struct head_cache *heads; /* of live keys, as the store has them */
    int64_t writer_revision;
    int64_t writer_compacted;
    uint64_t entry; /* number of the current entry, counted from 1 */
    uint32_t sub;   /* next sub revision of the current entry */
    bool in_entry;
    struct overlay_key **dirty; /* keys changed since the last publish */
    size_t n_dirty;
    size_t dirty_cap;
    struct mvcc_change *changes; /* ... and not sealed */
    size_t n_changes;
    size_t changes_cap;
    bool unpublished; /* an ended entry since the last publish changed something */
    uint64_t moved[MVCC_MOVED_BITS / 64]; /* leases whose keys have changed since then, by hash */
    struct overlay_key **changed;         /* keys changed by the current entry */
    size_t n_changed;
    size_t changed_cap;
    struct buf k_key;
    struct buf scratch;
    struct compaction accepted[MVCC_COMPACTIONS_MAX]; /* since the last publish */
    size_t n_accepted;

    pthread_mutex_t count_lock; /* guards counted and its clock */
    struct counted counted[MVCC_COUNTED_MAX];
    uint64_t count_clock;

    struct compactor compactor;
    pthread_mutex_t hash_lock;                    /* guards the cache of compaction hashes */
    struct mvcc_hash hashes[MVCC_HASH_CACHE_MAX]; /* by revision */
    size_t n_hashes;
};

#define MVCC_META_REVISION "revision" /* m records, 8 bytes BE each */
#define MVCC_META_SCHEDULED "compact_scheduled"
#define MVCC_META_FINISHED "compact_finished"

int mvcc_overlay_item(struct mvcc *m, const struct overlay_key *o, bool want_value,
                      struct mvcc_item *ret);

/* Logs a record that is not as it should be; returns the error. */
int mvcc_corrupt(const char *what, struct bytes record);

/* ---- walking k (mvcc_walk.c) ---- */

struct mvcc_walk {
    struct db_iter *it;
    int64_t revision;
    struct buf prefix; /* of the key the iterator stands on */
    struct buf seek;
    struct buf user_key;
    bool one_prefix;
    bool standing; /* on a version that was returned */
};

struct mvcc_walk_options {
    const struct db_view *view; /* NULL: the state at opening */
    const struct interval *interval;
    int64_t revision;
};

/* The live keys of an interval at a revision, in order. */
void mvcc_walk_open(struct mvcc_walk *w, struct mvcc *m, const struct mvcc_walk_options *options);
void mvcc_walk_close(struct mvcc_walk *w);
/* The next live key; *ret_rev and the iterator's value are those of its version. */
int mvcc_walk_next(struct mvcc_walk *w, bool *ret_found, struct rev *ret_rev);
/* What it stands on, decoded; borrowed until the next move. */
int mvcc_walk_item(struct mvcc_walk *w, struct rev rev, struct mvcc_item *ret);
int mvcc_item_decode(struct bytes user_key, struct rev rev, struct bytes encoded,
                     struct mvcc_item *ret);

/* ---- reading at a revision (mvcc_read.c) ---- */

typedef int (*mvcc_visit)(void *arg, const struct mvcc_item *item);

enum { MVCC_READ_OVERTAKEN = 100 }; /* a compaction above the revision; nothing was visited */

/* The interval at revision, which is published. *ret_count as mvcc_range_result.count. */
int mvcc_read_at(struct mvcc *m, const struct mvcc_range_options *options, int64_t revision,
                 mvcc_visit visit, void *arg, int64_t *ret_count);

int mvcc_visit_nothing(void *arg, const struct mvcc_item *item);

/* ---- counts (mvcc_count.c) ---- */

/* A view, and a published revision that it is known not to be behind. */
struct mvcc_seen {
    const struct db_view *view;
    int64_t revision;
    bool exact; /* it holds nothing above that revision */
};

/* The keys of an interval at revision, at most that of the view. */
int mvcc_count(struct mvcc *m, const struct mvcc_seen *seen, const struct interval *interval,
               int64_t revision, int64_t *ret);
/* The same if it can be had without counting. */
int mvcc_count_known(struct mvcc *m, const struct mvcc_seen *seen, const struct interval *interval,
                     int64_t revision, bool *ret_known, int64_t *ret);
void mvcc_count_store(struct mvcc *m, const struct interval *interval, int64_t revision,
                      int64_t count);
void mvcc_count_deinit(struct mvcc *m);

/* ---- compaction and hashes ---- */

int mvcc_compactor_init(struct mvcc *m, int64_t scheduled, int64_t finished);
void mvcc_compactor_deinit(struct mvcc *m);
void mvcc_compactions_publish(struct mvcc *m);
void mvcc_hash_store(struct mvcc *m, const struct mvcc_hash *hash);
