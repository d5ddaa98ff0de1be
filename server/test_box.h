/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: a whole member without its threads (server_open()), driven turn by turn, and requests
 * that remember how they ended.
 *
 * Failures here are check()s, so that it works in a forked child too.
 */
#pragma once

#include <inttypes.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/mem.h"
#include "server/internal_request.h"
#include "server/member_json.h"
#include "server/range.h"
#include "server/server_private.h"
#include "storage/test_dir.h"

enum { BOX_SEGMENT_BYTES = 64 << 10, BOX_TURNS = 8 };

static const struct server_tuning box_tuning = {.wal_segment_bytes = BOX_SEGMENT_BYTES};

struct box {
    char *dir; /* of the test; the data directory is in it */
    struct config config;
    struct server *s;
    struct arena arena; /* of requests */
    uint64_t now_ms;
};

/* A request under way. It may be submitted again when it is done. */
struct call {
    struct request request;
    int outcome; /* CALL_WAITS until finished */
    unsigned n_finished;
};
enum { CALL_WAITS = -1 };

/* What a user gets who gives the data directory and at most two flags more, or NULL. */
static inline void box_config(struct box *b, const char *flag, const char *other)
{
    char *path = mem_printf("--data-dir=%s/data", b->dir), *no_environ[] = {NULL};
    char *args[] = {(char *)"cairn", path, (char *)flag, (char *)other, NULL};
    int exit_code, n = 2 + (flag != NULL) + (other != NULL);

    config_deinit(&b->config);
    check(config_parse(n, args, no_environ, &b->config, &exit_code) == CONFIG_RUN);
    b->config.warning_apply_duration_ns = INT64_MAX;
    b->config.unsafe_no_fsync = true; /* no test outlives the machine */
    free(path);
}

/* dir is the box's from now on. */
static inline struct box *box_new(char *dir)
{
    struct box *b = mem_new(struct box);

    b->dir = dir;
    b->now_ms = 1000;
    box_config(b, NULL, NULL);
    arena_init(&b->arena);
    return b;
}

static inline void box_open(struct box *b)
{
    check(server_open(&b->s, &b->config, NULL, &box_tuning) == 0);
}

/* In order. What the database has not flushed may be lost, the log is not. */
static inline void box_close(struct box *b)
{
    if (b->s)
        server_drain(b->s);
    b->s = server_stop(b->s);
}

static inline struct box *box_free(struct box *b)
{
    box_close(b);
    arena_deinit(&b->arena);
    config_deinit(&b->config);
    test_dir_remove(b->dir);
    free(b);
    return NULL;
}

/* Turns until nothing moves; far less than a tick of time. */
static inline void box_run(struct box *b)
{
    for (int i = 0; i < BOX_TURNS; i++) {
        check(node_turn(b->s->node, ++b->now_ms) == 0);
        check(apply_turn(b->s->apply) == 0);
    }
    check(atomic_load(&b->s->state.applied) == atomic_load(&b->s->state.committed));
}

/* A new member that leads. */
static inline struct box *box_start(void)
{
    struct box *b = box_new(test_dir_new());

    box_open(b);
    box_run(b);
    check(atomic_load(&b->s->state.leader) == b->s->state.member_id);
    return b;
}

static inline void call_finish(struct request *request, enum outcome outcome)
{
    struct call *c = container_of(request, struct call, request);

    c->outcome = (int)outcome;
    c->n_finished++;
}

static inline void call_init(struct call *c, enum request_kind kind, struct bytes payload)
{
    *c = (struct call){.request = {.kind = kind, .payload = payload, .finish = call_finish},
                       .outcome = CALL_WAITS};
}

static inline void call_deinit(struct call *c)
{
    buf_deinit(&c->request.response);
}

/* The encoded form of a message, in the box's arena. */
#define PACK(b, package_name, message)                                                             \
    ({                                                                                             \
        size_t size_ = package_name##__get_packed_size(message);                                   \
        uint8_t *packed_ = arena_alloc(&(b)->arena, size_);                                        \
        package_name##__pack(message, packed_);                                                    \
        bytes_of(packed_, size_);                                                                  \
    })

static inline ProtobufCBinaryData pb_of(const char *text)
{
    return (ProtobufCBinaryData){strlen(text), (uint8_t *)(uintptr_t)text};
}

static inline void call_put(struct box *b, struct call *c, const char *key, const char *value,
                            int64_t lease)
{
    Etcdserverpb__PutRequest q = ETCDSERVERPB__PUT_REQUEST__INIT;

    q.key = pb_of(key);
    q.value = pb_of(value);
    q.lease = lease;
    call_init(c, REQUEST_PUT, PACK(b, etcdserverpb__put_request, &q));
}

static inline void call_delete(struct box *b, struct call *c, const char *key, const char *end)
{
    Etcdserverpb__DeleteRangeRequest q = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;

    q.key = pb_of(key);
    if (end)
        q.range_end = pb_of(end);
    call_init(c, REQUEST_DELETE_RANGE, PACK(b, etcdserverpb__delete_range_request, &q));
}

/* Ranges over [key, end), then puts key. */
static inline void call_txn(struct box *b, struct call *c, const char *key, const char *end)
{
    Etcdserverpb__TxnRequest t = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__RequestOp range_op = ETCDSERVERPB__REQUEST_OP__INIT, put_op = range_op;
    Etcdserverpb__RequestOp *ops[] = {&range_op, &put_op};
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;

    range.key = put.key = pb_of(key);
    range.range_end = pb_of(end);
    put.value = pb_of("txn");
    range_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    range_op.request_range = &range;
    put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    put_op.request_put = &put;
    t.success = ops;
    t.n_success = 2;
    call_init(c, REQUEST_TXN, PACK(b, etcdserverpb__txn_request, &t));
}

static inline void call_compact(struct box *b, struct call *c, int64_t revision, bool physical)
{
    Etcdserverpb__CompactionRequest q = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

    q.revision = revision;
    call_init(c, REQUEST_COMPACT, PACK(b, etcdserverpb__compaction_request, &q));
    c->request.physical = physical;
}

static inline void call_grant(struct box *b, struct call *c, int64_t id, int64_t ttl_s)
{
    Etcdserverpb__LeaseGrantRequest q = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;

    q.id = id;
    q.ttl = ttl_s;
    call_init(c, REQUEST_LEASE_GRANT, PACK(b, etcdserverpb__lease_grant_request, &q));
}

static inline void call_revoke(struct box *b, struct call *c, int64_t id)
{
    Etcdserverpb__LeaseRevokeRequest q = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;

    q.id = id;
    call_init(c, REQUEST_LEASE_REVOKE, PACK(b, etcdserverpb__lease_revoke_request, &q));
}

static inline void call_alarm(struct box *b, struct call *c, bool activate,
                              Etcdserverpb__AlarmType type)
{
    Etcdserverpb__AlarmRequest q = ETCDSERVERPB__ALARM_REQUEST__INIT;

    q.action = activate ? ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE
                        : ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
    q.memberid = b->s->state.member_id;
    q.alarm = type;
    call_init(c, REQUEST_ALARM, PACK(b, etcdserverpb__alarm_request, &q));
}

/* Submits, runs, and returns the outcome; the response is dropped. */
static inline int call_run(struct box *b, struct call *c)
{
    server_submit(b->s, &c->request);
    box_run(b);
    check(c->n_finished == 1);
    call_deinit(c);
    return c->outcome;
}

static inline int box_put(struct box *b, const char *key, const char *value)
{
    struct call c;

    call_put(b, &c, key, value, 0);
    return call_run(b, &c);
}

/* Too large to be applied on the raft thread: it goes the way of all but the lone quick entry. */
static inline const char *box_large_value(void)
{
    static char value[APPLY_NOW_BYTES_MAX + 1];

    memset(value, 'v', sizeof(value) - 1);
    return value;
}

static inline enum outcome box_timed_out(void *arg, const struct request *request)
{
    return OUTCOME_TIMEOUT;
}

/* The time of everything that waits is over. */
static inline void box_time_out(struct box *b)
{
    wait_expire(&b->s->wait, UINT64_MAX - 1, box_timed_out, NULL);
}

/* ---- the state as text: equal states, equal texts ---- */

static inline void print_member(void *arg, const struct member *m)
{
    buf_append_str(arg, " member ");
    member_json(arg, m);
}

static inline int print_key(void *arg, struct bytes key)
{
    buf_printf(arg, "%.*s,", (int)key.len, (const char *)key.data);
    return 0;
}

static inline int compare_lease_ids(const void *a, const void *b)
{
    const struct lease_info *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

/* Without the times of expiry, which are no state. */
static inline void print_leases(struct box *b, struct buf *out)
{
    struct lease_info *infos;
    size_t n = lease_list(b->s->store.leases, &infos);

    qsort(infos, n, sizeof(*infos), compare_lease_ids);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, " lease %" PRId64 ":%" PRId64 "/%" PRId64 "=", infos[i].id, infos[i].ttl_s,
                   infos[i].remaining_s);
        check(mvcc_lease_keys(b->s->store.mvcc, infos[i].id, print_key, out) == 0);
    }
    free(infos);
}

/* The index of the last applied entry and all that entries can change. */
static inline char *box_text(struct box *b)
{
    struct buf out = BUF_NULL;
    struct mvcc_hash hash;
    struct downgrade downgrade;
    char version[16];

    check(mvcc_hash_kv(b->s->store.mvcc, 0, &hash) == 0);
    members_cluster_version(b->s->store.members, version);
    buf_printf(&out, "revision %" PRId64 " compacted %" PRId64 " hash %" PRIu32 " version %s",
               mvcc_revision(b->s->store.mvcc), mvcc_compacted(b->s->store.mvcc), hash.hash,
               version);
    members_downgrade(b->s->store.members, &downgrade);
    buf_printf(&out, " downgrade %s", downgrade.target);
    buf_printf(&out, " alarms %d%d", alarms_no_space(b->s->store.alarms),
               alarms_corrupt(b->s->store.alarms));
    print_leases(b, &out);
    members_visit(b->s->store.members, print_member, &out);
    char *text = mem_strdup(buf_cstr(&out));
    buf_deinit(&out);
    return text;
}

/* What the database says is applied; zeros if nothing is. */
struct box_applied {
    uint64_t index;
    uint64_t term;
};

static inline struct box_applied box_stored_applied(struct box *b)
{
    struct buf key = BUF_NULL;
    struct db_value value = {0};
    struct box_applied applied = {0, 0};

    schema_meta(&key, "applied");
    int r = db_get(b->s->store.db, NULL, buf_bytes(&key), &value);
    check(r == DB_E_NOT_FOUND || (r == 0 && value.bytes.len == 16));
    if (r == 0)
        applied =
            (struct box_applied){u64_be_get(value.bytes.data), u64_be_get(value.bytes.data + 8)};
    db_value_release(&value);
    buf_deinit(&key);
    return applied;
}
