/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks, slices and the ring (see watch_ring.h).
 *
 * An event is encoded once, here: mvccpb.Event is { 1 type (only if DELETE), 2 kv, 3 prev_kv }; the
 * KeyValue of a deletion has key and mod_revision.
 */
#include "server/watch_ring.h"

#include <limits.h>

#include "base/check.h"
#include "base/mem.h"

enum {
    TAG_EVENT_TYPE = 0x08,
    TAG_EVENT_KV = 0x12,
    EVENT_DELETE = 1,
    RECORD_HEAD_MAX = sizeof(struct watch_record) + 8 + 3 * VARINT_LEN_MAX
};

/* ---- blocks ---- */

struct watch_block *watch_block_new(size_t cap, struct watch_memory *memory)
{
    struct watch_block *b = mem_alloc_raw(sizeof(*b) + cap);

    *b = (struct watch_block){.cap = cap, .memory = memory};
    atomic_init(&b->refs, 1);
    if (memory)
        watch_memory_take(memory, cap);
    return b;
}

struct watch_block *watch_block_ref(struct watch_block *b)
{
    unsigned before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);

    check(before > 0 && before < UINT_MAX);
    return b;
}

struct watch_block *watch_block_unref(struct watch_block *b)
{
    if (atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) > 1)
        return NULL;
    if (b->memory)
        watch_memory_give(b->memory, b->cap);
    free(b);
    return NULL;
}

size_t watch_record_room(size_t key_len, size_t kv_len)
{
    return RECORD_HEAD_MAX + (kv_len > 0 ? kv_len : key_len);
}

static size_t padded(size_t len)
{
    return (len + 7) & ~(size_t)7;
}

static struct watch_record *record_begin(struct watch_block *b, struct rev rev,
                                         enum schema_kind kind)
{
    struct watch_record *r = (void *)(b->data + b->used);

    if (b->used == 0)
        b->first = rev.main;
    b->last = rev.main;
    *r = (struct watch_record){.rev = rev, .kind = kind};
    return r;
}

static struct watch_record *record_end(struct watch_block *b, struct watch_record *r,
                                       const uint8_t *end)
{
    r->len = (uint32_t)(end - r->bytes);
    b->used += padded(sizeof(*r) + r->len);
    check(b->used <= b->cap);
    return r;
}

static uint8_t *put_deletion(struct watch_record *r, struct bytes key)
{
    struct kv kv = {.key = key, .mod = r->rev.main};
    size_t len = kv_size(&kv);
    uint8_t *p = r->bytes;

    *p++ = TAG_EVENT_TYPE;
    *p++ = EVENT_DELETE;
    *p++ = TAG_EVENT_KV;
    p += varint_put(p, len);
    r->key_at = (uint32_t)(p - r->bytes + 1 + (ptrdiff_t)varint_size(key.len));
    r->key_len = (uint32_t)key.len;
    return p + kv_write(p, &kv);
}

/* The key comes first in what this project encodes; in a file of others it may lie elsewhere. */
static void find_key(struct watch_record *r, const uint8_t *kv, size_t len)
{
    struct kv decoded;

    if (kv_decode(bytes_of(kv, len), &decoded) && decoded.key.len > 0) {
        r->key_at = (uint32_t)(decoded.key.data - r->bytes);
        r->key_len = (uint32_t)decoded.key.len;
    }
}

struct watch_record *watch_block_put(struct watch_block *b, const struct mvcc_change *change)
{
    struct watch_record *r = record_begin(b, change->rev, change->kind);
    uint8_t *p = r->bytes;
    size_t len;

    if (change->kind == SCHEMA_DELETE)
        return record_end(b, r, put_deletion(r, change->kv.key));
    len = kv_size(&change->kv);
    *p++ = TAG_EVENT_KV;
    p += varint_put(p, len);
    r->key_at = (uint32_t)(p - r->bytes + 1 + (ptrdiff_t)varint_size(change->kv.key.len));
    r->key_len = (uint32_t)change->kv.key.len;
    return record_end(b, r, p + kv_write(p, &change->kv));
}

struct watch_record *watch_block_put_encoded(struct watch_block *b, struct rev rev,
                                             enum schema_kind kind, struct bytes key,
                                             struct bytes encoded)
{
    struct watch_record *r = record_begin(b, rev, kind);
    uint8_t *p = r->bytes;

    if (kind == SCHEMA_DELETE)
        return record_end(b, r, put_deletion(r, key));
    *p++ = TAG_EVENT_KV;
    p += varint_put(p, encoded.len);
    if (encoded.len > 0)
        memcpy(p, encoded.data, encoded.len);
    find_key(r, p, encoded.len);
    return record_end(b, r, p + encoded.len);
}

/* ---- slices ---- */

void watch_slice_clear(struct watch_slice *s)
{
    for (size_t i = 0; i < s->n_blocks; i++)
        watch_block_unref(s->blocks[i]);
    s->n_blocks = s->n_events = s->memory = 0;
}

void watch_slice_deinit(struct watch_slice *s)
{
    watch_slice_clear(s);
    free(s->blocks);
    free(s->events);
    *s = (struct watch_slice){0};
}

static void keep_block(struct watch_slice *s, struct watch_block *reference)
{
    if (s->n_blocks == s->cap_blocks) {
        s->cap_blocks = s->cap_blocks ? 2 * s->cap_blocks : 16;
        s->blocks = mem_realloc(s->blocks, s->cap_blocks * sizeof(struct watch_block *));
    }
    s->blocks[s->n_blocks++] = reference;
}

struct watch_block *watch_slice_memory(struct watch_slice *s, size_t len,
                                       struct watch_memory *memory)
{
    struct watch_block *b = watch_block_new(len, memory);

    s->memory += len;
    keep_block(s, b);
    return b;
}

void watch_slice_add(struct watch_slice *s, struct watch_block *b, const struct watch_record *r)
{
    if (s->n_blocks == 0 || s->blocks[s->n_blocks - 1] != b)
        keep_block(s, watch_block_ref(b));
    if (s->n_events == s->cap_events) {
        s->cap_events = s->cap_events ? 2 * s->cap_events : 256;
        s->events = mem_realloc(s->events, s->cap_events * sizeof(*s->events));
    }
    s->events[s->n_events++] = (struct watch_slice_event){.record = r, .block = b};
}

/* ---- the ring ---- */

void watch_ring_init(struct watch_ring *ring, size_t bytes_max, struct watch_memory *memory)
{
    *ring = (struct watch_ring){.bytes_max = bytes_max, .from = INT64_MAX, .memory = memory};
    pthread_mutex_init(&ring->lock, NULL);
}

/* Under the lock. Whoever still refers to it is counted from now on. */
static void drop_oldest(struct watch_ring *ring)
{
    struct watch_block *b = ring->oldest;

    ring->oldest = b->next;
    if (!ring->oldest)
        ring->newest = NULL;
    ring->bytes -= b->cap;
    ring->from = b->last + 1;
    b->memory = ring->memory;
    watch_memory_take(ring->memory, b->cap);
    watch_block_unref(b);
}

void watch_ring_clear(struct watch_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    while (ring->oldest)
        drop_oldest(ring);
    ring->from = INT64_MAX;
    pthread_mutex_unlock(&ring->lock);
}

void watch_ring_deinit(struct watch_ring *ring)
{
    watch_ring_clear(ring);
    pthread_mutex_destroy(&ring->lock);
}

static struct watch_block *block_with_room(struct watch_ring *ring, size_t room)
{
    struct watch_block *b = ring->newest;
    size_t part = ring->bytes_max / WATCH_RING_BLOCKS, cap = room > part ? room : part;

    if (b && b->cap - b->used >= room)
        return b;
    b = watch_block_new(cap, NULL);
    b->number = ++ring->next_number;
    if (ring->newest)
        ring->newest->next = b;
    else
        ring->oldest = b;
    ring->newest = b;
    ring->bytes += cap;
    while (ring->bytes > ring->bytes_max && ring->oldest != b)
        drop_oldest(ring);
    return b;
}

void watch_ring_append(struct watch_ring *ring, const struct mvcc_change *changes, size_t n)
{
    if (n == 0)
        return;
    pthread_mutex_lock(&ring->lock);
    if (ring->from == INT64_MAX)
        ring->from = changes[0].rev.main;
    for (size_t i = 0; i < n; i++) {
        const struct mvcc_change *c = &changes[i];
        size_t room = watch_record_room(c->kv.key.len, kv_size(&c->kv));

        watch_block_put(block_with_room(ring, room), c);
    }
    pthread_mutex_unlock(&ring->lock);
}

/* ---- reading the ring ---- */

struct reader {
    const struct watch_slice_options *options;
    struct watch_slice *out;
    size_t bytes;
    bool full;
};

/* The first block that can hold a record of revision from, which the ring holds; under the lock. */
static struct watch_block *find_block(const struct watch_ring *ring, int64_t from)
{
    struct watch_block *b = ring->oldest;

    while (b->next && b->last < from)
        b = b->next;
    return b;
}

static struct watch_block *find_place(const struct watch_ring *ring, int64_t from,
                                      struct watch_ring_place *place)
{
    if (place->number == ring->newest->number)
        return ring->newest;
    if (place->number == 0 || place->number < ring->oldest->number ||
        place->number > ring->newest->number) {
        struct watch_block *b = find_block(ring, from);
        *place = (struct watch_ring_place){b->number, 0};
        return b;
    }
    for (struct watch_block *b = ring->oldest;; b = b->next)
        if (b->number == place->number)
            return b;
}

/* Records of a block up to used, from offset on. Returns the offset where it stopped. */
static size_t read_block(struct reader *reader, struct watch_block *b, size_t offset, size_t used)
{
    const struct watch_slice_options *o = reader->options;

    while (offset < used) {
        const struct watch_record *r = (const void *)(b->data + offset);
        bool begins = r->rev.sub == 0;

        if (r->rev.main > o->upto ||
            (begins && (reader->out->n_events >= o->events_max || reader->bytes >= o->bytes_max))) {
            reader->full = true;
            reader->out->next = r->rev.main;
            return offset;
        }
        if (r->rev.main >= o->from) {
            watch_slice_add(reader->out, b, r);
            reader->bytes += r->len;
        }
        offset += padded(sizeof(*r) + r->len);
    }
    return offset;
}

/* Where a block that was read up to used goes on: in itself if it has grown meanwhile, and else in
 * the one behind it; b may have left the ring. Under the lock. False: that one has left it, too. */
static bool next_block(const struct watch_ring *ring, struct watch_block *b, size_t used,
                       struct watch_ring_place *place, struct watch_block **ret)
{
    if (b->used > used) {
        *ret = watch_block_ref(b);
        return true;
    }
    if (!ring->oldest || ring->oldest->number > b->number + 1)
        return false;
    if (b->next) {
        *place = (struct watch_ring_place){b->next->number, 0};
        *ret = watch_block_ref(b->next);
    }
    return true;
}

bool watch_ring_slice(struct watch_ring *ring, const struct watch_slice_options *options,
                      struct watch_ring_place *place, struct watch_slice *ret)
{
    struct reader reader = {.options = options, .out = ret};
    struct watch_block *b = NULL, *next;
    bool held;

    check(ret->n_events == 0 && options->from <= options->upto);
    ret->next = options->upto + 1;
    pthread_mutex_lock(&ring->lock);
    held = ring->from <= options->from;
    if (held)
        b = watch_block_ref(find_place(ring, options->from, place));
    while (b) {
        size_t used = b->used; /* (I2) */
        pthread_mutex_unlock(&ring->lock);
        place->offset = read_block(&reader, b, place->offset, used);
        pthread_mutex_lock(&ring->lock);
        next = NULL;
        if (!reader.full)
            held = next_block(ring, b, used, place, &next);
        watch_block_unref(b);
        b = next;
    }
    pthread_mutex_unlock(&ring->lock);
    if (!held)
        watch_slice_clear(ret);
    return held;
}
