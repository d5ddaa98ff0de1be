/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a run (see proof.h).
 *
 * Thread: the only one.
 */
#include "tests/sim/proof.h"

#include <stdio.h>

#include "base/check.h"
#include "server/server_private.h"
#include "tests/sim/checks.h"
#include "tests/sim/clients.h"
#include "tests/sim/cluster.h"
#include "tests/sim/operator.h"
#include "tests/sim/truth.h"

/* Some requests may be lost with what happened before; then their time must pass. */
enum { REQUEST_TIMEOUTS = 3, ELECTION_TIMEOUTS = 30, CONVERGE_S = 20 };

static struct op *proofs[MACHINES_MAX + 1];

/* To the configuration, and not lost for ever. */
static bool belongs(const struct machine *m)
{
    return m && cluster_find(cluster_now(), m->member_id) &&
           !(m->damaged && m->state == MACHINE_RETIRED);
}

static bool is_learner(const struct machine *m)
{
    const struct conf_member *c = cluster_find(cluster_now(), m->member_id);

    return c && c->learner;
}

static uint64_t write_bound_ns(void)
{
    uint64_t election_ns = world.o.election_ms * MILLISECOND;

    return REQUEST_TIMEOUTS * (5 * SECOND + 2 * election_ns) + ELECTION_TIMEOUTS * election_ns;
}

/* Runs until done() or the bound. */
static bool run_until(bool (*done)(void), uint64_t bound_ns)
{
    uint64_t end = kernel_now() + bound_ns;
    unsigned n = 0;

    while (kernel_now() < end) {
        check(kernel_step());
        if (++n % 16 == 0 && done())
            return true;
    }
    return done();
}

/* ---- a write by each member ---- */

static bool is_proven(unsigned i)
{
    const struct op *op = proofs[i];

    return op && op->done && !op->unknown && op->outcome == OUTCOME_OK;
}

static void prove(struct machine *m)
{
    char key[8];

    if (!machine_serves(m) || (proofs[m->number] && !proofs[m->number]->done))
        return;
    snprintf(key, sizeof(key), "k%02u", m->number);
    proofs[m->number] = op_new(m);
    op_make_put(proofs[m->number], key, "proof");
    op_send(proofs[m->number]);
}

/* Of the members that the configuration has, each runs somewhere. */
static bool all_there(void)
{
    const struct conf *c = cluster_now();

    for (unsigned i = 0; i < c->len; i++) {
        const struct machine *m = world.machines[c->members[i].number];
        if (!m || (m->member_id != c->members[i].id && !m->damaged))
            return false;
    }
    return true;
}

static bool all_proven(void)
{
    bool all = all_there();

    operator_settle();

    for (unsigned i = 1; i <= world.n_machines; i++) {
        if (!belongs(world.machines[i]) || is_learner(world.machines[i]) || is_proven(i))
            continue;
        all = false;
        prove(world.machines[i]);
    }
    return all;
}

/* ---- the same state ---- */

static bool is_converged(const struct machine *m)
{
    return machine_serves(m) && atomic_load(&m->server->state.applied) == truth_committed() &&
           truth_applied() == truth_committed();
}

static bool all_converged(void)
{
    for (unsigned i = 1; i <= world.n_machines; i++)
        if (belongs(world.machines[i]) && !is_converged(world.machines[i]))
            return false;
    return true;
}

static void hash_main(void *arg)
{
    struct machine *m = arg;
    struct mvcc_hash hash;

    store_hold(&m->server->store);
    check(mvcc_hash_kv(m->server->store.mvcc, 0, &hash) == 0);
    store_release(&m->server->store);
    require(hash.revision == model_revision(), "all members come to one revision",
            "%s: %ld, not %ld", m->name, (long)hash.revision, (long)model_revision());
    check_hash_kv(m, hash.revision, hash.compact_revision, hash.hash);
}

static bool all_read(void)
{
    for (unsigned i = 1; i <= world.n_machines; i++)
        if (proofs[i] && !proofs[i]->done)
            return false;
    return true;
}

static void read_all(void)
{
    for (unsigned i = 1; i <= world.n_machines; i++) {
        struct machine *m = world.machines[i];
        proofs[i] = NULL;
        if (!belongs(m))
            continue;
        machine_call(m, hash_main, m);
        proofs[i] = op_new(m);
        op_make_range_all(proofs[i], m->number % 2 || is_learner(m));
        op_send(proofs[i]);
    }
}

/* ---- all of it ---- */

static void describe(const char *what)
{
    for (unsigned i = 1; i <= world.n_machines; i++) {
        const struct machine *m = world.machines[i];
        char text[200];
        if (!m)
            continue;
        snprintf(text, sizeof(text), "%s: m%u state %d proven %d commit %lu applied %lu term %lu",
                 what, i, (int)m->state, is_proven(i),
                 m->server ? (unsigned long)atomic_load(&m->server->state.committed) : 0,
                 m->server ? (unsigned long)atomic_load(&m->server->state.applied) : 0,
                 m->server ? (unsigned long)atomic_load(&m->server->state.term) : 0);
        trace_text(text);
    }
}

void proof_run(void)
{
    for (unsigned i = 0; i <= MACHINES_MAX; i++)
        proofs[i] = NULL;
    world.phase = PHASE_PROOF;
    if (!run_until(all_proven, write_bound_ns())) {
        describe("not live");
        violated("every member takes a write after healing", "bound %lu ms",
                 (unsigned long)(write_bound_ns() / MILLISECOND));
    }
    if (!run_until(all_converged, CONVERGE_S * SECOND)) {
        describe("not converged");
        violated("all members come to one index", "committed %lu",
                 (unsigned long)truth_committed());
    }
    read_all();
    if (!run_until(all_read, CONVERGE_S * SECOND))
        violated("reads end", "at the end of the run");
}
