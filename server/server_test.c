/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server with its threads: start, its own proposals, requests from several threads at once,
 * compactions in the background, stop.
 */
#include "server/test_wait.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/clock.h"

enum { PATIENCE_MS = 30000 };

static void start(struct box *b)
{
    box_open(b);
    assert_int_equal(server_start_threads(b->s), 0);
    assert_true(server_wait_ready(b->s, PATIENCE_MS));
}

static int setup(void **state)
{
    struct box *b = box_new(test_dir_new());

    start(b);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    *state = box_free(*state);
    return 0;
}

static int put(struct box *b, const char *key, const char *value)
{
    struct wait_call w;

    call_put(b, &w.call, key, value, 0);
    return submit_and_wait(b, &w);
}

static void wait_for_version(struct box *b, struct server_info *info)
{
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    do {
        server_info(b->s, info);
        sched_yield();
    } while (info->cluster_version[0] == '\0' && clock_mono_ms() < end_ms);
}

/* Ready means published: its name and client URLs are in the member list. */
static void test_ready(void **state)
{
    struct box *b = *state;
    struct buf out = BUF_NULL;
    struct server_info info;

    assert_int_equal(server_member_list(b->s, NULL, &out), OUTCOME_OK);
    Etcdserverpb__MemberListResponse *r =
        etcdserverpb__member_list_response__unpack(NULL, out.len, out.data);
    assert_int_equal(r->n_members, 1);
    assert_string_equal(r->members[0]->name, "default");
    assert_int_equal(r->members[0]->n_clienturls, 1);
    assert_string_equal(r->members[0]->clienturls[0], "http://localhost:2379");
    assert_int_equal(r->header->revision, 0);
    etcdserverpb__member_list_response__free_unpacked(r, NULL);
    buf_deinit(&out);
    wait_for_version(b, &info);
    assert_string_equal(info.cluster_version, "3.7.0");
}

static void test_restart(void **state)
{
    struct box *b = *state;
    struct server_info info;

    assert_int_equal(put(b, "k", "1"), OUTCOME_OK);
    assert_int_equal(put(b, "k", "2"), OUTCOME_OK);
    wait_for_version(b, &info);
    for (int round = 0; round < 2; round++) {
        char *before = box_text(b), *after;
        box_close(b);
        start(b);
        after = box_text(b);
        assert_string_equal(after, before);
        free(before);
        free(after);
    }
    assert_int_equal(put(b, "k", "3"), OUTCOME_OK);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 4);
}

/* The deletion begins without anybody asking again. */
static void test_compactions(void **state)
{
    struct box *b = *state;
    struct wait_call w;
    struct mvcc_hash hash = {.compact_revision = 0};
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    for (int i = 0; i < 20; i++)
        assert_int_equal(put(b, "k", "v"), OUTCOME_OK);
    call_compact(b, &w.call, 5, false);
    assert_int_equal(submit_and_wait(b, &w), OUTCOME_OK);
    do { /* etcd's cache of compaction hashes shows that it is done */
        int r = mvcc_hash_kv(b->s->store.mvcc, 5, &hash);
        assert_int_equal(r, 0);
        sched_yield();
    } while (hash.compact_revision != -1 && clock_mono_ms() < end_ms);
    assert_int_equal(hash.compact_revision, -1);
    call_compact(b, &w.call, 7, true); /* the hash of 5 is there a moment before 5 is finished */
    assert_int_equal(submit_and_wait(b, &w), OUTCOME_OK);
    call_compact(b, &w.call, 10, true);
    assert_int_equal(submit_and_wait(b, &w), OUTCOME_OK);
    assert_int_equal(mvcc_hash_kv(b->s->store.mvcc, 10, &hash), 0);
    assert_int_equal(hash.compact_revision, 7);
    call_compact(b, &w.call, 10, true);
    assert_int_equal(submit_and_wait(b, &w), OUTCOME_COMPACTED);
}

static void test_quota_raises_the_alarm(void **state)
{
    struct box *b = *state;
    struct wait_call w;
    uint64_t end_ms = clock_mono_ms() + PATIENCE_MS;

    assert_true(server_quota_exceeded(b->s, 3ull << 30));
    while (!alarms_no_space(b->s->store.alarms) && clock_mono_ms() < end_ms)
        sched_yield();
    assert_int_equal(put(b, "k", "v"), OUTCOME_NO_SPACE);
    call_alarm(b, &w.call, false, ETCDSERVERPB__ALARM_TYPE__NOSPACE);
    assert_int_equal(submit_and_wait(b, &w), OUTCOME_OK);
    assert_int_equal(put(b, "k", "v"), OUTCOME_OK);
}

/* It happened; the answer says that there is no space, and comes with the alarm. */
static void test_over_quota(void **state)
{
    struct box *b = box_new(test_dir_new());

    b->config.quota_backend_bytes = 200; /* less than any key costs */
    start(b);
    assert_int_equal(put(b, "k", "v"), OUTCOME_NO_SPACE);
    assert_true(alarms_no_space(b->s->store.alarms));
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 2);
    assert_int_equal(put(b, "k", "v"), OUTCOME_NO_SPACE);
    assert_int_equal(mvcc_revision(b->s->store.mvcc), 2);
    box_free(b);
}

/* ---- several clients, and a drain among them ---- */

enum { CLIENTS = 3, CALLS = 600 };

struct client {
    struct box *b;
    struct call_slot {
        struct call call;
        _Atomic unsigned finished;
        _Atomic int outcome;
    } slots[CALLS];
    struct bytes payload;
    _Atomic size_t submitted;
    pthread_t thread;
};

static void finish_slot(struct request *request, enum outcome outcome)
{
    struct call_slot *slot = container_of(request, struct call_slot, call.request);

    buf_deinit(&request->response);
    atomic_store(&slot->outcome, (int)outcome);
    atomic_fetch_add(&slot->finished, 1);
}

static atomic_bool drained;

/* Puts, reads, and now and then a change of mind; the last call comes behind the drain. */
static void *client_run(void *arg)
{
    struct client *c = arg;

    for (size_t i = 0; i < CALLS; i++) {
        struct call_slot *slot = &c->slots[i];
        bool is_read = i % 4 == 3;
        while (i + 1 == CALLS && !atomic_load(&drained))
            sched_yield();
        call_init(&slot->call, is_read ? REQUEST_READ_INDEX : REQUEST_PUT, c->payload);
        slot->call.request.finish = finish_slot;
        if (is_read)
            server_read_index(c->b->s, &slot->call.request);
        else
            server_submit(c->b->s, &slot->call.request);
        if (i % 7 == 0 && server_cancel(c->b->s, &slot->call.request))
            finish_slot(&slot->call.request, OUTCOME_CANCELED);
        atomic_store(&c->submitted, i + 1);
    }
    return NULL;
}

static void test_clients_and_drain(void **state)
{
    struct box *b = *state;
    struct client *clients = mem_alloc(CLIENTS * sizeof(*clients));
    size_t n[OUTCOME_COUNT] = {0};
    struct wait_call w;

    call_put(b, &w.call, "k", "v", 0);
    for (size_t i = 0; i < CLIENTS; i++) {
        clients[i].b = b;
        clients[i].payload = w.call.request.payload;
        assert_int_equal(pthread_create(&clients[i].thread, NULL, client_run, &clients[i]), 0);
    }
    while (atomic_load(&clients[0].submitted) < CALLS / 2)
        sched_yield();
    server_drain(b->s);
    atomic_store(&drained, true);
    for (size_t i = 0; i < CLIENTS; i++)
        pthread_join(clients[i].thread, NULL);
    b->s = server_stop(b->s);
    for (size_t i = 0; i < CLIENTS; i++) {
        for (size_t k = 0; k < CALLS; k++) {
            assert_int_equal(atomic_load(&clients[i].slots[k].finished), 1);
            n[atomic_load(&clients[i].slots[k].outcome)]++;
        }
    }
    assert_int_equal(n[OUTCOME_OK] + n[OUTCOME_STOPPED] + n[OUTCOME_CANCELED], CLIENTS * CALLS);
    assert_true(n[OUTCOME_STOPPED] > 0);
    free(clients);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_ready),
        T(test_restart),
        T(test_compactions),
        T(test_quota_raises_the_alarm),
        cmocka_unit_test(test_over_quota),
        T(test_clients_and_drain),
    };
    log_level_min = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
