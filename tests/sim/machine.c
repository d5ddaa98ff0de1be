/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machines (see machine.h).
 *
 *            machine_start()          server_start() done          machine_stop()
 *     DOWN -------------------> STARTING -------------------> UP -------------------> STOPPING
 *      ^                           |                           |                          |
 *      +-------- process dies, or server_stop() is done -------+--------------------------+
 *
 * A machine whose member was removed, or refuses to start because its disk is damaged, is RETIRED.
 *
 * A process dies by the nemesis (machine_crash), at a boundary of its disk, or by abort(), which it
 * may only do after an error of its disk.
 *
 * Thread: the only one.
 */
#include "tests/sim/machine.h"

#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "server/server.h"
#include "storage/db.h"
#include "storage/db_mem.h"
#include "tests/sim/checks.h"
#include "tests/sim/clients.h"
#include "tests/sim/cluster.h"
#include "tests/sim/counters.h"
#include "tests/sim/holders.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/network.h"
#include "tests/sim/old_copy.h"
#include "tests/sim/operator.h"
#include "tests/sim/system.h"
#include "tests/sim/watchers.h"

enum { READY_POLL_MS = 100 };
#define POLL_NS (100 * MILLISECOND)
#define BETWEEN_STARTS_NS (100 * MILLISECOND)

static void died(struct process *p);

struct machine *machine_new(unsigned number)
{
    struct machine *m = mem_new(struct machine);

    m->number = number;
    snprintf(m->name, sizeof(m->name), "m%u", number);
    snprintf(m->db_path, sizeof(m->db_path), "/%u/data/member/db", number);
    process_init(&m->process, m->name, m);
    m->process.died = died;
    m->process.hash_seed = rng_next(&world.rng);
    m->process.delay_ns_max = world.o.delay_ns_max;
    m->process.preempt_ppm = world.o.preempt_ppm;
    if (!world.o.same_clock)
        m->process.wall_ns = (int64_t)between(0, 20 * SECOND) - (int64_t)(10 * SECOND);
    m->disk = disk_new(number, &m->process, rng_next(&world.rng));
    *disk_faults(m->disk) = world.o.disk;
    network_attach(m);
    world.machines[number] = m;
    m->state = MACHINE_DOWN;
    if (number > world.n_machines)
        world.n_machines = number;
    return m;
}

void machines_free(void)
{
    for (unsigned i = 1; i <= world.n_machines; i++) {
        struct machine *m = world.machines[i];
        if (!m)
            continue;
        if (m->has_config)
            config_deinit(&m->config);
        free(m);
        world.machines[i] = NULL;
    }
    world.n_machines = 0;
}

struct machine *machine_current(void)
{
    struct process *p = kernel_process();

    return p ? p->owner : NULL;
}

/* ---- configuration ---- */

void machine_configure(struct machine *m, const char *initial, bool joins)
{
    char *no_environ[] = {NULL};
    int exit_code;
    char *args[] = {
        mem_strdup("cairn"),
        mem_printf("--name=%s", m->name),
        mem_printf("--data-dir=/%u/data", m->number),
        mem_printf("--listen-peer-urls=http://10.0.0.%u:2380", m->number),
        mem_printf("--initial-advertise-peer-urls=http://10.0.0.%u:2380", m->number),
        mem_printf("--listen-client-urls=http://10.0.0.%u:2379", m->number),
        mem_printf("--advertise-client-urls=http://10.0.0.%u:2379", m->number),
        mem_printf("--initial-cluster=%s", initial),
        mem_printf("--initial-cluster-state=%s", joins ? "existing" : "new"),
        mem_printf("--heartbeat-interval=%u", world.o.heartbeat_ms),
        mem_printf("--election-timeout=%u", world.o.election_ms),
        mem_printf("--pre-vote=%s", world.o.pre_vote ? "true" : "false"),
        mem_printf("--snapshot-count=%lu", (unsigned long)world.o.snapshot_count),
        mem_printf("--snapshot-catchup-entries=%lu", (unsigned long)world.o.catchup_entries),
        mem_printf("--compaction-batch-limit=%u", world.o.compaction_batch),
        mem_printf("--watch-progress-notify-interval=%ums", world.o.progress_ms),
        mem_printf("--feature-gates=LeaseCheckpoint=%s", world.o.checkpoint_ns ? "true" : "false"),
        NULL,
    };
    int n = (int)(sizeof(args) / sizeof(*args)) - 1;

    if (m->has_config)
        config_deinit(&m->config);
    m->joins = joins;
    check(config_parse(n, args, no_environ, &m->config, &exit_code) == CONFIG_RUN);
    m->config.warning_apply_duration_ns = INT64_MAX;
    m->has_config = true;
    for (int i = 0; i < n; i++)
        free(args[i]);
}

/* ---- life ---- */

static void end_life(struct machine *m)
{
    if (m->last_wall_ns < process_wall_ns(&m->process))
        m->last_wall_ns = process_wall_ns(&m->process);
    m->server = NULL;
    m->serves = false;
    m->raft = NULL;
    m->installing = false;
    m->killed = false;
    m->wants_stop = false;
    m->inside = 0;
    m->closed_flushed = 0;
    if (m->state != MACHINE_RETIRED)
        m->state = MACHINE_DOWN;
}

static void stores_crash(struct machine *m)
{
    for (int i = 0; i < MACHINE_STORES_MAX; i++) {
        if (m->stores[i].db)
            db_mem_crash(m->stores[i].db, rng_next(&world.rng));
        m->stores[i] = (struct open_store){0};
    }
}

/* It ended by abort(): was there a reason? */
static bool may_give_up(const struct machine *m)
{
    return m->damaged || disk_errors(m->disk) > m->errors_at_start;
}

static void count_death(const struct machine *m, bool met, enum disk_end end)
{
    trace2("m%lu died, life %lu", m->number, m->lives);
    if (met)
        count(COUNT_BOUNDARY_ENDS, 1);
    else if (!m->killed)
        count(COUNT_GAVE_UP, 1);
    if (m->installing)
        count(end == DISK_POWER ? COUNT_INSTALL_POWER_LOSSES : COUNT_INSTALL_KILLS, 1);
}

static void died(struct process *p)
{
    struct machine *m = p->owner;
    bool met = disk_met_end(m->disk);

    require(m->killed || met || may_give_up(m), "a member gave up", "%s: %s", m->name,
            system_last_words());
    network_died(m);
    clients_lose(m);
    watchers_lose(m);
    holders_lose(m);
    operator_lose(m);
    stores_crash(m);
    count_death(m, met, disk_reboot(m->disk, m->killed ? m->end : DISK_KILL));
    check_member_died(m);
    old_copy_died(m);
    end_life(m);
    nemesis_restart(m);
}

/* The end of the process in good order. */
static void exited(struct machine *m)
{
    m->killed = true;
    m->end = DISK_KILL;
    process_kill(&m->process);
}

static bool is_removed(const struct machine *m)
{
    return m->member_id != 0 && cluster_is_removed(m->member_id);
}

static void refused(struct machine *m)
{
    trace1("m%lu refused to start", m->number);
    count(COUNT_REFUSED_STARTS, 1);
    require(m->damaged || m->joins || is_removed(m) || disk_errors(m->disk) > m->errors_at_start,
            "a member refused to start", "%s: %s", m->name, system_last_words());
    if (m->damaged)
        m->state = MACHINE_RETIRED;
    exited(m);
}

/* ---- what server/main.c does ---- */

static void wait_end(struct machine *m, struct server *s)
{
    while (!m->wants_stop && !server_is_removed(s))
        fiber_wait(&m->wants_stop, POLL_NS);
    if (m->wants_stop)
        return;
    require(is_removed(m), "only removed members end", "%s", m->name);
    m->state = MACHINE_RETIRED;
    count(COUNT_MEMBERS_REMOVED, 1);
}

static void stop(struct machine *m, struct server *s)
{
    m->serves = false;
    if (m->state == MACHINE_UP)
        m->state = MACHINE_STOPPING;
    trace1("m%lu stops", m->number);
    count(COUNT_STOPS, 1);
    server_release_waiting(s);
    server_drain(s);
    m->server = NULL;
    network_stop(m);
    while (m->inside > 0)
        fiber_sleep(MILLISECOND);
    watchers_close(m);
    server_stop(s);
    trace1("m%lu stopped", m->number);
}

static void main_thread(void *arg)
{
    struct machine *m = arg;
    struct server *s;
    int r = server_start(&s, &m->config, &m->transport);

    if (r != 0)
        refused(m); /* does not return */
    m->server = s;
    m->state = MACHINE_UP;
    m->joins = false;
    trace1("m%lu is up", m->number);
    while (!server_wait_ready(s, READY_POLL_MS) && !m->wants_stop && !server_is_removed(s))
        ;
    m->serves = !m->wants_stop && !server_is_removed(s);
    wait_end(m, s);
    stop(m, s);
    exited(m);
}

/* Request ids begin with the time of the start, and are of one cluster's life: two starts are never
 * at one time. */
static void clock_forward(struct machine *m)
{
    uint64_t least_ns = m->last_wall_ns + BETWEEN_STARTS_NS, now_ns = process_wall_ns(&m->process);

    if (now_ns < least_ns)
        m->process.wall_ns += (int64_t)(least_ns - now_ns);
    m->last_wall_ns = process_wall_ns(&m->process);
}

void machine_start(struct machine *m)
{
    if (m->state != MACHINE_DOWN)
        return;
    clock_forward(m);
    m->lives++;
    m->state = MACHINE_STARTING;
    m->errors_at_start = disk_errors(m->disk);
    if (m->joins) {
        _cleanup_(mem_freep) char *initial = cluster_text(cluster_now());
        machine_configure(m, initial, true);
    }
    trace2("m%lu starts, life %lu", m->number, m->lives);
    process_start(&m->process);
    fiber_new(&m->process, main_thread, m);
}

void machine_crash(struct machine *m, enum disk_end end)
{
    if (!m || !m->process.alive)
        return;
    trace2("m%lu is killed, power %lu", m->number, end == DISK_POWER);
    count(end == DISK_POWER ? COUNT_POWER_LOSSES : COUNT_KILLS, 1);
    m->killed = true;
    m->end = end;
    process_kill(&m->process);
}

void machine_stop(struct machine *m)
{
    if (!m->process.alive)
        return;
    m->wants_stop = true;
    fiber_wake(&m->process, &m->wants_stop, true);
}

void machine_wipe(struct machine *m)
{
    char prefix[16];

    check(!m->process.alive);
    trace1("m%lu is a new machine", m->number);
    snprintf(prefix, sizeof(prefix), "/%u/", m->number);
    disk_wipe(m->disk);
    db_mem_wipe(prefix);
    check_member_forget(m);
    m->member_id = 0;
    m->damaged = false;
    m->state = MACHINE_DOWN;
}

struct call_in {
    struct machine *m;
    void (*run)(void *arg);
    void *arg;
};

static void call_main(void *arg)
{
    struct call_in c = *(struct call_in *)arg;

    free(arg);
    c.run(c.arg);
    c.m->inside--;
}

void machine_call(struct machine *m, void (*run)(void *arg), void *arg)
{
    struct call_in *c = mem_new(struct call_in);

    *c = (struct call_in){m, run, arg};
    m->inside++;
    fiber_new(&m->process, call_main, c);
}

/* ---- stores ---- */

struct open_store *machine_store(struct machine *m, struct db *db)
{
    for (int i = 0; i < MACHINE_STORES_MAX; i++)
        if (m->stores[i].db == db)
            return &m->stores[i];
    return NULL;
}

uint64_t machine_flushed(const struct machine *m)
{
    for (int i = 0; i < MACHINE_STORES_MAX; i++)
        if (m->stores[i].db && m->stores[i].current)
            return m->stores[i].flushed;
    return m->closed_flushed;
}

struct open_store *machine_store_opened(struct machine *m, struct db *db, const char *path)
{
    struct open_store *s = machine_store(m, NULL);

    check(s);
    *s = (struct open_store){.db = db, .current = strcmp(path, m->db_path) == 0};
    return s;
}

void machine_store_closed(struct machine *m, struct db *db)
{
    struct open_store *s = machine_store(m, db);

    if (!s)
        return;
    if (s->current)
        m->closed_flushed = s->flushed;
    *s = (struct open_store){0};
}
