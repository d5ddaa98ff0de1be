/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public contract: restored states that contradict themselves, random messages that must
 * neither abort nor break an invariant, and what an entry costs.
 */
#include "raft/raft.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "base/rng.h"

static uint64_t three[] = {1, 2, 3};
static const struct raft_conf_state conf_three = {.voters = {three, 3}};
static const struct raft_conf_state conf_one = {.voters = {three, 1}};

static struct raft_config config_of(const struct raft_conf_state *conf)
{
    return (struct raft_config){
        .id = 1,
        .seed = 1,
        .election_ticks = 10,
        .heartbeat_ticks = 1,
        .message_bytes_max = 1 << 20,
        .inflight_messages_max = 8,
        .conf = conf,
    };
}

static void test_config(void **state)
{
    struct raft_entry entries[] = {{.term = 1, .index = 5}, {.term = 2, .index = 6}};
    struct raft_config good = config_of(&conf_three);
    good.snapshot_index = 4;
    good.snapshot_term = 1;
    good.entries = entries;
    good.n_entries = 2;
    good.applied = 4;
    good.hard_state = (struct raft_hard_state){.term = 2, .vote = 3, .commit = 5};
    struct raft *r = NULL;
    assert_int_equal(raft_new(&r, &good), 0);
    struct raft_status s;
    raft_status(r, &s);
    assert_int_equal(s.vote, 3);
    assert_int_equal(s.last_index, 6);
    raft_sanity(r);
    r = raft_free(r);
    assert_null(raft_free(NULL));

    struct raft_config bad[12];
    size_t n = 0;
    bad[n] = good, bad[n++].hard_state.commit = 7;
    bad[n] = good, bad[n++].hard_state.commit = 3;
    bad[n] = good, bad[n++].applied = 6;
    bad[n] = good, bad[n++].applied = 3;
    bad[n] = good, bad[n++].hard_state.term = 1;
    bad[n] = good, bad[n++].snapshot_index = 3;
    bad[n] = good, bad[n++].snapshot_term = 2;
    bad[n] = good, bad[n++].id = 0;
    bad[n] = good, bad[n++].heartbeat_ticks = 0;
    bad[n] = good, bad[n++].election_ticks = 1;
    bad[n] = good, bad[n++].inflight_messages_max = 0;
    uint64_t twice[] = {1, 1};
    struct raft_conf_state broken = {.voters = {twice, 2}};
    bad[n] = good, bad[n++].conf = &broken;
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(raft_new(&r, &bad[i]), -EINVAL);
        assert_null(r);
    }
}

static void turn(struct raft *r)
{
    struct raft_ready rd;
    while (raft_has_ready(r)) {
        raft_ready(r, &rd);
        uint64_t applied = rd.n_committed > 0 ? rd.committed[rd.n_committed - 1].index : 0;
        uint64_t snapshot = rd.snapshot ? rd.snapshot->index : 0;
        raft_advance(r);
        if (snapshot > 0)
            raft_step(r, &(struct raft_input){.type = RAFT_PERSISTED_SNAPSHOT, .index = snapshot});
        raft_step(r, &(struct raft_input){.type = RAFT_PERSISTED});
        if (applied > 0)
            raft_step(r, &(struct raft_input){.type = RAFT_APPLIED, .index = applied});
        raft_sanity(r);
    }
}

/* Small numbers meet often; now and then an extreme one. */
static uint64_t some(struct rng *rng, uint64_t around)
{
    switch (rng_below(rng, 24)) {
    case 0:
        return UINT64_MAX - rng_below(rng, 2);
    case 1:
        return (uint64_t)1 << rng_below(rng, 64);
    default:
        return around + rng_below(rng, 5) - (around >= 2 ? 2 : around);
    }
}

static void random_message(struct rng *rng, struct raft *r)
{
    static const uint8_t context[80] = {3, 0};
    struct raft_status s;
    raft_status(r, &s);
    struct raft_entry entries[6];
    struct raft_snapshot snapshot = {
        .index = some(rng, s.last_index), .term = some(rng, s.term), .conf = conf_three};
    struct raft_message m = {
        .type = (enum raft_message_type)rng_below(rng, 26),
        .from = rng_below(rng, 5),
        .to = rng_below(rng, 20) ? 1 : 2,
        .term = some(rng, s.term),
        .index = some(rng, s.last_index),
        .log_term = some(rng, s.term),
        .commit = some(rng, s.commit),
        .reject = rng_below(rng, 3) == 0,
        .reject_hint = some(rng, s.last_index),
        .entries = entries,
        .n_entries = rng_below(rng, 6),
        .snapshot = rng_below(rng, 8) ? &snapshot : NULL,
        .context = bytes_of(context, rng_below(rng, 3) ? 0 : rng_below(rng, 80)),
    };
    if (s.term > 1000 && rng_below(rng, 4))
        m.term = s.term;      /* extreme terms are taken once; then life goes on there */
    for (size_t i = 0; i < m.n_entries; i++)
        entries[i] =
            (struct raft_entry){.term = rng_below(rng, 30) ? m.log_term : some(rng, s.term),
                                .index = rng_below(rng, 30) ? m.index + 1 + i : 3,
                                .type = (enum raft_entry_type)(rng_below(rng, 10) == 0),
                                .data = blob_new(rng_below(rng, 20))};
    if (rng_below(rng, 2)) {
        m.log_term = rng_below(rng, 2) ? s.term : m.log_term;
        if (m.term < s.term)
            m.term = s.term;
    }
    uint64_t commit = s.commit;
    struct raft_entry keep[6];
    memcpy(keep, entries, sizeof(keep));
    int outcome = raft_step(r, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m});
    assert_in_range(outcome, 0, RAFT_E_LOST_TAIL);
    raft_sanity(r);
    raft_status(r, &s);
    assert_true(s.commit >= commit);
    for (size_t i = 0; i < m.n_entries; i++)
        blob_unref(keep[i].data);
}

static void random_input(struct rng *rng, struct raft *r)
{
    static uint64_t read_id;
    struct raft_entry e = {.type = (enum raft_entry_type)(rng_below(rng, 8) == 0),
                           .data = blob_copy(BYTES_LIT("x"))};
    struct raft_input in = {
        .type = (enum raft_input_type)rng_below(rng, 3), .entries = &e, .n_entries = 1};
    switch (rng_below(rng, 8)) {
    case 0:
        in = (struct raft_input){.type = RAFT_READ, .read_id = ++read_id};
        break;
    case 1:
        in = (struct raft_input){.type = RAFT_TRANSFER, .node = rng_below(rng, 5)};
        break;
    case 2:
        in = (struct raft_input){.type = RAFT_UNREACHABLE, .node = rng_below(rng, 5)};
        break;
    case 3:
        in = (struct raft_input){
            .type = RAFT_SNAPSHOT_DONE, .node = rng_below(rng, 5), .ok = rng_below(rng, 2)};
        break;
    case 4: {
        struct raft_status s;
        raft_status(r, &s);
        in = (struct raft_input){.type = RAFT_COMPACT, .index = s.applied};
        break;
    }
    default:
        break;
    }
    raft_step(r, &in);
    raft_sanity(r);
    blob_unref(e.data);
}

static void test_hostile(void **state)
{
    for (uint64_t seed = 1; seed <= 400; seed++) {
        struct rng rng;
        rng_init(&rng, seed);
        struct raft_config c = config_of(&conf_three);
        c.seed = seed;
        c.pre_vote = seed & 1;
        c.check_quorum = seed & 2;
        c.message_bytes_max = seed & 4 ? 30 : 1 << 20;
        struct raft *r;
        assert_int_equal(raft_new(&r, &c), 0);
        for (int i = 0; i < 500; i++) {
            if (rng_below(&rng, 3))
                random_message(&rng, r);
            else
                random_input(&rng, r);
            if (rng_below(&rng, 3) == 0)
                turn(r);
        }
        raft_free(r);
    }
}

/*
 * Not a bound on the machine, only against something that grows with the log: 400,000 entries in
 * batches of 100.
 */
static void test_cost(void **state)
{
    struct raft_config c = config_of(&conf_one);
    struct raft *r;
    struct raft_entry batch[100] = {0};
    struct timespec a;
    struct timespec b;
    assert_int_equal(raft_new(&r, &c), 0);
    raft_step(r, &(struct raft_input){.type = RAFT_CAMPAIGN});
    turn(r);
    struct blob *data = blob_copy(BYTES_LIT("some payload"));
    for (int i = 0; i < 100; i++)
        batch[i].data = data;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < 4000; i++) {
        assert_int_equal(
            raft_step(
                r, &(struct raft_input){.type = RAFT_PROPOSE, .entries = batch, .n_entries = 100}),
            0);
        struct raft_ready rd;
        while (raft_has_ready(r)) {
            raft_ready(r, &rd);
            uint64_t applied = rd.n_committed > 0 ? rd.committed[rd.n_committed - 1].index : 0;
            raft_advance(r);
            raft_step(r, &(struct raft_input){.type = RAFT_PERSISTED});
            if (applied > 0)
                raft_step(r, &(struct raft_input){.type = RAFT_APPLIED, .index = applied});
        }
        if (i % 50 == 49)
            raft_step(
                r, &(struct raft_input){.type = RAFT_COMPACT, .index = (uint64_t)i * 100 - 4000});
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    double ns = (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
    print_message("%.0f ns per entry\n", ns / 400000);
    struct raft_status s;
    raft_status(r, &s);
    assert_int_equal(s.applied, 400001);
    assert_true(s.last_index - s.first_index < 10000);
    blob_unref(data);
    raft_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_hostile), cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
