/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mark of a lost tail (raft/follow.c F4), with raft and its log on the faulty disk: a member
 * whose log ends at 4 hears that its leader counts on 9, restarts, hears from the next leader what
 * it had lost, and restarts again. The power goes out, or a call fails, at each call that changes
 * or syncs something. What must hold after any of them: once the heartbeat's ready is on the disk
 * nothing but the entries brings the member its vote back.
 *
 * The owner's part is server/node.c's: append, one sync if the ready wants it, then what is durable
 * is sent.
 */
#include "raft/raft.h"
#include "storage/wal_test_log.h"

#include "base/log.h"

enum { SELF = 2, OLD_LEADER = 1, NEXT_LEADER = 3, HELD = 4, COUNTED_ON = 9, TERM = 5 };

static uint64_t voters[] = {1, 2, 3};

static struct {
    struct wal *wal;
    struct raft *raft;
    struct raft_hard_state disk; /* as found by the last start */
    size_t n_entries;
    bool granted; /* a vote or pre-vote has left since the start */
} member;

/* ---- the owner ---- */

static void stop(bool orderly)
{
    member.raft = raft_free(member.raft);
    member.wal = orderly ? wal_close(member.wal) : wal_abandon(member.wal);
}

static int start(void)
{
    struct raft_conf_state conf = {.voters = {voters, 3}};
    struct wal_recovery rec;
    struct wal_options o = test_options();
    o.member_id = SELF;
    int r = wal_open(&member.wal, &o, &rec);
    assert_true(r <= 0);
    if (r == 0) {
        struct raft_config c = {.id = SELF,
                                .seed = 1,
                                .election_ticks = 10,
                                .heartbeat_ticks = 1,
                                .message_bytes_max = 1 << 20,
                                .inflight_messages_max = 8,
                                .check_quorum = true,
                                .hard_state = rec.hard_state,
                                .conf = &conf,
                                .entries = rec.entries,
                                .n_entries = rec.n_entries};
        assert_int_equal(raft_new(&member.raft, &c), 0);
        member.disk = rec.hard_state;
        member.n_entries = rec.n_entries;
        member.granted = false;
    }
    wal_recovery_deinit(&rec);
    return r;
}

static void note_granted(const struct raft_message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++)
        member.granted |= messages[i].type == RAFT_MSG_VOTE ||
                          messages[i].type == RAFT_MSG_PRE_VOTE ||
                          ((messages[i].type == RAFT_MSG_VOTE_RESP ||
                            messages[i].type == RAFT_MSG_PRE_VOTE_RESP) &&
                           !messages[i].reject);
}

static int turn(void)
{
    struct raft_ready rd;
    int r = 0;

    while (r == 0 && raft_has_ready(member.raft)) {
        raft_ready(member.raft, &rd);
        note_granted(rd.messages, rd.n_messages);
        r = wal_append(member.wal, rd.hard_state_changed ? &rd.hard_state : NULL, rd.entries,
                       rd.n_entries);
        if (r == 0)
            r = rd.must_sync ? wal_sync(member.wal) : wal_flush(member.wal);
        if (r == 0)
            note_granted(rd.messages_durable, rd.n_messages_durable);
        raft_advance(member.raft);
        (void)raft_step(member.raft, &(struct raft_input){.type = RAFT_PERSISTED});
    }
    return r;
}

static int hear(struct raft_message m)
{
    m.to = SELF;
    (void)raft_step(member.raft, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m});
    return turn();
}

/* ---- what it hears ---- */

static int hear_proof(void)
{
    return hear((struct raft_message){
        .type = RAFT_MSG_HEARTBEAT, .from = OLD_LEADER, .term = TERM, .commit = COUNTED_ON});
}

/* By a member that has at least as much. */
static int is_asked_for_its_vote(uint64_t term)
{
    struct raft_message m = {.type = RAFT_MSG_PRE_VOTE,
                             .from = NEXT_LEADER,
                             .term = term,
                             .index = COUNTED_ON + 1,
                             .log_term = term - 1};
    int r = hear(m);
    m.type = RAFT_MSG_VOTE;
    if (r == 0)
        r = hear(m);
    for (int i = 0; i < 40 && r == 0; i++) { /* and it may campaign itself */
        (void)raft_step(member.raft, &(struct raft_input){.type = RAFT_TICK});
        r = turn();
    }
    return r;
}

static int hear_entries(uint64_t term)
{
    struct raft_entry entries[COUNTED_ON + 1 - HELD];
    size_t n = 0;

    for (uint64_t i = HELD + 1; i <= COUNTED_ON + 1; i++)
        entries[n++] = (struct raft_entry){
            .term = i > COUNTED_ON ? term : TERM, .index = i, .data = test_payload(i, TERM, 900)};
    struct raft_message m = {.type = RAFT_MSG_APP,
                             .from = NEXT_LEADER,
                             .term = term,
                             .index = HELD,
                             .log_term = TERM,
                             .commit = COUNTED_ON + 1,
                             .entries = entries,
                             .n_entries = n};
    int r = hear(m);
    while (n > 0)
        blob_unref(entries[--n].data);
    return r;
}

/* ---- the life of it ---- */

static void make_member(void)
{
    struct wal_options o = test_options();
    struct wal_recovery rec;

    fault_reset(1);
    o.member_id = SELF;
    assert_int_equal(wal_open(&member.wal, &o, &rec), 0);
    wal_recovery_deinit(&rec);
    for (uint64_t i = 1; i <= HELD; i++) {
        struct raft_entry e = {.index = i, .term = TERM};
        assert_int_equal(wal_append(member.wal, NULL, &e, 1), 0);
    }
    test_commit(member.wal, TERM, HELD);
    assert_int_equal(wal_sync(member.wal), 0);
    member.wal = wal_abandon(member.wal);
}

/* The next life, however often its start meets the fault. */
static void start_again(bool orderly)
{
    if (member.wal)
        stop(orderly);
    do {
        if (fault_power_is_off())
            fault_power_cycle();
    } while (start() < 0);
}

static void check_bound(void)
{
    struct raft_status s;

    raft_status(member.raft, &s);
    assert_true(s.lost_tail && member.disk.lost_tail_index == COUNTED_ON);
}

static void prove(void)
{
    while (member.disk.lost_tail_index == 0 && hear_proof() < 0)
        start_again(false);
}

/* It restarts, and is asked. The fault may end each life. */
static void live_bound(void)
{
    for (uint64_t term = TERM + 1; term < TERM + 6; term += 2) {
        bool died = is_asked_for_its_vote(term) < 0;
        assert_false(member.granted);
        start_again(!died && term % 4 == 0);
        check_bound();
    }
}

/* A crash leaves the mark, or takes it with all entries on the disk. */
static void catch_up(void)
{
    while (hear_entries(TERM + 8) < 0) {
        start_again(false);
        assert_true(member.disk.lost_tail_index == COUNTED_ON || member.n_entries > COUNTED_ON);
        (void)is_asked_for_its_vote(TERM + 7);
        assert_true(!member.granted || member.n_entries > COUNTED_ON);
        start_again(false);
    }
}

/* Only what was synced is left. */
static void lose_power(void)
{
    stop(false);
    fault_power_cycle();
    start_again(false);
}

enum part { PROOF, BOUND, END, PARTS };

/* False: the fault, at the call-th call of that part, lies behind its end. */
static bool live(enum part part, uint64_t call, enum fault_kind kind)
{
    static void (*const parts[PARTS])(void) = {prove, live_bound, catch_up};
    bool met = false;

    make_member();
    start_again(false);
    for (enum part p = PROOF; p < PARTS; p++) {
        if (p == part)
            fault_arm(call, kind);
        parts[p]();
        if (p == part)
            met = fault_met();
        lose_power();
        if (p < END)
            check_bound();
    }
    assert_int_equal(member.n_entries, COUNTED_ON + 1);
    assert_int_equal(member.disk.lost_tail_index, 0);
    assert_int_equal(member.disk.commit, COUNTED_ON + 1);
    assert_int_equal(is_asked_for_its_vote(TERM + 20), 0);
    assert_true(member.granted);
    stop(true);
    return met;
}

static void sweep(enum fault_kind kind)
{
    for (enum part part = PROOF; part < PARTS; part++) {
        uint64_t n = 1;
        while (live(part, n, kind))
            n++;
        print_message("part %d: swept %llu calls\n", (int)part, (unsigned long long)n - 1);
        assert_true(n > 1);
    }
}

static void test_error(void **state)
{
    sweep(FAULT_ERROR);
}

static void test_power(void **state)
{
    sweep(FAULT_POWER);
}

/* Logs without marks are as they always were: 24 bytes, and the header's place is zero. */
static void test_old_log(void **state)
{
    struct raft_hard_state hs = {.term = 1, .vote = 2, .commit = 3}, read;
    uint8_t p[WAL_HARD_STATE_BYTES_MAX];

    assert_int_equal(wal_hard_state_put(p, &hs), 24);
    assert_true(wal_hard_state_get(bytes_of(p, 24), &read));
    assert_int_equal(read.lost_tail_index, 0);
    hs.lost_tail_index = 4;
    hs.lost_tail_term = 5;
    assert_int_equal(wal_hard_state_put(p, &hs), 40);
    assert_true(wal_hard_state_get(bytes_of(p, 40), &read));
    assert_true(read.term == 1 && read.vote == 2 && read.commit == 3 && read.lost_tail_index == 4 &&
                read.lost_tail_term == 5);
    assert_false(wal_hard_state_get(bytes_of(p, 32), &read));
    struct wal_header h = {.seq = 1}, again;
    uint8_t header[WAL_HEADER_BYTES];
    wal_header_put(header, &h);
    for (size_t i = 120; i < WAL_HEADER_BYTES; i++)
        assert_int_equal(header[i], 0);
    h.hard_state.lost_tail_term = 7;
    wal_header_put(header, &h);
    assert_true(wal_header_get(bytes_of(header, sizeof(header)), &again));
    assert_int_equal(again.hard_state.lost_tail_term, 7);
}

int main(void)
{
    log_level_min = LOG_FATAL;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error),
        cmocka_unit_test(test_power),
        cmocka_unit_test(test_old_log),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fault_reset(0);
    return failed;
}
