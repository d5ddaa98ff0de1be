/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bootstrap (see bootstrap.h).
 *
 * A new cluster begins, as etcd's do, with one configuration entry per member at term 1, already
 * committed, that every founding member writes by itself. Ids follow etcd's rules, so the same
 * flags give the same ids.
 *
 * Whether a directory is new is decided by the log: it is made first and its metadata are synced
 * before anything else is kept.
 *
 * Thread: the composition root's.
 */
#include "server/bootstrap.h"

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/schema.h"

enum { INFLIGHT_MESSAGES_MAX = 512, MESSAGE_BYTES_MAX = 512 * 1024, APPLYING_BYTES_MAX = 64 << 20 };

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* This member as the flags describe it; client URLs are published later. */
static struct member founding_member(const struct config *config)
{
    const struct url_list *urls = &config->initial_advertise_peer_urls;
    struct member m = {.n_peer_urls = urls->len, .name = mem_strdup(config->name)};

    m.peer_urls = mem_alloc((urls->len + 1) * sizeof(*m.peer_urls));
    for (size_t i = 0; i < urls->len; i++)
        m.peer_urls[i] = mem_strdup(urls->items[i].text);
    qsort(m.peer_urls, m.n_peer_urls, sizeof(*m.peer_urls), compare_text);
    m.id = member_id_of(m.peer_urls, m.n_peer_urls, config->initial_cluster_token);
    return m;
}

static void founding_member_clear(struct member *m)
{
    for (size_t i = 0; i < m->n_peer_urls; i++)
        free(m->peer_urls[i]);
    free(m->peer_urls);
    free(m->name);
}

static struct blob *founding_entry(const struct member *member)
{
    Raftpb__ConfChange change = RAFTPB__CONF_CHANGE__INIT;
    struct buf context = BUF_NULL;
    struct blob *blob;

    member_json(&context, member);
    change.has_type = true;
    change.type = RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode;
    change.has_node_id = true;
    change.node_id = member->id;
    change.has_context = true;
    change.context = (ProtobufCBinaryData){context.len, context.data};
    blob = blob_new(raftpb__conf_change__get_packed_size(&change));
    raftpb__conf_change__pack(&change, blob->data);
    buf_deinit(&context);
    return blob;
}

static int read_applied(struct db *db, struct bootstrap *ret)
{
    struct buf key = BUF_NULL;
    struct db_value value = {0};
    int r;

    schema_meta(&key, "applied");
    r = db_get(db, NULL, buf_bytes(&key), &value);
    buf_deinit(&key);
    if (r == DB_E_NOT_FOUND)
        return 0;
    if (r < 0)
        return err_trace(r);
    if (value.bytes.len == 16) {
        ret->applied = u64_be_get(value.bytes.data);
        ret->applied_term = u64_be_get(value.bytes.data + 8);
    } else {
        log_error("the database's applied index is not readable");
        r = err_origin(-EBADMSG);
    }
    db_value_release(&value);
    return r;
}

/* Opens the log; *ret_outcome is the WAL_E_* outcome. */
static int open_log(struct bootstrap *ret, const struct bootstrap_options *o, bool create,
                    int *ret_outcome)
{
    struct wal_options options = {
        .dir = o->dir->wal,
        .create = create,
        .cluster_id = ret->cluster_id,
        .member_id = ret->member_id,
        .segment_bytes = o->wal_segment_bytes,
        .salt = o->wal_salt,
        .applied_index = ret->applied,
        .unsafe_no_sync = o->config->unsafe_no_fsync,
    };
    int r = wal_open(&ret->wal, &options, &ret->recovery);

    if (r < 0)
        return err_trace(r);
    *ret_outcome = r;
    return 0;
}

/* Also after a crash between the making of the log and its first entry. */
static bool log_is_empty(const struct bootstrap *b)
{
    return b->applied == 0 && b->recovery.n_entries == 0 && b->recovery.hard_state.term == 0;
}

static int write_founding_entry(struct bootstrap *b, const struct member *self)
{
    struct raft_hard_state hard_state = {.term = 1, .commit = 1};
    struct raft_entry entry = {
        .term = 1, .index = 1, .type = RAFT_ENTRY_CONF_CHANGE, .data = founding_entry(self)};
    int r = wal_append(b->wal, &hard_state, &entry, 1);

    if (r == 0)
        r = wal_sync(b->wal);
    if (r < 0) {
        blob_unref(entry.data);
        return err_trace(r);
    }
    free(b->recovery.entries);
    b->recovery.hard_state = hard_state;
    b->recovery.entries = mem_new(struct raft_entry);
    b->recovery.entries[0] = entry;
    b->recovery.n_entries = 1;
    log_info("starting a new cluster", LOG_ID("local-member-id", b->member_id),
             LOG_ID("cluster-id", b->cluster_id), LOG_STR("name", self->name));
    return 0;
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

static int found_cluster(struct bootstrap *b, const struct bootstrap_options *options, bool create)
{
    struct member self = founding_member(options->config);
    int outcome = 0, r = bootstrap_check_flags(options->config);

    if (r == 0 && create) {
        b->member_id = self.id;
        b->cluster_id = cluster_id_of(&self.id, 1);
        r = open_log(b, options, true, &outcome);
    }
    if (r == 0 && (outcome != 0 || self.id != b->member_id)) {
        log_error("the raft log was begun with other flags; remove it to start anew",
                  LOG_STR("dir", options->dir->wal));
        r = 1;
    }
    if (r == 0)
        r = write_founding_entry(b, &self);
    founding_member_clear(&self);
    return r;
}

static int refuse(const struct data_dir *dir, const struct bootstrap *b, int outcome)
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

/* The hard state's commit is synced lazily, so the database may be ahead of it; then what is
 * applied was committed. */
static void raise_commit(struct bootstrap *b)
{
    struct raft_hard_state *hs = &b->recovery.hard_state;

    if (hs->commit < b->applied)
        hs->commit = b->applied;
    if (hs->term < b->applied_term)
        hs->term = b->applied_term;
}

int bootstrap(struct bootstrap *ret, const struct bootstrap_options *options)
{
    int outcome = 0, r;

    *ret = (struct bootstrap){0};
    r = read_applied(options->db, ret);
    if (r == 0)
        r = open_log(ret, options, false, &outcome);
    if (r < 0)
        return err_trace(r);
    if (outcome == WAL_E_MISSING && ret->applied == 0) {
        wal_recovery_deinit(&ret->recovery);
        return found_cluster(ret, options, true);
    }
    if (outcome != 0)
        return refuse(options->dir, ret, outcome);
    ret->cluster_id = ret->recovery.cluster_id;
    ret->member_id = ret->recovery.member_id;
    if (log_is_empty(ret))
        return found_cluster(ret, options, false);
    raise_commit(ret);
    if (!ret->recovery.clean)
        log_info("the last stop was not orderly; the tail of the log was rewritten",
                 LOG_U64("repaired-bytes", ret->recovery.repaired_bytes));
    log_info("restarting local member", LOG_ID("cluster-id", ret->cluster_id),
             LOG_ID("local-member-id", ret->member_id),
             LOG_U64("commit-index", ret->recovery.hard_state.commit),
             LOG_U64("applied-index", ret->applied));
    return check_continuity(ret);
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
        .snapshot_index = b->applied,
        .snapshot_term = b->applied_term,
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
