/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lease table: what l records say, in memory; lease_time.c has the times that only a leader
 * gives them.
 *
 * Stored form (etcd's): key l 0x01 id (8 BE); value {1 ID, 2 TTL, 3 RemainingTTL}, varints, zero
 * fields absent. Ids may be negative: their big-endian bytes sort behind the others and are loaded
 * like them.
 *
 * Invariants: (1) the table holds exactly the leases that the store would hold if the batch were
 * written. (2) A grant's TTL is at least the minimum, in the table and in the store.
 *
 * Thread: grant, revoke and checkpoint in the apply turn; lookups from any.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/lease_impl.h"
#include "storage/schema.h"

enum {
    TAG_ID = 0x08,
    TAG_TTL = 0x10,
    TAG_REMAINING = 0x18,
    VALUE_BYTES_MAX = 3 * (1 + VARINT_LEN_MAX),
    LEASE_KEY_BYTES = 10,
    SERIAL_MAX = (1U << 31) - 1,
};

/* ---- the stored form ---- */

static size_t int_put(uint8_t *p, uint8_t tag, int64_t v)
{
    if (v == 0)
        return 0;
    *p = tag;
    return 1 + varint_put(p + 1, (uint64_t)v);
}

static void lease_put(struct db_batch *batch, const struct lease *l)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    uint8_t value[VALUE_BYTES_MAX];
    size_t len = int_put(value, TAG_ID, l->id);
    len += int_put(value + len, TAG_TTL, l->ttl_s);
    len += int_put(value + len, TAG_REMAINING, l->remaining_s);
    schema_lease(&key, l->id);
    db_batch_put(batch, buf_bytes(&key), bytes_of(value, len));
}

static bool lease_decode(struct bytes value, struct lease *ret)
{
    struct lease l = {0};
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

static struct lease *lease_new(struct lease_table *t, struct lease l)
{
    struct lease *copy = mem_alloc(sizeof(*copy));
    t->serial = t->serial % SERIAL_MAX + 1;
    *copy = l;
    copy->serial = t->serial & SERIAL_MAX;
    if (copy->ttl_s < t->ttl_min_s)
        copy->ttl_s = t->ttl_min_s;
    return copy;
}

static int lease_load(struct lease_table *t, struct bytes key, struct bytes value)
{
    struct lease l;
    if (key.len != LEASE_KEY_BYTES || !lease_decode(value, &l) ||
        (uint64_t)l.id != u64_be_get(key.data + 2)) {
        log_error("corrupt lease in the database", LOG_BYTES("record", key));
        return err_origin(-EBADMSG);
    }
    map_u64_put(&t->leases, (uint64_t)l.id, lease_new(t, l));
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
    lease_demote(t, t->term);
    size_t pos = 0;
    for (struct lease *l; (l = map_u64_next(&t->leases, &pos, NULL));)
        free(l);
    map_u64_deinit(&t->leases);
    pthread_mutex_destroy(&t->lock);
    free(t);
    return NULL;
}

void lease_checkpoint_every(struct lease_table *t, uint64_t interval_ns)
{
    pthread_mutex_lock(&t->lock);
    t->checkpoint_ns = interval_ns;
    pthread_mutex_unlock(&t->lock);
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
    pthread_mutex_lock(&t->lock);
    struct lease *l = lease_new(t, (struct lease){.id = id, .ttl_s = ttl_s});
    lease_put(batch, l);
    *ret_ttl_s = l->ttl_s;
    check(!map_u64_put(&t->leases, (uint64_t)id, l));
    lease_time_begin(t, l);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

int lease_revoke(struct lease_table *t, struct db_batch *batch, int64_t id)
{
    pthread_mutex_lock(&t->lock);
    struct lease *l = map_u64_remove(&t->leases, (uint64_t)id);
    if (l)
        lease_time_end(t, l);
    pthread_mutex_unlock(&t->lock);
    if (!l)
        return LEASE_E_NOT_FOUND;
    free(l);
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    schema_lease(&key, id);
    db_batch_delete(batch, buf_bytes(&key));
    return 0;
}

/* etcd 3.7 writes it from cluster version 3.6 on, which is older than any that we can be in. */
int lease_checkpoint(struct lease_table *t, struct db_batch *batch, int64_t id, int64_t remaining_s)
{
    pthread_mutex_lock(&t->lock);
    struct lease *l = map_u64_get(&t->leases, (uint64_t)id);
    if (l) {
        l->remaining_s = remaining_s;
        lease_put(batch, l);
        lease_queue_add(t, l, clock_mono_ns());
    }
    pthread_mutex_unlock(&t->lock);
    return l ? 0 : LEASE_E_NOT_FOUND;
}

/* ---- lookups ---- */

bool lease_exists(struct lease_table *t, int64_t id)
{
    struct lease_info l;
    return lease_get(t, id, &l) == 0;
}

static struct lease_info info_of(const struct lease_table *t, const struct lease *l)
{
    return (struct lease_info){.id = l->id,
                               .ttl_s = l->ttl_s,
                               .remaining_s = l->remaining_s,
                               .expiry_ns = t->term != 0 ? l->expiry_ns : LEASE_NEVER};
}

int lease_get(struct lease_table *t, int64_t id, struct lease_info *ret)
{
    pthread_mutex_lock(&t->lock);
    const struct lease *l = map_u64_get(&t->leases, (uint64_t)id);
    if (l)
        *ret = info_of(t, l);
    pthread_mutex_unlock(&t->lock);
    return l ? 0 : LEASE_E_NOT_FOUND;
}

static int expiry_compare(const void *a, const void *b)
{
    const struct lease_info *x = a, *y = b;
    if (x->expiry_ns != y->expiry_ns)
        return x->expiry_ns < y->expiry_ns ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

size_t lease_list(struct lease_table *t, struct lease_info **ret_infos)
{
    pthread_mutex_lock(&t->lock);
    size_t n = 0;
    struct lease_info *infos = mem_alloc((t->leases.len + 1) * sizeof(*infos));
    size_t pos = 0;
    for (const struct lease *l; (l = map_u64_next(&t->leases, &pos, NULL));)
        infos[n++] = info_of(t, l);
    pthread_mutex_unlock(&t->lock);
    qsort(infos, n, sizeof(*infos), expiry_compare);
    *ret_infos = infos;
    return n;
}
