/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the store must hold: etcd's semantics once more, as simply as can be, over the committed
 * entries. It keeps all versions of all keys for ever, so an answer given at any time can be
 * checked against the state at its revision.
 *
 * Of etcd's requests it knows those that the simulator's clients and members make.
 */
#pragma once

#include "rpc.pb-c.h"
#include "raft_internal.pb-c.h"

#include "base/bytes.h"
#include "server/outcome.h"
#include "storage/kv.h"

/* The state that an entry met. */
struct model_mark {
    uint64_t index;
    int64_t revision;
    int64_t compacted;
    bool no_space;
    bool corrupt;
};

void model_init(void);
void model_deinit(void);
struct model_mark model_now(uint64_t index);
int64_t model_revision(void);
int64_t model_compacted(void);
/* The next entry's effects. */
void model_apply(uint64_t index, const Etcdserverpb__InternalRaftRequest *q);

/* What the entry at mark must have answered: checks the outcome, and with OUTCOME_OK the encoded
 * response. Returns the revision of the response's header, and whether it changed something. */
int64_t model_check_answer(const struct model_mark *mark,
                           const Etcdserverpb__InternalRaftRequest *q, enum outcome outcome,
                           struct bytes response, bool *ret_changed);
/* A range that ran at the revision in its header, or at the one it asked for. Returns the
 * former. */
int64_t model_check_range(const Etcdserverpb__RangeRequest *q, struct bytes response);
/* The same for a transaction of ranges. */
int64_t model_check_ranges(const Etcdserverpb__TxnRequest *q, struct bytes response);
bool model_lease_alive(int64_t id);
/* Of the live key; 0: there is none. */
int64_t model_mod_revision(struct bytes key);
/* A version that a member has stored: it must be one of the model's. kept: that a store which is
 * compacted at that revision still has to have it. */
void model_check_stored(const char *who, int64_t main, uint32_t sub, const struct kv *kv,
                        int64_t compacted, bool *ret_kept);
/* How many such a store must have; *ret_live: and how many keys live. */
uint64_t model_kept(int64_t compacted, uint64_t *ret_live);
uint64_t model_changes(int64_t since); /* of single keys, at that revision and later */
/* A key is live at that revision. */
bool model_any_live(int64_t revision);

/* ---- as watches see it ---- */

struct model_change {
    int64_t main;
    uint32_t sub;
    bool deleted;
    struct kv kv; /* of a deletion: the key and its revision */
};

/* All changes of single keys, in their order, from 0 on. */
size_t model_n_changes(void);
struct model_change model_change(size_t i);
/* The first that is of that revision or later. */
size_t model_find_change(int64_t revision);
/* What the key was before that revision. False: nothing. */
bool model_before(struct bytes key, int64_t main, struct kv *ret);
bool model_within(struct bytes key, struct bytes from, struct bytes end);

/* ---- leases ---- */

struct model_lease {
    int64_t id;
    int64_t ttl_s; /* as asked for */
    int64_t remaining_s;
};

size_t model_leases(struct model_lease **ret); /* that live; malloc'd, in order of their ids */
