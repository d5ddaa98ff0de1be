/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keep-alives and questions for the time left (see lessor.h), which the leader alone can answer.
 *
 *                        +-- not we ----------> lease_forward.c: POST to the leader
 *   step: who leads? ----+
 *          ^  ^          +-- we -> [still? a read index] -> [applied?] -> lease_answer.c
 *          |  |                                                                | expired: wait for
 *          |  +----------------- at the next tick, parked ---------------------+ its revocation
 *          +---- no answer, or one of no use
 *
 * As in etcd a leader whose raft worker ticks asks nobody whether it still leads, and a keep-alive
 * of a lease that is there waits for nothing (FastLeaseKeepAlive); one that is missing may be about
 * to come, or be granted by another leader. What was renewed when its time was over would come too
 * late for the revocation that is under way: so it waits for that, and is answered with it.
 *
 * The request waits in the wait table and may be gone at any moment (time-out, client, stop): who
 * has the ask knows its id only, and ends when it finds it gone.
 *
 * Invariants:
 *   (I1) an ask is in one hand: a list's, the wait table's (inner), the scan pool's or the
 *        transport's. Whoever has it passes it on or ends it.
 *   (I2) wanted_index is lowered before applied is looked at, and apply raises applied before it
 *        looks at wanted_index: one of the two sees the other.
 *
 * Thread: any; the lists under their lock.
 */
#include "server/lease_ask_private.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/lease_expire.h"
#include "server/lessor.h"

bool lease_ask_is_gone(const struct lease_ask *a)
{
    return !wait_contains(&a->all->server->wait, a->request_id);
}

void lease_ask_free(struct lease_ask *a)
{
    atomic_fetch_sub(&a->all->n, 1);
    member_deinit(&a->leader);
    buf_deinit(&a->payload);
    buf_deinit(&a->fetch.answer);
    free(a);
}

void lease_ask_park(struct lease_ask *a)
{
    struct lease_asks *all = a->all;

    pthread_mutex_lock(&all->lock);
    list_push(&all->parked, &a->link);
    pthread_mutex_unlock(&all->lock);
}

/* ---- the ends ---- */

struct request *lease_ask_take(struct lease_ask *a)
{
    return wait_take(&a->all->server->wait, a->request_id);
}

void lease_ask_fail(struct lease_ask *a, enum outcome outcome)
{
    struct request *request = lease_ask_take(a);

    if (request)
        request->finish(request, outcome);
    lease_ask_free(a);
}

/* ---- do we lead? ---- */

static void confirmed(struct request *request, enum outcome outcome)
{
    struct lease_ask *a = container_of(request, struct lease_ask, inner);

    a->confirmed = outcome == OUTCOME_OK && server_leads(a->all->server);
    if (a->confirmed)
        lease_ask_step(a);
    else
        lease_ask_fail(a, OUTCOME_NOT_PRIMARY);
}

void lease_ask_confirm(struct lease_ask *a)
{
    a->inner = (struct request){.kind = REQUEST_READ_INDEX, .finish = confirmed};
    server_read_index(a->all->server, &a->inner);
}

static bool wants_confirmation(const struct lease_ask *a)
{
    return a->renews && !a->from_peer && !a->confirmed && !lease_leader_is_active(a->all->server);
}

/* ---- is it applied? ---- */

static bool lease_is_there(struct server *s, int64_t id)
{
    store_hold(&s->store);
    bool there = lease_exists(s->store.leases, id);
    store_release(&s->store);
    return there;
}

static bool is_applied(const struct lease_ask *a)
{
    struct server *s = a->all->server;

    return atomic_load(&s->state.applied) >= a->index ||
           (a->renews && !a->from_peer && a->all->fast && lease_is_there(s, a->id));
}

static void want(struct lease_asks *all, uint64_t index)
{
    if (index < atomic_load(&all->wanted_index))
        atomic_store(&all->wanted_index, index);
}

/* (I2) */
static void wait_applied(struct lease_ask *a)
{
    struct lease_asks *all = a->all;

    if (clock_mono_ms() >= a->applied_until_ms) {
        lease_ask_fail(a, OUTCOME_TIMEOUT_WAIT_APPLIED);
        return;
    }
    pthread_mutex_lock(&all->lock);
    want(all, a->index);
    list_push(&all->unapplied, &a->link);
    pthread_mutex_unlock(&all->lock);
    lease_asks_applied(all, atomic_load(&all->server->state.applied));
}

/* Those that need not wait any more; now_ms: or may not. */
static void take_applied(struct lease_asks *all, uint64_t applied, uint64_t now_ms,
                         struct list *out)
{
    pthread_mutex_lock(&all->lock);
    atomic_store(&all->wanted_index, UINT64_MAX);
    list_for_each_safe (it, tmp, &all->unapplied) {
        struct lease_ask *a = container_of(it, struct lease_ask, link);
        if (a->index > applied && a->applied_until_ms > now_ms) {
            want(all, a->index);
            continue;
        }
        list_remove(&a->link);
        list_push(out, &a->link);
    }
    pthread_mutex_unlock(&all->lock);
}

static void step_all(struct list *list)
{
    struct list *link;

    while ((link = list_pop(list)))
        lease_ask_step(container_of(link, struct lease_ask, link));
}

void lease_asks_applied(struct lease_asks *all, uint64_t applied)
{
    struct list ready;

    atomic_thread_fence(memory_order_seq_cst); /* (I2) */
    if (atomic_load(&all->wanted_index) > applied)
        return;
    list_init(&ready);
    take_applied(all, applied, 0, &ready);
    step_all(&ready);
}

/* ---- the steps ---- */

void lease_ask_step(struct lease_ask *a)
{
    if (lease_ask_is_gone(a))
        lease_ask_free(a);
    else if (!server_leads(a->all->server) && a->from_peer)
        lease_ask_fail(a, OUTCOME_NOT_PRIMARY);
    else if (!server_leads(a->all->server))
        lease_forward(a);
    else if (wants_confirmation(a))
        lease_ask_confirm(a);
    else if (!is_applied(a))
        wait_applied(a);
    else
        lease_answer(a);
}

void lease_asks_tick(struct lease_asks *all)
{
    struct list parked, ready, *link;

    list_init(&parked);
    list_init(&ready);
    take_applied(all, atomic_load(&all->server->state.applied), clock_mono_ms(), &ready);
    pthread_mutex_lock(&all->lock);
    while ((link = list_pop(&all->parked)))
        list_push(&parked, link);
    pthread_mutex_unlock(&all->lock);
    step_all(&ready);
    step_all(&parked);
}

/* ---- the doors ---- */

/* Takes the question; the request has its kind and its finish(). */
static void begin(struct server *s, struct request *request, struct lease_ask question)
{
    struct lease_asks *all = s->lease_asks;
    uint64_t now_ms = clock_mono_ms();
    struct lease_ask *a;

    if (atomic_fetch_add(&all->n, 1) >= LEASE_ASKS_MAX) {
        atomic_fetch_sub(&all->n, 1);
        request->finish(request, OUTCOME_TOO_MANY_REQUESTS);
        return;
    }
    request->id = server_state_next_id(&s->state);
    request->expires_ms = now_ms + s->state.request_timeout_ms;
    a = mem_new(struct lease_ask);
    *a = question;
    a->all = all;
    a->request_id = request->id;
    a->expires_ms = request->expires_ms;
    a->index = atomic_load(&s->state.committed);
    a->applied_until_ms = now_ms + LEASE_APPLIED_WAIT_MS;
    if (wait_add(&s->wait, request)) {
        lease_ask_step(a);
        return;
    }
    lease_ask_free(a);
    request->finish(request, OUTCOME_STOPPED);
}

static void renewal_finished(struct request *request, enum outcome outcome)
{
    struct lease_renewal *r = container_of(request, struct lease_renewal, request);
    int64_t ttl_s = outcome == OUTCOME_OK ? request->ttl_s : 0;

    r->finish(r, outcome == OUTCOME_LEASE_NOT_FOUND ? OUTCOME_OK : outcome, ttl_s);
}

/* Most keep-alives end here. */
static bool renew_at_once(struct server *s, struct lease_renewal *r)
{
    struct lease_renew renewal = {.id = r->id};
    bool now =
        server_leads(s) && lease_leader_is_active(s) &&
        (s->lease_asks->fast || atomic_load(&s->state.applied) >= atomic_load(&s->state.committed));

    if (!now || lease_answer_renew(s, &renewal) != 0)
        return false;
    r->finish(r, OUTCOME_OK, renewal.ttl_s);
    return true;
}

void server_lease_renew(struct server *s, struct lease_renewal *r)
{
    r->request = (struct request){.kind = REQUEST_LEASE_RENEW, .finish = renewal_finished};
    if (!renew_at_once(s, r))
        begin(s, &r->request, (struct lease_ask){.renews = true, .id = r->id});
}

bool server_lease_renew_cancel(struct server *s, struct lease_renewal *r)
{
    return server_cancel(s, &r->request);
}

void server_lease_time_to_live(struct server *s, struct request *request, const void *message)
{
    const Etcdserverpb__LeaseTimeToLiveRequest *q = message;

    begin(s, request, (struct lease_ask){.id = q->id, .keys = q->keys});
}

void server_peer_lease_renew(struct server *s, struct request *request, int64_t id)
{
    begin(s, request, (struct lease_ask){.renews = true, .from_peer = true, .id = id});
}

void server_peer_lease_time_to_live(struct server *s, struct request *request, int64_t id,
                                    bool keys)
{
    begin(s, request, (struct lease_ask){.from_peer = true, .id = id, .keys = keys});
}

/* ---- life ---- */

struct lease_asks *lease_asks_new(struct server *s)
{
    struct lease_asks *all = mem_new(struct lease_asks);

    all->server = s;
    all->fast = config_gate_is_on(s->config, "FastLeaseKeepAlive");
    atomic_init(&all->wanted_index, UINT64_MAX);
    pthread_mutex_init(&all->lock, NULL);
    list_init(&all->parked);
    list_init(&all->unapplied);
    list_init(&all->forwards);
    return all;
}

static void free_list(struct list *list)
{
    struct list *link;

    while ((link = list_pop(list)))
        lease_ask_free(container_of(link, struct lease_ask, link));
}

struct lease_asks *lease_asks_free(struct lease_asks *all)
{
    if (!all)
        return NULL;
    free_list(&all->parked);
    free_list(&all->unapplied);
    free_list(&all->forwards);
    check(atomic_load(&all->n) == 0);
    pthread_mutex_destroy(&all->lock);
    free(all);
    return NULL;
}
