/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The applied state (see store.h).
 *
 * Invariants:
 *   (I1) readers and jobs hold their locks shared, an exchange holds both alone, that of the jobs
 *        first: nobody meets half of two states, and no reader waits for a job.
 *   (I2) a waiting exchange goes before new holders, or a busy member would never get its snapshot.
 *        So nobody may hold one twice.
 *   (I3) nothing of the old state lives on: its index, revision and tables are read from the new
 *        database.
 *
 * Thread: see store.h.
 */
#include "server/store.h"

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_json.h"
#include "storage/schema.h"

static void no_room(void *room)
{
    if (room)
        disk_room_give_up(room);
}

static int open_database(struct store *s)
{
    struct db_options options = {.path = s->options.path,
                                 .cache_bytes = s->options.cache_bytes,
                                 .prefix_len = schema_prefix_len,
                                 .no_room = no_room,
                                 .no_room_arg = s->options.room};
    char *error = NULL;
    int r = db_open(&s->db, &options, &error);

    if (r != 0)
        log_error(r == DB_E_CORRUPT ? "the database is corrupt or not ours"
                                    : "the database can't be opened",
                  LOG_STR("path", options.path), LOG_STR("error", error));
    free(error);
    return r == DB_E_CORRUPT ? 1 : r;
}

static int open_parts(struct store *s)
{
    int r = open_database(s);

    if (r == 0)
        r = mvcc_open(&s->mvcc, &(struct mvcc_options){s->db, s->options.compaction_batch_max});
    if (r == 0)
        r = lease_table_open(&s->leases, s->db, s->options.lease_ttl_min_s);
    if (r == 0)
        lease_checkpoint_every(s->leases, s->options.lease_checkpoint_ns);
    if (r == 0)
        r = members_open(&s->members, s->db);
    if (r == 0)
        r = alarms_open(&s->alarms, s->db);
    return r;
}

static void close_parts(struct store *s)
{
    s->alarms = alarms_close(s->alarms);
    s->members = members_close(s->members);
    s->leases = lease_table_close(s->leases);
    s->mvcc = mvcc_close(s->mvcc);
    s->db = db_close(s->db);
}

static void locks_init(struct store *s)
{
    pthread_rwlockattr_t attr;

    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP); /* (I2) */
    pthread_rwlock_init(&s->readers, &attr);
    pthread_rwlock_init(&s->jobs, &attr);
    pthread_rwlockattr_destroy(&attr);
    s->locks_made = true;
}

int store_open(struct store *s, const struct store_options *options)
{
    s->options = *options;
    locks_init(s);
    return open_parts(s);
}

void store_close(struct store *s)
{
    close_parts(s);
    if (!s->locks_made)
        return;
    pthread_rwlock_destroy(&s->readers);
    pthread_rwlock_destroy(&s->jobs);
    s->locks_made = false;
}

void store_hold(struct store *s)
{
    check(pthread_rwlock_rdlock(&s->readers) == 0);
}

void store_release(struct store *s)
{
    pthread_rwlock_unlock(&s->readers);
}

void store_hold_job(struct store *s)
{
    check(pthread_rwlock_rdlock(&s->jobs) == 0);
}

void store_release_job(struct store *s)
{
    pthread_rwlock_unlock(&s->jobs);
}

int store_applied(struct db *db, const struct db_view *view, uint64_t *ret_index,
                  uint64_t *ret_term)
{
    struct buf key = BUF_NULL;
    struct db_value value = {0};
    int r;

    *ret_index = *ret_term = 0;
    schema_meta(&key, "applied");
    r = db_get(db, view, buf_bytes(&key), &value);
    buf_deinit(&key);
    if (r == DB_E_NOT_FOUND)
        return 0;
    if (r == 0 && value.bytes.len == 16) {
        *ret_index = u64_be_get(value.bytes.data);
        *ret_term = u64_be_get(value.bytes.data + 8);
    } else if (r == 0) {
        log_error("the database's applied index is not readable");
        r = err_origin(-EBADMSG);
    }
    db_value_release(&value);
    return r;
}

static int add_member(struct raft_conf_state *conf, struct bytes key, struct bytes record)
{
    struct member member;
    struct raft_ids *ids;

    if (key.len != 9 || member_json_parse(record, &member, NULL) != 0) {
        log_error("member record is not readable", LOG_BYTES("record", record));
        return err_origin(-EBADMSG);
    }
    ids = member.is_learner ? &conf->learners : &conf->voters;
    ids->ids = mem_realloc(ids->ids, (ids->len + 1) * sizeof(*ids->ids));
    ids->ids[ids->len++] = u64_be_get(key.data + 1);
    member_deinit(&member);
    return 0;
}

int store_conf(struct db *db, const struct db_view *view, struct raft_conf_state *ret)
{
    const uint8_t first = 'c', end = 'c' + 1;
    struct db_iter_options options = {.view = view, .upper = bytes_of(&end, 1)};
    struct db_iter *it = db_iter_new(db, &options);
    int r = 0;

    *ret = (struct raft_conf_state){0};
    for (db_iter_seek(it, bytes_of(&first, 1)); r == 0 && db_iter_valid(it); db_iter_next(it))
        r = add_member(ret, db_iter_key(it), db_iter_value(it));
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    if (r < 0)
        raft_conf_state_clear(ret);
    return r;
}

int store_exchange(struct store *s, const char *next)
{
    int r;

    db_interrupt(s->db);
    check(pthread_rwlock_wrlock(&s->jobs) == 0); /* (I1) */
    check(pthread_rwlock_wrlock(&s->readers) == 0);
    close_parts(s);
    r = db_exchange(next, s->options.path);
    if (r == 0)
        r = open_parts(s); /* (I3) */
    pthread_rwlock_unlock(&s->readers);
    pthread_rwlock_unlock(&s->jobs);
    return r > 0 ? err_fold(r) : r < 0 ? err_trace(r) : 0;
}
