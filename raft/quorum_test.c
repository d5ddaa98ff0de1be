/* SPDX-License-Identifier: Apache-2.0 */
/* Majorities against their definition, over random and over all small sets. */
#include "raft/quorum.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"

enum { IDS = 10, ROUNDS = 20000 };

struct world {
    uint64_t acked[IDS + 1];
    enum quorum_vote votes[IDS + 1];
};

static uint64_t acked(const void *context, uint64_t id)
{
    return ((const struct world *)context)->acked[id];
}

static enum quorum_vote vote(const void *context, uint64_t id)
{
    return ((const struct world *)context)->votes[id];
}

static void random_set(struct rng *rng, uint64_t ids[IDS], struct raft_ids *ret)
{
    uint64_t mask = rng_below(rng, 1 << IDS);
    *ret = (struct raft_ids){.ids = ids};
    for (uint64_t id = 1; id <= IDS; id++)
        if (mask & (1u << (id - 1)))
            ids[ret->len++] = id;
}

/* By definition: the largest index, tried one by one, that more than half have reached. */
static uint64_t slow_index(const struct raft_ids *s, const struct world *w)
{
    if (s->len == 0)
        return UINT64_MAX;
    for (uint64_t index = 20;; index--) {
        size_t n = 0;
        for (size_t i = 0; i < s->len; i++)
            n += w->acked[s->ids[i]] >= index;
        if (2 * n > s->len || index == 0)
            return index;
    }
}

/*
 * By definition: is won if the yes voters are a majority; is lost if they were not even with every
 * open vote.
 */
static enum quorum_result slow_votes(const struct raft_ids *s, const struct world *w)
{
    size_t yes = 0;
    size_t no = 0;
    for (size_t i = 0; i < s->len; i++) {
        yes += w->votes[s->ids[i]] == QUORUM_VOTE_YES;
        no += w->votes[s->ids[i]] == QUORUM_VOTE_NO;
    }
    if (s->len == 0 || 2 * yes > s->len)
        return QUORUM_WON;
    return 2 * (s->len - no) > s->len ? QUORUM_PENDING : QUORUM_LOST;
}

static void test_random(void **state)
{
    struct rng rng;
    rng_init(&rng, 1);
    for (int round = 0; round < ROUNDS; round++) {
        struct world w;
        uint64_t a[IDS];
        uint64_t b[IDS];
        struct raft_conf_state conf = {0};
        random_set(&rng, a, &conf.voters);
        random_set(&rng, b, &conf.voters_outgoing);
        for (int id = 0; id <= IDS; id++) {
            w.acked[id] = rng_below(&rng, 20);
            w.votes[id] = (enum quorum_vote)rng_below(&rng, 3);
        }
        uint64_t in = slow_index(&conf.voters, &w);
        uint64_t out = slow_index(&conf.voters_outgoing, &w);
        assert_int_equal(quorum_index(&conf.voters, acked, &w), in);
        assert_int_equal(quorum_joint_index(&conf, acked, &w), in < out ? in : out);
        enum quorum_result vin = slow_votes(&conf.voters, &w);
        enum quorum_result vout = slow_votes(&conf.voters_outgoing, &w);
        assert_int_equal(quorum_votes(&conf.voters, vote, &w), vin);
        enum quorum_result both = vin == QUORUM_LOST || vout == QUORUM_LOST ? QUORUM_LOST
            : vin == QUORUM_WON && vout == QUORUM_WON ? QUORUM_WON : QUORUM_PENDING;
        assert_int_equal(quorum_joint_votes(&conf, vote, &w), both);
    }
}

static void test_examples(void **state)
{
    uint64_t ids[] = {1, 2, 3, 4};
    struct raft_ids three = {ids, 3};
    struct raft_ids four = {ids, 4};
    struct raft_ids none = {0};
    struct world w = {.acked = {0, 100, 101, 99, 103},
                      .votes = {0, QUORUM_VOTE_YES, QUORUM_VOTE_YES, QUORUM_VOTE_NO}};
    assert_int_equal(quorum_index(&three, acked, &w), 100);
    assert_int_equal(quorum_index(&four, acked, &w), 100);      /* three of four are needed */
    assert_true(quorum_index(&none, acked, &w) == UINT64_MAX);
    assert_int_equal(quorum_votes(&three, vote, &w), QUORUM_WON);
    assert_int_equal(quorum_votes(&four, vote, &w), QUORUM_PENDING);
    w.votes[4] = QUORUM_VOTE_NO;
    assert_int_equal(quorum_votes(&four, vote, &w), QUORUM_LOST);      /* a tie is lost */
    assert_int_equal(quorum_votes(&none, vote, &w), QUORUM_WON);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_examples),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
