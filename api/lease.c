/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lease service. LeaseKeepAlive is a stream, of which each request is answered before the next
 * is read, in the order in which they came:
 *
 *   received() ─> server_lease_renew() ─> renewal_finish(), any thread ─> renewed() ─> next
 *
 * Thread: the call's queue, but for renewal_finish().
 */
#include "api/check.h"
#include "api/handlers.h"
#include "api/stream.h"
#include "base/mem.h"
#include "server/cost.h"
#include "server/encode.h"
#include "server/lessor.h"

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

static void ask_time_to_live(struct call *call)
{
    server_lease_time_to_live(call->server, &call->request, call->message);
}

void lease_time_to_live_call(struct call *call)
{
    call_submit_by(call, REQUEST_LEASE_TIME_TO_LIVE, ask_time_to_live);
}

/* Local state, as in etcd. */
void lease_leases_call(struct call *call)
{
    struct call_read_options options = {.scan = true};
    call_read(call, &options, server_lease_leases);
}

/* ---- LeaseKeepAlive ---- */

struct keep_alive {
    struct lease_renewal renewal;
    enum outcome outcome;
    int64_t ttl_s;
    struct response_header header;
};

static void renewal_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct keep_alive *k = container_of(r, struct keep_alive, renewal);
    k->outcome = outcome;
    k->ttl_s = ttl_s;
    call_wake(r->arg);
}

/* The header is made before the lease is renewed: a client must not read of a revision later than
 * that at which the lease was still there. */
static void keep_alive_received(struct call *call)
{
    const Etcdserverpb__LeaseKeepAliveRequest *r = call->message;
    struct keep_alive *k = call->state;
    struct server_info info;
    server_info(call->server, &info);
    server_response_header(call->server, info.revision, &k->header);
    k->renewal = (struct lease_renewal){.id = r->id, .finish = renewal_finish, .arg = call};
    call_await_wake(call);
    server_lease_renew(call->server, &k->renewal);
}

static void keep_alive_renewed(struct call *call)
{
    const struct keep_alive *k = call->state;
    struct buf *out = &call->request.response;
    if (k->outcome) {
        call_answer(call, k->outcome);
        return;
    }
    encode_header(out, &k->header);
    encode_i64(out, 2, k->renewal.id);
    encode_i64(out, 3, k->ttl_s);
    if (stream_send(call, STREAM_FLUSH))
        stream_receive(call);
}

static void keep_alive_half_closed(struct call *call)
{
    call_answer(call, OUTCOME_OK);
}

static void keep_alive_ended(struct call *call)
{
    struct keep_alive *k = call->state;
    if (call->awaited && server_lease_renew_cancel(call->server, &k->renewal))
        call->awaited = false;
}

static void keep_alive_cleanup(struct call *call)
{
    free(call->state);
}

void lease_keep_alive_call(struct call *call)
{
    static const struct stream_handler handler = {.received = keep_alive_received,
                                                  .half_closed = keep_alive_half_closed,
                                                  .sent = stream_receive,
                                                  .woken = keep_alive_renewed,
                                                  .ended = keep_alive_ended};
    call->state = mem_new(struct keep_alive);
    call->cleanup = keep_alive_cleanup;
    stream_start(call, &handler);
    stream_receive(call);
}
