/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log on disk: entries, hard states and snapshot markers in segments that are written
 * once before use and recycled, because a sync into written blocks takes half as long (see
 * docs/decisions). wal_format.c's head has the format.
 *
 * Promises:
 *   - what wal_sync() returned 0 for is there after any crash; anything later may be missing,
 *     never altered unnoticed.
 *   - a torn tail (the last write cut by a crash) is repaired at open; corruption anywhere else
 *     is refused, with file and offset.
 *   - after an unclean stop the valid tail is rewritten and synced before wal_open() returns, so
 *     that nothing rests on a page cache that a failed sync may have falsified.
 *   - a failed write or sync is final: the functions return the error once, every later call
 *     -EIO. The owner stops the process.
 * One thing can't be told: damage to the last synced write when nothing was written after it and
 * the stop was not clean looks like a torn tail. So an owner that falls idle should write its
 * moved commit index with wal_flush(): that record says that the one before it was synced.
 *
 * Thread: one owner (raft); wal_open() and wal_close() from the composition root.
 */
#pragma once

#include "raft/types.h"

struct wal;

enum {
    WAL_E_CORRUPT = 1, /* error text in wal_recovery.error; nothing was changed on disk */
    WAL_E_FOREIGN = 2, /* the directory belongs to another cluster or member */
    WAL_E_MISSING = 3, /* no log in the directory, and options.create is false */
};

struct wal_options {
    const char *dir;     /* made if missing and create */
    bool create;         /* no log there: make one */
    uint64_t cluster_id; /* create: stored; open: compared unless 0 */
    uint64_t member_id;
    uint64_t segment_bytes;      /* 0 = WAL_SEGMENT_BYTES */
    uint32_t spare_segments_max; /* recycled segments kept ready; 0 = 2 */
    /* The database's. The log must reach it; entries up to here need not be returned. */
    uint64_t applied_index;
    /* Of those, so many are returned all the same, if the log still holds them: the last ones, with
     * payloads of no more than so many bytes. */
    uint64_t kept_entries;
    uint64_t kept_bytes_max;
    /* For a new log: a random number. Seeds the checksums, so that no stored value can pass for
     * a record. */
    uint32_t salt;
    bool unsafe_no_sync; /* --unsafe-no-fsync */
    bool keep_all;       /* segments are never recycled */
    /* Simulator and tests: spare segments are made on the spot, not by a thread. */
    bool single_threaded;
};

enum { WAL_SEGMENT_BYTES = 64 << 20, WAL_RECORD_BYTES_MAX = 64 << 20 };

/* What wal_open() found. Free with wal_recovery_deinit(). */
struct wal_recovery {
    uint64_t cluster_id;
    uint64_t member_id;
    bool created;
    bool clean;              /* the last stop was orderly */
    uint64_t repaired_bytes; /* length of a torn tail that was cut off */
    struct raft_hard_state hard_state;
    uint64_t snapshot_index; /* newest snapshot marker; 0 = none */
    uint64_t snapshot_term;
    uint64_t first_index; /* lowest index the log still holds; 0 = no entries */
    /* applied_index + 1 onwards, consecutive; each holds a reference. If a snapshot above
     * applied_index replaced the log: snapshot_index + 1 onwards. With kept_entries some before
     * that: base_index + 1 onwards in any case. */
    struct raft_entry *entries;
    size_t n_entries;
    uint64_t base_index;
    uint64_t base_term;
    uint64_t applied_term; /* term of the entry at applied_index; 0 if the log no longer holds it */
    char *error;           /* WAL_E_*: what is wrong and where */
};

int wal_open(struct wal **ret, const struct wal_options *options, struct wal_recovery *recovery);
void wal_recovery_deinit(struct wal_recovery *recovery);
/* Syncs, marks the log clean, frees. Accepts NULL. */
struct wal *wal_close(struct wal *w);
/* Frees without marking clean or syncing: for tests and for the way out after an error. */
struct wal *wal_abandon(struct wal *w);

/* Buffers records in memory and writes them in one go at wal_sync() (or earlier when the buffer
 * or the segment is full). An entry with index i discards all stored entries >= i. Entries go
 * before the hard state. Either argument may be NULL/0. Checked: no gap between entries, no
 * entry at or below the commit index, no commit index above the last entry. */
int wal_append(struct wal *w, const struct raft_hard_state *hard_state,
               const struct raft_entry *entries, size_t n_entries);
/* A snapshot marker. Above the hard state's commit index it replaces the log: all entries are
 * discarded and the next one is index + 1; the hard state with commit >= index comes after it.
 * At or below the commit index nothing is discarded. */
int wal_append_snapshot(struct wal *w, uint64_t index, uint64_t term);
/* Makes all that was appended durable: one write, one fdatasync. */
int wal_sync(struct wal *w);
/* Writes without waiting for the disk: for a hard state whose commit alone moved. */
int wal_flush(struct wal *w);

/* Segments whose entries are all <= index are recycled. The caller promises that the database is
 * durable up to index. */
int wal_release(struct wal *w, uint64_t index);

/* What the owner knows of the disk; called on the owner's thread and on one of the log's own. */
struct wal_room {
    /* False: no segment of so many bytes is to be written ahead, since others need the room. */
    bool (*fits)(void *arg, uint64_t bytes);
    /* There is no room for the next segment. A release soon after helps: what is recycled needs
     * none. */
    void (*lacks)(void *arg);
    uint32_t wait_ms; /* so long a segment that can't wait any more waits for room */
    void *arg;
};
void wal_set_room(struct wal *w, const struct wal_room *room); /* before the first append */
uint64_t wal_first_index(const struct wal *w);
uint64_t wal_size_bytes(const struct wal *w);

/* Reads a log without changing anything, also while a member uses it (it then sees what is
 * written so far). visit may stop the walk with a non-zero result, which is returned.
 * WAL_E_CORRUPT: as wal_open; *ret_error is malloc'd. -ESTALE: the member released what was
 * being read; begin anew. Records come in the order in which they were written, overwritten ones
 * included; first the snapshot and hard state that the oldest segment carries over. */
struct wal_record {
    enum { WAL_RECORD_ENTRY, WAL_RECORD_HARD_STATE, WAL_RECORD_SNAPSHOT } type;
    struct raft_entry entry; /* borrowed */
    struct raft_hard_state hard_state;
    uint64_t snapshot_index;
    uint64_t snapshot_term;
    const char *file;
    uint64_t offset;
    uint64_t lsn; /* position in the log's whole history: grows, and never names two records */
};
int wal_read(const char *dir, int (*visit)(void *arg, const struct wal_record *record), void *arg,
             char **ret_error);

/* etcd's metrics of the log's writes: duration and bytes. Once, before the first wal_open(). The
 * owner times its syncs. */
void wal_metrics_register(void);
