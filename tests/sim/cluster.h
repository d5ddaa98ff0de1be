/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of the cluster as the committed configuration entries make them, by etcd's rules,
 * once more and apart from production code.
 */
#pragma once

#include "raft/types.h"
#include "tests/sim/world.h"

enum { CONF_MEMBERS_MAX = MACHINES_MAX };

struct conf_member {
    uint64_t id;
    unsigned number; /* of its machine */
    bool learner;
};

struct conf {
    uint64_t index; /* of the entry that made it */
    unsigned len;
    struct conf_member members[CONF_MEMBERS_MAX];
};

void cluster_init(void);
void cluster_deinit(void);
/* The next committed configuration entry. */
void cluster_apply(const struct raft_entry *entry);
/* As of all entries up to index. */
const struct conf *cluster_at(uint64_t index);
const struct conf *cluster_now(void);
/* The one that was made from c; NULL: none is committed. */
const struct conf *cluster_after(const struct conf *c);
const struct conf_member *cluster_find(const struct conf *c, uint64_t id);
const struct conf_member *cluster_of_machine(const struct conf *c, unsigned number);
unsigned cluster_voters(const struct conf *c);
bool cluster_is_removed(uint64_t id);
/* The index of the entry that removed it; UINT64_MAX: none did. */
uint64_t cluster_removed_at(uint64_t id);
/* The machine that a member had, also one that was removed; 0: no such member. */
unsigned cluster_number(uint64_t id);
/* The text of --initial-cluster. Free it. */
char *cluster_text(const struct conf *c);
