/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leases of the state machine: id, TTL, remaining TTL; persisted with the entry that grants or
 * revokes them. Attachments live in the store (schema.h), not here, so nothing is rebuilt at start.
 * Expiry times exist only on the leader and are not state.
 *
 * Thread: changes in the apply turn; lookups from any thread (one mutex inside).
 */
#pragma once

#include "storage/db.h"

struct lease_table;

enum {
    LEASE_E_NOT_FOUND = 1,
    LEASE_E_EXISTS = 2,
    LEASE_E_TTL_TOO_LARGE = 3,
};

#define LEASE_TTL_MAX_S INT64_C(9000000000)

struct lease_info {
    int64_t id;
    int64_t ttl_s;
    int64_t remaining_s; /* checkpointed remaining TTL; 0 = none */
    uint64_t expiry_ms;  /* monotonic; UINT64_MAX = never (not the leader) */
};

int lease_table_open(struct lease_table **ret, struct db *db, int64_t ttl_min_s);
struct lease_table *lease_table_close(struct lease_table *t);

/* Apply: adds to the batch and to the table. *ret_ttl_s: the TTL, raised to the minimum. */
int lease_grant(struct lease_table *t, struct db_batch *batch, int64_t id, int64_t ttl_s,
                int64_t *ret_ttl_s);
int lease_revoke(struct lease_table *t, struct db_batch *batch, int64_t id);
bool lease_exists(struct lease_table *t, int64_t id);
int lease_get(struct lease_table *t, int64_t id, struct lease_info *ret);
/* All leases ordered by expiry, then id. *ret_infos is malloc'd. */
size_t lease_list(struct lease_table *t, struct lease_info **ret_infos);
/* Became leader: every lease gets now + extend + its remaining (or full) TTL. Lost leadership:
 * never. */
void lease_promote(struct lease_table *t, uint64_t now_ms, uint64_t extend_ms);
void lease_demote(struct lease_table *t);
