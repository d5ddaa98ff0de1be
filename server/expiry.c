/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Why a request has run out of time, in etcd's distinctions: there was no leader to propose it to;
 * the leader before was lost meanwhile; the connection to the leader, or to a quorum, is not older
 * than the request; or nothing of that.
 *
 * Thread: the ticker's.
 */
#include "base/clock.h"
#include "server/member_change.h"
#include "server/server_metrics.h"

static bool leader_was_lost(const struct server_state *state, uint64_t started_ms)
{
    uint64_t since_ms = atomic_load(&state->leader_since_ms);

    return since_ms > started_ms && started_ms + 2 * state->election_timeout_ms > since_ms;
}

static bool was_never_proposed(const struct server_state *state, const struct request *request,
                               uint64_t started_ms)
{
    return request->kind < REQUEST_READ_INDEX && atomic_load(&state->leader) == 0 &&
           atomic_load(&state->leader_lost_ms) <= started_ms;
}

static bool connection_was_lost(struct server *s, uint64_t started_ms)
{
    uint64_t leader = atomic_load(&s->state.leader), age_ms = clock_mono_ms() - started_ms;
    struct member_view view;
    bool lost;

    if (leader == 0 || !s->transport)
        return false;
    if (leader != s->state.member_id)
        return s->transport->ops->active_ms(s->transport, leader) <= age_ms;
    member_view_init(&view, s);
    lost = !member_has_quorum_since(&view.situation, age_ms);
    member_view_deinit(&view);
    return lost;
}

static void count(const struct request *request)
{
    if (request->kind == REQUEST_READ_INDEX)
        metric_add(&metric_slow_read_indexes, 1);
    else if (request->kind < REQUEST_READ_INDEX)
        metric_add(&metric_proposals_failed, 1);
}

static bool waits_for_leader(const struct request *request)
{
    return request->kind == REQUEST_MEMBER_PROMOTE || request->kind == REQUEST_LEASE_RENEW ||
           request->kind == REQUEST_LEASE_TIME_TO_LIVE;
}

enum outcome server_timeout_outcome(void *arg, const struct request *request)
{
    struct server *s = arg;
    uint64_t started_ms = request->expires_ms - s->state.request_timeout_ms;

    count(request);
    if (request->kind == REQUEST_MOVE_LEADER)
        return OUTCOME_TIMEOUT_LEADER_TRANSFER;
    if (waits_for_leader(request) && atomic_load(&s->state.leader) == 0)
        return OUTCOME_NO_LEADER;
    if (request->kind > REQUEST_MEMBER_PROMOTE)
        return OUTCOME_TIMEOUT; /* about leases */
    if (was_never_proposed(&s->state, request, started_ms))
        return OUTCOME_DEADLINE;
    if (request->kind == REQUEST_READ_INDEX)
        return OUTCOME_TIMEOUT; /* etcd's reads make no difference */
    if (leader_was_lost(&s->state, started_ms))
        return OUTCOME_TIMEOUT_LEADER_FAILURE;
    if (connection_was_lost(s, started_ms))
        return OUTCOME_TIMEOUT_CONNECTION_LOST;
    return OUTCOME_TIMEOUT;
}
