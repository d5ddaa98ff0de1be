/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Range, as etcd answers it (see range.h). Two ways through:
 *
 *   straight   default order and no revision filter: items are encoded while the store is walked,
 *              nothing is collected.
 *   collected  everything else: items are copied, filtered, sorted and cut, then encoded. The fetch
 *              has no limit then, but for order NONE with another target than KEY, which etcd
 *              limits first and sorts afterwards.
 *
 * Thread: the caller's. No state.
 */
#include "server/range.h"

#include "base/arena.h"
#include "base/err.h"
#include "base/mem.h"
#include "server/encode.h"
#include "server/sort.h"

enum { FIELD_KVS = 2, FIELD_MORE = 3, FIELD_COUNT = 4 };

#define SORT_ORDER(x) ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__##x
#define SORT_TARGET(x) ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__##x

struct range_walk {
    const Etcdserverpb__RangeRequest *request;
    struct buf *out;
    struct range_summary *summary;
    bool keep_last_key;
    struct arena arena;
    struct kv *items; /* collected */
    size_t n_items;
    size_t cap_items;
};

struct interval range_interval(const Etcdserverpb__RangeRequest *request)
{
    return interval_parse(bytes_of_pb(request->key), bytes_of_pb(request->range_end));
}

bool range_default_order(const Etcdserverpb__RangeRequest *r)
{
    return r->sort_order == SORT_ORDER(NONE) ||
           (r->sort_target == SORT_TARGET(KEY) && r->sort_order == SORT_ORDER(ASCEND));
}

bool range_has_filters(const Etcdserverpb__RangeRequest *r)
{
    return r->min_mod_revision != 0 || r->max_mod_revision != 0 || r->min_create_revision != 0 ||
           r->max_create_revision != 0;
}

/* (KEY, NONE) and (KEY, ASCEND) are the order of the store. NONE with another target means ASCEND.
 */
static bool needs_sort(const Etcdserverpb__RangeRequest *r)
{
    return r->sort_target != SORT_TARGET(KEY) || r->sort_order == SORT_ORDER(DESCEND);
}

static int64_t fetch_limit(const Etcdserverpb__RangeRequest *r)
{
    if (!range_default_order(r) || range_has_filters(r) || r->limit <= 0)
        return 0;
    return r->limit < INT64_MAX ? r->limit + 1 : r->limit;
}

static void emit(struct range_walk *w, const struct kv *kv)
{
    encode_tag(w->out, FIELD_KVS, 2);
    buf_append_varint(w->out, kv_size(kv));
    kv_encode(w->out, kv);
    w->summary->sent++;
}

static void remember_last(struct range_walk *w, struct bytes key)
{
    if (!w->keep_last_key)
        return;
    buf_clear(&w->summary->last_key);
    buf_append_bytes(&w->summary->last_key, key);
}

static struct kv kv_of_item(const struct mvcc_item *item)
{
    return (struct kv){
        .key = item->key, .create = item->create, .mod = item->mod.main, .version = item->version};
}

static int visit_straight(void *arg, const struct mvcc_item *item)
{
    struct range_walk *w = arg;

    if (w->request->limit > 0 && w->summary->sent == w->request->limit) {
        w->summary->more = true;
        return 0;
    }
    if (item->encoded.len > 0) {
        encode_present_bytes(w->out, FIELD_KVS, item->encoded);
        w->summary->sent++;
    } else {
        struct kv kv = kv_of_item(item);
        emit(w, &kv);
    }
    remember_last(w, item->key);
    return 0;
}

static bool passes_filters(const Etcdserverpb__RangeRequest *r, const struct kv *kv)
{
    return !(r->max_mod_revision != 0 && kv->mod > r->max_mod_revision) &&
           !(r->min_mod_revision != 0 && kv->mod < r->min_mod_revision) &&
           !(r->max_create_revision != 0 && kv->create > r->max_create_revision) &&
           !(r->min_create_revision != 0 && kv->create < r->min_create_revision);
}

static int visit_collect(void *arg, const struct mvcc_item *item)
{
    struct range_walk *w = arg;
    struct kv kv = kv_of_item(item);

    if (item->encoded.len > 0) {
        if (!kv_decode(arena_copy(&w->arena, item->encoded), &kv))
            return err_origin(-EBADMSG);
    } else {
        kv.key = arena_copy(&w->arena, item->key);
    }
    if (!passes_filters(w->request, &kv))
        return 0;
    if (w->n_items == w->cap_items) {
        w->cap_items = w->cap_items ? 2 * w->cap_items : 64;
        w->items = mem_realloc(w->items, w->cap_items * sizeof(*w->items));
    }
    w->items[w->n_items++] = kv;
    return 0;
}

/* etcd compares numbers by the sign of their difference, so overflow wraps there and here. */
static bool difference_negative(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a - (uint64_t)b) < 0;
}

#define KV(p) ((const struct kv *)(p))

static bool less_key(const void *a, const void *b)
{
    return bytes_compare(KV(a)->key, KV(b)->key) < 0;
}

static bool less_version(const void *a, const void *b)
{
    return difference_negative(KV(a)->version, KV(b)->version);
}

static bool less_create(const void *a, const void *b)
{
    return difference_negative(KV(a)->create, KV(b)->create);
}

static bool less_mod(const void *a, const void *b)
{
    return difference_negative(KV(a)->mod, KV(b)->mod);
}

static bool less_value(const void *a, const void *b)
{
    return bytes_compare(KV(a)->value, KV(b)->value) < 0;
}

/* Descending is the same algorithm with the arguments of "less" exchanged; it does not reverse
 * ties. */
#define DESCENDING(f)                                                                              \
    static bool f##_descending(const void *a, const void *b)                                       \
    {                                                                                              \
        return f(b, a);                                                                            \
    }
DESCENDING(less_key)
DESCENDING(less_version)
DESCENDING(less_create)
DESCENDING(less_mod)
DESCENDING(less_value)

static sort_less_fn less_of(const Etcdserverpb__RangeRequest *r)
{
    bool down = r->sort_order == SORT_ORDER(DESCEND);

    switch (r->sort_target) {
    case SORT_TARGET(VERSION): return down ? less_version_descending : less_version;
    case SORT_TARGET(CREATE): return down ? less_create_descending : less_create;
    case SORT_TARGET(MOD): return down ? less_mod_descending : less_mod;
    case SORT_TARGET(VALUE): return down ? less_value_descending : less_value;
    default: return down ? less_key_descending : less_key;
    }
}

static void emit_collected(struct range_walk *w)
{
    const Etcdserverpb__RangeRequest *r = w->request;
    const void **order = mem_alloc_raw((w->n_items + 1) * sizeof(*order));
    size_t n = w->n_items;

    for (size_t i = 0; i < n; i++)
        order[i] = &w->items[i];
    if (needs_sort(r))
        go_sort(order, n, less_of(r));
    if (r->limit > 0 && (uint64_t)n > (uint64_t)r->limit) {
        n = (size_t)r->limit;
        w->summary->more = true;
    }
    for (size_t i = 0; i < n; i++) {
        struct kv kv = *(const struct kv *)order[i];
        if (r->keys_only)
            kv.value = BYTES_NULL;
        emit(w, &kv);
        remember_last(w, kv.key);
    }
    free(order);
}

static int walk(const struct range_view *view, const struct mvcc_range_options *options,
                int (*visit)(void *, const struct mvcc_item *), void *arg,
                struct mvcc_range_result *ret)
{
    struct mvcc_range_options pinned = *options;
    int r;

    if (view->writing)
        return mvcc_txn_range(view->mvcc, options, visit, arg, ret);
    if (pinned.revision <= 0 && view->pinned > 0)
        pinned.revision = view->pinned;
    r = mvcc_range(view->mvcc, &pinned, visit, arg, ret);
    if (r == 0 && view->pinned > 0)
        ret->current = view->pinned; /* all headers of one transaction show one revision */
    return r;
}

int range_encode(const struct range_view *view, const Etcdserverpb__RangeRequest *request,
                 struct range_flags flags, struct buf *out, struct range_summary *ret)
{
    bool straight = !needs_sort(request) && !range_has_filters(request);
    struct range_walk w = {
        .request = request, .out = out, .summary = ret, .keep_last_key = flags.keep_last_key};
    struct mvcc_range_options options = {
        .interval = range_interval(request),
        .revision = request->revision,
        .limit = fetch_limit(request),
        .keys_only = request->keys_only && request->sort_target != SORT_TARGET(VALUE),
        .count_only = request->count_only,
        .no_count = !flags.with_count,
    };
    struct mvcc_range_result result;
    int r;

    *ret = (struct range_summary){0};
    arena_init(&w.arena);
    r = walk(view, &options, straight ? visit_straight : visit_collect, &w, &result);
    if (r == 0) {
        if (!straight)
            emit_collected(&w);
        ret->current = result.current;
        ret->revision = result.revision;
        ret->count = result.count;
        encode_bool(out, FIELD_MORE, ret->more);
        encode_i64(out, FIELD_COUNT, result.count);
    }
    free(w.items);
    arena_deinit(&w.arena);
    return r;
}
