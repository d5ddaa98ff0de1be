/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operator (see operator.h).
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include "tests/sim/operator.h"

#include <math.h>

#include "base/mem.h"
#include "rpc.pb-c.h"
#include "server/server.h"
#include "tests/sim/cluster.h"

enum { MEMBERS_MAX_WANTED = 7 };

enum change_kind { CHANGE_ADD, CHANGE_ADD_LEARNER, CHANGE_REMOVE, CHANGE_PROMOTE, CHANGE_MOVE };

/* One request; lives until its finish(). */
struct change {
    struct request request;
    enum change_kind kind;
    struct machine *asked;
    struct server *server;
    uint64_t id;     /* of the member it is about */
    unsigned number; /* of a new machine */
    bool abandoned;
};

static struct {
    struct change *under_way; /* NULL: none */
    unsigned done;
} operator;

void operator_init(void)
{
    memset(&operator, 0, sizeof(operator));
}

unsigned operator_done(void)
{
    return operator.done;
}

/* ---- machines for members ---- */

static void start_member(const struct conf_member *c)
{
    struct machine *m = world.machines[c->number];

    if (m && m->state == MACHINE_RETIRED && !m->damaged && m->member_id != c->id)
        machine_wipe(m);
    if (!m) {
        m = machine_new(c->number);
        m->joins = true;
    } else if (m->member_id == 0) {
        m->joins = true;
    }
    machine_start(m);
}

static void start_members(void)
{
    const struct conf *c = cluster_now();

    for (unsigned i = 0; i < c->len; i++)
        start_member(&c->members[i]);
}

void operator_settle(void)
{
    start_members();
}

/* A machine without a member; 0: there is none. */
static unsigned free_machine(void)
{
    for (unsigned i = 1; i <= MACHINES_MAX; i++) {
        const struct machine *m = world.machines[i];
        if (cluster_of_machine(cluster_now(), i) || (m && (m->process.alive || m->damaged)))
            continue;
        if (!m || m->state == MACHINE_RETIRED)
            return i;
    }
    return 0;
}

/* ---- one change ---- */

static void change_finish(struct request *request, enum outcome outcome)
{
    struct change *c = container_of(request, struct change, request);

    trace3("change of kind %lu at m%lu ends: outcome %lu", c->kind, c->asked->number, outcome);
    buf_deinit(&request->response);
    if (!c->abandoned) {
        operator.under_way = NULL;
        operator.done += outcome == OUTCOME_OK;
    }
    free(c);
}

static void ask_add(struct change *c)
{
    Etcdserverpb__MemberAddRequest q = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    char *url = mem_printf("http://10.0.0.%u:2380", c->number);

    q.n_peerurls = 1;
    q.peerurls = &url;
    q.islearner = c->kind == CHANGE_ADD_LEARNER;
    c->request.kind = REQUEST_MEMBER_ADD;
    server_change_members(c->server, &c->request, &q);
    free(url);
}

static void ask_main(void *arg)
{
    struct change *c = arg;
    Etcdserverpb__MemberRemoveRequest remove = ETCDSERVERPB__MEMBER_REMOVE_REQUEST__INIT;

    switch (c->kind) {
    case CHANGE_ADD:
    case CHANGE_ADD_LEARNER: ask_add(c); break;
    case CHANGE_REMOVE:
        remove.id = c->id;
        c->request.kind = REQUEST_MEMBER_REMOVE;
        server_change_members(c->server, &c->request, &remove);
        break;
    case CHANGE_PROMOTE: server_promote_member(c->server, &c->request, c->id); break;
    case CHANGE_MOVE: server_move_leader(c->server, &c->request, c->id); break;
    }
}

void operator_lose(const struct machine *m)
{
    struct change *c = operator.under_way;

    if (!c || c->asked != m)
        return;
    c->abandoned = true;
    operator.under_way = NULL;
}

static void ask(struct machine *m, enum change_kind kind, uint64_t id, unsigned number)
{
    struct change *c = mem_new(struct change);

    *c = (struct change){.request = {.finish = change_finish},
                         .kind = kind,
                         .asked = m,
                         .server = m->server,
                         .id = id,
                         .number = number};
    operator.under_way = c;
    trace3("change of kind %lu at m%lu, machine %lu", kind, m->number,
           number ? number : cluster_number(id));
    machine_call(m, ask_main, c);
}

/* ---- what is asked for ---- */

static struct machine *somebody(void)
{
    struct machine *m = world.machines[between(1, world.n_machines)];

    return machine_serves(m) && !server_is_learner(m->server) ? m : NULL;
}

static const struct conf_member *any_member(void)
{
    const struct conf *c = cluster_now();

    return c->len ? &c->members[rng_below(&world.rng, c->len)] : NULL;
}

static const struct conf_member *learner(void)
{
    const struct conf *c = cluster_now();

    for (unsigned i = 0; i < c->len; i++)
        if (c->members[i].learner)
            return &c->members[i];
    return NULL;
}

/* One that will never come back, if there is one. */
static const struct conf_member *lost_member(void)
{
    const struct conf *c = cluster_now();

    for (unsigned i = 0; i < c->len; i++) {
        const struct machine *m = world.machines[c->members[i].number];
        if (m && m->damaged && m->state == MACHINE_RETIRED)
            return &c->members[i];
    }
    return NULL;
}

static void change_something(struct machine *m)
{
    const struct conf_member *about = lost_member(), *l = learner();
    unsigned number = free_machine();

    if (about)
        ask(m, CHANGE_REMOVE, about->id, 0);
    else if (l && one_in(2))
        ask(m, CHANGE_PROMOTE, l->id, 0);
    else if (number && cluster_now()->len < MEMBERS_MAX_WANTED && one_in(2))
        ask(m, !l && one_in(2) ? CHANGE_ADD_LEARNER : CHANGE_ADD, 0, number);
    else if ((about = any_member()) && cluster_now()->len > 1)
        ask(m, CHANGE_REMOVE, about->id, 0);
}

static void member_turn(void *arg);
static void transfer_turn(void *arg);

static void later(uint32_t rate, void (*turn)(void *arg))
{
    double u = (double)(rng_below(&world.rng, 1000000) + 1) / 1e6;

    if (rate)
        kernel_after((uint64_t)(-log(u) * 1e12 / rate), turn, NULL);
}

static void member_turn(void *arg)
{
    struct machine *m = somebody();

    if (world.phase != PHASE_CHAOS)
        return;
    start_members();
    if (m && !operator.under_way)
        change_something(m);
    later(world.o.member_rate, member_turn);
}

/* The leader is asked, mostly. */
static void transfer_turn(void *arg)
{
    struct machine *m = somebody();
    const struct conf_member *to = any_member();
    struct server_info info;

    if (world.phase != PHASE_CHAOS)
        return;
    if (m && to && !operator.under_way) {
        server_info(m->server, &info);
        struct machine *leader = world.machines[cluster_number(info.leader_id)];
        ask(machine_serves(leader) ? leader : m, CHANGE_MOVE, to->id, 0);
    }
    later(world.o.transfer_rate, transfer_turn);
}

void operator_start(void)
{
    later(world.o.member_rate, member_turn);
    later(world.o.transfer_rate, transfer_turn);
}
