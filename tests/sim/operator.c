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
#include "tests/sim/counters.h"

enum { MEMBERS_MAX_WANTED = 7 };
#define FIRST_NS (2 * SECOND)
#define SETTLE_NS (200 * MILLISECOND)

enum change_kind { CHANGE_ADD, CHANGE_ADD_LEARNER, CHANGE_REMOVE, CHANGE_PROMOTE, CHANGE_MOVE };

/* One request; lives until its finish(). */
struct change {
    struct request request;
    enum change_kind kind;
    struct machine *asked;
    struct server *server;
    uint64_t id;     /* of the member it is about */
    unsigned number; /* of a new machine */
};

static struct {
    struct change *under_way; /* that is waited for; NULL: none */
    unsigned last_number;     /* of the machine of the last new member */
} operator;

void operator_init(void)
{
    memset(&operator, 0, sizeof(operator));
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

static void settle_turn(void *arg)
{
    start_members();
    if (world.phase != PHASE_DONE)
        kernel_after(SETTLE_NS, settle_turn, NULL);
}

void operator_settle(void)
{
    settle_turn(NULL);
}

/* A machine without a member; 0: there is none. Not the same twice in a row, if there is another:
 * the last change may still be on its way. */
static unsigned free_machine(void)
{
    unsigned found = 0;

    for (unsigned i = 1; i <= MACHINES_MAX; i++) {
        const struct machine *m = world.machines[i];
        if (cluster_of_machine(cluster_now(), i) || (m && (m->process.alive || m->damaged)))
            continue;
        if ((!m || m->state == MACHINE_RETIRED) && (!found || found == operator.last_number))
            found = i;
    }
    return found;
}

/* ---- one change ---- */

static void change_finish(struct request *request, enum outcome outcome)
{
    struct change *c = container_of(request, struct change, request);

    trace3("change of kind %lu at m%lu ends: outcome %lu", c->kind, c->asked->number, outcome);
    buf_deinit(&request->response);
    if (operator.under_way == c)
        operator.under_way = NULL;
    if (outcome == OUTCOME_OK)
        count(c->kind == CHANGE_MOVE ? COUNT_TRANSFERS : COUNT_MEMBER_CHANGES, 1);
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

    if (c && c->asked == m)
        operator.under_way = NULL;
}

/* An operator in a hurry does not wait for the end. Only where it does no harm: of two removals at
 * once, one too many could be made. */
static bool is_waited_for(enum change_kind kind)
{
    return kind == CHANGE_REMOVE || !one_in(3);
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
    if (is_waited_for(kind))
        operator.under_way = c;
    if (number)
        operator.last_number = number;
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

/* Of two voters none is removed: if it is the leader that goes, the other may never hear that it is
 * alone now (etcd's library documents that).
 *
 * One that will never come back, if there is one. */
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
    else if (l && !one_in(4))
        ask(m, CHANGE_PROMOTE, l->id, 0);
    else if (number && cluster_now()->len < MEMBERS_MAX_WANTED && one_in(2))
        ask(m, !l && !one_in(3) ? CHANGE_ADD_LEARNER : CHANGE_ADD, 0, number);
    else if (world.o.flip_rate == 0 && (about = any_member()) &&
             (cluster_voters(cluster_now()) > 2 || about->learner))
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

/* The leader is asked, if m knows it. */
static void move_leader(struct machine *m)
{
    const struct conf_member *to = any_member();
    struct server_info info;

    if (!m || !to || operator.under_way)
        return;
    server_info(m->server, &info);
    struct machine *leader = world.machines[cluster_number(info.leader_id)];
    ask(machine_serves(leader) ? leader : m, CHANGE_MOVE, to->id, 0);
}

static void transfer_turn(void *arg)
{
    if (world.phase != PHASE_CHAOS)
        return;
    move_leader(somebody());
    later(world.o.transfer_rate, transfer_turn);
}

void operator_move_leader(void)
{
    move_leader(somebody());
}

static void begin(void *arg)
{
    later(world.o.member_rate, member_turn);
    later(world.o.transfer_rate, transfer_turn);
}

/* Not before the cluster has a version: nobody can join it then. */
void operator_start(void)
{
    kernel_after(FIRST_NS, begin, NULL);
}
