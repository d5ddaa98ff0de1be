/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Maintenance service. Hashes and Defragment walk the whole store, so they run on the scan
 * pool. Alarm goes through the raft log also when it only asks, as in etcd. Thread: the call's
 * queue.
 */
#include "api/call.h"
#include "api/handlers.h"
#include "rpc.pb-c.h"

void maintenance_alarm(struct call *call)
{
    call_submit(call, REQUEST_ALARM);
}

void maintenance_status(struct call *call)
{
    call_read(call, &(struct call_read_options){0}, server_maintenance_status);
}

void maintenance_defragment(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, server_defragment);
}

void maintenance_hash(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, server_hash);
}

void maintenance_hash_kv(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, server_hash_kv);
}

static void move_leader(struct call *call)
{
    const Etcdserverpb__MoveLeaderRequest *r = call->message;

    server_move_leader(call->server, &call->request, r->targetid);
}

void maintenance_move_leader(struct call *call)
{
    call_submit_by(call, REQUEST_MOVE_LEADER, move_leader);
}
