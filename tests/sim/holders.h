/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients with leases of some seconds: each is granted one, hangs keys on it, keeps it alive
 * through any member for a while, asks how much time is left, and then lets it end or revokes it.
 * check_lease.c looks at when leases end, and at what is said of that.
 */
#pragma once

#include "tests/sim/machine.h"

struct lease_renew;
struct rng;

void holders_init(void);
void holders_deinit(void);
void holders_start(void);
void holders_stop(void); /* no new leases, and the old ones are left alone */
/* The member's process is gone. */
void holders_lose(struct machine *m);

/* ---- check_lease.c ---- */

void check_lease_init(void);
void check_lease_deinit(void);
/* A member leads: the first of that term. */
void check_lease_leader(uint64_t term);
/* The raft of this member leads, by now. */
void check_lease_leads(const struct machine *m);
/* A lease is in the table of this member and was renewed there, says lease_renew(). */
void check_lease_renewed(const struct machine *m, int64_t id);
/* A member has looked in its table for that lease, to say how much time is left. */
void check_lease_looked(const struct machine *m, int64_t id);

/* What clients know. Times are true ones, of when they asked. */
void check_lease_granted(int64_t id, int64_t ttl_s, uint64_t asked_ns);
void check_lease_kept(int64_t id, int64_t ttl_s, uint64_t asked_ns); /* ttl_s 0: it is none */
void check_lease_told(int64_t id, int64_t ttl_s, int64_t granted_s, uint64_t asked_ns);
void check_lease_unwanted(int64_t id); /* a client may revoke it from now on */

/* An entry revokes it. */
void check_lease_revoked(int64_t id);
/* The table of a member; on its fiber. */
void check_leases(struct machine *m);
/* Leases with a time that still live. */
size_t check_leases_left(void);
/* By when all are gone if nobody keeps them and nobody else leads. */
uint64_t check_leases_bound_ns(void);
uint64_t check_leases_news(void); /* how often a lease got time */
