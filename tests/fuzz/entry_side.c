/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A member for entries (see entry_side.h): its own first entries, made once, then the workers that
 * an apply turn calls, without their threads.
 *
 * Thread: one.
 */
#include "tests/fuzz/entry_side.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"
#include "server/housekeeper.h"
#include "server/internal_request.h"
#include "server/lease_ask.h"
#include "server/member_json.h"
#include "server/node.h"
#include "server/server_metrics.h"
#include "server/watch_hub.h"

enum { OURS_MAX = 12 };

/* ---- what is not there ---- */

void __wrap_node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change);
void __wrap_lease_asks_applied(struct lease_asks *all, uint64_t applied);

void __wrap_node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change)
{
    struct side *s = (struct side *)n;
    struct raft_conf_change c = {.changes = &change, .n_changes = 1};
    int r = raft_step(s->raft, &(struct raft_input){.type = RAFT_CONF_APPLIED, .conf = &c});

    s->raft_refused |= r != 0;
    raft_sanity(s->raft);
}

void __wrap_lease_asks_applied(struct lease_asks *all, uint64_t applied)
{
}

static void raise_alarm(void *arg)
{
}

/* ---- entries of ours ---- */

static struct raft_entry ours[OURS_MAX];
static size_t n_ours;

static void ours_add(enum raft_entry_type type, struct blob *data)
{
    check(n_ours < OURS_MAX);
    ours[n_ours] = (struct raft_entry){.term = 1, .index = n_ours + 1, .type = type, .data = data};
    n_ours++;
}

static void ours_member(uint64_t id, const char *url, bool is_learner)
{
    Raftpb__ConfChangeType type = is_learner ? RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode
                                             : RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode;
    char *urls[] = {(char *)(uintptr_t)url};
    struct member m = {.id = id, .peer_urls = urls, .n_peer_urls = 1, .is_learner = is_learner};
    _cleanup_(buf_deinit) struct buf json = BUF_NULL;

    member_json(&json, &m);
    ours_add(RAFT_ENTRY_CONF_CHANGE, member_change_encode(0, type, id, buf_bytes(&json)));
}

static void ours_request(enum request_kind kind, struct bytes payload)
{
    ours_add(RAFT_ENTRY_NORMAL,
             internal_request_encode(kind, payload, 1000 + n_ours, &(struct identity){0}));
}

static void ours_make(void)
{
    ours_add(RAFT_ENTRY_NORMAL, NULL);
    ours_member(SIDE_MEMBER, "http://a:2380", false);
    ours_member(2, "http://b:2380", true);
    ours_request(REQUEST_CLUSTER_VERSION_SET, BYTES_LIT("\x0a\x05"
                                                        "3.6.0"));
    ours_request(REQUEST_LEASE_GRANT, BYTES_LIT("\x08\x64\x10\x07"));
    ours_request(REQUEST_PUT, BYTES_LIT("\x0a\x01"
                                        "a\x12\x01"
                                        "1"));
    ours_request(REQUEST_PUT, BYTES_LIT("\x0a\x01"
                                        "a\x12\x01"
                                        "2\x18\x07"));
    ours_request(REQUEST_PUT, BYTES_LIT("\x0a\x01"
                                        "b\x12\x01"
                                        "3"));
    ours_request(REQUEST_COMPACT, BYTES_LIT("\x08\x02"));
}

/* ---- a side ---- */

static void finish(struct request *request, enum outcome outcome)
{
    container_of(request, struct asker, request)->n_finished++;
}

static void askers_add(struct side *s)
{
    for (unsigned i = 0; i < SIDE_ASKERS; i++) {
        struct request *r = &s->askers[i].request;
        r->kind = i < 2 ? REQUEST_MEMBER_ADD + i : (enum request_kind)i;
        r->physical = i % 2 == 0;
        r->finish = finish;
        r->id = i + 1;
        r->expires_ms = UINT64_MAX;
        check(wait_add(&s->wait, r));
    }
}

static void watch(struct side *s)
{
    struct watch_request all = {.range_end = BYTES_LIT("\0"), .prev_kv = true};

    s->hub = watch_hub_new(&(struct watch_hub_options){.store = &s->store,
                                                       .state = &s->state,
                                                       .ring_bytes = 1 << 20,
                                                       .response_bytes_max = 2 << 20,
                                                       .work_ns = UINT64_MAX}); /* no rests */
    s->stream = watch_stream_open(s->hub, raise_alarm, NULL);
    watch_create(s->stream, &all);
}

static void apply_make(struct side *s, uint8_t settings)
{
    s->housekeeper =
        housekeeper_new(&(struct housekeeper_options){.store = &s->store, .state = &s->state});
    s->apply = apply_new(&(struct apply_options){
        .store = &s->store,
        .wait = &s->wait,
        .state = &s->state,
        .housekeeper = s->housekeeper,
        .snapshots = s->snapshots,
        .watch_hub = s->hub,
        .replay_to = settings & SIDE_REPLAYS ? UINT64_MAX : 0,
        .warning_duration_ns = INT64_MAX,
        .quota_bytes = settings & SIDE_QUOTA ? 1 : -1,
        .raise_alarm = raise_alarm,
        .learners_max = 2,
    });
    apply_set_node(s->apply, (struct node *)s);
}

struct raft *side_raft(const struct raft_conf_state *conf)
{
    struct raft *raft;

    check(raft_new(&raft, &(struct raft_config){.id = SIDE_MEMBER,
                                                .seed = 1,
                                                .election_ticks = 10,
                                                .heartbeat_ticks = 1,
                                                .message_bytes_max = 1 << 20,
                                                .inflight_messages_max = 16,
                                                .conf = conf}) == 0);
    return raft;
}

static void prepare(void)
{
    char *args[] = {(char *)"cairn", NULL}, *no_environ[] = {NULL};
    struct config config;
    int exit_code;

    if (n_ours > 0)
        return;
    check(config_parse(1, args, no_environ, &config, &exit_code) == CONFIG_RUN);
    server_metrics_register(&config, SIDE_MEMBER);
    config_deinit(&config);
    ours_make();
}

struct side *side_new(const char *path, uint8_t settings, const char *snapshots)
{
    struct side *s = mem_new(struct side);

    prepare();
    s->options =
        (struct store_options){.path = path, .compaction_batch_max = 3, .lease_ttl_min_s = 2};
    check(store_open(&s->store, &s->options) == 0);
    s->state.cluster_id = 77;
    s->state.member_id = SIDE_MEMBER;
    s->state.leader = settings & SIDE_LEADS ? SIDE_MEMBER : 2;
    wait_init(&s->wait);
    askers_add(s);
    s->raft = side_raft(&(struct raft_conf_state){0});
    watch(s);
    if (snapshots)
        check(snapshots_new(&s->snapshots, &(struct snapshots_options){.store = &s->store,
                                                                       .state = &s->state,
                                                                       .dir = snapshots}) == 0);
    apply_make(s, settings);
    apply_push_entries(s->apply, ours, n_ours);
    check(apply_turn(s->apply) == 0);
    return s;
}

void side_compact(struct side *s)
{
    int64_t finished;
    bool done = false;

    while (!done)
        check(mvcc_compact_step(s->store.mvcc, &done, &finished) == 0);
}

/* What the watcher gets. */
void side_take_events(struct side *s)
{
    struct watch_response *r;
    int more = 1;

    while (more > 0) {
        more = watch_hub_turn(s->hub);
        check(more >= 0);
        while ((r = watch_stream_take(s->stream)))
            watch_response_free(r);
    }
}

void side_free(struct side *s, bool went_on)
{
    watch_stream_close(s->stream);
    wait_stop(&s->wait);
    housekeeper_drain(s->housekeeper);
    for (unsigned i = 0; i < SIDE_ASKERS; i++) {
        check(s->askers[i].n_finished == 1 || !went_on);
        buf_deinit(&s->askers[i].request.response);
    }
    apply_free(s->apply);
    snapshots_free(s->snapshots);
    watch_hub_free(s->hub);
    housekeeper_free(s->housekeeper);
    wait_deinit(&s->wait);
    raft_free(s->raft);
    store_close(&s->store);
    free(s);
}

uint64_t side_first_index(void)
{
    prepare();
    return n_ours + 1;
}
