/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The alarm table (see alarm.h). Stored: 's' + AlarmMember {1 memberID, 2 alarm} -> nothing.
 *
 * Thread: see alarm.h; one mutex, and two atomics for the hot path.
 */
#include "server/alarm.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/encode.h"

enum { ALARMS_MAX = 256, FIELD_ALARMS = 2 };

struct alarm {
    uint64_t member;
    Etcdserverpb__AlarmType type;
};

struct alarms {
    pthread_mutex_t lock;
    struct alarm items[ALARMS_MAX];
    size_t len;
    _Atomic unsigned n_no_space;
    _Atomic unsigned n_corrupt;
};

static const struct {
    Etcdserverpb__AlarmType none, no_space, corrupt;
} types = {ETCDSERVERPB__ALARM_TYPE__NONE, ETCDSERVERPB__ALARM_TYPE__NOSPACE,
           ETCDSERVERPB__ALARM_TYPE__CORRUPT};

static void encode_alarm(struct buf *out, const struct alarm *alarm)
{
    encode_u64(out, 1, alarm->member);
    encode_u64(out, 2, (uint64_t)alarm->type);
}

static void count(struct alarms *a)
{
    unsigned no_space = 0, corrupt = 0;

    for (size_t i = 0; i < a->len; i++) {
        no_space += a->items[i].type == types.no_space;
        corrupt += a->items[i].type == types.corrupt;
    }
    atomic_store(&a->n_no_space, no_space);
    atomic_store(&a->n_corrupt, corrupt);
}

static bool parse(struct bytes s, struct alarm *ret)
{
    Etcdserverpb__AlarmMember *m = etcdserverpb__alarm_member__unpack(NULL, s.len, s.data);

    if (!m)
        return false;
    *ret = (struct alarm){m->memberid, m->alarm};
    etcdserverpb__alarm_member__free_unpacked(m, NULL);
    return true;
}

int alarms_open(struct alarms **ret, struct db *db)
{
    struct alarms *a = mem_new(struct alarms);
    const uint8_t first = 's', end = 't';
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){.upper = bytes_of(&end, 1)});
    int r;

    pthread_mutex_init(&a->lock, NULL);
    for (db_iter_seek(it, bytes_of(&first, 1)); db_iter_valid(it) && a->len < ALARMS_MAX;
         db_iter_next(it)) {
        struct bytes key = db_iter_key(it);
        if (!parse(bytes_of(key.data + 1, key.len - 1), &a->items[a->len++])) {
            log_error("alarm record is not readable");
            db_iter_free(it);
            alarms_close(a);
            return err_origin(-EBADMSG);
        }
    }
    r = db_iter_error(it);
    db_iter_free(it);
    if (r < 0) {
        alarms_close(a);
        return err_trace(r);
    }
    count(a);
    *ret = a;
    return 0;
}

struct alarms *alarms_close(struct alarms *a)
{
    if (!a)
        return NULL;
    pthread_mutex_destroy(&a->lock);
    free(a);
    return NULL;
}

static struct buf stored_key(const struct alarm *alarm)
{
    struct buf key = BUF_NULL;

    buf_append_u8(&key, 's');
    encode_alarm(&key, alarm);
    return key;
}

static struct alarm *find(struct alarms *a, const struct alarm *wanted)
{
    for (size_t i = 0; i < a->len; i++) {
        if (a->items[i].member == wanted->member && a->items[i].type == wanted->type)
            return &a->items[i];
    }
    return NULL;
}

/* Re-activation returns the existing alarm. */
static bool activate(struct alarms *a, struct db_batch *batch, const struct alarm *alarm)
{
    struct buf key;

    if (alarm->type == types.none)
        return false;
    if (find(a, alarm))
        return true;
    if (a->len == ALARMS_MAX)
        return false;
    a->items[a->len++] = *alarm;
    key = stored_key(alarm);
    db_batch_put(batch, buf_bytes(&key), BYTES_NULL);
    buf_deinit(&key);
    log_warn("alarm raised",
             LOG_STR("alarm", alarm->type == types.no_space ? "NOSPACE" : "CORRUPT"),
             LOG_ID("from", alarm->member));
    return true;
}

static bool deactivate(struct alarms *a, struct db_batch *batch, const struct alarm *alarm)
{
    struct alarm *found = find(a, alarm);
    struct buf key;

    if (!found)
        return false;
    *found = a->items[--a->len];
    key = stored_key(alarm);
    db_batch_delete(batch, buf_bytes(&key));
    buf_deinit(&key);
    return true;
}

static void encode_field(struct buf *out, uint32_t field, const struct alarm *alarm)
{
    size_t mark = encode_begin(out, field);

    encode_alarm(out, alarm);
    encode_end(out, mark);
}

void alarms_encode(struct alarms *a, Etcdserverpb__AlarmType type, uint32_t field, struct buf *out)
{
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->len; i++) {
        if (type == types.none || a->items[i].type == type)
            encode_field(out, field, &a->items[i]);
    }
    pthread_mutex_unlock(&a->lock);
}

void alarms_apply(struct alarms *a, struct db_batch *batch,
                  const Etcdserverpb__AlarmRequest *request, struct buf *out)
{
    struct alarm alarm = {request->memberid, request->alarm};
    bool answer = false;

    if (request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET) {
        if (out)
            alarms_encode(a, request->alarm, FIELD_ALARMS, out);
        return;
    }
    pthread_mutex_lock(&a->lock);
    if (request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__ACTIVATE)
        answer = activate(a, batch, &alarm);
    else if (request->action == ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE)
        answer = deactivate(a, batch, &alarm);
    count(a);
    pthread_mutex_unlock(&a->lock);
    if (answer && out)
        encode_field(out, FIELD_ALARMS, &alarm);
}

bool alarms_no_space(const struct alarms *a)
{
    return atomic_load_explicit(&a->n_no_space, memory_order_acquire) > 0;
}

bool alarms_corrupt(const struct alarms *a)
{
    return atomic_load_explicit(&a->n_corrupt, memory_order_acquire) > 0;
}

bool alarms_active(struct alarms *a, uint64_t member, Etcdserverpb__AlarmType type)
{
    bool active;

    pthread_mutex_lock(&a->lock);
    active = find(a, &(struct alarm){member, type}) != NULL;
    pthread_mutex_unlock(&a->lock);
    return active;
}

void alarms_describe(struct alarms *a, uint32_t field, struct buf *out)
{
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->len; i++) {
        struct buf text = BUF_NULL;
        buf_printf(&text, "memberID:%" PRIu64 " alarm:%s ", a->items[i].member,
                   a->items[i].type == types.no_space ? "NOSPACE" : "CORRUPT");
        encode_bytes(out, field, buf_bytes(&text));
        buf_deinit(&text);
    }
    pthread_mutex_unlock(&a->lock);
}
