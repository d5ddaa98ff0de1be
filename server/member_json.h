/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members in JSON, as etcd writes and reads them: the stored record, the context of a configuration
 * change, the list that /members of the peer port answers, and the record of a downgrade.
 *
 *     {"id":3751265251792375925,"peerURLs":["http://127.0.0.1:2380"],"isLearner":true,
 *      "name":"a","clientURLs":["http://127.0.0.1:2379"]}       (in one line)
 *
 * isLearner only if true, name and clientURLs only if not empty; peer URLs that are NULL are null.
 *
 * Outcome MEMBER_JSON_E_INVALID: no such JSON, or beyond a limit; *ret is untouched. Thread: any.
 */
#pragma once

#include "server/member.h"

enum { MEMBER_JSON_E_INVALID = 1 };

enum { MEMBER_JSON_BYTES_MAX = 4 << 20, MEMBER_JSON_LIST_MAX = 1024 };

void member_json(struct buf *out, const struct member *member);
/* The context of a promotion: an id, no URLs, and the mark that it is one. */
void member_json_promotion(struct buf *out, uint64_t member_id);
/* In brackets, with the line's end that Go's encoder writes. */
void member_json_list(struct buf *out, const struct member_list *list);

/* Unknown fields are passed over, null is absent, an absent id is 0. ret_is_promotion may be NULL.
 * Free with member_deinit(). */
int member_json_parse(struct bytes text, struct member *ret, bool *ret_is_promotion);
/* In the order in which they came. Free with member_list_deinit(). */
int member_json_list_parse(struct bytes text, struct member_list *ret);

/* {"target-version":"3.6.0","enabled":true} */
void member_json_downgrade(struct buf *out, const struct downgrade *downgrade);
int member_json_downgrade_parse(struct bytes text, struct downgrade *ret);
