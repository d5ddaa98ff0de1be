/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ordered store in memory, for tests and the simulator: a skip list of versions, ordered by key
 * and then newest first.
 *
 * Every write batch gets the next sequence number; a read at sequence s takes the first version of
 * a key with a number <= s. So a view is one number, and nothing that a view can see ever changes.
 *
 * Invariants: (1) nodes are only added, but for the sweep, which runs inside a write while no view
 * and no iterator exists. (2) One mutex guards the list; an iterator takes it for each move, and
 * what it points at stays where it is (1). (3) Among the versions of a key, numbers fall; a batch
 * that writes one key twice keeps the later.
 *
 * Nothing is durable: db_flush() succeeds, a closed store is gone, and a checkpoint is refused.
 */
#include "storage/db.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"

enum { LEVELS_MAX = 20, SWEEP_GARBAGE_MIN = 4096 };

struct node {
    uint64_t seq;
    struct bytes key;
    struct bytes value;
    bool deleted;
    uint8_t *memory; /* key and value */
    struct node *next[];
};

struct db {
    pthread_mutex_t lock; /* guards all below; innermost */
    size_t (*prefix_len)(struct bytes key);
    struct node *head; /* a node of LEVELS_MAX links without a key */
    uint64_t seq;
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
    const struct node *at; /* NULL = invalid */
};

int db_open(struct db **ret, const struct db_options *options, char **ret_error)
{
    struct db *db = mem_new(struct db);
    pthread_mutex_init(&db->lock, NULL);
    db->head = mem_alloc(sizeof(struct node) + LEVELS_MAX * sizeof(struct node *));
    rng_init(&db->rng, 1);
    db->prefix_len = options->prefix_len;
    *ret = db;
    return 0;
}

static void node_free(struct node *n)
{
    free(n->memory);
    free(n);
}

struct db *db_close(struct db *db)
{
    if (!db)
        return NULL;
    check(db->n_readers == 0);
    for (struct node *n = db->head, *next; n; n = next) {
        next = n->next[0];
        node_free(n);
    }
    pthread_mutex_destroy(&db->lock);
    free(db);
    return NULL;
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

/* Drops what no view can reach (1): older versions, and deletions. */
static void sweep(struct db *db)
{
    struct node *links[LEVELS_MAX];
    for (int level = 0; level < LEVELS_MAX; level++)
        links[level] = db->head;
    struct bytes last_key = BYTES_NULL;
    struct node *dropped = NULL;
    for (struct node *n = db->head->next[0], *next; n; n = next) {
        next = n->next[0];
        bool drop = n->deleted || (last_key.data && bytes_equal(last_key, n->key));
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
    return 0;
}

/* ---- the whole store ---- */

int db_flush(struct db *db)
{
    return 0;
}

int db_compact(struct db *db, bool (*go_on)(void *arg), void *arg)
{
    return 0;
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

int db_checkpoint(struct db *db, const char *path)
{
    return -ENOTSUP;
}
