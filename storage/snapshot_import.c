/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From etcd's file into an empty store (see snapshot_db.h), in this order:
 *
 *   1  meta and the small buckets; leases, so that keys can be attached to them
 *   2  key, in the file's order: of each version its r record, and into the sort
 *   3  the versions by key: k; the newest of each key says what head and attachment it has
 *   4  heads and attachments: h, l
 *   5  the revision
 *
 * Each kind of record by itself and in ascending order, because the store's tables then hardly
 * overlap and are moved down, not merged: with heads among the versions the processor time doubled.
 *
 * Invariants: (1) every item is checked before it is stored, so the store holds only what its own
 * readers take. (2) What is stored is what applying the same entries would have stored: r records
 * from the finished compaction on, a head for each key whose newest version is a put. (3) A bucket
 * or item of a kind that is not known here ends the import. (4) A batch holds BATCH_BYTES_MAX and
 * an item.
 *
 * Thread: see the header.
 */
#include "storage/snapshot_db.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"
#include "storage/bbolt_read.h"
#include "storage/kv.h"
#include "storage/lease.h"
#include "storage/record_sort.h"
#include "storage/schema.h"

/* That a file may say: revisions go on from there. */
#define REVISION_MAX (INT64_MAX / 2)

enum {
    REV_BYTES = 17,
    BATCH_BYTES_MAX = 1 << 20,
    CANCEL_EVERY = 1024,
    VERSION_BYTES_MAX = 15, /* of the cluster's, as text */
    SHOWN_BYTES_MAX = 40,   /* of a name, in an error */
    HEADS_PART = 4,         /* of the memory for sorting: they are short, and come in order */
    MINOR_MAX = 7,          /* of etcd's storage version 3.x */
};

struct import {
    const struct snapshot_import_options *o;
    struct bbolt *file;
    struct db_batch *batch;
    size_t batch_bytes;
    struct record_sort *versions; /* k records */
    struct record_sort *heads;    /* h and l 2 records */
    struct lease_table *leases;
    struct snapshot_facts facts;
    struct bytes bucket; /* under way */
    struct buf key;      /* of a record under construction */
    struct buf value;
    struct buf prefix; /* of the key whose versions are being written */
    char **ret_error;
};

typedef int (*item_visit)(struct import *im, struct bytes key, struct bytes value);

/* ---- outcomes ---- */

static void shown_append(struct buf *out, struct bytes name)
{
    for (size_t i = 0; i < name.len && i < SHOWN_BYTES_MAX; i++) {
        if (name.data[i] > ' ' && name.data[i] < 0x7f && name.data[i] != '\\')
            buf_append_u8(out, name.data[i]);
        else
            buf_printf(out, "\\x%02x", name.data[i]);
    }
}

static int refuse(struct import *im, int outcome, struct bytes key, const char *what)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    buf_append_str(&text, "bucket ");
    shown_append(&text, im->bucket);
    buf_append_str(&text, ", item ");
    shown_append(&text, key);
    buf_printf(&text, ": %s", what);
    *im->ret_error = mem_strdup(buf_cstr(&text));
    return outcome;
}

static int damaged(struct import *im, struct bytes key, const char *what)
{
    return refuse(im, SNAPSHOT_E_DAMAGED, key, what);
}

/* What the reader says. What happens to a file is no trouble of the store's. */
static int read_outcome(struct import *im, int r)
{
    if (r == 0)
        return 0;
    *im->ret_error = mem_strdup(r < 0 ? err_text(r).text : bbolt_error(im->file));
    return r < 0 ? SNAPSHOT_E_FILE : SNAPSHOT_E_DAMAGED;
}

static int sort_outcome(struct import *im, int r)
{
    if (r >= 0)
        return r;
    *im->ret_error = mem_printf("temporary file: %s", err_text(r).text);
    return SNAPSHOT_E_FILE;
}

static bool cancelled(const struct import *im)
{
    return im->o->cancel && atomic_load_explicit(im->o->cancel, memory_order_relaxed);
}

/* ---- storing ---- */

static int batch_write(struct import *im)
{
    int r = db_write(im->o->db, im->batch);
    db_batch_clear(im->batch);
    im->batch_bytes = 0;
    return r;
}

/* (4) */
static int put(struct import *im, struct bytes key, struct bytes value)
{
    db_batch_put(im->batch, key, value);
    im->batch_bytes += key.len + value.len;
    return im->batch_bytes >= BATCH_BYTES_MAX ? batch_write(im) : 0;
}

static int meta_put(struct import *im, const char *name, struct bytes value)
{
    buf_clear(&im->key);
    schema_meta(&im->key, name);
    return put(im, buf_bytes(&im->key), value);
}

static int counter_put(struct import *im, const char *name, int64_t number)
{
    uint8_t value[8];
    if (number < 0)
        return 0;
    u64_be_put(value, (uint64_t)number);
    return meta_put(im, name, bytes_of(value, sizeof(value)));
}

/* ---- walking a bucket ---- */

static int items_visit(struct import *im, struct bbolt_cursor *c, item_visit visit)
{
    bool found = false;
    uint64_t n = 0;
    int r = read_outcome(im, bbolt_first(c, &found));
    while (r == 0 && found) {
        r = visit(im, bbolt_key(c), bbolt_value(c));
        if (++n % CANCEL_EVERY == 0 && r == 0 && cancelled(im))
            r = -ECANCELED;
        if (r == 0)
            r = read_outcome(im, bbolt_next(c, &found));
    }
    return r;
}

/* A bucket that is not there is empty. */
static int bucket_visit(struct import *im, struct bytes name, item_visit visit)
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    im->bucket = name;
    int r = bbolt_cursor_open(&c, im->file, name);
    if (r == BBOLT_E_NO_BUCKET)
        return 0;
    return r == 0 ? items_visit(im, c, visit) : read_outcome(im, r);
}

/* ---- the small buckets ---- */

static bool is(struct bytes key, const char *name)
{
    return bytes_equal(key, bytes_str(name));
}

static bool revision_parse(struct bytes key, struct rev *ret)
{
    if (key.len < REV_BYTES || key.data[8] != '_')
        return false;
    uint64_t main = u64_be_get(key.data), sub = u64_be_get(key.data + 9);
    if (main > REVISION_MAX || sub > UINT32_MAX)
        return false;
    *ret = (struct rev){(int64_t)main, (uint32_t)sub};
    return true;
}

static int compaction_take(struct import *im, struct bytes key, struct bytes value, int64_t *ret)
{
    struct rev rev;
    if (value.len != REV_BYTES || !revision_parse(value, &rev) || rev.sub != 0)
        return damaged(im, key, "it is no revision");
    *ret = rev.main;
    return 0;
}

static int number_take(struct import *im, struct bytes key, struct bytes value, uint64_t *ret)
{
    if (value.len != 8)
        return damaged(im, key, "it is no number");
    *ret = u64_be_get(value.data);
    return 0;
}

/* 3.7.0 and all before it have the same buckets. */
static int storage_version_check(struct import *im, struct bytes key, struct bytes value)
{
    if (value.len < 4 || value.len > VERSION_BYTES_MAX || memcmp(value.data, "3.", 2) != 0 ||
        value.data[2] < '0' || value.data[2] > '0' + MINOR_MAX || value.data[3] != '.')
        return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "the file is of a newer version");
    return 0;
}

/* Who votes is not taken from here: the members say that, too. */
static int meta_visit(struct import *im, struct bytes key, struct bytes value)
{
    struct snapshot_facts *f = &im->facts;
    if (is(key, "confState"))
        return 0;
    if (is(key, "consistent_index"))
        return number_take(im, key, value, &f->applied);
    if (is(key, "term"))
        return number_take(im, key, value, &f->applied_term);
    if (is(key, "scheduledCompactRev"))
        return compaction_take(im, key, value, &f->scheduled);
    if (is(key, "finishedCompactRev"))
        return compaction_take(im, key, value, &f->finished);
    if (is(key, "storageVersion"))
        return storage_version_check(im, key, value);
    return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "it is not known here");
}

static int cluster_visit(struct import *im, struct bytes key, struct bytes value)
{
    if (is(key, "downgrade"))
        return meta_put(im, "downgrade", value);
    if (!is(key, "clusterVersion"))
        return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "it is not known here");
    if (value.len > VERSION_BYTES_MAX)
        return damaged(im, key, "it is no version");
    return meta_put(im, "cluster_version", value);
}

/* AlarmMember {1 memberID, 2 alarm}. */
static int alarm_visit(struct import *im, struct bytes key, struct bytes value)
{
    struct bytes rest = key;
    uint64_t tag, number;
    while (rest.len > 0)
        if (!varint_get(&rest, &tag) || (tag != 0x08 && tag != 0x10) || !varint_get(&rest, &number))
            return damaged(im, key, "it is no alarm");
    buf_clear(&im->key);
    buf_append_u8(&im->key, 's');
    buf_append_bytes(&im->key, key);
    return put(im, buf_bytes(&im->key), BYTES_NULL);
}

/* Before the first user there is a revision of 1; "enabled" is there once it was. */
static int auth_visit(struct import *im, struct bytes key, struct bytes value)
{
    static const uint8_t one[8] = {[7] = 1};
    if (is(key, "authRevision") && bytes_equal(value, bytes_of(one, sizeof(one))))
        return 0;
    if (is(key, "authEnabled") && value.len == 1 && value.data[0] == 0)
        return 0;
    return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "this version has no users and roles");
}

static int users_visit(struct import *im, struct bytes key, struct bytes value)
{
    return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "this version has no users and roles");
}

static bool member_id_parse(struct bytes hex, uint64_t *ret)
{
    uint64_t id = 0;
    if (hex.len == 0 || hex.len > 16 || hex.data[0] == '0')
        return false;
    for (size_t i = 0; i < hex.len; i++) {
        const char *digits = "0123456789abcdef";
        const char *at = memchr(digits, hex.data[i], 16);
        if (!at)
            return false;
        id = id << 4 | (uint64_t)(at - digits);
    }
    *ret = id;
    return true;
}

/* The JSON is checked by whoever opens the members. */
static int member_visit(struct import *im, struct bytes key, struct bytes value)
{
    uint64_t id;
    if (!member_id_parse(key, &id))
        return damaged(im, key, "it is no member");
    buf_clear(&im->key);
    schema_member(&im->key, id);
    return im->o->new_cluster ? 0 : put(im, buf_bytes(&im->key), value);
}

static int removed_visit(struct import *im, struct bytes key, struct bytes value)
{
    uint64_t id;
    if (!member_id_parse(key, &id))
        return damaged(im, key, "it is no member");
    buf_clear(&im->key);
    schema_removed(&im->key, id);
    return im->o->new_cluster ? 0 : put(im, buf_bytes(&im->key), BYTES_NULL);
}

static int lease_visit(struct import *im, struct bytes key, struct bytes value)
{
    if (key.len != 8)
        return damaged(im, key, "it is no lease");
    buf_clear(&im->key);
    schema_lease(&im->key, (int64_t)u64_be_get(key.data));
    return put(im, buf_bytes(&im->key), value);
}

/* The table's own reader says whether the leases are some. */
static int leases_open(struct import *im)
{
    int r = batch_write(im);
    if (r == 0)
        r = lease_table_open(&im->leases, im->o->db, 0);
    if (r != -EBADMSG)
        return r;
    *im->ret_error = mem_strdup("bucket lease: an item is no lease");
    return SNAPSHOT_E_DAMAGED;
}

/* ---- keys ---- */

/* (1). NULL: it is in order. */
static const char *version_check(struct rev rev, bool tombstone, struct bytes value,
                                 const struct kv *kv)
{
    if (tombstone != kv_is_tombstone(value))
        return tombstone ? "a deletion with more than a key" : "a put with nothing but a key";
    if (tombstone)
        return kv->key.len ? NULL : "a deletion without a key";
    if (value.len == 0)
        return NULL; /* where a restore has raised the revision */
    if (kv->key.len == 0)
        return "a put without a key";
    if (kv->mod != rev.main || kv->create < 1 || kv->create > kv->mod || kv->version < 1)
        return "revisions that contradict each other";
    return NULL;
}

/* (2). A record that only raises the revision changes no key. */
static int revision_put(struct import *im, struct rev rev, bool tombstone, const struct kv *kv)
{
    enum schema_kind kind = tombstone          ? SCHEMA_DELETE
                            : kv->version == 1 ? SCHEMA_CREATE
                                               : SCHEMA_UPDATE;
    if (rev.main < im->facts.finished)
        return 0;
    buf_clear(&im->key);
    schema_r(&im->key, rev);
    buf_clear(&im->value);
    buf_append_u8(&im->value, (uint8_t)kind);
    buf_append_bytes(&im->value, kv->key);
    return put(im, buf_bytes(&im->key), buf_bytes(&im->value));
}

static int version_visit(struct import *im, struct bytes key, struct bytes value)
{
    struct rev rev;
    struct kv kv;
    bool tombstone = key.len == REV_BYTES + 1 && key.data[REV_BYTES] == 't';
    if (key.len != (size_t)REV_BYTES + tombstone || !revision_parse(key, &rev))
        return damaged(im, key, "it is no revision");
    if (!kv_decode(value, &kv))
        return damaged(im, key, "its value is no KeyValue");
    const char *what = version_check(rev, tombstone, value, &kv);
    if (what)
        return damaged(im, key, what);
    if (kv.key.len > SCHEMA_KEY_BYTES_MAX)
        return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "its key is too long");
    im->facts.n_revisions++;
    im->facts.revision = rev.main;
    int r = revision_put(im, rev, tombstone, &kv);
    if (r < 0)
        return r;
    buf_clear(&im->key);
    schema_k(&im->key, kv.key, rev);
    return sort_outcome(im, record_sort_add(im->versions, buf_bytes(&im->key), value));
}

static int attachment_add(struct import *im, const struct kv *kv)
{
    if (kv->lease == 0 || !lease_exists(im->leases, kv->lease))
        return 0;
    buf_clear(&im->key);
    schema_lease_key(&im->key, kv->lease, kv->key);
    return sort_outcome(im, record_sort_add(im->heads, buf_bytes(&im->key), BYTES_NULL));
}

/* The newest version of a key. (2) */
static int head_add(struct import *im, struct rev rev, struct bytes value)
{
    struct kv kv;
    if (value.len == 0 || kv_is_tombstone(value))
        return 0;
    if (!kv_decode(value, &kv))
        return err_origin(-EBADMSG);
    buf_clear(&im->key);
    schema_h(&im->key, kv.key);
    buf_clear(&im->value);
    schema_head_encode(&im->value, &(struct head){rev, kv.create, kv.version, kv.lease});
    int r = record_sort_add(im->heads, buf_bytes(&im->key), buf_bytes(&im->value));
    r = sort_outcome(im, r);
    return r == 0 ? attachment_add(im, &kv) : r;
}

/* By key, the newest of each first. */
static int version_put(struct import *im, struct bytes key, struct bytes value)
{
    struct bytes prefix;
    struct rev rev;
    if (!schema_split_k(key, &prefix, &rev))
        return err_origin(-EBADMSG);
    int r = put(im, key, value);
    if (r < 0 || bytes_equal(prefix, buf_bytes(&im->prefix)))
        return r;
    buf_clear(&im->prefix);
    buf_append_bytes(&im->prefix, prefix);
    return head_add(im, rev, value);
}

static int sorted_visit(struct import *im, struct record_sort *sort, item_visit visit)
{
    struct bytes key, value;
    bool found = true;
    uint64_t n = 0;
    int r = 0;
    while (r == 0) {
        r = sort_outcome(im, record_sort_next(sort, &found, &key, &value));
        if (r != 0 || !found)
            break;
        r = visit(im, key, value);
        if (++n % CANCEL_EVERY == 0 && r == 0 && cancelled(im))
            r = -ECANCELED;
    }
    return r == 0 ? batch_write(im) : r;
}

static int keys_import(struct import *im)
{
    _cleanup_(mem_freep) char *second = mem_printf("%s.heads", im->o->sort_path);
    size_t memory_bytes = im->o->memory_bytes ? im->o->memory_bytes : RECORD_SORT_BYTES;
    record_sort_new(&im->versions, &(struct record_sort_options){im->o->sort_path, memory_bytes});
    record_sort_new(&im->heads, &(struct record_sort_options){second, memory_bytes / HEADS_PART});
    int r = bucket_visit(im, BYTES_LIT("key"), version_visit);
    if (r == 0)
        r = batch_write(im);
    if (r == 0)
        r = sorted_visit(im, im->versions, version_put);
    im->versions = record_sort_free(im->versions);
    return r == 0 ? sorted_visit(im, im->heads, put) : r;
}

/* ---- the whole ---- */

static const struct {
    const char *name;
    item_visit visit;
} small_buckets[] = {
    {"meta", meta_visit},       {"auth", auth_visit},
    {"authRoles", users_visit}, {"authUsers", users_visit},
    {"cluster", cluster_visit}, {"alarm", alarm_visit},
    {"members", member_visit},  {"members_removed", removed_visit},
    {"lease", lease_visit},
};

static bool bucket_known(struct bytes name)
{
    bool known = is(name, "key");
    for (size_t i = 0; i < sizeof(small_buckets) / sizeof(*small_buckets); i++)
        known |= is(name, small_buckets[i].name);
    return known;
}

static int unknown_visit(struct import *im, struct bytes key, struct bytes value)
{
    return refuse(im, SNAPSHOT_E_UNSUPPORTED, key, "the bucket is not known here");
}

/* (3). A bucket of an unknown name may be there if nothing is in it. */
static int names_visit(struct import *im, struct bytes key, struct bytes value)
{
    if (bucket_known(key))
        return 0;
    return bucket_visit(im, key, unknown_visit);
}

static int names_check(struct import *im)
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    int r = bbolt_cursor_open(&c, im->file, BYTES_NULL);
    if (r == 0)
        r = items_visit(im, c, names_visit);
    bool found = false;
    if (r == 0)
        r = read_outcome(im, bbolt_seek(c, bytes_str("key"), &found));
    if (r == 0 && (!found || !is(bbolt_key(c), "key"))) {
        *im->ret_error = mem_strdup("there is no bucket key: this is no file of etcd's");
        r = SNAPSHOT_E_DAMAGED;
    }
    return r;
}

static int applied_put(struct import *im)
{
    uint8_t value[16];
    if (im->o->new_cluster || im->facts.applied == 0)
        return 0;
    u64_be_put(value, im->facts.applied);
    u64_be_put(value + 8, im->facts.applied_term);
    return meta_put(im, "applied", bytes_of(value, sizeof(value)));
}

static int counters_put(struct import *im)
{
    int r = im->facts.revision > 0 ? counter_put(im, "revision", im->facts.revision) : 0;
    if (r == 0)
        r = counter_put(im, "compact_scheduled", im->facts.scheduled);
    if (r == 0)
        r = counter_put(im, "compact_finished", im->facts.finished);
    if (r == 0)
        r = applied_put(im);
    if (r == 0)
        r = batch_write(im);
    return r == 0 ? db_flush(im->o->db) : r;
}

static int all_import(struct import *im)
{
    int r = names_check(im);
    for (size_t i = 0; i < sizeof(small_buckets) / sizeof(*small_buckets) && r == 0; i++)
        r = bucket_visit(im, bytes_str(small_buckets[i].name), small_buckets[i].visit);
    if (r == 0)
        r = leases_open(im);
    if (r == 0)
        r = keys_import(im);
    return r == 0 ? counters_put(im) : r;
}

static int empty_check(struct db *db)
{
    uint8_t first = 0;
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){0});
    db_iter_seek(it, bytes_of(&first, 1));
    int r = db_iter_valid(it) ? err_origin(-EEXIST) : db_iter_error(it);
    db_iter_free(it);
    return r;
}

static int file_open_outcome(struct import *im)
{
    int r = bbolt_open(&im->file, im->o->path, im->ret_error);
    if (r > 0)
        return SNAPSHOT_E_DAMAGED;
    return read_outcome(im, r);
}

int snapshot_import(const struct snapshot_import_options *options, struct snapshot_facts *ret,
                    char **ret_error)
{
    check(options && options->db && options->path && options->sort_path && ret && ret_error);
    struct import im = {.o = options, .ret_error = ret_error};
    im.facts.scheduled = im.facts.finished = -1;
    int r = empty_check(options->db);
    if (r == 0)
        r = file_open_outcome(&im);
    if (r != 0)
        return r;
    im.facts.file_bytes = bbolt_used_bytes(im.file);
    im.batch = db_batch_new();
    r = all_import(&im);
    im.batch = db_batch_free(im.batch);
    record_sort_free(im.versions);
    record_sort_free(im.heads);
    lease_table_close(im.leases);
    bbolt_close(im.file);
    buf_deinit(&im.key);
    buf_deinit(&im.value);
    buf_deinit(&im.prefix);
    if (r == 0)
        *ret = im.facts;
    return r;
}
