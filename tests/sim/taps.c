/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the simulator listens: calls from one module of production code to another go through here
 * (the linker's --wrap) to the checks and on. Some settings that have no flag are made small on the
 * way, so that windows fill and segments end often.
 *
 * Thread: the only one.
 */
#include "raft/raft.h"
#include "server/apply_private.h"
#include "server/node.h"
#include "server/watch_hub.h"
#include "storage/db.h"
#include "storage/lease.h"
#include "storage/wal.h"
#include "tests/sim/checks.h"
#include "tests/sim/counters.h"
#include "tests/sim/holders.h"
#include "tests/sim/nemesis.h"
#include "tests/sim/old_copy.h"

/* They are declared nowhere: the linker makes the names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

/* ---- raft ---- */

int __real_raft_new(struct raft **ret, const struct raft_config *config);
int __real_raft_step(struct raft *r, const struct raft_input *in);
void __real_raft_ready(struct raft *r, struct raft_ready *ret);
struct raft *__real_raft_free(struct raft *r);

int __wrap_raft_new(struct raft **ret, const struct raft_config *config)
{
    struct machine *m = machine_current();
    struct raft_config c = *config;

    c.message_bytes_max = world.o.message_bytes_max;
    c.inflight_messages_max = world.o.inflight_max;
    c.uncommitted_bytes_max = world.o.uncommitted_bytes_max;
    c.applying_bytes_max = world.o.applying_bytes_max;
    check_raft_new(m, &c);
    int r = __real_raft_new(ret, &c);
    if (r == 0)
        m->raft = *ret;
    return r;
}

struct raft *__wrap_raft_free(struct raft *r)
{
    machine_current()->raft = NULL;
    return __real_raft_free(r);
}

int __wrap_raft_step(struct raft *r, const struct raft_input *in)
{
    struct machine *m = machine_current();

    old_copy_before_step(m);
    check_raft_step(m, in);
    int outcome = __real_raft_step(r, in);
    check_raft_stepped(m, in);
    old_copy_stepped(m);
    return outcome;
}

void __wrap_raft_ready(struct raft *r, struct raft_ready *ret)
{
    __real_raft_ready(r, ret);
    check_raft_ready(machine_current(), ret);
    old_copy_ready(machine_current());
}

/* ---- the log ---- */

int __real_wal_open(struct wal **ret, const struct wal_options *options,
                    struct wal_recovery *recovery);
int __real_wal_append(struct wal *w, const struct raft_hard_state *hard_state,
                      const struct raft_entry *entries, size_t n_entries);
int __real_wal_append_snapshot(struct wal *w, uint64_t index, uint64_t term);
int __real_wal_sync(struct wal *w);
int __real_wal_release(struct wal *w, uint64_t index);

int __wrap_wal_open(struct wal **ret, const struct wal_options *options,
                    struct wal_recovery *recovery)
{
    struct wal_options o = *options;

    o.segment_bytes = world.o.wal_segment_bytes;
    return __real_wal_open(ret, &o, recovery);
}

int __wrap_wal_append(struct wal *w, const struct raft_hard_state *hard_state,
                      const struct raft_entry *entries, size_t n_entries)
{
    check_wal_append(machine_current(), hard_state, entries, n_entries);
    return __real_wal_append(w, hard_state, entries, n_entries);
}

int __wrap_wal_append_snapshot(struct wal *w, uint64_t index, uint64_t term)
{
    struct machine *m = machine_current();

    check_wal_snapshot(m, index, term);
    m->installing = true;
    nemesis_install(m);
    return __real_wal_append_snapshot(w, index, term);
}

int __wrap_wal_sync(struct wal *w)
{
    int r = __real_wal_sync(w);

    if (r == 0)
        check_wal_synced(machine_current());
    return r;
}

int __wrap_wal_release(struct wal *w, uint64_t index)
{
    check_wal_release(machine_current(), index);
    count(COUNT_LOG_CUTS, 1);
    return __real_wal_release(w, index);
}

/* ---- the database ---- */

int __real_db_open(struct db **ret, const struct db_options *options, char **ret_error);
struct db *__real_db_close(struct db *db);
int __real_db_write(struct db *db, struct db_batch *b);
int __real_db_flush(struct db *db);
void __real_db_batch_put(struct db_batch *b, struct bytes key, struct bytes value);
void __real_db_batch_putv(struct db_batch *b, const struct bytes *key, size_t n_key,
                          const struct bytes *value, size_t n_value);
void __real_db_batch_delete(struct db_batch *b, struct bytes key);

static uint64_t stored_applied(struct db *db)
{
    struct db_value value = {0};
    uint64_t applied = 0;

    if (db_get(db, NULL, BYTES_LIT("mapplied"), &value) == 0 && value.bytes.len == 16)
        applied = u64_be_get(value.bytes.data);
    db_value_release(&value);
    return applied;
}

int __wrap_db_open(struct db **ret, const struct db_options *options, char **ret_error)
{
    int r = dir_make(options->path); /* so that it is seen on the disk */

    if (r == 0)
        r = __real_db_open(ret, options, ret_error);
    if (r != 0)
        return r;
    struct open_store *s = machine_store_opened(machine_current(), *ret, options->path);
    s->applied = s->flushed = stored_applied(*ret);
    return 0;
}

int __real_db_remove(const char *path);

int __wrap_db_remove(const char *path)
{
    int r = __real_db_remove(path);

    if (r == 0)
        disk_drop(disk_of(path), path);
    return r;
}

int __real_db_exchange(const char *next, const char *path);

/* One step, but before and behind it there is time to die. */
int __wrap_db_exchange(const char *next, const char *path)
{
    fiber_sleep(between(0, world.o.disk.sync_ns_max));
    int r = __real_db_exchange(next, path);
    fiber_sleep(between(0, world.o.disk.sync_ns_max));
    return r;
}

struct db *__wrap_db_close(struct db *db)
{
    if (db)
        machine_store_closed(machine_current(), db);
    return __real_db_close(db);
}

static void db_stalls(const struct machine *m)
{
    while (kernel_now() < m->stalls_until_ns)
        fiber_sleep(10 * MILLISECOND);
}

/* Takes its time now and then, before and after. */
static void db_takes_time(void)
{
    if (one_in(8))
        fiber_sleep(between(0, world.o.disk.sync_ns_max));
}

int __wrap_db_write(struct db *db, struct db_batch *b)
{
    db_stalls(machine_current());
    db_takes_time();
    int r = __real_db_write(db, b);

    if (r == 0)
        check_batch_written(machine_current(), db, b);
    db_takes_time();
    return r;
}

/* Takes time before and after; what is written meanwhile is durable, too, or not. */
int __wrap_db_flush(struct db *db)
{
    struct machine *m = machine_current();
    struct open_store *s = machine_store(m, db);
    uint64_t applied = s ? s->applied : 0;

    fiber_sleep(between(0, world.o.disk.sync_ns_max * 4));
    int r = __real_db_flush(db);
    s = machine_store(m, db);
    if (r == 0 && s)
        s->flushed = applied;
    count(COUNT_FLUSHES, 1);
    fiber_sleep(between(0, world.o.disk.sync_ns_max));
    return r;
}

void __wrap_db_batch_put(struct db_batch *b, struct bytes key, struct bytes value)
{
    check_batch_record(machine_current(), b, &key, 1, &value, 1, false);
    __real_db_batch_put(b, key, value);
}

void __wrap_db_batch_putv(struct db_batch *b, const struct bytes *key, size_t n_key,
                          const struct bytes *value, size_t n_value)
{
    check_batch_record(machine_current(), b, key, n_key, value, n_value, false);
    __real_db_batch_putv(b, key, n_key, value, n_value);
}

void __wrap_db_batch_delete(struct db_batch *b, struct bytes key)
{
    check_batch_record(machine_current(), b, &key, 1, NULL, 0, true);
    __real_db_batch_delete(b, key);
}

/* ---- watches and leases ---- */

struct watch_hub *__real_watch_hub_new(const struct watch_hub_options *options);

struct watch_hub *__wrap_watch_hub_new(const struct watch_hub_options *options)
{
    struct watch_hub_options o = *options;

    o.ring_bytes = world.o.ring_bytes;
    o.stream_bytes_max = world.o.stream_bytes;
    o.bytes_max = world.o.hub_bytes;
    o.slice_events_max = world.o.slice_events;
    o.response_bytes_max = world.o.response_bytes;
    return __real_watch_hub_new(&o);
}

void __real_lease_checkpoint_every(struct lease_table *t, uint64_t interval_ns);

void __wrap_lease_checkpoint_every(struct lease_table *t, uint64_t interval_ns)
{
    __real_lease_checkpoint_every(t, interval_ns > 0 ? world.o.checkpoint_ns : 0);
}

int __real_lease_renew(struct lease_table *t, struct lease_renew *r);

int __wrap_lease_renew(struct lease_table *t, struct lease_renew *r)
{
    int e = __real_lease_renew(t, r);

    if (e == 0)
        check_lease_renewed(machine_current(), r->id);
    return e;
}

int __real_lease_get(struct lease_table *t, int64_t id, struct lease_info *ret);

int __wrap_lease_get(struct lease_table *t, int64_t id, struct lease_info *ret)
{
    check_lease_looked(machine_current(), id);
    return __real_lease_get(t, id, ret);
}

/* ---- apply ---- */

int __real_apply_entry(struct apply *a, const struct raft_entry *entry);

int __wrap_apply_entry(struct apply *a, const struct raft_entry *entry)
{
    struct machine *m = machine_current();

    check_apply_entry(m, entry);
    int r = __real_apply_entry(a, entry);
    if (r == 0)
        check_entry_applied(m, entry);
    return r;
}

void __real_node_snapshot_installed(struct node *n, uint64_t index);

void __wrap_node_snapshot_installed(struct node *n, uint64_t index)
{
    struct machine *m = machine_current();

    check_applied_snapshot(m, index);
    m->installing = false;
    count(COUNT_INSTALLS, 1);
    __real_node_snapshot_installed(n, index);
}
