/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster's version: the leader asks the other members for theirs and, as etcd does, sets the
 * lowest of all, raises it when all are newer, and lowers it while a downgrade is under way.
 *
 * Thread: the ticker's and the transport's.
 */
#pragma once

#include "server/member.h"
#include "server/version.h"

enum { CLUSTER_VERSION_INTERVAL_MS = 4000 };

struct server;
struct cluster_version;

struct cluster_version *cluster_version_new(struct server *s);
/* After the request of its own is finished and the transport is stopped. Accepts NULL. */
struct cluster_version *cluster_version_free(struct cluster_version *v);
void cluster_version_tick(struct cluster_version *v, uint64_t now_ms);

/* What is known when it is to be decided. */
struct version_facts {
    bool is_set; /* there is a cluster version: */
    struct version set;
    bool is_known; /* every member has answered, and the lowest version is: */
    struct version lowest;
    struct downgrade downgrade;
};
/* True: *ret is to be the cluster's version. */
bool cluster_version_decide(const struct version_facts *facts, struct version *ret);
/* The member's version in an answer to GET /version. False: there is none. */
bool cluster_version_parse(struct bytes answer, const char *field, struct version *ret);
