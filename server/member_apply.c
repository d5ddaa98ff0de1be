/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What configuration entries, attributes and versions do to the member table (see member.h).
 *
 * A configuration change is checked once more when it is applied, against the table as it is then:
 * two may have been proposed at once, and whoever proposed may have known less. The rules are
 * etcd's (ValidateConfigurationChange), to the letter, because members of both kinds must agree.
 *
 *   any       the id was removed                              member not found
 *   add       the id is there                                 member exists
 *             a URL belongs to somebody                       peer URL exists
 *             a learner more than there may be                too many learners
 *   promote   no such member; no learner                      not found; not a learner
 *   remove    no such member                                  not found
 *   update    no such member; a URL belongs to somebody else  not found; peer URL exists
 *
 * "Add" and "promote" are the same type of change, told apart by a mark in the context, which also
 * says whether the new member is a learner: raft goes by the type, the table by the context.
 * Changes that etcd's members would die of (no JSON, another id in it than in the entry) stop this
 * member.
 *
 * Thread: the apply turn.
 */
#include <stdio.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_json.h"
#include "server/member_private.h"
#include "server/version.h"
#include "storage/schema.h"

#define SWAP(a, b)                                                                                 \
    do {                                                                                           \
        __typeof__(a) swapped_ = (a);                                                              \
        (a) = (b);                                                                                 \
        (b) = swapped_;                                                                            \
    } while (0)

/* ---- the entry ---- */

struct blob *member_change_encode(uint64_t request_id, Raftpb__ConfChangeType type,
                                  uint64_t member_id, struct bytes context)
{
    Raftpb__ConfChange change = RAFTPB__CONF_CHANGE__INIT;
    struct blob *blob;

    change.has_id = request_id != 0;
    change.id = request_id;
    change.has_type = change.has_node_id = true;
    change.type = type;
    change.node_id = member_id;
    change.has_context = context.len > 0;
    change.context = (ProtobufCBinaryData){context.len, (uint8_t *)(uintptr_t)context.data};
    blob = blob_new(raftpb__conf_change__get_packed_size(&change));
    raftpb__conf_change__pack(&change, blob->data);
    return blob;
}

/* ---- the stored form ---- */

static void put_member(struct db_batch *batch, const struct member *member)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL, value = BUF_NULL;

    schema_member(&key, member->id);
    member_json(&value, member);
    db_batch_put(batch, buf_bytes(&key), buf_bytes(&value));
}

static void put_removed(struct db_batch *batch, uint64_t id)
{
    _cleanup_(buf_deinit) struct buf member = BUF_NULL, removed = BUF_NULL;

    schema_member(&member, id);
    schema_removed(&removed, id);
    db_batch_delete(batch, buf_bytes(&member));
    db_batch_put(batch, buf_bytes(&removed), BYTES_NULL);
}

static void put_meta(struct db_batch *batch, const char *name, struct bytes value)
{
    _cleanup_(buf_deinit) struct buf key = BUF_NULL;

    schema_meta(&key, name);
    db_batch_put(batch, buf_bytes(&key), value);
}

/* ---- the rules ---- */

/* Does one of the URLs belong to another member? */
static bool url_is_taken(const struct members *m, const struct member *wanted)
{
    for (size_t i = 0; i < m->list.len; i++) {
        const struct member *other = &m->list.items[i];
        for (size_t j = 0; other->id != wanted->id && j < other->n_peer_urls; j++)
            for (size_t k = 0; k < wanted->n_peer_urls; k++)
                if (strcmp(other->peer_urls[j], wanted->peer_urls[k]) == 0)
                    return true;
    }
    return false;
}

static size_t count_learners(const struct members *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->list.len; i++)
        n += m->list.items[i].is_learner;
    return n;
}

static enum outcome check_add(const struct members *m, Raftpb__ConfChangeType type,
                              const struct member *added, size_t learners_max)
{
    if (member_list_find(&m->list, added->id))
        return OUTCOME_MEMBER_EXISTS;
    if (url_is_taken(m, added))
        return OUTCOME_PEER_URL_EXISTS;
    if (added->is_learner && type == RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode &&
        count_learners(m) >= learners_max)
        return OUTCOME_TOO_MANY_LEARNERS;
    return OUTCOME_OK;
}

static enum outcome check_promote(const struct members *m, uint64_t id)
{
    const struct member *member = member_list_find(&m->list, id);

    if (!member)
        return OUTCOME_MEMBER_NOT_FOUND;
    return member->is_learner ? OUTCOME_OK : OUTCOME_MEMBER_NOT_LEARNER;
}

static enum outcome check_update(const struct members *m, const struct member *wanted)
{
    if (!member_list_find(&m->list, wanted->id))
        return OUTCOME_MEMBER_NOT_FOUND;
    return url_is_taken(m, wanted) ? OUTCOME_PEER_URL_EXISTS : OUTCOME_OK;
}

/* ---- the changes ---- */

/* The list is full: more than raft takes. That no cluster of etcd's comes to, and a client of ours
 * is refused before. */
static int too_many(void)
{
    log_error("more members than this version can have", LOG_U64("members-max", MEMBERS_MAX));
    return err_origin(-EOPNOTSUPP);
}

static int add(struct members *m, struct db_batch *batch, struct member *member)
{
    if (m->list.len == MEMBERS_MAX)
        return too_many();
    put_member(batch, member);
    log_info("added member", LOG_ID("added-peer-id", member->id),
             LOG_STRS("added-peer-peer-urls", (const char *const *)member->peer_urls,
                      member->n_peer_urls),
             LOG_BOOL("added-peer-is-learner", member->is_learner));
    members_insert(m, member_copy(member));
    return 0;
}

static void promote(struct members *m, struct db_batch *batch, uint64_t id)
{
    struct member *member = member_list_find(&m->list, id);

    member->is_learner = false;
    put_member(batch, member);
    log_info("promote member", LOG_ID("promoted-member-id", id));
}

/* The URLs alone: a learner stays one. */
static void update(struct members *m, struct db_batch *batch, const struct member *wanted)
{
    struct member *member = member_list_find(&m->list, wanted->id);
    struct member copy = member_copy(wanted);

    SWAP(member->peer_urls, copy.peer_urls);
    SWAP(member->n_peer_urls, copy.n_peer_urls);
    member_deinit(&copy);
    put_member(batch, member);
    log_info("updated member", LOG_ID("updated-remote-peer-id", member->id),
             LOG_STRS("updated-remote-peer-urls", (const char *const *)member->peer_urls,
                      member->n_peer_urls));
}

static int change_described(struct members *m, struct db_batch *batch,
                            const Raftpb__ConfChange *change, size_t learners_max,
                            struct member *described, bool is_promotion)
{
    uint64_t id = described->id;
    enum outcome outcome;

    if (change->type == RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode) {
        outcome = check_update(m, described);
        if (outcome == OUTCOME_OK)
            update(m, batch, described);
    } else if (is_promotion) {
        outcome = check_promote(m, id);
        if (outcome == OUTCOME_OK)
            promote(m, batch, id);
    } else {
        outcome = check_add(m, change->type, described, learners_max);
        if (outcome == OUTCOME_OK)
            return add(m, batch, described);
    }
    return (int)outcome;
}

/* Changes whose context describes a member. */
static int change_by_context(struct members *m, struct db_batch *batch,
                             const Raftpb__ConfChange *change, size_t learners_max)
{
    struct member described;
    bool is_promotion;
    int r;

    if (member_json_parse(bytes_of(change->context.data, change->context.len), &described,
                          &is_promotion) != 0) {
        log_error("configuration change without a member in it",
                  LOG_ID("node-id", change->node_id));
        return err_origin(-EBADMSG);
    }
    bool adds = change->type != RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode && !is_promotion;
    if (described.id == change->node_id && (described.id != 0 || !adds)) { /* 0 is no member */
        r = change_described(m, batch, change, learners_max, &described, is_promotion);
    } else {
        log_error("got different member ID",
                  LOG_ID("member-id-from-config-change-entry", change->node_id),
                  LOG_ID("member-id-from-message", described.id));
        r = err_origin(-EBADMSG);
    }
    member_deinit(&described);
    return r;
}

static int remove_member(struct members *m, struct db_batch *batch, uint64_t id)
{
    if (!member_list_find(&m->list, id))
        return OUTCOME_MEMBER_NOT_FOUND;
    put_removed(batch, id);
    members_remove(m, id);
    log_info("removed member", LOG_ID("removed-remote-peer-id", id));
    return 0;
}

static int change_members(struct members *m, struct db_batch *batch,
                          const Raftpb__ConfChange *change, size_t learners_max)
{
    if (members_has_removed(m, change->node_id))
        return OUTCOME_MEMBER_NOT_FOUND;
    switch (change->type) {
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode:
        return remove_member(m, batch, change->node_id);
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode:
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddLearnerNode:
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode:
        return change_by_context(m, batch, change, learners_max);
    default: break;
    }
    log_error("configuration change of a kind that this version can't apply",
              LOG_U64("type", (uint64_t)change->type));
    return err_origin(-EOPNOTSUPP);
}

/* etcd's words. */
static const char *refusal_text(enum outcome outcome)
{
    switch (outcome) {
    case OUTCOME_MEMBER_EXISTS: return "membership: ID exists";
    case OUTCOME_PEER_URL_EXISTS: return "membership: peerURL exists";
    case OUTCOME_MEMBER_NOT_LEARNER: return "membership: can only promote a learner member";
    case OUTCOME_TOO_MANY_LEARNERS: return "membership: too many learner members in cluster";
    default: return "membership: ID not found";
    }
}

int members_apply_conf_change(struct members *m, struct db_batch *batch,
                              const Raftpb__ConfChange *change, size_t learners_max,
                              struct raft_conf_single *ret)
{
    int r;

    pthread_mutex_lock(&m->lock);
    r = change_members(m, batch, change, learners_max);
    pthread_mutex_unlock(&m->lock);
    if (r < 0)
        return r;
    if (r > 0)
        log_error("Validation on configuration change failed", LOG_ID("node-id", change->node_id),
                  LOG_U64("type", (uint64_t)change->type),
                  LOG_STR("error", refusal_text((enum outcome)r)));
    *ret = (struct raft_conf_single){.type = (enum raft_conf_change_type)change->type,
                                     .node_id = r == 0 ? change->node_id : 0};
    return r;
}

/* ---- attributes and versions ---- */

static void set_attributes(struct member *member, const Membershippb__Attributes *a)
{
    struct member described = {.name = a ? a->name : NULL,
                               .client_urls = a ? a->client_urls : NULL,
                               .n_client_urls = a ? a->n_client_urls : 0};
    struct member copy = member_copy(&described);

    SWAP(member->name, copy.name);
    SWAP(member->client_urls, copy.client_urls);
    SWAP(member->n_client_urls, copy.n_client_urls);
    member_deinit(&copy);
}

int members_apply_attributes(struct members *m, struct db_batch *batch,
                             const Membershippb__ClusterMemberAttrSetRequest *request)
{
    struct member *member;

    pthread_mutex_lock(&m->lock);
    member = member_list_find(&m->list, request->member_id);
    if (member) {
        set_attributes(member, request->member_attributes);
        put_member(batch, member);
    }
    pthread_mutex_unlock(&m->lock);
    if (!member)
        log_warn("skipped attributes update of removed member",
                 LOG_ID("updated-peer-id", request->member_id));
    return 0;
}

int members_apply_version(struct members *m, struct db_batch *batch, const char *version)
{
    char before[16];
    int r;

    pthread_mutex_lock(&m->lock);
    memcpy(before, m->cluster_version, sizeof(before));
    r = members_set_version(m, version);
    pthread_mutex_unlock(&m->lock);
    if (r < 0)
        return err_trace(r);
    put_meta(batch, MEMBERS_VERSION_KEY, bytes_str(version));
    if (before[0])
        log_info("updated cluster version", LOG_STR("from", before), LOG_STR("to", version));
    else
        log_info("set initial cluster version", LOG_STR("cluster-version", version));
    return 0;
}

int members_apply_downgrade(struct members *m, struct db_batch *batch,
                            const Membershippb__DowngradeInfoSetRequest *request)
{
    _cleanup_(buf_deinit) struct buf record = BUF_NULL;
    struct downgrade downgrade = {.enabled = request->enabled};

    if (request->enabled) {
        struct version version;
        if (!version_parse(request->ver, &version))
            return err_origin(-EBADMSG);
        version_text(version, downgrade.target);
        if (strcmp(downgrade.target, request->ver) != 0)
            return err_origin(-EBADMSG);
    }
    member_json_downgrade(&record, &downgrade);
    put_meta(batch, MEMBERS_DOWNGRADE_KEY, buf_bytes(&record));
    pthread_mutex_lock(&m->lock);
    m->downgrade = downgrade;
    pthread_mutex_unlock(&m->lock);
    return 0;
}
