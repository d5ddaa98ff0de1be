/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --force-new-cluster: this member goes on alone with what it has, when the others are lost for
 * good (see bootstrap_private.h). As etcd does it:
 *
 *   - entries that are not known to be committed are dropped;
 *   - configuration entries follow, committed already, at the log's term: this member is added if
 *     it is none, and every other one is removed, ascending by id;
 *   - the mark of a lost tail goes: what was lost is lost for good now, and nobody else would ever
 *     bring it, so a marked member could not elect itself.
 *
 * A learner that is left would remove the last voter; it is promoted first. (etcd's panics there.)
 * The cluster keeps its id; those who were removed stay so.
 *
 * Thread: the composition root's.
 */
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "server/bootstrap_private.h"
#include "server/member_json.h"

/* Who is in the configuration when everything committed is applied. */
struct ids {
    uint64_t *items;
    size_t len;
    bool self_is_learner;
};

static size_t ids_find(const struct ids *ids, uint64_t id)
{
    size_t i = 0;

    while (i < ids->len && ids->items[i] < id)
        i++;
    return i;
}

static bool ids_has(const struct ids *ids, uint64_t id)
{
    size_t i = ids_find(ids, id);

    return i < ids->len && ids->items[i] == id;
}

static void ids_add(struct ids *ids, uint64_t id)
{
    size_t i = ids_find(ids, id);

    if (ids_has(ids, id))
        return;
    ids->items = mem_realloc(ids->items, (ids->len + 1) * sizeof(*ids->items));
    memmove(ids->items + i + 1, ids->items + i, (ids->len - i) * sizeof(*ids->items));
    ids->items[i] = id;
    ids->len++;
}

static void ids_remove(struct ids *ids, uint64_t id)
{
    size_t i = ids_find(ids, id);

    if (!ids_has(ids, id))
        return;
    ids->len--;
    memmove(ids->items + i, ids->items + i + 1, (ids->len - i) * sizeof(*ids->items));
}

static int take_entry(struct ids *ids, uint64_t self, const struct raft_entry *entry)
{
    struct bytes data = blob_bytes(entry->data);
    Raftpb__ConfChange *change;

    if (entry->type == RAFT_ENTRY_NORMAL)
        return 0;
    change = raftpb__conf_change__unpack(NULL, data.len, data.data);
    if (!change || entry->type != RAFT_ENTRY_CONF_CHANGE) {
        raftpb__conf_change__free_unpacked(change, NULL);
        return bootstrap_refuse("the configuration entry at index %lu is not readable",
                                (unsigned long)entry->index);
    }
    if (change->type == RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode)
        ids_remove(ids, change->node_id);
    else if (change->type != RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode)
        ids_add(ids, change->node_id);
    if (change->node_id == self && change->type != RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode)
        ids->self_is_learner = change->type == RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode;
    raftpb__conf_change__free_unpacked(change, NULL);
    return 0;
}

static int collect_ids(const struct bootstrap *b, struct members *members, struct ids *ids)
{
    struct raft_conf_state conf;
    int r = 0;

    members_conf(members, &conf);
    for (size_t i = 0; i < conf.voters.len; i++)
        ids_add(ids, conf.voters.ids[i]);
    for (size_t i = 0; i < conf.learners.len; i++) {
        ids_add(ids, conf.learners.ids[i]);
        ids->self_is_learner = ids->self_is_learner || conf.learners.ids[i] == b->member_id;
    }
    raft_conf_state_clear(&conf);
    for (size_t i = 0; i < b->recovery.n_entries && r == 0; i++)
        r = take_entry(ids, b->member_id, &b->recovery.entries[i]);
    return r;
}

/* ---- the entries ---- */

struct script {
    struct raft_entry *entries;
    size_t len;
    struct raft_hard_state hard_state; /* its commit is the last entry's index */
};

static void script_add(struct script *s, Raftpb__ConfChangeType type, uint64_t id,
                       struct bytes context)
{
    s->entries[s->len++] = (struct raft_entry){.term = s->hard_state.term,
                                               .index = ++s->hard_state.commit,
                                               .type = RAFT_ENTRY_CONF_CHANGE,
                                               .data = member_change_encode(0, type, id, context)};
}

static void script_write(struct script *s, const struct ids *ids, uint64_t self)
{
    _cleanup_(buf_deinit) struct buf context = BUF_NULL;
    char *urls[] = {(char *)(uintptr_t) "http://localhost:2380"};
    struct member added = {.id = self, .peer_urls = urls, .n_peer_urls = 1};

    s->entries = mem_alloc((ids->len + 1) * sizeof(*s->entries));
    if (!ids_has(ids, self))
        member_json(&context, &added);
    else if (ids->self_is_learner)
        member_json_promotion(&context, self);
    if (context.len > 0)
        script_add(s, RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode, self, buf_bytes(&context));
    for (size_t i = 0; i < ids->len; i++) {
        if (ids->items[i] != self)
            script_add(s, RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode, ids->items[i],
                       BYTES_NULL);
    }
}

static void drop_uncommitted(struct wal_recovery *rec)
{
    size_t n = rec->n_entries;

    while (rec->n_entries > 0 && rec->entries[rec->n_entries - 1].index > rec->hard_state.commit)
        blob_unref(rec->entries[--rec->n_entries].data);
    if (n > rec->n_entries)
        log_info("discarding uncommitted WAL entries",
                 LOG_U64("commit-index-from-wal", rec->hard_state.commit),
                 LOG_U64("number-of-discarded-entries", n - rec->n_entries));
}

int bootstrap_force(struct bootstrap *b, const struct bootstrap_options *o)
{
    struct script script = {.hard_state = b->recovery.hard_state};
    struct ids ids = {0};
    int r;

    script.hard_state.lost_tail_index = script.hard_state.lost_tail_term = 0;
    drop_uncommitted(&b->recovery);
    r = collect_ids(b, o->store->members, &ids);
    if (r == 0) {
        script_write(&script, &ids, b->member_id);
        r = bootstrap_append(b, &script.hard_state, script.entries, script.len);
    }
    if (r == 0)
        log_info("forcing restart member", LOG_ID("cluster-id", b->cluster_id),
                 LOG_ID("local-member-id", b->member_id),
                 LOG_U64("commit-index", b->recovery.hard_state.commit));
    free(script.entries);
    free(ids.items);
    return r;
}
