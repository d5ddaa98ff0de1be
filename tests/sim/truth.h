/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all members must agree on: the entries that are committed, and what each of them did. The
 * first member to commit or apply an entry sets the truth, all others are compared with it.
 */
#pragma once

#include "raft/types.h"
#include "tests/sim/model.h"

struct truth_entry {
    uint64_t term;
    enum raft_entry_type type;
    uint64_t committed_in; /* the term of the raft that was first seen to have committed it */
    uint64_t digest;       /* of type and data; 0: not known yet */
    struct blob *data;     /* of an applied entry */
    bool applied;
    bool has_effects;
    uint64_t effects; /* digest */
    uint64_t request_id;
    struct model_mark mark; /* before it was applied */
};

void truth_init(void);
void truth_deinit(void);
uint64_t truth_committed(void); /* the highest index */
uint64_t truth_applied(void);
/* NULL: index is 0 or not committed. */
const struct truth_entry *truth_at(uint64_t index);
/* A raft in that term says that this entry is committed. */
void truth_commit(uint64_t index, uint64_t entry_term, uint64_t in_term, const char *who);
/* A member is about to apply it. */
void truth_apply(const struct raft_entry *entry, const char *who);
void truth_effects(uint64_t index, uint64_t effects, const char *who);
/* The index of the entry with that request; 0: there is none. */
uint64_t truth_find_request(uint64_t request_id);
/* The request of the entry at index; *free_it with internal_raft_request__free_unpacked(). */
Etcdserverpb__InternalRaftRequest *truth_request(uint64_t index);
uint64_t entry_digest(const struct raft_entry *e);
