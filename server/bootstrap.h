/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From flags and data directory to a raft state to start with: a new cluster of one, or what this
 * member left behind.
 */
#pragma once

#include "raft/raft.h"
#include "server/config.h"
#include "server/data_dir.h"
#include "server/member.h"
#include "storage/wal.h"

struct bootstrap {
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t applied; /* what the database holds */
    uint64_t applied_term;
    struct wal *wal;
    struct wal_recovery recovery;
};

/* db is open. Outcome 1: refused, the reason is logged. Free ret->recovery with
 * wal_recovery_deinit(); the wal is the caller's. */
int bootstrap(struct bootstrap *ret, const struct config *config, const struct data_dir *dir,
              struct db *db);
/* The raft that continues from there. */
int bootstrap_raft(struct raft **ret, const struct bootstrap *b, const struct config *config,
                   struct members *members, uint64_t seed);
