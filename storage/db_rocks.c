/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ordered store on RocksDB: the only file that includes its header.
 *
 * One column family, RocksDB's own log off. A memtable holds whole batches and tables are installed
 * in order, so what is on disk after a crash is the state behind some batch (a prefix of the
 * writes), which the batches themselves mark.
 *
 * Invariants: (1) every write goes through write_options, which has the log off. (2) Reads over
 * several user keys use total order; only an iterator that stays within one prefix may use the
 * prefix bloom. (3) A status other than "not found" is logged with RocksDB's own text, which names
 * the file, and returned as one of db.h's errors; nothing but (6) is tried again. (4) The options
 * come from one function, so that every opening has the same. (5) A compaction by hand goes table
 * by table of the deepest level, because RocksDB's own compactions wait for one that is under way,
 * and at last writes wait for them. (6) What a full disk has refused can be tried again: a batch is
 * refused as a whole, a memtable stays until it is a table, a file that failed is never written to
 * again. RocksDB looks for room by itself. (7) It keeps next to no log: builds of it with
 * assertions end the process when a full disk refuses a line of that. (8) The brake comes on only
 * with few tables in the first level: with many, each flush waits for a compaction, which may have
 * no room.
 *
 * Thread: reads, views and iterators from any; see db.h for the rest.
 */
#include "storage/db.h"

#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/db_files.h"

enum {
    OPEN_FILES_MAX = 512,
    BACKGROUND_JOBS_MAX = 2,
    BLOCK_BYTES = 4 << 10,
    /* The filter of a table is one block of up to some MiB and must fit into a shard of the cache,
     * else it is read again for each lookup (400 us). */
    CACHE_SHARD_BITS = 1,
    TABLE_BYTES = 32 << 20,
    /* Tables go to the disk while they are written, not when they are synced: a sync of the raft
     * log would wait for all of that. */
    TABLE_WRITE_BYTES = 512 << 10,
    LEVEL_BASE_BYTES = 64 << 20,
    BRAKE_TABLES = 20, /* in the first level: writes are slowed down, no flush makes so many */
    BRAKE_TABLES_STOP = 36,
    BRAKE_TABLES_OFF = 1 << 30,
    INFO_LOG_LEVEL_FATAL = 4,
    TABLE_FORMAT_VERSION = 5,
    BLOOM_BITS = 10,
    BOTTOMMOST_FORCE_OPTIMIZED = 3,
    PACE_RECORDS = 16,
    PACE_WORK_NS = 500 * 1000,
    PACE_REST_NS_MAX = 50 * 1000 * 1000,
    ROOM_LOOK_NS = 20 * 1000 * 1000,
};

struct db {
    rocksdb_t *rocks;
    rocksdb_options_t *options;
    rocksdb_block_based_table_options_t *table_options;
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *read_options;
    rocksdb_writeoptions_t *write_options;
    size_t (*prefix_len)(struct bytes key);
    void (*no_room)(void *arg);
    void *no_room_arg;
    atomic_bool interrupted;
    bool brake;       /* as RocksDB has it, */
    bool brake_noted; /* and has written down */
};

struct db_view {
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *read_options;
};

/* Where the slices of a compaction end, exclusive. */
struct bounds {
    struct buf *keys;
    size_t len;
};

struct db_iter {
    rocksdb_iterator_t *rocks;
    const struct db *interruptible; /* NULL: not */
    rocksdb_readoptions_t *read_options;
    uint8_t upper[]; /* RocksDB keeps a pointer to the bound */
};

/* A batch is RocksDB's own: struct db_batch is never defined. */
static rocksdb_writebatch_t *batch_rocks(const struct db_batch *b)
{
    return (rocksdb_writebatch_t *)b;
}

/* RocksDB counts every key comparison in thread-local variables unless told otherwise: a quarter of
 * a write. Any thread, first thing. */
static inline void counters_off(void)
{
    static __thread bool off;
    if (!off) {
        rocksdb_set_perf_level(rocksdb_disable);
        off = true;
    }
}

/* The C interface gives a status as text alone; these are the words of RocksDB and of libc. */
static int error_of(const char *text)
{
    if (strncmp(text, "Corruption", strlen("Corruption")) == 0)
        return -EBADMSG;
    if (strstr(text, strerror(ENOSPC)) || strstr(text, strerror(EDQUOT)))
        return -ENOSPC;
    return -EIO;
}

/* (3) Takes text. */
static int rocks_failed(const char *what, char *text)
{
    int r = error_of(text);
    log_error(r == -EBADMSG ? "the database is damaged" : "database operation failed",
              LOG_STR("operation", what), LOG_STR("error", text));
    rocksdb_free(text);
    return err_origin(r);
}

/* ---- a full disk ---- */

static void ask_for_room(struct db *db, const char *what, const char *text)
{
    log_warn("the disk is full: the database waits for room", LOG_STR("operation", what),
             LOG_STR("error", text));
    if (db->no_room)
        db->no_room(db->no_room_arg);
}

/* (6) After text, what can be tried again, and some time has passed. *until_ms is 0 at the first
 * time. */
static bool await_room(struct db *db, const char *what, const char *text, uint64_t *until_ms)
{
    const struct timespec pause = {.tv_nsec = ROOM_LOOK_NS};

    if (error_of(text) != -ENOSPC)
        return false;
    if (*until_ms == 0) {
        *until_ms = clock_mono_ms() + DB_ROOM_WAIT_MS;
        ask_for_room(db, what, text);
    }
    if (clock_mono_ms() >= *until_ms)
        return false;
    (void)nanosleep(&pause, NULL);
    return true;
}

/* The result of what was tried until it gave text, or NULL. Takes text. */
static int tried(const char *what, char *text, uint64_t until_ms)
{
    if (text)
        return rocks_failed(what, text);
    if (until_ms > 0)
        log_info("there is room for the database again", LOG_STR("operation", what));
    return 0;
}

/* ---- the brake ---- */

static unsigned first_level_tables(struct db *db)
{
    char *text = rocksdb_property_value(db->rocks, "rocksdb.num-files-at-level0");
    unsigned n = text ? (unsigned)strtoul(text, NULL, 10) : 0;

    rocksdb_free(text);
    return n;
}

/* A flush waits that would make the number of tables so large. */
static bool brake_would_hold(struct db *db)
{
    return first_level_tables(db) + 1 >= BRAKE_TABLES;
}

/* (8). What there was no room to note down RocksDB does all the same. It is asked again: until
 * something is noted, RocksDB takes any lack of room for a worse one. */
int db_set_brake(struct db *db, bool on)
{
    static const char *const names[] = {"level0_slowdown_writes_trigger",
                                        "level0_stop_writes_trigger"};
    char slow[16], stop[16], *text = NULL;

    if ((on == db->brake && db->brake_noted) || (on && brake_would_hold(db)))
        return 0;
    snprintf(slow, sizeof(slow), "%d", on ? BRAKE_TABLES : BRAKE_TABLES_OFF);
    snprintf(stop, sizeof(stop), "%d", on ? BRAKE_TABLES_STOP : BRAKE_TABLES_OFF);
    rocksdb_set_options(db->rocks, 2, names, (const char *const[]){slow, stop}, &text);
    if (text && error_of(text) != -ENOSPC)
        return rocks_failed("set the brake", text);
    db->brake = on;
    db->brake_noted = !text;
    rocksdb_free(text);
    return 0;
}

/* ---- prefix extractor ---- */

static void nothing_to_free(void *arg)
{
}

static char *prefix_transform(void *arg, const char *key, size_t len, size_t *ret_len)
{
    struct db *db = arg;
    *ret_len = db->prefix_len(bytes_of(key, len));
    return (char *)key;
}

static unsigned char prefix_in_domain(void *arg, const char *key, size_t len)
{
    struct db *db = arg;
    return db->prefix_len(bytes_of(key, len)) > 0;
}

static unsigned char prefix_in_range(void *arg, const char *key, size_t len)
{
    return 0;
}

static const char *prefix_name(void *arg)
{
    return "cairn.user_key";
}

/* ---- the pace of a compaction by hand ---- */

/* RocksDB shows each record of a compaction to a filter. Ours keeps them all, but rests: a third of
 * the time works, so that the others at the processor hardly notice. Compactions that RocksDB
 * begins by itself get no filter. */
struct pace {
    uint32_t records;
    uint64_t begun_ns;
};

static void pace_free(void *arg)
{
    free(arg);
}

static const char *pace_name(void *arg)
{
    return "cairn.pace";
}

static unsigned char pace_record(void *arg, int level, const char *key, size_t key_len,
                                 const char *value, size_t value_len, char **ret_value,
                                 size_t *ret_value_len, unsigned char *ret_changed)
{
    struct pace *pace = arg;
    if (++pace->records % PACE_RECORDS != 0)
        return 0;
    uint64_t worked_ns = clock_thread_cpu_ns() - pace->begun_ns;
    if (worked_ns >= PACE_WORK_NS) {
        struct timespec rest = {
            .tv_nsec = (long)(worked_ns < PACE_REST_NS_MAX / 2 ? 2 * worked_ns : PACE_REST_NS_MAX)};
        (void)nanosleep(&rest, NULL);
        pace->begun_ns = clock_thread_cpu_ns();
    }
    return 0;
}

static rocksdb_compactionfilter_t *pace_new(void *arg, rocksdb_compactionfiltercontext_t *context)
{
    if (!rocksdb_compactionfiltercontext_is_manual_compaction(context))
        return NULL;
    struct pace *pace = mem_new(struct pace);
    pace->begun_ns = clock_thread_cpu_ns();
    return rocksdb_compactionfilter_create(pace, pace_free, pace_record, pace_name);
}

/* ---- opening ---- */

static void table_options_set(struct db *db, uint64_t cache_bytes)
{
    rocksdb_block_based_table_options_t *t = db->table_options =
        rocksdb_block_based_options_create();
    rocksdb_lru_cache_options_t *c = rocksdb_lru_cache_options_create();
    rocksdb_lru_cache_options_set_capacity(c, cache_bytes ? cache_bytes : DB_CACHE_BYTES);
    rocksdb_lru_cache_options_set_num_shard_bits(c, CACHE_SHARD_BITS);
    db->cache = rocksdb_cache_create_lru_opts(c);
    rocksdb_lru_cache_options_destroy(c);
    rocksdb_block_based_options_set_block_cache(t, db->cache);
    rocksdb_block_based_options_set_block_size(t, BLOCK_BYTES);
    rocksdb_block_based_options_set_format_version(t, TABLE_FORMAT_VERSION);
    rocksdb_block_based_options_set_filter_policy(
        t, rocksdb_filterpolicy_create_bloom_full(BLOOM_BITS));
    rocksdb_block_based_options_set_whole_key_filtering(t, 0);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(t, 1);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks_with_high_priority(t, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(t, 1);
}

static void write_options_set(rocksdb_options_t *o, uint64_t write_buffer_bytes)
{
    rocksdb_options_set_write_buffer_size(o, write_buffer_bytes ? write_buffer_bytes
                                                                : DB_WRITE_BUFFER_BYTES);
    rocksdb_options_set_max_write_buffer_number(o, 2);
    rocksdb_options_set_level0_slowdown_writes_trigger(o, BRAKE_TABLES);
    rocksdb_options_set_level0_stop_writes_trigger(o, BRAKE_TABLES_STOP);
    rocksdb_options_set_compression(o, rocksdb_lz4_compression);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    rocksdb_options_set_target_file_size_base(o, TABLE_BYTES);
    rocksdb_options_set_max_bytes_for_level_base(o, LEVEL_BASE_BYTES);
    rocksdb_options_set_max_background_jobs(o, BACKGROUND_JOBS_MAX);
    rocksdb_options_set_bytes_per_sync(o, TABLE_WRITE_BYTES);
    rocksdb_options_set_compaction_filter_factory(
        o, rocksdb_compactionfilterfactory_create(NULL, nothing_to_free, pace_new, pace_name));
}

/* (4) */
static void options_set(struct db *db, const struct db_options *options)
{
    rocksdb_options_t *o = db->options = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, !options->read_only);
    rocksdb_options_set_paranoid_checks(o, 1);
    rocksdb_options_set_max_open_files(o, OPEN_FILES_MAX);
    rocksdb_options_set_info_log_level(o, INFO_LOG_LEVEL_FATAL); /* (7) */
    rocksdb_options_set_keep_log_file_num(o, 2);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    rocksdb_options_set_skip_stats_update_on_db_open(o, 1);
    write_options_set(o, options->write_buffer_bytes);
    table_options_set(db, options->cache_bytes);
    rocksdb_options_set_block_based_table_factory(o, db->table_options);
    if (options->prefix_len) {
        db->prefix_len = options->prefix_len;
        rocksdb_options_set_prefix_extractor(
            o, rocksdb_slicetransform_create(db, nothing_to_free, prefix_transform,
                                             prefix_in_domain, prefix_in_range, prefix_name));
        rocksdb_options_set_memtable_prefix_bloom_size_ratio(o, 0.1);
    }
    db->read_options = rocksdb_readoptions_create();
    db->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(db->write_options, 1);
}

/* Takes text. A corrupt store is an outcome, because an operator can act on it; a held lock or a
 * bad disk is an error. */
static int open_failed(const char *path, char *text, char **ret_error)
{
    int r = error_of(text);
    const char *advice = "";
    if (r == -EBADMSG || (strstr(text, strerror(ENOENT)) && strstr(text, "/MANIFEST-"))) {
        r = DB_E_CORRUPT;
        advice = "; replace this member from its peers, or restore a snapshot";
    } else if (strstr(text, "lock")) {
        r = -EWOULDBLOCK;
        advice = "; another process has it open";
    }
    if (ret_error)
        *ret_error = mem_printf("database %s: %s%s", path, text, advice);
    rocksdb_free(text);
    return r;
}

static int not_opened(const char *path, const char *why, int r, char **ret_error)
{
    if (ret_error)
        *ret_error = mem_printf("database %s: could not %s: %s", path, why, err_text(r).text);
    return err_trace(r);
}

int db_open(struct db **ret, const struct db_options *options, char **ret_error)
{
    check(ret && options && options->path);
    _cleanup_(db_closep) struct db *db = mem_new(struct db);
    options_set(db, options);
    db->no_room = options->no_room;
    db->no_room_arg = options->no_room_arg;
    char *text = NULL;
    int r = options->read_only ? 0 : db_files_recover(options->path);
    if (r < 0)
        return not_opened(options->path, "end an interrupted exchange", err_origin(r), ret_error);
    if (options->read_only)
        db->rocks = rocksdb_open_for_read_only(db->options, options->path, 0, &text);
    else
        db->rocks = rocksdb_open(db->options, options->path, &text);
    if (text)
        return open_failed(options->path, text, ret_error);
    db->brake = db->brake_noted = true;
    if (!options->read_only && brake_would_hold(db)) /* (8) */
        r = db_set_brake(db, false);
    if (r < 0)
        return not_opened(options->path, "set the brake", r, ret_error);
    *ret = db;
    db = NULL;
    return 0;
}

struct db *db_close(struct db *db)
{
    if (!db)
        return NULL;
    if (db->rocks)
        rocksdb_close(db->rocks);
    if (db->write_options)
        rocksdb_writeoptions_destroy(db->write_options);
    if (db->read_options)
        rocksdb_readoptions_destroy(db->read_options);
    if (db->options)
        rocksdb_options_destroy(db->options);
    if (db->table_options)
        rocksdb_block_based_options_destroy(db->table_options);
    if (db->cache)
        rocksdb_cache_destroy(db->cache);
    free(db);
    return NULL;
}

/* ---- batches ---- */

struct db_batch *db_batch_new(void)
{
    return (struct db_batch *)rocksdb_writebatch_create();
}

struct db_batch *db_batch_free(struct db_batch *b)
{
    if (b)
        rocksdb_writebatch_destroy(batch_rocks(b));
    return NULL;
}

void db_batch_clear(struct db_batch *b)
{
    rocksdb_writebatch_clear(batch_rocks(b));
}

void db_batch_put(struct db_batch *b, struct bytes key, struct bytes value)
{
    check(key.len > 0);
    rocksdb_writebatch_put(batch_rocks(b), (const char *)key.data, key.len,
                           (const char *)value.data, value.len);
}

void db_batch_putv(struct db_batch *b, const struct bytes *key, size_t n_key,
                   const struct bytes *value, size_t n_value)
{
    const char *parts[2 * DB_PARTS_MAX];
    size_t lens[2 * DB_PARTS_MAX];
    check(n_key > 0 && n_key <= DB_PARTS_MAX && n_value <= DB_PARTS_MAX);
    for (size_t i = 0; i < n_key; i++) {
        parts[i] = (const char *)key[i].data;
        lens[i] = key[i].len;
    }
    for (size_t i = 0; i < n_value; i++) {
        parts[DB_PARTS_MAX + i] = (const char *)value[i].data;
        lens[DB_PARTS_MAX + i] = value[i].len;
    }
    rocksdb_writebatch_putv(batch_rocks(b), (int)n_key, parts, lens, (int)n_value,
                            parts + DB_PARTS_MAX, lens + DB_PARTS_MAX);
}

void db_batch_delete(struct db_batch *b, struct bytes key)
{
    check(key.len > 0);
    rocksdb_writebatch_delete(batch_rocks(b), (const char *)key.data, key.len);
}

size_t db_batch_count(const struct db_batch *b)
{
    return (size_t)rocksdb_writebatch_count(batch_rocks(b));
}

int db_write(struct db *db, struct db_batch *b)
{
    check(db && b);
    counters_off();
    char *text = NULL;
    uint64_t until_ms = 0;
    rocksdb_write(db->rocks, db->write_options, batch_rocks(b), &text);
    while (text && await_room(db, "write", text, &until_ms)) {
        rocksdb_free(text);
        text = NULL;
        rocksdb_write(db->rocks, db->write_options, batch_rocks(b), &text);
    }
    return tried("write", text, until_ms);
}

/* ---- point reads and views ---- */

int db_get(struct db *db, const struct db_view *view, struct bytes key, struct db_value *ret)
{
    check(db && key.len > 0);
    counters_off();
    char *text = NULL;
    rocksdb_pinnableslice_t *slice =
        rocksdb_get_pinned(db->rocks, view ? view->read_options : db->read_options,
                           (const char *)key.data, key.len, &text);
    if (text)
        return rocks_failed("get", text);
    if (!slice)
        return DB_E_NOT_FOUND;
    size_t len;
    const char *data = rocksdb_pinnableslice_value(slice, &len);
    *ret = (struct db_value){bytes_of(data, len), slice};
    return 0;
}

void db_value_release(struct db_value *v)
{
    if (v->pin)
        rocksdb_pinnableslice_destroy(v->pin);
    *v = (struct db_value){BYTES_NULL, NULL};
}

struct db_view *db_view_new(struct db *db)
{
    struct db_view *v = mem_new(struct db_view);
    v->snapshot = rocksdb_create_snapshot(db->rocks);
    v->read_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_snapshot(v->read_options, v->snapshot);
    return v;
}

struct db_view *db_view_free(struct db *db, struct db_view *v)
{
    if (!v)
        return NULL;
    rocksdb_readoptions_destroy(v->read_options);
    rocksdb_release_snapshot(db->rocks, v->snapshot);
    free(v);
    return NULL;
}

/* ---- iterators ---- */

struct db_iter *db_iter_new(struct db *db, const struct db_iter_options *options)
{
    counters_off();
    struct db_iter *it = mem_alloc(sizeof(*it) + options->upper.len);
    rocksdb_readoptions_t *o = it->read_options = rocksdb_readoptions_create();
    if (options->view)
        rocksdb_readoptions_set_snapshot(o, options->view->snapshot);
    if (options->upper.len > 0) {
        memcpy(it->upper, options->upper.data, options->upper.len);
        rocksdb_readoptions_set_iterate_upper_bound(o, (const char *)it->upper, options->upper.len);
    }
    rocksdb_readoptions_set_prefix_same_as_start(o, options->one_prefix);
    rocksdb_readoptions_set_total_order_seek(o, !options->one_prefix); /* (2) */
    rocksdb_readoptions_set_fill_cache(o, !options->no_cache);
    it->rocks = rocksdb_create_iterator(db->rocks, o);
    it->interruptible = options->no_cache ? db : NULL;
    return it;
}

struct db_iter *db_iter_free(struct db_iter *it)
{
    if (!it)
        return NULL;
    rocksdb_iter_destroy(it->rocks);
    rocksdb_readoptions_destroy(it->read_options);
    free(it);
    return NULL;
}

void db_iter_seek(struct db_iter *it, struct bytes key)
{
    rocksdb_iter_seek(it->rocks, (const char *)key.data, key.len);
}

void db_iter_seek_last(struct db_iter *it, struct bytes key)
{
    rocksdb_iter_seek_for_prev(it->rocks, (const char *)key.data, key.len);
}

void db_iter_next(struct db_iter *it)
{
    rocksdb_iter_next(it->rocks);
}

static bool interrupted(const struct db *db)
{
    return db && atomic_load_explicit(&db->interrupted, memory_order_relaxed);
}

bool db_iter_valid(const struct db_iter *it)
{
    return rocksdb_iter_valid(it->rocks) && !interrupted(it->interruptible);
}

struct bytes db_iter_key(const struct db_iter *it)
{
    size_t len;
    const char *data = rocksdb_iter_key(it->rocks, &len);
    return bytes_of(data, len);
}

struct bytes db_iter_value(const struct db_iter *it)
{
    size_t len;
    const char *data = rocksdb_iter_value(it->rocks, &len);
    return bytes_of(data, len);
}

int db_iter_error(const struct db_iter *it)
{
    char *text = NULL;
    if (interrupted(it->interruptible))
        return -ECANCELED;
    rocksdb_iter_get_error(it->rocks, &text);
    return text ? rocks_failed("iterate", text) : 0;
}

/* ---- the whole store ---- */

int db_flush(struct db *db)
{
    char *text = NULL;
    uint64_t until_ms = 0;
    rocksdb_flushoptions_t *o = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(o, 1);
    rocksdb_flush(db->rocks, o, &text);
    while (text && await_room(db, "flush", text, &until_ms)) {
        rocksdb_free(text);
        text = NULL;
        rocksdb_flush(db->rocks, o, &text);
    }
    rocksdb_flushoptions_destroy(o);
    return tried("flush", text, until_ms);
}

static uint64_t property(struct db *db, const char *name)
{
    uint64_t value = 0;
    return rocksdb_property_int(db->rocks, name, &value) == 0 ? value : 0;
}

/* A compaction in the C interface reports no status. But the store counts what failed in the
 * background, and after anything worse than a compaction's lack of room it takes no more writes. */
static int background_failed(struct db *db)
{
    rocksdb_writebatch_t *nothing = rocksdb_writebatch_create();
    char *text = NULL;
    rocksdb_write(db->rocks, db->write_options, nothing, &text);
    rocksdb_writebatch_destroy(nothing);
    if (text && error_of(text) != -ENOSPC)
        return rocks_failed("compact", text);
    rocksdb_free(text);
    log_error("the disk is too full to compact the database");
    return err_origin(-ENOSPC);
}

/* ---- compaction by hand ---- */

/* The end of a slice: behind the last key of a table of the deepest level. */
static void add_bound(struct bounds *b, struct bytes last_key)
{
    b->keys = mem_realloc(b->keys, (b->len + 1) * sizeof(*b->keys));
    b->keys[b->len] = BUF_NULL;
    buf_append_bytes(&b->keys[b->len], last_key);
    buf_append_u8(&b->keys[b->len++], 0);
}

static int compare_bounds(const void *a, const void *b)
{
    return bytes_compare(buf_bytes(a), buf_bytes(b));
}

/* Every so many bytes of the deepest level, in order. */
static void bounds_find(struct bounds *b, struct db *db)
{
    const rocksdb_livefiles_t *files = rocksdb_livefiles(db->rocks);
    int n = rocksdb_livefiles_count(files), deepest = 0;

    for (int i = 0; i < n; i++)
        deepest = rocksdb_livefiles_level(files, i) > deepest ? rocksdb_livefiles_level(files, i)
                                                              : deepest;
    for (int i = 0; deepest > 0 && i < n; i++) {
        size_t len;
        const char *key = rocksdb_livefiles_largestkey(files, i, &len);
        if (rocksdb_livefiles_level(files, i) == deepest)
            add_bound(b, bytes_of(key, len));
    }
    rocksdb_livefiles_destroy(files);
    if (b->len > 0)
        qsort(b->keys, b->len, sizeof(*b->keys), compare_bounds);
}

static void compact_slice(struct db *db, struct bytes first, struct bytes last)
{
    rocksdb_compactoptions_t *o = rocksdb_compactoptions_create();
    rocksdb_compactoptions_set_exclusive_manual_compaction(o, 0);
    rocksdb_compactoptions_set_bottommost_level_compaction(o, BOTTOMMOST_FORCE_OPTIMIZED);
    rocksdb_compact_range_opt(db->rocks, o, first.len ? (const char *)first.data : NULL, first.len,
                              last.len ? (const char *)last.data : NULL, last.len);
    rocksdb_compactoptions_destroy(o);
}

/* (5) */
int db_compact(struct db *db, bool (*go_on)(void *arg), void *arg)
{
    uint64_t failures = property(db, "rocksdb.background-errors");
    struct bounds b = {0};
    int r = 0;

    bounds_find(&b, db);
    for (size_t i = 0; i <= b.len && r == 0 && (!go_on || go_on(arg)); i++) {
        if (interrupted(db)) {
            r = -ECANCELED;
            break;
        }
        compact_slice(db, i > 0 ? buf_bytes(&b.keys[i - 1]) : BYTES_NULL,
                      i < b.len ? buf_bytes(&b.keys[i]) : BYTES_NULL);
        if (property(db, "rocksdb.background-errors") != failures)
            r = background_failed(db);
    }
    for (size_t i = 0; i < b.len; i++)
        buf_deinit(&b.keys[i]);
    free(b.keys);
    return r;
}

void db_interrupt(struct db *db)
{
    atomic_store(&db->interrupted, true);
}

uint64_t db_disk_bytes(struct db *db)
{
    return property(db, "rocksdb.live-sst-files-size");
}

uint64_t db_used_bytes(struct db *db)
{
    return property(db, "rocksdb.estimate-live-data-size") + db_unflushed_bytes(db);
}

uint64_t db_unflushed_bytes(struct db *db)
{
    return property(db, "rocksdb.cur-size-all-mem-tables");
}

int db_checkpoint(struct db *db, const char *path)
{
    char *text = NULL;
    rocksdb_checkpoint_t *c = rocksdb_checkpoint_object_create(db->rocks, &text);
    if (text)
        return rocks_failed("checkpoint", text);
    rocksdb_checkpoint_create(c, path, 0, &text);
    rocksdb_checkpoint_object_destroy(c);
    return text ? rocks_failed("checkpoint", text) : 0;
}
