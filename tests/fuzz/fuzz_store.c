/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See fuzz_store.h. A store's cache of heads has 131,072 places, and to give it back takes longer
 * than all else of a run. So caches are lent: what was put into one is removed when it comes back.
 *
 * Thread: one.
 */
#include "tests/fuzz/fuzz_store.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "server/member_json.h"
#include "storage/head_cache.h"

enum { CACHES_MAX = 4 };

/* ---- the log ---- */

static uint64_t n_errors;

void __real_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields);
void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields);

static void drop_lines(void)
{
    const char *outputs[] = {"/dev/null"};
    char *error = NULL;

    check(log_setup(&(struct log_options){.level = LOG_INFO, .outputs = outputs, .n_outputs = 1},
                    &error) == 0);
}

void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields)
{
    static bool ready;

    if (!ready)
        drop_lines();
    ready = true;
    n_errors += level >= LOG_ERROR;
    __real_log_line(level, file, line, msg, fields);
}

uint64_t fuzz_log_errors(void)
{
    return n_errors;
}

/* ---- caches ---- */

static struct lent {
    struct head_cache *cache;
    struct buf keys; /* { length varint, key } */
    bool used;
} lent[CACHES_MAX];

struct head_cache *__real_head_cache_new(void);
struct head_cache *__wrap_head_cache_new(void);
struct head_cache *__wrap_head_cache_free(struct head_cache *c);
void __real_head_cache_put(struct head_cache *c, struct bytes key, const struct head *head);
void __wrap_head_cache_put(struct head_cache *c, struct bytes key, const struct head *head);

static struct lent *lent_find(const struct head_cache *c)
{
    size_t i = 0;

    while (i < CACHES_MAX && lent[i].cache != c)
        i++;
    check(i < CACHES_MAX);
    return &lent[i];
}

struct head_cache *__wrap_head_cache_new(void)
{
    size_t i = 0;

    while (i < CACHES_MAX && lent[i].used)
        i++;
    check(i < CACHES_MAX);
    lent[i].used = true;
    if (!lent[i].cache)
        lent[i].cache = __real_head_cache_new();
    return lent[i].cache;
}

void __wrap_head_cache_put(struct head_cache *c, struct bytes key, const struct head *head)
{
    struct lent *l = lent_find(c);

    buf_append_varint(&l->keys, key.len);
    buf_append_bytes(&l->keys, key);
    __real_head_cache_put(c, key, head);
}

struct head_cache *__wrap_head_cache_free(struct head_cache *c)
{
    struct lent *l = c ? lent_find(c) : NULL;
    struct bytes rest = l ? buf_bytes(&l->keys) : BYTES_NULL;
    uint64_t len;

    while (varint_get(&rest, &len)) {
        head_cache_remove(c, bytes_of(rest.data, (size_t)len));
        rest = bytes_of(rest.data + len, rest.len - (size_t)len);
    }
    if (l)
        buf_clear(&l->keys);
    if (l)
        l->used = false;
    return NULL;
}

/* ---- what it says ---- */

static int describe_key(void *arg, struct bytes key)
{
    buf_append_bytes(arg, key);
    buf_append_u8(arg, ',');
    return 0;
}

static int compare_leases(const void *a, const void *b)
{
    const struct lease_info *x = a, *y = b;

    return (x->id > y->id) - (x->id < y->id);
}

static void describe_leases(struct store *s, struct buf *out)
{
    struct lease_info *infos;
    size_t n = lease_list(s->leases, &infos);

    if (n > 0)
        qsort(infos, n, sizeof(*infos), compare_leases);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "lease %" PRId64 " ttl %" PRId64 "/%" PRId64 ": ", infos[i].id,
                   infos[i].ttl_s, infos[i].remaining_s);
        check(mvcc_lease_keys(s->mvcc, infos[i].id, describe_key, out) == 0);
        buf_append_u8(out, '\n');
    }
    free(infos);
}

/* Both as they are read from their records: what was no text in an entry has become one there. */
static void describe_member(void *arg, const struct member *m)
{
    _cleanup_(buf_deinit) struct buf record = BUF_NULL;
    _cleanup_(member_deinit) struct member stored = {0};

    member_json(&record, m);
    check(member_json_parse(buf_bytes(&record), &stored, NULL) == 0);
    member_json(arg, &stored);
    buf_append_u8(arg, '\n');
}

static void describe_downgrade(struct store *s, struct buf *out)
{
    _cleanup_(buf_deinit) struct buf record = BUF_NULL;
    struct downgrade d;

    members_downgrade(s->members, &d);
    member_json_downgrade(&record, &d);
    check(member_json_downgrade_parse(buf_bytes(&record), &d) == 0);
    buf_printf(out, "downgrade %d %s\n", d.enabled, d.target);
}

/* The stored version; and what is known of a key without it. */
struct keys {
    struct buf *versions;
    struct buf heads;
};

static int describe_head(void *arg, const struct mvcc_item *item)
{
    struct keys *k = arg;

    buf_append_bytes(&k->heads, item->key);
    buf_printf(&k->heads, " %" PRId64 ".%" PRIu32 " %" PRId64 " %" PRId64 " %" PRId64 "\n",
               item->mod.main, item->mod.sub, item->create, item->version, item->lease);
    return 0;
}

static int describe_version(void *arg, const struct mvcc_item *item)
{
    struct keys *k = arg;
    struct kv kv;

    check(kv_decode(item->encoded, &kv) && bytes_equal(kv.key, item->key));
    check(kv.mod == item->mod.main && kv.create == item->create && kv.version == item->version &&
          kv.lease == item->lease);
    buf_append_bytes(k->versions, item->encoded);
    return describe_head(arg, item);
}

static void describe_keys(struct store *s, struct buf *out)
{
    struct mvcc_range_options all = {.interval = interval_parse(BYTES_LIT("\0"), BYTES_LIT("\0"))};
    struct mvcc_range_result result;
    struct mvcc_hash hash = {0};
    struct keys whole = {.versions = out}, heads = {0};

    check(mvcc_range(s->mvcc, &all, describe_version, &whole, &result) == 0);
    all.keys_only = true;
    check(mvcc_range(s->mvcc, &all, describe_head, &heads, &result) == 0);
    check(bytes_equal(buf_bytes(&whole.heads), buf_bytes(&heads.heads)));
    check(mvcc_hash_kv(s->mvcc, 0, &hash) == 0);
    buf_printf(out, "\n%" PRId64 " keys, revision %" PRId64 " %" PRId64 " compacted %" PRId64,
               result.count, result.current, mvcc_revision(s->mvcc), mvcc_compacted(s->mvcc));
    buf_printf(out, " hash %" PRIu32 "\n", hash.hash);
    buf_deinit(&whole.heads);
    buf_deinit(&heads.heads);
}

void fuzz_store_describe(struct store *s, struct buf *out)
{
    char version[16];

    members_cluster_version(s->members, version);
    buf_printf(out, "version %s alarms %d %d\n", version, alarms_no_space(s->alarms),
               alarms_corrupt(s->alarms));
    describe_downgrade(s, out);
    members_visit(s->members, describe_member, out);
    describe_leases(s, out);
    describe_keys(s, out);
}

/* ---- two ---- */

bool fuzz_store_equal(struct store *a, struct store *b)
{
    struct db_iter *x = db_iter_new(a->db, &(struct db_iter_options){0});
    struct db_iter *y = db_iter_new(b->db, &(struct db_iter_options){0});
    bool same = true;

    db_iter_seek(x, BYTES_LIT("\0"));
    db_iter_seek(y, BYTES_LIT("\0"));
    while (same && db_iter_valid(x) && db_iter_valid(y)) {
        same = bytes_equal(db_iter_key(x), db_iter_key(y)) &&
               bytes_equal(db_iter_value(x), db_iter_value(y));
        db_iter_next(x);
        db_iter_next(y);
    }
    same = same && db_iter_valid(x) == db_iter_valid(y);
    db_iter_free(x);
    db_iter_free(y);
    return same;
}
