/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ordered key-value store under everything: one column family, atomic batches, no log of its
 * own (the raft log is the log). db_rocks.c is RocksDB, db_mem.c a sorted map for tests and the
 * simulator; chosen at link time.
 *
 * After any crash the store holds exactly the batches up to some point: a true prefix of the
 * sequence of db_write() calls. Which one, the batch itself says (it carries the applied index).
 * db_flush() makes all written so far durable.
 *
 * Errors: any failure but "not found" comes after a log line that says what and in which file, is
 * final for the process and never guessed around:
 *   -EBADMSG  what is stored is damaged. A damaged block is found by its checksum whenever it is
 *             read, so there is an error, never a wrong value.
 *   -ENOSPC   the disk, or a quota of it, is full. After db_compact() alone the store goes on.
 *             From db_write() and db_flush(): they have waited DB_ROOM_WAIT_MS for room. All that
 *             was written before is still in memory and can be read.
 *   -EIO      anything else.
 *
 * Thread: reads, views, iterators and db_write() from any thread (writes are put in some order;
 * what must follow another write is written after that one returned), and db_flush(); db_compact()
 * and db_checkpoint() from one owner at a time each.
 */
#pragma once

#include "base/bytes.h"

struct db;
struct db_batch;
struct db_iter;
struct db_view;

struct db_options {
    const char *path;
    uint64_t cache_bytes;        /* 0 = DB_CACHE_BYTES */
    uint64_t write_buffer_bytes; /* 0 = DB_WRITE_BUFFER_BYTES */
    bool read_only;
    /* The prefix bloom: length of the part of key that identifies a user key, or 0 if the key has
     * none (schema.c). */
    size_t (*prefix_len)(struct bytes key);
    /* The disk has turned out to be full: what can be given up for the store should be. Any thread;
     * may be NULL. */
    void (*no_room)(void *arg);
    void *no_room_arg;
};

/* After a lack of room the store takes writes again when there are DB_ROOM_BYTES; it looks every
 * five seconds. */
enum { DB_ROOM_BYTES = 16 << 20, DB_ROOM_WAIT_MS = 12 * 1000 };
enum { DB_BRAKE_BYTES = 1 << 20 }; /* to set the brake: much less, but never without */
enum { DB_CACHE_BYTES = 32 << 20, DB_WRITE_BUFFER_BYTES = 16 << 20 };
enum { DB_PARTS_MAX = 8 }; /* of a key or a value in db_batch_putv() */

enum {
    DB_E_NOT_FOUND = 1,
    DB_E_CORRUPT = 2, /* db_open only: *ret_error says what and where */
};

/* Negative: -EWOULDBLOCK if another process has it open, or as above; *ret_error (malloc'd) has the
 * text then, too. */
int db_open(struct db **ret, const struct db_options *options, char **ret_error);
/* Accepts NULL. Views and iterators are gone by then. May flush, but promises nothing: db_flush()
 * does. */
struct db *db_close(struct db *db);
static inline void db_closep(struct db **db)
{
    *db = db_close(*db);
}

struct db_batch *db_batch_new(void);
struct db_batch *db_batch_free(struct db_batch *b);
void db_batch_clear(struct db_batch *b);
void db_batch_put(struct db_batch *b, struct bytes key, struct bytes value);
/* Key and value in parts, without joining them first. */
void db_batch_putv(struct db_batch *b, const struct bytes *key, size_t n_key,
                   const struct bytes *value, size_t n_value);
void db_batch_delete(struct db_batch *b, struct bytes key);
size_t db_batch_count(const struct db_batch *b);
int db_write(struct db *db, struct db_batch *b); /* atomic; b keeps its contents */

/* A value read: borrowed memory of the store until db_value_release(). */
struct db_value {
    struct bytes bytes;
    void *pin;
};
/* DB_E_NOT_FOUND. */
int db_get(struct db *db, const struct db_view *view, struct bytes key, struct db_value *ret);
void db_value_release(struct db_value *v); /* accepts a zeroed one */

/* A frozen view of the store: reads through it see exactly the batches written before. */
struct db_view *db_view_new(struct db *db);
struct db_view *db_view_free(struct db *db, struct db_view *v);

struct db_iter_options {
    const struct db_view *view; /* NULL: the state at creation */
    struct bytes upper;         /* exclusive bound, copied; empty = none */
    bool one_prefix;            /* it stays within the prefix it seeks to: uses the prefix bloom */
    bool no_cache;              /* a bulk scan that must not evict hot blocks */
};
struct db_iter *db_iter_new(struct db *db, const struct db_iter_options *options);
struct db_iter *db_iter_free(struct db_iter *it);
void db_iter_seek(struct db_iter *it, struct bytes key);      /* first key >= key */
void db_iter_seek_last(struct db_iter *it, struct bytes key); /* last key <= key */
void db_iter_next(struct db_iter *it);
bool db_iter_valid(const struct db_iter *it);
struct bytes db_iter_key(const struct db_iter *it); /* until the next move */
struct bytes db_iter_value(const struct db_iter *it);
int db_iter_error(const struct db_iter *it); /* 0, or negative: the walk ended early */

int db_flush(struct db *db); /* waits until all written so far is durable */
/* While the brake is on, as in a new store, writes and flushes wait when compactions can't keep up
 * with them. On a disk that is nearly full they would wait for ever: one that has no room is not
 * begun. It needs DB_BRAKE_BYTES, and comes on only once nothing would wait for it at once; so ask
 * again and again. From one owner at a time. */
int db_set_brake(struct db *db, bool on);
/* Rewrites everything, without what is deleted or overwritten. Runs beside reads and writes, and
 * may take long; asks go_on (may be NULL) from time to time, and ends early when it says no. */
int db_compact(struct db *db, bool (*go_on)(void *arg), void *arg);
uint64_t db_disk_bytes(struct db *db);      /* live table files */
uint64_t db_used_bytes(struct db *db);      /* estimate of the live data in them and in memory */
uint64_t db_unflushed_bytes(struct db *db); /* in memory only */
/* A consistent copy by hard links; path must not exist. Flushed, it can be opened as a store. */
int db_checkpoint(struct db *db, const char *path);
/* Any thread: the store is about to be closed. Iterators with no_cache, and db_compact(), end early
 * with -ECANCELED from now on. */
void db_interrupt(struct db *db);

/* ---- closed stores, by path ---- */

/* The store at next takes the place of the one at path, durably and in one step: after a crash
 * there is either. What was at path is at next then, or gone. */
int db_exchange(const char *next, const char *path);
/* Removes the store at path, also an unfinished one; none is fine. */
int db_remove(const char *path);
