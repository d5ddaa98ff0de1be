/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ordered store in memory, for tests and the simulator: a skip list of versions, ordered by key
 * and then newest first.
 *
 * Every write batch gets the next sequence number; a read at sequence s takes the first version of
 * a key with a number <= s. So a view is one number, and nothing that a view can see ever changes.
 *
 * The disk is a list of closed stores, by path, for the life of the process: a store is there again
 * when its path is opened, as it was at its last flush. What came later is lost, as in a crash.
 * Paths that are not absolute name nothing, and their stores end with db_close(). A checkpoint is a
 * directory with one file, so that whoever copies files copies it.
 *
 * Invariants: (1) nodes are only added, but for the sweep, which runs inside a write while no view
 * and no iterator exists. (2) One mutex guards the list; an iterator takes it for each move, and
 * what it points at stays where it is (1). (3) Among the versions of a key, numbers fall; a batch
 * that writes one key twice keeps the later. (4) The sweep leaves what was there at the last flush.
 * (5) A store is opened, closed, exchanged in one step: between its place on the disk and its owner
 * there is no mutex, at which the simulator would end the process, and the store with it.
 */
#include "storage/db_mem.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "storage/db.h"
#include "storage/file.h"

enum { LEVELS_MAX = 20, SWEEP_GARBAGE_MIN = 4096, CHECKPOINT_BYTES_MAX = 1 << 30 };

struct node {
    uint64_t seq;
    struct bytes key;
    struct bytes value;
    bool deleted;
    uint8_t *memory; /* key and value */
    struct node *next[];
};

struct db {
    struct db *next; /* on the disk: closed */
    char *path;
    _Atomic bool interrupted;
    pthread_mutex_t lock; /* guards all below; innermost */
    size_t (*prefix_len)(struct bytes key);
    struct node *head; /* a node of LEVELS_MAX links without a key */
    uint64_t seq;
    uint64_t flushed_seq;
    struct rng rng;
    size_t n_readers; /* views and iterators */
    size_t n_nodes;
    size_t n_garbage; /* versions that no later view can see, about */
    uint64_t bytes;
};

struct op {
    struct op *next;
    bool deleted;
    size_t key_len;
    size_t value_len;
    uint8_t data[];
};

struct db_batch {
    struct op *first;
    struct op **last;
    size_t count;
};

struct db_view {
    uint64_t seq;
};

struct db_iter {
    struct db *db;
    uint64_t seq;
    struct bytes upper;
    uint8_t *upper_memory;
    struct bytes prefix; /* one_prefix: of the last seek */
    struct buf prefix_memory;
    bool one_prefix;
    bool no_cache;
    const struct node *at; /* NULL = invalid */
};

static atomic_flag disk_lock = ATOMIC_FLAG_INIT; /* (5) */
static struct db *disk;

static void node_free(struct node *n)
{
    free(n->memory);
    free(n);
}

static struct db *store_new(void)
{
    struct db *db = mem_new(struct db);
    pthread_mutex_init(&db->lock, NULL);
    db->head = mem_alloc(sizeof(struct node) + LEVELS_MAX * sizeof(struct node *));
    rng_init(&db->rng, 1);
    return db;
}

static void store_free(struct db *db)
{
    for (struct node *n = db->head, *next; n; n = next) {
        next = n->next[0];
        node_free(n);
    }
    pthread_mutex_destroy(&db->lock);
    free(db->path);
    free(db);
}

/* ---- the disk ---- */

static void disk_enter(void)
{
    while (atomic_flag_test_and_set(&disk_lock))
        sched_yield();
}

/* Taken off the disk; NULL: not there. */
static struct db *disk_take(const char *path)
{
    disk_enter();
    struct db **p = &disk, *found;
    while (*p && strcmp((*p)->path, path) != 0)
        p = &(*p)->next;
    found = *p;
    if (found)
        *p = found->next;
    atomic_flag_clear(&disk_lock);
    return found;
}

static void disk_put(struct db *db)
{
    disk_enter();
    db->next = disk;
    disk = db;
    atomic_flag_clear(&disk_lock);
}

/* What was not flushed is gone. */
static void store_lose(struct db *db)
{
    struct node **links[LEVELS_MAX];
    for (int level = 0; level < LEVELS_MAX; level++)
        links[level] = &db->head->next[level];
    for (struct node *n = db->head->next[0], *next; n; n = next) {
        bool lost = n->seq > db->flushed_seq;
        next = n->next[0];
        for (int level = 0; level < LEVELS_MAX && *links[level] == n; level++) {
            if (lost)
                *links[level] = n->next[level];
            else
                links[level] = &n->next[level];
        }
        if (!lost)
            continue;
        db->bytes -= n->key.len + n->value.len;
        db->n_nodes--;
        node_free(n);
    }
    db->seq = db->flushed_seq;
    db->interrupted = false;
}

void db_mem_forget(void)
{
    while (disk) {
        struct db *db = disk;
        disk = db->next;
        store_free(db);
    }
}

void db_mem_wipe(const char *prefix)
{
    for (struct db **p = &disk, *db; (db = *p);) {
        if (strncmp(db->path, prefix, strlen(prefix)) != 0) {
            p = &db->next;
            continue;
        }
        *p = db->next;
        store_free(db);
    }
}

static int checkpoint_load(struct db *db, const char *path);

int db_open(struct db **ret, const struct db_options *options, char **ret_error)
{
    bool named = options->path[0] == '/';
    struct db *db = named ? disk_take(options->path) : NULL;
    int r = 0;
    if (!db) {
        db = store_new();
        db->path = mem_strdup(options->path);
        r = named ? checkpoint_load(db, options->path) : 0;
    }
    if (r < 0) {
        store_free(db);
        return r;
    }
    db->prefix_len = options->prefix_len;
    *ret = db;
    return 0;
}

struct db *db_close(struct db *db)
{
    if (!db)
        return NULL;
    check(db->n_readers == 0);
    if (db->path[0] == '/' && db->flushed_seq > 0) {
        store_lose(db);
        disk_put(db);
    } else {
        store_free(db);
    }
    return NULL;
}

void db_mem_crash(struct db *db, uint64_t random)
{
    db->n_readers = 0;
    db->flushed_seq += random % (db->seq - db->flushed_seq + 1);
    db_close(db);
}

/* ---- batches ---- */

struct db_batch *db_batch_new(void)
{
    struct db_batch *b = mem_new(struct db_batch);
    b->last = &b->first;
    return b;
}

void db_batch_clear(struct db_batch *b)
{
    for (struct op *op = b->first, *next; op; op = next) {
        next = op->next;
        free(op);
    }
    *b = (struct db_batch){.last = &b->first};
}

struct db_batch *db_batch_free(struct db_batch *b)
{
    if (b)
        db_batch_clear(b);
    free(b);
    return NULL;
}

static struct op *op_add(struct db_batch *b, size_t key_len, size_t value_len)
{
    check(key_len > 0);
    struct op *op = mem_alloc(sizeof(*op) + key_len + value_len);
    op->key_len = key_len;
    op->value_len = value_len;
    *b->last = op;
    b->last = &op->next;
    b->count++;
    return op;
}

static size_t parts_len(const struct bytes *parts, size_t n)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++)
        len += parts[i].len;
    return len;
}

static uint8_t *parts_put(uint8_t *p, const struct bytes *parts, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (parts[i].len)
            memcpy(p, parts[i].data, parts[i].len);
        p += parts[i].len;
    }
    return p;
}

void db_batch_putv(struct db_batch *b, const struct bytes *key, size_t n_key,
                   const struct bytes *value, size_t n_value)
{
    check(n_key > 0 && n_key <= DB_PARTS_MAX && n_value <= DB_PARTS_MAX);
    struct op *op = op_add(b, parts_len(key, n_key), parts_len(value, n_value));
    parts_put(parts_put(op->data, key, n_key), value, n_value);
}

void db_batch_put(struct db_batch *b, struct bytes key, struct bytes value)
{
    db_batch_putv(b, &key, 1, &value, 1);
}

void db_batch_delete(struct db_batch *b, struct bytes key)
{
    struct op *op = op_add(b, key.len, 0);
    op->deleted = true;
    memcpy(op->data, key.data, key.len);
}

size_t db_batch_count(const struct db_batch *b)
{
    return b->count;
}

/* ---- the list ---- */

/* Order of a node against (key, seq): by key, then the higher sequence first. */
static bool node_before(const struct node *n, struct bytes key, uint64_t seq)
{
    int order = bytes_compare(n->key, key);
    return order < 0 || (order == 0 && n->seq > seq);
}

/* The first node at or behind (key, seq). With ret_links, the links to change for an insertion
 * there. */
static struct node *list_find(struct db *db, struct bytes key, uint64_t seq,
                              struct node ***ret_links)
{
    struct node *at = db->head;
    for (int level = LEVELS_MAX - 1; level >= 0; level--) {
        while (at->next[level] && node_before(at->next[level], key, seq))
            at = at->next[level];
        if (ret_links)
            ret_links[level] = &at->next[level];
    }
    return at->next[0];
}

static void list_add(struct db *db, const struct op *op, uint64_t seq)
{
    struct node **links[LEVELS_MAX];
    struct bytes key = bytes_of(op->data, op->key_len);
    struct node *there = list_find(db, key, seq, links);
    uint8_t *memory = mem_alloc_raw(op->key_len + op->value_len + 1);
    memcpy(memory, op->data, op->key_len + op->value_len);
    bool same_key = there && bytes_equal(there->key, key);
    struct node *n = there;
    if (same_key && there->seq == seq) {
        free(n->memory); /* (3) */
    } else {
        int levels = 1;
        while (levels < LEVELS_MAX && rng_below(&db->rng, 4) == 0)
            levels++;
        n = mem_alloc(sizeof(*n) + (size_t)levels * sizeof(struct node *));
        for (int level = 0; level < levels; level++) {
            n->next[level] = *links[level];
            *links[level] = n;
        }
        db->n_nodes++;
        db->n_garbage += same_key;
    }
    db->n_garbage += op->deleted;
    n->seq = seq;
    n->memory = memory;
    n->key = bytes_of(memory, op->key_len);
    n->value = bytes_of(memory + op->key_len, op->value_len);
    n->deleted = op->deleted;
    db->bytes += op->key_len + op->value_len;
}

/* Drops what no view can reach (1): older versions, and deletions; (4). */
static void sweep(struct db *db)
{
    struct node *links[LEVELS_MAX];
    for (int level = 0; level < LEVELS_MAX; level++)
        links[level] = db->head;
    struct bytes last_key = BYTES_NULL;
    bool hidden = false; /* by a newer version, at the last flush too */
    uint64_t flushed_seq = db->path[0] == '/' || db->flushed_seq ? db->flushed_seq : UINT64_MAX;
    struct node *dropped = NULL;
    for (struct node *n = db->head->next[0], *next; n; n = next) {
        next = n->next[0];
        if (!last_key.data || !bytes_equal(last_key, n->key))
            hidden = false;
        bool drop = hidden || (n->deleted && n->seq <= flushed_seq);
        hidden = hidden || n->seq <= flushed_seq;
        last_key = n->key;
        for (int level = 0; level < LEVELS_MAX && links[level]->next[level] == n; level++) {
            if (drop)
                links[level]->next[level] = n->next[level];
            else
                links[level] = n;
        }
        if (drop) {
            db->bytes -= n->key.len + n->value.len;
            db->n_nodes--;
            n->next[0] = dropped; /* last_key may point into it until the end */
            dropped = n;
        }
    }
    for (struct node *next; dropped; dropped = next) {
        next = dropped->next[0];
        node_free(dropped);
    }
    db->n_garbage = 0;
}

int db_write(struct db *db, struct db_batch *b)
{
    pthread_mutex_lock(&db->lock);
    db->seq++;
    for (const struct op *op = b->first; op; op = op->next)
        list_add(db, op, db->seq);
    if (db->n_readers == 0 && db->n_garbage > SWEEP_GARBAGE_MIN && db->n_garbage > db->n_nodes / 2)
        sweep(db);
    pthread_mutex_unlock(&db->lock);
    return 0;
}

/* ---- point reads and views ---- */

int db_get(struct db *db, const struct db_view *view, struct bytes key, struct db_value *ret)
{
    pthread_mutex_lock(&db->lock);
    const struct node *n = list_find(db, key, view ? view->seq : UINT64_MAX, NULL);
    bool found = n && bytes_equal(n->key, key) && !n->deleted;
    if (found) {
        uint8_t *copy = mem_alloc_raw(n->value.len + 1);
        if (n->value.len)
            memcpy(copy, n->value.data, n->value.len);
        *ret = (struct db_value){bytes_of(copy, n->value.len), copy};
    }
    pthread_mutex_unlock(&db->lock);
    return found ? 0 : DB_E_NOT_FOUND;
}

void db_value_release(struct db_value *v)
{
    free(v->pin);
    *v = (struct db_value){BYTES_NULL, NULL};
}

static uint64_t reader_add(struct db *db)
{
    pthread_mutex_lock(&db->lock);
    db->n_readers++;
    uint64_t seq = db->seq;
    pthread_mutex_unlock(&db->lock);
    return seq;
}

static void reader_remove(struct db *db)
{
    pthread_mutex_lock(&db->lock);
    check(db->n_readers > 0);
    db->n_readers--;
    pthread_mutex_unlock(&db->lock);
}

struct db_view *db_view_new(struct db *db)
{
    struct db_view *v = mem_new(struct db_view);
    v->seq = reader_add(db);
    return v;
}

struct db_view *db_view_free(struct db *db, struct db_view *v)
{
    if (v)
        reader_remove(db);
    free(v);
    return NULL;
}

/* ---- iterators ---- */

struct db_iter *db_iter_new(struct db *db, const struct db_iter_options *options)
{
    struct db_iter *it = mem_new(struct db_iter);
    it->db = db;
    it->seq = reader_add(db);
    if (options->view)
        it->seq = options->view->seq;
    if (options->upper.len) {
        it->upper_memory = mem_alloc_raw(options->upper.len);
        memcpy(it->upper_memory, options->upper.data, options->upper.len);
        it->upper = bytes_of(it->upper_memory, options->upper.len);
    }
    it->one_prefix = options->one_prefix && db->prefix_len;
    it->no_cache = options->no_cache;
    return it;
}

struct db_iter *db_iter_free(struct db_iter *it)
{
    if (!it)
        return NULL;
    reader_remove(it->db);
    buf_deinit(&it->prefix_memory);
    free(it->upper_memory);
    free(it);
    return NULL;
}

/* From n on, the first version that the iterator may see. Keys of passed versions newer than the
 * view don't hide older ones. */
static void iter_settle(struct db_iter *it, const struct node *n)
{
    while (n) {
        if (n->seq > it->seq) {
            n = n->next[0];
            continue;
        }
        if (!n->deleted)
            break;
        struct bytes gone = n->key;
        while (n && bytes_equal(n->key, gone))
            n = n->next[0];
    }
    if (n && it->upper.len && bytes_compare(n->key, it->upper) >= 0)
        n = NULL;
    if (n && it->one_prefix && !bytes_has_prefix(n->key, it->prefix))
        n = NULL;
    it->at = n;
}

static void iter_prefix_set(struct db_iter *it, struct bytes key)
{
    if (!it->one_prefix)
        return;
    buf_clear(&it->prefix_memory);
    buf_append(&it->prefix_memory, key.data, it->db->prefix_len(key));
    it->prefix = buf_bytes(&it->prefix_memory);
}

void db_iter_seek(struct db_iter *it, struct bytes key)
{
    iter_prefix_set(it, key);
    pthread_mutex_lock(&it->db->lock);
    iter_settle(it, list_find(it->db, key, UINT64_MAX, NULL));
    pthread_mutex_unlock(&it->db->lock);
}

void db_iter_seek_last(struct db_iter *it, struct bytes key)
{
    iter_prefix_set(it, key);
    it->at = NULL;
    pthread_mutex_lock(&it->db->lock);
    /* Walks from the start: simple, and only tests with small stores come here. */
    const struct node *found = NULL;
    struct bytes last_key = BYTES_NULL;
    for (const struct node *n = it->db->head->next[0]; n && bytes_compare(n->key, key) <= 0;
         n = n->next[0]) {
        if (n->seq > it->seq || (last_key.data && bytes_equal(last_key, n->key)))
            continue;
        last_key = n->key;
        if (!n->deleted && !(it->upper.len && bytes_compare(n->key, it->upper) >= 0))
            found = n;
    }
    if (found && (!it->one_prefix || bytes_has_prefix(found->key, it->prefix)))
        it->at = found;
    pthread_mutex_unlock(&it->db->lock);
}

void db_iter_next(struct db_iter *it)
{
    check(it->at);
    pthread_mutex_lock(&it->db->lock);
    const struct node *n = it->at;
    struct bytes key = n->key;
    while (n && bytes_equal(n->key, key))
        n = n->next[0];
    iter_settle(it, n);
    pthread_mutex_unlock(&it->db->lock);
    if (db_iter_error(it) < 0)
        it->at = NULL;
}

bool db_iter_valid(const struct db_iter *it)
{
    return it->at != NULL;
}

struct bytes db_iter_key(const struct db_iter *it)
{
    check(it->at);
    return it->at->key;
}

struct bytes db_iter_value(const struct db_iter *it)
{
    check(it->at);
    return it->at->value;
}

int db_iter_error(const struct db_iter *it)
{
    return it->no_cache && it->db->interrupted ? -ECANCELED : 0;
}

/* ---- the whole store ---- */

int db_flush(struct db *db)
{
    pthread_mutex_lock(&db->lock);
    db->flushed_seq = db->seq;
    pthread_mutex_unlock(&db->lock);
    return 0;
}

int db_set_brake(struct db *db, bool on)
{
    return 0;
}

int db_compact(struct db *db, bool (*go_on)(void *arg), void *arg)
{
    return db->interrupted ? -ECANCELED : 0;
}

void db_interrupt(struct db *db)
{
    db->interrupted = true;
}

uint64_t db_disk_bytes(struct db *db)
{
    return db_unflushed_bytes(db);
}

uint64_t db_used_bytes(struct db *db)
{
    return db_unflushed_bytes(db);
}

uint64_t db_unflushed_bytes(struct db *db)
{
    pthread_mutex_lock(&db->lock);
    uint64_t bytes = db->bytes;
    pthread_mutex_unlock(&db->lock);
    return bytes;
}

/* ---- checkpoints ---- */

static char *checkpoint_file(const char *path)
{
    return mem_printf("%s/STORE", path);
}

static int checkpoint_write(const char *path, struct bytes data)
{
    _cleanup_(mem_freep) char *name = checkpoint_file(path);
    _cleanup_(file_closep) struct file *f = NULL;
    int r = dir_make(path);
    if (r == 0)
        r = file_open(&f, name, FILE_WRITE | FILE_CREATE | FILE_EXCLUSIVE);
    if (r == 0)
        r = file_write(f, 0, data.data, data.len);
    if (r == 0)
        r = file_sync(f);
    return r == 0 ? dir_sync(path) : r;
}

/* Length and bytes of each key and value in turn. */
int db_checkpoint(struct db *db, const char *path)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){0});
    for (db_iter_seek(it, BYTES_LIT("\0")); db_iter_valid(it); db_iter_next(it)) {
        buf_append_u32_be(&out, (uint32_t)db_iter_key(it).len);
        buf_append_bytes(&out, db_iter_key(it));
        buf_append_u32_be(&out, (uint32_t)db_iter_value(it).len);
        buf_append_bytes(&out, db_iter_value(it));
    }
    db_iter_free(it);
    return checkpoint_write(path, buf_bytes(&out));
}

static bool checkpoint_get(struct bytes *rest, struct bytes *ret)
{
    if (rest->len < 4 || rest->len - 4 < u32_be_get(rest->data))
        return false;
    *ret = bytes_of(rest->data + 4, u32_be_get(rest->data));
    *rest = bytes_of(rest->data + 4 + ret->len, rest->len - 4 - ret->len);
    return true;
}

static int checkpoint_read(struct db *db, struct bytes data)
{
    struct db_batch *b = db_batch_new();
    struct bytes key, value;
    bool ok = true;
    while (data.len > 0 && ok) {
        ok = checkpoint_get(&data, &key) && checkpoint_get(&data, &value) && key.len > 0;
        if (ok)
            db_batch_put(b, key, value);
    }
    int r = ok ? db_write(db, b) : -EBADMSG;
    db_batch_free(b);
    return r == 0 ? db_flush(db) : r;
}

static int checkpoint_load(struct db *db, const char *path)
{
    _cleanup_(mem_freep) char *name = checkpoint_file(path);
    _cleanup_(file_closep) struct file *f = NULL;
    _cleanup_(mem_freep) char *data = NULL;
    uint64_t size = 0;
    size_t len = 0;
    int r = file_open(&f, name, FILE_READ);
    if (r == -ENOENT || r == -ENOTDIR)
        return 0;
    if (r == 0)
        r = file_size(f, &size);
    if (r == 0 && size > CHECKPOINT_BYTES_MAX)
        r = -EBADMSG;
    if (r == 0) {
        data = mem_alloc_raw(size + 1);
        r = file_read(f, 0, data, size, &len);
    }
    return r == 0 ? checkpoint_read(db, bytes_of(data, len)) : r;
}

/* ---- closed stores ---- */

/* A closed store, or a checkpoint that was never opened; NULL: none. */
static int disk_find(const char *path, struct db **ret)
{
    _cleanup_(mem_freep) char *name = checkpoint_file(path);
    bool there = false;
    *ret = disk_take(path);
    if (*ret)
        return 0;
    int r = file_exists(name, &there);
    if (r < 0 || !there)
        return r < 0 ? r : -ENOENT;
    r = db_open(ret, &(struct db_options){.path = path}, NULL);
    if (r == 0)
        store_lose(*ret);
    return r;
}

static void disk_rename(struct db *db, const char *path)
{
    free(db->path);
    db->path = mem_strdup(path);
    disk_put(db);
}

int db_exchange(const char *next, const char *path)
{
    struct db *db, *old;
    int r = disk_find(next, &db);
    if (r < 0)
        return r;
    old = disk_take(path);
    if (old)
        disk_rename(old, next);
    disk_rename(db, path);
    return 0;
}

int db_remove(const char *path)
{
    _cleanup_(mem_freep) char *name = checkpoint_file(path);
    struct db *db = disk_take(path);
    if (db)
        store_free(db);
    int r = file_remove(name);
    return r == -ENOENT || r == -ENOTDIR ? 0 : r;
}

static void node_copy(struct db *to, const struct node *n)
{
    size_t len = n->key.len + n->value.len;
    struct op *op = mem_alloc(sizeof(*op) + len);
    *op = (struct op){.deleted = n->deleted, .key_len = n->key.len, .value_len = n->value.len};
    memcpy(op->data, n->memory, len);
    list_add(to, op, n->seq);
    free(op);
}

void db_mem_copy(const struct db *db, const char *path, uint64_t random)
{
    struct db *copy = store_new();
    copy->path = mem_strdup(path);
    copy->seq = copy->flushed_seq = db->flushed_seq + random % (db->seq - db->flushed_seq + 1);
    for (const struct node *n = db->head->next[0]; n; n = n->next[0])
        if (n->seq <= copy->seq)
            node_copy(copy, n);
    db_close(copy);
}

void db_mem_move(const char *from, const char *to)
{
    struct db *db = disk_take(from);
    db_mem_wipe(to);
    if (db)
        disk_rename(db, to);
}
