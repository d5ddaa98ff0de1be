/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run (see world.h).
 *
 * Thread: the only one.
 */
#include "tests/sim/world.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/server_private.h"
#include "storage/db_mem.h"
#include "tests/sim/checks.h"
#include "tests/sim/clients.h"
#include "tests/sim/counters.h"
#include "tests/sim/holders.h"
#include "tests/sim/machine.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/network.h"
#include "tests/sim/old_copy.h"
#include "tests/sim/operator.h"
#include "tests/sim/proof.h"
#include "tests/sim/system.h"
#include "tests/sim/truth.h"
#include "tests/sim/watchers.h"

struct world world;

/* ---- HashKV, compared all the time ---- */

static void hash_main(void *arg)
{
    struct machine *m = arg;
    struct server *s = m->server;
    struct mvcc_hash hash;
    int64_t back = (int64_t)rng_below(&world.rng, 20);

    if (!s)
        return;
    store_hold(&s->store);
    int64_t revision = mvcc_revision(s->store.mvcc) - back;
    if (revision > 0 && mvcc_hash_kv(s->store.mvcc, revision, &hash) == 0)
        check_hash_kv(m, revision, hash.compact_revision, hash.hash);
    store_release(&s->store);
}

static void hash_turn(void *arg)
{
    struct machine *m = world.machines[1 + rng_below(&world.rng, world.n_machines)];

    if (machine_serves(m))
        machine_call(m, hash_main, m);
    if (world.phase == PHASE_CHAOS)
        kernel_after(between(0, 400 * MILLISECOND), hash_turn, NULL);
}

/* ---- the run ---- */

static char *initial_cluster(void)
{
    struct buf text = BUF_NULL;

    for (unsigned i = 1; i <= world.o.n_members; i++)
        buf_printf(&text, "%sm%u=http://10.0.0.%u:2380", i > 1 ? "," : "", i, i);
    char *copy = mem_strdup(buf_cstr(&text));
    buf_deinit(&text);
    return copy;
}

static void begin(const struct world_settings *settings)
{
    world = (struct world){.seed = settings->seed};
    rng_init(&world.rng, settings->seed ^ UINT64_C(0x5eed));
    options_draw(&world.o, settings->seed);
    kernel_init(settings->seed);
    trace_init(settings->seed, settings->trace);
    system_init(settings->seed, settings->logs);
    network_init(settings->seed);
    checks_init();
    clients_init();
    watchers_init();
    holders_init();
    operator_init();
    old_copy_init();
}

static void end(void)
{
    clients_deinit();
    holders_deinit();
    checks_deinit();
    kernel_deinit();
    machines_free();
    disks_free();
    db_mem_forget();
}

static void make_cluster(void)
{
    _cleanup_(mem_freep) char *initial = initial_cluster();

    for (unsigned i = 1; i <= world.o.n_members; i++)
        machine_new(i);
    for (unsigned i = 1; i <= world.o.n_members; i++) {
        machine_configure(world.machines[i], initial, false);
        machine_start(world.machines[i]);
    }
}

static void count_run(void)
{
    struct history_counts h = history_counts();
    struct network_counts n = network_counts();

    count(COUNT_EVENTS, world.events);
    count(COUNT_VIRTUAL_MS, world.virtual_ns / MILLISECOND);
    count(COUNT_ANSWERS, h.ok);
    count(COUNT_READS, h.reads);
    count(COUNT_UNKNOWN, h.unknown);
    count(COUNT_REFUSED, h.refused);
    count(COUNT_ENTRIES, truth_committed());
    count(COUNT_MESSAGES, n.sent);
    count(COUNT_LOST, n.lost);
    count(COUNT_REPEATED, n.repeated);
    count(COUNT_SNAPSHOTS, n.snapshots);
    count(COUNT_SNAPSHOTS_LOST, n.snapshots_lost);
    count_checks();
}

void world_run(const struct world_settings *settings)
{
    begin(settings);
    make_cluster();
    clients_start();
    watchers_start();
    holders_start();
    nemesis_start();
    operator_start();
    kernel_after(0, hash_turn, NULL);
    while (kernel_now() < world.o.chaos_ns)
        check(kernel_step());
    trace0("healing");
    world.phase = PHASE_HEALING;
    clients_stop();
    holders_stop();
    watchers_hurry();
    nemesis_heal();
    proof_run();
    world.phase = PHASE_DONE;
    history_finish(clients_ops());
    world.digest = kernel_digest();
    world.events = kernel_events();
    world.virtual_ns = kernel_now();
    count_run();
    end();
}
