/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other members ask the leader about leases: POST /leases and /leases/internal, as etcd's
 * leasehttp answers them. The server answers later, through the wait table; who leaves meanwhile
 * takes the request back (peer_serve.c).
 *
 * Thread: the loop; finish() any.
 */
#include "api/peer_serve.h"

#include "api/status.h"
#include "server/lease_wire.h"
#include "server/lessor.h"

static void finished(struct request *request, enum outcome outcome)
{
    struct peer_serve *s = container_of(request, struct peer_serve, request);

    s->outcome = outcome;
    peer_serve_resume(s);
}

enum peer_step peer_lease_renew_finish(struct peer_serve *s)
{
    int64_t id;

    if (!lease_wire_renew_read(buf_bytes(&s->body_bytes), &id))
        return peer_serve_error(s, 400, "error unmarshalling request\n");
    s->request = (struct request){.kind = REQUEST_LEASE_RENEW, .finish = finished};
    server_peer_lease_renew(s->peer->server, &s->request, id);
    return PEER_STEP_WAIT;
}

/* etcd's handler dies of an empty question, and its connection with it. */
enum peer_step peer_lease_left_finish(struct peer_serve *s)
{
    struct lease_wire_question q;

    if (!lease_wire_question_read(buf_bytes(&s->body_bytes), &q))
        return peer_serve_error(s, 400, "error unmarshalling request\n");
    s->request = (struct request){.kind = REQUEST_LEASE_TIME_TO_LIVE, .finish = finished};
    server_peer_lease_time_to_live(s->peer->server, &s->request, q.id, q.keys);
    return PEER_STEP_WAIT;
}

static void answer(struct peer_serve *s, int other_status)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    switch (s->outcome) {
    case OUTCOME_OK:
        peer_serve_answer(s, (struct peer_answer){.status = 200,
                                                  .content_type = LEASE_WIRE_CONTENT_TYPE,
                                                  .body = buf_bytes(&s->request.response)});
        break;
    case OUTCOME_LEASE_NOT_FOUND: peer_serve_error(s, 404, "lease not found\n"); break;
    case OUTCOME_TIMEOUT_WAIT_APPLIED:
        peer_serve_error(s, 408, "waiting for node to catch up its applied index has timed out\n");
        break;
    default:
        buf_printf(&text, "%s\n", status_of(s->outcome)->text);
        peer_serve_error(s, other_status, buf_cstr(&text));
    }
    buf_deinit(&s->request.response);
}

void peer_lease_renew_resume(struct peer_serve *s)
{
    answer(s, 400);
}

void peer_lease_left_resume(struct peer_serve *s)
{
    answer(s, 500);
}
