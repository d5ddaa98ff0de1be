/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The multi-version store: etcd's revisions, exactly. One raft entry that changes keys takes one
 * main revision; each change in it one sub.
 *
 * Writing (one apply turn at a time, on whichever thread). A turn shares one db_batch:
 *
 *     for each entry: mvcc_begin(); mvcc_put()/mvcc_delete() ...; mvcc_end();
 *     mvcc_seal(); the caller adds "applied"; db_write(batch); mvcc_publish();
 *
 * Later entries of a turn see earlier ones through the overlay: the heads and values changed since
 * the last mvcc_publish(). A read of more than one key, or at an explicit revision, inside an entry
 * needs the earlier entries of the turn in the store; mvcc_range_needs_flush() says so and the
 * caller writes the batch and publishes first. The entry's own changes are always merged in.
 *
 * Reading (any thread): at a published revision, without locks, through one iterator or the head
 * record. A read at the current revision that is overtaken by a compaction is repeated at the newer
 * one; at an explicit revision it answers MVCC_E_COMPACTED.
 */
#pragma once

#include "storage/db.h"
#include "storage/interval.h"
#include "storage/kv.h"
#include "storage/schema.h"

struct mvcc;

enum {
    MVCC_E_COMPACTED = 1,
    MVCC_E_FUTURE = 2,
};

struct mvcc_options {
    struct db *db;
    uint32_t compaction_batch_max; /* records looked at per step; etcd's --compaction-batch-limit */
};

/* Loads revision and compaction state. Negative: the store is not one of ours (logged). */
int mvcc_open(struct mvcc **ret, const struct mvcc_options *options);
struct mvcc *mvcc_close(struct mvcc *m);

/* Published; any thread. */
int64_t mvcc_revision(const struct mvcc *m);
/* The last accepted compaction, published; -1 = never. Any thread. */
int64_t mvcc_compacted(const struct mvcc *m);
/* Including unpublished entries. In the apply turn. */
int64_t mvcc_writer_revision(const struct mvcc *m);

/* ---- reading ---- */

struct mvcc_item {
    struct bytes key;
    struct rev mod;
    int64_t create;
    int64_t version;
    int64_t lease;
    struct bytes encoded; /* the stored KeyValue; empty if keys_only */
};

struct mvcc_range_options {
    struct interval interval;
    int64_t revision; /* <= 0: current */
    int64_t limit;    /* items fetched at most; <= 0: all */
    bool keys_only;   /* answered from heads where the revision allows it; encoded is empty */
    bool no_count;    /* the count of all keys is not wanted: count = items fetched */
    bool count_only;
};

struct mvcc_range_result {
    int64_t revision; /* the revision read at, also the header's "current" for a read at the head */
    int64_t current;  /* current revision at read time: the header's revision */
    int64_t count;
};

/* Visits in key order; a non-zero result of visit ends the walk and is returned (it must be
 * negative). Items are borrowed for the visit. */
int mvcc_range(struct mvcc *m, const struct mvcc_range_options *options,
               int (*visit)(void *arg, const struct mvcc_item *item), void *arg,
               struct mvcc_range_result *ret);

/* ---- history (mvcc_history.c); any thread ---- */

struct mvcc_history_options {
    int64_t from, upto; /* main revisions; upto is published */
    size_t most;        /* changes; the last revision is visited whole, however many it has */
};

/* Both read past the cache, and end early with -ECANCELED when the store is about to be exchanged
 * (db_interrupt()): then they are called again. */

/* What was changed when, in order. A non-zero result of visit ends the walk and is returned (it
 * must be negative); what it gets is borrowed for the visit. *ret_next: the revision behind the
 * last one visited, upto + 1 if that was all. MVCC_E_COMPACTED: from lies below a compaction, and
 * nothing was visited. */
int mvcc_history(struct mvcc *m, const struct mvcc_history_options *options,
                 int (*visit)(void *arg, struct rev rev, enum schema_kind kind, struct bytes key),
                 void *arg, int64_t *ret_next);

struct mvcc_version {
    struct bytes key;
    struct rev rev;
    size_t index; /* the caller's */
};

/* The stored KeyValues of puts that mvcc_history() has told, visited in the order of the store,
 * which versions are brought into. MVCC_E_COMPACTED: one of them is gone by now. */
int mvcc_versions(struct mvcc *m, struct mvcc_version *versions, size_t n,
                  void (*visit)(void *arg, size_t index, struct bytes encoded), void *arg);

/* ---- writing ---- */

/* The batch that the following writes go to. */
void mvcc_batch(struct mvcc *m, struct db_batch *batch);
void mvcc_begin(struct mvcc *m);
/* The live state of key as the current entry sees it. False: absent. *ret is valid until the next
 * write or mvcc_publish(). With want_value, ret->encoded is the stored KeyValue. Negative errors
 * are fatal. */
int mvcc_lookup(struct mvcc *m, struct bytes key, bool want_value, bool *ret_found,
                struct mvcc_item *ret);
/* Stores value under key with that lease (0 = none); keeps the lease attachments right. key and
 * value must live until mvcc_publish(). The revision is mvcc_writer_revision() + 1. */
int mvcc_put(struct mvcc *m, struct bytes key, struct bytes value, int64_t lease);
/* Deletes key if live; *ret_deleted says whether. */
int mvcc_delete(struct mvcc *m, struct bytes key, bool *ret_deleted);
/* Range as the current entry sees it: revision <= 0 reads begin (nothing changed yet) or begin + 1;
 * ret->current = begin, or begin + 1 if changed. */
int mvcc_txn_range(struct mvcc *m, const struct mvcc_range_options *options,
                   int (*visit)(void *arg, const struct mvcc_item *item), void *arg,
                   struct mvcc_range_result *ret);
/* The overlay holds changes of earlier entries. */
bool mvcc_range_needs_flush(const struct mvcc *m);
/* The same for the keys of that lease; may say so in vain. */
bool mvcc_lease_needs_flush(const struct mvcc *m, int64_t lease);
/* The current entry changed something. */
bool mvcc_changed(const struct mvcc *m);
/* Returns the writer revision afterwards. */
int64_t mvcc_end(struct mvcc *m);
/* A change as its record says it. */
struct mvcc_change {
    struct rev rev;
    enum schema_kind kind;
    struct kv kv; /* what is stored; of a deletion the key alone */
};

/* The changes since the last publication, in their order; before mvcc_seal(). Borrowed until then.
 */
const struct mvcc_change *mvcc_changes(const struct mvcc *m, size_t *ret_n);
/* Before db_write(): adds what the entries since the last publication have in common, in an order
 * that suits the store: heads (one a key), revisions, the current revision. */
void mvcc_seal(struct mvcc *m);
/* The sealed batch was written: readers see it, and the overlay is dropped. Between entries, or in
 * one that has not changed anything yet. */
void mvcc_publish(struct mvcc *m);

/* Keys attached to a lease, in byte order, as of the store plus nothing of the overlay: flush first
 * when in apply. */
int mvcc_lease_keys(struct mvcc *m, int64_t lease, int (*visit)(void *arg, struct bytes key),
                    void *arg);

/* ---- compaction ---- */

/* In the apply turn: accepts a compaction at revision (MVCC_E_COMPACTED, MVCC_E_FUTURE otherwise),
 * adds it to the batch. Reads below are refused from mvcc_publish() on. replayed: the entry was
 * committed before this start. Its hash is not kept then: etcd, which wrote the compaction down
 * when it accepted it, would not have one either. */
int mvcc_compact(struct mvcc *m, int64_t revision, bool replayed);
/* Compactor thread: works on accepted compactions in order. One bounded step; *ret_done: nothing
 * left to do. *ret_finished: the highest revision whose deletion is complete. */
int mvcc_compact_step(struct mvcc *m, bool *ret_done, int64_t *ret_finished);

/* ---- hashes ---- */

struct mvcc_hash {
    uint32_t hash;
    int64_t compact_revision;
    int64_t revision; /* hashed up to */
    int64_t current;
};

/* etcd's HashKV at revision (0 = current), with its cache of compaction hashes. MVCC_E_COMPACTED,
 * MVCC_E_FUTURE. A scan: call it off the request threads. */
int mvcc_hash_kv(struct mvcc *m, int64_t revision, struct mvcc_hash *ret);
