/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expiry and checkpoints (see lease_expire.h).
 *
 *   tick: found, their time is over --read index: we still lead--> queue --> proposals --> applied
 *           ^                                                        |
 *           +------- not revoked when the request time-out is over --+
 *
 * etcd sends 500 leases every 500 ms this way, 16 proposals at a time. Here a tick is 100 ms long
 * and takes more, so that ten thousand leases that end together are gone two seconds later; the 16
 * remain, which leaves room between them for what clients write.
 *
 * Invariants:
 *   (I1) what was found is proposed only after a read index that began later; and only as the
 *        leader of the very term whose times these are. A leader that was stopped for a minute
 *        finds everything expired: the read index fails; and should it have been confirmed just
 *        before the stop, its proposals are dropped by the raft worker, never sent on to a new
 *        leader.
 *   (I2) a lease is proposed again, if it is still there, after the request time-out.
 *   (I3) one thread at a time takes from the queue; who meets it leaves the rest to it.
 *   (I4) leases found for a checkpoint are not renewed until it is applied, or never will be. One
 *        that has timed out may be in the log: it is proposed again, behind that, and counts then.
 *
 * Thread: tick the ticker's; the finish() functions any. Under the lock: all but what `confirming`
 * and `checkpointing` say is whose.
 */
#include "server/lease_expire.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_metrics.h"

enum { REVOKE_BYTES_MAX = 1 + VARINT_LEN_MAX, ACTIVE_TICKS = 3 };

struct revoke {
    struct request request;
    struct lease_expiry *expiry;
    int64_t id;
    bool busy;
    uint8_t payload[REVOKE_BYTES_MAX];
};

struct lease_expiry {
    struct server *server;
    bool checkpoints; /* the feature gate */
    pthread_mutex_t lock;

    bool confirming; /* the next four are the read index's; else the tick's */
    struct request confirm;
    int64_t found[REVOKES_PER_TICK];
    size_t n_found;
    uint64_t found_term;

    int64_t queue[REVOKES_QUEUED_MAX]; /* a ring, all of one term */
    size_t first, len;
    uint64_t term;
    struct revoke revokes[REVOKES_PENDING_MAX];
    bool proposing; /* (I3) */
    bool choked;    /* a proposal failed: no more before the next tick */

    bool checkpointing; /* the next three are the proposal's; else the tick's */
    bool uncertain;     /* (I4) */
    struct request checkpoint;
    struct buf checkpoint_payload;
};

bool lease_leader_is_active(const struct server *s)
{
    uint64_t tick_ms = atomic_load_explicit(&s->state.tick_ms, memory_order_acquire);

    return clock_mono_ms() < tick_ms + ACTIVE_TICKS * s->config->heartbeat_interval_ms;
}

/* ---- proposals ---- */

static void propose_all(struct lease_expiry *e);

static void log_failure(int64_t id, enum outcome outcome)
{
    char text[17];

    snprintf(text, sizeof(text), "%016" PRIx64, (uint64_t)id);
    log_warn("failed to revoke lease", LOG_STR("lease-id", text), LOG_U64("outcome", outcome));
}

/* Apply is too far behind: it will be taken in a moment. */
static void put_back(struct lease_expiry *e, int64_t id)
{
    if (e->len == REVOKES_QUEUED_MAX)
        return;
    e->first = (e->first + REVOKES_QUEUED_MAX - 1) % REVOKES_QUEUED_MAX;
    e->queue[e->first] = id;
    e->len++;
}

static void revoked(struct request *request, enum outcome outcome)
{
    struct revoke *r = container_of(request, struct revoke, request);
    struct lease_expiry *e = r->expiry;
    bool gone = outcome == OUTCOME_OK || outcome == OUTCOME_LEASE_NOT_FOUND;
    int64_t id = r->id;

    buf_deinit(&request->response);
    metric_add(&metric_lease_expired, outcome == OUTCOME_OK);
    pthread_mutex_lock(&e->lock);
    r->busy = false;
    e->choked |= !gone;
    if (outcome == OUTCOME_TOO_MANY_REQUESTS && request->only_term == e->term)
        put_back(e, id);
    pthread_mutex_unlock(&e->lock);
    if (!gone && outcome != OUTCOME_STOPPED)
        log_failure(id, outcome);
    propose_all(e);
}

static struct revoke *free_slot(struct lease_expiry *e)
{
    for (size_t i = 0; i < REVOKES_PENDING_MAX; i++) {
        if (!e->revokes[i].busy)
            return &e->revokes[i];
    }
    return NULL;
}

/* NULL: nothing to propose now. */
static struct revoke *take(struct lease_expiry *e)
{
    struct revoke *r = free_slot(e);

    if (!r || e->choked || e->len == 0)
        return NULL;
    r->id = e->queue[e->first];
    e->first = (e->first + 1) % REVOKES_QUEUED_MAX;
    e->len--;
    r->payload[0] = 1 << 3;
    size_t len = 1 + varint_put(r->payload + 1, (uint64_t)r->id);
    r->request = (struct request){.kind = REQUEST_LEASE_REVOKE,
                                  .payload = bytes_of(r->payload, len),
                                  .only_term = e->term, /* (I1) */
                                  .finish = revoked};
    r->busy = true;
    return r;
}

/* (I3) */
static void propose_all(struct lease_expiry *e)
{
    struct revoke *r;

    pthread_mutex_lock(&e->lock);
    if (!e->proposing) {
        e->proposing = true;
        while ((r = take(e))) {
            pthread_mutex_unlock(&e->lock);
            server_submit(e->server, &r->request);
            pthread_mutex_lock(&e->lock);
        }
        e->proposing = false;
    }
    pthread_mutex_unlock(&e->lock);
}

/* ---- what has expired ---- */

static void queue_found(struct lease_expiry *e)
{
    if (e->term != e->found_term)
        e->len = 0;
    e->term = e->found_term;
    for (size_t i = 0; i < e->n_found && e->len < REVOKES_QUEUED_MAX; i++)
        e->queue[(e->first + e->len++) % REVOKES_QUEUED_MAX] = e->found[i];
}

static void confirmed(struct request *request, enum outcome outcome)
{
    struct lease_expiry *e = container_of(request, struct lease_expiry, confirm);
    bool still = outcome == OUTCOME_OK && server_leads(e->server);

    if (!still && outcome != OUTCOME_STOPPED)
        log_warn("Ignore the lease revoking request because current member isn't a leader",
                 LOG_ID("local-member-id", e->server->state.member_id));
    pthread_mutex_lock(&e->lock);
    if (still)
        queue_found(e);
    e->confirming = false;
    pthread_mutex_unlock(&e->lock);
    propose_all(e);
}

/* As many as the queue has room for. */
static size_t find(struct lease_expiry *e, size_t n)
{
    struct server *s = e->server;
    uint64_t now_ns = clock_mono_ns();
    struct lease_look look = {
        .now_ns = now_ns, .again_ns = now_ns + s->state.request_timeout_ms * 1000000, .more = true};

    e->n_found = 0;
    store_hold(&s->store);
    while (look.more && e->n_found < n)
        e->n_found +=
            lease_find_expired(s->store.leases, &look, e->found + e->n_found, n - e->n_found);
    store_release(&s->store);
    e->found_term = look.term;
    return e->n_found;
}

static void expire(struct lease_expiry *e)
{
    pthread_mutex_lock(&e->lock);
    size_t room = REVOKES_QUEUED_MAX - e->len;
    bool mine = !e->confirming && room > 0;
    e->confirming |= mine;
    pthread_mutex_unlock(&e->lock);
    if (!mine)
        return;
    if (find(e, room < REVOKES_PER_TICK ? room : REVOKES_PER_TICK) > 0) {
        e->confirm = (struct request){.kind = REQUEST_READ_INDEX, .finish = confirmed};
        server_read_index(e->server, &e->confirm);
        return;
    }
    pthread_mutex_lock(&e->lock);
    e->confirming = false;
    pthread_mutex_unlock(&e->lock);
}

/* ---- checkpoints ---- */

static bool has_timed_out(enum outcome outcome)
{
    return outcome == OUTCOME_TIMEOUT || outcome == OUTCOME_TIMEOUT_LEADER_FAILURE ||
           outcome == OUTCOME_TIMEOUT_CONNECTION_LOST;
}

/* (I4) What was refused comes again in its time; not so if an earlier try of it may come yet. */
static void checkpointed(struct request *request, enum outcome outcome)
{
    struct lease_expiry *e = container_of(request, struct lease_expiry, checkpoint);
    struct store *store = &e->server->store;

    buf_deinit(&request->response);
    e->uncertain = has_timed_out(outcome) || (e->uncertain && outcome == OUTCOME_TOO_MANY_REQUESTS);
    if (!e->uncertain) {
        store_hold(store);
        lease_checkpoints_end(store->leases);
        store_release(store);
    }
    pthread_mutex_lock(&e->lock);
    e->checkpointing = false;
    pthread_mutex_unlock(&e->lock);
}

static uint64_t find_checkpoints(struct lease_expiry *e)
{
    struct lease_left *due = mem_alloc_raw(CHECKPOINTS_AT_ONCE * sizeof(*due));
    struct lease_look look = {.now_ns = clock_mono_ns()};
    struct store *store = &e->server->store;

    store_hold(store);
    size_t n = lease_find_checkpoints(store->leases, &look, due, CHECKPOINTS_AT_ONCE);
    store_release(store);
    buf_clear(&e->checkpoint_payload);
    for (size_t i = 0; i < n; i++) {
        size_t mark = encode_begin(&e->checkpoint_payload, 1);
        encode_i64(&e->checkpoint_payload, 1, due[i].id);
        encode_i64(&e->checkpoint_payload, 2, due[i].remaining_s);
        encode_end(&e->checkpoint_payload, mark);
    }
    free(due);
    return n > 0 ? look.term : 0;
}

static void checkpoint(struct lease_expiry *e)
{
    pthread_mutex_lock(&e->lock);
    bool mine = e->checkpoints && !e->checkpointing;
    pthread_mutex_unlock(&e->lock);
    if (!mine || !lease_leader_is_active(e->server))
        return;
    uint64_t term = e->uncertain ? e->checkpoint.only_term : find_checkpoints(e);
    if (term == 0)
        return;
    pthread_mutex_lock(&e->lock);
    e->checkpointing = true;
    pthread_mutex_unlock(&e->lock);
    e->checkpoint = (struct request){.kind = REQUEST_LEASE_CHECKPOINT,
                                     .payload = buf_bytes(&e->checkpoint_payload),
                                     .only_term = term,
                                     .finish = checkpointed};
    server_submit(e->server, &e->checkpoint);
}

/* ---- the tick ---- */

/* Whoever does not lead any more keeps no times, and what it had found is the next leader's. Whose
 * times they are is asked first: they may be followed by others while this looks who leads. */
static bool demoted(struct lease_expiry *e)
{
    struct store *store = &e->server->store;

    store_hold(store);
    uint64_t term = lease_primary_term(store->leases);
    bool over = !server_leads(e->server);
    if (over)
        lease_demote(store->leases, term);
    store_release(store);
    if (!over)
        return false;
    pthread_mutex_lock(&e->lock);
    e->len = 0;
    pthread_mutex_unlock(&e->lock);
    return true;
}

void lease_expiry_tick(struct lease_expiry *e)
{
    if (demoted(e))
        return;
    pthread_mutex_lock(&e->lock);
    e->choked = false;
    pthread_mutex_unlock(&e->lock);
    propose_all(e);
    expire(e);
    checkpoint(e);
}

struct lease_expiry *lease_expiry_new(struct server *s)
{
    struct lease_expiry *e = mem_new(struct lease_expiry);

    e->server = s;
    e->checkpoints = config_gate_is_on(s->config, "LeaseCheckpoint");
    pthread_mutex_init(&e->lock, NULL);
    for (size_t i = 0; i < REVOKES_PENDING_MAX; i++)
        e->revokes[i].expiry = e;
    return e;
}

struct lease_expiry *lease_expiry_free(struct lease_expiry *e)
{
    if (!e)
        return NULL;
    check(!e->confirming && !e->checkpointing);
    buf_deinit(&e->checkpoint_payload);
    pthread_mutex_destroy(&e->lock);
    free(e);
    return NULL;
}
