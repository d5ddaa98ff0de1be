/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Maintenance service. Hashes and Defragment walk the whole store, so they run on the scan pool. Alarm goes through the raft log also when
 * it only asks, as in etcd. Thread: the call's queue; defragment() a scan thread.
 */
#include "api/call.h"
#include "api/handlers.h"
#include "base/log.h"

void maintenance_alarm(struct call *call)
{
    call_submit(call, REQUEST_ALARM);
}

void maintenance_status(struct call *call)
{
    call_read(call, &(struct call_read_options){0}, server_maintenance_status);
}

static enum outcome defragment(struct server *server, const void *request, struct buf *response)
{
    log_info("starting defragment");
    enum outcome outcome = server_defragment(server, request, response);
    if (outcome)
        log_warn("failed to defragment", LOG_STR("error", status_of(outcome)->text));
    else
        log_info("finished defragment");
    return outcome;
}

void maintenance_defragment(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, defragment);
}

void maintenance_hash(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, server_hash);
}

void maintenance_hash_kv(struct call *call)
{
    call_read(call, &(struct call_read_options){.scan = true}, server_hash_kv);
}
