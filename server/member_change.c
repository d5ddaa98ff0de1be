/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proposing changes of members, and MoveLeader (see member_change.h). What etcd's configure() does:
 *
 *   who is calling -> the rules, by this member's own view -> a request id -> the wait table
 *     -> a ConfChange to raft -> applied (or refused by the table): answered there
 *
 * Two checks stand before the proposal and not behind it, because an entry that breaks them would
 * stop etcd's members, or ours: URLs must be some also in an update, and there is a most of
 * members.
 *
 * While another change is not applied yet raft puts an empty entry in place of a new one; its
 * request then ends with its time-out, as in etcd.
 *
 * Thread: any.
 */
#include "server/member_change.h"

#include <stdlib.h>

#include "auth/auth.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_json.h"
#include "server/peer_door.h"
#include "server/server_metrics.h"

/* ---- the view ---- */

static uint64_t active_ms(void *arg, uint64_t member_id)
{
    struct server *s = arg;

    return s->transport ? s->transport->ops->active_ms(s->transport, member_id) : 0;
}

void member_view_init(struct member_view *v, struct server *s)
{
    store_hold(&s->store);
    members_copy(s->store.members, &v->list);
    store_release(&s->store);
    v->situation = (struct member_situation){
        .members = &v->list, .local_id = s->state.member_id, .active_ms = active_ms, .arg = s};
}

void member_view_deinit(struct member_view *v)
{
    member_list_deinit(&v->list);
}

/* ---- from a request to a proposal ---- */

bool member_change_begin(struct server *s, struct request *request)
{
    if (wait_add(&s->wait, request))
        return true;
    request->finish(request, OUTCOME_STOPPED);
    return false;
}

void member_change_propose(struct server *s, uint64_t request_id, struct blob *change)
{
    struct request *request;

    if (node_propose(s->node, request_id,
                     (struct raft_entry){.type = RAFT_ENTRY_CONF_CHANGE, .data = change})) {
        node_submitted(s->node);
        return;
    }
    blob_unref(change);
    request = wait_take(&s->wait, request_id);
    if (request)
        request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
}

static struct blob *encode_described(uint64_t request_id, Raftpb__ConfChangeType type,
                                     const struct member *m)
{
    _cleanup_(buf_deinit) struct buf context = BUF_NULL;

    member_json(&context, m);
    return member_change_encode(request_id, type, m->id, buf_bytes(&context));
}

static enum outcome may_add(struct server *s, bool is_learner)
{
    struct member_view view;
    enum outcome outcome = OUTCOME_OK;

    member_view_init(&view, s);
    if (s->config->strict_reconfig_check)
        outcome = member_may_add(&view.situation, is_learner);
    if (outcome == OUTCOME_OK && view.list.len >= MEMBERS_MAX)
        outcome = OUTCOME_UNHEALTHY;
    member_view_deinit(&view);
    return outcome;
}

static enum outcome prepare_add(struct server *s, const struct request *request,
                                const Etcdserverpb__MemberAddRequest *q, struct blob **ret)
{
    struct member m = {.n_peer_urls = q->n_peerurls, .is_learner = q->islearner};
    enum outcome outcome;

    if (!member_urls_parse(q->peerurls, q->n_peerurls, &m.peer_urls))
        return OUTCOME_MEMBER_BAD_URLS;
    outcome = may_add(s, q->islearner);
    if (outcome == OUTCOME_OK) {
        m.id = member_id_of_added(m.peer_urls, m.n_peer_urls, clock_wall_ns() / 1000000000);
        *ret = encode_described(request->id,
                                m.is_learner ? RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode
                                             : RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode,
                                &m);
    } else {
        log_warn("rejecting member add request; not enough healthy members",
                 LOG_ID("local-member-id", s->state.member_id));
    }
    member_deinit(&m);
    return outcome;
}

static enum outcome prepare_remove(struct server *s, const struct request *request,
                                   const Etcdserverpb__MemberRemoveRequest *q, struct blob **ret)
{
    struct member_view view;
    enum outcome outcome = OUTCOME_OK;

    member_view_init(&view, s);
    if (s->config->strict_reconfig_check)
        outcome = member_may_remove(&view.situation, q->id);
    member_view_deinit(&view);
    if (outcome == OUTCOME_OK)
        *ret = member_change_encode(request->id, RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode,
                                    q->id, BYTES_NULL);
    else
        log_warn("rejecting member remove request; not enough healthy members",
                 LOG_ID("local-member-id", s->state.member_id),
                 LOG_ID("requested-member-remove-id", q->id));
    return outcome;
}

/* As they came: etcd neither sorts nor rewrites them here. */
static enum outcome prepare_update(const struct request *request,
                                   const Etcdserverpb__MemberUpdateRequest *q, struct blob **ret)
{
    struct member m = {.id = q->id, .n_peer_urls = q->n_peerurls}, described = m;

    if (!member_urls_parse(q->peerurls, q->n_peerurls, &m.peer_urls))
        return OUTCOME_MEMBER_BAD_URLS;
    member_deinit(&m);
    described.peer_urls = q->peerurls;
    *ret =
        encode_described(request->id, RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode, &described);
    return OUTCOME_OK;
}

static bool is_identified(const struct request *request)
{
    struct identity identity;

    return auth_identify(request->credentials.token, request->credentials.certificate_name,
                         &identity) == 0;
}

static void number(struct server *s, struct request *request)
{
    request->id = server_state_next_id(&s->state);
    request->expires_ms = clock_mono_ms() + s->state.request_timeout_ms;
}

void server_change_members(struct server *s, struct request *request, const void *message)
{
    enum outcome outcome = OUTCOME_INTERNAL;
    struct blob *change = NULL;

    number(s, request);
    uint64_t id = request->id;
    if (!is_identified(request))
        outcome = OUTCOME_INVALID_AUTH_TOKEN;
    else if (request->kind == REQUEST_MEMBER_ADD)
        outcome = prepare_add(s, request, message, &change);
    else if (request->kind == REQUEST_MEMBER_REMOVE)
        outcome = prepare_remove(s, request, message, &change);
    else if (request->kind == REQUEST_MEMBER_UPDATE)
        outcome = prepare_update(request, message, &change);
    if (outcome != OUTCOME_OK)
        request->finish(request, outcome);
    else if (member_change_begin(s, request))
        member_change_propose(s, id, change);
    else
        blob_unref(change);
}

void server_promote_member(struct server *s, struct request *request, uint64_t member_id)
{
    request->kind = REQUEST_MEMBER_PROMOTE;
    number(s, request);
    if (!is_identified(request))
        request->finish(request, OUTCOME_INVALID_AUTH_TOKEN);
    else
        promotions_begin(s->promotions, request, member_id);
}

/* ---- leadership ---- */

static bool may_lead(struct server *s, uint64_t member_id)
{
    bool is_learner;

    store_hold(&s->store);
    bool found = members_find(s->store.members, member_id, &is_learner);
    store_release(&s->store);
    return found && !is_learner;
}

void server_move_leader(struct server *s, struct request *request, uint64_t member_id)
{
    uint64_t leader = atomic_load(&s->state.leader);

    request->kind = REQUEST_MOVE_LEADER;
    number(s, request);
    uint64_t id = request->id;
    if (leader != s->state.member_id) {
        request->finish(request, OUTCOME_NOT_LEADER);
    } else if (!may_lead(s, member_id)) {
        request->finish(request, OUTCOME_BAD_LEADER_TRANSFEREE);
    } else if (member_id == leader) {
        request->finish(request, OUTCOME_OK);
    } else if (member_change_begin(s, request)) {
        log_info("leadership transfer starting", LOG_ID("current-leader-member-id", leader),
                 LOG_ID("transferee-member-id", member_id));
        if (node_transfer(s->node, id, member_id))
            return;
        request = wait_take(&s->wait, id);
        if (request)
            request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
    }
}

/* ---- when the table has changed ---- */

static void stop_after(struct server *s, uint64_t ms)
{
    uint64_t at = clock_mono_ms() + ms, none = 0;

    if (!atomic_compare_exchange_strong(&s->removed_at_ms, &none, at) && at < none)
        atomic_store(&s->removed_at_ms, at);
}

void server_peer_we_are_removed(struct server *s)
{
    stop_after(s, 0);
}

bool server_is_learner(const struct server *s)
{
    return atomic_load_explicit(&s->state.is_learner, memory_order_acquire);
}

bool server_peer_downgrade_enabled(struct server *s)
{
    struct downgrade downgrade;

    store_hold(&s->store);
    members_downgrade(s->store.members, &downgrade);
    store_release(&s->store);
    return downgrade.enabled;
}

bool server_is_removed(struct server *s)
{
    uint64_t at = atomic_load(&s->removed_at_ms);

    return at != 0 && clock_mono_ms() >= at;
}

static void show_peers(struct server *s)
{
    struct member_list list;
    uint64_t *ids;

    members_copy(s->store.members, &list);
    ids = mem_alloc((list.len + 1) * sizeof(*ids));
    for (size_t i = 0; i < list.len; i++)
        ids[i] = list.items[i].id;
    server_metrics_peers(s->state.member_id, ids, list.len);
    free(ids);
    member_list_deinit(&list);
}

void server_members_changed(void *arg)
{
    struct server *s = arg;
    bool is_learner = false;

    (void)members_find(s->store.members, s->state.member_id, &is_learner);
    atomic_store(&s->state.is_learner, is_learner);
    metric_set(&metric_is_learner, is_learner);
    show_peers(s);
    if (members_is_removed(s->store.members, s->state.member_id))
        stop_after(s, MEMBER_REMOVED_STOP_MS);
    if (s->transport)
        s->transport->ops->members_changed(s->transport);
    /* The entry that published this member may be in a snapshot, and then never comes by itself:
     * the next tick makes it again. */
    atomic_store(&s->publish.submitted_ms, 0);
}
