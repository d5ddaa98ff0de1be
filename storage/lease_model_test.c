/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random lives of a lease table beside a list that keeps the same in the plainest way: grants,
 * renewals, revocations, checkpoints, leaders that come and go, restarts, and time. After each step
 * a lease or two are looked at, now and then all of them. LEASE_SEED repeats a run.
 *
 * The clock is the test's, and what it says is never below what it said before.
 */
#include "storage/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/rng.h"
#include "storage/test_dir.h"

enum { IDS = 40, STEPS = 60000, TTL_MIN_S = 2, FOUND_MAX = 5 };

#define SECOND UINT64_C(1000000000)
#define CHECKPOINT_NS (30 * SECOND)
#define AGAIN_NS (7 * SECOND)

static uint64_t now_ns;

uint64_t __wrap_clock_mono_ns(void);
uint64_t __wrap_clock_mono_ns(void)
{
    return now_ns;
}

struct model_lease {
    bool there;
    int64_t ttl_s, remaining_s;
    uint64_t expiry_ns;     /* of a leader */
    uint64_t not_before;    /* found expired: not again before that; 0: at once */
    uint64_t checkpoint_ns; /* due then; 0: not at all */
    bool checkpointing;     /* found, and under way */
};

struct model {
    struct rng rng;
    char *dir;
    struct db *db;
    struct db_batch *batch;
    struct lease_table *t;
    uint64_t term; /* 0: does not lead */
    uint64_t terms;
    uint64_t begins_ns; /* a renewal counts from then on, if it comes earlier */
    struct model_lease leases[IDS + 1];
    unsigned renewed, expired, checkpointed; /* that something happens at all */
};

static uint64_t below(struct model *m, uint64_t n)
{
    return rng_below(&m->rng, n);
}

static uint64_t left_ns(const struct model_lease *l)
{
    return (uint64_t)(l->remaining_s > 0 ? l->remaining_s : l->ttl_s) * SECOND;
}

static void schedule(struct model *m, struct model_lease *l)
{
    if (m->term != 0 && l->checkpoint_ns == 0 && left_ns(l) > CHECKPOINT_NS)
        l->checkpoint_ns = now_ns + CHECKPOINT_NS;
}

static void write_batch(struct model *m)
{
    assert_int_equal(db_write(m->db, m->batch), 0);
    db_batch_clear(m->batch);
}

static void step_grant(struct model *m, int64_t id)
{
    struct model_lease *l = &m->leases[id];
    int64_t ttl_s = (int64_t)below(m, 60), got = -1;
    int r = lease_grant(m->t, m->batch, id, ttl_s, &got);

    if (l->there) {
        assert_int_equal(r, LEASE_E_EXISTS);
        return;
    }
    assert_int_equal(r, 0);
    *l = (struct model_lease){.there = true, .ttl_s = ttl_s < TTL_MIN_S ? TTL_MIN_S : ttl_s};
    assert_int_equal(got, l->ttl_s);
    l->expiry_ns = now_ns + left_ns(l);
    schedule(m, l);
}

static void step_revoke(struct model *m, int64_t id)
{
    int r = lease_revoke(m->t, m->batch, id);

    assert_int_equal(r, m->leases[id].there ? 0 : LEASE_E_NOT_FOUND);
    m->leases[id] = (struct model_lease){0};
}

static void step_checkpoint(struct model *m, int64_t id)
{
    struct model_lease *l = &m->leases[id];
    int64_t remaining_s = (int64_t)below(m, 3) == 0 ? 0 : (int64_t)below(m, 60);
    int r = lease_checkpoint(m->t, m->batch, id, remaining_s);

    assert_int_equal(r, l->there ? 0 : LEASE_E_NOT_FOUND);
    if (!l->there)
        return;
    l->remaining_s = remaining_s;
    schedule(m, l);
}

static int want_renewed(const struct model *m, const struct model_lease *l)
{
    if (m->term == 0)
        return LEASE_E_NOT_PRIMARY;
    if (!l->there)
        return LEASE_E_NOT_FOUND;
    if (l->expiry_ns <= now_ns)
        return LEASE_E_EXPIRED;
    if (l->checkpointing)
        return LEASE_E_CHECKPOINTING;
    return l->remaining_s > 0 ? LEASE_E_CHECKPOINTED : 0;
}

static void step_renew(struct model *m, int64_t id)
{
    struct model_lease *l = &m->leases[id];
    struct lease_renew r = {.id = id, .now_ns = now_ns};
    int e = lease_renew(m->t, &r);

    assert_int_equal(e, want_renewed(m, l));
    if (e != 0)
        return;
    assert_int_equal(r.ttl_s, l->ttl_s);
    uint64_t from_ns = now_ns > m->begins_ns ? now_ns : m->begins_ns;
    l->expiry_ns = from_ns + (uint64_t)l->ttl_s * SECOND;
    m->renewed++;
}

/* Each is over, was not found lately, and what is found is found in order; with room left over,
 * nothing is missing. */
static void step_find_expired(struct model *m)
{
    struct lease_look look = {.now_ns = now_ns, .again_ns = now_ns + AGAIN_NS};
    int64_t ids[FOUND_MAX];
    size_t n = lease_find_expired(m->t, &look, ids, FOUND_MAX);

    assert_int_equal(look.term, m->term);
    for (size_t i = 0; i < n; i++) {
        struct model_lease *l = &m->leases[ids[i]];
        assert_true(l->there && l->expiry_ns <= now_ns && l->not_before <= now_ns);
        l->not_before = now_ns + AGAIN_NS;
        m->expired++;
    }
    for (int64_t id = 1; n < FOUND_MAX && m->term != 0 && id <= IDS; id++) {
        const struct model_lease *l = &m->leases[id];
        assert_false(l->there && l->expiry_ns <= now_ns && l->not_before <= now_ns);
    }
    for (size_t i = 0; i < n && below(m, 2) == 0; i++)
        step_revoke(m, ids[i]);
}

static void step_end_checkpoints(struct model *m)
{
    lease_checkpoints_end(m->t);
    for (int64_t id = 1; id <= IDS; id++)
        m->leases[id].checkpointing = false;
}

static void step_find_checkpoints(struct model *m)
{
    step_end_checkpoints(m);
    struct lease_look look = {.now_ns = now_ns};
    struct lease_left left[IDS];
    size_t n = lease_find_checkpoints(m->t, &look, left, IDS), wanted = 0;

    assert_int_equal(look.term, m->term);
    for (int64_t id = 1; id <= IDS; id++) {
        struct model_lease *l = &m->leases[id];
        if (!l->there || l->checkpoint_ns == 0 || l->checkpoint_ns > now_ns)
            continue;
        l->checkpoint_ns = 0;
        if (l->expiry_ns <= now_ns)
            continue;
        schedule(m, l);
        wanted += (l->expiry_ns - now_ns + SECOND - 1) / SECOND < (uint64_t)l->ttl_s;
    }
    assert_int_equal(n, wanted);
    for (size_t i = 0; i < n; i++) {
        struct model_lease *l = &m->leases[left[i].id];
        assert_int_equal(left[i].remaining_s, (l->expiry_ns - now_ns + SECOND - 1) / SECOND);
        l->checkpointing = true;
        m->checkpointed++;
    }
}

static void step_promote(struct model *m)
{
    m->term = ++m->terms;
    m->begins_ns = now_ns + SECOND;
    lease_promote(m->t, &(struct lease_leadership){m->term, now_ns, SECOND});
    for (int64_t id = 1; id <= IDS; id++) {
        struct model_lease *l = &m->leases[id];
        l->expiry_ns = now_ns + SECOND + left_ns(l);
        l->not_before = l->checkpoint_ns = 0;
        l->checkpointing = false;
        if (l->there)
            schedule(m, l);
    }
}

static void step_demote(struct model *m)
{
    lease_demote(m->t, m->term);
    m->term = 0;
    for (int64_t id = 1; id <= IDS; id++) {
        m->leases[id].checkpoint_ns = 0;
        m->leases[id].checkpointing = false;
    }
}

static void step_restart(struct model *m)
{
    write_batch(m);
    lease_table_close(m->t);
    assert_int_equal(lease_table_open(&m->t, m->db, TTL_MIN_S), 0);
    lease_checkpoint_every(m->t, CHECKPOINT_NS);
    step_demote(m);
}

static void look_at(struct model *m, int64_t id)
{
    const struct model_lease *l = &m->leases[id];
    struct lease_info info;

    assert_int_equal(lease_get(m->t, id, &info), l->there ? 0 : LEASE_E_NOT_FOUND);
    if (!l->there)
        return;
    assert_int_equal(info.ttl_s, l->ttl_s);
    assert_int_equal(info.remaining_s, l->remaining_s);
    assert_int_equal(info.expiry_ns, m->term != 0 ? l->expiry_ns : LEASE_NEVER);
}

static void look_at_all(struct model *m)
{
    struct lease_info *list;
    size_t n = lease_list(m->t, &list), wanted = 0;

    for (int64_t id = 1; id <= IDS; id++) {
        look_at(m, id);
        wanted += m->leases[id].there;
    }
    assert_int_equal(n, wanted);
    for (size_t i = 1; i < n; i++)
        assert_true(list[i - 1].expiry_ns < list[i].expiry_ns ||
                    (list[i - 1].expiry_ns == list[i].expiry_ns && list[i - 1].id < list[i].id));
    free(list);
}

static void step(struct model *m)
{
    int64_t id = 1 + (int64_t)below(m, IDS);

    now_ns += below(m, 3) == 0 ? below(m, 2 * SECOND) : 0;
    switch (below(m, 40)) {
    case 0: below(m, 8) == 0 ? step_promote(m) : look_at_all(m); break;
    case 1: below(m, 8) == 0 ? step_demote(m) : look_at_all(m); break;
    case 2: below(m, 8) == 0 ? step_restart(m) : look_at_all(m); break;
    case 3: step_revoke(m, id); break;
    case 4: step_find_checkpoints(m); break;
    case 5: step_end_checkpoints(m); break;
    case 6:
    case 7: step_checkpoint(m, id); break;
    default:
        if (below(m, 3) == 0)
            step_grant(m, id);
        else if (below(m, 2) == 0)
            step_renew(m, id);
        else
            step_find_expired(m);
    }
    look_at(m, id);
}

static void play(uint64_t seed, bool always_leads)
{
    struct model *m = mem_new(struct model);

    print_message("seed %" PRIu64 "\n", seed);
    rng_init(&m->rng, seed);
    now_ns = 5 * SECOND;
    m->dir = test_dir_new();
    m->db = test_db_open(m->dir);
    m->batch = db_batch_new();
    assert_int_equal(lease_table_open(&m->t, m->db, TTL_MIN_S), 0);
    lease_checkpoint_every(m->t, CHECKPOINT_NS);
    for (int i = 0; i < STEPS; i++) {
        step(m);
        if (always_leads && m->term == 0)
            step_promote(m);
    }
    look_at_all(m);
    assert_true(m->renewed > 100 && m->expired > 10 && m->checkpointed > 1);
    lease_table_close(m->t);
    db_batch_free(m->batch);
    db_close(m->db);
    test_dir_remove(m->dir);
    free(m);
}

static uint64_t seed(void)
{
    const char *text = getenv("LEASE_SEED");

    return text ? strtoull(text, NULL, 0) : rng_entropy() % 1000000;
}

static void test_lives(void **state)
{
    (void)state;
    play(seed(), false);
    play(seed(), true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lives)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
