/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two files of the member table share: member.c, the table, and member_apply.c, what
 * entries do to it. Thread: see member.h.
 */
#pragma once

#include <pthread.h>

#include "server/member.h"

struct members {
    pthread_mutex_t lock;
    struct member_list list; /* ascending by id */
    uint64_t *removed;       /* ascending */
    size_t n_removed;
    uint64_t local_id; /* of a member that joins, with the list that stands in for the table */
    struct member_list stand_in;
    char cluster_version[16];
    struct downgrade downgrade;
};

#define MEMBERS_VERSION_KEY "cluster_version"
#define MEMBERS_DOWNGRADE_KEY "downgrade"

/* All under the lock. */
void members_insert(struct members *m, struct member member); /* takes it; its id is new */
void members_remove(struct members *m, uint64_t id);
bool members_has_removed(const struct members *m, uint64_t id);
/* -EPROTO: newer than ours. -EBADMSG: no version. */
int members_set_version(struct members *m, const char *version);
