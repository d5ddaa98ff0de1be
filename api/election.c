/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Election service. A candidate is a key below the name, attached to the caller's lease; the
 * oldest key leads, its value is what it proclaims.
 *
 *   Campaign ─> key put, or found ─> [with another value: proclaim] ─> wait to lead ─> answered
 *
 *   Observe  ─> oldest key? ─┬─> none: watch the prefix ─> first put ─┐
 *                 ^          └─> sent ────────────────────────────────┴─> watch it: puts are sent
 *                 └──────────────────────── deleted <───────────────────────┘
 *
 * As in etcd: a candidate whose lease ended while it waited is told that it leads (it learns more
 * when it proclaims); one that stops waiting resigns only if that was its client's wish; Observe
 * that can't go on ends as if all were well, and its client asks again.
 *
 * Thread: the call's queue.
 */
#include "api/concurrency.h"
#include "api/handlers.h"
#include "v3election.pb-c.h"

#define NOT_LEADER "election: not leader"
#define NO_LEADER "election: no leader"
#define NO_LEADER_KEY "\"leader\" field must be provided"

/* The value of the key as long as that one is there. */
static void put_value(struct call *call, ProtobufCBinaryData value, call_step then)
{
    struct concurrency *c = call->state;
    Etcdserverpb__PutRequest put = concurrency_put(c, value);
    Etcdserverpb__RequestOp op = concurrency_op_put(&put), *ops[] = {&op};
    Etcdserverpb__TxnRequest branches = ETCDSERVERPB__TXN_REQUEST__INIT;
    branches.n_success = 1;
    branches.success = ops;
    concurrency_txn(call, c->revision, &branches, then);
}

/* ---- Campaign ---- */

static void won(struct call *call)
{
    struct concurrency *c = call->state;
    const V3electionpb__CampaignRequest *request = call->message;
    V3electionpb__LeaderKey leader = V3ELECTIONPB__LEADER_KEY__INIT;
    V3electionpb__CampaignResponse r = V3ELECTIONPB__CAMPAIGN_RESPONSE__INIT;
    leader.name = request->name;
    leader.key = concurrency_data(buf_bytes(&c->key));
    leader.rev = c->revision;
    leader.lease = c->lease;
    r.header = &c->header;
    r.leader = &leader;
    concurrency_respond(call, &r.base);
}

/* The wait has failed, but nobody has given up: the key stays. */
static void fail_as_candidate(struct call *call, struct status status)
{
    struct concurrency *c = call->state;
    c->owed = OWES_NOTHING;
    concurrency_fail(call, status);
}

static void wait_to_lead(struct call *call)
{
    struct concurrency *c = call->state;
    c->owed = OWES_RESIGN;
    c->fail = fail_as_candidate;
    concurrency_wait_turn(call, won);
}

/* The old value would lead: the key goes. */
static void fail_to_proclaim(struct call *call, struct status status)
{
    struct concurrency *c = call->state;
    c->owed = OWES_RESIGN;
    concurrency_fail(call, status);
}

static void proclaimed_anew(struct call *call)
{
    struct concurrency *c = call->state;
    if (c->txn->succeeded)
        wait_to_lead(call);
    else
        concurrency_fail(call, (struct status){STATUS_UNKNOWN, NOT_LEADER});
}

static bool data_equal(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return bytes_equal(bytes_of(a.data, a.len), bytes_of(b.data, b.len));
}

static void entered(struct call *call)
{
    struct concurrency *c = call->state;
    const V3electionpb__CampaignRequest *request = call->message;
    c->header = *c->txn->header;
    c->revision = c->header.revision;
    if (c->txn->succeeded) {
        wait_to_lead(call);
        return;
    }
    check(c->txn->n_responses == 1);
    const Mvccpb__KeyValue *own = c->txn->responses[0]->response_range->kvs[0];
    c->revision = own->create_revision;
    if (data_equal(own->value, request->value)) {
        wait_to_lead(call);
    } else {
        c->fail = fail_to_proclaim;
        put_value(call, request->value, proclaimed_anew);
    }
}

static void enter(struct call *call)
{
    const V3electionpb__CampaignRequest *request = call->message;
    concurrency_enter(call, request->value, false, entered);
}

void election_campaign(struct call *call)
{
    const V3electionpb__CampaignRequest *r = call->message;
    concurrency_start(call, r->name, r->lease, enter);
}

/* ---- Proclaim, Resign ---- */

/* Both name a leader by its key. */
static void resume_leader(struct call *call, const V3electionpb__LeaderKey *leader, call_step then)
{
    if (leader)
        concurrency_start(call, leader->name, leader->lease, then);
    else
        call_answer_status(call, STATUS_UNKNOWN, NO_LEADER_KEY);
}

static void set_leader(struct concurrency *c, const V3electionpb__LeaderKey *leader)
{
    concurrency_set_key(c, leader->key);
    c->revision = leader->rev;
}

static void proclaimed(struct call *call)
{
    const struct concurrency *c = call->state;
    V3electionpb__ProclaimResponse r = V3ELECTIONPB__PROCLAIM_RESPONSE__INIT;
    r.header = c->txn->header;
    if (c->txn->succeeded)
        concurrency_respond(call, &r.base);
    else
        concurrency_refuse(call, NOT_LEADER);
}

static void proclaim(struct call *call)
{
    const V3electionpb__ProclaimRequest *r = call->message;
    set_leader(call->state, r->leader);
    put_value(call, r->value, proclaimed);
}

void election_proclaim(struct call *call)
{
    const V3electionpb__ProclaimRequest *r = call->message;
    resume_leader(call, r->leader, proclaim);
}

static void resigned(struct call *call)
{
    const struct concurrency *c = call->state;
    V3electionpb__ResignResponse r = V3ELECTIONPB__RESIGN_RESPONSE__INIT;
    r.header = c->txn->header;
    concurrency_respond(call, &r.base);
}

static void resign(struct call *call)
{
    struct concurrency *c = call->state;
    const V3electionpb__ResignRequest *r = call->message;
    Etcdserverpb__DeleteRangeRequest deletion = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    Etcdserverpb__RequestOp op = concurrency_op_delete(&deletion), *ops[] = {&op};
    Etcdserverpb__TxnRequest branches = ETCDSERVERPB__TXN_REQUEST__INIT;
    set_leader(c, r->leader);
    deletion.key = r->leader->key;
    branches.n_success = 1;
    branches.success = ops;
    concurrency_txn(call, c->revision, &branches, resigned);
}

void election_resign(struct call *call)
{
    const V3electionpb__ResignRequest *r = call->message;
    resume_leader(call, r->leader, resign);
}

/* ---- Leader ---- */

enum { SESSION_OF_READER = -1 }; /* a lease that no key will be attached to */

static void ask_leader(struct call *call, call_step then)
{
    Etcdserverpb__RangeRequest oldest = concurrency_oldest(call->state);
    concurrency_read(call, &oldest, then);
}

static void leader_found(struct call *call)
{
    const struct concurrency *c = call->state;
    V3electionpb__LeaderResponse r = V3ELECTIONPB__LEADER_RESPONSE__INIT;
    if (c->range->n_kvs == 0) {
        concurrency_refuse(call, NO_LEADER);
        return;
    }
    r.header = c->range->header;
    r.kv = c->range->kvs[0];
    concurrency_respond(call, &r.base);
}

static void leader(struct call *call)
{
    ask_leader(call, leader_found);
}

void election_leader(struct call *call)
{
    const V3electionpb__LeaderRequest *r = call->message;
    concurrency_start(call, r->name, SESSION_OF_READER, leader);
}

/* ---- Observe ---- */

static void observe(struct call *call);

/* c->key is the leader's from here on, c->header that of what was sent last. */
static void send_leader(struct call *call, Mvccpb__KeyValue *kv, call_step sent)
{
    struct concurrency *c = call->state;
    V3electionpb__LeaderResponse r = V3ELECTIONPB__LEADER_RESPONSE__INIT;
    concurrency_set_key(c, kv->key);
    r.header = &c->header;
    r.kv = kv;
    concurrency_pack(call, &r.base);
    call_send_message(call, sent);
}

static void observe_end(struct call *call, struct status status)
{
    call_answer(call, OUTCOME_OK);
}

static bool was_sent(struct call *call)
{
    if (call->outcome)
        call_answer(call, call->outcome);
    return !call->outcome;
}

static void sent_another(struct call *call)
{
    if (was_sent(call))
        concurrency_next_event(call);
}

static void leader_changed(struct call *call)
{
    struct concurrency *c = call->state;
    if (c->event->type == MVCCPB__EVENT__EVENT_TYPE__PUT) {
        concurrency_event_header(call);
        send_leader(call, c->event->kv, sent_another);
        return;
    }
    concurrency_unwatch(c);
    observe(call);
}

static void sent_first(struct call *call)
{
    struct concurrency *c = call->state;
    struct concurrency_interest interest = {.key = buf_bytes(&c->key),
                                            .revision = c->header.revision + 1,
                                            .puts = true,
                                            .deletions = true};
    if (was_sent(call))
        concurrency_watch(call, &interest, leader_changed);
}

static void leader_appeared(struct call *call)
{
    struct concurrency *c = call->state;
    concurrency_event_header(call);
    c->header.revision = c->event->kv->mod_revision;
    send_leader(call, c->event->kv, sent_first);
    concurrency_unwatch(c);
}

static void observed(struct call *call)
{
    struct concurrency *c = call->state;
    struct concurrency_interest interest = {.key = c->prefix,
                                            .range_end = c->prefix_end,
                                            .revision = c->range->header->revision,
                                            .puts = true};
    c->header = *c->range->header;
    if (c->range->n_kvs)
        send_leader(call, c->range->kvs[0], sent_first);
    else
        concurrency_watch(call, &interest, leader_appeared);
}

static void observe(struct call *call)
{
    ask_leader(call, observed);
}

static void observe_start(struct call *call)
{
    struct concurrency *c = call->state;
    c->fail = observe_end;
    observe(call);
}

void election_observe(struct call *call)
{
    const V3electionpb__LeaderRequest *r = call->message;
    concurrency_start(call, r->name, SESSION_OF_READER, observe_start);
}
