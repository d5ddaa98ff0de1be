/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members in answers: lists and changes of members for clients, promotions also for the members
 * that pass them on (server_peer_promote_answer() of peer_door.h is here, too). Thread: any.
 */
#pragma once

#include "server/encode.h"
#include "server/member.h"
#include "server/request.h"

/* Every member, ascending by id, as the repeated field. */
void member_answer_list(struct buf *out, uint32_t field, struct members *members);
void member_answer_copy(struct buf *out, uint32_t field, const struct member_list *list);
/* The answer to a change of the member with that id, which was applied just now. The header has no
 * revision, as in etcd. */
void member_answer_change(struct request *request, const struct response_header *header,
                          struct members *members, uint64_t member_id);

/* etcd's words at /members/promote: a member that passes a promotion on looks for them. */
#define PROMOTE_NOT_LEARNER_TEXT "membership: can only promote a learner member"
#define PROMOTE_NOT_READY_TEXT                                                                     \
    "etcdserver: can only promote a learner member which is in sync with leader"
