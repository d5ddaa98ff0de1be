/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The end of a run (see proof.h).
 *
 * Thread: the only one.
 */
#include "tests/sim/proof.h"

#include <stdio.h>

#include "base/check.h"
#include "raft/core.h"
#include "server/peer_door.h"
#include "server/server_private.h"
#include "tests/sim/checks.h"
#include "tests/sim/clients.h"
#include "tests/sim/cluster.h"
#include "tests/sim/holders.h"
#include "tests/sim/network.h"
#include "tests/sim/operator.h"
#include "tests/sim/truth.h"
#include "tests/sim/watchers.h"

/* Some requests may be lost with what happened before; then their time must pass. */
enum { REQUEST_TIMEOUTS = 3, ELECTION_TIMEOUTS = 30, CONVERGE_S = 20 };
enum { READ_ROUNDS = 4, READ_MS = 3500, LAG_S = 10, WATCHES_S = 30 };

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

struct table_check {
    const struct machine *m;
    unsigned n;
};

static void check_row(void *arg, const struct member *row)
{
    struct table_check *t = arg;
    const struct conf_member *c = cluster_find(cluster_now(), row->id);

    t->n++;
    require(c && c->learner == row->is_learner, "the member table is the configuration",
            "%s: member %lx, learner %d", t->m->name, (unsigned long)row->id, row->is_learner);
}

/* The table, and raft's configuration. */
static void check_members(struct machine *m)
{
    const struct raft_conf_state *conf = raft_conf(m->raft);
    struct table_check t = {m, 0};

    server_peer_visit(m->server, check_row, &t);
    require(t.n + 1 == cluster_now()->len, "the member table is the configuration",
            "%s: %u members beside it", m->name, t.n);
    require(conf->voters.len == cluster_voters(cluster_now()) &&
                conf->voters.len + conf->learners.len == cluster_now()->len,
            "raft's configuration is the cluster's", "%s: %zu voters, %zu learners", m->name,
            conf->voters.len, conf->learners.len);
}

static bool never(void)
{
    return false;
}

/* The leader of a cluster at rest has room to send to everybody. */
static bool all_replicate(void)
{
    const struct raft *r = NULL;

    for (unsigned i = 1; i <= world.n_machines; i++) {
        const struct machine *m = world.machines[i];
        if (machine_serves(m) && m->raft && m->raft->role == RAFT_LEADER &&
            (!r || m->raft->term > r->term))
            r = m->raft;
    }
    if (!r)
        return false;
    for (size_t i = 0; i < r->members.len; i++) {
        const struct conf_member *c = cluster_find(cluster_now(), r->members.items[i].id);
        if (c && belongs(world.machines[c->number]) && r->members.items[i].id != r->id &&
            r->members.items[i].state != PROGRESS_REPLICATE)
            return false;
    }
    return true;
}

static void hash_main(void *arg)
{
    struct machine *m = arg;
    struct mvcc_hash hash;

    store_hold(&m->server->store);
    check_store(m);
    check_leases(m);
    check(mvcc_hash_kv(m->server->store.mvcc, 0, &hash) == 0);
    store_release(&m->server->store);
    require(hash.revision == model_revision(), "all members come to one revision",
            "%s: %ld, not %ld", m->name, (long)hash.revision, (long)model_revision());
    check_hash_kv(m, hash.revision, hash.compact_revision, hash.hash);
    check_members(m);
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

/* ---- reads while the leader changes ---- */

static void read_linearizable(void)
{
    for (unsigned i = 1; i <= world.n_machines; i++) {
        struct machine *m = world.machines[i];
        proofs[i] = NULL;
        if (!belongs(m) || is_learner(m))
            continue;
        proofs[i] = op_new(m);
        op_make_range_all(proofs[i], false);
        op_send(proofs[i]);
    }
}

static void prove_reads(void)
{
    for (int round = 0; round < READ_ROUNDS; round++) {
        read_linearizable();
        operator_move_leader();
        require(run_until(all_read, READ_MS * MILLISECOND),
                "reads end soon when the leader changes", "in round %d", round);
    }
}

/* ---- leases and watches ---- */

static bool all_expired(void)
{
    return check_leases_left() == 0;
}

/* A new leader gives all leases their TTL again; and a client may hear late of one. */
static void prove_leases(void)
{
    uint64_t news;
    bool gone;

    do {
        news = check_leases_news();
        gone = run_until(all_expired, check_leases_bound_ns());
    } while (!gone && check_leases_news() != news);
    require(gone, "lease: gone in time", "%zu leases live, after %lu ms", check_leases_left(),
            (unsigned long)(check_leases_bound_ns() / MILLISECOND));
}

/* Readers stay as slow as they were, and queues as small: some have needed nine seconds. */
static void prove_watches(void)
{
    bool done = run_until(watchers_done, WATCHES_S * SECOND);

    if (!done)
        watchers_describe();
    require(done, "watch: reliable", "not all is told after %d s", WATCHES_S);
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
    bool live = run_until(all_proven, write_bound_ns());
    if (!live)
        describe("not live");
    require(live, "every member takes a write after healing", "bound %lu ms",
            (unsigned long)(write_bound_ns() / MILLISECOND));
    check(run_until(network_has_calmed, LAG_S * SECOND));
    prove_leases(); /* before others lead, who give them new times */
    prove_reads();
    prove_watches();
    bool converged = run_until(all_converged, CONVERGE_S * SECOND);
    if (!converged)
        describe("not converged");
    require(converged, "all members come to one index", "committed %lu",
            (unsigned long)truth_committed());
    network_break();
    run_until(never, world.o.election_ms * MILLISECOND); /* so that they have heard of it */
    require(run_until(all_replicate, write_bound_ns()), "a follower at rest is in replicate",
            "at the end of the run");
    read_all();
    require(run_until(all_read, CONVERGE_S * SECOND), "reads end", "at the end of the run");
}
