/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus and the raft log, seen from outside (see checks.h).
 *
 *   election safety      one leader a term; it is a voter, and a majority's votes are on disks, its
 *                        own among them
 *   leader completeness  it has every entry that was committed before its term
 *   log matching         entries of one index and term are the same, and so are those before them:
 *                        for each entry that any member writes, its digest and the term of the one
 *                        before it are compared with those of the first who wrote it
 *   commit               an entry is committed by counting only in its leader's own term, and then
 *                        lies synced on a majority of disks
 *   promises             a vote or an acknowledgement leaves when what it promises is synced, and a
 *                        restart finds it again
 *   read index           not below what was committed when the read came
 *
 * The disk of a member is followed by what it appends and syncs: `written` becomes `synced` when
 * wal_sync() says so. What a power loss really leaves is tests/sim/disk.c's affair; a restart then
 * shows whether wal_sync() told the truth.
 *
 * Thread: the only one.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "raft/core.h"
#include "tests/sim/checks.h"
#include "tests/sim/cluster.h"
#include "tests/sim/counters.h"
#include "tests/sim/holders.h"
#include "tests/sim/old_copy.h"
#include "tests/sim/table.h"
#include "tests/sim/truth.h"

enum { READS_MAX = 64, PROMISES_MAX = 32 };
#define LU(x) ((unsigned long)(x))

/* A raft log: its end, and the terms of the entries that have passed through it. */
struct kept {
    struct raft_hard_state hard_state;
    uint64_t snapshot_index; /* all up to here is in the state */
    uint64_t last_index, last_term;
};

struct read_floor {
    uint64_t id;
    uint64_t committed;
};

/* What was synced in a term, at most. */
struct promise {
    uint64_t term;
    uint64_t vote;
    uint64_t last_index;
};

struct watched {
    bool trusted; /* what is here binds it */
    struct kept written, synced;
    uint32_t *terms; /* of the entry at that index, as last written */
    size_t cap_terms;
    uint64_t written_from; /* entries from here on are not synced */
    /* Of the last terms. A message may wait (for a configuration to be applied) and leave when the
     * member is in a later term, as if the network had kept it. */
    struct promise promises[PROMISES_MAX];
    struct promise votes[PROMISES_MAX]; /* that it has sent */

    /* Of this life. */
    uint64_t term, commit;
    uint64_t applied; /* when the last entries were proposed */
    enum raft_role role;
    struct read_floor reads[READS_MAX];
    unsigned n_reads;
};

/* The first who wrote an entry of that index and term. */
struct first_entry {
    uint64_t digest;
    uint64_t term_before; /* of the entry before it */
};

static struct {
    struct watched members[MACHINES_MAX + 1];
    struct table leaders; /* term -> member id */
    struct table entries; /* index and term -> first_entry */
    struct first_entry *firsts;
    size_t n_firsts, cap_firsts;
} raft_checks;

void checks_init(void)
{
    memset(&raft_checks, 0, sizeof(raft_checks));
    for (unsigned i = 0; i <= MACHINES_MAX; i++)
        raft_checks.members[i].written_from = UINT64_MAX;
    truth_init();
    check_apply_init();
}

void checks_deinit(void)
{
    truth_deinit();
    for (unsigned i = 0; i <= MACHINES_MAX; i++)
        free(raft_checks.members[i].terms);
    table_deinit(&raft_checks.leaders);
    table_deinit(&raft_checks.entries);
    free(raft_checks.firsts);
}

static struct watched *watched(const struct machine *m)
{
    return &raft_checks.members[m->number];
}

/* ---- the log ---- */

static void set_term(struct watched *w, uint64_t index, uint64_t term)
{
    if (index >= w->cap_terms) {
        size_t cap = w->cap_terms ? w->cap_terms : 1024;
        while (cap <= index)
            cap *= 2;
        w->terms = mem_realloc(w->terms, cap * sizeof(*w->terms));
        memset(w->terms + w->cap_terms, 0, (cap - w->cap_terms) * sizeof(*w->terms));
        w->cap_terms = cap;
    }
    w->terms[index] = (uint32_t)term;
}

static void match_entry(const struct machine *m, const struct raft_entry *e, uint64_t term_before)
{
    uint64_t key = e->index << 24 | e->term, at, digest = entry_digest(e);

    check(e->term < (1 << 24));
    if (table_get(&raft_checks.entries, key, &at)) {
        struct first_entry *f = &raft_checks.firsts[at];
        if (f->term_before == 0)
            f->term_before = term_before;
        require(f->digest == digest, "log matching", "%s: entry %lu of term %lu has other contents",
                m->name, LU(e->index), LU(e->term));
        require(f->term_before == term_before || term_before == 0, "log matching",
                "%s: before entry %lu of term %lu stands one of term %lu, not %lu", m->name,
                LU(e->index), LU(e->term), LU(term_before), LU(f->term_before));
        return;
    }
    if (raft_checks.n_firsts == raft_checks.cap_firsts) {
        raft_checks.cap_firsts = raft_checks.cap_firsts ? 2 * raft_checks.cap_firsts : 1024;
        raft_checks.firsts =
            mem_realloc(raft_checks.firsts, raft_checks.cap_firsts * sizeof(*raft_checks.firsts));
    }
    raft_checks.firsts[raft_checks.n_firsts] = (struct first_entry){digest, term_before};
    table_put(&raft_checks.entries, key, raft_checks.n_firsts++);
}

static uint64_t term_before(const struct watched *w, const struct raft_entry *e)
{
    return e->index - 1 < w->cap_terms ? w->terms[e->index - 1] : 0;
}

static void note_entry(struct machine *m, const struct raft_entry *e)
{
    struct watched *w = watched(m);

    match_entry(m, e, term_before(w, e));
    set_term(w, e->index, e->term);
    w->written.last_index = e->index;
    w->written.last_term = e->term;
    if (e->index < w->written_from)
        w->written_from = e->index;
}

/* A leader takes a change only when it has applied the one before. */
static void check_one_change(const struct machine *m, const struct raft_entry *e)
{
    const struct raft_log *l = &m->raft->log;
    uint64_t from = l->applied > l->base_index ? l->applied : l->base_index;

    if (e->type == RAFT_ENTRY_NORMAL || m->raft->role != RAFT_LEADER || e->term != m->raft->term)
        return;
    for (uint64_t i = from + 1; i < e->index; i++)
        require(raft_log_at(l, i)->type == RAFT_ENTRY_NORMAL ||
                    raft_log_at(l, i)->index <= watched(m)->applied,
                "one change of the configuration at a time", "%s: entries %lu and %lu", m->name,
                LU(i), LU(e->index));
}

void check_wal_append(struct machine *m, const struct raft_hard_state *hard_state,
                      const struct raft_entry *entries, size_t n)
{
    struct watched *w = watched(m);

    for (size_t i = 0; i < n; i++) {
        const struct truth_entry *truth = truth_at(entries[i].index);
        require(!truth || entries[i].index > w->commit || truth->term == entries[i].term,
                "committed entries never change", "%s overwrites entry %lu", m->name,
                LU(entries[i].index));
        note_entry(m, &entries[i]);
        if (m->raft)
            check_one_change(m, &entries[i]);
    }
    if (hard_state)
        w->written.hard_state = *hard_state;
}

void check_wal_snapshot(struct machine *m, uint64_t index, uint64_t term)
{
    struct watched *w = watched(m);

    trace3("m%lu marks a snapshot at %lu of term %lu", m->number, index, term);
    if (index <= w->written.hard_state.commit)
        return;
    w->written.snapshot_index = index;
    w->written.last_index = index;
    w->written.last_term = term;
    set_term(w, index, term);
}

static void note_promise(const struct machine *m)
{
    struct watched *w = watched(m);
    const struct kept *s = &w->synced;
    struct promise *p = &w->promises[s->hard_state.term % PROMISES_MAX];

    if (p->term != s->hard_state.term)
        *p = (struct promise){.term = s->hard_state.term};
    require(p->vote == 0 || p->vote == s->hard_state.vote, "one vote a term",
            "%s in term %lu: %lx after %lx", m->name, LU(p->term), LU(s->hard_state.vote),
            LU(p->vote));
    p->vote = s->hard_state.vote;
    if (p->last_index < s->last_index)
        p->last_index = s->last_index;
}

void check_wal_synced(struct machine *m)
{
    struct watched *w = watched(m);

    w->synced = w->written;
    trace3("m%lu synced its log up to %lu of term %lu", m->number, w->synced.last_index,
           w->synced.last_term);
    note_promise(m);
    w->written_from = UINT64_MAX;
    w->trusted = true;
}

/* The database must hold what the log gives up. */
void check_wal_release(struct machine *m, uint64_t index)
{
    require(index <= machine_flushed(m), "the log is cut behind the database",
            "%s releases up to %lu, the database is durable up to %lu", m->name, LU(index),
            LU(machine_flushed(m)));
}

bool check_is_durable(const struct machine *m, uint64_t index, uint64_t term)
{
    const struct watched *w = watched(m);

    if (!w->trusted || index > w->synced.last_index || index >= w->written_from)
        return false;
    return index <= w->synced.snapshot_index || w->terms[index] == term;
}

/* ---- lives ---- */

void check_member_died(struct machine *m)
{
    struct watched *w = watched(m);

    w->written = w->synced;
    w->written_from = UINT64_MAX;
    w->term = w->commit = 0;
    w->role = RAFT_FOLLOWER;
    w->n_reads = 0;
    check_apply_died(m);
}

void check_member_forget(struct machine *m)
{
    struct watched *w = watched(m);
    uint32_t *terms = w->terms;
    size_t cap = w->cap_terms;

    *w = (struct watched){.terms = terms, .cap_terms = cap, .written_from = UINT64_MAX};
    if (cap)
        memset(terms, 0, cap * sizeof(*terms));
}

struct check_disk check_disk(const struct machine *m)
{
    const struct kept *s = &watched(m)->synced;

    return (struct check_disk){s->hard_state.term, s->hard_state.vote, s->last_index};
}

/* The restored state against what was synced. */
static void check_promises(const struct machine *m, const struct raft_config *c,
                           const struct kept *restored)
{
    const struct kept *s = &watched(m)->synced;
    const struct raft_hard_state *h = &c->hard_state;

    require(h->term >= s->hard_state.term, "a restart keeps the term", "%s: %lu, it was %lu",
            m->name, LU(h->term), LU(s->hard_state.term));
    require(h->term > s->hard_state.term || s->hard_state.vote == 0 ||
                h->vote == s->hard_state.vote,
            "a restart keeps the vote", "%s in term %lu: %lx, it was %lx", m->name, LU(h->term),
            LU(h->vote), LU(s->hard_state.vote));
    require(h->commit >= s->hard_state.commit, "a restart keeps the commit index",
            "%s: %lu, it was %lu", m->name, LU(h->commit), LU(s->hard_state.commit));
    require(restored->last_term > s->last_term ||
                (restored->last_term == s->last_term && restored->last_index >= s->last_index),
            "a restart keeps the log", "%s: up to %lu of term %lu, it was %lu of %lu", m->name,
            LU(restored->last_index), LU(restored->last_term), LU(s->last_index), LU(s->last_term));
}

void check_raft_new(struct machine *m, const struct raft_config *c)
{
    struct watched *w = watched(m);
    struct kept restored = {.hard_state = c->hard_state,
                            .snapshot_index = c->snapshot_index,
                            .last_index = c->snapshot_index,
                            .last_term = c->snapshot_term};

    m->member_id = c->id;
    for (size_t i = 0; i < c->n_entries; i++) {
        const struct raft_entry *e = &c->entries[i];
        match_entry(m, e, i > 0 ? c->entries[i - 1].term : c->snapshot_term);
        set_term(w, e->index, e->term);
        if (e->index <= c->hard_state.commit)
            truth_commit(e->index, e->term, c->hard_state.term, m->name);
        restored.last_index = e->index;
        restored.last_term = e->term;
    }
    if (c->snapshot_index > 0)
        set_term(w, c->snapshot_index, c->snapshot_term);
    if (w->trusted)
        check_promises(m, c, &restored);
    w->written = w->synced = restored;
    note_promise(m);
    w->written_from = UINT64_MAX;
    w->trusted = true;
    w->term = c->hard_state.term;
    w->commit = c->hard_state.commit;
    trace4("m%lu restores term %lu commit %lu last %lu", m->number, w->term, w->commit,
           restored.last_index);
}

/* ---- steps ---- */

static bool is_voter(const struct conf *conf, uint64_t id)
{
    const struct conf_member *c = conf ? cluster_find(conf, id) : NULL;

    return c && !c->learner;
}

/* What its disk says. A vote that was overtaken by a later term counts, as it may have left. */
static bool has_voted(const struct conf_member *c, uint64_t candidate, uint64_t term)
{
    const struct machine *m = world.machines[c->number];
    const struct watched *w = m ? watched(m) : NULL;

    if (!m || m->member_id != c->id)
        return true; /* it is gone: nobody knows */
    if (w->promises[term % PROMISES_MAX].term == term)
        return w->promises[term % PROMISES_MAX].vote == candidate;
    return w->synced.hard_state.term > term;
}

static bool is_elected(const struct conf *conf, uint64_t id, uint64_t term)
{
    unsigned n = 0;

    for (unsigned i = 0; conf && i < conf->len; i++)
        n += !conf->members[i].learner && has_voted(&conf->members[i], id, term);
    return conf && 2 * n > cluster_voters(conf);
}

/* By the configuration that it has applied; raft may know the next one already. */
static void check_election(const struct machine *m, const struct raft_status *s)
{
    const struct conf *conf = cluster_at(s->applied), *next = cluster_after(conf);

    if (conf->len == 0)
        return;
    require(is_voter(conf, s->id) || is_voter(next, s->id), "a leader is a voter", "%s in term %lu",
            m->name, LU(s->term));
    require(is_elected(conf, s->id, s->term) || is_elected(next, s->id, s->term),
            "a leader has the votes of a majority", "%s in term %lu", m->name, LU(s->term));
}

static void check_leader(const struct machine *m, const struct raft_status *s)
{
    const struct watched *w = watched(m);
    uint64_t other, c = truth_committed(), term;

    require(!table_get(&raft_checks.leaders, s->term, &other) || other == s->id,
            "one leader a term", "%s and %lx in term %lu", m->name, LU(other), LU(s->term));
    table_put(&raft_checks.leaders, s->term, s->id);
    check_election(m, s);
    require(w->synced.hard_state.term == s->term && w->synced.hard_state.vote == s->id,
            "a leader has its own vote on its disk", "%s in term %lu", m->name, LU(s->term));
    while (c > 0 && truth_at(c)->committed_in >= s->term)
        c--;
    if (c == 0 || c < raft_log_first(&m->raft->log) - 1)
        return;
    require(raft_log_term(&m->raft->log, c, &term) && term == truth_at(c)->term,
            "a leader has all committed entries", "%s in term %lu lacks entry %lu", m->name,
            LU(s->term), LU(c));
}

static bool is_majority_durable(const struct conf *c, uint64_t index, uint64_t term)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->len; i++) {
        const struct machine *m = world.machines[c->members[i].number];
        n += !c->members[i].learner && m && m->member_id == c->members[i].id &&
             (check_is_durable(m, index, term) || old_copy_counted(m, index, term));
    }
    return 2 * n > cluster_voters(c);
}

/* A leader has moved its commit index by counting, by the configuration that it had applied; raft
 * hears of a new one before its applied index has come there. */
static void check_counted(const struct machine *m, const struct raft_status *s)
{
    const struct conf *conf = cluster_at(s->applied), *next = cluster_after(conf);
    uint64_t term = 0;

    if (!raft_log_term(&m->raft->log, s->commit, &term))
        return;
    require(term == s->term, "a leader commits its own term by counting",
            "%s in term %lu commits entry %lu of term %lu", m->name, LU(s->term), LU(s->commit),
            LU(term));
    require(is_majority_durable(conf, s->commit, term) ||
                (next && is_majority_durable(next, s->commit, term)),
            "a committed entry is on a majority of disks", "%s in term %lu commits entry %lu",
            m->name, LU(s->term), LU(s->commit));
}

static void check_commit(const struct machine *m, const struct raft_status *s, uint64_t from)
{
    uint64_t term;

    for (uint64_t i = from + 1; i <= s->commit; i++)
        if (raft_log_term(&m->raft->log, i, &term))
            truth_commit(i, term, s->term, m->name);
}

void check_raft_step(struct machine *m, const struct raft_input *in)
{
    struct watched *w = watched(m);

    if (in->type == RAFT_PROPOSE || in->type == RAFT_MESSAGE)
        w->applied = m->raft->log.applied;
    if (in->type != RAFT_READ)
        return;
    w->reads[w->n_reads++ % READS_MAX] = (struct read_floor){in->read_id, truth_committed()};
}

void check_raft_stepped(struct machine *m, const struct raft_input *in)
{
    struct watched *w = watched(m);
    struct raft_status s;

    (void)in;
    raft_sanity(m->raft);
    raft_status(m->raft, &s);
    require(s.term >= w->term, "terms only grow", "%s: %lu after %lu", m->name, LU(s.term),
            LU(w->term));
    require(s.commit >= w->commit, "the commit index only grows", "%s: %lu after %lu", m->name,
            LU(s.commit), LU(w->commit));
    if (s.role == RAFT_LEADER)
        check_lease_leads(m);
    if (s.role == RAFT_LEADER && (w->role != RAFT_LEADER || s.term != w->term)) {
        count(COUNT_TERMS, 1);
        check_lease_leader(s.term);
        trace3("m%lu leads in term %lu, last %lu", m->number, s.term, s.last_index);
        check_leader(m, &s);
    }
    if (s.commit > w->commit && s.role == RAFT_LEADER)
        check_counted(m, &s);
    check_commit(m, &s, w->commit);
    w->term = s.term;
    w->commit = s.commit;
    w->role = s.role;
}

/* ---- readies ---- */

static void check_read(const struct machine *m, const struct raft_read *read)
{
    const struct watched *w = watched(m);

    for (unsigned i = 0; i < READS_MAX && i < w->n_reads; i++)
        require(w->reads[i].id != read->id || read->index >= w->reads[i].committed,
                "a read index covers what was committed", "%s: read %lu at %lu, %lu was committed",
                m->name, LU(read->id), LU(read->index), LU(w->reads[i].committed));
}

void check_raft_ready(struct machine *m, const struct raft_ready *rd)
{
    for (size_t i = 0; i < rd->n_reads; i++)
        check_read(m, &rd->reads[i]);
    for (size_t i = 0; i < rd->n_committed; i++)
        require(check_is_durable(m, rd->committed[i].index, rd->committed[i].term),
                "only durable entries are applied", "%s: entry %lu", m->name,
                LU(rd->committed[i].index));
}

/* If a later term is synced, the promise of an older one was kept in memory and has passed: as if
 * it had left then. */
static bool was_durable(const struct watched *w, uint64_t index, uint64_t term)
{
    const struct promise *p = &w->promises[term % PROMISES_MAX];

    return w->synced.hard_state.term > term || index <= w->commit ||
           (p->term == term && p->last_index >= index);
}

static void check_vote_sent(const struct machine *m, const struct raft_message *message)
{
    struct watched *w = watched(m);
    const struct promise *p = &w->promises[message->term % PROMISES_MAX];
    struct promise *sent = &w->votes[message->term % PROMISES_MAX];

    require((p->term == message->term && p->vote == message->to) ||
                w->synced.hard_state.term > message->term,
            "a vote leaves when it is durable", "%s votes for %lx in term %lu", m->name,
            LU(message->to), LU(message->term));
    require(sent->term != message->term || sent->vote == message->to, "one vote a term",
            "%s votes for %lx and %lx in term %lu", m->name, LU(sent->vote), LU(message->to),
            LU(message->term));
    *sent = (struct promise){.term = message->term, .vote = message->to};
}

void check_sent(struct machine *m, const struct raft_message *message)
{
    const struct watched *w = watched(m);

    if (message->reject)
        return;
    if (message->type == RAFT_MSG_VOTE_RESP)
        check_vote_sent(m, message);
    if (message->type == RAFT_MSG_APP_RESP)
        require(was_durable(w, message->index, message->term),
                "an acknowledgement leaves when it is durable",
                "%s acknowledges %lu in term %lu, durable is %lu in term %lu", m->name,
                LU(message->index), LU(message->term), LU(w->synced.last_index),
                LU(w->synced.hard_state.term));
}
