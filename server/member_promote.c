/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Promotions (see member_change.h). Only the leader knows how far a learner's log has come, so any
 * other member passes the request on to it, over the peer port:
 *
 *   begin -> [applied has reached what was committed] -> raft: do we lead?
 *      ^                                                   yes: is the learner ready? -> propose
 *      |                                                   no:  POST /members/promote/<id> to the
 *      +------------- no leader, no answer ----------------     leader -> its answer is ours
 *
 * The request waits in the wait table all the while, and may be gone at any moment (time-out,
 * client, stop); the promotion knows its id only, and ends when it finds it gone.
 *
 * Invariants:
 *   (I1) a promotion is in one hand: the caller's, the list of those that wait for a tick, raft's
 *        (a task) or the transport's (a fetch). Whoever has it passes it on or ends it.
 *   (I2) a proposal is made once.
 *
 * Thread: any; the list under its mutex.
 */
#include "server/member_change.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_answer.h"
#include "server/member_json.h"
#include "server/peer_door.h"
#include "server/server_metrics.h"

enum { PROMOTIONS_MAX = 64, APPLIED_WAIT_MS = 1000, PATH_BYTES_MAX = 48 };

struct promotion {
    struct promotions *all;
    struct promotion *next; /* in the list */
    uint64_t request_id;
    uint64_t member_id;
    uint64_t index;            /* that must be applied first, */
    uint64_t applied_until_ms; /* and by when */
    uint64_t expires_ms;
    struct buf token;
    struct member_view view; /* of this try */
    struct node_task task;
    struct transport_fetch fetch;
    char path[PATH_BYTES_MAX];
};

struct promotions {
    struct server *server;
    pthread_mutex_t lock;
    struct promotion *waiting;
    _Atomic unsigned n;
};

struct promotions *promotions_new(struct server *s)
{
    struct promotions *all = mem_new(struct promotions);

    all->server = s;
    pthread_mutex_init(&all->lock, NULL);
    return all;
}

static void promotion_free(struct promotion *p)
{
    atomic_fetch_sub(&p->all->n, 1);
    member_view_deinit(&p->view);
    buf_deinit(&p->token);
    buf_deinit(&p->fetch.answer);
    free(p);
}

struct promotions *promotions_free(struct promotions *all)
{
    if (!all)
        return NULL;
    while (all->waiting) {
        struct promotion *p = all->waiting;
        all->waiting = p->next;
        promotion_free(p);
    }
    check(atomic_load(&all->n) == 0);
    pthread_mutex_destroy(&all->lock);
    free(all);
    return NULL;
}

static bool is_gone(const struct promotion *p)
{
    return !wait_contains(&p->all->server->wait, p->request_id);
}

/* Until the next tick. */
static void park(struct promotion *p)
{
    struct promotions *all = p->all;

    pthread_mutex_lock(&all->lock);
    p->next = all->waiting;
    all->waiting = p;
    pthread_mutex_unlock(&all->lock);
}

static void end(struct promotion *p, enum outcome outcome)
{
    struct request *request = wait_take(&p->all->server->wait, p->request_id);

    if (request)
        request->finish(request, outcome);
    promotion_free(p);
}

/* ---- passing it on ---- */

/* The leader's list of members, in an answer of ours. */
static bool answer_from(struct promotion *p)
{
    struct server *s = p->all->server;
    struct member_list list;
    struct request *request;

    if (member_json_list_parse(buf_bytes(&p->fetch.answer), &list) != 0)
        return false;
    request = wait_take(&s->wait, p->request_id);
    if (request) {
        struct response_header header = server_header(s, 0);
        encode_header(&request->response, &header);
        member_answer_copy(&request->response, 2, &list);
        request->finish(request, OUTCOME_OK);
    }
    member_list_deinit(&list);
    promotion_free(p);
    return true;
}

static bool says(const struct promotion *p, const char *text)
{
    const struct buf *answer = &p->fetch.answer;

    return answer->len > 0 && memmem(answer->data, answer->len, text, strlen(text));
}

/* What ends the matter; OUTCOME_OK: nothing, the leader is asked again. */
static enum outcome refusal(const struct promotion *p)
{
    if (p->fetch.status == 404)
        return OUTCOME_MEMBER_NOT_FOUND;
    if (p->fetch.status == 412 && says(p, PROMOTE_NOT_READY_TEXT))
        return OUTCOME_LEARNER_NOT_READY;
    if (p->fetch.status == 412 && says(p, PROMOTE_NOT_LEARNER_TEXT))
        return OUTCOME_MEMBER_NOT_LEARNER;
    return OUTCOME_OK;
}

static void fetched(struct transport_fetch *f)
{
    struct promotion *p = f->arg;
    enum outcome outcome = refusal(p);

    if (f->status == 200 && answer_from(p))
        return;
    if (outcome != OUTCOME_OK)
        end(p, outcome);
    else
        park(p);
}

static void pass_on(struct promotion *p, uint64_t leader_id)
{
    struct server *s = p->all->server;
    const struct member *leader = member_list_find(&p->view.list, leader_id);
    uint64_t now = clock_mono_ms();

    if (!leader || !s->transport || now >= p->expires_ms) {
        park(p);
        return;
    }
    buf_deinit(&p->fetch.answer);
    snprintf(p->path, sizeof(p->path), "/members/promote/%" PRIu64, p->member_id);
    p->fetch = (struct transport_fetch){.method = "POST",
                                        .urls = leader->peer_urls,
                                        .n_urls = leader->n_peer_urls,
                                        .path = p->path,
                                        .authorization = buf_bytes(&p->token),
                                        .timeout_ms = p->expires_ms - now,
                                        .done = fetched,
                                        .arg = p};
    s->transport->ops->fetch(s->transport, &p->fetch);
}

/* ---- the leader's own ---- */

struct matches {
    bool found;
    uint64_t learner;
    uint64_t leader;
};

static struct matches find_matches(const struct raft *raft, uint64_t leader_id, uint64_t member_id)
{
    size_t n = raft_progress(raft, NULL, 0);
    struct raft_progress *all = mem_alloc((n + 1) * sizeof(*all));
    struct matches m = {0};

    n = raft_progress(raft, all, n);
    for (size_t i = 0; i < n; i++) {
        if (all[i].id == leader_id)
            m.leader = all[i].match;
        if (all[i].id == member_id) {
            m.found = true;
            m.learner = all[i].match;
        }
    }
    free(all);
    return m;
}

static enum outcome may_promote(struct promotion *p, const struct raft *raft, uint64_t leader_id)
{
    struct matches m = find_matches(raft, leader_id, p->member_id);
    enum outcome outcome = OUTCOME_MEMBER_NOT_FOUND;

    if (m.found)
        outcome = member_is_ready(m.learner, m.leader);
    if (outcome == OUTCOME_OK && p->all->server->config->strict_reconfig_check)
        outcome = member_may_promote(&p->view.situation);
    if (outcome != OUTCOME_OK)
        log_warn("rejecting member promote request",
                 LOG_ID("requested-member-promote-id", p->member_id),
                 LOG_U64("learner-match", m.learner), LOG_U64("leader-match", m.leader));
    return outcome;
}

/* (I2) What is applied later answers the request. */
static void propose(struct promotion *p)
{
    _cleanup_(buf_deinit) struct buf context = BUF_NULL;
    struct blob *change;

    member_json_promotion(&context, p->member_id);
    change = member_change_encode(p->request_id, RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode,
                                  p->member_id, buf_bytes(&context));
    member_change_propose(p->all->server, p->request_id, change);
    promotion_free(p);
}

/* On the raft thread. */
static void asked(struct node_task *task, const struct raft *raft)
{
    struct promotion *p = container_of(task, struct promotion, task);
    struct raft_status status;
    enum outcome outcome;

    if (!raft || is_gone(p)) {
        promotion_free(p);
        return;
    }
    raft_status(raft, &status);
    if (status.role != RAFT_LEADER) {
        pass_on(p, status.leader);
        return;
    }
    outcome = may_promote(p, raft, status.id);
    if (outcome == OUTCOME_OK)
        propose(p);
    else
        end(p, outcome);
}

/* ---- from tick to tick ---- */

static void go_on(struct promotion *p)
{
    struct server *s = p->all->server;

    if (is_gone(p)) {
        promotion_free(p);
    } else if (atomic_load(&s->state.applied) >= p->index) {
        member_view_deinit(&p->view);
        member_view_init(&p->view, s);
        node_ask(s->node, &p->task);
    } else if (clock_mono_ms() >= p->applied_until_ms) {
        end(p, OUTCOME_TIMEOUT_WAIT_APPLIED);
    } else {
        park(p);
    }
}

void promotions_begin(struct promotions *all, struct request *request, uint64_t member_id)
{
    struct server *s = all->server;
    struct promotion *p;

    if (atomic_fetch_add(&all->n, 1) >= PROMOTIONS_MAX) {
        atomic_fetch_sub(&all->n, 1);
        request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
        return;
    }
    p = mem_new(struct promotion);
    *p = (struct promotion){.all = all,
                            .request_id = request->id,
                            .member_id = member_id,
                            .index = atomic_load(&s->state.committed),
                            .applied_until_ms = clock_mono_ms() + APPLIED_WAIT_MS,
                            .expires_ms = request->expires_ms,
                            .task.run = asked};
    buf_append_bytes(&p->token, request->credentials.token);
    if (member_change_begin(s, request))
        go_on(p);
    else
        promotion_free(p);
}

void promotions_tick(struct promotions *all)
{
    struct promotion *p, *next;

    pthread_mutex_lock(&all->lock);
    p = all->waiting;
    all->waiting = NULL;
    pthread_mutex_unlock(&all->lock);
    for (; p; p = next) {
        next = p->next;
        go_on(p);
    }
}
