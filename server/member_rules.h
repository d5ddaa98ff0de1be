/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's rules for changes of members, looked at before anything is proposed: with
 * --strict-reconfig-check none may leave the cluster without a quorum of started, connected
 * members. Pure functions over a copy of the table. Thread: any.
 */
#pragma once

#include "server/member.h"

enum {
    MEMBER_HEALTH_MS = 5000, /* a connection counts that has held for longer */
    MEMBER_URLS_MAX = 256,   /* of one member; more is refused */
};

struct member_situation {
    const struct member_list *members;
    uint64_t local_id;
    /* For how long messages have reached that member; 0: they don't. */
    uint64_t (*active_ms)(void *arg, uint64_t member_id);
    void *arg;
};

enum outcome member_may_add(const struct member_situation *s, bool is_learner);
enum outcome member_may_remove(const struct member_situation *s, uint64_t member_id);
enum outcome member_may_promote(const struct member_situation *s);
/* match: how far the logs of the learner and of the leader itself have come. */
enum outcome member_is_ready(uint64_t learner_match, uint64_t leader_match);

/* True: this member has been connected with a quorum of voters and learners for that long (a
 * request's time-out has another reason then). */
bool member_has_quorum_since(const struct member_situation *s, uint64_t ms);

/* URLs as a client gave them, checked and in etcd's form, sorted; not each once. *ret is malloc'd
 * with its strings; false: one is none, or there are none, or too many. */
bool member_urls_parse(char *const *texts, size_t n, char ***ret);
