/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lessor: when leases end. The leases themselves are state (storage/lease.h); their times are
 * not. Only the leader keeps times, by the monotonic clock, and lets a lease end by proposing its
 * revocation, after a read index has confirmed that it still leads. What a follower is asked goes
 * to the leader through the peer port (/leases, /leases/internal), as in etcd, so that both kinds
 * of members serve each other.
 *
 *     lease_expire.c   the leader: leases whose time is over are revoked, others checkpointed
 *     lease_ask.c      keep-alives and questions for the time left, answered
 *     lease_answer.c   here, or
 *     lease_forward.c  by the leader
 *
 * Thread: any, except where it says otherwise; finish() may come on any thread, also from inside
 * the call, and must not block.
 */
#pragma once

#include "server/outcome.h"
#include "server/server.h"

/* A keep-alive: from server_lease_renew() until finish() it must not be freed. */
struct lease_renewal {
    int64_t id;
    /* OUTCOME_OK: ttl_s is what the lease has again; 0: there is no such lease (not an error on the
     * stream). Else etcd's errors: no leader, time-out, not capable, ... */
    void (*finish)(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s);
    void *arg; /* the maker's */

    struct request request; /* the lessor's own */
};

void server_lease_renew(struct server *s, struct lease_renewal *r);
/* True: taken back, finish() will not be called. False: it was called, or is about to be. */
bool server_lease_renew_cancel(struct server *s, struct lease_renewal *r);

/* ---- the time left ---- */

/* Answers a LeaseTimeToLiveRequest (message, which is looked at before this returns) with the
 * encoded response in request->response. server_cancel() takes it back. */
void server_lease_time_to_live(struct server *s, struct request *request, const void *message);

/* ---- for the peer port: what the leader is asked by another member ---- */

/* Like the two above, but answered by this member or not at all: OUTCOME_NOT_PRIMARY,
 * OUTCOME_LEASE_NOT_FOUND; TIMEOUT_WAIT_APPLIED. The response is the body of etcd's answer. */
void server_peer_lease_renew(struct server *s, struct request *request, int64_t id);
void server_peer_lease_time_to_live(struct server *s, struct request *request, int64_t id,
                                    bool keys);
