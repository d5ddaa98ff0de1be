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

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "raft/log.h"
#include "server/peer_door.h"
#include "tests/sim/checks.h"
#include "tests/sim/cluster.h"

#define SNAPSHOT_OVERDUE_NS (5 * SECOND)
enum { UNREACHABLE_ONE_IN = 4, SNAPSHOT_PARTIAL_ONE_IN = 3 };

struct link {
    bool cut;
    uint64_t last_at;     /* when the last message in order arrives */
    uint64_t last_failed; /* when one could not be sent */
};

/* A message on its way. */
struct parcel {
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

static struct {
    struct rng rng;
    struct link links[MACHINES_MAX + 1][MACHINES_MAX + 1];
    bool calm;
    struct list snapshots; /* that wait for an answer */
    struct list errands;
    struct network_counts counts;
} net;

static const struct transport_ops ops;

void network_init(uint64_t seed)
{
    memset(&net, 0, sizeof(net));
    rng_init(&net.rng, seed);
    list_init(&net.snapshots);
    list_init(&net.errands);
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

void network_calm(void)
{
    net.calm = true;
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

static void deliver_main(void *arg)
{
    struct parcel *p = arg;
    enum peer_verdict verdict = server_peer_message(p->server, &p->message);

    net.counts.delivered++;
    if (verdict == PEER_REMOVED && same_life(p->from, p->from_life))
        machine_call(p->from, tell_removed, p->from);
    parcel_free(p);
}

static void deliver(void *arg)
{
    struct parcel *p = arg;

    if (!network_reaches(p->from, p->to)) {
        net.counts.lost++;
        parcel_free(p);
        return;
    }
    trace4("m%lu>m%lu type %lu index %lu", p->from->number, p->to->number, p->message.type,
           p->message.index);
    p->server = p->to->server;
    machine_call(p->to, deliver_main, p);
}

static uint64_t latency(void)
{
    const struct options *o = &world.o;

    return o->latency_ns_min + rng_below(&net.rng, o->latency_ns_max - o->latency_ns_min + 1);
}

static void dispatch(struct parcel *p)
{
    struct link *l = link_of(p->from, p->to);
    uint64_t at = kernel_now() + latency();

    if (chance(world.o.reorder_ppm)) {
        at += rng_below(&net.rng, world.o.reorder_ns_max);
    } else {
        at = at < l->last_at ? l->last_at : at;
        l->last_at = at;
    }
    kernel_after(at - kernel_now(), deliver, p);
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

static void failed(struct machine *from, struct machine *to, uint64_t member_id)
{
    net.counts.lost++;
    if (to)
        link_of(from, to)->last_failed = kernel_now();
    if (rng_below(&net.rng, UNREACHABLE_ONE_IN) != 0)
        return;
    struct failure *f = mem_new(struct failure);
    *f = (struct failure){from, member_id};
    machine_call(from, tell_unreachable, f);
}

static void send_one(struct machine *from, const struct raft_message *m)
{
    struct machine *to = machine_with(m->to);

    net.counts.sent++;
    check_sent(from, m);
    if (!from->server || !server_peer_is_known(from->server, m->to))
        return;
    if (!to || !network_reaches(from, to)) {
        failed(from, to, m->to);
        return;
    }
    if (chance(world.o.drop_ppm)) {
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
    fiber_sleep(latency());
    enum peer_verdict verdict = server_peer_snapshot(s, &p->message, path);
    trace3("m%lu>m%lu snapshot, verdict %lu", p->from->number, p->to->number, verdict);
    snapshot_answer(p, verdict == PEER_OK);
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
    kernel_after(latency() * (1 + rng_below(&net.rng, 8)), snapshot_arrives, p);
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

/* A request of one machine to another's peer port. */
struct errand {
    struct list link; /* in those that are not answered */
    struct transport_fetch *fetch;
    struct machine *from, *to;
    unsigned from_life;
    struct server *server; /* that is asked */
    unsigned refs;         /* its way, and the time-out */
    bool answered;
};

static bool errand_lives(const struct errand *e)
{
    return !e->answered && e->from->process.alive && e->from->lives == e->from_life;
}

static void errand_unref(struct errand *e)
{
    if (--e->refs > 0)
        return;
    list_remove(&e->link);
    free(e);
}

static void errand_done(void *arg)
{
    struct errand *e = arg;

    e->fetch->done(e->fetch);
    errand_unref(e);
}

static void errand_back(void *arg)
{
    struct errand *e = arg;

    if (!errand_lives(e)) {
        errand_unref(e);
        return;
    }
    e->answered = true;
    list_remove(&e->link);
    machine_call(e->from, errand_done, e);
}

static void errand_main(void *arg)
{
    struct errand *e = arg;
    struct server *s = e->server;
    struct server_info info;

    if (errand_lives(e) && strcmp(e->fetch->path, "/members") == 0) {
        server_info(s, &info);
        e->fetch->status = 200;
        e->fetch->cluster_id = info.cluster_id;
        server_peer_members(s, &e->fetch->answer);
    } else if (errand_lives(e)) {
        e->fetch->status = 404;
    }
    kernel_after(latency(), errand_back, e);
}

static unsigned number_of_url(const char *url)
{
    unsigned number = 0;

    return sscanf(url, "http://10.0.0.%u:", &number) == 1 && number <= MACHINES_MAX ? number : 0;
}

static void errand_arrives(void *arg)
{
    struct errand *e = arg;

    for (size_t i = 0; errand_lives(e) && i < e->fetch->n_urls; i++) {
        struct machine *to = world.machines[number_of_url(e->fetch->urls[i])];
        if (!to || !network_reaches(e->from, to) || link_of(to, e->from)->cut)
            continue;
        e->to = to;
        e->server = to->server;
        machine_call(to, errand_main, e);
        return;
    }
    errand_back(e);
}

static void fetch(struct transport *t, struct transport_fetch *f)
{
    struct errand *e = mem_new(struct errand);

    e->fetch = f;
    e->from = container_of(t, struct machine, transport);
    e->from_life = e->from->lives;
    e->refs = 2;
    list_push(&net.errands, &e->link);
    kernel_after(f->timeout_ms * MILLISECOND, errand_back, e);
    kernel_after(latency(), errand_arrives, e);
}

void network_stop(struct machine *m)
{
    list_for_each_safe (link, next, &net.snapshots) {
        struct parcel *p = container_of(link, struct parcel, link);
        if (p->from == m && p->from_life == m->lives)
            snapshot_answer_now(p);
    }
    list_for_each_safe (link, next, &net.errands) {
        struct errand *e = container_of(link, struct errand, link);
        if (e->from != m || e->from_life != m->lives)
            continue;
        e->answered = true;
        list_remove(&e->link);
        e->fetch->done(e->fetch);
    }
}

static const struct transport_ops ops = {
    .send = send,
    .send_snapshot = send_snapshot,
    .members_changed = members_changed,
    .active_ms = active_ms,
    .fetch = fetch,
    .wants_tables = wants_tables,
};
