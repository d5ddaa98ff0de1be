/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a view of the store to etcd's file (see snapshot_db.h).
 *
 * Versions lie in the store by key and go into the file by revision. The r records could say which
 * key a revision changed, but a compaction deletes them and keeps the versions: so k is read once,
 * in its own order, and sorted. That also costs less than a read per revision.
 *
 * Invariants: (1) buckets and items are written in ascending order, the writer refuses anything
 * else. (2) A record of a kind that is not known here ends the export: a backup that lacks
 * something is worse than none.
 *
 * Thread: see the header.
 */
#include "storage/snapshot_db.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/bbolt_write.h"
#include "storage/kv.h"
#include "storage/record_sort.h"
#include "storage/schema.h"

enum { REV_BYTES = 17, HEX_ID_BYTES_MAX = 17, CANCEL_EVERY = 1024 };

struct export
{
    const struct snapshot_export_options *o;
    struct bbolt_writer *writer;
    struct record_sort *sort; /* of the bucket under way */
    struct snapshot_facts *facts;
    char **ret_error;
};

typedef int (*record_visit)(struct export *x, struct bytes key, struct bytes value);

static int corrupt(const char *what, struct bytes record)
{
    log_error("corrupt record in the database", LOG_STR("what", what), LOG_BYTES("record", record));
    return err_origin(-EBADMSG);
}

static int unsupported(struct export *x, const char *what)
{
    *x->ret_error = mem_printf("%s: this version can't put it into a file of etcd's", what);
    return SNAPSHOT_E_UNSUPPORTED;
}

/* What happens to a file is no trouble of the store's. */
static int file_outcome(struct export *x, int r)
{
    if (r >= 0)
        return r;
    *x->ret_error = mem_strdup(err_text(r).text);
    return SNAPSHOT_E_FILE;
}

static int sort_outcome(struct export *x, int r)
{
    if (r >= 0)
        return r;
    *x->ret_error = mem_printf("temporary file: %s", err_text(r).text);
    return SNAPSHOT_E_FILE;
}

/* ---- reading ---- */

static bool cancelled(const struct export *x)
{
    return x->o->cancel && atomic_load_explicit(x->o->cancel, memory_order_relaxed);
}

/* Every record that begins with prefix, which is not 0xff. */
static int records_visit(struct export *x, const char *prefix, record_visit visit)
{
    _cleanup_(buf_deinit) struct buf upper = BUF_NULL;
    buf_append_str(&upper, prefix);
    upper.data[upper.len - 1]++;
    struct db_iter_options options = {
        .view = x->o->view, .upper = buf_bytes(&upper), .no_cache = true};
    struct db_iter *it = db_iter_new(x->o->db, &options);
    uint64_t n = 0;
    int r = 0;
    for (db_iter_seek(it, bytes_str(prefix)); r == 0 && db_iter_valid(it); db_iter_next(it)) {
        r = visit(x, db_iter_key(it), db_iter_value(it));
        if (++n % CANCEL_EVERY == 0 && r == 0 && cancelled(x))
            r = -ECANCELED;
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

/* ret is empty if there is no such record. */
static int meta_get(struct export *x, const char *name, struct buf *ret)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;
    _cleanup_(db_value_release) struct db_value value = {0};
    schema_meta(&key, name);
    int r = db_get(x->o->db, x->o->view, buf_bytes(&key), &value);
    buf_clear(ret);
    if (r == 0)
        buf_append_bytes(ret, value.bytes);
    return r == DB_E_NOT_FOUND ? 0 : r;
}

/* -1 if there is no such counter. */
static int counter_get(struct export *x, const char *name, int64_t *ret)
{
    _cleanup_(buf_deinit) struct buf value = BUF_NULL;
    int r = meta_get(x, name, &value);
    if (r == 0 && value.len != 0 && value.len != 8)
        return corrupt("counter", bytes_str(name));
    if (r == 0)
        *ret = value.len ? (int64_t)u64_be_get(value.data) : -1;
    return r;
}

/* (2) */
static int meta_known(struct export *x, struct bytes key, struct bytes value)
{
    static const char *const names[] = {"applied",           "cluster_version", "compact_finished",
                                        "compact_scheduled", "downgrade",       "revision"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (bytes_equal(bytes_of(key.data + 1, key.len - 1), bytes_str(names[i])))
            return 0;
    _cleanup_(mem_freep) char *what =
        mem_printf("record m %.*s", (int)(key.len - 1), (const char *)key.data + 1);
    return unsupported(x, what);
}

/* (2) */
static int kinds_check(struct export *x)
{
    struct db_iter_options options = {.view = x->o->view};
    struct db_iter *it = db_iter_new(x->o->db, &options);
    uint8_t kind = 0;
    int r = 0;
    db_iter_seek(it, bytes_of(&kind, 1));
    while (r == 0 && db_iter_valid(it)) {
        kind = db_iter_key(it).data[0];
        if (kind == 'a')
            r = unsupported(x, "users and roles");
        else if (!memchr("chklmrsx", kind, 8))
            r = unsupported(x, "a record of an unknown kind");
        kind++;
        db_iter_seek(it, bytes_of(&kind, 1));
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r == 0 ? records_visit(x, "m", meta_known) : r;
}

/* ---- writing ---- */

static int item(struct export *x, struct bytes key, struct bytes value)
{
    int r = bbolt_write_item(x->writer, key, value);
    return r > 0 ? corrupt("it can't be an item of a bucket", key) : file_outcome(x, r);
}

static int named_item(struct export *x, const char *name, const struct buf *value)
{
    return value->len ? item(x, bytes_str(name), buf_bytes(value)) : 0;
}

/* (1) */
static int bucket(struct export *x, const char *name)
{
    int r = bbolt_write_bucket(x->writer, name);
    check(r <= 0);
    return file_outcome(x, r);
}

static int sorted_items(struct export *x)
{
    struct bytes key, value;
    bool found = true;
    uint64_t n = 0;
    int r = 0;
    while (r == 0) {
        r = sort_outcome(x, record_sort_next(x->sort, &found, &key, &value));
        if (r != 0 || !found)
            break;
        r = item(x, key, value);
        if (++n % CANCEL_EVERY == 0 && r == 0 && cancelled(x))
            r = -ECANCELED;
    }
    return r;
}

/* A bucket whose items come from the records of a prefix, in another order. visit adds to x->sort.
 */
static int sorted_bucket(struct export *x, const char *name, const char *prefix, record_visit visit)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s.sort", x->o->path);
    record_sort_new(&x->sort, &(struct record_sort_options){path, x->o->memory_bytes});
    int r = bucket(x, name);
    if (r == 0)
        r = records_visit(x, prefix, visit);
    if (r == 0)
        r = sorted_items(x);
    x->sort = record_sort_free(x->sort);
    return r;
}

/* ---- the buckets, in their order ---- */

static int alarm_visit(struct export *x, struct bytes key, struct bytes value)
{
    return item(x, bytes_of(key.data + 1, key.len - 1), BYTES_NULL);
}

static int alarms_export(struct export *x)
{
    int r = bucket(x, "alarm");
    return r == 0 ? records_visit(x, "s", alarm_visit) : r;
}

/* As etcd has them before the first user: the revision of the empty state is 1. */
static int auth_export(struct export *x)
{
    static const uint8_t revision[8] = {[7] = 1};
    int r = bucket(x, "auth");
    if (r == 0)
        r = item(x, bytes_str("authRevision"), bytes_of(revision, sizeof(revision)));
    if (r == 0)
        r = bucket(x, "authRoles");
    return r == 0 ? bucket(x, "authUsers") : r;
}

static int cluster_export(struct export *x)
{
    _cleanup_(buf_deinit) struct buf version = BUF_NULL, downgrade = BUF_NULL;
    int r = meta_get(x, "cluster_version", &version);
    if (r == 0)
        r = meta_get(x, "downgrade", &downgrade);
    if (r == 0)
        r = bucket(x, "cluster");
    if (r == 0)
        r = named_item(x, "clusterVersion", &version);
    return r == 0 ? named_item(x, "downgrade", &downgrade) : r;
}

static size_t revision_put(uint8_t out[REV_BYTES + 1], struct rev rev, bool tombstone)
{
    u64_be_put(out, (uint64_t)rev.main);
    out[8] = '_';
    u64_be_put(out + 9, rev.sub);
    out[REV_BYTES] = 't';
    return (size_t)REV_BYTES + tombstone;
}

static int version_visit(struct export *x, struct bytes key, struct bytes value)
{
    struct bytes prefix;
    struct rev rev;
    uint8_t name[REV_BYTES + 1];
    if (!schema_split_k(key, &prefix, &rev))
        return corrupt("version key", key);
    x->facts->n_revisions++;
    if (rev.main > x->facts->revision)
        x->facts->revision = rev.main;
    size_t len = revision_put(name, rev, kv_is_tombstone(value));
    return sort_outcome(x, record_sort_add(x->sort, bytes_of(name, len), value));
}

static int lease_visit(struct export *x, struct bytes key, struct bytes value)
{
    if (key.len != 10)
        return corrupt("lease key", key);
    return item(x, bytes_of(key.data + 2, 8), value);
}

static int leases_export(struct export *x)
{
    int r = bucket(x, "lease");
    return r == 0 ? records_visit(x, "l\x01", lease_visit) : r;
}

/* Written without leading zeros, ids are not in the order of their numbers. */
static int member_add(struct export *x, struct bytes key, struct bytes value)
{
    char hex[HEX_ID_BYTES_MAX];
    if (key.len != 9)
        return corrupt("member key", key);
    snprintf(hex, sizeof(hex), "%" PRIx64, u64_be_get(key.data + 1));
    return sort_outcome(x, record_sort_add(x->sort, bytes_str(hex), value));
}

static int removed_visit(struct export *x, struct bytes key, struct bytes value)
{
    return member_add(x, key, BYTES_LIT("removed"));
}

static int members_export(struct export *x)
{
    int r = sorted_bucket(x, "members", "c", member_add);
    return r == 0 ? sorted_bucket(x, "members_removed", "x", removed_visit) : r;
}

/* ---- meta ---- */

static void ids_append(struct buf *out, const char *name, const struct raft_ids *ids)
{
    if (ids->len == 0)
        return;
    buf_printf(out, "\"%s\":", name);
    for (size_t i = 0; i < ids->len; i++)
        buf_printf(out, "%c%" PRIu64, i ? ',' : '[', ids->ids[i]);
    buf_append_str(out, "],");
}

static void conf_append(struct buf *out, const struct raft_conf_state *conf)
{
    buf_append_u8(out, '{');
    ids_append(out, "voters", &conf->voters);
    ids_append(out, "learners", &conf->learners);
    ids_append(out, "voters_outgoing", &conf->voters_outgoing);
    ids_append(out, "learners_next", &conf->learners_next);
    buf_printf(out, "\"auto_leave\":%s}", conf->auto_leave ? "true" : "false");
}

static int compaction_item(struct export *x, const char *name, int64_t revision)
{
    uint8_t value[REV_BYTES + 1];
    if (revision < 0)
        return 0;
    size_t len = revision_put(value, (struct rev){revision, 0}, false);
    return item(x, bytes_str(name), bytes_of(value, len));
}

static int number_item(struct export *x, const char *name, uint64_t number)
{
    uint8_t value[8];
    if (number == 0)
        return 0;
    u64_be_put(value, number);
    return item(x, bytes_str(name), bytes_of(value, sizeof(value)));
}

static int facts_get(struct export *x)
{
    _cleanup_(buf_deinit) struct buf applied = BUF_NULL;
    struct snapshot_facts *f = x->facts;
    int r = meta_get(x, "applied", &applied);
    if (r == 0 && applied.len != 0 && applied.len != 16)
        return corrupt("applied index", buf_bytes(&applied));
    if (r == 0 && applied.len) {
        f->applied = u64_be_get(applied.data);
        f->applied_term = u64_be_get(applied.data + 8);
    }
    if (r == 0)
        r = counter_get(x, "compact_scheduled", &f->scheduled);
    return r == 0 ? counter_get(x, "compact_finished", &f->finished) : r;
}

static int meta_export(struct export *x)
{
    _cleanup_(buf_deinit) struct buf conf = BUF_NULL;
    const struct snapshot_facts *f = x->facts;
    conf_append(&conf, x->o->conf);
    int r = bucket(x, "meta");
    if (r == 0)
        r = named_item(x, "confState", &conf);
    if (r == 0)
        r = number_item(x, "consistent_index", f->applied);
    if (r == 0)
        r = compaction_item(x, "finishedCompactRev", f->finished);
    if (r == 0)
        r = compaction_item(x, "scheduledCompactRev", f->scheduled);
    if (r == 0)
        r = item(x, bytes_str("storageVersion"), bytes_str(x->o->storage_version));
    return r == 0 ? number_item(x, "term", f->applied_term) : r;
}

static int buckets_export(struct export *x)
{
    int r = alarms_export(x);
    if (r == 0)
        r = auth_export(x);
    if (r == 0)
        r = cluster_export(x);
    if (r == 0)
        r = sorted_bucket(x, "key", "k", version_visit);
    if (r == 0)
        r = leases_export(x);
    if (r == 0)
        r = members_export(x);
    return r == 0 ? meta_export(x) : r;
}

int snapshot_export(const struct snapshot_export_options *options, struct snapshot_facts *ret,
                    char **ret_error)
{
    check(options && options->db && options->view && options->conf && options->storage_version);
    check(ret && ret_error);
    struct snapshot_facts facts = {.scheduled = -1, .finished = -1};
    struct export x = {.o = options, .facts = &facts, .ret_error = ret_error};
    int r = kinds_check(&x);
    if (r == 0)
        r = facts_get(&x);
    if (r != 0)
        return r;
    r = bbolt_write_open(&x.writer, &(struct bbolt_write_options){.path = options->path});
    r = file_outcome(&x, r);
    if (r == 0)
        r = buckets_export(&x);
    if (r == 0)
        r = file_outcome(&x, bbolt_write_finish(x.writer, &facts.file_bytes));
    bbolt_write_close(x.writer);
    if (r == 0)
        *ret = facts;
    return r;
}
