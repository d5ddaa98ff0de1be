/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock and Election over a store of the test's own: every order in which calls can go on, a client
 * that goes away after each step, leases that end, every way in which a step can fail.
 */
#include "api/concurrency_test.h"

#include "base/rng.h"
#include "v3election.pb-c.h"
#include "v3lock.pb-c.h"

enum { CALLS = 12, ROUNDS = 300, STEPS_MAX = 100000, MESSAGES_MAX = 16 };

/* A call and what became of it. */
struct test_call {
    struct call call;
    struct buf answer;
    struct buf sent[MESSAGES_MAX];
    size_t n_sent;
    bool woken;
    bool lingers;
    union {
        V3lockpb__LockRequest lock;
        V3lockpb__UnlockRequest unlock;
        V3electionpb__CampaignRequest campaign;
        V3electionpb__ProclaimRequest proclaim;
        V3electionpb__ResignRequest resign;
        V3electionpb__LeaderRequest leader;
    } message;
    V3electionpb__LeaderKey leader;
};

static size_t n_lingering;

static struct test_call *of(struct call *call)
{
    return container_of(call, struct test_call, call);
}

/* ---- call.h ---- */

void call_answer_status(struct call *call, enum status_code code, const char *text)
{
    assert_true(call->phase != CALL_ANSWERED);
    call->phase = CALL_ANSWERED;
    call->status = (struct status){code, text};
    of(call)->answer = buf_take(&call->request.response);
    if (call->cleanup)
        call->cleanup(call);
    call->cleanup = NULL;
}

void call_answer(struct call *call, enum outcome outcome)
{
    const struct status *status = status_of(outcome);
    call_answer_status(call, status->code, status->text);
}

static void suspend(struct call *call, enum call_phase phase, call_step step)
{
    assert_int_equal(call->phase, CALL_RUNS);
    call->phase = phase;
    call->step = step;
}

void call_submit_then(struct call *call, enum request_kind kind, struct bytes payload,
                      call_step step)
{
    assert_int_equal(call->request.response.len, 0);
    call->request.kind = kind;
    call->request.payload = payload;
    suspend(call, CALL_SUBMITTED, step);
}

void call_read_index(struct call *call, call_step step)
{
    call->request.kind = REQUEST_READ_INDEX;
    suspend(call, CALL_SUBMITTED, step);
}

void call_scan(struct call *call, void (*work)(struct call *call), call_step step)
{
    call->work = work;
    suspend(call, CALL_SCANS, step);
}

void call_send_message(struct call *call, call_step step)
{
    suspend(call, CALL_SENDS, step);
}

void call_wait(struct call *call, call_step step)
{
    suspend(call, CALL_OPEN, step);
    if (call->cancelled)
        call_answer(call, OUTCOME_CANCELED);
}

void call_wake(struct call *call)
{
    of(call)->woken = true;
}

void call_linger(struct call *call, enum request_kind kind, struct bytes payload)
{
    call->request.kind = kind;
    call->request.payload = payload;
    of(call)->lingers = true;
    n_lingering++;
}

static bool can_go_on(struct test_call *t)
{
    return t->call.phase == CALL_OPEN ? t->woken : t->call.phase != CALL_ANSWERED;
}

/* What the call was waiting for comes. */
static void go_on(struct test_call *t)
{
    struct call *call = &t->call;
    enum call_phase phase = call->phase;
    call->phase = CALL_RUNS;
    call->outcome = OUTCOME_OK;
    t->woken = t->woken && phase != CALL_OPEN;
    if (phase == CALL_SUBMITTED) {
        call->outcome = run_request(&call->request);
    } else if (phase == CALL_SCANS) {
        if (fake.scans_full)
            call->outcome = OUTCOME_TOO_MANY_REQUESTS;
        else
            call->work(call);
    } else if (phase == CALL_SENDS) {
        assert_true(t->n_sent < MESSAGES_MAX);
        t->sent[t->n_sent++] = buf_take(&call->request.response);
    }
    call->step(call);
}

static void go_on_all_the_way(struct test_call *t)
{
    while (can_go_on(t))
        go_on(t);
}

/* The client goes away. Some requests can be taken back, others are about to be answered. */
static void cancel(struct test_call *t, bool take_back)
{
    struct call *call = &t->call;
    if (call->phase == CALL_ANSWERED)
        return;
    call->cancelled = true;
    if (call->phase == CALL_OPEN || (call->phase == CALL_SUBMITTED && take_back))
        call_answer(call, OUTCOME_CANCELED);
}

static void release(struct test_call *t)
{
    if (!t->lingers)
        return;
    t->lingers = false;
    n_lingering--;
    run_request(&t->call.request);
    buf_deinit(&t->call.request.response);
}

/* ---- calls ---- */

static ProtobufCBinaryData data(const char *text)
{
    return concurrency_data(bytes_str(text));
}

static struct test_call *test_call_new(void)
{
    struct test_call *t = mem_new(struct test_call);
    t->call.queue = &test_queue;
    t->call.server = &fake;
    t->call.message = &t->message;
    arena_init(&t->call.arena);
    return t;
}

static struct test_call *test_call_free(struct test_call *t)
{
    cancel(t, true);
    go_on_all_the_way(t);
    release(t);
    arena_deinit(&t->call.arena);
    buf_deinit(&t->answer);
    for (size_t i = 0; i < t->n_sent; i++)
        buf_deinit(&t->sent[i]);
    free(t);
    return NULL;
}

static struct test_call *lock_new(const char *name, int64_t lease)
{
    struct test_call *t = test_call_new();
    t->message.lock = (V3lockpb__LockRequest)V3LOCKPB__LOCK_REQUEST__INIT;
    t->message.lock.name = data(name);
    t->message.lock.lease = lease;
    lock_lock(&t->call);
    return t;
}

static struct test_call *campaign_new(const char *name, int64_t lease, const char *value)
{
    struct test_call *t = test_call_new();
    t->message.campaign = (V3electionpb__CampaignRequest)V3ELECTIONPB__CAMPAIGN_REQUEST__INIT;
    t->message.campaign.name = data(name);
    t->message.campaign.lease = lease;
    t->message.campaign.value = data(value);
    election_campaign(&t->call);
    return t;
}

static struct test_call *observe_new(const char *name)
{
    struct test_call *t = test_call_new();
    t->message.leader = (V3electionpb__LeaderRequest)V3ELECTIONPB__LEADER_REQUEST__INIT;
    t->message.leader.name = data(name);
    election_observe(&t->call);
    return t;
}

static void assert_ended(const struct test_call *t, enum status_code code, const char *text)
{
    assert_int_equal(t->call.phase, CALL_ANSWERED);
    assert_string_equal(t->call.status.text, text);
    assert_int_equal(t->call.status.code, code);
}

static void assert_locked(const struct test_call *t, const char *key, int64_t revision)
{
    assert_ended(t, STATUS_OK, "");
    V3lockpb__LockResponse *r =
        v3lockpb__lock_response__unpack(NULL, t->answer.len, t->answer.data);
    assert_non_null(r);
    assert_true(bytes_equal(of_pb(r->key), bytes_str(key)));
    assert_int_equal(r->header->cluster_id, CLUSTER_ID);
    assert_int_equal(r->header->member_id, MEMBER_ID);
    assert_int_equal(r->header->raft_term, TERM);
    assert_int_equal(r->header->revision, revision);
    v3lockpb__lock_response__free_unpacked(r, NULL);
}

static void assert_sent(const struct test_call *t, size_t i, const char *value, int64_t revision)
{
    assert_true(i < t->n_sent);
    V3electionpb__LeaderResponse *r =
        v3electionpb__leader_response__unpack(NULL, t->sent[i].len, t->sent[i].data);
    assert_non_null(r);
    assert_true(bytes_equal(of_pb(r->kv->value), bytes_str(value)));
    assert_int_equal(r->header->revision, revision);
    assert_int_equal(r->header->member_id, MEMBER_ID);
    v3electionpb__leader_response__free_unpacked(r, NULL);
}

static bool exists(const char *key)
{
    return stored_find(bytes_str(key));
}

static int setup(void **state)
{
    memset(&fake, 0, sizeof(fake));
    fake.revision = 1;
    for (size_t i = 1; i < LEASES_MAX; i++)
        fake.leases[i] = true;
    return 0;
}

static int teardown(void **state)
{
    assert_int_equal(n_lingering, 0);
    assert_int_equal(fake.n_streams, 0);
    assert_int_equal(fake.n_responses, 0);
    for (size_t i = 0; i < fake.n_keys; i++) {
        buf_deinit(&fake.keys[i].key);
        buf_deinit(&fake.keys[i].value);
    }
    for (size_t i = 0; i < fake.n_events; i++) {
        buf_deinit(&fake.events[i].key);
        buf_deinit(&fake.events[i].encoded);
    }
    return 0;
}

/* ---- Lock ---- */

static void test_lock(void **state)
{
    struct test_call *first = lock_new("n", 10), *again, *unlock;
    go_on_all_the_way(first);
    assert_locked(first, "n/a", 2);
    store_put(bytes_str("x"), BYTES_NULL, 0);
    again = lock_new("n", 10);
    go_on_all_the_way(again);
    assert_locked(again, "n/a", 3);
    assert_int_equal(stored_find(bytes_str("n/a"))->lease, 10);
    unlock = test_call_new();
    unlock->message.unlock = (V3lockpb__UnlockRequest)V3LOCKPB__UNLOCK_REQUEST__INIT;
    unlock->message.unlock.key = data("n/a");
    lock_unlock(&unlock->call);
    go_on_all_the_way(unlock);
    assert_ended(unlock, STATUS_OK, "");
    assert_false(exists("n/a"));
    test_call_free(first);
    test_call_free(again);
    test_call_free(unlock);
}

static void test_lock_without_lease(void **state)
{
    struct test_call *t = lock_new("n", 0);
    go_on_all_the_way(t);
    assert_locked(t, "n/abc", 2);
    assert_int_equal(stored_find(bytes_str("n/abc"))->lease, CHOSEN_LEASE);
    test_call_free(t);
}

/* Go prints a negative number's sign. */
static void test_lock_negative_lease(void **state)
{
    store_put(bytes_str("n/-ff"), BYTES_NULL, 0);
    store_put(bytes_str("m/-8000000000000000"), BYTES_NULL, 0);
    struct test_call *t = lock_new("n", -255), *least = lock_new("m", INT64_MIN);
    go_on_all_the_way(t);
    go_on_all_the_way(least);
    assert_locked(t, "n/-ff", 3);
    assert_locked(least, "m/-8000000000000000", 3);
    test_call_free(t);
    test_call_free(least);
}

static void test_lock_waits(void **state)
{
    store_put(bytes_str("n/oldest"), BYTES_NULL, 0);
    store_put(bytes_str("n/other"), bytes_str("value"), 0);
    store_put(bytes_str("n0"), BYTES_NULL, 0);
    store_put(bytes_str("n"), BYTES_NULL, 0);
    struct test_call *t = lock_new("n", 10);
    go_on_all_the_way(t);
    assert_int_equal(t->call.phase, CALL_OPEN);
    store_put(bytes_str("n/other"), bytes_str("again"), 0);
    store_put(bytes_str("n/younger"), BYTES_NULL, 0);
    store_delete(bytes_str("n/oldest"));
    assert_false(t->woken); /* by the deletion of its neighbour only */
    store_delete(bytes_str("n/other"));
    go_on_all_the_way(t);
    assert_locked(t, "n/a", fake.revision);
    test_call_free(t);
}

static void test_lock_lease_ends(void **state)
{
    store_put(bytes_str("n/other"), BYTES_NULL, 0);
    struct test_call *t = lock_new("n", 10);
    go_on_all_the_way(t);
    store_revoke(10);
    go_on_all_the_way(t);
    assert_int_equal(t->call.phase, CALL_OPEN);
    store_delete(bytes_str("n/other"));
    go_on_all_the_way(t);
    assert_ended(t, STATUS_UNKNOWN, "mutex: session is expired");
    assert_int_equal(n_lingering, 0);
    test_call_free(t);
}

/* The client goes away after so many steps, for each number of steps. */
static void test_lock_cancelled_anywhere(void **state)
{
    for (int take_back = 0; take_back < 2; take_back++) {
        for (int at = 0, over = 0; !over; at++) {
            store_put(bytes_str("n/other"), BYTES_NULL, 0);
            struct test_call *t = lock_new("n", 10);
            for (int i = 0; i < at && !over; i++) {
                if (!can_go_on(t))
                    store_delete(bytes_str("n/other"));
                go_on(t);
                over = t->call.phase == CALL_ANSWERED;
            }
            bool queued = at > 0;
            cancel(t, take_back);
            go_on_all_the_way(t);
            assert_ended(t, over ? STATUS_OK : STATUS_CANCELED,
                         over ? "" : "etcdserver: request canceled");
            release(t);
            /* Before its key was put it may be put after all, and then stays, as etcd's does. */
            assert_int_equal(exists("n/a"), over || (!queued && !take_back));
            test_call_free(t);
            store_delete(bytes_str("n/a"));
            store_delete(bytes_str("n/other"));
        }
    }
}

/* ---- failures ---- */

static struct test_call *waiting_lock(void)
{
    store_put(bytes_str("n/other"), BYTES_NULL, 0);
    struct test_call *t = lock_new("n", 10);
    go_on_all_the_way(t);
    assert_int_equal(t->call.phase, CALL_OPEN);
    return t;
}

static void test_errors_are_unknown(void **state)
{
    static const struct {
        enum outcome outcome;
        enum status_code code;
        const char *text;
    } cases[] = {
        {OUTCOME_TIMEOUT, STATUS_UNKNOWN, "etcdserver: request timed out"},
        {OUTCOME_NO_LEADER, STATUS_UNKNOWN, "etcdserver: no leader"},
        {OUTCOME_REQUEST_TOO_LARGE, STATUS_UNKNOWN, "etcdserver: request is too large"},
        {OUTCOME_TIMEOUT_WAIT_APPLIED, STATUS_UNAVAILABLE,
         "etcdserver: request timed out, waiting for the applied index took too long"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (int64_t lease = 0; lease < 2; lease++) {
            fake.refuse = cases[i].outcome;
            struct test_call *t = lock_new("n", lease);
            go_on_all_the_way(t);
            assert_ended(t, cases[i].code, cases[i].text);
            test_call_free(t);
        }
    }
    fake.check = OUTCOME_NO_SPACE;
    for (int64_t lease = 0; lease < 2; lease++) {
        struct test_call *t = lock_new("n", lease);
        assert_ended(t, STATUS_UNKNOWN, "etcdserver: mvcc: database space exceeded");
        test_call_free(t);
    }
    fake.check = OUTCOME_OK;
    struct test_call *t = lock_new("n", LEASES_MAX);
    go_on_all_the_way(t);
    assert_ended(t, STATUS_UNKNOWN, "etcdserver: requested lease not found");
    assert_int_equal(n_lingering, 0);
    test_call_free(t);
}

/* Whatever ends the wait, the key of a lock goes, that of a candidate stays. */
static void test_watch_lost(void **state)
{
    static const struct {
        enum watch_loss loss;
        const char *text;
    } cases[] = {
        {WATCH_COMPACTED, "etcdserver: mvcc: required revision has been compacted"},
        {WATCH_ENDED, "lost watcher waiting for delete"},
        {WATCH_REFUSED, "etcdserver: permission denied"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct test_call *lock = waiting_lock(), *campaign = campaign_new("n", 11, "v");
        go_on_all_the_way(campaign);
        hub_loses(cases[i].loss);
        go_on_all_the_way(lock);
        go_on_all_the_way(campaign);
        assert_ended(lock, STATUS_UNKNOWN, cases[i].text);
        assert_ended(campaign, STATUS_UNKNOWN, cases[i].text);
        fake.loss = WATCH_LIVES;
        release(lock);
        assert_int_equal(n_lingering, 0);
        assert_false(exists("n/a"));
        assert_true(exists("n/b"));
        store_delete(bytes_str("n/b"));
        test_call_free(lock);
        test_call_free(campaign);
    }
}

static void test_full_or_broken(void **state)
{
    store_put(bytes_str("n/other"), BYTES_NULL, 0);
    for (int broken = 0; broken < 2; broken++) {
        fake.scans_full = !broken;
        struct test_call *t = lock_new("n", 10);
        go_on(t); /* its key is there */
        fake.broken = broken;
        go_on_all_the_way(t);
        fake.broken = false;
        assert_ended(t, STATUS_UNKNOWN,
                     broken ? "etcdserver: corrupt cluster" : "etcdserver: too many requests");
        release(t);
        assert_false(exists("n/a"));
        test_call_free(t);
    }
}

static void test_stop(void **state)
{
    struct test_call *t = waiting_lock();
    store_delete(bytes_str("n/other"));
    go_on(t);
    test_queue.stop_seen = QUEUE_CANCELING;
    go_on_all_the_way(t);
    test_queue.stop_seen = QUEUE_RUNS;
    assert_ended(t, STATUS_UNAVAILABLE, "etcdserver: server stopped");
    release(t);
    assert_false(exists("n/a"));
    test_call_free(t);
}

/* ---- Election ---- */

static void test_campaign_cancelled(void **state)
{
    store_put(bytes_str("n/other"), BYTES_NULL, 0);
    struct test_call *t = campaign_new("n", 10, "v");
    go_on_all_the_way(t);
    cancel(t, true);
    assert_int_equal(n_lingering, 1);
    /* It resigns only as the candidate that it was. */
    store_delete(bytes_str("n/a"));
    store_put(bytes_str("n/a"), BYTES_NULL, 0);
    release(t);
    assert_true(exists("n/a"));
    test_call_free(t);
    store_delete(bytes_str("n/a"));
    t = campaign_new("n", 10, "v");
    go_on_all_the_way(t);
    cancel(t, true);
    release(t);
    assert_false(exists("n/a"));
    test_call_free(t);
}

/* A candidate that is there already, with another value. */
static void test_campaign_again(void **state)
{
    for (int ending = 0; ending < 3; ending++) {
        store_put(bytes_str("n/a"), bytes_str("old"), 10);
        store_put(bytes_str("x"), BYTES_NULL, 0);
        struct test_call *t = campaign_new("n", 10, "new");
        go_on(t);
        if (ending == 1)
            store_delete(bytes_str("n/a"));
        if (ending == 2)
            fake.refuse = OUTCOME_TIMEOUT;
        go_on_all_the_way(t);
        release(t);
        if (ending == 0) {
            assert_ended(t, STATUS_OK, "");
            assert_true(
                bytes_equal(buf_bytes(&stored_find(bytes_str("n/a"))->value), bytes_str("new")));
            store_delete(bytes_str("n/a"));
        } else {
            assert_ended(t, STATUS_UNKNOWN,
                         ending == 1 ? "election: not leader" : "etcdserver: request timed out");
            assert_false(exists("n/a"));
        }
        test_call_free(t);
    }
}

/* The answer's header is that of the first transaction, however long it took to lead. */
static void test_campaign_waits(void **state)
{
    store_put(bytes_str("n/other"), BYTES_NULL, 0);
    struct test_call *t = campaign_new("n", 10, "v");
    go_on_all_the_way(t);
    store_delete(bytes_str("n/other"));
    go_on_all_the_way(t);
    assert_ended(t, STATUS_OK, "");
    V3electionpb__CampaignResponse *r =
        v3electionpb__campaign_response__unpack(NULL, t->answer.len, t->answer.data);
    assert_int_equal(r->header->revision, 3);
    assert_int_equal(r->leader->rev, 3);
    assert_int_equal(r->leader->lease, 10);
    assert_true(bytes_equal(of_pb(r->leader->key), BYTES_LIT("n/a")));
    assert_true(bytes_equal(of_pb(r->leader->name), BYTES_LIT("n")));
    v3electionpb__campaign_response__free_unpacked(r, NULL);
    test_call_free(t);
}

static void test_leader_field_missing(void **state)
{
    struct test_call *proclaim = test_call_new(), *resign = test_call_new();
    proclaim->message.proclaim =
        (V3electionpb__ProclaimRequest)V3ELECTIONPB__PROCLAIM_REQUEST__INIT;
    resign->message.resign = (V3electionpb__ResignRequest)V3ELECTIONPB__RESIGN_REQUEST__INIT;
    election_proclaim(&proclaim->call);
    election_resign(&resign->call);
    assert_ended(proclaim, STATUS_UNKNOWN, "\"leader\" field must be provided");
    assert_ended(resign, STATUS_UNKNOWN, "\"leader\" field must be provided");
    test_call_free(proclaim);
    test_call_free(resign);
}

static void test_observe(void **state)
{
    struct test_call *t = observe_new("n");
    go_on_all_the_way(t);
    assert_int_equal(t->n_sent, 0);
    store_put(bytes_str("n/a"), bytes_str("v1"), 0); /* 2 */
    store_put(bytes_str("n/a"), bytes_str("v2"), 0);
    store_put(bytes_str("n/b"), bytes_str("w1"), 0); /* 4 */
    go_on_all_the_way(t);
    assert_int_equal(t->n_sent, 2);
    assert_sent(t, 0, "v1", 2);
    assert_sent(t, 1, "v2", 4);
    store_put(bytes_str("n/a"), bytes_str("v3"), 0); /* 5 */
    store_put(bytes_str("n/a"), bytes_str("v4"), 0);
    store_put(bytes_str("n/b"), bytes_str("w2"), 0);
    store_delete(bytes_str("n/a")); /* 8 */
    store_put(bytes_str("n/a"), bytes_str("v5"), 0);
    go_on_all_the_way(t);
    assert_int_equal(t->n_sent, 5);
    assert_sent(t, 2, "v3", 9); /* the header's is the response's */
    assert_sent(t, 3, "v4", 9);
    assert_sent(t, 4, "w2", 9);
    hub_loses(WATCH_COMPACTED);
    go_on_all_the_way(t);
    assert_ended(t, STATUS_OK, ""); /* as etcd's */
    assert_int_equal(t->answer.len, 0);
    test_call_free(t);
}

/* ---- every order ---- */

/* Several calls with one lease have one key; one of them that waits while another unlocks and locks
 * again takes the new key for its own, in etcd too. */
static bool leases_are_shared;

/* At the moment of its answer the key of a lock is there, and the oldest. */
static void check_holder(const struct test_call *t)
{
    if (t->call.phase != CALL_ANSWERED || t->call.status.code != STATUS_OK || leases_are_shared)
        return;
    V3lockpb__LockResponse *r =
        v3lockpb__lock_response__unpack(NULL, t->answer.len, t->answer.data);
    const struct stored *own = stored_find(of_pb(r->key));
    assert_non_null(own);
    for (size_t i = 0; i < fake.n_keys; i++)
        assert_true(fake.keys[i].created >= own->created);
    v3lockpb__lock_response__free_unpacked(r, NULL);
}

/* Holders let go one after the other, until nobody waits. */
static void settle(struct test_call **calls)
{
    for (size_t rounds = 0;; rounds++) {
        assert_true(rounds < 4 * CALLS);
        for (size_t i = 0; i < CALLS; i++) {
            release(calls[i]);
            while (can_go_on(calls[i])) {
                go_on(calls[i]);
                check_holder(calls[i]);
            }
        }
        if (fake.n_keys == 0)
            break;
        const struct stored *oldest = &fake.keys[0];
        for (size_t i = 1; i < fake.n_keys; i++)
            if (fake.keys[i].created < oldest->created)
                oldest = &fake.keys[i];
        struct buf key = BUF_NULL;
        buf_append_bytes(&key, buf_bytes(&oldest->key));
        store_delete(buf_bytes(&key));
        buf_deinit(&key);
    }
}

static void disturb(struct rng *rng, struct test_call **calls, size_t i)
{
    switch (rng_below(rng, 12)) {
    case 0: cancel(calls[i], rng_below(rng, 2)); break;
    case 1: store_revoke(1 + (int64_t)i); break;
    case 2: release(calls[i]); break;
    case 3:
        if (fake.n_keys && rng_below(rng, 2)) { /* somebody unlocks what he holds, or not */
            struct buf key = BUF_NULL;
            buf_append_bytes(&key, buf_bytes(&fake.keys[rng_below(rng, fake.n_keys)].key));
            store_delete(buf_bytes(&key));
            buf_deinit(&key);
        }
        break;
    default:
        if (can_go_on(calls[i])) {
            go_on(calls[i]);
            check_holder(calls[i]);
        }
    }
}

static void test_any_order(void **state)
{
    size_t n_locked = 0, n_expired = 0, n_cancelled = 0;
    for (uint64_t seed = 1; seed <= ROUNDS; seed++) {
        struct test_call *calls[CALLS];
        struct rng rng;
        rng_init(&rng, seed);
        teardown(state);
        setup(state);
        leases_are_shared = seed % 4 == 0;
        for (size_t i = 0; i < CALLS; i++) {
            uint64_t lease = leases_are_shared ? rng_below(&rng, CALLS) : i;
            calls[i] = lock_new("n", 1 + (int64_t)lease);
        }
        for (size_t step = 0; step < 20 * CALLS; step++)
            disturb(&rng, calls, rng_below(&rng, CALLS));
        settle(calls);
        for (size_t i = 0; i < CALLS; i++) {
            enum status_code code = calls[i]->call.status.code;
            if (calls[i]->call.phase != CALL_ANSWERED)
                fail_msg("seed %ju: call %zu waits for ever", (uintmax_t)seed, i);
            n_locked += code == STATUS_OK;
            n_cancelled += code == STATUS_CANCELED;
            n_expired += code == STATUS_UNKNOWN;
            test_call_free(calls[i]);
        }
    }
    print_message("%zu locked, %zu expired, %zu cancelled\n", n_locked, n_expired, n_cancelled);
    assert_true(n_locked && n_expired && n_cancelled);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_without_lease, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_negative_lease, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_lease_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_cancelled_anywhere, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors_are_unknown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_watch_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_or_broken, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_campaign_cancelled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_campaign_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_campaign_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leader_field_missing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_observe, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_order, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
