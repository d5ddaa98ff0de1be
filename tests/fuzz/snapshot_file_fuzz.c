/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The body of a snapshot as a bbolt file of any bytes (snapshot_input.h), as a member or a backup
 * could give it.
 *
 * Properties:
 *   the reader walks every bucket to an end, keys ascending, and finds each key that it showed
 *   a file is refused with a reason, or becomes a store; that opens as a member would open it, or
 *   is refused with a line in the log
 *   what opens can be read, compacted, and written as a file that comes back as the same store
 *
 * Link as fuzz_store.h says.
 */
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"
#include "storage/bbolt_read.h"
#include "storage/db_mem.h"
#include "storage/snapshot_db.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_store.h"
#include "tests/fuzz/snapshot_input.h"

enum { SORT_BYTES = 1 << 20 }; /* no input needs more */

static struct memory_file input_file, output_file;

/* ---- the reader ---- */

/* Each key is found where it was, while the cursor that showed it stands there. */
static int find_again(struct bbolt *b, struct bytes bucket, struct bytes key)
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    bool found = false;
    int r = bbolt_cursor_open(&c, b, bucket);

    if (r == 0)
        r = bbolt_seek(c, key, &found);
    check(r != 0 || (found && bytes_equal(bbolt_key(c), key)));
    return r;
}

static int walk(struct bbolt *b, struct bytes bucket, int (*visit)(struct bbolt *b, struct bytes))
{
    _cleanup_(bbolt_cursor_closep) struct bbolt_cursor *c = NULL;
    _cleanup_(buf_deinit) struct buf last = BUF_NULL;
    bool found = false;
    int r = bbolt_cursor_open(&c, b, bucket);

    for (r = r == 0 ? bbolt_first(c, &found) : r; r == 0 && found; r = bbolt_next(c, &found)) {
        check(last.len == 0 || bytes_compare(buf_bytes(&last), bbolt_key(c)) < 0);
        buf_clear(&last);
        buf_append_bytes(&last, bbolt_key(c));
        (void)bbolt_value(c);
        r = find_again(b, bucket, buf_bytes(&last));
        if (r == 0 && visit)
            r = visit(b, buf_bytes(&last));
        if (r != 0)
            break;
    }
    check(r >= 0 && (r == 0 || r == BBOLT_E_DAMAGED || r == BBOLT_E_NO_BUCKET));
    return r;
}

static int walk_bucket(struct bbolt *b, struct bytes name)
{
    (void)walk(b, name, NULL);
    return 0;
}

static void read_all(void)
{
    _cleanup_(bbolt_closep) struct bbolt *b = NULL;
    _cleanup_(mem_freep) char *error = NULL;
    int r = bbolt_open(&b, input_file.path, &error);

    check(r == 0 || (r == BBOLT_E_DAMAGED && error));
    if (r == 0 && walk(b, BYTES_NULL, walk_bucket) == BBOLT_E_DAMAGED)
        check(bbolt_error(b)[0] != '\0');
}

/* ---- a store ---- */

static int import(const struct memory_file *f, const char *path)
{
    _cleanup_(db_closep) struct db *db = NULL;
    _cleanup_(mem_freep) char *error = NULL;
    struct snapshot_facts facts;

    check(db_open(&db, &(struct db_options){.path = path, .prefix_len = schema_prefix_len},
                  &error) == 0);
    int r = snapshot_import(
        &(struct snapshot_import_options){
            .db = db, .path = f->path, .sort_path = "/nowhere/sort", .memory_bytes = SORT_BYTES},
        &facts, &error);
    check(r == 0 || (r > 0 && r <= SNAPSHOT_E_FILE && error));
    return r;
}

static bool store_try(struct store *s, const char *path)
{
    uint64_t errors = fuzz_log_errors();
    int r = store_open(
        s, &(struct store_options){.path = path, .compaction_batch_max = 3, .lease_ttl_min_s = 2});

    check(r == 0 || fuzz_log_errors() > errors);
    return r == 0;
}

static void export(struct store *s)
{
    struct snapshot_facts facts;
    _cleanup_(mem_freep) char *error = NULL;
    struct raft_conf_state conf;

    members_conf(s->members, &conf);
    check(ftruncate(output_file.fd, 0) == 0);
    struct db_view *view = db_view_new(s->db);
    check(snapshot_export(&(struct snapshot_export_options){.db = s->db,
                                                            .view = view,
                                                            .path = output_file.path,
                                                            .storage_version = "3.7.0",
                                                            .conf = &conf,
                                                            .memory_bytes = SORT_BYTES},
                          &facts, &error) == 0);
    db_view_free(s->db, view);
    raft_conf_state_clear(&conf);
}

static void compact(struct store *s)
{
    int64_t finished;
    bool done = false;

    while (!done)
        check(mvcc_compact_step(s->mvcc, &done, &finished) == 0);
}

/* What is written next. */
static void go_on(struct store *s)
{
    int64_t before = mvcc_revision(s->mvcc);
    struct db_batch *batch = db_batch_new();
    mvcc_batch(s->mvcc, batch);
    mvcc_begin(s->mvcc);
    check(mvcc_put(s->mvcc, BYTES_LIT("next"), BYTES_LIT("1"), 0) == 0);
    check(mvcc_end(s->mvcc) == before + 1);
    mvcc_seal(s->mvcc);
    check(db_write(s->db, batch) == 0);
    mvcc_publish(s->mvcc);
    db_batch_free(batch);
}

static void use(struct store *s)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL, text_again = BUF_NULL;
    struct store again = {0};

    compact(s);
    go_on(s);
    fuzz_store_describe(s, &text);
    export(s);
    check(import(&output_file, "/fuzz/again") == 0);
    check(store_try(&again, "/fuzz/again"));
    fuzz_store_describe(&again, &text_again);
    check(bytes_equal(buf_bytes(&text), buf_bytes(&text_again)));
    store_close(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store store = {0};

    if (size == 0)
        return 0;
    memory_file_open(&input_file);
    memory_file_open(&output_file);
    snapshot_input_write(&input_file, bytes_of(data, size));
    read_all();
    if (import(&input_file, "/fuzz/store") == 0 && store_try(&store, "/fuzz/store"))
        use(&store);
    store_close(&store);
    db_mem_forget();
    return 0;
}
