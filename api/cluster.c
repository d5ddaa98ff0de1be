/* SPDX-License-Identifier: Apache-2.0 */
/* The Cluster service: changes of members go through the log, the list is local state. Thread: the
 * call's queue. */
#include "api/call.h"
#include "api/handlers.h"
#include "rpc.pb-c.h"

static void change(struct call *call)
{
    server_change_members(call->server, &call->request, call->message);
}

static void promote(struct call *call)
{
    const Etcdserverpb__MemberPromoteRequest *r = call->message;

    server_promote_member(call->server, &call->request, r->id);
}

void cluster_member_add(struct call *call)
{
    call_submit_by(call, REQUEST_MEMBER_ADD, change);
}

void cluster_member_remove(struct call *call)
{
    call_submit_by(call, REQUEST_MEMBER_REMOVE, change);
}

void cluster_member_update(struct call *call)
{
    call_submit_by(call, REQUEST_MEMBER_UPDATE, change);
}

void cluster_member_promote(struct call *call)
{
    call_submit_by(call, REQUEST_MEMBER_PROMOTE, promote);
}

void cluster_member_list(struct call *call)
{
    const Etcdserverpb__MemberListRequest *r = call->message;
    struct call_read_options options = {.linearizable = r->linearizable};
    call_read(call, &options, server_member_list);
}
