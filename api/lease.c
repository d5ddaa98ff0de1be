/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Lease service. LeaseKeepAlive is a stream, of which each request is answered before the next
 * is looked at, in the order in which they came:
 *
 *   received() ─> server_lease_renew() ─> renewal_finish(), any thread ─> renewed() ─> next
 *
 * The next is asked for before the answer goes out. When it is there already, and the leader is
 * here so that nothing is waited for, gRPC need not write this answer yet: the next one follows at
 * once (or when another leader is found, if just then this one is none any more).
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
    bool asking;  /* server_lease_renew() is under way, */
    bool in_turn; /* and who asked will answer if it is done at once */
    bool at_once; /* it was */
    bool at_hand; /* the next request waits until the answer has left */
    bool waits;   /* the answer waits until the last one has left */
};

static void renewal_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct keep_alive *k = container_of(r, struct keep_alive, renewal);
    struct call *call = r->arg;
    k->outcome = outcome;
    k->ttl_s = ttl_s;
    bool at_once = queue_is_current(call->queue) && k->asking;
    if (at_once)
        k->at_once = true;
    if (!at_once || !k->in_turn)
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
    k->at_once = false;
    call_await_wake(call);
    k->asking = true;
    server_lease_renew(call->server, &k->renewal);
    k->asking = false;
}

/* True: it has left already. */
static bool keep_alive_send(struct call *call, enum stream_more more)
{
    const struct keep_alive *k = call->state;
    struct buf *out = &call->request.response;
    encode_header(out, &k->header);
    encode_i64(out, 2, k->renewal.id);
    encode_i64(out, 3, k->ttl_s);
    return stream_send(call, more);
}

/* True: the request that was at hand is renewed, too. */
static bool keep_alive_next(struct call *call, bool in_turn)
{
    struct keep_alive *k = call->state;
    k->at_hand = false;
    k->in_turn = in_turn;
    if (!stream_take(call))
        return false;
    k->in_turn = false;
    if (!in_turn || !k->at_once)
        return false;
    call->awaited = false;
    return true;
}

static void keep_alive_renewed(struct call *call)
{
    struct keep_alive *k = call->state;
    bool more;
    unsigned n = 0;
    if (stream_is_sending(call)) {
        k->waits = true;
        return;
    }
    do {
        if (k->outcome) {
            call_answer(call, k->outcome);
            return;
        }
        k->at_hand = stream_receive_now(call);
        more = k->at_hand && k->at_once && ++n < KEEP_ALIVES_MAX;
        if (!keep_alive_send(call, more ? STREAM_MORE : STREAM_FLUSH))
            return;
    } while (k->at_hand && keep_alive_next(call, more));
}

static void keep_alive_sent(struct call *call)
{
    struct keep_alive *k = call->state;
    bool waits = k->waits;
    k->waits = false;
    if (k->at_hand)
        keep_alive_next(call, false);
    else if (waits)
        keep_alive_renewed(call);
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
                                                  .sent = keep_alive_sent,
                                                  .woken = keep_alive_renewed,
                                                  .ended = keep_alive_ended};
    call->state = mem_new(struct keep_alive);
    call->cleanup = keep_alive_cleanup;
    stream_start(call, &handler);
    stream_receive(call);
}
