/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients with leases (see holders.h).
 *
 *     turn:  no lease -> grant -> [put, keep alive]* -> revoke, or nothing more -> no lease
 *
 * One thing at a time is under way. Keep-alives live until the end of the run: a late finish()
 * finds its renewal, though nobody waits.
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
    struct op *op;          /* under way */
    struct keepalive *keep; /* under way */
    int64_t id, ttl_s;      /* ttl_s 0: none */
    unsigned keeps;         /* how often it is to be kept alive */
    uint64_t grant_ns;      /* when it was asked for */
};

struct keepalive {
    struct lease_renewal renewal;
    struct holder *holder; /* NULL: nobody waits */
    struct machine *machine;
    struct server *server;
    unsigned life;
    uint64_t asked_ns;
    struct keepalive *next;
};

static struct {
    struct holder holders[CLIENTS_MAX];
    struct keepalive *keeps;
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
    for (struct keepalive *k = all.keeps, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    all.keeps = NULL;
    check_lease_deinit();
}

/* ---- keep-alives ---- */

static void keep_finish(struct lease_renewal *r, enum outcome outcome, int64_t ttl_s)
{
    struct keepalive *k = container_of(r, struct keepalive, renewal);
    struct holder *h = k->holder;

    trace4("keep-alive of lease %lu at m%lu ends: outcome %lu, %lu s", (uint64_t)r->id,
           k->machine->number, outcome, (uint64_t)ttl_s);
    if (!h)
        return;
    k->holder = NULL;
    h->keep = NULL;
    if (outcome != OUTCOME_OK)
        return;
    count(COUNT_KEEPALIVES, 1);
    check_lease_kept(r->id, ttl_s, k->asked_ns);
    if (ttl_s == 0)
        h->ttl_s = 0;
}

static void keep_main(void *arg)
{
    struct keepalive *k = arg;

    if (machine_serves(k->machine) && !server_is_learner(k->server))
        server_lease_renew(k->server, &k->renewal);
    else
        keep_finish(&k->renewal, OUTCOME_STOPPED, 0);
}

static void cancel_main(void *arg)
{
    struct keepalive *k = arg;

    if (!k->holder || !server_lease_renew_cancel(k->server, &k->renewal))
        return;
    k->holder->keep = NULL;
    k->holder = NULL;
}

static void impatient(void *arg)
{
    struct keepalive *k = arg;

    if (k->holder && k->machine->lives == k->life && machine_serves(k->machine))
        machine_call(k->machine, cancel_main, k);
}

static void keep(struct holder *h)
{
    struct keepalive *k = mem_new(struct keepalive);

    *k = (struct keepalive){.renewal = {.id = h->id, .finish = keep_finish},
                            .holder = h,
                            .machine = h->machine,
                            .server = h->machine->server,
                            .life = h->machine->lives,
                            .asked_ns = kernel_now(),
                            .next = all.keeps};
    all.keeps = k;
    h->keep = k;
    h->keeps--;
    trace2("keep-alive of lease %lu at m%lu begins", (uint64_t)h->id, h->machine->number);
    machine_call(h->machine, keep_main, k);
    if (rng_below(&h->rng, GIVE_UP_ONE_IN) == 0)
        kernel_after(rng_below(&h->rng, SECOND), impatient, k);
}

void holders_lose(struct machine *m)
{
    for (struct keepalive *k = all.keeps; k; k = k->next) {
        if (!k->holder || k->machine != m)
            continue;
        k->holder->keep = NULL;
        k->holder = NULL;
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

    if (h->ttl_s == 0)
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
    if (h->keep || (h->op && !h->op->done))
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
