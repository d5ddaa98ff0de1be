/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The leases of the state machine: id, TTL, remaining TTL; persisted with the entry that grants,
 * checkpoints or revokes them. Attachments live in the store (schema.h), not here, so nothing is
 * rebuilt at start.
 *
 * When a lease ends is no state. A leader gives each lease a time by its own monotonic clock, and
 * forgets all of them when it does not lead any more.
 *
 * Thread: changes in the apply turn; lookups and times from any thread (one mutex inside).
 */
#pragma once

#include "storage/db.h"

struct lease_table;

enum {
    LEASE_E_NOT_FOUND = 1,
    LEASE_E_EXISTS = 2,
    LEASE_E_TTL_TOO_LARGE = 3,
    LEASE_E_NOT_PRIMARY = 4,  /* this member keeps no times: it does not lead */
    LEASE_E_EXPIRED = 5,      /* its time is over, and it is not revoked yet */
    LEASE_E_CHECKPOINTED = 6, /* what is left of it is in the state, and must go from there first */
    LEASE_E_CHECKPOINTING = 7, /* or is on its way there, and must have come first */
};

#define LEASE_TTL_MAX_S INT64_C(9000000000)
#define LEASE_NEVER UINT64_MAX

/* More than that are not looked at under one lock. */
enum { LEASE_LOOKS_MAX = 500 };

struct lease_info {
    int64_t id;
    int64_t ttl_s;
    int64_t remaining_s; /* checkpointed remaining TTL; 0 = none */
    uint64_t expiry_ns;  /* monotonic; LEASE_NEVER: this member does not lead */
};

int lease_table_open(struct lease_table **ret, struct db *db, int64_t ttl_min_s);
struct lease_table *lease_table_close(struct lease_table *t);
/* Leases that live longer than that become due for a checkpoint that often; 0, and so at the start:
 * never. */
void lease_checkpoint_every(struct lease_table *t, uint64_t interval_ns);

/* ---- apply: each adds to the batch and to the table ---- */

/* *ret_ttl_s: the TTL, raised to the minimum. */
int lease_grant(struct lease_table *t, struct db_batch *batch, int64_t id, int64_t ttl_s,
                int64_t *ret_ttl_s);
int lease_revoke(struct lease_table *t, struct db_batch *batch, int64_t id);
/* What is left of it, for the next leader; its time on this one stays. */
int lease_checkpoint(struct lease_table *t, struct db_batch *batch, int64_t id,
                     int64_t remaining_s);

/* ---- lookups ---- */

bool lease_exists(struct lease_table *t, int64_t id);
int lease_get(struct lease_table *t, int64_t id, struct lease_info *ret);
/* All leases ordered by expiry, then id. *ret_infos is malloc'd. */
size_t lease_list(struct lease_table *t, struct lease_info **ret_infos);

/* ---- the times of a leader (lease_time.c) ---- */

struct lease_leadership {
    uint64_t term; /* not 0 */
    uint64_t now_ns;
    uint64_t extend_ns;
};

/* Became leader: every lease gets now + extend + its remaining (or full) TTL. */
void lease_promote(struct lease_table *t, const struct lease_leadership *l);
/* The leadership of that term is over. The times of another one stay. */
void lease_demote(struct lease_table *t, uint64_t term);
uint64_t lease_primary_term(struct lease_table *t); /* 0: this member keeps no times */

struct lease_renew {
    int64_t id;
    uint64_t now_ns;
    uint64_t term; /* that has begun: the times of an earlier one are worth nothing */
    /* Set when the lease has expired; given again, it is this lease and no later one of that id
     * that is meant. 0: any. */
    uint32_t serial;
    int64_t ttl_s; /* the result */
};
/* Its whole TTL, from now on. */
int lease_renew(struct lease_table *t, struct lease_renew *r);

struct lease_look {
    uint64_t now_ns;
    uint64_t again_ns; /* when what is found is found again, if it is still there */
    uint64_t term;     /* the result: of the times */
    bool more;         /* there may be more */
};
/* The ids of up to n leases whose time is over, the earliest first. Returns how many. */
size_t lease_find_expired(struct lease_table *t, struct lease_look *look, int64_t *ids, size_t n);

struct lease_left {
    int64_t id;
    int64_t remaining_s; /* rounded up */
};
/* Leases whose checkpoint is due. What is found is not renewed before lease_checkpoints_end(), as
 * long as this leadership lasts; and nothing more may be looked for. */
size_t lease_find_checkpoints(struct lease_table *t, struct lease_look *look,
                              struct lease_left *leases, size_t n);
/* What was found is in the state, or will never be. */
void lease_checkpoints_end(struct lease_table *t);
