/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server: opens everything in order, runs the workers' threads, and takes all of it down in
 * reverse.
 *
 *   start   directory and lock -> database -> state -> log -> raft -> workers -> own proposals
 *   stop    no new requests, waiters answered -> ticker, housekeeper -> raft thread -> apply thread
 *           -> flush -> log marked clean -> database
 *
 * A worker's error ends the process at once (server_fatal): after a failed write nothing in memory
 * may be trusted.
 *
 * Thread: the composition root's; node_run and apply_run are the threads around the turns.
 */
#include "base/check.h"
#include "base/clock.h"
#include "base/cond.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rng.h"
#include "server/bootstrap.h"
#include "server/cluster_version.h"
#include "server/lease_ask.h"
#include "server/lease_expire.h"
#include "server/member_change.h"
#include "server/quota.h"
#include "server/server_metrics.h"
#include "server/server_private.h"
#include "server/watch_hub.h"

enum { OWN_RETRY_MS = 1000, OWN_PATIENCE_MS = 1000, REPLAY_FLUSH_MIN = 5000 };

/* What an operator does about it. */
static const char *advice(int error)
{
    switch (-error) {
    case ENOSPC:
    case EDQUOT:
        return "make room on the disk and start again: what was acknowledged is in the raft log";
    case EBADMSG:
        return "what is stored is damaged, the lines above say where: replace this member from its "
               "peers, or restore a snapshot; starting again does not help";
    default: return "start again; if it ends here once more, look for what is wrong with the disk";
    }
}

_Noreturn void server_fatal(const char *what, int error)
{
    log_fatal("the member can't go on", LOG_STR("cause", what), LOG_ERRNO("error", error),
              LOG_STR("advice", advice(error)));
    abort();
}

/* ---- the threads around the turns ---- */

static void *node_run(void *arg)
{
    struct server *s = arg;

    pthread_setname_np(pthread_self(), "raft");
    while (!atomic_load_explicit(&s->workers_stop, memory_order_acquire)) {
        int r = node_turn(s->node, clock_mono_ms());
        if (r < 0)
            server_fatal("a raft turn failed: the log can't be written or an entry not applied", r);
        node_wait(s->node);
    }
    return NULL;
}

static void *apply_run(void *arg)
{
    struct server *s = arg;
    bool stop;

    pthread_setname_np(pthread_self(), "apply");
    do {
        stop = atomic_load_explicit(&s->workers_stop, memory_order_acquire);
        int r = apply_turn(s->apply);
        if (r < 0)
            server_fatal("a committed entry can't be applied", r);
        if (!stop)
            apply_wait(s->apply);
    } while (!stop);
    return NULL;
}

static void *watch_run(void *arg)
{
    struct server *s = arg;

    pthread_setname_np(pthread_self(), "watch");
    while (!atomic_load_explicit(&s->workers_stop, memory_order_acquire)) {
        int r = watch_hub_turn(s->watch_hub);
        if (r < 0)
            server_fatal("history can't be read for a watcher", r);
        watch_hub_wait(s->watch_hub);
    }
    return NULL;
}

struct watch_hub *server_watch_hub(struct server *s)
{
    return s->watch_hub;
}

/* ---- the member's own proposals ---- */

static void own_finish(struct request *request, enum outcome outcome)
{
    struct own_proposal *own = container_of(request, struct own_proposal, request);
    struct server *s = own->server;

    buf_deinit(&request->response);
    /* While the replay runs apply is behind, and proposals are refused: that is over soon. One that
     * was taken back has waited long enough. */
    if (outcome != OUTCOME_TOO_MANY_REQUESTS && outcome != OUTCOME_CANCELED)
        own->retry_ms = clock_mono_ms() + OWN_RETRY_MS;
    atomic_store(&own->done, outcome == OUTCOME_OK);
    if (own == &s->publish && outcome == OUTCOME_OK) {
        log_info("published local member to cluster through raft",
                 LOG_ID("local-member-id", s->state.member_id),
                 LOG_ID("cluster-id", s->state.cluster_id));
        pthread_mutex_lock(&s->ready_lock);
        s->ready = true;
        pthread_cond_broadcast(&s->ready_cond);
        pthread_mutex_unlock(&s->ready_lock);
    }
    atomic_store(&own->under_way, false);
}

static void own_submit(struct own_proposal *own)
{
    if (atomic_load(&own->done) || atomic_exchange(&own->under_way, true))
        return;
    if (clock_mono_ms() < own->retry_ms) {
        atomic_store(&own->under_way, false);
        return;
    }
    own->request.payload = buf_bytes(&own->payload);
    atomic_store(&own->submitted_ms, clock_mono_ms());
    server_submit(own->server, &own->request);
}

/* A proposal that is passed to a leader may get lost on the way, above all that of a member which
 * has just joined. To make one of these twice does no harm, so none waits for its time-out. */
static void own_tick(struct own_proposal *own, uint64_t now_ms)
{
    if (atomic_load(&own->under_way) &&
        now_ms >= atomic_load(&own->submitted_ms) + OWN_PATIENCE_MS &&
        server_cancel(own->server, &own->request))
        own_finish(&own->request, OUTCOME_CANCELED);
    own_submit(own);
}

static void own_init(struct own_proposal *own, struct server *s, enum request_kind kind, bool done)
{
    own->server = s;
    own->request = (struct request){.kind = kind, .finish = own_finish};
    atomic_init(&own->done, done);
}

static void own_proposals_init(struct server *s)
{
    size_t mark;

    own_init(&s->publish, s, REQUEST_MEMBER_ATTR_SET, false);
    encode_u64(&s->publish.payload, 1, s->state.member_id);
    mark = encode_begin(&s->publish.payload, 2);
    encode_bytes(&s->publish.payload, 1, bytes_str(s->config->name));
    for (size_t i = 0; i < s->config->advertise_client_urls.len; i++)
        encode_present_bytes(&s->publish.payload, 2,
                             bytes_str(s->config->advertise_client_urls.items[i].text));
    encode_end(&s->publish.payload, mark);

    own_init(&s->raise_alarm, s, REQUEST_ALARM, true);
    encode_u64(&s->raise_alarm.payload, 1, ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE);
    encode_u64(&s->raise_alarm.payload, 2, s->state.member_id);
    encode_u64(&s->raise_alarm.payload, 3, ETCDSERVERPB__ALARM_TYPE__NOSPACE);
}

static void server_tick(void *arg)
{
    struct server *s = arg;
    uint64_t now_ms = clock_mono_ms();

    wait_expire(&s->wait, now_ms, server_timeout_outcome, s);
    metric_set(&metric_proposals_pending, (double)wait_proposals(&s->wait));
    own_tick(&s->publish, now_ms);
    own_tick(&s->raise_alarm, now_ms);
    cluster_version_tick(s->cluster_version, now_ms);
    promotions_tick(s->promotions);
    lease_expiry_tick(s->lease_expiry);
    lease_asks_tick(s->lease_asks);
}

static void disk_short(void *arg)
{
    struct server *s = arg;

    if (!alarms_active(s->store.alarms, s->state.member_id, ETCDSERVERPB__ALARM_TYPE__NOSPACE))
        atomic_store(&s->raise_alarm.done, false); /* the next tick proposes it */
}

static bool log_fits(void *arg, uint64_t bytes)
{
    struct server *s = arg;

    return disk_room_fits_ahead(s->room, bytes);
}

static void log_lacks_room(void *arg)
{
    struct server *s = arg;

    housekeeper_make_room(s->housekeeper);
}

/* ---- start ---- */

/* etcd's smallest lease: one and a half election timeouts in ticks, rounded up to seconds. */
static int64_t lease_ttl_min_s(const struct config *config)
{
    uint64_t ticks = config->election_timeout_ms / config->heartbeat_interval_ms;
    uint64_t ms = 3 * ticks / 2 * config->heartbeat_interval_ms;

    return (int64_t)((ms + 999) / 1000);
}

static int open_store(struct server *s)
{
    bool checkpoints = config_gate_is_on(s->config, "LeaseCheckpoint");

    return store_open(&s->store, &(struct store_options){
                                     .path = s->data_dir->db,
                                     .room = s->room,
                                     .compaction_batch_max = s->config->compaction_batch_limit,
                                     .lease_ttl_min_s = lease_ttl_min_s(s->config),
                                     .lease_checkpoint_ns = checkpoints ? LEASE_CHECKPOINT_NS : 0});
}

static void init_state(struct server *s, const struct bootstrap *b)
{
    uint64_t now_ms = clock_wall_ns() / 1000000;

    s->state.cluster_id = b->cluster_id;
    s->state.member_id = b->member_id;
    s->state.election_timeout_ms = s->config->election_timeout_ms;
    s->state.request_timeout_ms = 5000 + 2 * (uint64_t)s->config->election_timeout_ms;
    atomic_init(&s->state.applied, b->applied);
    atomic_init(&s->state.committed, b->recovery.hard_state.commit);
    atomic_init(&s->state.term, b->recovery.hard_state.term);
    atomic_init(&s->state.next_id,
                (b->member_id & 0xffff) << 48 | (now_ms & ((UINT64_C(1) << 40) - 1)) << 8);
}

static uint64_t log_end(const struct bootstrap *b)
{
    const struct wal_recovery *rec = &b->recovery;

    return rec->n_entries > 0 ? rec->entries[rec->n_entries - 1].index : b->applied;
}

static struct node *make_node(struct server *s, struct bootstrap *b, struct raft *raft)
{
    const struct config *c = s->config;
    struct wal *wal = b->wal;

    b->wal = NULL;
    return node_new(
        &(struct node_options){.raft = raft,
                               .wal = wal,
                               .apply = s->apply,
                               .wait = &s->wait,
                               .state = &s->state,
                               .snapshots = s->snapshots,
                               .transport = s->transport,
                               .tick_ms = c->heartbeat_interval_ms,
                               .election_ticks = c->election_timeout_ms / c->heartbeat_interval_ms,
                               .tick_advance = c->initial_election_tick_advance,
                               .catchup_entries = c->snapshot_catchup_entries,
                               .entries = b->recovery.entries,
                               .n_entries = b->recovery.n_entries,
                               .applied = b->applied});
}

static uint64_t snapshot_count(const struct config *config)
{
    return config_is_set(config, "snapshot-count") ? config->snapshot_count : UINT64_MAX;
}

static int make_workers(struct server *s, struct bootstrap *b, uint64_t seed)
{
    struct raft *raft;
    int r = snapshots_new(&s->snapshots, &(struct snapshots_options){.store = &s->store,
                                                                     .state = &s->state,
                                                                     .transport = s->transport,
                                                                     .dir = s->data_dir->snap});

    if (r == 0)
        r = bootstrap_raft(&raft, b, s->config, s->store.members, seed);
    if (r < 0)
        return err_trace(r);
    s->housekeeper = housekeeper_new(&(struct housekeeper_options){
        .store = &s->store,
        .state = &s->state,
        .room = s->room,
        .replay_to = log_end(b) - b->applied >= REPLAY_FLUSH_MIN ? log_end(b) : 0,
        .snapshot_count = snapshot_count(s->config),
        .catchup_entries = s->config->snapshot_catchup_entries,
        .compaction_sleep_ns = s->config->compaction_sleep_interval_ns,
        .disk_short = disk_short,
        .arg = s});
    s->ticker = ticker_new(server_tick, s);
    s->watch_hub = watch_hub_new(&(struct watch_hub_options){
        .store = &s->store,
        .state = &s->state,
        .ring_bytes = s->config->watch_ring_bytes,
        .progress_interval_ns = s->config->watch_progress_notify_interval_ns,
        .response_bytes_max = s->config->max_request_bytes + WATCH_RESPONSE_OVERHEAD_BYTES,
        .seed = seed});
    s->cluster_version = cluster_version_new(s);
    s->promotions = promotions_new(s);
    s->lease_expiry = lease_expiry_new(s);
    s->lease_asks = lease_asks_new(s);
    wal_set_room(b->wal, &(struct wal_room){.fits = log_fits,
                                            .lacks = log_lacks_room,
                                            .wait_ms = DB_ROOM_WAIT_MS,
                                            .arg = s});
    s->apply = apply_new(
        &(struct apply_options){.store = &s->store,
                                .wait = &s->wait,
                                .state = &s->state,
                                .housekeeper = s->housekeeper,
                                .snapshots = s->snapshots,
                                .lease_asks = s->lease_asks,
                                .watch_hub = s->watch_hub,
                                .applied = b->applied,
                                .applied_term = b->applied_term,
                                .replay_to = log_end(b),
                                .warning_duration_ns = s->config->warning_apply_duration_ns,
                                .quota_bytes = quota_bytes(s->config),
                                .raise_alarm = quota_raise_alarm,
                                .raise_alarm_arg = s,
                                .learners_max = s->config->max_learners,
                                .members_changed = server_members_changed,
                                .members_changed_arg = s});
    s->node = make_node(s, b, raft);
    apply_set_node(s->apply, s->node);
    snapshots_set_node(s->snapshots, s->node);
    housekeeper_set_node(s->housekeeper, s->node);
    return 0;
}

int server_start_threads(struct server *s)
{
    int r = scan_start(&s->scan);

    if (r < 0)
        return r;
    r = pthread_create(&s->apply_thread, NULL, apply_run, s);
    s->apply_started = r == 0;
    if (r == 0) {
        r = pthread_create(&s->node_thread, NULL, node_run, s);
        s->node_started = r == 0;
    }
    if (r == 0) {
        r = pthread_create(&s->watch_thread, NULL, watch_run, s);
        s->watch_started = r == 0;
    }
    if (r != 0)
        return err_origin(-r);
    r = snapshots_start(s->snapshots);
    if (r == 0)
        r = housekeeper_start(s->housekeeper);
    return r == 0 ? ticker_start(s->ticker) : r;
}

static void register_metrics(struct server *s)
{
    char version[16];

    server_metrics_register(s->config, s->state.member_id);
    metric_set(&metric_quota_bytes, (double)quota_bytes(s->config));
    metric_set(&metric_current_revision, (double)mvcc_revision(s->store.mvcc));
    metric_set(&metric_compact_revision, (double)mvcc_compacted(s->store.mvcc));
    members_cluster_version(s->store.members, version);
    if (version[0])
        server_metrics_cluster_version(version);
}

static int open_all(struct server *s, const struct server_tuning *tuning)
{
    const struct config *c = s->config;
    uint64_t seed = tuning->seed ? tuning->seed : rng_entropy();
    struct bootstrap b = {0};
    int r = 0;

    if (data_dir_is_new(c->data_dir, c->wal_dir))
        r = bootstrap_check_flags(c); /* before anything is made */
    if (r == 0)
        r = data_dir_open(&s->data_dir, c->data_dir, c->wal_dir);
    if (r == 0)
        r = disk_room_open(&s->room, s->data_dir->path, s->data_dir->wal);
    if (r == 0)
        r = open_store(s);
    if (r == 0)
        r = bootstrap(&b,
                      &(struct bootstrap_options){.config = s->config,
                                                  .dir = s->data_dir,
                                                  .store = &s->store,
                                                  .transport = s->transport,
                                                  .wal_salt = (uint32_t)seed,
                                                  .wal_segment_bytes = tuning->wal_segment_bytes,
                                                  .wal_single_threaded = tuning->single_threaded});
    if (r == 0) {
        init_state(s, &b);
        register_metrics(s);
        own_proposals_init(s);
        r = make_workers(s, &b, seed);
    }
    if (r == 0)
        server_members_changed(s);
    if (r == -EBADMSG) {
        log_error("the member can't start", LOG_STR("dir", s->data_dir->path),
                  LOG_STR("advice", advice(r)));
        r = 1;
    }
    wal_abandon(b.wal);
    wal_recovery_deinit(&b.recovery);
    return r;
}

int server_open(struct server **ret, const struct config *config, struct transport *transport,
                const struct server_tuning *tuning)
{
    struct server *s = mem_new(struct server);
    int r;

    s->config = config;
    s->transport = transport;
    wait_init(&s->wait);
    pthread_mutex_init(&s->ready_lock, NULL);
    cond_init(&s->ready_cond);
    r = open_all(s, tuning ? tuning : &(struct server_tuning){0});
    if (r != 0) {
        server_drain(s);
        server_stop(s);
        return r;
    }
    *ret = s;
    return 0;
}

int server_start(struct server **ret, const struct config *config, struct transport *transport)
{
    struct server *s;
    int r = server_open(&s, config, transport, NULL);

    if (r != 0)
        return r;
    r = server_start_threads(s); /* the first tick comes at once */
    if (r != 0) {
        server_drain(s);
        server_stop(s);
        return r;
    }
    *ret = s;
    return 0;
}

bool server_wait_ready(struct server *s, uint64_t timeout_ms)
{
    struct timespec ts = cond_until(timeout_ms * 1000000);
    bool ready;

    own_submit(&s->publish);
    cluster_version_tick(s->cluster_version, clock_mono_ms());
    pthread_mutex_lock(&s->ready_lock);
    while (!s->ready && pthread_cond_timedwait(&s->ready_cond, &s->ready_lock, &ts) == 0)
        ;
    ready = s->ready;
    pthread_mutex_unlock(&s->ready_lock);
    return ready;
}

bool server_scan(struct server *s, struct scan_job *job)
{
    return scan_push(&s->scan, job);
}

/* ---- stop ---- */

void server_release_waiting(struct server *s)
{
    if (s->housekeeper)
        housekeeper_drain(s->housekeeper);
}

void server_drain(struct server *s)
{
    if (s->node_started && !atomic_load(&s->state.stopping))
        server_hand_over(s);
    atomic_store(&s->state.stopping, true);
    wait_stop(&s->wait);
    server_release_waiting(s);
}

static void join_workers(struct server *s)
{
    if (s->ticker)
        ticker_stop(s->ticker);
    if (s->housekeeper)
        housekeeper_stop(s->housekeeper);
    scan_stop(&s->scan);
    atomic_store(&s->workers_stop, true);
    if (s->watch_started) {
        watch_hub_stop_waiting(s->watch_hub);
        pthread_join(s->watch_thread, NULL);
    }
    if (s->node_started) {
        node_wake(s->node);
        pthread_join(s->node_thread, NULL);
    }
    if (s->apply_started) {
        apply_wake(s->apply);
        pthread_join(s->apply_thread, NULL);
    }
    snapshots_stop(s->snapshots);
}

/* Without it the next start replays the log. */
static void last_flush(struct server *s)
{
    int r = -ENOSPC;

    if (disk_room_fits(s->room, 2 * db_unflushed_bytes(s->store.db)))
        r = db_flush(s->store.db);
    if (r == -ENOSPC)
        log_warn("the disk is full: the database was not flushed; the raft log has everything");
    else if (r < 0)
        server_fatal("could not flush the database", r);
}

struct server *server_stop(struct server *s)
{
    if (!s)
        return NULL;
    join_workers(s);
    if (s->apply_started)
        last_flush(s);
    s->node = node_free(s->node);
    s->apply = apply_free(s->apply);
    s->watch_hub = watch_hub_free(s->watch_hub);
    s->snapshots = snapshots_free(s->snapshots);
    s->housekeeper = housekeeper_free(s->housekeeper);
    s->ticker = ticker_free(s->ticker);
    s->cluster_version = cluster_version_free(s->cluster_version);
    s->promotions = promotions_free(s->promotions);
    s->lease_expiry = lease_expiry_free(s->lease_expiry);
    s->lease_asks = lease_asks_free(s->lease_asks);
    store_close(&s->store);
    s->room = disk_room_close(s->room);
    s->data_dir = data_dir_close(s->data_dir);
    buf_deinit(&s->publish.payload);
    buf_deinit(&s->raise_alarm.payload);
    wait_deinit(&s->wait);
    pthread_cond_destroy(&s->ready_cond);
    pthread_mutex_destroy(&s->ready_lock);
    free(s);
    return NULL;
}
