/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Restarts after a crash, on the real database. A child process runs a member turn by turn,
 * flushes the database where the test says, and ends without closing anything: what the database
 * had in memory is gone, the log is there. The parent opens the same directory and must find a
 * prefix of the child's history, know how long it is, and replay to the child's exact state.
 */
#include "server/test_box.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <sys/wait.h>

#include "base/rng.h"

enum { FLUSH_NEVER = -1 };

/* What the child tells about its end. */
struct report {
    uint64_t flushed; /* applied index at the last flush; 0: none */
    uint64_t applied;
    char text[4000];
};

static void flush(struct box *b, struct report *report)
{
    report->flushed = atomic_load(&b->s->state.applied);
    check(db_flush(b->s->store.db) == 0);
}

static void write_report(int fd, struct box *b, struct report *report)
{
    char *text = box_text(b);

    report->applied = atomic_load(&b->s->state.applied);
    check(strlen(text) < sizeof(report->text));
    strcpy(report->text, text);
    free(text);
    check(write(fd, report, sizeof(*report)) == sizeof(*report));
}

/* The lives that a child can lead. */
enum life {
    LIFE_LAST,
    LIFE_RANDOM,
    LIFE_AGAIN,
    LIFE_RELEASED,
    LIFE_DEFRAGMENTED,
    LIFE_TWO,
    LIFE_COUNT
};

/* A program of its own: RocksDB's threads would be missing in a fork of one that has used it. */
static struct report crash(const char *dir, enum life life, int arg)
{
    struct report report = {0};
    int fds[2], status;
    pid_t child;

    assert_int_equal(pipe(fds), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *args[] = {(char *)"restart_test",      (char *)(uintptr_t)dir,
                        mem_printf("%d", (int)life), mem_printf("%d", arg),
                        mem_printf("%d", fds[1]),    NULL};
        execv("/proc/self/exe", args);
        _exit(127);
    }
    close(fds[1]);
    assert_int_equal(read(fds[0], &report, sizeof(report)), sizeof(report));
    close(fds[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return report;
}

/* Opens what the crash left, and replays. */
static struct box *recover(char *dir, const struct report *report)
{
    struct box *b = box_new(dir);
    char *text;

    box_open(b);
    assert_int_equal(atomic_load(&b->s->state.applied), report->flushed);
    assert_int_equal(box_stored_applied(b).index, report->flushed);
    box_run(b);
    text = box_text(b);
    assert_string_equal(text, report->text);
    free(text);
    /* Everything, once; then the new leader's empty entry. */
    assert_int_equal(atomic_load(&b->s->state.applied), report->applied + 1);
    return b;
}

/* ---- each kind of entry as the last one ---- */

enum last {
    LAST_FOUNDING,
    LAST_EMPTY,
    LAST_PUT,
    LAST_PUT_REFUSED,
    LAST_DELETE,
    LAST_DELETE_NOTHING,
    LAST_TXN,
    LAST_COMPACT,
    LAST_COMPACT_REFUSED,
    LAST_GRANT,
    LAST_REVOKE,
    LAST_ALARM,
    LAST_ALARM_OFF,
    LAST_ALARM_LIST, /* changes nothing, as in etcd an entry all the same (14419) */
    LAST_CHECKPOINT,
    LAST_VERSION,
    LAST_ATTRIBUTES,
    LAST_URLS, /* from here on: changes of members */
    LAST_LEARNER,
    LAST_LEARNER_REFUSED,
    LAST_LEARNER_REMOVED,
    LAST_DOWNGRADE, /* an etcd member's */
    LAST_COUNT
};

static void prepare(struct box *b)
{
    struct call c;

    call_grant(b, &c, 5, 60);
    check(call_run(b, &c) == OUTCOME_OK);
    for (int i = 0; i < 5; i++) {
        call_put(b, &c, i % 2 ? "a" : "b", "v", i == 4 ? 5 : 0);
        check(call_run(b, &c) == OUTCOME_OK);
    }
    call_alarm(b, &c, true, ETCDSERVERPB__ALARM_TYPE__CORRUPT);
    check(call_run(b, &c) == OUTCOME_OK);
    call_alarm(b, &c, false, ETCDSERVERPB__ALARM_TYPE__CORRUPT);
    check(call_run(b, &c) == OUTCOME_OK);
}

static void call_last(struct box *b, struct call *c, enum last last)
{
    switch (last) {
    case LAST_PUT: call_put(b, c, "c", "v", 5); break;
    case LAST_PUT_REFUSED: call_put(b, c, "c", "v", 6); break;
    case LAST_DELETE: call_delete(b, c, "a", "c"); break;
    case LAST_DELETE_NOTHING: call_delete(b, c, "x", "z"); break;
    case LAST_TXN: call_txn(b, c, "a", "z"); break;
    case LAST_COMPACT: call_compact(b, c, 4, false); break;
    case LAST_COMPACT_REFUSED: call_compact(b, c, 1000, false); break;
    case LAST_GRANT: call_grant(b, c, -7, 1); break;
    case LAST_REVOKE: call_revoke(b, c, 5); break;
    case LAST_ALARM: call_alarm(b, c, true, ETCDSERVERPB__ALARM_TYPE__NOSPACE); break;
    case LAST_ALARM_OFF: call_alarm(b, c, false, ETCDSERVERPB__ALARM_TYPE__NOSPACE); break;
    case LAST_ALARM_LIST: call_init(c, REQUEST_ALARM, BYTES_NULL); break;
    case LAST_CHECKPOINT: /* of lease 5: 30 s are left */
        call_init(c, REQUEST_LEASE_CHECKPOINT, BYTES_LIT("\x0a\x04\x08\x05\x10\x1e"));
        break;
    case LAST_VERSION:
        call_init(c, REQUEST_CLUSTER_VERSION_SET,
                  BYTES_LIT("\x0a\x05"
                            "3.7.0"));
        break;
    case LAST_ATTRIBUTES:
        call_init(c, REQUEST_MEMBER_ATTR_SET, buf_bytes(&b->s->publish.payload));
        break;
    default: check(false);
    }
}

static int run_change(struct box *b, struct call *c, enum request_kind kind, const void *message)
{
    call_init(c, kind, BYTES_NULL);
    server_change_members(b->s, &c->request, message);
    box_run(b);
    check(c->n_finished == 1);
    return c->outcome;
}

static uint64_t learner_of(const struct call *added)
{
    Etcdserverpb__MemberAddResponse *r = etcdserverpb__member_add_response__unpack(
        NULL, added->request.response.len, added->request.response.data);
    uint64_t id;

    check(r && r->member && r->member->islearner && r->n_members == 2);
    id = r->member->id;
    etcdserverpb__member_add_response__free_unpacked(r, NULL);
    return id;
}

/* Its outcome. */
static int change_last(struct box *b, enum last last)
{
    Etcdserverpb__MemberAddRequest add = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    Etcdserverpb__MemberUpdateRequest update = ETCDSERVERPB__MEMBER_UPDATE_REQUEST__INIT;
    Etcdserverpb__MemberRemoveRequest remove = ETCDSERVERPB__MEMBER_REMOVE_REQUEST__INIT;
    char *urls[] = {(char *)"http://127.0.0.1:1"}, *others[] = {(char *)"http://127.0.0.1:2"};
    struct call c;
    int outcome;

    update.id = b->s->state.member_id;
    add.islearner = true;
    add.n_peerurls = update.n_peerurls = 1;
    update.peerurls = add.peerurls = urls;
    if (last == LAST_URLS) {
        outcome = run_change(b, &c, REQUEST_MEMBER_UPDATE, &update);
        call_deinit(&c);
        return outcome;
    }
    outcome = run_change(b, &c, REQUEST_MEMBER_ADD, &add);
    remove.id = learner_of(&c);
    call_deinit(&c);
    if (last == LAST_LEARNER)
        return outcome;
    add.peerurls = others;
    outcome = last == LAST_LEARNER_REFUSED ? run_change(b, &c, REQUEST_MEMBER_ADD, &add)
                                           : run_change(b, &c, REQUEST_MEMBER_REMOVE, &remove);
    call_deinit(&c);
    return outcome;
}

/* Nobody waits for it. */
static int downgrade_last(struct box *b)
{
    struct raft_entry entry = {
        .type = RAFT_ENTRY_NORMAL,
        .data = blob_copy(BYTES_LIT("\xb2\x51\x09\x08\x01\x12\x05"
                                    "3.6.0")),
    };

    check(node_propose(b->s->node, 0, entry));
    box_run(b);
    return OUTCOME_OK;
}

static int last_run(struct box *b, enum last last)
{
    struct call c;

    if (last == LAST_DOWNGRADE)
        return downgrade_last(b);
    if (last >= LAST_URLS)
        return change_last(b, last);
    call_last(b, &c, last);
    return call_run(b, &c);
}

static int expected_outcome(enum last last)
{
    return last == LAST_PUT_REFUSED       ? (int)OUTCOME_LEASE_NOT_FOUND
           : last == LAST_COMPACT_REFUSED ? (int)OUTCOME_FUTURE_REVISION
           : last == LAST_LEARNER_REFUSED ? (int)OUTCOME_TOO_MANY_LEARNERS
                                          : (int)OUTCOME_OK;
}

/* arg: the kind, and whether the database is flushed behind it. */
static void live_last(struct box *b, struct report *report, int arg)
{
    enum last last = (enum last)(arg / 2);

    if (last == LAST_FOUNDING) {
        check(node_turn(b->s->node, ++b->now_ms) == 0);
        check(apply_turn(b->s->apply) == 0);
        check(atomic_load(&b->s->state.applied) == 1);
    } else {
        box_run(b);
    }
    if (last > LAST_EMPTY) {
        prepare(b);
        flush(b, report);
        uint64_t before = atomic_load(&b->s->state.applied);
        check(last_run(b, last) == expected_outcome(last));
        check(atomic_load(&b->s->state.applied) > before);
    }
    if (arg % 2)
        flush(b, report);
}

static void test_last_entries(void **state)
{
    for (int arg = 0; arg < 2 * LAST_COUNT; arg++) {
        char *dir = test_dir_new();
        struct report first = crash(dir, LIFE_LAST, arg);
        struct box *b = recover(dir, &first);
        assert_int_equal(box_put(b, "after", ""),
                         arg / 2 == LAST_ALARM ? OUTCOME_NO_SPACE : OUTCOME_OK);
        box_free(b);
    }
}

/* ---- a random life, flushed somewhere ---- */

static void random_call(struct box *b, struct call *c, struct rng *rng)
{
    static const char *const keys[] = {"a", "ab", "b", "c", "d", "e"};
    const char *key = keys[rng_below(rng, 6)];
    int64_t lease = (int64_t)rng_below(rng, 4);

    switch (rng_below(rng, 12)) {
    case 0: call_delete(b, c, key, NULL); break;
    case 1: call_delete(b, c, key, "c"); break;
    case 2: call_txn(b, c, key, "d"); break;
    case 3: call_grant(b, c, lease, 60); break;
    case 4: call_revoke(b, c, lease); break;
    case 5:
        call_compact(b, c, mvcc_revision(b->s->store.mvcc) - (int64_t)rng_below(rng, 20), false);
        break;
    default: call_put(b, c, key, "value", rng_below(rng, 3) ? 0 : lease); break;
    }
}

/* Several entries a turn, and the housekeeper's deletions between turns. */
static void live_random(struct box *b, struct report *report, int seed)
{
    enum { TURNS = 60, CALLS_MAX = 8 };
    struct rng rng;

    rng_init(&rng, (uint64_t)seed);
    uint64_t flush_at = rng_below(&rng, TURNS);
    box_run(b);
    for (uint64_t turn = 0; turn < TURNS; turn++) {
        struct call calls[CALLS_MAX];
        uint64_t n = 1 + rng_below(&rng, CALLS_MAX);
        for (uint64_t i = 0; i < n; i++) {
            random_call(b, &calls[i], &rng);
            server_submit(b->s, &calls[i].request);
        }
        box_run(b);
        for (uint64_t i = 0; i < n; i++) {
            check(calls[i].n_finished == 1);
            call_deinit(&calls[i]);
        }
        if (turn == flush_at)
            flush(b, report);
    }
}

static void test_random_lives(void **state)
{
    enum { SEED = 100, ROUNDS = 12 };

    printf("seeds %d to %d\n", SEED, SEED + ROUNDS - 1);
    for (int seed = SEED; seed < SEED + ROUNDS; seed++) {
        char *dir = test_dir_new();
        struct report report = crash(dir, LIFE_RANDOM, seed);
        struct box *b = recover(dir, &report);
        box_free(b);
    }
}

/* Replays that crash themselves, at a new place each time. */
static void live_again(struct box *b, struct report *report, int turns)
{
    report->flushed = atomic_load(&b->s->state.applied);
    for (int i = 0; i < turns; i++) {
        check(node_turn(b->s->node, ++b->now_ms) == 0);
        check(apply_turn(b->s->apply) == 0);
    }
    if (turns % 2)
        flush(b, report);
}

static void test_crashes_in_replay(void **state)
{
    char *dir = test_dir_new();
    struct report life = crash(dir, LIFE_RANDOM, 7), report;

    report = life;
    for (int turns = 0; turns < 6; turns++)
        report = crash(dir, LIFE_AGAIN, turns);
    struct box *b = box_new(dir);
    box_open(b);
    assert_int_equal(atomic_load(&b->s->state.applied), report.flushed);
    box_run(b);
    char *text = box_text(b);
    assert_string_equal(text, life.text); /* empty entries of new leaders change nothing in it */
    free(text);
    box_free(b);
}

/* ---- the log is cut behind a flush ---- */

static void live_released(struct box *b, struct report *report, int arg)
{
    box_run(b);
    for (int i = 0; i < 400; i++)
        check(box_put(b, "k", i % 2 ? "some value that makes the log longer" : "another") ==
              OUTCOME_OK);
    flush(b, report);
    node_release(b->s->node, report->flushed - 10);
    box_run(b);
    for (int i = 0; i < 5; i++)
        check(box_put(b, "k", "last") == OUTCOME_OK);
}

static void test_released_log(void **state)
{
    char *dir = test_dir_new();
    struct report report = crash(dir, LIFE_RELEASED, 0);
    struct box *b = recover(dir, &report);

    assert_int_equal(box_put(b, "after", ""), OUTCOME_OK);
    box_free(b);
}

/* ---- the database is defragmented ---- */

/* arg: among entries that are flushed, that are not, or that are committed and not applied. What a
 * Defragment makes durable is what its batches say, the applied index included (etcd's wrote one
 * without the other: 14685, 11613). */
enum { DEFRAGMENTS = 3 };

static void live_defragmented(struct box *b, struct report *report, int arg)
{
    struct buf none = BUF_NULL;
    struct call c;

    box_run(b);
    prepare(b);
    if (arg == 0)
        flush(b, report);
    call_put(b, &c, "late", box_large_value(), 0);
    server_submit(b->s, &c.request);
    check(node_turn(b->s->node, ++b->now_ms) == 0);
    if (arg < 2)
        box_run(b);
    check((c.n_finished == 0) == (arg == 2));
    report->flushed = atomic_load(&b->s->state.applied);
    check(server_defragment(b->s, NULL, &none) == OUTCOME_OK);
    box_run(b);
    check(c.n_finished == 1 && c.outcome == OUTCOME_OK);
    call_deinit(&c);
    for (int i = 0; i < 5; i++)
        check(box_put(b, "a", "behind") == OUTCOME_OK);
    call_revoke(b, &c, 5);
    check(call_run(b, &c) == OUTCOME_OK);
}

static void test_defragmented(void **state)
{
    for (int arg = 0; arg < DEFRAGMENTS; arg++) {
        char *dir = test_dir_new();
        struct report report = crash(dir, LIFE_DEFRAGMENTED, arg);
        struct box *b = recover(dir, &report);
        assert_int_equal(box_put(b, "after", ""), OUTCOME_OK);
        box_free(b);
    }
}

/* ---- a write that a power loss has cut ---- */

static void live_two(struct box *b, struct report *report, int arg);

/* Behind the entries of a new term, before its hard state (the simulator's seed 17753). */
static void test_cut_before_hard_state(void **state)
{
    char *dir = test_dir_new(), *path = mem_printf("%s/data/member/wal", dir);
    struct report report = crash(dir, LIFE_TWO, 0);
    struct wal_options options = {.dir = path, .applied_index = report.flushed};
    struct wal_recovery recovery;
    struct wal *wal;

    assert_int_equal(wal_open(&wal, &options, &recovery), 0);
    struct raft_entry entry = {.term = recovery.hard_state.term + 3, .index = report.applied + 1};
    assert_int_equal(wal_append(wal, NULL, &entry, 1), 0);
    assert_int_equal(wal_sync(wal), 0);
    wal_abandon(wal);
    wal_recovery_deinit(&recovery);

    struct box *b = box_new(dir);
    box_open(b);
    box_run(b);
    assert_int_equal(box_put(b, "k", "after"), OUTCOME_OK);
    assert_true(atomic_load(&b->s->state.term) > entry.term);
    free(path);
    box_free(b);
}

/* ---- what must be refused ---- */

static void live_two(struct box *b, struct report *report, int arg)
{
    box_run(b);
    check(box_put(b, "k", "v") == OUTCOME_OK);
    flush(b, report);
}

static void test_missing_log(void **state)
{
    char *dir = test_dir_new();
    struct report report = crash(dir, LIFE_TWO, 0);
    char *wal = mem_printf("%s/data/member/wal", dir), *moved = mem_printf("%s/moved", dir);
    struct box *b = box_new(dir);

    assert_true(report.flushed > 0);
    assert_int_equal(rename(wal, moved), 0);
    assert_int_equal(server_open(&b->s, &b->config, NULL, &box_tuning), 1);
    assert_null(b->s);
    assert_int_equal(rename(moved, wal), 0);
    box_open(b);
    box_run(b);
    free(wal);
    free(moved);
    box_free(b);
}

static void test_used_directory(void **state)
{
    struct box *b = box_start();
    struct server *second = NULL;

    assert_int_equal(server_open(&second, &b->config, NULL, &box_tuning), 1);
    assert_null(second);
    assert_int_equal(box_put(b, "k", "v"), OUTCOME_OK);
    box_free(b);
}

_Noreturn static void child(char **argv)
{
    static void (*const lives[LIFE_COUNT])(struct box *, struct report *, int) = {
        [LIFE_LAST] = live_last,
        [LIFE_RANDOM] = live_random,
        [LIFE_AGAIN] = live_again,
        [LIFE_RELEASED] = live_released,
        [LIFE_DEFRAGMENTED] = live_defragmented,
        [LIFE_TWO] = live_two,
    };
    struct box *b = box_new(mem_strdup(argv[1]));
    struct report report = {0};

    box_open(b);
    lives[atoi(argv[2])](b, &report, atoi(argv[3]));
    write_report(atoi(argv[4]), b, &report);
    _exit(0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_last_entries),      cmocka_unit_test(test_random_lives),
        cmocka_unit_test(test_crashes_in_replay), cmocka_unit_test(test_released_log),
        cmocka_unit_test(test_defragmented),      cmocka_unit_test(test_missing_log),
        cmocka_unit_test(test_used_directory),    cmocka_unit_test(test_cut_before_hard_state),
    };
    log_level_min = LOG_ERROR;
    if (argc == 5)
        child(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
