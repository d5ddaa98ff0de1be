/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients (see clients.h).
 *
 *     client_turn -> op_new -> op_send ~> [member's thread] server_submit ... finish -> op_end
 *         ^                                                                               |
 *         +--------------------------------- thinks --------------------------------------+
 *
 * Requests live until the end of the run: a late finish() finds its request, though nobody waits.
 *
 * Thread: the only one; parts run on fibers of the member.
 */
#include "tests/sim/clients.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/server.h"

enum { STICKY_ONE_IN = 12, GIVE_UP_ONE_IN = 24 };

struct client {
    struct rng rng;
    struct machine *machine;
    struct op *op;
    uint64_t sent;
};

static struct {
    struct client clients[CLIENTS_MAX];
    struct op *ops;
    uint64_t n_ops;
    bool stopped;
} all;

static void client_turn(void *arg);

void clients_init(void)
{
    memset(&all, 0, sizeof(all));
    history_init();
    op_make_init();
    for (unsigned i = 0; i < world.o.n_clients; i++)
        rng_init(&all.clients[i].rng, rng_next(&world.rng));
}

static void op_free(struct op *op)
{
    buf_deinit(&op->payload);
    buf_deinit(&op->request.response);
    if (op->range)
        etcdserverpb__range_request__free_unpacked(op->range, NULL);
    if (op->ranges)
        etcdserverpb__txn_request__free_unpacked(op->ranges, NULL);
    free(op);
}

void clients_deinit(void)
{
    for (struct op *op = all.ops, *next; op; op = next) {
        next = op->next;
        op_free(op);
    }
    all.ops = NULL;
    op_make_deinit();
}

/* ---- one request ---- */

static void client_continue(struct client *c)
{
    c->op = NULL;
    kernel_after(rng_below(&c->rng, world.o.think_ns_max + 1), client_turn, c);
}

static void op_end(struct op *op, enum outcome outcome)
{
    check(!op->done);
    op->done = true;
    op->waiting = false;
    op->outcome = outcome;
    trace4("op %lu at m%lu ends: outcome %lu, unknown %lu", op->number, op->machine->number,
           outcome, op->unknown);
    history_end(op);
    if (op->client)
        client_continue(op->client);
}

static void op_read(void *arg)
{
    struct op *op = arg;
    enum outcome outcome;

    if (op->kind == OP_RANGE)
        outcome = server_range(op->server, op->range, &op->request.response);
    else
        outcome = server_txn_read_only(op->server, op->ranges, &op->request.response);
    if (!op->done)
        op_end(op, outcome);
}

static void op_finish(struct request *request, enum outcome outcome)
{
    struct op *op = container_of(request, struct op, request);

    check(op->waiting);
    op->waiting = false;
    if (op->done)
        return;
    if (op->kind == OP_WRITE || outcome != OUTCOME_OK)
        op_end(op, outcome);
    else
        machine_call(op->machine, op_read, op); /* as api/ does: on a thread of its own */
}

static void op_start(void *arg)
{
    struct op *op = arg;

    if (server_is_learner(op->server) && !(op->kind == OP_RANGE && op->serializable)) {
        op_end(op, OUTCOME_LEARNER_UNSUPPORTED); /* as api/ does */
        return;
    }
    op->waiting = true;
    if (op->kind == OP_WRITE) {
        server_submit(op->server, &op->request);
    } else if (!op->serializable) {
        op->request.kind = REQUEST_READ_INDEX;
        server_read_index(op->server, &op->request);
    } else {
        op->waiting = false;
        op_read(op);
    }
}

struct op *op_new(struct machine *m)
{
    struct op *op = mem_new(struct op);

    op->machine = m;
    op->number = ++all.n_ops;
    op->request.finish = op_finish;
    op->next = all.ops;
    all.ops = op;
    return op;
}

void op_send(struct op *op)
{
    op->life = op->machine->lives;
    op->server = op->machine->server;
    trace2("op %lu at m%lu begins", op->number, op->machine->number);
    history_begin(op);
    machine_call(op->machine, op_start, op);
}

/* ---- giving up ---- */

static void op_cancel(void *arg)
{
    struct op *op = arg;

    if (op->done || !op->waiting || !server_cancel(op->server, &op->request))
        return;
    op->unknown = true;
    op_end(op, OUTCOME_CANCELED);
}

static void op_impatient(void *arg)
{
    struct op *op = arg;

    if (!op->done && op->machine->lives == op->life && machine_serves(op->machine))
        machine_call(op->machine, op_cancel, op);
}

void clients_lose(struct machine *m)
{
    for (struct op *op = all.ops; op; op = op->next) {
        if (op->done || op->machine != m)
            continue;
        op->unknown = true;
        op_end(op, OUTCOME_INTERNAL);
    }
}

/* ---- clients ---- */

static struct machine *choose_machine(struct client *c)
{
    struct machine *m = c->machine;

    if (machine_serves(m) && rng_below(&c->rng, STICKY_ONE_IN) != 0)
        return m;
    m = world.machines[1 + rng_below(&c->rng, world.n_machines)];
    return machine_serves(m) ? m : NULL;
}

static void client_turn(void *arg)
{
    struct client *c = arg;

    if (all.stopped || c->sent >= world.o.ops_max / world.o.n_clients)
        return;
    c->machine = choose_machine(c);
    if (!c->machine) {
        kernel_after(between(MILLISECOND, 50 * MILLISECOND), client_turn, c);
        return;
    }
    struct op *op = op_new(c->machine);
    op->client = c;
    c->op = op;
    c->sent++;
    if (c < all.clients + world.o.n_readers)
        op_make_read(op, &c->rng);
    else
        op_make_random(op, &c->rng);
    op_send(op);
    if (rng_below(&c->rng, GIVE_UP_ONE_IN) == 0)
        kernel_after(rng_below(&c->rng, SECOND), op_impatient, op);
}

void clients_start(void)
{
    for (unsigned i = 0; i < world.o.n_clients; i++)
        kernel_after(rng_below(&world.rng, world.o.think_ns_max + 1), client_turn, &all.clients[i]);
}

void clients_stop(void)
{
    all.stopped = true;
}

const struct op *clients_ops(void)
{
    return all.ops;
}
