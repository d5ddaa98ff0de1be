/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configurations: who votes, who learns, and how one configuration becomes the next. Pure functions
 * on struct raft_conf_state; what the change means for replication is raft/member.c's business.
 *
 * Outcome of conf_change(): CONF_E_INVALID, the change can't be applied to this configuration.
 */
#pragma once

#include "raft/types.h"

enum { CONF_E_INVALID = 1 };

bool raft_ids_contains(const struct raft_ids *s, uint64_t id);
bool raft_ids_add(struct raft_ids *s, uint64_t id);        /* false if it was there */
bool raft_ids_remove(struct raft_ids *s, uint64_t id);     /* false if it was not there */
bool raft_ids_equal(const struct raft_ids *a, const struct raft_ids *b);
void raft_ids_copy(struct raft_ids *ret, const struct raft_ids *s);
void raft_ids_deinit(struct raft_ids *s);

void conf_copy(struct raft_conf_state *ret, const struct raft_conf_state *c);
void conf_deinit(struct raft_conf_state *c);
bool conf_equal(const struct raft_conf_state *a, const struct raft_conf_state *b);

/*
 * Sets ascending and without 0 or duplicates, learners disjoint from voters, bounded, and so on.
 * Also right for an empty one.
 */
bool conf_valid(const struct raft_conf_state *c);

static inline bool conf_is_joint(const struct raft_conf_state *c)
{
    return c->voters_outgoing.len > 0;
}

/* One voter in all: its own word is the quorum's. */
static inline bool conf_is_singleton(const struct raft_conf_state *c)
{
    return c->voters.len == 1 && !conf_is_joint(c);
}

/* in either half of a joint configuration */
bool conf_is_voter(const struct raft_conf_state *c, uint64_t id);
bool conf_is_member(const struct raft_conf_state *c, uint64_t id);     /* voter or learner */

/*
 * Applies a change as etcd does: none -> leave the joint configuration; one with an automatic
 * transition -> simple; else enter a joint configuration. ret_fresh gets the ids that begin anew,
 * even if they were members before. Both outputs are the caller's to free.
 */
int conf_change(const struct raft_conf_state *c, const struct raft_conf_change *change,
                struct raft_conf_state *ret, struct raft_ids *ret_fresh);
