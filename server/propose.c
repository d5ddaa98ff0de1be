/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The request path: what happens to every request that changes something, in this order and nowhere
 * else.
 *
 *   1. apply is far behind commit: refuse.
 *   2. a request id, unique over members and restarts.
 *   3. who is calling? A bad token is refused here; apply checks permissions again.
 *   4. encode; too large (or nested deeper than apply takes): refuse.
 *   5. register in the wait table, before proposing.
 *   6. propose. Full: take it back and refuse. Without a leader the proposal waits at the raft
 *      worker until its time is over.
 *   7. the request is finished exactly once: by its result, its time-out, or the stop; or the
 *      client takes it back.
 *
 * A request that timed out may still be applied; its result then finds nobody and is dropped.
 * Nothing is ever proposed twice.
 *
 * Thread: any.
 */
#include "auth/auth.h"
#include "base/clock.h"
#include "base/log.h"
#include "server/internal_request.h"
#include "server/server_metrics.h"
#include "server/server_private.h"
#include "server/txn.h"

enum { APPLY_BEHIND_MAX = 5000 };

int64_t server_lease_id(struct server *s)
{
    return (int64_t)(server_state_next_id(&s->state) & INT64_MAX);
}

static void refuse(struct request *request, enum outcome outcome)
{
    metric_add(&metric_proposals_failed, 1);
    request->finish(request, outcome);
}

static bool apply_is_behind(struct server *s)
{
    uint64_t committed = atomic_load_explicit(&s->state.committed, memory_order_acquire);
    uint64_t applied = atomic_load_explicit(&s->state.applied, memory_order_acquire);

    return committed > applied + APPLY_BEHIND_MAX;
}

static void prepare(struct server *s, struct request *request)
{
    request->id = server_state_next_id(&s->state);
    request->expires_ms = clock_mono_ms() + s->state.request_timeout_ms;
}

void server_submit(struct server *s, struct request *request)
{
    struct identity identity;
    struct blob *entry;

    if (apply_is_behind(s)) {
        request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
        return;
    }
    if (request->kind == REQUEST_TXN && !txn_bytes_depth_ok(request->payload, TXN_DEPTH_MAX)) {
        request->finish(request, OUTCOME_TOO_MANY_OPS);
        return;
    }
    prepare(s, request);
    if (auth_identify(request->credentials.token, request->credentials.certificate_name,
                      &identity) != 0) {
        request->finish(request, OUTCOME_INVALID_AUTH_TOKEN);
        return;
    }
    entry = internal_request_encode(request->kind, request->payload, request->id, &identity);
    if (entry->len + request->stripped_bytes > s->config->max_request_bytes) {
        blob_unref(entry);
        request->finish(request, OUTCOME_REQUEST_TOO_LARGE);
        return;
    }
    struct raft_entry proposal = {.term = request->only_term, .data = entry};
    uint64_t id = request->id;
    bool more = request->more;
    if (!wait_add(&s->wait, request)) {
        blob_unref(entry);
        refuse(request, OUTCOME_STOPPED);
        return;
    }
    /* From here on the request may be finished, and gone, at any moment. */
    if (!node_propose(s->node, id, proposal)) {
        blob_unref(entry);
        request = wait_take(&s->wait, id);
        if (request)
            refuse(request, OUTCOME_TOO_MANY_REQUESTS);
    }
    if (!more)
        node_submitted(s->node);
}

bool server_read_index(struct server *s, struct request *request)
{
    if (atomic_load_explicit(&s->state.local_reads, memory_order_acquire)) {
        request->finish(request, OUTCOME_OK);
        return false;
    }
    prepare(s, request);
    uint64_t id = request->id;
    bool more = request->more;
    if (!wait_add(&s->wait, request)) {
        request->finish(request, OUTCOME_STOPPED);
        return false;
    }
    if (!node_read(s->node, id)) {
        request = wait_take(&s->wait, id);
        metric_add(&metric_read_indexes_failed, 1);
        if (request)
            request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
        return false;
    }
    if (!more)
        node_submitted(s->node);
    return true;
}

void server_submitted(struct server *s)
{
    node_submitted(s->node);
}

bool server_cancel(struct server *s, struct request *request)
{
    return wait_cancel(&s->wait, request);
}
