/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From flags and data directory to a raft state to start with: a new cluster, a place in one that
 * exists, what this member left behind, or that as a cluster of its own (--force-new-cluster).
 *
 * Thread: the composition root's. A first start may wait for other members and for names to be
 * resolved.
 */
#pragma once

#include "raft/raft.h"
#include "server/config.h"
#include "server/data_dir.h"
#include "server/store.h"
#include "storage/wal.h"

struct transport;

struct bootstrap_options {
    const struct config *config;
    const struct data_dir *dir;
    struct store *store; /* open; a snapshot may be installed in it, which changes all of it */
    struct transport *transport; /* NULL: nobody can be asked */
    uint32_t wal_salt;           /* of a new log: a random number */
    uint64_t wal_segment_bytes;  /* 0: WAL_SEGMENT_BYTES; tests make it small */
    bool wal_single_threaded;
};

struct bootstrap {
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t applied; /* what the database holds */
    uint64_t applied_term;
    struct wal *wal;
    struct wal_recovery recovery;
};

/* The flags that only a first start looks at. Outcome 1: refused, the reason is logged. */
int bootstrap_check_flags(const struct config *config);
/* Outcome 1: refused, the reason is logged. Free ret->recovery with wal_recovery_deinit(); the wal
 * is the caller's. */
int bootstrap(struct bootstrap *ret, const struct bootstrap_options *options);
/* The raft that continues from there. */
int bootstrap_raft(struct raft **ret, const struct bootstrap *b, const struct config *config,
                   struct members *members, uint64_t seed);
