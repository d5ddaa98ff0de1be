/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of the cluster: the replicated table, who was removed from it, the cluster's version,
 * and the ids (etcd's SHA-1 rules).
 *
 * Thread: changes in the apply turn; reads from any (one mutex inside).
 */
#pragma once

#include "membership.pb-c.h"
#include "raft.pb-c.h"

#include "raft/types.h"
#include "server/config.h"
#include "server/outcome.h"
#include "storage/db.h"
#include "server/version.h"

struct member {
    uint64_t id;
    char **peer_urls; /* NULL: etcd's JSON has null */
    size_t n_peer_urls;
    bool is_learner;
    char *name; /* "" until published, or NULL */
    char **client_urls;
    size_t n_client_urls;
};

void member_deinit(struct member *m); /* a copy's, or one that was read */
struct member member_copy(const struct member *m);

struct member_list {
    struct member *items;
    size_t len;
};

void member_list_deinit(struct member_list *list);
void member_list_add(struct member_list *list, struct member member);         /* takes it */
struct member *member_list_find(const struct member_list *list, uint64_t id); /* NULL: none */

struct members;

enum { MEMBERS_MAX = 256 }; /* as many as raft takes in one configuration */

/* -EPROTO: the cluster's version is newer than ours; logged in etcd's words. */
int members_open(struct members **ret, struct db *db);
struct members *members_close(struct members *m);

/* A member that joins knows the others from what they told it, long before it has applied that it
 * is a member itself. Until then visit, copy and find see this list instead of the table. Takes the
 * list. */
void members_stand_in(struct members *m, uint64_t local_id, struct member_list *list);

/* Calls visit for each member in ascending id order, under the lock: visit must be short. */
void members_visit(struct members *m, void (*visit)(void *arg, const struct member *member),
                   void *arg);
void members_copy(struct members *m, struct member_list *ret); /* ascending by id */
/* False: there is none. ret may be NULL. */
bool members_find(struct members *m, uint64_t id, bool *ret_is_learner);
bool members_is_removed(struct members *m, uint64_t id);
/* The configuration that raft starts with. Free with raft_conf_state_clear(). */
void members_conf(struct members *m, struct raft_conf_state *ret);
void raft_conf_state_clear(struct raft_conf_state *conf);
/* "" until decided. */
void members_cluster_version(struct members *m, char ret[16]);

struct downgrade {
    bool enabled;
    char target[VERSION_TEXT_MAX]; /* "" unless enabled */
};
void members_downgrade(struct members *m, struct downgrade *ret);

/* ---- apply (member_apply.c): each adds to the batch and to the table. Negative: the change can't
 * be applied by this version; the member must stop. ---- */

/* A ConfChange: of a request, or of none (0). context: a member's JSON, or empty. */
struct blob *member_change_encode(uint64_t request_id, Raftpb__ConfChangeType type,
                                  uint64_t member_id, struct bytes context);
/* Outcome: the change is refused, by etcd's rules, with that enum outcome; nothing has changed. */
int members_apply_conf_change(struct members *m, struct db_batch *batch,
                              const Raftpb__ConfChange *change, size_t learners_max,
                              struct raft_conf_single *ret);
/* Of a member that is not there any more: nothing to do. */
int members_apply_attributes(struct members *m, struct db_batch *batch,
                             const Membershippb__ClusterMemberAttrSetRequest *request);
/* -EPROTO: as members_open(). */
int members_apply_version(struct members *m, struct db_batch *batch, const char *version);
int members_apply_downgrade(struct members *m, struct db_batch *batch,
                            const Membershippb__DowngradeInfoSetRequest *request);

/* ---- etcd's ids ---- */

/* urls are sorted bytewise by the caller's text. A founding member has a token and no time; one
 * that is added at run time has no token and the seconds of that moment. */
uint64_t member_id_of(char *const *sorted_urls, size_t n, const char *token);
uint64_t member_id_of_added(char *const *sorted_urls, size_t n, uint64_t unix_s);
uint64_t cluster_id_of(const uint64_t *sorted_member_ids, size_t n);
