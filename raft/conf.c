/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration changes, simple and joint (dissertation chapter 4; etcd's variant: a change takes
 * effect when it is applied).
 *
 *   simple:  (1 2 3)          --add 4-->       (1 2 3 4)                 at most one voter differs
 *   joint:   (1 2 3)          --enter-->       (1 4 5)&&(1 2 3)          decisions need both halves
 *            (1 4 5)&&(1 2 3) --leave-->       (1 4 5)
 *
 * Changes always go to voters (the incoming half). A voter of the outgoing half that is demoted
 * waits in learners_next and becomes a learner when the joint configuration is left, because nobody
 * is voter and learner at once.
 *
 * Invariants (conf_valid)
 *   (C1) learners meet neither half of the voters; learners_next is a subset of voters_outgoing and
 *        meets no learner.
 *   (C2) learners_next and auto_leave only in a joint configuration.
 *   (C3) no change removes the last voter.
 *
 * Thread: any.
 */
#include "raft/conf.h"

#include "base/mem.h"
#include "raft/raft.h"

static size_t position(const struct raft_ids *s, uint64_t id)
{
    size_t i = 0;
    while (i < s->len && s->ids[i] < id)
        i++;
    return i;
}

bool raft_ids_contains(const struct raft_ids *s, uint64_t id)
{
    size_t i = position(s, id);
    return i < s->len && s->ids[i] == id;
}

bool raft_ids_add(struct raft_ids *s, uint64_t id)
{
    size_t i = position(s, id);
    if (i < s->len && s->ids[i] == id)
        return false;
    s->ids = mem_realloc(s->ids, (s->len + 1) * sizeof(*s->ids));
    memmove(&s->ids[i + 1], &s->ids[i], (s->len - i) * sizeof(*s->ids));
    s->ids[i] = id;
    s->len++;
    return true;
}

bool raft_ids_remove(struct raft_ids *s, uint64_t id)
{
    size_t i = position(s, id);
    if (i == s->len || s->ids[i] != id)
        return false;
    s->len--;
    memmove(&s->ids[i], &s->ids[i + 1], (s->len - i) * sizeof(*s->ids));
    if (s->len == 0)
        raft_ids_deinit(s);
    return true;
}

bool raft_ids_equal(const struct raft_ids *a, const struct raft_ids *b)
{
    return a->len == b->len &&
           (a->len == 0 || memcmp(a->ids, b->ids, a->len * sizeof(*a->ids)) == 0);
}

void raft_ids_copy(struct raft_ids *ret, const struct raft_ids *s)
{
    *ret = (struct raft_ids){0};
    if (s->len == 0)
        return;
    ret->ids = mem_alloc_raw(s->len * sizeof(*s->ids));
    memcpy(ret->ids, s->ids, s->len * sizeof(*s->ids));
    ret->len = s->len;
}

void raft_ids_deinit(struct raft_ids *s)
{
    free(s->ids);
    *s = (struct raft_ids){0};
}

void conf_copy(struct raft_conf_state *ret, const struct raft_conf_state *c)
{
    raft_ids_copy(&ret->voters, &c->voters);
    raft_ids_copy(&ret->learners, &c->learners);
    raft_ids_copy(&ret->voters_outgoing, &c->voters_outgoing);
    raft_ids_copy(&ret->learners_next, &c->learners_next);
    ret->auto_leave = c->auto_leave;
}

void conf_deinit(struct raft_conf_state *c)
{
    raft_ids_deinit(&c->voters);
    raft_ids_deinit(&c->learners);
    raft_ids_deinit(&c->voters_outgoing);
    raft_ids_deinit(&c->learners_next);
    c->auto_leave = false;
}

bool conf_equal(const struct raft_conf_state *a, const struct raft_conf_state *b)
{
    return raft_ids_equal(&a->voters, &b->voters) && raft_ids_equal(&a->learners, &b->learners)
        && raft_ids_equal(&a->voters_outgoing, &b->voters_outgoing)
        && raft_ids_equal(&a->learners_next, &b->learners_next) && a->auto_leave == b->auto_leave;
}

static bool set_valid(const struct raft_ids *s)
{
    if (s->len > RAFT_MEMBERS_MAX)
        return false;
    uint64_t before = 0;
    for (size_t i = 0; i < s->len; i++) {
        if (s->ids[i] <= before)
            return false;
        before = s->ids[i];
    }
    return true;
}

bool conf_valid(const struct raft_conf_state *c)
{
    if (!set_valid(&c->voters) || !set_valid(&c->learners) || !set_valid(&c->voters_outgoing) ||
        !set_valid(&c->learners_next))
        return false;
    for (size_t i = 0; i < c->learners.len; i++)                                   /* (C1) */
        if (conf_is_voter(c, c->learners.ids[i]) ||
            raft_ids_contains(&c->learners_next, c->learners.ids[i]))
            return false;
    for (size_t i = 0; i < c->learners_next.len; i++)
        if (!raft_ids_contains(&c->voters_outgoing, c->learners_next.ids[i])
            || raft_ids_contains(&c->voters, c->learners_next.ids[i]))
            return false;
    if (conf_is_joint(c))
        return c->voters.len > 0;
    return !c->auto_leave && c->learners_next.len == 0;                            /* (C2) */
}

bool conf_is_voter(const struct raft_conf_state *c, uint64_t id)
{
    return raft_ids_contains(&c->voters, id) || raft_ids_contains(&c->voters_outgoing, id);
}

bool conf_is_member(const struct raft_conf_state *c, uint64_t id)
{
    return conf_is_voter(c, id) || raft_ids_contains(&c->learners, id);
}

/* A change in the making. */
struct change {
    struct raft_conf_state conf;
    struct raft_ids fresh;
};

static void remove_node(struct change *ch, uint64_t id)
{
    raft_ids_remove(&ch->conf.voters, id);
    raft_ids_remove(&ch->conf.learners, id);
    raft_ids_remove(&ch->conf.learners_next, id);
    if (!conf_is_member(&ch->conf, id))
        raft_ids_remove(&ch->fresh, id);
}

static void add_voter(struct change *ch, uint64_t id)
{
    if (!conf_is_member(&ch->conf, id))
        raft_ids_add(&ch->fresh, id);
    raft_ids_remove(&ch->conf.learners, id);
    raft_ids_remove(&ch->conf.learners_next, id);
    raft_ids_add(&ch->conf.voters, id);
}

static void add_learner(struct change *ch, uint64_t id)
{
    if (raft_ids_contains(&ch->conf.learners, id))
        return;
    if (!conf_is_member(&ch->conf, id))
        raft_ids_add(&ch->fresh, id);
    raft_ids_remove(&ch->conf.voters, id);
    raft_ids_remove(&ch->conf.learners_next, id);
    if (raft_ids_contains(&ch->conf.voters_outgoing, id))
        raft_ids_add(&ch->conf.learners_next, id);
    else
        raft_ids_add(&ch->conf.learners, id);
}

static int apply_changes(struct change *ch, const struct raft_conf_change *change)
{
    for (size_t i = 0; i < change->n_changes; i++) {
        uint64_t id = change->changes[i].node_id;
        if (id == 0)  /* refused by the state machine: it counts as applied and changes nothing */
            continue;
        switch (change->changes[i].type) {
        case RAFT_CONF_ADD_NODE:
            add_voter(ch, id);
            break;
        case RAFT_CONF_ADD_LEARNER:
            add_learner(ch, id);
            break;
        case RAFT_CONF_REMOVE_NODE:
            remove_node(ch, id);
            break;
        case RAFT_CONF_UPDATE_NODE:
            break;
        default:
            return CONF_E_INVALID;
        }
    }
    return ch->conf.voters.len > 0 ? 0 : CONF_E_INVALID;                           /* (C3) */
}

static int leave_joint(struct change *ch)
{
    if (!conf_is_joint(&ch->conf))
        return CONF_E_INVALID;
    for (size_t i = 0; i < ch->conf.learners_next.len; i++)
        raft_ids_add(&ch->conf.learners, ch->conf.learners_next.ids[i]);
    raft_ids_deinit(&ch->conf.learners_next);
    raft_ids_deinit(&ch->conf.voters_outgoing);
    ch->conf.auto_leave = false;
    return 0;
}

static int enter_joint(struct change *ch, const struct raft_conf_change *change)
{
    if (conf_is_joint(&ch->conf) || ch->conf.voters.len == 0)
        return CONF_E_INVALID;
    raft_ids_copy(&ch->conf.voters_outgoing, &ch->conf.voters);
    ch->conf.auto_leave = change->transition != RAFT_CONF_JOINT_EXPLICIT;
    return apply_changes(ch, change);
}

/* One change moves at most one voter, so a majority of the old and one of the new always meet. */
static int simple(struct change *ch, const struct raft_conf_change *change)
{
    return conf_is_joint(&ch->conf) ? CONF_E_INVALID : apply_changes(ch, change);
}

int conf_change(const struct raft_conf_state *c, const struct raft_conf_change *change,
                struct raft_conf_state *ret, struct raft_ids *ret_fresh)
{
    struct change ch = {0};
    conf_copy(&ch.conf, c);
    int r;
    if (change->n_changes == 0 && change->transition == RAFT_CONF_AUTO)
        r = leave_joint(&ch);
    else if (change->n_changes > 1 || change->transition != RAFT_CONF_AUTO)
        r = enter_joint(&ch, change);
    else
        r = simple(&ch, change);
    if (r == 0 && !conf_valid(&ch.conf))
        r = CONF_E_INVALID;
    if (r != 0) {
        conf_deinit(&ch.conf);
        raft_ids_deinit(&ch.fresh);
        return r;
    }
    *ret = ch.conf;
    *ret_fresh = ch.fresh;
    return 0;
}
