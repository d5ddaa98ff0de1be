/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The applied state: the database and what is built on it, opened and closed as one, and exchanged
 * as one when a snapshot replaces it.
 *
 * Whoever uses it on another thread than the apply turn's holds it: store_hold() and
 * store_release() around each read, store_hold_job() and store_release_job() around what may take
 * longer; never across a wait and never twice. An exchange first lets the jobs end, and interrupts
 * their scans in bulk and compactions by hand (-ECANCELED: they begin anew in the new state). Then,
 * for some hundredths of a second, it keeps the readers out.
 *
 * Thread: hold and release any; the apply turn needs neither, because only it exchanges. Opening
 * and closing: the composition root's.
 */
#pragma once

#include <pthread.h>

#include "server/alarm.h"
#include "server/disk_room.h"
#include "server/member.h"
#include "storage/lease.h"
#include "storage/mvcc.h"

struct store_options {
    const char *path; /* of the database; borrowed */
    uint32_t compaction_batch_max;
    int64_t lease_ttl_min_s;
    uint64_t lease_checkpoint_ns; /* 0: never */
    uint64_t cache_bytes;         /* 0: DB_CACHE_BYTES */
    struct disk_room *room;       /* what is set aside for the database; NULL: nothing */
};

struct store {
    struct db *db;
    struct mvcc *mvcc;
    struct lease_table *leases;
    struct members *members;
    struct alarms *alarms;
    /* what the rest is for store.c alone */
    struct store_options options;
    pthread_rwlock_t readers;
    pthread_rwlock_t jobs;
    bool locks_made;
};

/* Outcome 1: refused, the reason is logged. After any result store_close() cleans up. */
int store_open(struct store *s, const struct store_options *options);
void store_close(struct store *s); /* accepts a zeroed one */

void store_hold(struct store *s);
void store_release(struct store *s);
void store_hold_job(struct store *s);
void store_release_job(struct store *s);

/* What a database says that it has applied, through a view (NULL: now); zeros if nothing is. */
int store_applied(struct db *db, const struct db_view *view, uint64_t *ret_index,
                  uint64_t *ret_term);
/* The configuration that its member records make. Free with raft_conf_state_clear(). */
int store_conf(struct db *db, const struct db_view *view, struct raft_conf_state *ret);
/* The closed database at next takes the place of the current one, durably and at once for any
 * reader. What was current is at next then, closed, for snapshot.c to remove. The apply turn's, or
 * before the threads start. Negative: the member must stop; a start finds the one or the other. */
int store_exchange(struct store *s, const char *next);
