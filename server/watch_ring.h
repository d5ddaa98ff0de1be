/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recent events, encoded as clients get them, in counted blocks of memory; and the slices of
 * history that watchers are served from, which look the same whether they come from the ring or
 * from the store.
 *
 *   block   | record | record | record |      |        records never move, nor does the block
 *   ring    oldest block -> ... -> newest block        what is too much goes from the front
 *   slice   pointers to the records of some whole revisions, and references to their blocks
 *
 * A block lives until the last one who refers to it lets go: the ring, slices, and the responses
 * made from them. What lives on behind the ring's back counts against the hub's memory.
 *
 * Invariants:
 *   (I1) the ring holds all changes of all revisions from `from` on that were appended, in order.
 *   (I2) bytes of a block below `used`, as seen under the ring's lock, don't change any more.
 *   (I3) a slice holds whole revisions only.
 *
 * Thread: watch_ring_append() and _clear() the apply turn, watch_ring_slice() the hub's thread; a
 * slice belongs to the hub's thread.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "server/watch_memory.h"
#include "storage/mvcc.h"

enum { WATCH_RING_BLOCKS = 128 }; /* each that part of the ring, or as large as one event */

/* One event in a block. */
struct watch_record {
    struct rev rev;
    enum schema_kind kind;
    uint32_t key_at, key_len; /* in bytes */
    uint32_t len;
    uint8_t bytes[]; /* mvccpb.Event; padded */
};

struct watch_block {
    atomic_uint refs;
    struct watch_block *next; /* the ring's, under its lock */
    uint64_t number;          /* in the ring, ascending */
    int64_t first, last;      /* main revisions in it */
    size_t used, cap;
    struct watch_memory *memory; /* counts it; NULL: the ring's, which has its own bound */
    _Alignas(8) uint8_t data[];
};

struct watch_block *watch_block_new(size_t cap, struct watch_memory *memory);
struct watch_block *watch_block_ref(struct watch_block *b);
struct watch_block *watch_block_unref(struct watch_block *b);
/* Room that the event of a change takes; kv_len is that of the KeyValue stored. */
size_t watch_record_room(size_t key_len, size_t kv_len);
/* Appends an event to a block that has the room. */
struct watch_record *watch_block_put(struct watch_block *b, const struct mvcc_change *change);
/* The same with the KeyValue already encoded; of a deletion it is not looked at. */
struct watch_record *watch_block_put_encoded(struct watch_block *b, struct rev rev,
                                             enum schema_kind kind, struct bytes key,
                                             struct bytes encoded);

static inline struct bytes watch_record_key(const struct watch_record *r)
{
    return bytes_of(r->bytes + r->key_at, r->key_len);
}

static inline struct bytes watch_record_event(const struct watch_record *r)
{
    return bytes_of(r->bytes, r->len);
}

/* ---- slices ---- */

struct watch_slice_event {
    const struct watch_record *record;
    struct watch_block *block; /* borrowed from the slice */
    bool previous_wanted;
    struct bytes with_previous;     /* the event with its prev_kv; empty: there is none */
    struct watch_block *with_block; /* its block, borrowed from the slice */
};

struct watch_slice {
    struct watch_slice_event *events;
    size_t n_events, cap_events;
    struct watch_block **blocks; /* references */
    size_t n_blocks, cap_blocks;
    size_t memory; /* of blocks made for it */
    int64_t next;  /* the revision behind it */
};

void watch_slice_deinit(struct watch_slice *s);
void watch_slice_clear(struct watch_slice *s);
/* A block for bytes of any kind that lives as long as the slice and whoever refers to it. */
struct watch_block *watch_slice_memory(struct watch_slice *s, size_t len,
                                       struct watch_memory *memory);
void watch_slice_add(struct watch_slice *s, struct watch_block *b, const struct watch_record *r);

/* ---- the ring ---- */

struct watch_ring {
    pthread_mutex_t lock; /* a leaf */
    struct watch_block *oldest, *newest;
    size_t bytes, bytes_max;
    uint64_t next_number;
    int64_t from; /* INT64_MAX: nothing yet */
    struct watch_memory *memory;
};

/* Where a reader went on last time: a hint. */
struct watch_ring_place {
    uint64_t number;
    size_t offset;
};

struct watch_slice_options {
    int64_t from, upto; /* upto is published */
    size_t events_max, bytes_max;
};

void watch_ring_init(struct watch_ring *ring, size_t bytes_max, struct watch_memory *memory);
void watch_ring_deinit(struct watch_ring *ring);
void watch_ring_append(struct watch_ring *ring, const struct mvcc_change *changes, size_t n);
void watch_ring_clear(struct watch_ring *ring);
/* Fills the slice, which is empty, from options->from on. False: the ring does not reach back to
 * there. */
bool watch_ring_slice(struct watch_ring *ring, const struct watch_slice_options *options,
                      struct watch_ring_place *place, struct watch_slice *ret);
