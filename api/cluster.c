/* SPDX-License-Identifier: Apache-2.0 */
/* The Cluster service: the list of members. Changes come with consensus among several members.
 * Thread: the call's queue. */
#include "api/call.h"
#include "api/handlers.h"
#include "rpc.pb-c.h"

void cluster_member_list(struct call *call)
{
    const Etcdserverpb__MemberListRequest *r = call->message;
    struct call_read_options options = {.linearizable = r->linearizable};
    call_read(call, &options, server_member_list);
}
