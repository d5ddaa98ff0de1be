/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients with leases (see holders.h).
 *
 *     turn:  no lease -> grant -> [put, keep alive, ask]* -> revoke, or nothing more -> no lease
 *
 * It asks how much time is left, also of a lease that it has left alone or revoked. One thing at a
 * time is under way. Keep-alives and questions live until the end of the run: a late finish() finds
 * its own, though nobody waits.
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include "tests/sim/holders.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/lessor.h"
#include "tests/sim/clients.h"
#include "tests/sim/counters.h"

enum { STICKY_ONE_IN = 4, GIVE_UP_ONE_IN = 24 };

struct holder {
    struct rng rng;
    struct machine *machine;
    struct op *op;     /* under way */
    struct ask *ask;   /* under way */
    int64_t id, ttl_s; /* ttl_s 0: none; the id is of the last one */
    unsigned keeps;    /* how often it is to be kept alive */
    uint64_t grant_ns; /* when it was asked for */
};

/* A keep-alive, or a question for the time left. */
struct ask {
    bool renews;
    struct lease_renewal renewal;
    struct request request;
    Etcdserverpb__LeaseTimeToLiveRequest question;
    struct holder *holder; /* NULL: nobody waits */
    struct machine *machine;
    struct server *server;
    unsigned life;
    uint64_t asked_ns;
    struct ask *next;
};

static struct {
    struct holder holders[CLIENTS_MAX];
    struct ask *asks;
    bool stopped;
} all;

static void turn(void *arg);

void holders_init(void)
{
    memset(&all, 0, sizeof(all));
    check_lease_init();
    for (unsigned i = 0; i < world.o.n_holders; i++)
        rng_init(&all.holders[i].rng, rng_next(&world.rng));
}

void holders_deinit(void)
{
    for (struct ask *a = all.asks, *next; a; a = next) {
        next = a->next;
        free(a);
    }
    all.asks = NULL;
    check_lease_deinit();
}

/* ---- keep-alives and questions ---- */

/* False: nobody waited. */
static bool let_go(struct ask *a)
{
    if (!a->holder)
        return false;
    a->holder->ask = NULL;
    a->holder = NULL;
    return true;
}

static void keep_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct ask *a = container_of(r, struct ask, renewal);
    struct holder *h = a->holder;

    trace4("keep-alive of lease %lu at m%lu ends: outcome %lu, %lu s", (uint64_t)r->id,
           a->machine->number, outcome, (uint64_t)ttl_s);
    if (!let_go(a) || outcome != OUTCOME_OK)
        return;
    count(COUNT_KEEPALIVES, 1);
    check_lease_kept(r->id, ttl_s, a->asked_ns);
    if (ttl_s == 0)
        h->ttl_s = 0;
}

static void told(const struct ask *a)
{
    struct bytes b = buf_bytes(&a->request.response);
    Etcdserverpb__LeaseTimeToLiveResponse *m =
        etcdserverpb__lease_time_to_live_response__unpack(NULL, b.len, b.data);

    require(m && m->header && m->id == a->question.id, "answer", "lease %ld: told of another",
            (long)a->question.id);
    trace3("lease %lu of %lu s has %lu s left", (uint64_t)m->id, (uint64_t)m->grantedttl,
           (uint64_t)m->ttl);
    count(COUNT_TIMES_TOLD, 1);
    check_lease_told(m->id, m->ttl, m->grantedttl, a->asked_ns);
    etcdserverpb__lease_time_to_live_response__free_unpacked(m, NULL);
}

static void question_finish(struct request *request, enum outcome outcome)
{
    struct ask *a = container_of(request, struct ask, request);

    trace3("question for lease %lu at m%lu ends: outcome %lu", (uint64_t)a->question.id,
           a->machine->number, outcome);
    if (let_go(a) && outcome == OUTCOME_OK)
        told(a);
    buf_deinit(&request->response);
}

static void ask_main(void *arg)
{
    struct ask *a = arg;

    if (!machine_serves(a->machine) || server_is_learner(a->server))
        let_go(a);
    else if (a->renews)
        server_lease_renew(a->server, &a->renewal);
    else
        server_lease_time_to_live(a->server, &a->request, &a->question);
}

static void cancel_main(void *arg)
{
    struct ask *a = arg;

    if (a->holder && (a->renews ? server_lease_renew_cancel(a->server, &a->renewal)
                                : server_cancel(a->server, &a->request)))
        let_go(a);
}

static void impatient(void *arg)
{
    struct ask *a = arg;

    if (a->holder && a->machine->lives == a->life && machine_serves(a->machine))
        machine_call(a->machine, cancel_main, a);
}

static struct ask *ask_new(struct holder *h)
{
    struct ask *a = mem_new(struct ask);

    a->holder = h;
    a->machine = h->machine;
    a->server = h->machine->server;
    a->life = h->machine->lives;
    a->asked_ns = kernel_now();
    a->next = all.asks;
    all.asks = a;
    h->ask = a;
    return a;
}

static void ask_begin(struct holder *h)
{
    machine_call(h->machine, ask_main, h->ask);
    if (rng_below(&h->rng, GIVE_UP_ONE_IN) == 0)
        kernel_after(rng_below(&h->rng, SECOND), impatient, h->ask);
}

static void keep(struct holder *h)
{
    struct ask *a = ask_new(h);

    a->renews = true;
    a->renewal = (struct lease_renewal){.id = h->id, .finish = keep_finish};
    h->keeps--;
    trace2("keep-alive of lease %lu at m%lu begins", (uint64_t)h->id, h->machine->number);
    ask_begin(h);
}

static void ask(struct holder *h)
{
    struct ask *a = ask_new(h);

    a->request = (struct request){.kind = REQUEST_LEASE_TIME_TO_LIVE, .finish = question_finish};
    etcdserverpb__lease_time_to_live_request__init(&a->question);
    a->question.id = h->id;
    a->question.keys = rng_below(&h->rng, 2) == 0;
    trace2("question for lease %lu at m%lu begins", (uint64_t)h->id, h->machine->number);
    ask_begin(h);
}

void holders_lose(struct machine *m)
{
    for (struct ask *a = all.asks; a; a = a->next) {
        if (a->machine == m)
            let_go(a);
    }
}

/* ---- the rest of its life ---- */

static void grant(struct holder *h)
{
    h->op = op_new(h->machine);
    h->id = (int64_t)h->op->number + LEASE_ID_TIMED;
    h->grant_ns = kernel_now();
    h->keeps = (unsigned)rng_below(&h->rng, 30);
    op_make_grant(h->op, h->id, 1 + (int64_t)rng_below(&h->rng, LEASE_TTL_TIMED_MAX_S));
    op_send(h->op);
}

/* What was granted in vain, as far as the client knows, is nobody's. */
static void granted(struct holder *h)
{
    const struct op *op = h->op;
    struct bytes b = buf_bytes(&op->request.response);

    if (op->unknown || op->outcome != OUTCOME_OK)
        return;
    Etcdserverpb__LeaseGrantResponse *a =
        etcdserverpb__lease_grant_response__unpack(NULL, b.len, b.data);
    require(a && a->id == h->id && a->ttl > 0, "answer", "lease %ld: granted another", (long)h->id);
    h->ttl_s = a->ttl;
    check_lease_granted(h->id, h->ttl_s, h->grant_ns);
    op_lease_is_known(h->id);
    etcdserverpb__lease_grant_response__free_unpacked(a, NULL);
}

static void attach(struct holder *h)
{
    h->op = op_new(h->machine);
    op_make_attach(h->op, h->id, &h->rng);
    op_send(h->op);
}

static void revoke(struct holder *h)
{
    check_lease_unwanted(h->id);
    h->op = op_new(h->machine);
    op_make_revoke(h->op, h->id);
    op_send(h->op);
    h->ttl_s = 0;
}

static void next_step(struct holder *h)
{
    uint64_t share = rng_below(&h->rng, 10);

    if (share == 9 && h->id != 0)
        ask(h);
    else if (h->ttl_s == 0)
        grant(h);
    else if (h->keeps == 0 && share == 0)
        revoke(h);
    else if (h->keeps == 0)
        h->ttl_s = 0; /* it ends by itself */
    else if (share < 3)
        attach(h);
    else
        keep(h);
}

static bool is_free(struct holder *h)
{
    if (h->ask || (h->op && !h->op->done))
        return false;
    if (h->op && h->op->request.kind == REQUEST_LEASE_GRANT)
        granted(h);
    h->op = NULL;
    return true;
}

static void turn(void *arg)
{
    struct holder *h = arg;
    bool is_idle = is_free(h);

    if (all.stopped)
        return;
    if (!machine_serves(h->machine) || rng_below(&h->rng, STICKY_ONE_IN) == 0)
        h->machine = world.machines[1 + rng_below(&h->rng, world.n_machines)];
    if (is_idle && machine_serves(h->machine))
        next_step(h);
    kernel_after(rng_below(&h->rng, world.o.keep_ns_max + 1), turn, h);
}

void holders_start(void)
{
    for (unsigned i = 0; i < world.o.n_holders; i++)
        kernel_after(rng_below(&world.rng, SECOND), turn, &all.holders[i]);
}

void holders_stop(void)
{
    all.stopped = true;
}
