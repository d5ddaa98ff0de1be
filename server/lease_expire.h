/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How leases end: the leader proposes the revocation of those whose time is over, and checkpoints
 * of those that live long (behind etcd's feature gate).
 *
 * Thread: lease_expiry_tick() the ticker's.
 */
#pragma once

#include "server/server_private.h"

struct lease_expiry;

enum {
    REVOKES_PENDING_MAX = 16,                  /* proposals under way; etcd's number */
    REVOKES_PER_TICK = 600,                    /* and so 6,000 a second; etcd: 1,000 */
    REVOKES_QUEUED_MAX = 2 * REVOKES_PER_TICK, /* confirmed, and not proposed yet */
    CHECKPOINTS_AT_ONCE = 1000,                /* leases in one entry; etcd's number */
};

#define LEASE_CHECKPOINT_NS (UINT64_C(300) * 1000000000) /* etcd's interval */

struct lease_expiry *lease_expiry_new(struct server *s);
struct lease_expiry *lease_expiry_free(struct lease_expiry *e); /* accepts NULL */
void lease_expiry_tick(struct lease_expiry *e);

/* The raft worker has ticked lately: it is not stuck at its disk or stopped with a leadership that
 * is long over. etcd asks no quorum then. */
bool lease_leader_is_active(const struct server *s);
