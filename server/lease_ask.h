/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keep-alives and questions for the time left of a lease (lessor.h has the doors), as long as they
 * can't be answered at once.
 *
 * Thread: each function says which.
 */
#pragma once

#include "server/member.h"
#include "server/server_private.h"

enum {
    LEASE_ASKS_MAX = 65536,
    LEASE_FORWARDS_MAX = 256,     /* at the leader at once; each is a connection */
    LEASE_APPLIED_WAIT_MS = 1000, /* etcd's patience */
};

struct lease_asks;

struct lease_asks *lease_asks_new(struct server *s);
/* After node and transport have let go of what they had. Accepts NULL. */
struct lease_asks *lease_asks_free(struct lease_asks *all);
void lease_asks_tick(struct lease_asks *all); /* the ticker's */
/* The apply turn's: applied has been raised. */
void lease_asks_applied(struct lease_asks *all, uint64_t applied);
