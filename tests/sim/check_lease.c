/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When leases end. What a client was promised counts in true time: a leader's clock may be as fast
 * as the nemesis makes clocks, no faster.
 *
 *   (1) never early: a lease that nobody wants to be rid of is revoked when its TTL has passed
 *       since the last grant or renewal that was acknowledged, or later. A renewal counts from when
 *       it was made in the leader's table. A leader that is deposed and has not heard of it makes
 *       some, too; but then the new leader gives the lease its TTL and an election timeout, from
 *       its first day on: so such a renewal counts, but not from later than that.
 *   (2) an acknowledged renewal was made in a leader's table; one that says that there is no such
 *       lease is right.
 *   (3) gone in time: when nobody keeps them any more and the leader stays, leases end after their
 *       TTL and 2 s (proof.c).
 *   (4) none lost: the table of a member that has applied everything holds exactly the leases that
 *       the log makes, with their TTL and what a checkpoint left of it.
 *   (5) the time left that is told: of the TTL as granted; no more than that, and the election
 *       timeout that a new leader gives besides; no less than what the last promise leaves, unless
 *       a member has looked that was deposed and had not heard of it. That there is no such lease
 *       is right.
 *
 * Thread: the only one; parts run on fibers of the members.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "raft/core.h"
#include "server/server_private.h"
#include "tests/sim/counters.h"
#include "tests/sim/holders.h"
#include "tests/sim/table.h"
#include "tests/sim/truth.h"

#define LD(x) ((long)(x))
#define MS(ns) ((unsigned long)((ns) / MILLISECOND))

struct promise {
    int64_t id, ttl_s;
    bool unwanted, revoked;
    uint64_t since_ns, until_ns; /* of the last promise, (1) */
    /* Renewals made: by the leader, and by one that was one. */
    uint64_t made_ns, late_ns, late_since_ns;
    uint64_t looked_late_ns; /* who was the leader has told the time left */
};

static struct {
    struct promise *items;
    size_t n, cap;
    uint64_t term; /* the highest with a leader */
    uint64_t term_ns;
    uint64_t news;
    uint64_t news_ns;
    uint64_t led_ns[MACHINES_MAX + 1]; /* when the raft of that machine led last */
} all;

/* Until all threads of a member know that it does not lead any more; also when the nemesis has
 * healed what holds them up. */
static uint64_t news_ns(const struct options *o)
{
    return SECOND + 2 * o->disk.sync_ns_max + (o->pause_rate ? o->pause_ns_max : 0) +
           (o->disk.stall_ppm ? 2 * o->disk.stall_ns_max : 0) + (o->slow_disk_rate ? SECOND : 0) +
           (o->stall_rate ? STALL_NS_MAX : 0);
}

void check_lease_init(void)
{
    memset(&all, 0, sizeof(all));
    all.news_ns = news_ns(&world.o);
}

void check_lease_deinit(void)
{
    free(all.items);
    memset(&all, 0, sizeof(all));
}

static struct promise *find(int64_t id)
{
    for (size_t i = all.n; i > 0; i--)
        if (all.items[i - 1].id == id)
            return &all.items[i - 1];
    return NULL;
}

/* True time that passes at least while a clock of the cluster shows that much. */
static uint64_t at_least(uint64_t local_ns)
{
    return world.o.clock_rate ? local_ns * 1000000 / CLOCK_RATE_MAX_PPM : local_ns;
}

/* True time that passes at most meanwhile. */
static uint64_t at_most(uint64_t local_ns)
{
    return world.o.clock_rate ? local_ns * 1000000 / CLOCK_RATE_MIN_PPM : local_ns;
}

void check_lease_leader(uint64_t term)
{
    if (term <= all.term)
        return;
    all.term = term;
    all.term_ns = kernel_now();
    all.news++;
}

void check_lease_leads(const struct machine *m)
{
    all.led_ns[m->number] = kernel_now();
}

static bool leads(const struct machine *m)
{
    return m->raft && m->raft->role == RAFT_LEADER && m->raft->term == all.term;
}

/* ---- promises ---- */

static void promise(struct promise *p, uint64_t since_ns)
{
    uint64_t until_ns = since_ns + at_least((uint64_t)p->ttl_s * SECOND);

    if (p->until_ns >= until_ns)
        return;
    p->since_ns = since_ns;
    p->until_ns = until_ns;
}

void check_lease_granted(int64_t id, int64_t ttl_s, uint64_t asked_ns)
{
    if (find(id))
        return;
    if (all.n == all.cap) {
        all.cap = all.cap ? 2 * all.cap : 64;
        all.items = mem_realloc(all.items, all.cap * sizeof(*all.items));
    }
    struct promise *p = &all.items[all.n++];
    *p = (struct promise){.id = id, .ttl_s = ttl_s};
    promise(p, asked_ns);
    p->revoked = !model_lease_alive(id);
    all.news++;
}

void check_lease_renewed(const struct machine *m, int64_t id)
{
    struct promise *p = find(id);

    require(kernel_now() - all.led_ns[m->number] < all.news_ns, "lease: renewals are the leader's",
            "%s renews lease %ld and does not lead, for %lu ms", m->name, LD(id),
            MS(kernel_now() - all.led_ns[m->number]));
    if (!p)
        return;
    if (leads(m)) {
        p->made_ns = kernel_now();
    } else {
        p->late_ns = kernel_now();
        p->late_since_ns = all.term_ns + at_least(world.o.election_ms * MILLISECOND);
    }
}

void check_lease_kept(int64_t id, int64_t ttl_s, uint64_t asked_ns)
{
    struct promise *p = find(id);

    if (!p)
        return;
    require(ttl_s > 0 || !model_lease_alive(id), "lease: none lost",
            "lease %ld: a member does not know it", LD(id));
    require(ttl_s == 0 || ttl_s == p->ttl_s, "lease: renewals are the leader's",
            "lease %ld has %ld s again instead of %ld", LD(id), LD(ttl_s), LD(p->ttl_s));
    if (ttl_s == 0)
        return;
    all.news++;
    require(p->made_ns >= asked_ns || p->late_ns >= asked_ns, "lease: renewals are the leader's",
            "lease %ld was not renewed, but a member says so", LD(id));
    if (p->made_ns >= asked_ns)
        promise(p, p->made_ns);
    else
        promise(p, asked_ns < p->late_since_ns ? asked_ns : p->late_since_ns);
}

/* ---- the time left ---- */

void check_lease_looked(const struct machine *m, int64_t id)
{
    struct promise *p = find(id);

    if (p && !leads(m))
        p->looked_late_ns = kernel_now();
}

/* Whole seconds are told, what is more is cut off. */
void check_lease_told(int64_t id, int64_t ttl_s, int64_t granted_s, uint64_t asked_ns)
{
    struct promise *p = find(id);
    int64_t most_ms = ttl_s < 0 ? 0 : (ttl_s + 1) * 1000;

    if (!p)
        return;
    if (granted_s == 0) {
        require(ttl_s == -1 && !model_lease_alive(id), "lease: none lost",
                "lease %ld: a member says that there is none, %ld s", LD(id), LD(ttl_s));
        return;
    }
    require(granted_s == p->ttl_s &&
                ttl_s * 1000 <= granted_s * 1000 + (int64_t)world.o.election_ms,
            "lease: the time left", "lease %ld of %ld s has %ld s left of %ld", LD(id),
            LD(p->ttl_s), LD(ttl_s), LD(granted_s));
    uint64_t until_ns = kernel_now() + at_most((uint64_t)most_ms * MILLISECOND);
    require(until_ns >= p->until_ns || p->looked_late_ns >= asked_ns, "lease: the time left",
            "lease %ld has %ld s left, %lu ms less than promised", LD(id), LD(ttl_s),
            MS(p->until_ns - until_ns));
}

void check_lease_unwanted(int64_t id)
{
    struct promise *p = find(id);

    if (p)
        p->unwanted = true;
}

/* ---- ends ---- */

void check_lease_revoked(int64_t id)
{
    struct promise *p = find(id);
    uint64_t now_ns = kernel_now();

    if (!p || p->revoked)
        return;
    p->revoked = true;
    if (p->unwanted)
        return;
    count(COUNT_EXPIRIES, 1);
    require(now_ns >= p->until_ns, "lease: never early",
            "lease %ld of %ld s ends %lu ms after a promise, %lu ms early", LD(id), LD(p->ttl_s),
            MS(now_ns - p->since_ns), MS(p->until_ns - now_ns));
}

size_t check_leases_left(void)
{
    size_t n = 0;

    for (size_t i = 0; i < all.n; i++)
        n += !all.items[i].revoked;
    return n;
}

uint64_t check_leases_bound_ns(void)
{
    int64_t ttl_s = 0;

    for (size_t i = 0; i < all.n; i++)
        if (!all.items[i].revoked && ttl_s < all.items[i].ttl_s)
            ttl_s = all.items[i].ttl_s;
    return (uint64_t)ttl_s * SECOND + 2 * SECOND + world.o.election_ms * MILLISECOND;
}

uint64_t check_leases_news(void)
{
    return all.news;
}

/* ---- tables ---- */

/* etcd's smallest TTL: one and a half election timeouts, in whole ticks. */
static int64_t ttl_min_s(void)
{
    const struct options *o = &world.o;
    int64_t ms = 3 * (int64_t)(o->election_ms / o->heartbeat_ms) / 2 * o->heartbeat_ms;

    return (ms + 999) / 1000;
}

static int info_compare(const void *a, const void *b)
{
    int64_t x = ((const struct lease_info *)a)->id, y = ((const struct lease_info *)b)->id;

    return (x > y) - (x < y);
}

static void compare(const struct machine *m, const struct lease_info *got, size_t n_got,
                    const struct model_lease *want, size_t n_want)
{
    for (size_t i = 0; i < n_got || i < n_want; i++) {
        require(i < n_got && i < n_want && got[i].id == want[i].id, "lease: none lost",
                "%s: %zu leases of %zu; number %zu is %ld, not %ld", m->name, n_got, n_want, i,
                i < n_got ? LD(got[i].id) : 0, i < n_want ? LD(want[i].id) : 0);
        int64_t ttl_s = want[i].ttl_s < ttl_min_s() ? ttl_min_s() : want[i].ttl_s;
        require(got[i].ttl_s == ttl_s && got[i].remaining_s == want[i].remaining_s,
                "lease: none lost", "%s: lease %ld: %ld s, %ld left, instead of %ld, %ld", m->name,
                LD(got[i].id), LD(got[i].ttl_s), LD(got[i].remaining_s), LD(ttl_s),
                LD(want[i].remaining_s));
    }
}

void check_leases(struct machine *m)
{
    uint64_t applied = truth_applied();
    struct lease_info *got;
    struct model_lease *want;

    if (atomic_load(&m->server->state.applied) != applied)
        return;
    size_t n_got = lease_list(m->server->store.leases, &got);
    if (truth_applied() == applied) { /* the lock may have taken time */
        size_t n_want = model_leases(&want);
        qsort(got, n_got, sizeof(*got), info_compare);
        compare(m, got, n_got, want, n_want);
        free(want);
    }
    free(got);
}
