/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The applied state as a file of etcd's: a bbolt file with its schema, written from a view of the
 * store and read into an empty one. What tools, backups and etcd members exchange.
 *
 *   bucket           item                                     here (schema.h)
 *   alarm            AlarmMember -> nothing                   s
 *   auth, authRoles, authUsers                                none yet: see SNAPSHOT_E_UNSUPPORTED
 *   cluster          clusterVersion, downgrade                m cluster_version, downgrade
 *   key              revision -> KeyValue, all versions       k (and h, r made from it)
 *   lease            id -> Lease                              l 1 (and l 2 made from the heads)
 *   members          id in hex -> JSON                        c
 *   members_removed  id in hex -> "removed"                   x
 *   meta             consistent_index, term                   m applied
 *                    scheduledCompactRev, finishedCompactRev  m compact_scheduled, compact_finished
 *                    confState, storageVersion                given by the caller
 *
 * Both ways memory is bounded whatever the size of the data (record_sort.h), at the price of a
 * temporary file as large as the versions are.
 *
 * Outcomes come with *ret_error (malloc'd), which says what and where. Negative: the store failed
 * or is damaged; -ECANCELED. Thread: any, one at a time for one store.
 */
#pragma once

#include <stdatomic.h>

#include "raft/types.h"
#include "storage/db.h"

enum {
    SNAPSHOT_E_DAMAGED = 1,     /* import: not what etcd writes */
    SNAPSHOT_E_UNSUPPORTED = 2, /* it holds something that the other form has no place for; nothing
                                   is ever left out silently */
    SNAPSHOT_E_FILE = 3,        /* the file or the temporary one: missing, no space, ... */
};

/* What a file says, as read or as written. */
struct snapshot_facts {
    uint64_t applied;
    uint64_t applied_term;
    int64_t revision;  /* the newest in the key bucket; 0 = none */
    int64_t scheduled; /* compactions; -1 = none */
    int64_t finished;
    uint64_t n_revisions;
    uint64_t file_bytes; /* of the pages, a digest behind them not counted */
};

struct snapshot_export_options {
    struct db *db;
    const struct db_view *view; /* the file is the state of this moment, "applied" included */
    const char *path;           /* overwritten if there; PATH.sort beside it is temporary */
    const char *storage_version;
    const struct raft_conf_state *conf; /* at the view's applied index */
    size_t memory_bytes;                /* for sorting; 0: RECORD_SORT_BYTES */
    const atomic_bool *cancel;          /* set: give up; may be NULL */
};

/* The file is synced, its directory is not. After anything but 0 it is no valid file. */
int snapshot_export(const struct snapshot_export_options *options, struct snapshot_facts *ret,
                    char **ret_error);

struct snapshot_import_options {
    struct db *db; /* empty; to be thrown away after anything but 0 */
    const char *path;
    const char *sort_path; /* temporary, as is SORT_PATH.heads */
    /* Without members and applied index: for the founders of a new cluster, whose log begins
     * anew. */
    bool new_cluster;
    size_t memory_bytes;
    const atomic_bool *cancel;
};

/* The store is then as if it had applied all that the file's member had, and is durable. */
int snapshot_import(const struct snapshot_import_options *options, struct snapshot_facts *ret,
                    char **ret_error);
