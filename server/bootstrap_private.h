/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of bootstrap share: bootstrap.c, the ways into it and the restart;
 * bootstrap_new.c, a new cluster; bootstrap_join.c, one that exists; bootstrap_ask.c, questions to
 * other members; bootstrap_force.c, --force-new-cluster. Outcome 1 of each: refused, the reason is
 * logged.
 *
 * Thread: the composition root's.
 */
#pragma once

#include "server/bootstrap.h"
#include "server/initial_cluster.h"
#include "server/version.h"

enum {
    BOOTSTRAP_ASK_NEW_MS = 1000,   /* for each URL: does anybody know this member already? */
    BOOTSTRAP_ASK_JOIN_MS = 10000, /* for each URL: who are the members? */
};

/* Logs it in the form that etcd gives the reason why a start failed; returns 1. */
int bootstrap_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Opens the log; *ret_outcome is the WAL_E_* outcome. */
int bootstrap_open_log(struct bootstrap *b, const struct bootstrap_options *o, bool create,
                       int *ret_outcome);
/* Writes entries that are committed already, with the hard state, and puts them behind those of the
 * recovery. Takes them. */
int bootstrap_append(struct bootstrap *b, const struct raft_hard_state *hard_state,
                     const struct raft_entry *entries, size_t n);

/* create: there is no log; else it is empty, after a crash. */
int bootstrap_new(struct bootstrap *b, const struct bootstrap_options *o, bool create);
int bootstrap_join(struct bootstrap *b, const struct bootstrap_options *o);
int bootstrap_force(struct bootstrap *b, const struct bootstrap_options *o);

/* The members of --initial-cluster with the ids that founders have, ascending by id. */
int bootstrap_founders(const struct config *config, struct member_list *ret);

/* ---- questions to other members ---- */

/* A cluster as one of its members sees it. */
struct bootstrap_cluster {
    uint64_t id;
    struct member_list members;
};

/* That member has been at work there: it has said how clients reach it. */
static inline bool bootstrap_is_started(const struct member_list *members, uint64_t id)
{
    const struct member *m = member_list_find(members, id);

    return m && m->n_client_urls > 0;
}

/* Asks those URLs GET /members, one after the other: the first answer that fits, or else the first
 * usable one; fits NULL: that at once. False: there was none; *ret_error (malloc'd) says so as etcd
 * does. */
bool bootstrap_ask_members(struct transport *t, char *const *urls, size_t n, uint64_t timeout_ms,
                           bool (*fits)(void *arg, const struct member_list *members), void *arg,
                           struct bootstrap_cluster *ret, char **ret_error);
/* Can a member of our version live in that cluster? All others are asked for their versions, and
 * whether a downgrade is under way; timeout_ms: for each member. */
bool bootstrap_is_compatible(struct transport *t, const struct member_list *members,
                             uint64_t local_id, uint64_t timeout_ms);
