/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the ring does not hold: slices of history from the store, and the KeyValue that a key had
 * before an event (prev_kv).
 *
 *   1  the changes from a revision on: revision, kind, key; in bounded steps      (store held)
 *   2  which of them does anybody in the cohort want?                             (hub's lock)
 *   3  the values of those, in the order of the store, as many as have bytes enough (store held)
 *   4  the events, in the order of revisions, in a block of their own
 *
 * How many values are read at once follows their size, and the time that it took: twice as many
 * while that is little, half as many when it was much; so mostly they are read once although nobody
 * knows beforehand how long they are, and others wait shortly for the processor. If they were much
 * too large, the slice is cut and they are read again.
 *
 * Thread: the hub's, outside of its lock.
 */
#include <errno.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "server/watch_private.h"

enum {
    VALUES_MIN = 8,
    VALUES_BYTES_MAX = 2 * WATCH_SLICE_BYTES_MAX, /* then the slice is cut */
    TAG_PREVIOUS = 0x1A
};

/* A change on its way to become an event. */
struct watch_past {
    struct rev rev;
    enum schema_kind kind;
    bool wanted;
    size_t key_at, key_len;     /* in scratch.keys */
    size_t value_at, value_len; /* in scratch.values */
};

static struct bytes past_key(const struct watch_scratch *s, const struct watch_past *p)
{
    return bytes_of(s->keys.data + p->key_at, p->key_len);
}

/* ---- 1: changes ---- */

static int collect(void *arg, struct rev rev, enum schema_kind kind, struct bytes key)
{
    struct watch_scratch *s = arg;

    if (s->n_past == s->cap_past) {
        s->cap_past = s->cap_past ? 2 * s->cap_past : 256;
        s->past = mem_realloc(s->past, s->cap_past * sizeof(*s->past));
    }
    s->past[s->n_past++] =
        (struct watch_past){.rev = rev, .kind = kind, .key_at = s->keys.len, .key_len = key.len};
    buf_append_bytes(&s->keys, key);
    return 0;
}

/* By a compaction, which may be that of another state, or by an exchange of the store that is about
 * to come: it is read again. */
static int overtaken(struct watch_hub *h, int r)
{
    int64_t now = mvcc_compacted(h->o.store->mvcc), was = atomic_load(&h->compacted);

    if (r == MVCC_E_COMPACTED)
        while (was < now && !atomic_compare_exchange_weak(&h->compacted, &was, now))
            ;
    return r == -ECANCELED ? MVCC_E_COMPACTED : r;
}

static int read_changes(struct watch_hub *h, const struct watch_slice_options *options,
                        int64_t *ret_next)
{
    struct watch_scratch *s = &h->scratch;
    struct mvcc_history_options history = {options->from, options->upto, options->events_max};
    int r;

    s->n_past = 0;
    buf_clear(&s->keys);
    store_hold(h->o.store);
    r = mvcc_history(h->o.store->mvcc, &history, collect, s, ret_next);
    r = overtaken(h, r);
    store_release(h->o.store);
    return r;
}

/* ---- 2: who wants them ---- */

static void note_wanted(void *arg, struct watch_set *set)
{
    struct watch_past *p = arg;

    p->wanted = true;
}

/* Keeps what is wanted, of whole revisions, until values_max values have come together. */
static void choose(struct watch_hub *h, const struct watch_cohort *c, int64_t *next)
{
    struct watch_scratch *s = &h->scratch;
    size_t n_values = 0, kept = 0;

    watch_lock(h);
    for (size_t i = 0; i < s->n_past; i++) {
        struct watch_past *p = &s->past[i];
        bool begins = i == 0 || s->past[i - 1].rev.main != p->rev.main;

        if (begins && n_values >= s->values_max) {
            *next = p->rev.main;
            break;
        }
        watch_index_match(&c->index, past_key(s, p), p->kind, note_wanted, p);
        n_values += p->wanted && p->kind != SCHEMA_DELETE;
    }
    watch_unlock(h);
    for (size_t i = 0; i < s->n_past; i++)
        if (s->past[i].wanted)
            s->past[kept++] = s->past[i];
    s->n_past = kept;
}

/* ---- 3: values ---- */

static void take_value(void *arg, size_t index, struct bytes encoded)
{
    struct watch_scratch *s = arg;

    s->past[index].value_at = s->values.len;
    s->past[index].value_len = encoded.len;
    if (s->values.len < s->values_bytes_max)
        buf_append_bytes(&s->values, encoded);
}

static size_t list_versions(struct watch_scratch *s)
{
    size_t n = 0;

    if (s->cap_versions < s->n_past) {
        s->cap_versions = s->cap_past;
        s->versions = mem_realloc(s->versions, s->cap_versions * sizeof(*s->versions));
    }
    for (size_t i = 0; i < s->n_past; i++)
        if (s->past[i].kind != SCHEMA_DELETE)
            s->versions[n++] = (struct mvcc_version){past_key(s, &s->past[i]), s->past[i].rev, i};
    return n;
}

static void adapt(struct watch_scratch *s, size_t n, uint64_t took_ns)
{
    if (s->values.len > WATCH_SLICE_BYTES_MAX || took_ns > 2 * WATCH_WORK_NS)
        s->values_max = s->values_max / 2 > VALUES_MIN ? s->values_max / 2 : VALUES_MIN;
    else if (s->values.len < WATCH_SLICE_BYTES_MAX / 4 && took_ns < WATCH_WORK_NS / 2 &&
             n >= s->values_max &&
             s->values_max < WATCH_SLICE_EVENTS_MAX) /* more are not looked at */
        s->values_max *= 2;
}

static int read_values(struct watch_hub *h, size_t bytes_max)
{
    struct watch_scratch *s = &h->scratch;
    uint64_t begun_ns = clock_thread_cpu_ns();
    size_t n = list_versions(s);
    int r = 0;

    buf_clear(&s->values);
    s->values_bytes_max = bytes_max;
    store_hold(h->o.store);
    if (n > 0)
        r = mvcc_versions(h->o.store->mvcc, s->versions, n, take_value, s);
    r = overtaken(h, r);
    store_release(h->o.store);
    adapt(s, n, clock_thread_cpu_ns() - begun_ns);
    return r;
}

/* Keeps whole revisions until their values have bytes enough. */
static void cut(struct watch_scratch *s, int64_t *next)
{
    size_t bytes = 0;

    for (size_t i = 0; i < s->n_past; i++) {
        const struct watch_past *p = &s->past[i];

        if (bytes >= WATCH_SLICE_BYTES_MAX && s->past[i - 1].rev.main != p->rev.main) {
            *next = p->rev.main;
            s->n_past = i;
        }
        bytes += p->value_len;
    }
}

/* Too much is read a second time, when it is known how much that is. */
static int read_bounded(struct watch_hub *h, int64_t *next)
{
    struct watch_scratch *s = &h->scratch;
    int r = read_values(h, VALUES_BYTES_MAX);

    if (r != 0 || s->values.len < VALUES_BYTES_MAX)
        return r;
    cut(s, next);
    return read_values(h, SIZE_MAX);
}

/* ---- 4: events ---- */

static void make_events(struct watch_hub *h, struct watch_slice *ret)
{
    struct watch_scratch *s = &h->scratch;
    struct watch_block *b;
    size_t room = 0;

    for (size_t i = 0; i < s->n_past; i++)
        room += watch_record_room(s->past[i].key_len, s->past[i].value_len);
    if (room == 0)
        return;
    b = watch_slice_memory(ret, room, h->memory);
    for (size_t i = 0; i < s->n_past; i++) {
        const struct watch_past *p = &s->past[i];
        struct bytes value = bytes_of(s->values.data + p->value_at, p->value_len);

        watch_slice_add(ret, b, watch_block_put_encoded(b, p->rev, p->kind, past_key(s, p), value));
    }
}

/* What one huge revision has blown up is given back. */
static void shrink(struct buf *b)
{
    if (b->cap > 2 * VALUES_BYTES_MAX)
        buf_deinit(b);
}

int watch_history_slice(struct watch_hub *h, struct watch_cohort *c,
                        const struct watch_slice_options *options, struct watch_slice *ret)
{
    struct watch_scratch *s = &h->scratch;
    int r;

    if (s->values_max < VALUES_MIN)
        s->values_max = VALUES_MIN;
    r = read_changes(h, options, &ret->next);
    if (r == 0)
        choose(h, c, &ret->next);
    if (r == 0)
        r = read_bounded(h, &ret->next);
    if (r == 0)
        make_events(h, ret);
    shrink(&s->keys);
    shrink(&s->values);
    return r;
}

/* ---- what was before ---- */

static int take_previous(void *arg, const struct mvcc_item *item)
{
    buf_append_u8(arg, TAG_PREVIOUS);
    buf_append_varint(arg, item->encoded.len);
    buf_append_bytes(arg, item->encoded);
    return 0;
}

/* Appends the event with what was before; nothing if that is not known any more. */
static int read_previous(struct watch_hub *h, const struct watch_record *record, struct buf *out)
{
    struct mvcc_range_options options = {
        .interval = {INTERVAL_POINT, watch_record_key(record), BYTES_NULL},
        .revision = record->rev.main - 1,
        .no_count = true,
    };
    struct mvcc_range_result result;
    size_t begin = out->len, event_end;
    int r;

    buf_append_bytes(out, watch_record_event(record));
    event_end = out->len;
    r = options.revision > 0 ? mvcc_range(h->o.store->mvcc, &options, take_previous, out, &result)
                             : MVCC_E_COMPACTED;
    if (out->len == event_end)
        out->len = begin;
    return r < 0 ? r : 0;
}

/* Of whole revisions, until they have bytes enough; the slice ends there. */
static int read_all_previous(struct watch_hub *h, struct watch_slice *slice,
                             struct watch_ring_place *place, struct buf *out)
{
    int64_t last = 0;
    int r = 0;

    for (size_t i = 0; r == 0 && i < slice->n_events; i++) {
        struct watch_slice_event *e = &slice->events[i];
        size_t begin = out->len;

        if (begin >= WATCH_SLICE_BYTES_MAX && e->record->rev.main != last) {
            slice->n_events = i;
            slice->next = e->record->rev.main;
            *place = (struct watch_ring_place){0};
            break;
        }
        last = e->record->rev.main;
        if (!e->previous_wanted)
            continue;
        store_hold(h->o.store);
        r = read_previous(h, e->record, out);
        store_release(h->o.store);
        e->with_previous.len = out->len - begin;
    }
    return r;
}

int watch_history_previous(struct watch_hub *h, struct watch_slice *slice,
                           struct watch_ring_place *place)
{
    struct buf *out = &h->scratch.values;
    size_t at = 0;
    int r;

    buf_clear(out);
    r = read_all_previous(h, slice, place, out);
    if (out->len == 0)
        return r;
    struct watch_block *b = watch_slice_memory(slice, out->len, h->memory);
    memcpy(b->data, out->data, out->len);
    for (size_t i = 0; i < slice->n_events; i++) {
        struct watch_slice_event *e = &slice->events[i];

        e->with_previous.data = b->data + at;
        e->with_block = b;
        at += e->with_previous.len;
    }
    shrink(out);
    return r;
}
