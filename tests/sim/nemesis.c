/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The nemesis (see nemesis.h). Each kind of fault is a row with its rate; a row's next strike comes
 * after an exponential time.
 *
 * What a cluster can't survive is not done to it: bits are flipped on a minority of disks only, and
 * a member that refuses to start because of it is no more. One that was put back to an older copy
 * (old_copy.c) counts among those until it has again what it lost.
 *
 * Thread: the only one.
 */
#include "tests/sim/nemesis.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "raft/core.h"
#include "server/server_private.h"
#include "tests/sim/checks.h"
#include "tests/sim/cluster.h"
#include "tests/sim/counters.h"
#include "tests/sim/machine.h"
#include "tests/sim/network.h"
#include "tests/sim/old_copy.h"
#include "tests/sim/operator.h"

struct fault {
    const char *name;
    uint32_t rate;
    void (*strike)(void);
};

struct machine *nemesis_leader(void)
{
    struct machine *found = NULL;
    uint64_t term = 0;

    for (unsigned i = 1; i <= world.n_machines; i++) {
        struct machine *m = world.machines[i];
        if (!m || !m->raft || m->raft->role != RAFT_LEADER || m->raft->term < term)
            continue;
        found = m;
        term = m->raft->term;
    }
    return found;
}

/* The leader more often than another. */
static struct machine *any_machine(void)
{
    struct machine *m = one_in(3) ? nemesis_leader() : NULL;

    while (!m)
        m = world.machines[between(1, world.n_machines)];
    return m;
}

/* ---- members ---- */

static void start_again(void *arg)
{
    machine_start(arg);
}

/* A removed member comes back with its old data now and then. */
void nemesis_restart(struct machine *m)
{
    uint64_t down_ns = world.phase == PHASE_CHAOS ? world.o.down_ns_max : 300 * MILLISECOND;

    if (m->state == MACHINE_RETIRED && !m->damaged && world.phase == PHASE_CHAOS && one_in(3))
        m->state = MACHINE_DOWN;
    if (m->state == MACHINE_DOWN)
        kernel_after(between(0, down_ns), start_again, m);
}

static void strike_crash(void)
{
    machine_crash(any_machine(), DISK_KILL);
}

/* Now and then the power fails for all at once. */
static void strike_power(void)
{
    if (!one_in(4)) {
        machine_crash(any_machine(), DISK_POWER);
        return;
    }
    for (unsigned i = 1; i <= world.n_machines; i++)
        machine_crash(world.machines[i], DISK_POWER);
}

static void strike_boundary(void)
{
    struct machine *m = any_machine();

    disk_arm(m->disk, between(1, one_in(2) ? 10 : 200), one_in(2) ? DISK_POWER : DISK_KILL);
}

static void crash_if_installing(void *arg)
{
    struct machine *m = arg;

    if (m->installing && world.phase == PHASE_CHAOS)
        machine_crash(m, one_in(2) ? DISK_POWER : DISK_KILL);
}

/* Some are cut short, at one of the next boundaries or in between. */
void nemesis_install(struct machine *m)
{
    if (world.phase != PHASE_CHAOS || rng_below(&world.rng, 1000000) >= world.o.install_ppm)
        return;
    if (one_in(2))
        disk_arm(m->disk, between(1, 6), one_in(2) ? DISK_POWER : DISK_KILL);
    else
        kernel_after(between(0, 4 * world.o.disk.sync_ns_max), crash_if_installing, m);
}

static void strike_stop(void)
{
    machine_stop(any_machine());
}

static void resume(void *arg)
{
    struct machine *m = arg;

    trace1("m%lu goes on", m->number);
    process_resume(&m->process);
}

static void strike_pause(void)
{
    struct machine *m = any_machine();

    if (!m->process.alive || m->process.paused)
        return;
    trace1("m%lu is paused", m->number);
    count(COUNT_PAUSES, 1);
    process_pause(&m->process);
    kernel_after(between(0, world.o.pause_ns_max), resume, m);
}

static void strike_clock(void)
{
    struct machine *m = any_machine();

    count(COUNT_CLOCKS, 1);
    process_clock_rate(&m->process, (uint32_t)between(CLOCK_RATE_MIN_PPM, CLOCK_RATE_MAX_PPM));
    m->process.wall_ns += (int64_t)between(0, 40 * SECOND) - (int64_t)(20 * SECOND);
}

/* ---- the network ---- */

static void heal(void *arg)
{
    trace0("the network is whole again");
    network_heal();
}

static void cut_halves(bool one_way)
{
    uint64_t side = rng_next(&world.rng);

    for (unsigned a = 1; a <= world.n_machines; a++)
        for (unsigned b = 1; b <= world.n_machines; b++)
            if ((side >> a & 1) != (side >> b & 1) && (!one_way || (side >> a & 1)))
                network_cut(a, b, true);
}

static void cut_alone(bool one_way)
{
    unsigned a = any_machine()->number;

    for (unsigned b = 1; b <= world.n_machines; b++) {
        network_cut(a, b, true);
        if (!one_way)
            network_cut(b, a, true);
    }
}

/* Each hears its neighbours only. */
static void cut_ring(void)
{
    for (unsigned a = 1; a <= world.n_machines; a++)
        for (unsigned b = 1; b <= world.n_machines; b++)
            if ((a + 1) % world.n_machines != b % world.n_machines &&
                (b + 1) % world.n_machines != a % world.n_machines)
                network_cut(a, b, true);
}

/* One after the other is alone, the leader mostly, with nothing in between: what the last one has
 * missed it can't learn from the next. */
static void wander(void *arg)
{
    unsigned *steps = arg;

    network_heal();
    if (*steps == 0 || world.phase != PHASE_CHAOS) {
        free(steps);
        return;
    }
    --*steps;
    cut_alone(one_in(6));
    kernel_after(between(10, 3 * world.o.election_ms) * MILLISECOND, wander, steps);
}

static void strike_wander(void)
{
    unsigned *steps = mem_new(unsigned);

    *steps = (unsigned)between(2, 12);
    trace1("the network is cut at %lu places in turn", *steps);
    count(COUNT_PARTITIONS, 1);
    wander(steps);
}

/* What a leader hears from one member comes late, and then it hears and reaches nobody else: old
 * answers come in while the others elect a new leader. */
struct echo {
    unsigned leader, member;
};

static void echo_ends(void *arg)
{
    struct echo *e = arg;

    network_slow(e->member, e->leader, 0);
    network_heal();
    free(e);
}

static void echo_cut(void *arg)
{
    const struct echo *e = arg;

    for (unsigned i = 1; i <= world.n_machines; i++) {
        network_cut(e->leader, i, true);
        network_cut(i, e->leader, i != e->member);
    }
    kernel_after(between(1, 5 * world.o.election_ms) * MILLISECOND, echo_ends, arg);
}

static void strike_echo(void)
{
    const struct machine *l = nemesis_leader(), *m = any_machine();
    uint64_t late_ns = between(world.o.election_ms, 4 * world.o.election_ms) * MILLISECOND;

    if (!l || l == m)
        return;
    struct echo *e = mem_new(struct echo);
    *e = (struct echo){l->number, m->number};
    trace3("m%lu hears m%lu late by %lu ns", l->number, m->number, late_ns);
    count(COUNT_ECHOES, 1);
    network_slow(e->member, e->leader, late_ns);
    kernel_after(between(0, late_ns), echo_cut, e);
}

static void set_lag(unsigned only, uint64_t ns)
{
    for (unsigned a = 1; a <= world.n_machines; a++)
        for (unsigned b = 1; b <= world.n_machines; b++)
            if (only == 0 || a == only || b == only)
                network_slow(a, b, ns);
}

static void lag_ends(void *arg)
{
    trace0("messages are quick again");
    set_lag(0, 0);
}

/* Messages to and from a member, or all of them, take about an election timeout: whoever asks for
 * votes hears answers to what it has asked in the term before. */
static void strike_lag(void)
{
    unsigned only = one_in(2) ? any_machine()->number : 0;
    uint64_t ns = between(world.o.election_ms / 4, 2 * world.o.election_ms) * MILLISECOND;

    trace2("messages of m%lu (0: of all) take %lu ns more", only, ns);
    count(COUNT_LAGS, 1);
    set_lag(only, ns);
    kernel_after(between(1, 10 * world.o.election_ms) * MILLISECOND, lag_ends, NULL);
}

static void strike_partition(void)
{
    bool one_way = one_in(3);

    trace1("the network is cut, one way %lu", one_way);
    count(COUNT_PARTITIONS, 1);
    switch (rng_below(&world.rng, 4)) {
    case 0: cut_halves(one_way); break;
    case 1: cut_ring(); break;
    case 2:
        network_cut((unsigned)between(1, world.n_machines), (unsigned)between(1, world.n_machines),
                    true);
        break;
    default: cut_alone(one_way); break;
    }
    kernel_after(between(0, world.o.partition_ns_max), heal, NULL);
}

/* ---- disks ---- */

static void quick_again(void *arg)
{
    struct machine *m = arg;

    *disk_faults(m->disk) = world.o.disk;
}

static void strike_slow_disk(void)
{
    struct machine *m = any_machine();
    struct disk_faults *f = disk_faults(m->disk);

    count(COUNT_SLOW_DISKS, 1);
    f->sync_ns_min = between(1, 20) * MILLISECOND;
    f->sync_ns_max = f->sync_ns_min + between(1, 500) * MILLISECOND;
    kernel_after(between(0, 5 * SECOND), quick_again, m);
}

/* Writes of the database stall, as when its compactions are behind: the member leads on, or votes,
 * and applies nothing, for longer than requests wait. */
static void strike_stall(void)
{
    struct machine *m = any_machine();

    count(COUNT_STALLS, 1);
    m->stalls_until_ns = kernel_now() + between(1, STALL_NS_MAX);
    trace2("the database of m%lu stalls until %lu ns", m->number, m->stalls_until_ns);
}

static void strike_disk_error(void)
{
    struct machine *m = any_machine();
    struct disk_faults *f = disk_faults(m->disk);

    *(one_in(2) ? &f->write_error_ppm : &f->sync_error_ppm) = (uint32_t)between(1000, 300000);
    kernel_after(between(0, SECOND), quick_again, m);
}

unsigned nemesis_hurt(void)
{
    unsigned n = 0;

    for (unsigned i = 1; i <= world.n_machines; i++) {
        const struct machine *m = world.machines[i];
        n += m && (m->damaged || old_copy_is_lost(m));
    }
    return n;
}

static void strike_flip(void)
{
    struct machine *m = any_machine();
    char dir[32];

    if (m->damaged || old_copy_is_lost(m) || m->state == MACHINE_RETIRED ||
        2 * (nemesis_hurt() + 1) >= world.o.n_members)
        return;
    machine_crash(m, DISK_KILL);
    snprintf(dir, sizeof(dir), "/%u/data/member/wal", m->number);
    m->damaged = disk_flip(m->disk, dir);
    if (!m->damaged)
        return;
    trace1("a bit flips on m%lu", m->number);
    count(COUNT_FLIPS, 1);
}

static void make_room_main(void *arg)
{
    struct machine *m = arg;

    if (m->server)
        housekeeper_make_room(m->server->housekeeper);
}

/* The log wants room: the database is flushed and the log cut. */
static void strike_make_room(void)
{
    struct machine *m = any_machine();

    if (m->server)
        machine_call(m, make_room_main, m);
}

/* ---- all of them ---- */

enum { FAULTS_MAX = 16 };
static struct fault faults[FAULTS_MAX];
static size_t n_faults;

static void strike(void *arg);

static void strike_later(struct fault *f)
{
    double u = (double)(rng_below(&world.rng, 1000000) + 1) / 1e6;

    kernel_after((uint64_t)(-log(u) * 1e12 / f->rate), strike, f);
}

static void strike(void *arg)
{
    struct fault *f = arg;

    if (world.phase != PHASE_CHAOS)
        return;
    f->strike();
    strike_later(f);
}

static void add(const char *name, uint32_t rate, void (*run)(void))
{
    if (rate == 0)
        return;
    faults[n_faults] = (struct fault){name, rate, run};
    strike_later(&faults[n_faults++]);
}

void nemesis_start(void)
{
    const struct options *o = &world.o;

    n_faults = 0;
    add("crash", o->crash_rate, strike_crash);
    add("power", o->power_rate, strike_power);
    add("boundary", o->boundary_rate, strike_boundary);
    add("stop", o->stop_rate, strike_stop);
    add("pause", o->pause_rate, strike_pause);
    add("partition", o->partition_rate, strike_partition);
    add("wander", o->wander_rate, strike_wander);
    add("echo", o->echo_rate, strike_echo);
    add("lag", o->lag_rate, strike_lag);
    add("slow disk", o->slow_disk_rate, strike_slow_disk);
    add("stall", o->stall_rate, strike_stall);
    add("disk error", o->disk_error_rate, strike_disk_error);
    add("flip", o->flip_rate, strike_flip);
    add("clock", o->clock_rate, strike_clock);
    add("make room", o->make_room_rate, strike_make_room);
    add("old copy", o->old_copy_rate, old_copy_strike);
}

void nemesis_heal(void)
{
    struct disk_faults quick = {.sync_ns_min = 100 * MICROSECOND, .sync_ns_max = MILLISECOND};

    world.o.disk = quick;
    old_copy_heal();
    network_heal();
    network_calm();
    for (unsigned i = 1; i <= world.n_machines; i++) {
        struct machine *m = world.machines[i];
        if (!m)
            continue;
        disk_arm(m->disk, 0, DISK_KILL);
        m->stalls_until_ns = 0;
        *disk_faults(m->disk) = quick;
        process_clock_rate(&m->process, 1000000);
        process_resume(&m->process);
        if (!cluster_of_machine(cluster_now(), m->number))
            continue; /* removed: what it does is no matter any more */
        machine_start(m);
    }
    operator_settle();
}
