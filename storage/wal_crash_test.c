/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft log under crashes: a seeded walk appends, overwrites, syncs, releases, closes and
 * opens, while calls fail or the power goes out. A model keeps the sequence of records; what
 * comes back must be the state after some prefix of it that holds all that was synced. Nothing a
 * crash leaves may ever be called corrupt.
 *
 * The sweep runs one walk again and again and lets its first call fail, then its second, and so
 * on. The storm draws many faults per walk. WAL_CRASH_SEED=n runs the storm with that seed only,
 * WAL_CRASH_SEEDS=n with the seeds 1 to n.
 */
#include "storage/wal_test_log.h"

#include "base/log.h"
#include "base/rng.h"

enum {
    OPS_MAX = 1 << 14,
    INDEX_MAX = 1 << 14,
    SWEEP_STEPS = 600,
    STORM_STEPS = 500,
    STORM_SEEDS = 1000
};

enum op_kind { OP_ENTRY, OP_HARD_STATE, OP_SNAPSHOT };

struct op {
    enum op_kind kind;
    uint64_t index; /* ENTRY, SNAPSHOT */
    uint64_t term;
    struct raft_hard_state hard_state;
};

struct model {
    struct raft_hard_state hard_state;
    uint64_t first_index;
    uint64_t last_index;
    uint64_t snapshot_index;
    uint64_t terms[INDEX_MAX];
};

struct walk {
    uint64_t seed;
    struct rng rng;
    bool storm;
    struct wal *wal;
    struct op ops[OPS_MAX];
    size_t n_ops;
    size_t n_synced;
    struct model synced; /* after n_synced ops */
    struct model now;    /* after all of them */
    uint64_t applied;    /* the database's durable index */
    uint64_t term;
    size_t opens, crashes, failures, torn, lost_ops;
};

static struct walk walk;

static void model_reset(struct model *m)
{
    m->hard_state = (struct raft_hard_state){0};
    m->first_index = 1;
    m->last_index = m->snapshot_index = 0;
}

static void model_apply(struct model *m, const struct op *op)
{
    switch (op->kind) {
    case OP_ENTRY:
        m->last_index = op->index;
        m->terms[op->index] = op->term;
        break;
    case OP_HARD_STATE: m->hard_state = op->hard_state; break;
    case OP_SNAPSHOT:
        if (op->index > m->snapshot_index)
            m->snapshot_index = op->index;
        if (op->index > m->hard_state.commit) {
            m->first_index = op->index + 1;
            m->last_index = op->index;
            m->terms[op->index] = op->term;
        }
        break;
    }
}

static size_t entry_len(uint64_t index, uint64_t term)
{
    uint64_t n = index * 2654435761u + term * 40503u;
    return n % 97 == 0 ? 5000 + n % 9000 : n % 7 == 0 ? 0 : n % 350;
}

static void op_push(const struct op *op)
{
    assert_true(walk.n_ops < OPS_MAX);
    walk.ops[walk.n_ops++] = *op;
    model_apply(&walk.now, op);
}

static uint64_t below(uint64_t n)
{
    return rng_below(&walk.rng, n);
}

static bool chance(unsigned percent)
{
    return below(100) < percent;
}

/* ---- recovery ---- */

static bool entries_match(const struct model *m, const struct wal_recovery *rec)
{
    uint64_t first = m->first_index > walk.applied + 1 ? m->first_index : walk.applied + 1;
    if (m->last_index + 1 < first || rec->n_entries != m->last_index + 1 - first)
        return false;
    for (size_t i = 0; i < rec->n_entries; i++) {
        const struct raft_entry *e = &rec->entries[i];
        if (!test_entry_is(e, first + i, m->terms[first + i],
                           entry_len(first + i, m->terms[first + i])))
            return false;
    }
    return true;
}

static bool state_matches(const struct model *m, const struct wal_recovery *rec)
{
    const struct raft_hard_state *a = &m->hard_state, *b = &rec->hard_state;
    return a->term == b->term && a->vote == b->vote && a->commit == b->commit &&
           a->lost_tail_index == b->lost_tail_index && a->lost_tail_term == b->lost_tail_term &&
           m->snapshot_index == rec->snapshot_index && entries_match(m, rec);
}

/* Finds the prefix that came back; from here on that is the truth, and durable. */
static void recovery_check(const struct wal_recovery *rec)
{
    while (!state_matches(&walk.synced, rec)) {
        if (walk.n_synced == walk.n_ops)
            fail_msg("seed %llu: what came back is no state since the last sync: %zu entries, "
                     "commit %llu",
                     (unsigned long long)walk.seed, rec->n_entries,
                     (unsigned long long)rec->hard_state.commit);
        model_apply(&walk.synced, &walk.ops[walk.n_synced++]);
    }
    walk.lost_ops += walk.n_ops - walk.n_synced;
    walk.n_ops = walk.n_synced;
    walk.now = walk.synced;
    walk.torn += rec->repaired_bytes > 0;
}

static void arm_maybe(void)
{
    if (walk.storm && chance(30))
        fault_arm(1 + below(25), chance(40) ? FAULT_ERROR : FAULT_POWER);
}

static void power_cycle(void)
{
    fault_power_cycle();
    walk.crashes++;
}

/* Opens until it succeeds; a fault may be waiting for recovery, too. */
static void walk_open(void)
{
    for (;;) {
        arm_maybe();
        struct wal_options o = test_options();
        o.applied_index = walk.applied;
        struct wal_recovery rec;
        walk.opens++;
        int r = wal_open(&walk.wal, &o, &rec);
        if (r > 0)
            fail_msg("seed %llu: %s", (unsigned long long)walk.seed, rec.error);
        if (r == 0)
            recovery_check(&rec);
        wal_recovery_deinit(&rec);
        if (r == 0)
            return;
        assert_true(fault_met());
        walk.failures++;
        if (fault_power_is_off() || chance(60))
            power_cycle();
    }
}

/* The process dies; the machine may, too. */
static void walk_die(void)
{
    walk.wal = wal_abandon(walk.wal);
    if (fault_power_is_off() || chance(60))
        power_cycle();
    fault_arm(0, FAULT_NONE);
    walk_open();
}

static void synced_all(void)
{
    while (walk.n_synced < walk.n_ops)
        model_apply(&walk.synced, &walk.ops[walk.n_synced++]);
}

/* ---- steps ---- */

static int step_append(void)
{
    struct raft_entry entries[8];
    size_t n = below(8);
    uint64_t commit = walk.now.hard_state.commit;
    uint64_t index = walk.now.last_index + 1;
    if (chance(10) && walk.now.last_index > commit) {
        index = commit + 1 + below(walk.now.last_index - commit);
        if (index < walk.now.first_index)
            index = walk.now.first_index;
        walk.term++;
    }
    for (size_t i = 0; i < n; i++, index++) {
        entries[i] = (struct raft_entry){
            .index = index,
            .term = walk.term,
            .type = index % 3,
            .data = test_payload(index, walk.term, entry_len(index, walk.term))};
        op_push(&(struct op){.kind = OP_ENTRY, .index = index, .term = walk.term});
    }
    struct op hs = {.kind = OP_HARD_STATE,
                    .hard_state = {.term = walk.term, .vote = below(4), .commit = commit}};
    bool with_state = chance(60);
    if (chance(20))
        hs.hard_state.lost_tail_index = 1 + below(1000), hs.hard_state.lost_tail_term = below(9);
    if (with_state) {
        if (walk.now.last_index > commit)
            hs.hard_state.commit += below(walk.now.last_index - commit + 1);
        op_push(&hs);
    }
    int r = wal_append(walk.wal, with_state ? &hs.hard_state : NULL, entries, n);
    for (size_t i = 0; i < n; i++)
        blob_unref(entries[i].data);
    return r;
}

static int step_sync(void)
{
    int r = wal_sync(walk.wal);
    if (r == 0)
        synced_all();
    return r;
}

/* Below or at the commit index it records, above it replaces; then the commit index follows and
 * all is synced before the database moves. */
static int step_snapshot(void)
{
    struct op op = {
        .kind = OP_SNAPSHOT, .index = walk.now.last_index + below(40), .term = ++walk.term};
    if (op.index <= walk.now.hard_state.commit)
        op.index += 100;
    op_push(&op);
    int r = wal_append_snapshot(walk.wal, op.index, op.term);
    if (r < 0)
        return r;
    struct op hs = {.kind = OP_HARD_STATE,
                    .hard_state = {.term = walk.term, .vote = 1, .commit = op.index}};
    op_push(&hs);
    r = wal_append(walk.wal, &hs.hard_state, NULL, 0);
    if (r == 0)
        r = step_sync();
    if (r == 0 && chance(70))
        walk.applied = op.index;
    return r;
}

/* The database applies only what is committed and synced. */
static int step_apply(void)
{
    uint64_t most = walk.synced.hard_state.commit;
    if (most < walk.now.hard_state.commit && walk.now.first_index > most)
        return 0;
    if (most > walk.applied && (walk.synced.first_index <= walk.applied + 1))
        walk.applied += 1 + below(most - walk.applied);
    else if (walk.synced.first_index > walk.applied + 1)
        walk.applied =
            walk.synced.snapshot_index; /* the installation that a crash had interrupted */
    return chance(50) ? wal_release(walk.wal, walk.applied) : 0;
}

static int step_reopen(void)
{
    walk.wal = wal_close(walk.wal);
    if (!fault_met())
        synced_all();
    if (fault_power_is_off())
        power_cycle();
    walk_open();
    return 0;
}

static int step(void)
{
    uint64_t dice = below(100);
    if (walk.now.last_index > INDEX_MAX - 400 || walk.n_ops > OPS_MAX - 100)
        return 0;
    if (dice < 50)
        return step_append();
    if (dice < 78)
        return step_sync();
    if (dice < 86)
        return wal_flush(walk.wal);
    if (dice < 95)
        return step_apply();
    if (dice < 97)
        return step_snapshot();
    if (dice < 98)
        return step_reopen();
    arm_maybe();
    return 0;
}

static void walk_start(uint64_t seed, bool storm)
{
    walk.seed = seed;
    walk.storm = storm;
    rng_init(&walk.rng, seed);
    walk.n_ops = walk.n_synced = 0;
    walk.applied = 0;
    walk.term = 1;
    model_reset(&walk.synced);
    model_reset(&walk.now);
    fault_reset(seed ^ 0x5eed);
}

static int visit_nothing(void *arg, const struct wal_record *record)
{
    return 0;
}

/* Ends with a power loss, so that what the last open promised is put to the test, and with a
 * reader's opinion. */
static void walk_run(size_t steps)
{
    walk_open();
    for (size_t i = 0; i < steps; i++) {
        if (step() < 0) {
            assert_true(fault_met());
            walk.failures++;
            walk_die();
        }
    }
    fault_arm(0, FAULT_NONE);
    walk.wal = wal_abandon(walk.wal);
    power_cycle();
    walk.storm = false;
    walk_open();
    char *error = NULL;
    int r = wal_read(DIR, visit_nothing, NULL, &error);
    if (r)
        fail_msg("seed %llu: %s", (unsigned long long)walk.seed, error ? error : "wal_read failed");
    walk.wal = wal_close(walk.wal);
}

static void sweep(enum fault_kind kind)
{
    size_t runs = 0;
    for (uint64_t n = 1;; n++, runs++) {
        walk_start(4711, false);
        fault_arm(n, kind);
        walk_run(SWEEP_STEPS);
        if (fault_calls() < n)
            break;
    }
    print_message("swept %zu calls\n", runs);
    assert_true(runs > 100);
}

static void test_sweep_error(void **state)
{
    sweep(FAULT_ERROR);
}

static void test_sweep_power(void **state)
{
    sweep(FAULT_POWER);
}

static void test_storm(void **state)
{
    const char *only = getenv("WAL_CRASH_SEED");
    uint64_t first = only ? strtoull(only, NULL, 10) : 1;
    const char *many = getenv("WAL_CRASH_SEEDS");
    uint64_t n = only ? 1 : many ? strtoull(many, NULL, 10) : STORM_SEEDS;
    for (uint64_t seed = first; seed < first + n; seed++) {
        walk_start(seed, true);
        walk_run(STORM_STEPS);
    }
    print_message("seeds %llu to %llu: %zu opens, %zu power losses, %zu failed calls, %zu torn "
                  "tails, %zu unsynced records lost\n",
                  (unsigned long long)first, (unsigned long long)(first + n - 1), walk.opens,
                  walk.crashes, walk.failures, walk.torn, walk.lost_ops);
    assert_true(only || (walk.crashes > 1000 && walk.torn > 100 && walk.lost_ops > 100));
}

int main(void)
{
    log_level_min = LOG_FATAL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sweep_error),
        cmocka_unit_test(test_sweep_power),
        cmocka_unit_test(test_storm),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fault_reset(0);
    return failed;
}
