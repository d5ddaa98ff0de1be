/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A leader that is stopped in order hands its leadership over first, as etcd's does: to the voter
 * that it has been connected to for longest. So the cluster misses nobody for an election timeout.
 * raft gives up after one election timeout, so nothing waits for longer than two.
 *
 * Thread: the composition root's; finish() the raft thread or the ticker's.
 */
#include <pthread.h>

#include "base/cond.h"
#include "base/log.h"
#include "server/server_private.h"

struct handover {
    struct request request;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool finished;
    enum outcome outcome;
};

struct choice {
    size_t voters;
    uint64_t best;
    uint64_t best_ms;
};

static void finish(struct request *request, enum outcome outcome)
{
    struct handover *h = container_of(request, struct handover, request);

    pthread_mutex_lock(&h->lock);
    h->finished = true;
    h->outcome = outcome;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

static void consider(struct choice *c, struct server *s, const struct member *m)
{
    uint64_t active_ms;

    if (m->is_learner)
        return;
    c->voters++;
    if (m->id == s->state.member_id || !s->transport)
        return;
    active_ms = s->transport->ops->active_ms(s->transport, m->id);
    if (active_ms > c->best_ms) {
        c->best = m->id;
        c->best_ms = active_ms;
    }
}

static struct choice choose(struct server *s)
{
    struct choice c = {0};
    struct member_list list;

    store_hold(&s->store);
    members_copy(s->store.members, &list);
    store_release(&s->store);
    for (size_t i = 0; i < list.len; i++)
        consider(&c, s, &list.items[i]);
    member_list_deinit(&list);
    return c;
}

static bool wait_finished(struct handover *h, uint64_t ms)
{
    struct timespec until = cond_until(ms * 1000000);
    bool finished;

    pthread_mutex_lock(&h->lock);
    while (!h->finished && pthread_cond_timedwait(&h->cond, &h->lock, &until) == 0)
        ;
    finished = h->finished;
    pthread_mutex_unlock(&h->lock);
    return finished;
}

static bool move(struct server *s, uint64_t to)
{
    struct handover h = {.request = {.finish = finish}, .lock = PTHREAD_MUTEX_INITIALIZER};

    cond_init(&h.cond);
    server_move_leader(s, &h.request, to);
    bool finished = wait_finished(&h, 2 * s->state.election_timeout_ms);
    if (!finished && !server_cancel(s, &h.request))
        finished = wait_finished(&h, UINT32_MAX); /* finish() is about to be called */
    pthread_cond_destroy(&h.cond);
    pthread_mutex_destroy(&h.lock);
    return finished && h.outcome == OUTCOME_OK;
}

void server_hand_over(struct server *s)
{
    struct choice c;

    if (!server_leads(s))
        return;
    c = choose(s);
    if (c.voters <= 1)
        return;
    if (c.best == 0)
        log_warn("leadership transfer failed", LOG_ID("local-member-id", s->state.member_id),
                 LOG_STR("error", "etcdserver: unhealthy cluster"));
    else if (!move(s, c.best))
        log_warn("leadership transfer failed", LOG_ID("local-member-id", s->state.member_id),
                 LOG_ID("transferee-member-id", c.best));
}
