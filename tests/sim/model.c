/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model of the store (see model.h).
 *
 * One walk (struct walk) goes over the operations of a request, either to apply them, which appends
 * versions, or later to check an answer; then the versions are there already and only looked at. A
 * walk sees what is before its point (main, sub), which moves with each change, so a transaction
 * sees its own earlier changes in both cases.
 *
 * Thread: the only one.
 */
#include "tests/sim/model.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "tests/sim/trace.h"

enum { KEYS_MAX = 256 };

struct version {
    int64_t main;
    uint32_t sub;
    int64_t create;
    int64_t version; /* 0: a tombstone */
    int64_t lease;
    struct bytes value;
};

struct key {
    struct bytes name;
    struct version *versions;
    size_t n, cap;
};

/* A place in all changes. */
struct change {
    int64_t main;
    uint32_t sub;
    struct bytes key; /* the model's copy of the name */
    size_t version;
};

struct lease {
    int64_t id;
    int64_t ttl_s, remaining_s;
    uint64_t granted; /* index */
    uint64_t revoked; /* index; 0: lives */
};

static struct {
    struct key keys[KEYS_MAX]; /* in order of their names */
    size_t n_keys;
    struct lease *leases;
    size_t n_leases, cap_leases;
    struct change *changes;
    size_t n_changes, cap_changes;
    int64_t revision;
    int64_t compacted;
    uint64_t no_space[16], corrupt[16]; /* members with that alarm; 0: free */
} model;

struct walk {
    bool applies;
    uint64_t index;
    int64_t main; /* the revision that changes get */
    uint32_t sub; /* of the next change */
    int64_t compacted;
};

/* ---- memory ---- */

static struct bytes copy_bytes(struct bytes b)
{
    uint8_t *p = mem_alloc_raw(b.len + 1);

    if (b.len)
        memcpy(p, b.data, b.len);
    return bytes_of(p, b.len);
}

static struct bytes of_pb(ProtobufCBinaryData d)
{
    return bytes_of(d.data, d.len);
}

void model_init(void)
{
    memset(&model, 0, sizeof(model));
    model.revision = 1;
    model.compacted = -1;
}

void model_deinit(void)
{
    for (size_t i = 0; i < model.n_keys; i++) {
        for (size_t k = 0; k < model.keys[i].n; k++)
            free((void *)(uintptr_t)model.keys[i].versions[k].value.data);
        free((void *)(uintptr_t)model.keys[i].name.data);
        free(model.keys[i].versions);
    }
    free(model.leases);
    free(model.changes);
    memset(&model, 0, sizeof(model));
}

static bool any(const uint64_t *members)
{
    for (size_t i = 0; i < 16; i++)
        if (members[i])
            return true;
    return false;
}

struct model_mark model_now(uint64_t index)
{
    return (struct model_mark){.index = index,
                               .revision = model.revision,
                               .compacted = model.compacted,
                               .no_space = any(model.no_space),
                               .corrupt = any(model.corrupt)};
}

int64_t model_revision(void)
{
    return model.revision;
}

int64_t model_compacted(void)
{
    return model.compacted;
}

/* ---- looking ---- */

static struct key *key_of(struct bytes name, bool make)
{
    size_t i = 0;

    while (i < model.n_keys && bytes_compare(model.keys[i].name, name) < 0)
        i++;
    if (i < model.n_keys && bytes_equal(model.keys[i].name, name))
        return &model.keys[i];
    if (!make)
        return NULL;
    check(model.n_keys < KEYS_MAX);
    memmove(&model.keys[i + 1], &model.keys[i], (model.n_keys - i) * sizeof(struct key));
    model.n_keys++;
    model.keys[i] = (struct key){.name = copy_bytes(name)};
    return &model.keys[i];
}

/* The live version before (main, sub); NULL: none. */
static const struct version *live_at(const struct key *k, int64_t main, uint32_t sub)
{
    for (size_t i = k ? k->n : 0; i > 0; i--) {
        const struct version *v = &k->versions[i - 1];
        if (v->main < main || (v->main == main && v->sub < sub))
            return v->version ? v : NULL;
    }
    return NULL;
}

static const struct version *live(const struct walk *w, struct bytes name)
{
    return live_at(key_of(name, false), w->main, w->sub);
}

bool model_within(struct bytes name, struct bytes from, struct bytes end)
{
    if (end.len == 0)
        return bytes_equal(name, from);
    if (bytes_compare(name, from) < 0)
        return false;
    return (end.len == 1 && end.data[0] == 0) || bytes_compare(name, end) < 0;
}

static bool lease_alive(int64_t id, uint64_t index)
{
    for (size_t i = 0; i < model.n_leases; i++) {
        const struct lease *l = &model.leases[i];
        if (l->id == id && l->granted < index && (l->revoked == 0 || l->revoked >= index))
            return true;
    }
    return false;
}

bool model_lease_alive(int64_t id)
{
    return lease_alive(id, UINT64_MAX);
}

/* ---- what lies in a store ---- */

/* What is newer than the compaction or as old; and the newest before it, if the key lived. */
static bool is_kept(const struct key *k, size_t i, int64_t compacted)
{
    const struct version *v = &k->versions[i];

    if (v->main >= compacted)
        return true;
    bool newest = i + 1 == k->n || k->versions[i + 1].main > compacted;
    return newest && v->version > 0;
}

void model_check_stored(const char *who, int64_t main, uint32_t sub, const struct kv *kv,
                        int64_t compacted, bool *ret_kept)
{
    const struct key *k = key_of(kv->key, false);

    for (size_t i = 0; k && i < k->n; i++) {
        const struct version *v = &k->versions[i];
        if (v->main != main || v->sub != sub)
            continue;
        require(v->version == kv->version && v->create == kv->create && v->lease == kv->lease &&
                    bytes_equal(v->value, kv->value) && kv->mod == (v->version ? main : 0),
                "the store holds what the log says", "%s: another version %ld of %.*s", who,
                (long)main, (int)kv->key.len, kv->key.data);
        *ret_kept = is_kept(k, i, compacted);
        return;
    }
    violated("the store holds what the log says", "%s: version %ld.%u of %.*s is nobody's", who,
             (long)main, sub, (int)kv->key.len, kv->key.data);
}

uint64_t model_kept(int64_t compacted, uint64_t *ret_live)
{
    uint64_t n = 0;

    *ret_live = 0;
    for (size_t i = 0; i < model.n_keys; i++) {
        const struct key *k = &model.keys[i];
        for (size_t j = 0; j < k->n; j++)
            n += is_kept(k, j, compacted);
        *ret_live += k->n > 0 && k->versions[k->n - 1].version > 0;
    }
    return n;
}

uint64_t model_changes(int64_t since)
{
    uint64_t n = 0;

    for (size_t i = 0; i < model.n_keys; i++)
        for (size_t j = 0; j < model.keys[i].n; j++)
            n += model.keys[i].versions[j].main >= since;
    return n;
}

/* ---- changing ---- */

static void note_change(const struct key *k, const struct version *v)
{
    if (model.n_changes == model.cap_changes) {
        model.cap_changes = model.cap_changes ? 2 * model.cap_changes : 256;
        model.changes = mem_realloc(model.changes, model.cap_changes * sizeof(*model.changes));
    }
    model.changes[model.n_changes++] = (struct change){v->main, v->sub, k->name, k->n};
}

static void append(struct walk *w, struct bytes name, struct version v)
{
    if (!w->applies) {
        w->sub++;
        return;
    }
    struct key *k = key_of(name, true);
    if (k->n == k->cap) {
        k->cap = k->cap ? 2 * k->cap : 8;
        k->versions = mem_realloc(k->versions, k->cap * sizeof(*k->versions));
    }
    v.main = w->main;
    v.sub = w->sub++;
    v.value = copy_bytes(v.value);
    note_change(k, &v);
    k->versions[k->n++] = v;
}

static void change_put(struct walk *w, const Etcdserverpb__PutRequest *q)
{
    const struct version *old = live(w, of_pb(q->key));

    append(w, of_pb(q->key),
           (struct version){.create = old ? old->create : w->main,
                            .version = old ? old->version + 1 : 1,
                            .lease = q->lease,
                            .value = of_pb(q->value)});
}

/* Deletes what wanted() wants; returns how many. */
static int64_t change_delete(struct walk *w,
                             bool (*wanted)(const void *arg, const struct key *k,
                                            const struct version *v),
                             const void *arg)
{
    int64_t main = w->main;
    uint32_t sub = w->sub;
    int64_t n = 0;

    for (size_t i = 0; i < model.n_keys; i++) {
        const struct version *v = live_at(&model.keys[i], main, sub);
        if (!v || !wanted(arg, &model.keys[i], v))
            continue;
        append(w, model.keys[i].name, (struct version){0});
        n++;
    }
    return n;
}

static bool in_range(const void *arg, const struct key *k, const struct version *v)
{
    const Etcdserverpb__DeleteRangeRequest *q = arg;

    return model_within(k->name, of_pb(q->key), of_pb(q->range_end));
}

static bool has_lease(const void *arg, const struct key *k, const struct version *v)
{
    return v->lease == *(const int64_t *)arg;
}

/* ---- checking parts of an answer ---- */

#define SHOW(b) (int)(b).len, (const char *)(b).data

static void check_kv(const struct key *k, const struct version *v, const Mvccpb__KeyValue *kv,
                     bool keys_only, const char *where)
{
    require(bytes_equal(of_pb(kv->key), k->name), "answer", "%s: key %.*s instead of %.*s", where,
            SHOW(of_pb(kv->key)), SHOW(k->name));
    int64_t lease = keys_only ? 0 : v->lease; /* etcd answers such a range from its index */
    require(kv->create_revision == v->create && kv->mod_revision == v->main &&
                kv->version == v->version && kv->lease == lease,
            "answer", "%s: key %.*s: create %ld mod %ld version %ld lease %ld, not %ld %ld %ld %ld",
            where, SHOW(k->name), (long)kv->create_revision, (long)kv->mod_revision,
            (long)kv->version, (long)kv->lease, (long)v->create, (long)v->main, (long)v->version,
            (long)lease);
    struct bytes value = keys_only ? BYTES_NULL : v->value;
    require(bytes_equal(of_pb(kv->value), value), "answer", "%s: key %.*s: value %.*s, not %.*s",
            where, SHOW(k->name), SHOW(of_pb(kv->value)), SHOW(value));
}

/* At the state before (main, sub). */
static void check_range_at(const Etcdserverpb__RangeRequest *q,
                           const Etcdserverpb__RangeResponse *a, int64_t main, uint32_t sub)
{
    int64_t count = 0;
    size_t n = 0;

    for (size_t i = 0; i < model.n_keys; i++) {
        struct key *k = &model.keys[i];
        const struct version *v = live_at(k, main, sub);
        if (!v || !model_within(k->name, of_pb(q->key), of_pb(q->range_end)))
            continue;
        count++;
        if (q->count_only || (q->limit > 0 && count > q->limit))
            continue;
        require(n < a->n_kvs, "answer", "range at %ld: key %.*s is missing", (long)main - 1,
                SHOW(k->name));
        check_kv(k, v, a->kvs[n++], q->keys_only, "range");
    }
    require(n == a->n_kvs, "answer", "range at %ld: %zu keys instead of %zu, first too many %.*s",
            (long)main - 1, a->n_kvs, n, SHOW(of_pb(a->kvs[n]->key)));
    require(a->count == count, "answer", "range at %ld: count %ld instead of %ld", (long)main - 1,
            (long)a->count, (long)count);
    require(a->more == (!q->count_only && q->limit > 0 && count > q->limit), "answer",
            "range at %ld: more", (long)main - 1);
}

static void check_previous(const struct walk *w, struct bytes name, bool wanted,
                           const Mvccpb__KeyValue *kv)
{
    const struct version *v = live(w, name);

    require((kv != NULL) == (wanted && v), "answer", "key %.*s at %ld: previous value", SHOW(name),
            (long)w->main);
    if (kv)
        check_kv(key_of(name, false), v, kv, false, "previous value");
}

static void check_delete(const struct walk *w, const Etcdserverpb__DeleteRangeRequest *q,
                         const Etcdserverpb__DeleteRangeResponse *a)
{
    size_t n = 0, deleted = 0;

    for (size_t i = 0; i < model.n_keys; i++) {
        const struct version *v = live_at(&model.keys[i], w->main, w->sub);
        if (!v || !in_range(q, &model.keys[i], v))
            continue;
        deleted++;
        if (!q->prev_kv)
            continue;
        require(n < a->n_prev_kvs, "answer", "delete at %ld: too few previous values",
                (long)w->main);
        check_kv(&model.keys[i], v, a->prev_kvs[n++], false, "deleted value");
    }
    require(a->deleted == (int64_t)deleted && n == a->n_prev_kvs, "answer",
            "delete at %ld: %ld deleted instead of %zu", (long)w->main, (long)a->deleted, deleted);
}

/* ---- transactions ---- */

static int compare_numbers(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static bool compare_holds(const struct walk *w, const Etcdserverpb__Compare *c)
{
    static const struct version absent = {0};
    const struct version *v = live(w, of_pb(c->key));
    int order = 0;

    if (c->target == ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE && !v)
        return false;
    if (!v)
        v = &absent;
    switch (c->target) {
    case ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE:
        order = bytes_compare(v->value, of_pb(c->value));
        break;
    case ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE:
        order = compare_numbers(v->create, c->create_revision);
        break;
    case ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD:
        order = compare_numbers(v->main, c->mod_revision);
        break;
    case ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION:
        order = compare_numbers(v->version, c->version);
        break;
    default: check(false);
    }
    switch (c->result) {
    case ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL: return order == 0;
    case ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER: return order > 0;
    case ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS: return order < 0;
    default: return order != 0;
    }
}

static bool compares_hold(const struct walk *w, const Etcdserverpb__TxnRequest *q)
{
    for (size_t i = 0; i < q->n_compare; i++)
        if (!compare_holds(w, q->compare[i]))
            return false;
    return true;
}

/* Before anything is changed. */
static enum outcome txn_refused(const struct walk *w, Etcdserverpb__RequestOp *const *ops, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const Etcdserverpb__RequestOp *op = ops[i];
        if (op->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT &&
            op->request_put->lease && !lease_alive(op->request_put->lease, w->index))
            return OUTCOME_LEASE_NOT_FOUND;
        if (op->request_case != ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE)
            continue;
        int64_t revision = op->request_range->revision;
        if (revision > w->main - 1)
            return OUTCOME_FUTURE_REVISION;
        if (revision > 0 && revision < w->compacted)
            return OUTCOME_COMPACTED;
    }
    return OUTCOME_OK;
}

static void run_op(struct walk *w, const Etcdserverpb__RequestOp *op,
                   const Etcdserverpb__ResponseOp *a)
{
    switch (op->request_case) {
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT:
        if (a)
            check_previous(w, of_pb(op->request_put->key), op->request_put->prev_kv,
                           a->response_put->prev_kv);
        change_put(w, op->request_put);
        break;
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE:
        if (a)
            check_delete(w, op->request_delete_range, a->response_delete_range);
        change_delete(w, in_range, op->request_delete_range);
        break;
    case ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE:
        if (a && op->request_range->revision > 0)
            check_range_at(op->request_range, a->response_range, op->request_range->revision + 1,
                           0);
        else if (a)
            check_range_at(op->request_range, a->response_range, w->main, w->sub);
        break;
    default: check(false);
    }
}

static enum outcome run_txn(struct walk *w, const Etcdserverpb__TxnRequest *q,
                            const Etcdserverpb__TxnResponse *a)
{
    bool succeeded = compares_hold(w, q);
    Etcdserverpb__RequestOp **ops = succeeded ? q->success : q->failure;
    size_t n = succeeded ? q->n_success : q->n_failure;
    enum outcome outcome = txn_refused(w, ops, n);

    if (outcome != OUTCOME_OK)
        return outcome;
    if (a) {
        require(a->succeeded == succeeded, "answer", "txn at %ld: succeeded %d", (long)w->main,
                a->succeeded);
        require(a->n_responses == n, "answer", "txn at %ld: %zu responses", (long)w->main,
                a->n_responses);
    }
    for (size_t i = 0; i < n; i++)
        run_op(w, ops[i], a ? a->responses[i] : NULL);
    return OUTCOME_OK;
}

/* ---- entries ---- */

static bool ops_put(Etcdserverpb__RequestOp *const *ops, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ops[i]->request_case == ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT)
            return true;
    return false;
}

static enum outcome refused_by_alarm(const struct model_mark *mark,
                                     const Etcdserverpb__InternalRaftRequest *q)
{
    bool grows = q->put || q->lease_grant ||
                 (q->txn && (ops_put(q->txn->success, q->txn->n_success) ||
                             ops_put(q->txn->failure, q->txn->n_failure)));

    if (mark->corrupt && (grows || q->delete_range || q->txn || q->compaction || q->lease_revoke))
        return OUTCOME_CORRUPT;
    return mark->no_space && grows ? OUTCOME_NO_SPACE : OUTCOME_OK;
}

static enum outcome run_grant(const struct walk *w, const Etcdserverpb__LeaseGrantRequest *q)
{
    if (lease_alive(q->id, w->index))
        return OUTCOME_LEASE_EXISTS;
    if (!w->applies)
        return OUTCOME_OK;
    if (model.n_leases == model.cap_leases) {
        model.cap_leases = model.cap_leases ? 2 * model.cap_leases : 16;
        model.leases = mem_realloc(model.leases, model.cap_leases * sizeof(*model.leases));
    }
    model.leases[model.n_leases++] =
        (struct lease){.id = q->id, .ttl_s = q->ttl, .granted = w->index};
    return OUTCOME_OK;
}

static enum outcome run_revoke(struct walk *w, const Etcdserverpb__LeaseRevokeRequest *q)
{
    if (!lease_alive(q->id, w->index))
        return OUTCOME_LEASE_NOT_FOUND;
    change_delete(w, has_lease, &q->id);
    for (size_t i = 0; w->applies && i < model.n_leases; i++)
        if (model.leases[i].id == q->id && model.leases[i].revoked == 0)
            model.leases[i].revoked = w->index;
    return OUTCOME_OK;
}

/* Unknown ones are passed over. */
static enum outcome run_checkpoint(const struct walk *w,
                                   const Etcdserverpb__LeaseCheckpointRequest *q)
{
    for (size_t i = 0; w->applies && i < q->n_checkpoints; i++)
        for (size_t k = 0; k < model.n_leases; k++)
            if (model.leases[k].id == q->checkpoints[i]->id && model.leases[k].revoked == 0)
                model.leases[k].remaining_s = q->checkpoints[i]->remaining_ttl;
    return OUTCOME_OK;
}

static enum outcome run_compaction(const struct walk *w, const Etcdserverpb__CompactionRequest *q)
{
    if (q->revision <= w->compacted)
        return OUTCOME_COMPACTED;
    if (q->revision > w->main - 1)
        return OUTCOME_FUTURE_REVISION;
    if (w->applies)
        model.compacted = q->revision;
    return OUTCOME_OK;
}

static void set_alarm(uint64_t *members, uint64_t member, bool on)
{
    size_t at = 16;

    for (size_t i = 0; i < 16; i++)
        if (members[i] == member || (members[i] == 0 && at == 16))
            at = i;
    check(at < 16);
    members[at] = on ? member : 0;
}

static enum outcome run_alarm(const struct walk *w, const Etcdserverpb__AlarmRequest *q)
{
    bool on = q->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE;

    if (!w->applies || q->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET)
        return OUTCOME_OK;
    if (q->alarm == ETCDSERVERPB__ALARM_TYPE__NOSPACE)
        set_alarm(model.no_space, q->memberid, on);
    else if (q->alarm == ETCDSERVERPB__ALARM_TYPE__CORRUPT)
        set_alarm(model.corrupt, q->memberid, on);
    return OUTCOME_OK;
}

struct answer {
    Etcdserverpb__PutResponse *put;
    Etcdserverpb__DeleteRangeResponse *delete_range;
    Etcdserverpb__TxnResponse *txn;
};

static enum outcome run_put(struct walk *w, const Etcdserverpb__PutRequest *q,
                            const Etcdserverpb__PutResponse *a)
{
    if (q->lease && !lease_alive(q->lease, w->index))
        return OUTCOME_LEASE_NOT_FOUND;
    if (a)
        check_previous(w, of_pb(q->key), q->prev_kv, a->prev_kv);
    change_put(w, q);
    return OUTCOME_OK;
}

static enum outcome run_request(struct walk *w, const struct model_mark *mark,
                                const Etcdserverpb__InternalRaftRequest *q, const struct answer *a)
{
    enum outcome refused = refused_by_alarm(mark, q);

    if (refused != OUTCOME_OK)
        return refused;
    if (q->put)
        return run_put(w, q->put, a->put);
    if (q->delete_range) {
        if (a->delete_range)
            check_delete(w, q->delete_range, a->delete_range);
        change_delete(w, in_range, q->delete_range);
        return OUTCOME_OK;
    }
    if (q->txn)
        return run_txn(w, q->txn, a->txn);
    if (q->compaction)
        return run_compaction(w, q->compaction);
    if (q->lease_grant)
        return run_grant(w, q->lease_grant);
    if (q->lease_revoke)
        return run_revoke(w, q->lease_revoke);
    if (q->lease_checkpoint)
        return run_checkpoint(w, q->lease_checkpoint);
    if (q->alarm)
        return run_alarm(w, q->alarm);
    return OUTCOME_OK; /* no matter of the store */
}

void model_apply(uint64_t index, const Etcdserverpb__InternalRaftRequest *q)
{
    struct model_mark mark = model_now(index);
    struct walk w = {
        .applies = true, .index = index, .main = model.revision + 1, .compacted = model.compacted};

    (void)run_request(&w, &mark, q, &(struct answer){0});
    if (w.sub > 0)
        model.revision = w.main;
}

/* ---- answers ---- */

/* The header of any response: they all have it as field 1. */
static int64_t header_revision(struct bytes response)
{
    Etcdserverpb__LeaseRevokeResponse *r =
        etcdserverpb__lease_revoke_response__unpack(NULL, response.len, response.data);
    require(r && r->header, "answer", "no header");
    int64_t revision = r->header->revision;

    etcdserverpb__lease_revoke_response__free_unpacked(r, NULL);
    return revision;
}

static void answer_unpack(struct answer *a, const Etcdserverpb__InternalRaftRequest *q,
                          struct bytes b)
{
    *a = (struct answer){0};
    if (q->put)
        a->put = etcdserverpb__put_response__unpack(NULL, b.len, b.data);
    if (q->delete_range)
        a->delete_range = etcdserverpb__delete_range_response__unpack(NULL, b.len, b.data);
    if (q->txn)
        a->txn = etcdserverpb__txn_response__unpack(NULL, b.len, b.data);
    require(!q->put == !a->put && !q->delete_range == !a->delete_range && !q->txn == !a->txn,
            "answer", "it does not parse");
}

static void answer_free(struct answer *a)
{
    if (a->put)
        etcdserverpb__put_response__free_unpacked(a->put, NULL);
    if (a->delete_range)
        etcdserverpb__delete_range_response__free_unpacked(a->delete_range, NULL);
    if (a->txn)
        etcdserverpb__txn_response__free_unpacked(a->txn, NULL);
}

int64_t model_check_answer(const struct model_mark *mark,
                           const Etcdserverpb__InternalRaftRequest *q, enum outcome outcome,
                           struct bytes response, bool *ret_changed)
{
    struct walk w = {
        .index = mark->index, .main = mark->revision + 1, .compacted = mark->compacted};
    struct answer a = {0};

    if (outcome == OUTCOME_OK)
        answer_unpack(&a, q, response);
    enum outcome expected = run_request(&w, mark, q, &a);
    answer_free(&a);
    require(outcome == expected, "answer", "entry %lu: outcome %d instead of %d",
            (unsigned long)mark->index, (int)outcome, (int)expected);
    *ret_changed = w.sub > 0;
    if (outcome != OUTCOME_OK)
        return mark->revision;
    int64_t revision = header_revision(response);
    require(revision == (w.sub > 0 ? w.main : mark->revision), "answer",
            "entry %lu: revision %ld in the header, at %ld", (unsigned long)mark->index,
            (long)revision, (long)mark->revision);
    return revision;
}

int64_t model_check_range(const Etcdserverpb__RangeRequest *q, struct bytes response)
{
    Etcdserverpb__RangeResponse *a =
        etcdserverpb__range_response__unpack(NULL, response.len, response.data);
    require(a && a->header, "answer", "range: it does not parse");
    int64_t revision = a->header->revision;

    require(revision <= model.revision, "answer", "range: revision %ld of the future",
            (long)revision);
    check_range_at(q, a, (q->revision > 0 ? q->revision : revision) + 1, 0);
    etcdserverpb__range_response__free_unpacked(a, NULL);
    return revision;
}

int64_t model_check_ranges(const Etcdserverpb__TxnRequest *q, struct bytes response)
{
    Etcdserverpb__TxnResponse *a =
        etcdserverpb__txn_response__unpack(NULL, response.len, response.data);
    require(a && a->header, "answer", "txn: it does not parse");
    int64_t revision = a->header->revision;
    struct walk w = {.index = UINT64_MAX, .main = revision + 1, .compacted = -1};

    require(revision <= model.revision, "answer", "txn: revision %ld of the future",
            (long)revision);
    (void)run_txn(&w, q, a);
    etcdserverpb__txn_response__free_unpacked(a, NULL);
    return revision;
}

int64_t model_mod_revision(struct bytes key)
{
    const struct version *v = live_at(key_of(key, false), model.revision + 1, 0);

    return v ? v->main : 0;
}

bool model_any_live(int64_t revision)
{
    for (size_t i = 0; i < model.n_keys; i++)
        if (live_at(&model.keys[i], revision + 1, 0))
            return true;
    return false;
}

/* ---- as watches see it ---- */

size_t model_n_changes(void)
{
    return model.n_changes;
}

static struct kv kv_of(const struct key *k, const struct version *v)
{
    return (struct kv){.key = k->name,
                       .create = v->create,
                       .mod = v->main,
                       .version = v->version,
                       .value = v->value,
                       .lease = v->lease};
}

struct model_change model_change(size_t i)
{
    const struct change *c = &model.changes[i];
    const struct key *k = key_of(c->key, false);
    const struct version *v = &k->versions[c->version];

    return (struct model_change){
        .main = c->main, .sub = c->sub, .deleted = v->version == 0, .kv = kv_of(k, v)};
}

size_t model_find_change(int64_t revision)
{
    size_t low = 0, high = model.n_changes;

    while (low < high) {
        size_t mid = (low + high) / 2;
        if (model.changes[mid].main < revision)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool model_before(struct bytes name, int64_t main, struct kv *ret)
{
    const struct key *k = key_of(name, false);
    const struct version *v = live_at(k, main, 0);

    if (v)
        *ret = kv_of(k, v);
    return v != NULL;
}

/* ---- leases ---- */

static int lease_compare(const void *a, const void *b)
{
    return compare_numbers(((const struct model_lease *)a)->id,
                           ((const struct model_lease *)b)->id);
}

size_t model_leases(struct model_lease **ret)
{
    size_t n = 0;

    *ret = mem_alloc((model.n_leases + 1) * sizeof(**ret));
    for (size_t i = 0; i < model.n_leases; i++) {
        const struct lease *l = &model.leases[i];
        if (l->revoked == 0)
            (*ret)[n++] = (struct model_lease){l->id, l->ttl_s, l->remaining_s};
    }
    qsort(*ret, n, sizeof(**ret), lease_compare);
    return n;
}
