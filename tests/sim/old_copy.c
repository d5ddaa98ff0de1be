/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Older copies (see old_copy.h).
 *
 *    strike        a while later         the leader's heartbeat     its mark is durable
 *   ---------> COPIED -------------> LOST ---------------> PROVED ------------------> BOUND
 *                 |  not bearable       |  <---------------  it dies before that        |
 *                 v                     v                                               v
 *               NONE <--------- an entry of a later leader, or all of it, is applied -----
 *
 * No member can know by itself that its disk is an older copy: until its leader has proved it, it
 * could vote, and what was committed thanks to it could be lost. So until then the network loses
 * its votes, as if the leader spoke to it first. From BOUND on it must know, over any number of
 * restarts: at least one follows at a random moment, and whoever leads ends with it now and then,
 * so that votes are asked for.
 *
 * What the leader counts on may be committed later by what the member acknowledged, so the member's
 * disk counts in a majority as if nothing were lost (old_copy_counted()).
 *
 * A cluster can bear it if the copy is of the same term and vote, if the leader knows of all that
 * the member has synced, and if no more than a minority is hurt. Where members come and go none is
 * put back: with one more gone a majority could be hurt.
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include "tests/sim/old_copy.h"

#include <stdio.h>

#include "raft/core.h"
#include "storage/db_mem.h"
#include "tests/sim/checks.h"
#include "tests/sim/counters.h"
#include "tests/sim/nemesis.h"

enum stage { NONE, COPIED, LOST, PROVED, BOUND };

struct old_copy {
    enum stage stage;
    bool handed_out;             /* PROVED: the ready with the mark is under way */
    struct check_disk disk;      /* as copied */
    uint64_t acknowledged_index; /* LOST and later: what the leader counts on */
};

static struct old_copy copies[MACHINES_MAX + 1];

struct paths {
    char data[24], copy[24], copied_db[40];
};

static struct paths paths_of(const struct machine *m)
{
    struct paths p;

    snprintf(p.data, sizeof(p.data), "/%u/data", m->number);
    snprintf(p.copy, sizeof(p.copy), "/%u/copy", m->number);
    snprintf(p.copied_db, sizeof(p.copied_db), "/%u/copy/member/db", m->number);
    return p;
}

void old_copy_init(void)
{
    memset(copies, 0, sizeof(copies));
}

bool old_copy_is_lost(const struct machine *m)
{
    return m && copies[m->number].stage >= LOST;
}

bool old_copy_counted(const struct machine *m, uint64_t index, uint64_t term)
{
    const struct old_copy *c = &copies[m->number];

    return c->stage >= LOST && term == c->disk.term && index <= c->acknowledged_index;
}

/* ---- the copy ---- */

static const struct open_store *own_store(const struct machine *m)
{
    for (int i = 0; i < MACHINE_STORES_MAX; i++)
        if (m->stores[i].db && m->stores[i].current)
            return &m->stores[i];
    return NULL;
}

static void drop(const struct machine *m)
{
    struct paths p = paths_of(m);

    disk_drop(m->disk, p.copy);
    db_mem_wipe(p.copied_db);
    copies[m->number].stage = NONE;
}

static bool is_bearable(const struct machine *m)
{
    const struct old_copy *c = &copies[m->number];
    const struct machine *l = nemesis_leader();
    struct check_disk now = check_disk(m);

    if (!m->raft || !l || l == m || m->installing || m->damaged ||
        2 * (nemesis_hurt() + 1) >= world.o.n_members)
        return false;
    const struct progress *p = member_find(l->raft, m->member_id);
    return p && !p->is_learner && l->raft->term == now.term && c->disk.term == now.term &&
           c->disk.vote == now.vote && c->disk.last_index < now.last_index &&
           p->match == now.last_index;
}

static void put_back(void *arg)
{
    struct machine *m = arg;
    struct old_copy *c = &copies[m->number];
    struct paths p = paths_of(m);

    if (world.phase != PHASE_CHAOS || !is_bearable(m)) {
        drop(m);
        return;
    }
    c->acknowledged_index = check_disk(m).last_index;
    trace3("m%lu is put back to a copy that ends at %lu, not %lu", m->number, c->disk.last_index,
           c->acknowledged_index);
    count(COUNT_OLD_COPIES, 1);
    machine_crash(m, DISK_POWER);
    disk_drop(m->disk, p.data);
    disk_copy(p.copy, p.data);
    db_mem_wipe(p.data);
    db_mem_move(p.copied_db, m->db_path); /* none, if nothing was durable yet */
    drop(m);
    check_member_forget(m);
    c->stage = LOST;
}

void old_copy_strike(void)
{
    struct machine *m = world.machines[between(1, world.n_machines)];
    const struct open_store *s = m ? own_store(m) : NULL;

    if (!m || copies[m->number].stage != NONE || !m->raft || !s || m->installing || m->damaged)
        return;
    struct paths p = paths_of(m);
    trace1("m%lu is copied", m->number);
    copies[m->number] = (struct old_copy){.stage = COPIED, .disk = check_disk(m)};
    disk_copy(p.data, p.copy);
    db_mem_copy(s->db, p.copied_db, rng_next(&world.rng));
    kernel_after(between(1, world.o.old_copy_ns_max), put_back, m);
}

/* ---- what the member knows ---- */

static void end_again(void *arg)
{
    struct machine *m = arg;

    if (world.phase != PHASE_CHAOS || copies[m->number].stage != BOUND)
        return;
    if (one_in(2))
        machine_crash(nemesis_leader(), DISK_KILL);
    if (one_in(4))
        machine_stop(m);
    else
        machine_crash(m, one_in(2) ? DISK_POWER : DISK_KILL);
}

/* Up to index the log is as if nothing had been lost. */
static bool is_whole(const struct machine *m, uint64_t index)
{
    const struct old_copy *c = &copies[m->number];
    uint64_t term;

    return index >= c->acknowledged_index ||
           (raft_log_term(&m->raft->log, index, &term) && term > c->disk.term);
}

void old_copy_stepped(struct machine *m)
{
    struct old_copy *c = &copies[m->number];
    const struct raft *r = m->raft;

    if (c->stage < LOST)
        return;
    if (is_whole(m, r->log.applied) && !follow_lost_tail(r)) { /* and knows that */
        trace1("m%lu has again what it had lost", m->number);
        c->stage = NONE;
    } else if (c->stage == LOST && r->lost_tail_index > r->log.committed) {
        c->stage = PROVED;
        c->handed_out = false;
        if (world.phase == PHASE_CHAOS && one_in(3)) /* around the writing of the mark */
            disk_arm(m->disk, between(1, 4), one_in(2) ? DISK_POWER : DISK_KILL);
    }
}

void old_copy_ready(struct machine *m)
{
    struct old_copy *c = &copies[m->number];

    c->handed_out = c->handed_out || c->stage == PROVED;
}

/* A step behind a ready: all that was in it is durable. */
void old_copy_before_step(struct machine *m)
{
    struct old_copy *c = &copies[m->number];

    if (c->stage != PROVED || !c->handed_out)
        return;
    trace2("m%lu knows that entries up to %lu are lost", m->number, c->acknowledged_index);
    count(COUNT_LOST_TAILS, 1);
    c->stage = BOUND;
    kernel_after(between(0, 2 * world.o.election_ms) * MILLISECOND, end_again, m);
}

void old_copy_died(const struct machine *m)
{
    struct old_copy *c = &copies[m->number];

    if (c->stage == PROVED)
        c->stage = LOST;
}

static bool is_vote(const struct raft_message *m)
{
    return m->type == RAFT_MSG_VOTE || m->type == RAFT_MSG_PRE_VOTE ||
           ((m->type == RAFT_MSG_VOTE_RESP || m->type == RAFT_MSG_PRE_VOTE_RESP) && !m->reject);
}

bool old_copy_may_send(const struct machine *m, const struct raft_message *message)
{
    const struct old_copy *c = &copies[m->number];

    if (c->stage < LOST || is_whole(m, m->raft->log.committed))
        return true;
    require(c->stage != BOUND || !is_vote(message), "who has lost its tail has no vote",
            "%s: message of type %d to %lx in term %lu, it lacks entry %lu", m->name,
            (int)message->type, (unsigned long)message->to, (unsigned long)message->term,
            (unsigned long)c->acknowledged_index);
    return !is_vote(message);
}

/* ---- healing ---- */

void old_copy_heal(void)
{
    bool lost = false;

    for (unsigned i = 1; i <= world.n_machines; i++)
        lost = lost || old_copy_is_lost(world.machines[i]);
    if (lost)
        machine_crash(nemesis_leader(), DISK_KILL);
}
