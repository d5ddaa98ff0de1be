/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lease service. LeaseKeepAlive is a stream; its requests are answered in the order in which
 * they came:
 *
 *   received() ─> server_lease_renew() ─> renewal_finish(), any thread ─> renewed() ─> next
 *
 * A client with many leases sends all that are due at once. So the next request is asked for before
 * an answer goes out; if it is there, and its lease is renewed at once, its answer follows, and
 * gRPC need not write this one yet. Nothing is waited for while an answer is held back; but what
 * gRPC itself refuses, such as a message that it can't decompress, ends the stream with it.
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

enum { KEEP_ALIVES_MAX = 128 }; /* answered one behind the other */

struct keep_alive {
    struct lease_renewal renewal;
    enum outcome outcome;
    int64_t ttl_s;
    struct response_header header;
    bool owed;    /* asked and not answered; renewed, unless the call awaits a wake */
    bool in_turn; /* who asks will answer, too, if it is done at once */
};

static void renewal_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct keep_alive *k = container_of(r, struct keep_alive, renewal);
    struct call *call = r->arg;
    k->outcome = outcome;
    k->ttl_s = ttl_s;
    if (queue_is_current(call->queue) && k->in_turn)
        call->awaited = false;
    else
        call_wake(call);
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
    k->owed = true;
    call_await_wake(call);
    server_lease_renew(call->server, &k->renewal);
}

static void keep_alive_encode(struct call *call)
{
    struct keep_alive *k = call->state;
    struct buf *out = &call->request.response;
    encode_header(out, &k->header);
    encode_i64(out, 2, k->renewal.id);
    encode_i64(out, 3, k->ttl_s);
    k->owed = false;
}

/* Also sent(). Behind the last request the answer leaves together with the status. */
static void keep_alive_renewed(struct call *call)
{
    struct keep_alive *k = call->state;
    bool more = true;
    for (unsigned n = 0; more && k->owed && !call->awaited && !stream_is_sending(call); n++) {
        if (k->outcome) {
            call_answer(call, k->outcome);
            return;
        }
        keep_alive_encode(call);
        if (stream_receive_now(call)) {
            k->in_turn = n < KEEP_ALIVES_MAX;
            call->last = true;
            if (!stream_take(call))
                return;
            call->last = k->in_turn = false;
        }
        more = k->owed && !call->awaited && !call->collected;
        stream_send(call, more ? STREAM_MORE : STREAM_FLUSH);
    }
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
                                                  .sent = keep_alive_renewed,
                                                  .woken = keep_alive_renewed,
                                                  .ended = keep_alive_ended};
    call->state = mem_new(struct keep_alive);
    call->cleanup = keep_alive_cleanup;
    stream_start(call, &handler);
    stream_receive(call);
}
