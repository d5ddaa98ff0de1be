/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lease service without its stream (LeaseKeepAlive comes with the streams). Thread: the call's
 * queue.
 */
#include "api/call.h"
#include "api/check.h"
#include "api/handlers.h"
#include "server/cost.h"

enum outcome lease_grant_check(struct server *server, const void *request)
{
    return server_quota_exceeded(server, COST_LEASE_BYTES) ? OUTCOME_NO_SPACE : OUTCOME_OK;
}

/* The proposer chooses the id, so that apply is deterministic: the entry carries it. */
static struct bytes grant_encode_with_id(struct call *call,
                                         const Etcdserverpb__LeaseGrantRequest *r)
{
    Etcdserverpb__LeaseGrantRequest grant = *r;
    grant.id = server_lease_id(call->server);
    size_t len = protobuf_c_message_get_packed_size(&grant.base);
    uint8_t *encoded = arena_alloc(&call->arena, len);
    protobuf_c_message_pack(&grant.base, encoded);
    return bytes_of(encoded, len);
}

void lease_grant_call(struct call *call)
{
    const Etcdserverpb__LeaseGrantRequest *r = call->message;
    call_submit_payload(call, REQUEST_LEASE_GRANT,
                        r->id ? call->payload : grant_encode_with_id(call, r));
}

void lease_revoke_call(struct call *call)
{
    call_submit(call, REQUEST_LEASE_REVOKE);
}

/* etcd's leader waits until it has applied what is committed; a read index implies that. The
 * attached keys may be many. */
void lease_time_to_live_call(struct call *call)
{
    const Etcdserverpb__LeaseTimeToLiveRequest *r = call->message;
    struct call_read_options options = {.linearizable = true, .scan = r->keys};
    call_read(call, &options, server_lease_time_to_live);
}

/* Local state, as in etcd. */
void lease_leases_call(struct call *call)
{
    struct call_read_options options = {.scan = true};
    call_read(call, &options, server_lease_leases);
}
