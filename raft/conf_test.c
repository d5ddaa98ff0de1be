/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration changes: examples, and random sequences against a model that keeps one word per id
 * instead of sets. Simple changes one by one must lead where one joint change leads.
 */
#include "raft/conf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/rng.h"
#include "raft/describe.h"

enum { IDS = 7, ROUNDS = 5000, CHANGES_MAX = 6 };

static void conf_of(struct raft_conf_state *c, const char *voters, const char *learners)
{
    *c = (struct raft_conf_state){0};
    for (; *voters; voters++)
        raft_ids_add(&c->voters, (uint64_t)(*voters - '0'));
    for (; *learners; learners++)
        raft_ids_add(&c->learners, (uint64_t)(*learners - '0'));
}

static struct raft_conf_single single(char kind, uint64_t id)
{
    enum raft_conf_change_type type = kind == 'v'   ? RAFT_CONF_ADD_NODE
                                      : kind == 'l' ? RAFT_CONF_ADD_LEARNER
                                      : kind == 'r' ? RAFT_CONF_REMOVE_NODE
                                                    : RAFT_CONF_UPDATE_NODE;
    return (struct raft_conf_single){type, id};
}

/*
 * Applies "v4 r1" to c in place; transition 'e' explicit, 'i' implicit, 'a' automatic. Returns the
 * text of the result.
 */
static const char *change(struct raft_conf_state *c, char transition, const char *text)
{
    static struct buf out;
    struct raft_conf_single changes[CHANGES_MAX];
    struct raft_conf_change cc = {transition == 'e'   ? RAFT_CONF_JOINT_EXPLICIT
                                  : transition == 'i' ? RAFT_CONF_JOINT_IMPLICIT
                                                      : RAFT_CONF_AUTO,
                                  changes, 0};
    for (; text[0]; text += text[2] ? 3 : 2)
        changes[cc.n_changes++] = single(text[0], (uint64_t)(text[1] - '0'));
    struct raft_conf_state next;
    struct raft_ids fresh;
    buf_clear(&out);
    if (conf_change(c, &cc, &next, &fresh) != 0)
        return "invalid";
    assert_true(conf_valid(&next));
    conf_deinit(c);
    raft_ids_deinit(&fresh);
    *c = next;
    describe_conf(&out, c);
    return buf_cstr(&out);
}

static void test_simple(void **state)
{
    struct raft_conf_state c = {0};
    assert_string_equal(change(&c, 'a', "l1"), "invalid");             /* no voter at all */
    assert_string_equal(change(&c, 'a', "v1"), "voters(1)");
    assert_string_equal(change(&c, 'a', "v1"), "voters(1)");
    assert_string_equal(change(&c, 'a', "l2"), "voters(1) learners(2)");
    assert_string_equal(change(&c, 'a', "v2"), "voters(1 2)");         /* promoted */
    assert_string_equal(change(&c, 'a', "l1"), "voters(2) learners(1)");       /* demoted */
    assert_string_equal(change(&c, 'a', "u2"), "voters(2) learners(1)");
    assert_string_equal(change(&c, 'a', "u9"), "voters(2) learners(1)");
    assert_string_equal(change(&c, 'a', "r1"), "voters(2)");
    assert_string_equal(change(&c, 'a', "r5"), "voters(2)");
    assert_string_equal(change(&c, 'a', "r2"), "invalid");             /* the last voter */
    assert_string_equal(change(&c, 'a', "v0"), "voters(2)");  /* refused by the state machine */
    assert_string_equal(change(&c, 'a', ""), "invalid");               /* nothing to leave */
    conf_deinit(&c);
}

static void test_joint(void **state)
{
    struct raft_conf_state c;
    conf_of(&c, "123", "");
    assert_string_equal(change(&c, 'a', "v4 r1"), "voters(2 3 4) outgoing(1 2 3) auto-leave");
    assert_string_equal(change(&c, 'a', "v5"), "invalid");
    assert_string_equal(change(&c, 'a', "v5 v6"), "invalid");
    assert_string_equal(change(&c, 'a', ""), "voters(2 3 4)");
    assert_string_equal(change(&c, 'e', "r2"), "voters(3 4) outgoing(2 3 4)");
    assert_string_equal(change(&c, 'a', ""), "voters(3 4)");
    assert_string_equal(change(&c, 'e', "r3 r4"), "invalid");
    /* Demoted: waits until the outgoing half is gone. Promoted again meanwhile: not at all. */
    assert_string_equal(change(&c, 'i', "l3 v5"),
                        "voters(4 5) outgoing(3 4) learners-next(3) auto-leave");
    assert_string_equal(change(&c, 'a', ""), "voters(4 5) learners(3)");
    assert_string_equal(change(&c, 'e', "l4 v4 l6 r3"), "voters(4 5) outgoing(4 5) learners(6)");
    assert_string_equal(change(&c, 'a', ""), "voters(4 5) learners(6)");
    conf_deinit(&c);
}

static void test_fresh(void **state)
{
    struct raft_conf_state c;
    struct raft_conf_state next;
    struct raft_ids fresh;
    conf_of(&c, "12", "3");
    /*
     * 1 stays tracked through the outgoing half; 3 is removed and comes back as somebody new; 4 is
     * new.
     */
    struct raft_conf_single changes[] = {single('r', 1), single('v', 1), single('r', 3),
                                         single('l', 3), single('v', 4)};
    struct raft_conf_change cc = {RAFT_CONF_AUTO, changes, 5};
    assert_int_equal(conf_change(&c, &cc, &next, &fresh), 0);
    assert_int_equal(fresh.len, 2);
    assert_int_equal(fresh.ids[0], 3);
    assert_int_equal(fresh.ids[1], 4);
    conf_deinit(&next);
    raft_ids_deinit(&fresh);
    conf_deinit(&c);
}

static void test_valid(void **state)
{
    struct raft_conf_state c;
    conf_of(&c, "12", "2");
    assert_false(conf_valid(&c));
    conf_deinit(&c);
    conf_of(&c, "12", "3");
    assert_true(conf_valid(&c));
    c.auto_leave = true;
    assert_false(conf_valid(&c));
    raft_ids_add(&c.voters_outgoing, 4);
    assert_true(conf_valid(&c));
    raft_ids_add(&c.learners_next, 5);
    assert_false(conf_valid(&c));
    raft_ids_add(&c.voters_outgoing, 5);
    assert_true(conf_valid(&c));
    raft_ids_add(&c.voters_outgoing, 3);
    assert_false(conf_valid(&c));
    conf_deinit(&c);
    uint64_t unsorted[] = {2, 1};
    c = (struct raft_conf_state){.voters = {unsorted, 2}};
    assert_false(conf_valid(&c));
}

/* The model: one letter per id. v voter, l learner, ' ' nobody. */
static void model_apply(char model[IDS + 1], const struct raft_conf_single *ch)
{
    char *m = &model[ch->node_id];
    if (ch->type == RAFT_CONF_ADD_NODE)
        *m = 'v';
    else if (ch->type == RAFT_CONF_ADD_LEARNER)
        *m = 'l';
    else if (ch->type == RAFT_CONF_REMOVE_NODE)
        *m = ' ';
}

static size_t model_voters(const char model[IDS + 1])
{
    size_t n = 0;
    for (int id = 1; id <= IDS; id++)
        n += model[id] == 'v';
    return n;
}

static void assert_like_model(const struct raft_conf_state *c, const char model[IDS + 1])
{
    for (uint64_t id = 1; id <= IDS; id++) {
        assert_int_equal(raft_ids_contains(&c->voters, id), model[id] == 'v');
        assert_int_equal(raft_ids_contains(&c->learners, id), model[id] == 'l');
    }
}

static bool apply(struct raft_conf_state *c, enum raft_conf_transition transition,
                  const struct raft_conf_single *changes, size_t n)
{
    struct raft_conf_change cc = {transition, changes, n};
    struct raft_conf_state next;
    struct raft_ids fresh;
    if (conf_change(c, &cc, &next, &fresh) != 0)
        return false;
    assert_true(conf_valid(&next));
    conf_deinit(c);
    raft_ids_deinit(&fresh);
    *c = next;
    return true;
}

static void random_round(struct rng *rng)
{
    struct raft_conf_state joint;
    struct raft_conf_state simple;
    struct raft_conf_single changes[CHANGES_MAX];
    char model[IDS + 1] = "       ";
    char before[IDS + 1];
    conf_of(&joint, "1", "");
    conf_of(&simple, "1", "");
    model[1] = 'v';
    for (int step = 0; step < 5; step++) {
        size_t n = 1 + rng_below(rng, CHANGES_MAX - 1);
        memcpy(before, model, sizeof(before));
        bool one_by_one = true;
        for (size_t i = 0; i < n; i++) {
            changes[i] = single("vlru"[rng_below(rng, 4)], 1 + rng_below(rng, IDS));
            one_by_one &= apply(&simple, RAFT_CONF_AUTO, &changes[i], 1);
            model_apply(model, &changes[i]);
        }
        bool possible = model_voters(model) > 0;
        assert_int_equal(apply(&joint, RAFT_CONF_JOINT_EXPLICIT, changes, n), possible);
        /* a change in between removed the last voter: only the joint way leads on */
        if (!possible || !one_by_one)
            break;
        assert_false(apply(&joint, RAFT_CONF_JOINT_EXPLICIT, changes, n));
        for (uint64_t id = 1; id <= IDS; id++)
            assert_int_equal(raft_ids_contains(&joint.voters_outgoing, id), before[id] == 'v');
        assert_true(apply(&joint, RAFT_CONF_AUTO, NULL, 0));
        assert_like_model(&joint, model);
        assert_like_model(&simple, model);
        assert_true(conf_equal(&joint, &simple));
    }
    conf_deinit(&joint);
    conf_deinit(&simple);
}

static void test_random(void **state)
{
    struct rng rng;
    rng_init(&rng, 2);
    for (int i = 0; i < ROUNDS; i++)
        random_round(&rng);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simple), cmocka_unit_test(test_joint),  cmocka_unit_test(test_fresh),
        cmocka_unit_test(test_valid),  cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
