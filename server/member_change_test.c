/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes of members through a cluster of whole members in one process, turn by turn: what is
 * refused before it is proposed and what when it is applied, the answers, promotions that are
 * passed on, a member that joins, one that is removed, leaders that move.
 */
#include "server/member_change.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"
#include "server/cluster_version.h"
#include "server/test_cluster.h"

enum { FIRST_PORT = 21600 }; /* of test_cluster.h */

/* ---- requests between members ---- */

static unsigned deaf;                      /* so many requests from now on get no answer */
static unsigned asked;                     /* requests so far */
static const char *told_version = "3.7.1"; /* by all, when others ask */

static struct peer *peer_at(struct cluster *c, const char *url)
{
    unsigned port = 0;

    check(sscanf(url, "http://127.0.0.1:%u", &port) == 1);
    return port >= FIRST_PORT && port - FIRST_PORT < c->n ? &c->peers[port - FIRST_PORT] : NULL;
}

/* POST /members/promote/ID under way at another member. */
struct forwarded {
    struct request request;
    struct transport_fetch *fetch;
};

static void forwarded_finish(struct request *request, enum outcome outcome)
{
    struct forwarded *f = container_of(request, struct forwarded, request);
    bool json;

    f->fetch->status = server_peer_promote_answer(request, outcome, &f->fetch->answer, &json);
    assert_true(json == (f->fetch->status == 200 || f->fetch->status == 500));
    f->fetch->done(f->fetch);
    buf_deinit(&request->response);
    free(f);
}

static void answer_version(struct server *s, struct buf *out)
{
    struct server_info info;

    server_info(s, &info);
    buf_printf(out, "{\"etcdserver\":\"%s\",\"etcdcluster\":\"%s\"}", told_version,
               info.cluster_version[0] ? info.cluster_version : "not_decided");
}

/* True: done() comes later. */
static bool serve(struct peer *to, struct transport_fetch *f)
{
    struct server *s = to->box->s;
    uint64_t id;

    f->cluster_id = s->state.cluster_id;
    f->status = 200;
    if (strcmp(f->path, "/members") == 0) {
        server_peer_members(s, &f->answer);
    } else if (strcmp(f->path, "/version") == 0) {
        answer_version(s, &f->answer);
    } else if (strcmp(f->path, "/downgrade/enabled") == 0) {
        buf_append_str(&f->answer, server_peer_downgrade_enabled(s) ? "true" : "false");
    } else {
        struct forwarded *forwarded = mem_new(struct forwarded);
        check(sscanf(f->path, "/members/promote/%" SCNu64, &id) == 1);
        check(strcmp(f->method, "POST") == 0);
        forwarded->fetch = f;
        forwarded->request.finish = forwarded_finish;
        server_promote_member(s, &forwarded->request, id);
        return true;
    }
    return false;
}

static void fetch(struct transport *t, struct transport_fetch *f)
{
    struct peer *from = peer_of(t), *to = NULL;

    asked++;
    f->status = 0;
    for (size_t i = 0; i < f->n_urls && !(to && reaches(from, to)); i++)
        to = peer_at(from->cluster, f->urls[i]);
    if (deaf > 0)
        deaf--;
    else if (to && reaches(from, to) && serve(to, f))
        return;
    f->done(f);
}

static struct transport_ops ops;

/* A place for one more member, which is told of in --initial-cluster of all that open later. */
static void cluster_grow(struct cluster *c, const char *state)
{
    size_t i = c->n++;

    c->peers[i].cluster = c;
    c->peers[i].transport.ops = &ops;
    c->peers[i].box = box_new(test_dir_new());
    cluster_configure(c, i);
    free(c->peers[i].box->config.initial_cluster_state);
    c->peers[i].box->config.initial_cluster_state = mem_strdup(state);
}

static struct cluster *cluster_begin(size_t n)
{
    struct cluster *c = cluster_new(n, 100);

    ops = net_ops;
    ops.fetch = fetch;
    deaf = asked = 0;
    for (size_t i = 0; i < n; i++)
        c->peers[i].transport.ops = &ops;
    cluster_settle(c);
    return c;
}

static int setup_one(void **state)
{
    *state = cluster_begin(1);
    return 0;
}

static int setup_three(void **state)
{
    *state = cluster_begin(3);
    return 0;
}

static int teardown(void **state)
{
    *state = cluster_free(*state);
    return 0;
}

static size_t follower(struct cluster *c)
{
    return (cluster_leader(c) + 1) % c->n;
}

/* ---- changes, as a client makes them ---- */

static void begin_add(struct cluster *c, size_t i, struct call *call, const char *url, bool learner)
{
    Etcdserverpb__MemberAddRequest q = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    char *urls[] = {(char *)(uintptr_t)url};

    q.peerurls = urls;
    q.n_peerurls = 1;
    q.islearner = learner;
    call_init(call, REQUEST_MEMBER_ADD, BYTES_NULL);
    server_change_members(server_at(c, i), &call->request, &q);
}

static void begin_remove(struct cluster *c, size_t i, struct call *call, uint64_t id)
{
    Etcdserverpb__MemberRemoveRequest q = ETCDSERVERPB__MEMBER_REMOVE_REQUEST__INIT;

    q.id = id;
    call_init(call, REQUEST_MEMBER_REMOVE, BYTES_NULL);
    server_change_members(server_at(c, i), &call->request, &q);
}

static void begin_update(struct cluster *c, size_t i, struct call *call, uint64_t id,
                         const char *url)
{
    Etcdserverpb__MemberUpdateRequest q = ETCDSERVERPB__MEMBER_UPDATE_REQUEST__INIT;
    char *urls[] = {(char *)(uintptr_t)url};

    q.id = id;
    q.peerurls = urls;
    q.n_peerurls = url ? 1 : 0;
    call_init(call, REQUEST_MEMBER_UPDATE, BYTES_NULL);
    server_change_members(server_at(c, i), &call->request, &q);
}

static void begin_promote(struct cluster *c, size_t i, struct call *call, uint64_t id)
{
    call_init(call, REQUEST_MEMBER_PROMOTE, BYTES_NULL);
    server_promote_member(server_at(c, i), &call->request, id);
}

static void begin_move(struct cluster *c, size_t i, struct call *call, uint64_t id)
{
    call_init(call, REQUEST_MOVE_LEADER, BYTES_NULL);
    server_move_leader(server_at(c, i), &call->request, id);
}

/* Runs until it is answered, with ticks for what waits for them. */
static int answered(struct cluster *c, struct call *call)
{
    for (int k = 0; call->n_finished == 0; k++) {
        check(k < CLUSTER_STEPS_MAX);
        for (size_t i = 0; i < c->n; i++)
            promotions_tick(server_at(c, i)->promotions);
        cluster_step(c);
    }
    assert_int_equal(call->n_finished, 1);
    return call->outcome;
}

static int ended(struct cluster *c, struct call *call)
{
    int outcome = answered(c, call);

    call_deinit(call);
    return outcome;
}

static int add(struct cluster *c, size_t i, const char *url, bool learner, uint64_t *ret_id)
{
    Etcdserverpb__MemberAddResponse *r;
    struct call call;

    begin_add(c, i, &call, url, learner);
    if (answered(c, &call) == OUTCOME_OK && ret_id) {
        r = etcdserverpb__member_add_response__unpack(NULL, call.request.response.len,
                                                      call.request.response.data);
        *ret_id = r->member->id;
        etcdserverpb__member_add_response__free_unpacked(r, NULL);
    }
    call_deinit(&call);
    return call.outcome;
}

static int removed(struct cluster *c, size_t i, uint64_t id)
{
    struct call call;

    begin_remove(c, i, &call, id);
    return ended(c, &call);
}

static int updated(struct cluster *c, size_t i, uint64_t id, const char *url)
{
    struct call call;

    begin_update(c, i, &call, id, url);
    return ended(c, &call);
}

static int promoted(struct cluster *c, size_t i, uint64_t id)
{
    struct call call;

    begin_promote(c, i, &call, id);
    return ended(c, &call);
}

static int moved(struct cluster *c, size_t i, uint64_t id)
{
    struct call call;

    begin_move(c, i, &call, id);
    return ended(c, &call);
}

/* ---- one member ---- */

static void test_answers(void **state)
{
    struct cluster *c = *state;
    struct server *s = server_at(c, 0);
    struct call call;
    uint64_t id;

    begin_add(c, 0, &call, " HTTP://127.0.0.1:2 ", true);
    assert_int_equal(answered(c, &call), OUTCOME_OK);
    Etcdserverpb__MemberAddResponse *r = etcdserverpb__member_add_response__unpack(
        NULL, call.request.response.len, call.request.response.data);
    assert_true(r->header->cluster_id == s->state.cluster_id);
    assert_true(r->header->member_id == s->state.member_id);
    assert_int_equal(r->header->raft_term, 2);
    assert_int_equal(r->header->revision, 0);
    assert_true(r->member->islearner && !r->member->name[0] && r->member->n_clienturls == 0);
    assert_string_equal(r->member->peerurls[0], "http://127.0.0.1:2");
    assert_int_equal(r->n_members, 2);
    assert_true(r->members[0]->id < r->members[1]->id);
    id = r->member->id;
    etcdserverpb__member_add_response__free_unpacked(r, NULL);
    call_deinit(&call);

    begin_update(c, 0, &call, id, "http://127.0.0.1:3");
    assert_int_equal(answered(c, &call), OUTCOME_OK);
    Etcdserverpb__MemberUpdateResponse *u = etcdserverpb__member_update_response__unpack(
        NULL, call.request.response.len, call.request.response.data);
    assert_int_equal(u->n_members, 2);
    size_t at = u->members[0]->id == id ? 0 : 1;
    assert_string_equal(u->members[at]->peerurls[0], "http://127.0.0.1:3");
    assert_true(u->members[at]->islearner);
    etcdserverpb__member_update_response__free_unpacked(u, NULL);
    call_deinit(&call);
    assert_int_equal(removed(c, 0, id), OUTCOME_OK);
    assert_true(server_peer_is_removed(s, id));
}

static void test_refused(void **state)
{
    struct cluster *c = *state;
    uint64_t self = c->peers[0].id, learner;

    assert_int_equal(add(c, 0, "nonsense", false, NULL), OUTCOME_MEMBER_BAD_URLS);
    assert_int_equal(add(c, 0, "http://127.0.0.1:21600", false, NULL), OUTCOME_PEER_URL_EXISTS);
    assert_int_equal(removed(c, 0, 99), OUTCOME_MEMBER_NOT_FOUND);
    assert_int_equal(removed(c, 0, self), OUTCOME_MEMBER_NOT_ENOUGH_STARTED);
    assert_int_equal(updated(c, 0, 99, "http://127.0.0.1:2"), OUTCOME_MEMBER_NOT_FOUND);
    assert_int_equal(updated(c, 0, self, "nonsense"), OUTCOME_MEMBER_BAD_URLS);
    assert_int_equal(updated(c, 0, self, NULL), OUTCOME_MEMBER_BAD_URLS);
    assert_int_equal(promoted(c, 0, 99), OUTCOME_MEMBER_NOT_FOUND);
    assert_int_equal(promoted(c, 0, self), OUTCOME_MEMBER_NOT_LEARNER);
    assert_int_equal(add(c, 0, "http://127.0.0.1:2", true, &learner), OUTCOME_OK);
    assert_int_equal(add(c, 0, "http://127.0.0.1:3", true, NULL), OUTCOME_TOO_MANY_LEARNERS);
    assert_int_equal(promoted(c, 0, learner), OUTCOME_LEARNER_NOT_READY);
    assert_int_equal(removed(c, 0, learner), OUTCOME_OK);
    assert_int_equal(removed(c, 0, learner), OUTCOME_MEMBER_NOT_FOUND);
    assert_int_equal(cluster_put(c, 0, "k", "v"), OUTCOME_OK);
    cluster_close(c, 0);
    cluster_open(c, 0);
    cluster_settle(c);
    assert_true(server_peer_is_removed(server_at(c, 0), learner));
}

static void test_many_learners(void **state)
{
    struct cluster *c = *state;

    c->peers[0].box->config.max_learners = 3;
    cluster_close(c, 0);
    cluster_open(c, 0);
    cluster_settle(c);
    for (int i = 0; i < 4; i++) {
        char *url = mem_printf("http://127.0.0.1:%d", 2 + i);
        assert_int_equal(add(c, 0, url, true, NULL),
                         i < 3 ? OUTCOME_OK : OUTCOME_TOO_MANY_LEARNERS);
        free(url);
    }
}

/* It lives on for a while after its removal, which came later than begun_ms. */
static void not_yet_gone(struct server *s, uint64_t begun_ms)
{
    bool gone = server_is_removed(s);

    if (clock_mono_ms() < begun_ms + MEMBER_REMOVED_STOP_MS)
        assert_false(gone);
}

/* Without the strict check the last voter may remove itself. It is none any more then: it stops. */
static void test_last_voter_goes(void **state)
{
    struct cluster *c = *state;
    struct server *s = server_at(c, 0);
    uint64_t begun_ms = clock_mono_ms();

    c->peers[0].box->config.strict_reconfig_check = false;
    assert_int_equal(removed(c, 0, c->peers[0].id), OUTCOME_OK);
    not_yet_gone(s, begun_ms);
    assert_true(atomic_load(&s->removed_at_ms) != 0);
    server_peer_we_are_removed(s); /* others say so, too: at once */
    assert_true(server_is_removed(s));
    cluster_close(c, 0);
    cluster_open(c, 0);
    cluster_run(c, 3000);
    assert_true(atomic_load(&server_at(c, 0)->removed_at_ms) != 0); /* its data are of no use */
}

/* ---- three members ---- */

/* Any member takes a change, and answers it. */
static void test_through_follower(void **state)
{
    struct cluster *c = *state;
    uint64_t learner;

    assert_int_equal(add(c, follower(c), "http://127.0.0.1:2", true, &learner), OUTCOME_OK);
    assert_int_equal(updated(c, follower(c), learner, "http://127.0.0.1:3"), OUTCOME_OK);
    assert_int_equal(updated(c, follower(c), learner, "http://127.0.0.1:21600"),
                     OUTCOME_PEER_URL_EXISTS);
    assert_int_equal(removed(c, follower(c), learner), OUTCOME_OK);
    cluster_settle(c);
    for (size_t i = 0; i < 3; i++)
        assert_true(server_peer_is_removed(server_at(c, i), learner));
}

static void test_strict(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), lost = follower(c), left = 3 - leader - lost;
    uint64_t unstarted;

    c->peers[lost].cut = true;
    assert_int_equal(add(c, leader, "http://127.0.0.1:2", false, NULL), OUTCOME_UNHEALTHY);
    assert_int_equal(add(c, leader, "http://127.0.0.1:2", true, NULL), OUTCOME_UNHEALTHY);
    assert_int_equal(removed(c, leader, c->peers[left].id), OUTCOME_UNHEALTHY);
    server_at(c, leader)->config = &c->peers[leader].box->config;
    c->peers[leader].box->config.strict_reconfig_check = false;
    assert_int_equal(add(c, leader, "http://127.0.0.1:2", false, &unstarted), OUTCOME_OK);
    c->peers[leader].box->config.strict_reconfig_check = true;
    c->peers[lost].cut = false;
    cluster_settle(c);
    /* Three of four are started: enough for the quorum of five, but with one less, or one more that
     * isn't, it would not be. */
    assert_int_equal(add(c, leader, "http://127.0.0.1:3", false, NULL), OUTCOME_OK);
    assert_int_equal(add(c, leader, "http://127.0.0.1:4", false, NULL),
                     OUTCOME_MEMBER_NOT_ENOUGH_STARTED);
    assert_int_equal(removed(c, leader, c->peers[lost].id), OUTCOME_MEMBER_NOT_ENOUGH_STARTED);
    assert_int_equal(removed(c, leader, unstarted), OUTCOME_OK);
}

/* A second change before the first is applied is replaced by an empty entry: its request times out,
 * as with etcd. */
static void test_one_at_a_time(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c);
    struct call first, second;

    begin_add(c, leader, &first, "http://127.0.0.1:2", true);
    begin_update(c, leader, &second, c->peers[0].id, "http://127.0.0.1:3");
    assert_int_equal(ended(c, &first), OUTCOME_OK);
    cluster_settle(c);
    assert_int_equal(second.outcome, CALL_WAITS);
    wait_expire(&server_at(c, leader)->wait, UINT64_MAX - 1, server_timeout_outcome,
                server_at(c, leader));
    assert_int_equal(second.outcome, OUTCOME_TIMEOUT);
    call_deinit(&second);
}

static void test_move_leader(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), next = follower(c);
    uint64_t learner;
    struct call call;

    assert_int_equal(moved(c, next, c->peers[leader].id), OUTCOME_NOT_LEADER);
    assert_int_equal(moved(c, next, 99), OUTCOME_NOT_LEADER); /* which comes first */
    assert_int_equal(moved(c, leader, 99), OUTCOME_BAD_LEADER_TRANSFEREE);
    assert_int_equal(add(c, leader, "http://127.0.0.1:2", true, &learner), OUTCOME_OK);
    assert_int_equal(moved(c, leader, learner), OUTCOME_BAD_LEADER_TRANSFEREE);
    assert_int_equal(moved(c, leader, c->peers[leader].id), OUTCOME_OK);
    assert_int_equal(moved(c, leader, c->peers[next].id), OUTCOME_OK);
    assert_int_equal(cluster_leader(c), next);
    cluster_settle(c);
    /* One that can't be reached never leads. */
    c->peers[leader].cut = true;
    begin_move(c, next, &call, c->peers[leader].id);
    cluster_run(c, 3000);
    assert_int_equal(call.outcome, CALL_WAITS);
    wait_expire(&server_at(c, next)->wait, UINT64_MAX - 1, server_timeout_outcome,
                server_at(c, next));
    assert_int_equal(call.outcome, OUTCOME_TIMEOUT_LEADER_TRANSFER);
    call_deinit(&call);
    c->peers[leader].cut = false;
}

/* ---- why a request timed out ---- */

static int put_and_expire(struct cluster *c, size_t i, uint64_t age_ms)
{
    struct server *s = server_at(c, i);
    struct call call;

    call_put(c->peers[i].box, &call, "k", "v", 0);
    server_submit(s, &call.request);
    cluster_run(c, 100);
    assert_int_equal(call.outcome, CALL_WAITS);
    call.request.expires_ms = clock_mono_ms() - age_ms + s->state.request_timeout_ms;
    wait_expire(&s->wait, UINT64_MAX - 1, server_timeout_outcome, s);
    call_deinit(&call);
    return call.outcome;
}

static void test_reasons(void **state)
{
    struct cluster *c = *state;
    size_t leader = cluster_leader(c), lost = follower(c);

    atomic_store(&server_at(c, leader)->state.leader_since_ms, 0);
    atomic_store(&server_at(c, lost)->state.leader_since_ms, 0);
    c->peers[lost].cut = true; /* by its own account it still has a leader */
    assert_int_equal(put_and_expire(c, lost, 1000), OUTCOME_TIMEOUT_CONNECTION_LOST);
    c->peers[lost].cut = false;
    cluster_settle(c);
    c->peers[leader].cut = true; /* a leader without its quorum */
    assert_int_equal(put_and_expire(c, leader, 1000), OUTCOME_TIMEOUT_CONNECTION_LOST);
    cluster_run(c, 5000); /* it has noticed: none leads there */
    assert_int_equal(leader_of(c, leader), 0);
    assert_int_equal(put_and_expire(c, leader, 1000), OUTCOME_TIMEOUT);
    /* One that was there before the leader was, by less than two election timeouts. */
    atomic_store(&server_at(c, leader)->state.leader_since_ms, clock_mono_ms());
    assert_int_equal(put_and_expire(c, leader, 1900), OUTCOME_TIMEOUT_LEADER_FAILURE);
    assert_int_equal(put_and_expire(c, leader, 10000), OUTCOME_TIMEOUT);
    c->peers[leader].cut = false;
    cluster_settle(c);
}

/* ---- a fourth ---- */

static void tick_versions(struct cluster *c)
{
    for (size_t i = 0; i < c->n; i++)
        if (c->peers[i].up)
            cluster_version_tick(server_at(c, i)->cluster_version, UINT64_MAX);
}

static void expect_version(struct cluster *c, const char *expected)
{
    struct server_info info;

    tick_versions(c);
    cluster_run(c, 100);
    cluster_settle(c);
    for (size_t i = 0; i < c->n; i++) {
        server_info(server_at(c, i), &info);
        assert_string_equal(info.cluster_version, expected);
    }
}

/* Silent members make the lowest version unknown, but only until they speak. */
static void test_cluster_version(void **state)
{
    struct cluster *c = *state;

    asked = 0;
    deaf = 1;
    expect_version(c, "3.0.0");
    assert_int_equal(asked, 1); /* the leader's first question; the answer is clear then */
    told_version = "3.6.4";
    expect_version(c, "3.6.0");
    assert_int_equal(asked, 3); /* one by one, of both others */
    told_version = "3.7.1";
    expect_version(c, "3.7.0");
    asked = 0;
    expect_version(c, "3.7.0");
    assert_int_equal(asked, 2);
}

/* Added through a follower, started with "existing", caught up, promoted through a follower. */
static uint64_t grow_by_learner(struct cluster *c)
{
    size_t new_one = c->n;
    char *url = mem_printf("http://127.0.0.1:%zu", FIRST_PORT + new_one);
    uint64_t id;

    expect_version(c, "3.7.0");
    assert_int_equal(add(c, follower(c), url, true, &id), OUTCOME_OK);
    cluster_settle(c);
    cluster_grow(c, "existing");
    cluster_open(c, new_one);
    assert_true(c->peers[new_one].id == id);
    assert_true(server_at(c, new_one)->state.cluster_id == server_at(c, 0)->state.cluster_id);
    assert_true(server_peer_is_known(server_at(c, new_one), c->peers[0].id)); /* by hearsay */
    free(url);
    return id;
}

static void test_join_and_promote(void **state)
{
    struct cluster *c = *state;
    uint64_t id = grow_by_learner(c);
    struct server *s = server_at(c, 3);

    assert_int_equal(promoted(c, follower(c), id), OUTCOME_LEARNER_NOT_READY);
    cluster_settle(c);
    assert_true(server_is_learner(s));
    assert_false(server_is_learner(server_at(c, 0)));
    (void)server_wait_ready(s, 0); /* it says who it is */
    cluster_settle(c);
    cluster_run(c, 200); /* and the leader knows how far it has come */
    asked = 0;
    size_t through = follower(c) == 3 ? (follower(c) + 1) % 4 : follower(c);
    deaf = 2; /* the leader does not answer at once */
    assert_int_equal(promoted(c, through, id), OUTCOME_OK);
    assert_int_equal(asked, 3);
    cluster_settle(c);
    assert_false(server_is_learner(s));
    assert_int_equal(promoted(c, through, id), OUTCOME_MEMBER_NOT_LEARNER);
    assert_int_equal(promoted(c, through, 99), OUTCOME_MEMBER_NOT_FOUND);
    assert_int_equal(moved(c, cluster_leader(c), id), OUTCOME_OK);
    assert_int_equal(cluster_leader(c), 3);
    cluster_settle(c);
    assert_int_equal(cluster_put(c, 0, "k", "v"), OUTCOME_OK);
}

/* The leader is asked again and again until the request's time is over. */
static void test_promote_times_out(void **state)
{
    struct cluster *c = *state;
    uint64_t id = grow_by_learner(c);
    size_t through = follower(c);
    struct server *s = server_at(c, through);
    struct call call;

    cluster_settle(c);
    deaf = UINT32_MAX;
    begin_promote(c, through, &call, id);
    for (int i = 0; i < 5; i++) {
        cluster_run(c, 100);
        promotions_tick(s->promotions);
    }
    assert_int_equal(call.outcome, CALL_WAITS);
    wait_expire(&s->wait, UINT64_MAX - 1, server_timeout_outcome, s);
    assert_int_equal(call.outcome, OUTCOME_TIMEOUT);
    call_deinit(&call);
    deaf = asked = 0;
    promotions_tick(s->promotions); /* it finds its request gone */
    cluster_run(c, 100);
    assert_int_equal(asked, 0);
    assert_true(server_is_learner(server_at(c, 3)));
    /* Nobody leads as far as this one knows. */
    c->peers[through].cut = true;
    cluster_run(c, 5000);
    begin_promote(c, through, &call, id);
    cluster_run(c, 100);
    wait_expire(&s->wait, UINT64_MAX - 1, server_timeout_outcome, s);
    assert_int_equal(call.outcome, OUTCOME_NO_LEADER);
    call_deinit(&call);
    c->peers[through].cut = false;
}

/* It learns of its removal by the log, and of what it missed nothing more. */
static void test_removed_member(void **state)
{
    struct cluster *c = *state;
    size_t gone = follower(c);
    struct server *s = server_at(c, gone);
    uint64_t begun_ms = clock_mono_ms();

    assert_int_equal(removed(c, cluster_leader(c), c->peers[gone].id), OUTCOME_OK);
    cluster_run(c, 1000);
    assert_true(atomic_load(&s->removed_at_ms) != 0);
    not_yet_gone(s, begun_ms);
    c->peers[gone].cut = true;
    for (size_t i = 0; i < 3; i++) {
        if (i != gone)
            assert_true(server_peer_is_removed(server_at(c, i), c->peers[gone].id));
    }
    cluster_settle(c);
    assert_int_equal(cluster_put(c, cluster_leader(c), "k", "v"), OUTCOME_OK);
}

/* A leader that removes itself answers, and another takes over. */
static void test_removed_leader(void **state)
{
    struct cluster *c = *state;
    size_t gone = cluster_leader(c);

    assert_int_equal(removed(c, gone, c->peers[gone].id), OUTCOME_OK);
    cluster_run(c, 500);
    c->peers[gone].cut = true;
    cluster_run(c, 5000);
    cluster_settle(c);
    assert_int_equal(cluster_put(c, cluster_leader(c), "k", "v"), OUTCOME_OK);
}

/* A stop with all kinds of changes under way. */
static void test_stop(void **state)
{
    struct cluster *c = *state;
    size_t i = follower(c);
    struct call add_call, promote_call, late;

    begin_add(c, i, &add_call, "http://127.0.0.1:2", true);
    begin_promote(c, i, &promote_call, 99);
    server_drain(server_at(c, i));
    assert_int_equal(add_call.outcome, OUTCOME_STOPPED);
    assert_int_equal(promote_call.outcome, OUTCOME_STOPPED);
    begin_promote(c, i, &late, 99);
    assert_int_equal(late.outcome, OUTCOME_STOPPED);
    call_deinit(&add_call);
    call_deinit(&promote_call);
    call_deinit(&late);
    cluster_close(c, i);
    cluster_open(c, i);
    cluster_settle(c);
}

/* ---- the door's answers ---- */

static void test_promote_answers(void **state)
{
    static const struct {
        enum outcome outcome;
        int status;
        const char *body;
    } cases[] = {
        {OUTCOME_MEMBER_NOT_FOUND, 404, "membership: ID not found\n"},
        {OUTCOME_MEMBER_NOT_LEARNER, 412, "membership: can only promote a learner member\n"},
        {OUTCOME_LEARNER_NOT_READY, 412,
         "etcdserver: can only promote a learner member which is in sync with leader\n"},
        {OUTCOME_TIMEOUT, 500, "{\"message\":\"Internal Server Error\"}"},
        {OUTCOME_MEMBER_NOT_ENOUGH_STARTED, 500, "{\"message\":\"Internal Server Error\"}"},
    };
    struct request request = {0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(buf_deinit) struct buf body = BUF_NULL;
        bool json;
        assert_int_equal(server_peer_promote_answer(&request, cases[i].outcome, &body, &json),
                         cases[i].status);
        assert_string_equal(buf_cstr(&body), cases[i].body);
        assert_int_equal(json, cases[i].status == 500);
    }
}

#define ONE(f) cmocka_unit_test_setup_teardown(f, setup_one, teardown)
#define THREE(f) cmocka_unit_test_setup_teardown(f, setup_three, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ONE(test_answers),
        ONE(test_refused),
        ONE(test_many_learners),
        ONE(test_last_voter_goes),
        THREE(test_through_follower),
        THREE(test_strict),
        THREE(test_one_at_a_time),
        THREE(test_move_leader),
        THREE(test_reasons),
        THREE(test_cluster_version),
        THREE(test_join_and_promote),
        THREE(test_promote_times_out),
        THREE(test_removed_member),
        THREE(test_removed_leader),
        THREE(test_stop),
        cmocka_unit_test(test_promote_answers),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
