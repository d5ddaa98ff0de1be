/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of the cluster: the replicated table, its stored form (etcd's JSON), and the ids
 * (etcd's SHA-1 rules).
 *
 * Thread: changes in the apply turn; reads from any (one mutex inside).
 */
#pragma once

#include "membership.pb-c.h"
#include "raft.pb-c.h"

#include "raft/types.h"
#include "server/config.h"
#include "storage/db.h"

struct member {
    uint64_t id;
    char **peer_urls;
    size_t n_peer_urls;
    bool is_learner;
    char *name; /* "" until published */
    char **client_urls;
    size_t n_client_urls;
};

struct members;

int members_open(struct members **ret, struct db *db);
struct members *members_close(struct members *m);

/* Calls visit for each member in ascending id order, under the lock: visit must be short. */
void members_visit(struct members *m, void (*visit)(void *arg, const struct member *member),
                   void *arg);
/* The configuration that raft starts with. Free with raft_conf_state_clear(). */
void members_conf(struct members *m, struct raft_conf_state *ret);
void raft_conf_state_clear(struct raft_conf_state *conf);
/* "" until decided. */
void members_cluster_version(struct members *m, char ret[16]);

/* Apply: adds to the batch and to the table. Negative: the change can't be applied by this version;
 * the member must stop. *ret is what raft is told (node_id 0: refused). */
int members_apply_conf_change(struct members *m, struct db_batch *batch,
                              const Raftpb__ConfChange *change, struct raft_conf_single *ret);
/* Outcome 1: no such member. */
int members_apply_attributes(struct members *m, struct db_batch *batch,
                             const Membershippb__ClusterMemberAttrSetRequest *request);
int members_apply_version(struct members *m, struct db_batch *batch, const char *version);

/* etcd's ids. urls are sorted bytewise by the caller's text; a bootstrap member has no time. */
uint64_t member_id_of(char *const *sorted_urls, size_t n, const char *token);
uint64_t cluster_id_of(const uint64_t *sorted_member_ids, size_t n);
/* etcd's JSON of a member, as stored and as the context of a configuration change. */
void member_json(struct buf *out, const struct member *member);
