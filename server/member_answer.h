/* SPDX-License-Identifier: Apache-2.0 */
/* Members in answers to clients: the lists, and the answers to changes of members. Thread: any. */
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
