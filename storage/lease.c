/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lease table: what l records say, in memory, with the expiry times that only a leader has.
 *
 * Stored form (etcd's): key l 0x01 id (8 BE); value {1 ID, 2 TTL, 3 RemainingTTL}, varints, zero
 * fields absent. Ids may be negative: their big-endian bytes sort behind the others and are loaded
 * like them.
 *
 * Invariants: (1) the table holds exactly the leases that the store would hold if the batch were
 * written. (2) expiry_ms is UINT64_MAX unless this member leads. (3) A grant's TTL is at least the
 * minimum, in the table and in the store.
 *
 * Thread: grant, revoke, promote and demote in the apply turn; lookups from any.
 */
#include "storage/lease.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"
#include "storage/schema.h"

enum {
    TAG_ID = 0x08,
    TAG_TTL = 0x10,
    TAG_REMAINING = 0x18,
    VALUE_BYTES_MAX = 3 * (1 + VARINT_LEN_MAX),
    LEASE_KEY_BYTES = 10,
    SPREAD_LEASES_MIN = 1000, /* from here on, a new leader spreads the expiries */
    SPREAD_PER_SECOND = 750,
};

struct lease_table {
    struct db *db;
    int64_t ttl_min_s;
    pthread_mutex_t lock;  /* guards the map and the leases in it */
    struct map_u64 leases; /* id -> struct lease_info, owned */
    bool promoted;         /* this member leads: new leases get an expiry */
};

/* ---- the stored form ---- */

static size_t int_put(uint8_t *p, uint8_t tag, int64_t v)
{
    if (v == 0)
        return 0;
    *p = tag;
    return 1 + varint_put(p + 1, (uint64_t)v);
}

static void lease_put(struct db_batch *batch, const struct lease_info *l)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    uint8_t value[VALUE_BYTES_MAX];
    size_t len = int_put(value, TAG_ID, l->id);
    len += int_put(value + len, TAG_TTL, l->ttl_s);
    len += int_put(value + len, TAG_REMAINING, l->remaining_s);
    schema_lease(&key, l->id);
    db_batch_put(batch, buf_bytes(&key), bytes_of(value, len));
}

static bool lease_decode(struct bytes value, struct lease_info *ret)
{
    struct lease_info l = {.expiry_ms = UINT64_MAX};
    while (value.len > 0) {
        uint64_t tag, number;
        if (!varint_get(&value, &tag) || !varint_get(&value, &number))
            return false;
        if (tag == TAG_ID)
            l.id = (int64_t)number;
        else if (tag == TAG_TTL)
            l.ttl_s = (int64_t)number;
        else if (tag == TAG_REMAINING)
            l.remaining_s = (int64_t)number;
        else
            return false;
    }
    *ret = l;
    return true;
}

/* ---- opening ---- */

static int lease_load(struct lease_table *t, struct bytes key, struct bytes value)
{
    struct lease_info l;
    if (key.len != LEASE_KEY_BYTES || !lease_decode(value, &l) ||
        (uint64_t)l.id != u64_be_get(key.data + 2)) {
        log_error("corrupt lease in the database", LOG_BYTES("record", key));
        return err_origin(-EBADMSG);
    }
    if (l.ttl_s < t->ttl_min_s)
        l.ttl_s = t->ttl_min_s;
    struct lease_info *copy = mem_alloc(sizeof(*copy));
    *copy = l;
    map_u64_put(&t->leases, (uint64_t)l.id, copy);
    return 0;
}

static int leases_load(struct lease_table *t)
{
    struct db_iter_options options = {.upper = BYTES_LIT("l\x02")};
    struct db_iter *it = db_iter_new(t->db, &options);
    int r = 0;
    for (db_iter_seek(it, BYTES_LIT("l\x01")); r == 0 && db_iter_valid(it); db_iter_next(it))
        r = lease_load(t, db_iter_key(it), db_iter_value(it));
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

int lease_table_open(struct lease_table **ret, struct db *db, int64_t ttl_min_s)
{
    check(ret && db);
    struct lease_table *t = mem_new(struct lease_table);
    t->db = db;
    t->ttl_min_s = ttl_min_s;
    pthread_mutex_init(&t->lock, NULL);
    int r = leases_load(t);
    if (r < 0) {
        lease_table_close(t);
        return r;
    }
    *ret = t;
    return 0;
}

struct lease_table *lease_table_close(struct lease_table *t)
{
    if (!t)
        return NULL;
    size_t pos = 0;
    for (struct lease_info *l; (l = map_u64_next(&t->leases, &pos, NULL));)
        free(l);
    map_u64_deinit(&t->leases);
    pthread_mutex_destroy(&t->lock);
    free(t);
    return NULL;
}

/* ---- changes ---- */

int lease_grant(struct lease_table *t, struct db_batch *batch, int64_t id, int64_t ttl_s,
                int64_t *ret_ttl_s)
{
    if (id == 0)
        return LEASE_E_NOT_FOUND;
    if (ttl_s > LEASE_TTL_MAX_S)
        return LEASE_E_TTL_TOO_LARGE;
    if (lease_exists(t, id))
        return LEASE_E_EXISTS;
    struct lease_info *l = mem_alloc(sizeof(*l));
    *l = (struct lease_info){
        .id = id,
        .ttl_s = ttl_s < t->ttl_min_s ? t->ttl_min_s : ttl_s,
        .expiry_ms = UINT64_MAX,
    };
    lease_put(batch, l);
    *ret_ttl_s = l->ttl_s;
    pthread_mutex_lock(&t->lock);
    if (t->promoted)
        l->expiry_ms = clock_mono_ms() + (uint64_t)l->ttl_s * 1000;
    check(!map_u64_put(&t->leases, (uint64_t)id, l));
    pthread_mutex_unlock(&t->lock);
    return 0;
}

int lease_revoke(struct lease_table *t, struct db_batch *batch, int64_t id)
{
    pthread_mutex_lock(&t->lock);
    struct lease_info *l = map_u64_remove(&t->leases, (uint64_t)id);
    pthread_mutex_unlock(&t->lock);
    if (!l)
        return LEASE_E_NOT_FOUND;
    free(l);
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    schema_lease(&key, id);
    db_batch_delete(batch, buf_bytes(&key));
    return 0;
}

/* ---- lookups ---- */

bool lease_exists(struct lease_table *t, int64_t id)
{
    struct lease_info l;
    return lease_get(t, id, &l) == 0;
}

int lease_get(struct lease_table *t, int64_t id, struct lease_info *ret)
{
    pthread_mutex_lock(&t->lock);
    const struct lease_info *l = map_u64_get(&t->leases, (uint64_t)id);
    if (l)
        *ret = *l;
    pthread_mutex_unlock(&t->lock);
    return l ? 0 : LEASE_E_NOT_FOUND;
}

static int expiry_compare(const void *a, const void *b)
{
    const struct lease_info *x = a, *y = b;
    if (x->expiry_ms != y->expiry_ms)
        return x->expiry_ms < y->expiry_ms ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

size_t lease_list(struct lease_table *t, struct lease_info **ret_infos)
{
    pthread_mutex_lock(&t->lock);
    size_t n = 0;
    struct lease_info *infos = mem_alloc((t->leases.len + 1) * sizeof(*infos));
    size_t pos = 0;
    for (const struct lease_info *l; (l = map_u64_next(&t->leases, &pos, NULL));)
        infos[n++] = *l;
    pthread_mutex_unlock(&t->lock);
    qsort(infos, n, sizeof(*infos), expiry_compare);
    *ret_infos = infos;
    return n;
}

/* ---- leadership ---- */

static void expiry_set(struct lease_table *t, int64_t id, uint64_t expiry_ms)
{
    struct lease_info *l = map_u64_get(&t->leases, (uint64_t)id);
    if (l)
        l->expiry_ms = expiry_ms;
}

/*
 * Thousands of leases that were granted together would expire, and be revoked, together. In order
 * of expiry, each window of a second takes SPREAD_PER_SECOND; what exceeds it is moved behind, and
 * the window with it.
 */
static void spread(struct lease_table *t, const struct lease_info *sorted, size_t n)
{
    uint64_t window_start = sorted[0].expiry_ms;
    uint64_t window_end = window_start + 1000;
    uint64_t in_window = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t expiry = sorted[i].expiry_ms;
        if (expiry > window_end) {
            window_start = expiry;
            window_end = expiry + 1000;
            in_window = 1;
            continue;
        }
        if (++in_window <= SPREAD_PER_SECOND)
            continue;
        uint64_t moved = window_start + in_window * 1000 / SPREAD_PER_SECOND;
        if (moved < expiry)
            moved = expiry;
        expiry_set(t, sorted[i].id, moved);
        window_end = moved > window_end ? moved : window_end;
    }
}

void lease_promote(struct lease_table *t, uint64_t now_ms, uint64_t extend_ms)
{
    pthread_mutex_lock(&t->lock);
    t->promoted = true;
    size_t pos = 0;
    for (struct lease_info *l; (l = map_u64_next(&t->leases, &pos, NULL));) {
        int64_t left_s = l->remaining_s > 0 ? l->remaining_s : l->ttl_s;
        l->expiry_ms = now_ms + extend_ms + (uint64_t)left_s * 1000;
    }
    pthread_mutex_unlock(&t->lock);
    struct lease_info *sorted;
    size_t n = lease_list(t, &sorted);
    if (n >= SPREAD_LEASES_MIN) {
        pthread_mutex_lock(&t->lock);
        spread(t, sorted, n);
        pthread_mutex_unlock(&t->lock);
    }
    free(sorted);
}

void lease_demote(struct lease_table *t)
{
    pthread_mutex_lock(&t->lock);
    t->promoted = false;
    size_t pos = 0;
    for (struct lease_info *l; (l = map_u64_next(&t->leases, &pos, NULL));)
        l->expiry_ms = UINT64_MAX;
    pthread_mutex_unlock(&t->lock);
}
