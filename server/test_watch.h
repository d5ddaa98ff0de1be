/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the watch hub: a store in memory, writes as the apply turn makes them, the hub's
 * turn by hand, and responses as text:
 *
 *   #ID rREVISION [created] [canceled] [compacted=REVISION] [(reason)] [fragment]
 *   [+key=value@mod | -key@mod] [<previous value@mod]
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <inttypes.h>

#include "rpc.pb-c.h"
#include "base/arena.h"
#include "server/watch_private.h"
#include "storage/db_mem.h"
#include "storage/test_dir.h"

struct watch_box {
    char *dir, *path;
    struct store store;
    struct server_state state;
    struct db_batch *batch;
    struct watch_hub *hub;
    struct arena arena; /* keys and values until the batch is written */
    struct buf text;
};

static inline struct watch_box *watch_box_new(const struct watch_hub_options *tuning)
{
    struct watch_box *b = mem_new(struct watch_box);
    struct watch_hub_options options = *tuning;

    b->dir = test_dir_new();
    b->path = mem_printf("%s/db", b->dir);
    check(store_open(&b->store, &(struct store_options){.path = b->path}) == 0);
    b->batch = db_batch_new();
    mvcc_batch(b->store.mvcc, b->batch);
    arena_init(&b->arena);
    options.store = &b->store;
    options.state = &b->state;
    if (options.response_bytes_max == 0)
        options.response_bytes_max = 2 << 20;
    b->hub = watch_hub_new(&options);
    return b;
}

/* What lives on is one byte, ours. */
static inline void watch_box_free_hub(struct watch_box *b)
{
    struct watch_memory *memory = b->hub->memory;

    watch_memory_take(memory, 1);
    b->hub = watch_hub_free(b->hub);
    assert_int_equal(atomic_load(&memory->bytes), 1);
    watch_memory_give(memory, 1);
}

static inline struct watch_box *watch_box_free(struct watch_box *b)
{
    watch_box_free_hub(b);
    db_batch_free(b->batch);
    store_close(&b->store);
    db_mem_forget();
    arena_deinit(&b->arena);
    buf_deinit(&b->text);
    test_dir_remove(b->dir);
    free(b->path);
    free(b);
    return NULL;
}

/* ---- writes ---- */

static inline void entry_begin(struct watch_box *b)
{
    mvcc_begin(b->store.mvcc);
}

static inline void entry_put(struct watch_box *b, struct bytes key, struct bytes value)
{
    check(mvcc_put(b->store.mvcc, arena_copy(&b->arena, key), arena_copy(&b->arena, value), 0) ==
          0);
}

static inline bool entry_delete(struct watch_box *b, struct bytes key)
{
    bool deleted;

    check(mvcc_delete(b->store.mvcc, arena_copy(&b->arena, key), &deleted) == 0);
    return deleted;
}

/* Writes the entries since the last time; the hub hears of the changes only if told. */
static inline void batch_write(struct watch_box *b, bool append)
{
    size_t n;
    const struct mvcc_change *changes = mvcc_changes(b->store.mvcc, &n);

    if (append)
        watch_hub_append(b->hub, changes, n);
    mvcc_seal(b->store.mvcc);
    check(db_write(b->store.db, b->batch) == 0);
    db_batch_clear(b->batch);
    mvcc_publish(b->store.mvcc);
    if (append)
        watch_hub_wake(b->hub);
    else
        watch_hub_reset(b->hub);
    arena_reset(&b->arena);
}

static inline void put(struct watch_box *b, const char *key, const char *value)
{
    entry_begin(b);
    entry_put(b, bytes_str(key), bytes_str(value));
    mvcc_end(b->store.mvcc);
    batch_write(b, true);
}

static inline void del(struct watch_box *b, const char *key)
{
    entry_begin(b);
    entry_delete(b, bytes_str(key));
    mvcc_end(b->store.mvcc);
    batch_write(b, true);
}

static inline void compact_all(struct watch_box *b)
{
    bool done = false;
    int64_t finished;

    while (!done)
        check(mvcc_compact_step(b->store.mvcc, &done, &finished) == 0);
}

static inline void compact(struct watch_box *b, int64_t revision)
{
    check(mvcc_compact(b->store.mvcc, revision, false) == 0);
    batch_write(b, true);
    compact_all(b);
}

/* Those that catch up go on at the next turn of the hub. False: they don't rest. */
static inline bool skip_rest(struct watch_hub *h)
{
    bool rests = h->rest.until_ns > 0;

    h->rest.until_ns = 0;
    return rests;
}

static inline void hub_turns(struct watch_hub *h)
{
    int r;

    do {
        r = watch_hub_turn(h);
    } while (r > 0 || (r == 0 && skip_rest(h)));
    check(r == 0);
}

static inline void turns(struct watch_box *b)
{
    hub_turns(b->hub);
}

/* Those who wait for their turn have it at the next one of the hub. False: nobody does. */
static inline bool skip_pause(struct watch_box *b)
{
    bool waits = watch_turns_next_ns(b->hub) < UINT64_MAX;

    b->hub->turns.round_ns = b->hub->turns.given_ns = 0;
    b->hub->turns.open_ns = 1;
    return waits;
}

/* ---- streams ---- */

struct watch_client {
    struct watch_stream *stream;
    int n_ready;
};

static inline void client_ready(void *arg)
{
    struct watch_client *c = arg;

    c->n_ready++;
}

static inline void client_open(struct watch_client *c, struct watch_box *b)
{
    *c = (struct watch_client){0};
    c->stream = watch_stream_open(b->hub, client_ready, c);
}

static inline void text_value(struct buf *out, const Mvccpb__KeyValue *kv)
{
    buf_printf(out, "%.*s@%" PRId64, (int)kv->value.len, (const char *)kv->value.data,
               kv->mod_revision);
}

static inline void text_event(struct buf *out, struct bytes encoded)
{
    Mvccpb__Event *e = mvccpb__event__unpack(NULL, encoded.len, encoded.data);

    assert_non_null(e);
    buf_printf(out, e->type == MVCCPB__EVENT__EVENT_TYPE__DELETE ? " -%.*s" : " +%.*s=",
               (int)e->kv->key.len, (const char *)e->kv->key.data);
    text_value(out, e->kv);
    if (e->prev_kv) {
        buf_append_str(out, "<");
        text_value(out, e->prev_kv);
    }
    mvccpb__event__free_unpacked(e, NULL);
}

static inline void text_response(struct buf *out, const struct watch_response *r)
{
    size_t bytes = 0;

    buf_printf(out, "#%" PRId64 " r%" PRId64, r->id, r->revision);
    buf_append_str(out, r->created ? " created" : "");
    buf_append_str(out, r->canceled ? " canceled" : "");
    if (r->compact_revision)
        buf_printf(out, " compacted=%" PRId64, r->compact_revision);
    if (r->cancel_reason[0])
        buf_printf(out, " (%s)", r->cancel_reason);
    buf_append_str(out, r->fragment ? " fragment" : "");
    for (size_t i = 0; i < r->n_events; i++) {
        text_event(out, r->events[i].encoded);
        bytes += r->events[i].encoded.len;
    }
    assert_int_equal(bytes, r->bytes);
}

/* All there is to take, a line each. */
static inline const char *taken(struct watch_box *b, struct watch_client *c)
{
    struct watch_response *r;

    buf_clear(&b->text);
    while ((r = watch_stream_take(c->stream))) {
        if (b->text.len > 0)
            buf_append_str(&b->text, "\n");
        text_response(&b->text, r);
        watch_response_free(r);
    }
    return buf_cstr(&b->text);
}

#define assert_taken(b, c, text) assert_string_equal(taken(b, c), text)

static inline struct watch_request watch_of(const char *key, const char *end)
{
    return (struct watch_request){.key = bytes_str(key),
                                  .range_end = end ? bytes_str(end) : BYTES_NULL};
}
