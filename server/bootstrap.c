/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bootstrap (see bootstrap.h).
 *
 *   neither log nor state   by --initial-cluster-state: new, bootstrap_new.c; existing,
 *                           bootstrap_join.c
 *   a log                   restart: what it says is what we are, flags don't matter; but
 *                           --force-new-cluster changes it first: bootstrap_force.c
 *   state but no log        refused
 *
 * Whether a directory is new is decided by the log: it is made first and its metadata are synced
 * before anything else is kept. So a log without entries is that of a founder that crashed before
 * it wrote them, or of a member that joined and has not heard of the others yet.
 *
 * Thread: the composition root's.
 */
#include "server/bootstrap_private.h"

#include <stdarg.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/node.h"
#include "server/snapshot.h"

enum { INFLIGHT_MESSAGES_MAX = 512, MESSAGE_BYTES_MAX = 512 * 1024, APPLYING_BYTES_MAX = 64 << 20 };

/* ---- for all ways ---- */

int bootstrap_refuse(const char *format, ...)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    va_list args;

    va_start(args, format);
    buf_vprintf(&text, format, args);
    va_end(args);
    log_error("discovery failed", LOG_STR("error", buf_cstr(&text)));
    return 1;
}

int bootstrap_check_flags(const struct config *config)
{
    char *error = NULL;
    int r = config_check_bootstrap(config, &error);

    if (r != 0)
        log_error("failed to verify flags", LOG_STR("error", error));
    free(error);
    return r;
}

/* Entries that a member of a cluster keeps for peers that lag. */
static uint64_t kept_entries(const struct bootstrap_options *o)
{
    struct raft_conf_state conf;
    size_t n;

    members_conf(o->store->members, &conf);
    n = conf.voters.len + conf.learners.len;
    raft_conf_state_clear(&conf);
    return n > 1 && !o->config->force_new_cluster ? o->config->snapshot_catchup_entries : 0;
}

int bootstrap_open_log(struct bootstrap *b, const struct bootstrap_options *o, bool create,
                       int *ret_outcome)
{
    struct wal_options options = {
        .dir = o->dir->wal,
        .create = create,
        .cluster_id = b->cluster_id,
        .member_id = b->member_id,
        .segment_bytes = o->wal_segment_bytes,
        .salt = o->wal_salt,
        .applied_index = b->applied,
        .kept_entries = kept_entries(o),
        .kept_bytes_max = NODE_CATCHUP_BYTES_MAX,
        .keep_all = o->config->max_wals == 0,
        .unsafe_no_sync = o->config->unsafe_no_fsync,
        .single_threaded = o->wal_single_threaded,
    };
    int r = wal_open(&b->wal, &options, &b->recovery);

    if (r < 0)
        return err_trace(r);
    *ret_outcome = r;
    return 0;
}

int bootstrap_append(struct bootstrap *b, const struct raft_hard_state *hard_state,
                     const struct raft_entry *entries, size_t n)
{
    struct wal_recovery *rec = &b->recovery;
    int r = wal_append(b->wal, hard_state, entries, n);

    if (r == 0)
        r = wal_sync(b->wal);
    rec->hard_state = *hard_state;
    rec->entries = mem_realloc(rec->entries, (rec->n_entries + n + 1) * sizeof(*entries));
    for (size_t i = 0; i < n; i++)
        rec->entries[rec->n_entries++] = entries[i];
    return r < 0 ? err_trace(r) : 0;
}

/* ---- restart ---- */

/* Also after a crash between the making of the log and its first entry. */
static bool log_is_empty(const struct bootstrap *b)
{
    return b->applied == 0 && b->recovery.n_entries == 0 && b->recovery.hard_state.term == 0;
}

static int refuse_log(const struct data_dir *dir, const struct bootstrap *b, int outcome)
{
    if (outcome == WAL_E_CORRUPT)
        log_error("the raft log is corrupt; nothing was changed", LOG_STR("dir", dir->wal),
                  LOG_STR("error", b->recovery.error));
    else if (outcome == WAL_E_FOREIGN)
        log_error("the raft log belongs to another member or cluster", LOG_STR("dir", dir->wal),
                  LOG_STR("error", b->recovery.error));
    else
        log_error("the database is there but its raft log is missing", LOG_STR("db", dir->db),
                  LOG_STR("wal", dir->wal));
    return 1;
}

/* The log must reach what the database holds, and hold everything after it. */
static int check_continuity(const struct bootstrap *b)
{
    const struct wal_recovery *rec = &b->recovery;
    uint64_t last = rec->n_entries > 0 ? rec->entries[rec->n_entries - 1].index : b->applied;

    if (rec->hard_state.commit < b->applied || last < rec->hard_state.commit) {
        log_error("raft log and database don't fit together", LOG_U64("applied-index", b->applied),
                  LOG_U64("commit-index", rec->hard_state.commit), LOG_U64("last-log-index", last));
        return 1;
    }
    return 0;
}

/* A hard state is written behind the entries of its term and its commit is synced lazily, so both
 * may lag behind what else survived. What is applied was committed; in a term whose hard state was
 * lost nothing was promised, because the sync had not come back. A lost tail stays marked. */
static void raise_hard_state(struct bootstrap *b)
{
    struct wal_recovery *rec = &b->recovery;
    struct raft_hard_state *hs = &rec->hard_state;
    uint64_t last = rec->n_entries > 0 ? rec->entries[rec->n_entries - 1].term : 0;
    uint64_t term = last > b->applied_term ? last : b->applied_term;

    if (hs->commit < b->applied)
        hs->commit = b->applied;
    if (hs->term < term) {
        hs->term = term;
        hs->vote = 0;
    }
}

/* The log goes on from a snapshot that the database has not taken yet. */
static int take_snapshot(struct bootstrap *b, const struct bootstrap_options *o)
{
    const struct wal_recovery *rec = &b->recovery;
    int r;

    if (rec->snapshot_index <= b->applied)
        return 0;
    r = snapshots_recover(o->store, o->dir->snap, rec->snapshot_index, rec->snapshot_term);
    return r == 0 ? store_applied(o->store->db, NULL, &b->applied, &b->applied_term) : r;
}

static void log_restart(const struct bootstrap *b)
{
    const struct raft_hard_state *hs = &b->recovery.hard_state;

    log_info("restarting local member", LOG_ID("cluster-id", b->cluster_id),
             LOG_ID("local-member-id", b->member_id), LOG_U64("commit-index", hs->commit),
             LOG_U64("applied-index", b->applied));
    if (hs->lost_tail_index > 0)
        log_error("this member's log has lost entries that it acknowledged; it does not vote until "
                  "they are here again. Replace it if its disk or data directory is an old copy",
                  LOG_ID("local-member-id", b->member_id),
                  LOG_U64("acknowledged-index", hs->lost_tail_index));
}

static int restart(struct bootstrap *b, const struct bootstrap_options *o)
{
    int r = take_snapshot(b, o);

    if (r != 0)
        return r;
    raise_hard_state(b);
    if (!b->recovery.clean)
        log_info("the last stop was not orderly; the tail of the log was rewritten",
                 LOG_U64("repaired-bytes", b->recovery.repaired_bytes));
    r = check_continuity(b);
    if (r == 0 && o->config->force_new_cluster)
        return bootstrap_force(b, o);
    if (r == 0)
        log_restart(b);
    return r;
}

int bootstrap(struct bootstrap *ret, const struct bootstrap_options *o)
{
    bool exists = strcmp(o->config->initial_cluster_state, "existing") == 0;
    int outcome = 0, r;

    *ret = (struct bootstrap){0};
    r = store_applied(o->store->db, NULL, &ret->applied, &ret->applied_term);
    if (r == 0)
        r = bootstrap_open_log(ret, o, false, &outcome);
    if (r < 0)
        return err_trace(r);
    if (outcome == WAL_E_MISSING && ret->applied == 0) {
        wal_recovery_deinit(&ret->recovery);
        return exists ? bootstrap_join(ret, o) : bootstrap_new(ret, o, true);
    }
    if (outcome != 0)
        return refuse_log(o->dir, ret, outcome);
    ret->cluster_id = ret->recovery.cluster_id;
    ret->member_id = ret->recovery.member_id;
    if (log_is_empty(ret) && !exists)
        return bootstrap_new(ret, o, false);
    return restart(ret, o);
}

int bootstrap_raft(struct raft **ret, const struct bootstrap *b, const struct config *config,
                   struct members *members, uint64_t seed)
{
    struct raft_conf_state conf;
    struct raft_config rc = {
        .id = b->member_id,
        .seed = seed,
        .election_ticks = config->election_timeout_ms / config->heartbeat_interval_ms,
        .heartbeat_ticks = 1,
        .pre_vote = config->pre_vote,
        .check_quorum = true,
        .message_bytes_max = MESSAGE_BYTES_MAX,
        .inflight_messages_max = INFLIGHT_MESSAGES_MAX,
        .applying_bytes_max = APPLYING_BYTES_MAX,
        .hard_state = b->recovery.hard_state,
        .snapshot_index = b->recovery.base_index,
        .snapshot_term = b->recovery.base_term,
        .conf = &conf,
        .entries = b->recovery.entries,
        .n_entries = b->recovery.n_entries,
        .applied = b->applied,
    };
    int r;

    members_conf(members, &conf);
    r = raft_new(ret, &rc);
    raft_conf_state_clear(&conf);
    return r;
}
