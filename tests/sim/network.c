/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated network (see network.h).
 *
 * A message goes to the machine whose member has its receiver's id. Between two machines messages
 * arrive in order, as in a stream, but for those that the seed lets be overtaken. A forwarded
 * proposal is never repeated: no transport does that, and nothing behind it would notice.
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include "tests/sim/network.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "raft/log.h"
#include "server/peer_door.h"
#include "server/server_private.h"
#include "tests/sim/checks.h"
#include "tests/sim/cluster.h"
#include "tests/sim/errand.h"
#include "tests/sim/old_copy.h"

#define KNOCK_NS (20 * MILLISECOND)
#define SNAPSHOT_OVERDUE_NS (5 * SECOND)
enum { UNREACHABLE_ONE_IN = 4, SNAPSHOT_PARTIAL_ONE_IN = 3 };
/* What is too much for a link gets lost, as where a queue is full. Without a bound, reordered
 * appends of one entry and their rejections multiply without end. */
enum { LINK_PARCELS_MAX = 512 };

struct link {
    bool cut;
    bool reading; /* a thread of the receiver takes what has arrived, in order */
    struct parcel *first, **last;
    size_t under_way;
    uint64_t slow_ns;     /* more than the latency */
    uint64_t last_at;     /* when the last message in order arrives */
    uint64_t last_failed; /* when one could not be sent */
    unsigned heard_in;    /* the receiver's life in which something came */
};

/* A message on its way. */
struct parcel {
    struct parcel *next; /* in its link, when it has arrived */
    struct raft_message message;
    struct raft_snapshot *snapshot;
    struct machine *from, *to;
    unsigned from_life;
    struct server *server; /* of the receiver, when it arrives */
    /* A snapshot. */
    struct list link;                   /* in those under way */
    struct transport_snapshot *sending; /* the sender's, while it lives */
    unsigned refs;                      /* its way, and the watch over it */
    bool answered;
    bool ok;
};

struct knock {
    struct machine *from, *to;
    unsigned from_life;
    uint64_t id;
};

static struct {
    struct rng rng;
    struct link links[MACHINES_MAX + 1][MACHINES_MAX + 1];
    bool calm;
    struct list snapshots; /* that wait for an answer */
    struct network_counts counts;
} net;

static const struct transport_ops ops;

static bool same_life(const struct machine *m, unsigned life)
{
    return m->process.alive && m->lives == life && m->server;
}

/* ---- messages ---- */

static void tell_removed(void *arg)
{
    struct machine *m = arg;

    if (m->server)
        server_peer_we_are_removed(m->server);
}

/* Members have connections even if they have nothing to say, and whoever was removed hears of it
 * when it opens one. */
static void knock_main(void *arg)
{
    struct knock k = *(struct knock *)arg;

    free(arg);
    if (k.to->server && server_peer_is_removed(k.to->server, k.id) &&
        same_life(k.from, k.from_life))
        machine_call(k.from, tell_removed, k.from);
}

static void knock(void *arg)
{
    struct machine *from = world.machines[1 + rng_below(&net.rng, world.n_machines)];
    struct machine *to = world.machines[1 + rng_below(&net.rng, world.n_machines)];

    if (from && to && from != to && from->server && network_answers(from, to)) {
        struct knock *k = mem_new(struct knock);
        *k = (struct knock){from, to, from->lives, from->member_id};
        machine_call(to, knock_main, k);
    }
    kernel_after(KNOCK_NS, knock, NULL);
}

void network_init(uint64_t seed)
{
    memset(&net, 0, sizeof(net));
    for (unsigned a = 0; a <= MACHINES_MAX; a++)
        for (unsigned b = 0; b <= MACHINES_MAX; b++)
            net.links[a][b].last = &net.links[a][b].first;
    kernel_after(KNOCK_NS, knock, NULL);
    rng_init(&net.rng, seed);
    list_init(&net.snapshots);
    errands_init();
}

void network_attach(struct machine *m)
{
    m->transport = (struct transport){.ops = &ops};
}

struct network_counts network_counts(void)
{
    return net.counts;
}

static struct link *link_of(const struct machine *from, const struct machine *to)
{
    return &net.links[from->number][to->number];
}

void network_cut(unsigned from, unsigned to, bool cut)
{
    net.links[from][to].cut = cut;
}

void network_heal(void)
{
    for (unsigned a = 0; a <= MACHINES_MAX; a++)
        for (unsigned b = 0; b <= MACHINES_MAX; b++)
            net.links[a][b].cut = false;
}

void network_slow(unsigned from, unsigned to, uint64_t ns)
{
    net.links[from][to].slow_ns = ns;
}

void network_calm(void)
{
    for (unsigned a = 0; a <= MACHINES_MAX; a++)
        for (unsigned b = 0; b <= MACHINES_MAX; b++)
            net.links[a][b].slow_ns = 0;
    net.calm = true;
}

bool network_has_calmed(void)
{
    uint64_t usual = kernel_now() + world.o.latency_ns_max;

    for (unsigned a = 0; a <= MACHINES_MAX; a++)
        for (unsigned b = 0; b <= MACHINES_MAX; b++)
            if (net.links[a][b].last_at > usual)
                return false;
    return true;
}

bool network_answers(const struct machine *from, const struct machine *to)
{
    return network_reaches(from, to) && !link_of(to, from)->cut;
}

bool network_reaches(const struct machine *from, const struct machine *to)
{
    return to->process.alive && to->server && !link_of(from, to)->cut;
}

static bool chance(uint32_t ppm)
{
    return !net.calm && ppm && rng_below(&net.rng, 1000000) < ppm;
}

/* ---- parcels ---- */

static struct parcel *parcel_new(struct machine *from, struct machine *to,
                                 const struct raft_message *m)
{
    struct parcel *p = mem_new(struct parcel);

    *p = (struct parcel){.message = *m, .from = from, .to = to, .from_life = from->lives};
    if (m->n_entries > 0) {
        p->message.entries = mem_alloc_raw(m->n_entries * sizeof(*m->entries));
        memcpy(p->message.entries, m->entries, m->n_entries * sizeof(*m->entries));
        for (size_t i = 0; i < m->n_entries; i++)
            blob_ref(m->entries[i].data);
    }
    if (m->context.len > 0) {
        uint8_t *context = mem_alloc_raw(m->context.len);
        memcpy(context, m->context.data, m->context.len);
        p->message.context.data = context;
    }
    if (m->snapshot)
        p->message.snapshot = p->snapshot = raft_snapshot_copy(m->snapshot);
    return p;
}

static void parcel_free(struct parcel *p)
{
    for (size_t i = 0; i < p->message.n_entries; i++)
        blob_unref(p->message.entries[i].data);
    if (p->message.n_entries > 0)
        free(p->message.entries);
    if (p->message.context.len > 0)
        free((void *)(uintptr_t)p->message.context.data);
    raft_snapshot_free(p->snapshot);
    free(p);
}

static void take(struct parcel *p)
{
    uint64_t applied = atomic_load(&p->server->state.applied);
    enum peer_verdict verdict = server_peer_message(p->server, &p->message);

    require(verdict != PEER_OK || cluster_removed_at(p->message.from) > applied,
            "removed members are not heard", "%s hears %s", p->to->name, p->from->name);
    require(verdict != PEER_OK || p->message.to == p->to->member_id,
            "members hear what is for them", "%s takes a message for %lx", p->to->name,
            (unsigned long)p->message.to);

    link_of(p->from, p->to)->heard_in = p->to->lives;
    net.counts.delivered++;
    /* A proposal is passed on in the name of who made it. */
    bool own = p->message.from == p->from->member_id;
    if (verdict == PEER_REMOVED && own && same_life(p->from, p->from_life))
        machine_call(p->from, tell_removed, p->from);
    parcel_free(p);
}

static void read_main(void *arg)
{
    struct link *l = arg;
    struct parcel *p;

    while ((p = l->first)) {
        l->first = p->next;
        if (!l->first)
            l->last = &l->first;
        take(p);
    }
    l->reading = false;
}

/* What has arrived and nobody has read is gone with the process. */
void network_died(struct machine *m)
{
    for (unsigned i = 1; i <= MACHINES_MAX; i++) {
        struct link *l = &net.links[i][m->number];
        for (struct parcel *p = l->first, *next; p; p = next) {
            next = p->next;
            parcel_free(p);
        }
        l->first = NULL;
        l->last = &l->first;
        l->reading = false;
    }
}

static void arrive(void *arg)
{
    struct parcel *p = arg;
    struct link *l = link_of(p->from, p->to);

    l->under_way--;
    if (!network_reaches(p->from, p->to)) {
        net.counts.lost++;
        parcel_free(p);
        return;
    }
    trace_n("m%lu>m%lu type %lu index %lu entries %lu reject %lu", p->from->number, p->to->number,
            p->message.type, p->message.index, p->message.n_entries, p->message.reject);
    p->server = p->to->server;
    *l->last = p;
    l->last = &p->next;
    if (l->reading)
        return;
    l->reading = true;
    machine_call(p->to, read_main, l);
}

uint64_t network_latency(void)
{
    const struct options *o = &world.o;

    return o->latency_ns_min + rng_below(&net.rng, o->latency_ns_max - o->latency_ns_min + 1);
}

static void dispatch(struct parcel *p)
{
    struct link *l = link_of(p->from, p->to);
    uint64_t at = kernel_now() + network_latency() + l->slow_ns;

    if (chance(world.o.reorder_ppm)) {
        at += rng_below(&net.rng, world.o.reorder_ns_max);
    } else {
        at = at < l->last_at ? l->last_at : at;
        l->last_at = at;
    }
    if (p->message.type == world.o.late_type && chance(world.o.late_ppm))
        at += rng_below(&net.rng, world.o.late_ns_max);
    l->under_way++;
    kernel_after(at - kernel_now(), arrive, p);
}

/* Where that member is or was: another one may live there now. */
static struct machine *machine_with(uint64_t member_id)
{
    return world.machines[cluster_number(member_id)];
}

struct failure {
    struct machine *m;
    uint64_t member_id;
};

static void tell_unreachable(void *arg)
{
    struct failure *f = arg;

    if (f->m->server)
        server_peer_unreachable(f->m->server, f->member_id);
    free(f);
}

static void report_unreachable(struct machine *from, uint64_t member_id)
{
    struct failure *f = mem_new(struct failure);

    *f = (struct failure){from, member_id};
    machine_call(from, tell_unreachable, f);
}

static void failed(struct machine *from, struct machine *to, uint64_t member_id)
{
    net.counts.lost++;
    if (to)
        link_of(from, to)->last_failed = kernel_now();
    if (rng_below(&net.rng, UNREACHABLE_ONE_IN) == 0)
        report_unreachable(from, member_id);
}

void network_break(void)
{
    for (unsigned a = 1; a <= world.n_machines; a++)
        for (unsigned b = 1; b <= world.n_machines; b++)
            if (a != b && machine_serves(world.machines[a]) && world.machines[b])
                report_unreachable(world.machines[a], world.machines[b]->member_id);
}

/* A member of the table, or one that has spoken to us: the transport takes its address from what it
 * says of itself. */
static bool is_known(const struct machine *from, const struct machine *to, uint64_t id)
{
    return server_peer_is_known(from->server, id) ||
           (to && link_of(to, from)->heard_in == from->lives);
}

static void send_one(struct machine *from, const struct raft_message *m)
{
    struct machine *to = machine_with(m->to);

    net.counts.sent++;
    check_sent(from, m);
    if (!old_copy_may_send(from, m) || !from->server || !is_known(from, to, m->to))
        return;
    if (!to || !network_reaches(from, to)) {
        failed(from, to, m->to);
        return;
    }
    bool full = !net.calm && link_of(from, to)->under_way >= LINK_PARCELS_MAX;
    if (full || chance(world.o.drop_ppm)) {
        net.counts.lost++;
        return;
    }
    dispatch(parcel_new(from, to, m));
    if (m->type != RAFT_MSG_PROP && chance(world.o.duplicate_ppm)) {
        net.counts.repeated++;
        dispatch(parcel_new(from, to, m));
    }
}

static void send(struct transport *t, const struct raft_message *messages, size_t n)
{
    struct machine *from = container_of(t, struct machine, transport);

    for (size_t i = 0; i < n; i++)
        send_one(from, &messages[i]);
}

/* ---- snapshots ---- */

static void snapshot_unref(struct parcel *p)
{
    if (--p->refs > 0)
        return;
    list_remove(&p->link);
    parcel_free(p);
}

static void snapshot_told(void *arg)
{
    struct parcel *p = arg;

    p->sending->done(p->sending, p->ok);
    snapshot_unref(p);
}

/* The sender hears of it once, if it still lives. */
static void snapshot_answer(struct parcel *p, bool ok)
{
    if (p->answered) {
        snapshot_unref(p);
        return;
    }
    p->answered = true;
    list_remove(&p->link);
    p->ok = ok;
    net.counts.snapshots += ok;
    net.counts.snapshots_lost += !ok;
    if (same_life(p->from, p->from_life))
        machine_call(p->from, snapshot_told, p);
    else
        snapshot_unref(p);
}

static void snapshot_answer_now(struct parcel *p)
{
    p->answered = true;
    list_remove(&p->link);
    p->sending->done(p->sending, false);
}

/* The connection breaks if the receiver dies, or takes too long. */
static void snapshot_overdue(void *arg)
{
    snapshot_answer(arg, false);
}

static void snapshot_main(void *arg)
{
    struct parcel *p = arg;
    struct server *s = p->server;
    const struct transport_snapshot *t = p->sending;

    if (p->answered || !same_life(p->from, p->from_life)) {
        snapshot_unref(p);
        return;
    }
    _cleanup_(mem_freep) char *path = server_peer_snapshot_path(s, p->message.snapshot->index);
    disk_copy(t->file ? t->file : t->directory, path);
    if (chance(world.o.drop_ppm) && rng_below(&net.rng, SNAPSHOT_PARTIAL_ONE_IN) == 0) {
        snapshot_answer(p, false); /* what arrived lies there for the next start */
        return;
    }
    fiber_sleep(network_latency());
    enum peer_verdict verdict = server_peer_snapshot(s, &p->message, path);
    trace3("m%lu>m%lu snapshot, verdict %lu", p->from->number, p->to->number, verdict);
    /* the answer may be lost: then another snapshot follows one that is taken */
    snapshot_answer(p, verdict == PEER_OK && !chance(world.o.drop_ppm));
}

static void snapshot_arrives(void *arg)
{
    struct parcel *p = arg;

    if (!network_reaches(p->from, p->to) || chance(world.o.drop_ppm))
        snapshot_answer(p, false);
    else {
        p->server = p->to->server;
        machine_call(p->to, snapshot_main, p);
    }
}

static void send_snapshot(struct transport *t, struct transport_snapshot *snapshot)
{
    struct machine *from = container_of(t, struct machine, transport);
    struct machine *to = machine_with(snapshot->message->to);

    if (!to) {
        snapshot->done(snapshot, false);
        return;
    }
    struct parcel *p = parcel_new(from, to, snapshot->message);
    p->sending = snapshot;
    p->refs = 2;
    list_push(&net.snapshots, &p->link);
    kernel_after(SNAPSHOT_OVERDUE_NS, snapshot_overdue, p);
    uint64_t late_ns = net.calm ? 0 : rng_below(&net.rng, world.o.snapshot_ns_max + 1);
    kernel_after(network_latency() * (1 + rng_below(&net.rng, 8)) + late_ns, snapshot_arrives, p);
}

/* ---- the rest ---- */

static void members_changed(struct transport *t)
{
    (void)t;
}

static uint64_t active_ms(struct transport *t, uint64_t member_id)
{
    struct machine *from = container_of(t, struct machine, transport);
    struct machine *to = machine_with(member_id);

    if (!to || to == from || !network_reaches(from, to))
        return 0;
    return (kernel_now() - link_of(from, to)->last_failed) / MILLISECOND + 1;
}

static bool wants_tables(struct transport *t, uint64_t member_id)
{
    return world.o.tables;
}

static void fetch(struct transport *t, struct transport_fetch *f)
{
    errand_send(container_of(t, struct machine, transport), f);
}

void network_stop(struct machine *m)
{
    list_for_each_safe (link, next, &net.snapshots) {
        struct parcel *p = container_of(link, struct parcel, link);
        if (p->from == m && p->from_life == m->lives)
            snapshot_answer_now(p);
    }
    errands_stop(m);
}

static const struct transport_ops ops = {
    .send = send,
    .send_snapshot = send_snapshot,
    .members_changed = members_changed,
    .active_ms = active_ms,
    .fetch = fetch,
    .wants_tables = wants_tables,
};
