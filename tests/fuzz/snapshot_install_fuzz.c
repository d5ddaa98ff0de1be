/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot on its way through a member: a bbolt file of any bytes (snapshot_input.h), with the
 * message that mostly fits it, to the snapshot worker and from there into the place of the
 * member's own state.
 *
 * Properties: the file is refused, with an error in the log, or it is what raft is told of, once;
 * what was not refused is installed without an error and is the store that the file makes; who
 * waits for the end is told once.
 *
 * Left out are files that hold what this version has no place for: those end the process. Link with
 * --wrap of node_snapshot_received, node_snapshot_refused and node_snapshot_installed, and as
 * entry_side.h says.
 */
#include <stdlib.h>

#include "base/check.h"
#include "base/digest.h"
#include "server/internal_request.h"
#include "server/node.h"
#include "server/snapshot.h"
#include "storage/db_mem.h"
#include "storage/snapshot_db.h"
#include "storage/test_dir.h"
#include "tests/fuzz/entry_side.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_store.h"
#include "tests/fuzz/snapshot_input.h"

enum { SORT_BYTES = 1 << 20 };
enum { SPOIL_NOTHING, SPOIL_INDEX, SPOIL_TERM, SPOIL_MEMBERS, SPOILS = 8 };

/* What the worker and the apply turn have told. */
static struct {
    struct received *received;
    unsigned n_received, n_refused, n_installed, n_done;
    bool ok;
} told;

static struct memory_file file;
static char *dir;

void __wrap_node_snapshot_received(struct node *n, struct received *received);
void __wrap_node_snapshot_refused(struct node *n);
void __wrap_node_snapshot_installed(struct node *n, uint64_t index);

void __wrap_node_snapshot_received(struct node *n, struct received *received)
{
    told.received = received;
    told.n_received++;
}

void __wrap_node_snapshot_refused(struct node *n)
{
    told.n_refused++;
}

void __wrap_node_snapshot_installed(struct node *n, uint64_t index)
{
    told.n_installed++;
}

static void done(void *arg, bool ok)
{
    told.n_done++;
    told.ok = ok;
}

/* ---- what the file makes ---- */

/* False: it is nothing that a member takes. *ret_unsupported: or that it can live with. */
static bool make_store(struct store *s, bool *ret_unsupported)
{
    _cleanup_(mem_freep) char *error = NULL;
    struct db *db = test_db_open("/fuzz/made");
    struct snapshot_facts facts;
    int r = snapshot_import(
        &(struct snapshot_import_options){
            .db = db, .path = file.path, .sort_path = "/nowhere/sort", .memory_bytes = SORT_BYTES},
        &facts, &error);

    db_close(db);
    *ret_unsupported = r == SNAPSHOT_E_UNSUPPORTED;
    return r == 0 && store_open(s, &(struct store_options){.path = "/fuzz/made",
                                                           .compaction_batch_max = 3,
                                                           .lease_ttl_min_s = 2}) == 0;
}

static void facts_of(const struct store *s, struct raft_snapshot *ret)
{
    check(store_applied(s->db, NULL, &ret->index, &ret->term) == 0);
    check(store_conf(s->db, NULL, &ret->conf) == 0);
}

/* ---- the way through ---- */

static void check_installed(struct side *s, struct store *made)
{
    _cleanup_(buf_deinit) struct buf expected = BUF_NULL, found = BUF_NULL;

    apply_push_snapshot(s->apply, told.received);
    check(apply_turn(s->apply) == 0 && told.n_installed == 1);
    check(fuzz_store_equal(&s->store, made));
    fuzz_store_describe(&s->store, &found);
    fuzz_store_describe(made, &expected);
    check(bytes_equal(buf_bytes(&expected), buf_bytes(&found)));
}

/* The next entry. */
static void go_on(struct side *s, const struct raft_snapshot *snapshot)
{
    int64_t before = mvcc_revision(s->store.mvcc);
    bool refused = alarms_no_space(s->store.alarms) || alarms_corrupt(s->store.alarms);
    struct bytes put = BYTES_LIT("\x0a\x04next");
    struct raft_entry next = {.index = snapshot->index + 1, .term = snapshot->term};

    next.data = internal_request_encode(REQUEST_PUT, put, 1, &(struct identity){0});
    apply_push_entries(s->apply, &next, 1);
    blob_unref(next.data);
    check(apply_turn(s->apply) == 0);
    check(atomic_load(&s->state.applied) == next.index);
    check(mvcc_revision(s->store.mvcc) == before + !refused);
}

static void pass(struct side *s, struct store *made, struct raft_snapshot *snapshot, bool must_fit)
{
    const struct raft_message m = {.type = RAFT_MSG_SNAP,
                                   .from = 2,
                                   .to = SIDE_MEMBER,
                                   .term = snapshot->term,
                                   .snapshot = snapshot};
    uint64_t errors = fuzz_log_errors();

    check(snapshots_take(s->snapshots, &m, file.path, done, NULL));
    snapshots_turn(s->snapshots);
    check(told.n_received + told.n_refused == 1);
    check(told.n_refused == 0 || fuzz_log_errors() > errors);
    check(told.n_received == must_fit);
    if (told.n_received) {
        check_installed(s, made);
        go_on(s, snapshot);
    }
    check(told.n_done == 1 && told.ok == (told.n_received == 1));
}

/* Another state, or other members, than the file's. */
static bool spoil(struct raft_snapshot *snapshot, unsigned how)
{
    switch (how) {
    case SPOIL_INDEX: snapshot->index ^= 1; return true;
    case SPOIL_TERM: snapshot->term++; return true;
    case SPOIL_MEMBERS:
        if (snapshot->conf.voters.len == 0)
            return false;
        snapshot->conf.voters.len--;
        return true;
    }
    return false;
}

static void one(unsigned how)
{
    struct raft_snapshot snapshot = {.index = 1, .term = 1};
    struct store made = {0};
    bool unsupported, fits = make_store(&made, &unsupported);

    if (unsupported)
        return;
    memset(&told, 0, sizeof(told));
    if (fits)
        facts_of(&made, &snapshot);
    fits = fits && !spoil(&snapshot, how);
    struct side *s = side_new("/fuzz/side", 0, dir);
    if (snapshot.index > 0)
        pass(s, &made, &snapshot, fits);
    raft_conf_state_clear(&snapshot.conf);
    side_free(s, true);
    store_close(&made);
}

static void dir_remove(void)
{
    test_dir_remove(dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (!dir) {
        dir = test_dir_new();
        atexit(dir_remove);
        memory_file_open(&file);
    }
    snapshot_input_write(&file, bytes_of(data, size));
    one(crc32c(0, data, size) % SPOILS); /* mostly nothing, and as often for each file */
    db_mem_forget();
    return 0;
}
