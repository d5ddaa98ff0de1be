/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the leader says when it has been asked about a lease (lease_ask.c), and how it is said to
 * clients and to other members.
 *
 *   renew:  there ─> [its checkpoint goes first] ─> the whole time again
 *           a checkpoint is on its way ─> parked until it has come
 *           expired ─> parked until it is revoked
 *   left:   there ─> [its keys, on the scan pool] ─> what is left
 *   both:   missing ─> [a read index] ─> said so
 *
 * Invariants:
 *   (I1) nothing is said by times that belong to an earlier term than the current one.
 *   (I2) that a lease is missing is said after a read index: others may know more until then.
 *
 * Thread: any.
 */
#include <errno.h>

#include "base/clock.h"
#include "server/lease_ask_private.h"
#include "server/lease_wire.h"
#include "server/server_metrics.h"

enum { SECOND_NS = 1000000000 };

/* ---- the ends ---- */

void lease_ask_renewed(struct lease_ask *a, int64_t ttl_s)
{
    struct request *request = lease_ask_take(a);

    if (request) {
        request->ttl_s = ttl_s;
        if (a->from_peer)
            lease_wire_renewed_put(&request->response, &(struct lease_wire_renewed){a->id, ttl_s});
        request->finish(request, OUTCOME_OK);
    }
    lease_ask_free(a);
}

void lease_ask_left(struct lease_ask *a, const struct lease_wire_left *left)
{
    struct server *s = a->all->server;
    struct request *request = lease_ask_take(a);

    if (request && a->from_peer) {
        lease_wire_left_put(&request->response, left);
    } else if (request) {
        store_hold(&s->store);
        struct response_header header = server_header(s, mvcc_revision(s->store.mvcc));
        store_release(&s->store);
        encode_header(&request->response, &header);
        lease_wire_left_fields(&request->response, left);
    }
    if (request)
        request->finish(request, OUTCOME_OK);
    lease_ask_free(a);
}

/* For clients who ask what is left it is no error; members say it to each other. */
void lease_ask_missing(struct lease_ask *a)
{
    if (a->renews || a->from_peer)
        lease_ask_fail(a, OUTCOME_LEASE_NOT_FOUND);
    else
        lease_ask_left(a, &(struct lease_wire_left){.id = a->id, .ttl_s = -1});
}

/* (I2) Granted by an earlier leader, or by a new one that this one has not heard of? Clients give
 * up a lease that is missing, so, unlike etcd, nothing is said before. */
static void missing(struct lease_ask *a)
{
    if (a->confirmed)
        lease_ask_missing(a);
    else
        lease_ask_confirm(a);
}

/* ---- keep-alives ---- */

int lease_answer_renew(struct server *s, struct lease_renew *r)
{
    r->now_ns = clock_mono_ns();
    r->term = atomic_load(&s->state.term); /* (I1) */
    store_hold(&s->store);
    int e = lease_renew(s->store.leases, r);
    store_release(&s->store);
    metric_add(&metric_lease_renewed, e == 0);
    return e;
}

/* etcd renews whatever came of it; the next leader would end the lease early then. */
static void checkpoint_reset(struct request *request, enum outcome outcome)
{
    struct lease_ask *a = container_of(request, struct lease_ask, inner);

    buf_deinit(&request->response);
    if (outcome == OUTCOME_OK)
        lease_ask_step(a);
    else
        lease_ask_park(a);
}

/* Nothing is left of the time that the next leader would have given it. */
static void reset_checkpoint(struct lease_ask *a)
{
    struct server *s = a->all->server;

    buf_clear(&a->payload);
    size_t mark = encode_begin(&a->payload, 1);
    encode_i64(&a->payload, 1, a->id);
    encode_end(&a->payload, mark);
    a->inner = (struct request){.kind = REQUEST_LEASE_CHECKPOINT,
                                .payload = buf_bytes(&a->payload),
                                .only_term = atomic_load(&s->state.term),
                                .finish = checkpoint_reset};
    server_submit(s, &a->inner);
}

static void answer_renewal(struct lease_ask *a)
{
    struct lease_renew r = {.id = a->id, .serial = a->serial};
    int e = lease_answer_renew(a->all->server, &r);

    switch (e) {
    case 0: lease_ask_renewed(a, r.ttl_s); return;
    case LEASE_E_NOT_FOUND: missing(a); return;
    case LEASE_E_CHECKPOINTED: reset_checkpoint(a); return;
    case LEASE_E_EXPIRED: a->serial = r.serial; break;
    default: break; /* a checkpoint is on its way, or a leader has not begun its term yet */
    }
    if (e == LEASE_E_NOT_PRIMARY && a->from_peer)
        lease_ask_fail(a, OUTCOME_NOT_PRIMARY);
    else
        lease_ask_park(a);
}

/* ---- the time left ---- */

static int append_key(void *arg, struct bytes key)
{
    lease_wire_left_key(arg, key);
    return 0;
}

/* As Go makes whole seconds of it: towards zero, also below. */
static int64_t seconds_left(const struct lease_info *l)
{
    return ((int64_t)l->expiry_ns - (int64_t)clock_mono_ns()) / SECOND_NS;
}

/* LEASE_E_NOT_PRIMARY: (I1). */
static int look_up(struct lease_ask *a, struct lease_info *info, struct buf *keys)
{
    struct server *s = a->all->server;
    struct store *store = &s->store;

    store_hold(store);
    bool begun = lease_primary_term(store->leases) >= atomic_load(&s->state.term);
    int r = lease_get(store->leases, a->id, info);
    if (r == 0 && (!begun || info->expiry_ns == LEASE_NEVER))
        r = LEASE_E_NOT_PRIMARY;
    if (r == 0 && a->keys && mvcc_lease_keys(store->mvcc, a->id, append_key, keys) < 0)
        server_fatal("the database failed while reading", -EIO);
    store_release(store);
    return r;
}

static void answer_left(struct lease_ask *a)
{
    _cleanup_(buf_deinit) struct buf keys = BUF_NULL;
    struct lease_info info;
    int r = look_up(a, &info, &keys);

    if (r == LEASE_E_NOT_PRIMARY)
        lease_ask_fail(a, a->from_peer ? OUTCOME_NOT_PRIMARY : OUTCOME_LEADER_CHANGED);
    else if (r != 0)
        missing(a);
    else
        lease_ask_left(
            a, &(struct lease_wire_left){a->id, seconds_left(&info), info.ttl_s, buf_bytes(&keys)});
}

static void left_run(struct scan_job *job)
{
    answer_left(container_of(job, struct lease_ask, job));
}

void lease_answer(struct lease_ask *a)
{
    a->job.run = left_run;
    if (a->renews)
        answer_renewal(a);
    else if (!a->keys)
        answer_left(a);
    else if (!server_scan(a->all->server, &a->job)) /* its keys may be many */
        lease_ask_fail(a, OUTCOME_TOO_MANY_REQUESTS);
}
