/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a member that does not lead is asked about leases goes to the leader: POST /leases and
 * /leases/internal of its peer port, which etcd and we serve alike.
 *
 *   forward -> list -> [LEASE_FORWARDS_MAX] -> the transport -> 200: answered
 *                                                            -> 404: there is no such lease
 *                                                            -> else: parked, and asked again
 *
 * That goes on until the request is gone: whoever answers "not a primary lessor" may have become
 * the leader by the next time, or be gone itself.
 *
 * Invariants:
 *   (I1) one thread at a time takes from the list; who meets it leaves the rest to it. So an answer
 *        that comes from inside of the transport's fetch() does not lead into the next one.
 *   (I2) n_forwards are with the transport.
 *   (I3) the end of an ask is the last that is done with it: `all` may be gone then.
 *   (I4) the leader is looked up when a question has its turn, and has FORWARD_MS and an election
 *        timeout to answer: one that stands still doesn't keep all turns from its successor.
 *
 * Thread: any; done() the transport's.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "server/lease_ask_private.h"
#include "server/lease_wire.h"

enum { FORWARD_MS = 2 * LEASE_APPLIED_WAIT_MS };

/* ---- the leader ---- */

struct search {
    uint64_t id;
    struct member found;
};

static void visit(void *arg, const struct member *m)
{
    struct search *s = arg;

    if (m->id == s->id)
        s->found = member_copy(m);
}

/* False: none is known, it is this member by now, or it has no URL. */
static bool find_leader(struct lease_ask *a)
{
    struct server *s = a->all->server;
    struct search search = {.id = atomic_load_explicit(&s->state.leader, memory_order_acquire)};

    member_deinit(&a->leader);
    a->leader = (struct member){0};
    if (search.id == 0 || search.id == s->state.member_id || !s->transport)
        return false;
    store_hold(&s->store);
    members_visit(s->store.members, visit, &search);
    store_release(&s->store);
    a->leader = search.found;
    return a->leader.n_peer_urls > 0;
}

/* ---- its answers ---- */

static bool take_renewed(struct lease_ask *a)
{
    struct lease_wire_renewed r;

    if (!lease_wire_renewed_read(buf_bytes(&a->fetch.answer), &r) || r.id != a->id)
        return false;
    lease_ask_renewed(a, r.ttl_s);
    return true;
}

static bool take_left(struct lease_ask *a)
{
    _cleanup_(buf_deinit) struct buf keys = BUF_NULL;
    struct lease_wire_left left;

    if (!lease_wire_left_read(buf_bytes(&a->fetch.answer), &left, &keys) || left.id != a->id)
        return false;
    lease_ask_left(a, &left);
    return true;
}

static void pump(struct lease_asks *all);

/* (I3) */
static void fetched(struct transport_fetch *f)
{
    struct lease_ask *a = f->arg;

    pthread_mutex_lock(&a->all->lock);
    a->all->n_forwards--;
    pthread_mutex_unlock(&a->all->lock);
    pump(a->all);
    if (f->status == 404)
        lease_ask_missing(a);
    else if (f->status != 200 || !(a->renews ? take_renewed(a) : take_left(a)))
        lease_ask_park(a);
}

/* ---- the way out ---- */

static void question_put(struct lease_ask *a)
{
    buf_clear(&a->payload);
    if (a->renews)
        lease_wire_renew_put(&a->payload, a->id);
    else
        lease_wire_question_put(&a->payload, &(struct lease_wire_question){a->id, a->keys});
}

/* (I4) What a slow network needs, its election timeout says. */
static uint64_t patience_ms(const struct lease_ask *a)
{
    uint64_t now_ms = clock_mono_ms();
    uint64_t left_ms = a->expires_ms > now_ms ? a->expires_ms - now_ms : 1;
    uint64_t turn_ms = FORWARD_MS + a->all->server->state.election_timeout_ms;

    return left_ms < turn_ms ? left_ms : turn_ms;
}

static void fetch(struct lease_ask *a)
{
    struct transport *t = a->all->server->transport;

    question_put(a);
    buf_deinit(&a->fetch.answer);
    a->fetch = (struct transport_fetch){
        .method = "POST",
        .urls = a->leader.peer_urls,
        .n_urls = a->leader.n_peer_urls,
        .path = a->renews ? LEASE_WIRE_RENEW_PATH : LEASE_WIRE_LEFT_PATH,
        .content_type = LEASE_WIRE_CONTENT_TYPE,
        .body = buf_bytes(&a->payload),
        .timeout_ms = patience_ms(a),
        .answer_bytes_max = a->renews ? LEASE_WIRE_RENEWED_BYTES_MAX : LEASE_WIRE_ANSWER_BYTES_MAX,
        .done = fetched,
        .arg = a};
    t->ops->fetch(t, &a->fetch);
}

/* NULL: none waits, or enough are there already. */
static struct lease_ask *take(struct lease_asks *all)
{
    if (all->n_forwards >= LEASE_FORWARDS_MAX || list_empty(&all->forwards))
        return NULL;
    all->n_forwards++;
    return container_of(list_pop(&all->forwards), struct lease_ask, link);
}

/* False: it needed no turn. */
static bool start(struct lease_ask *a)
{
    if (lease_ask_is_gone(a)) {
        lease_ask_free(a);
        return false;
    }
    if (!find_leader(a)) { /* (I4) */
        lease_ask_park(a);
        return false;
    }
    fetch(a);
    return true;
}

/* (I1) */
static void pump(struct lease_asks *all)
{
    struct lease_ask *a;

    pthread_mutex_lock(&all->lock);
    if (!all->forwarding) {
        all->forwarding = true;
        while ((a = take(all))) {
            pthread_mutex_unlock(&all->lock);
            bool started = start(a);
            pthread_mutex_lock(&all->lock);
            all->n_forwards -= !started;
        }
        all->forwarding = false;
    }
    pthread_mutex_unlock(&all->lock);
}

void lease_forward(struct lease_ask *a)
{
    struct lease_asks *all = a->all;

    pthread_mutex_lock(&all->lock);
    list_push(&all->forwards, &a->link);
    pthread_mutex_unlock(&all->lock);
    pump(all);
}
