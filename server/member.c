/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The member table (see member.h). Stored:
 *
 *     'c' id                 member in etcd's JSON (member_json.h)
 *     'x' id                 nothing: that id was removed, and never comes back
 *     'm' "cluster_version"  text, such as 3.7.0
 *     'm' "downgrade"        etcd's JSON; absent until one was asked for
 *
 * Invariants:
 *   (I1) the table holds what has been applied and nothing else; who may be in it is decided in
 *        member_apply.c, on every member alike.
 *   (I2) an id is in the list or among the removed, never in both.
 *
 * Thread: see member.h.
 */
#include "server/member_private.h"

#include <stdio.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/member_json.h"
#include "server/server.h"
#include "server/version.h"
#include "storage/schema.h"

/* ---- the table ---- */

void members_insert(struct members *m, struct member member)
{
    struct member_list *list = &m->list;
    size_t i = list->len;

    check(!member_list_find(list, member.id) && list->len < MEMBERS_MAX);
    member_list_add(list, member);
    for (; i > 0 && list->items[i - 1].id > member.id; i--)
        list->items[i] = list->items[i - 1];
    list->items[i] = member;
}

static void removed_add(struct members *m, uint64_t id)
{
    size_t i = m->n_removed++;

    m->removed = mem_realloc(m->removed, m->n_removed * sizeof(*m->removed));
    for (; i > 0 && m->removed[i - 1] > id; i--)
        m->removed[i] = m->removed[i - 1];
    m->removed[i] = id;
}

void members_remove(struct members *m, uint64_t id)
{
    struct member *member = member_list_find(&m->list, id);

    check(member != NULL);
    member_deinit(member);
    m->list.len--;
    memmove(member, member + 1, (size_t)(m->list.items + m->list.len - member) * sizeof(*member));
    removed_add(m, id); /* (I2) */
}

bool members_has_removed(const struct members *m, uint64_t id)
{
    size_t low = 0, high = m->n_removed;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (m->removed[mid] < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < m->n_removed && m->removed[low] == id;
}

int members_set_version(struct members *m, const char *text)
{
    struct version version, own;

    if (!version_parse(text, &version) || strlen(text) >= sizeof(m->cluster_version))
        return err_origin(-EBADMSG);
    check(version_parse(SERVER_CLUSTER_VERSION, &own));
    if (version_compare(own, version) < 0) {
        log_error("invalid downgrade; server version is lower than determined cluster version",
                  LOG_STR("current-server-version", SERVER_CLUSTER_VERSION),
                  LOG_STR("determined-cluster-version", text));
        return err_origin(-EPROTO);
    }
    snprintf(m->cluster_version, sizeof(m->cluster_version), "%s", text);
    return 0;
}

/* ---- opening ---- */

static int load_member(struct members *m, uint64_t id, struct bytes record)
{
    struct member member;

    if (m->list.len == MEMBERS_MAX || member_json_parse(record, &member, NULL) != 0)
        return err_origin(-EBADMSG);
    if (member.id != id) {
        member_deinit(&member);
        return err_origin(-EBADMSG);
    }
    members_insert(m, member);
    return 0;
}

static int load_removed(struct members *m, uint64_t id, struct bytes record)
{
    (void)record;
    if (member_list_find(&m->list, id))
        return err_origin(-EBADMSG);
    removed_add(m, id);
    return 0;
}

/* Records of one kind: a letter and an id. */
static int load_ids(struct members *m, struct db *db, char kind,
                    int (*load)(struct members *m, uint64_t id, struct bytes record))
{
    const uint8_t first = (uint8_t)kind, end = (uint8_t)(kind + 1);
    struct db_iter *it = db_iter_new(db, &(struct db_iter_options){.upper = bytes_of(&end, 1)});
    int r = 0;

    for (db_iter_seek(it, bytes_of(&first, 1)); r == 0 && db_iter_valid(it); db_iter_next(it)) {
        struct bytes key = db_iter_key(it);
        r = key.len == 9 ? load(m, u64_be_get(key.data + 1), db_iter_value(it))
                         : err_origin(-EBADMSG);
        if (r < 0)
            log_error("member record is not readable", LOG_BYTES("record", db_iter_value(it)));
    }
    if (r == 0)
        r = db_iter_error(it);
    db_iter_free(it);
    return r;
}

static int load_version(struct members *m, struct bytes record)
{
    _cleanup_(mem_freep) char *text = mem_strndup((const char *)record.data, record.len);

    return members_set_version(m, text);
}

static int load_downgrade(struct members *m, struct bytes record)
{
    return member_json_downgrade_parse(record, &m->downgrade) == 0 ? 0 : err_origin(-EBADMSG);
}

/* Absent: nothing to do. */
static int load_meta(struct members *m, struct db *db, const char *name,
                     int (*load)(struct members *m, struct bytes record))
{
    struct buf key = BUF_NULL;
    struct db_value value = {0};
    int r;

    schema_meta(&key, name);
    r = db_get(db, NULL, buf_bytes(&key), &value);
    if (r == 0)
        r = load(m, value.bytes);
    else if (r == DB_E_NOT_FOUND)
        r = 0;
    db_value_release(&value);
    buf_deinit(&key);
    return r;
}

static int load(struct members *m, struct db *db)
{
    int r = load_ids(m, db, 'c', load_member);

    if (r == 0)
        r = load_ids(m, db, 'x', load_removed);
    if (r == 0)
        r = load_meta(m, db, MEMBERS_VERSION_KEY, load_version);
    if (r == 0)
        r = load_meta(m, db, MEMBERS_DOWNGRADE_KEY, load_downgrade);
    return r;
}

int members_open(struct members **ret, struct db *db)
{
    struct members *m = mem_new(struct members);
    int r;

    pthread_mutex_init(&m->lock, NULL);
    r = load(m, db);
    if (r < 0) {
        members_close(m);
        return err_trace(r);
    }
    *ret = m;
    return 0;
}

struct members *members_close(struct members *m)
{
    if (!m)
        return NULL;
    member_list_deinit(&m->list);
    member_list_deinit(&m->stand_in);
    free(m->removed);
    pthread_mutex_destroy(&m->lock);
    free(m);
    return NULL;
}

/* ---- reading ---- */

void members_stand_in(struct members *m, uint64_t local_id, struct member_list *list)
{
    pthread_mutex_lock(&m->lock);
    member_list_deinit(&m->stand_in);
    m->local_id = local_id;
    m->stand_in = *list;
    pthread_mutex_unlock(&m->lock);
    *list = (struct member_list){0};
}

/* The list that counts now. */
static const struct member_list *current(const struct members *m)
{
    bool joins = m->stand_in.len > 0 && !member_list_find(&m->list, m->local_id) &&
                 !members_has_removed(m, m->local_id);

    return joins ? &m->stand_in : &m->list;
}

void members_visit(struct members *m, void (*visit)(void *arg, const struct member *member),
                   void *arg)
{
    pthread_mutex_lock(&m->lock);
    const struct member_list *list = current(m);
    for (size_t i = 0; i < list->len; i++)
        visit(arg, &list->items[i]);
    pthread_mutex_unlock(&m->lock);
}

static void copy_member(void *arg, const struct member *member)
{
    member_list_add(arg, member_copy(member));
}

void members_copy(struct members *m, struct member_list *ret)
{
    *ret = (struct member_list){0};
    members_visit(m, copy_member, ret);
}

bool members_find(struct members *m, uint64_t id, bool *ret_is_learner)
{
    pthread_mutex_lock(&m->lock);
    const struct member *member = member_list_find(current(m), id);
    bool found = member != NULL;
    if (found && ret_is_learner)
        *ret_is_learner = member->is_learner;
    pthread_mutex_unlock(&m->lock);
    return found;
}

bool members_is_removed(struct members *m, uint64_t id)
{
    pthread_mutex_lock(&m->lock);
    bool removed = members_has_removed(m, id);
    pthread_mutex_unlock(&m->lock);
    return removed;
}

void members_cluster_version(struct members *m, char ret[16])
{
    pthread_mutex_lock(&m->lock);
    memcpy(ret, m->cluster_version, sizeof(m->cluster_version));
    pthread_mutex_unlock(&m->lock);
}

void members_downgrade(struct members *m, struct downgrade *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->downgrade;
    pthread_mutex_unlock(&m->lock);
}

static void ids_push(struct raft_ids *ids, uint64_t id)
{
    ids->ids = mem_realloc(ids->ids, (ids->len + 1) * sizeof(*ids->ids));
    ids->ids[ids->len++] = id;
}

void members_conf(struct members *m, struct raft_conf_state *ret)
{
    *ret = (struct raft_conf_state){0};
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->list.len; i++) {
        const struct member *member = &m->list.items[i];
        ids_push(member->is_learner ? &ret->learners : &ret->voters, member->id);
    }
    pthread_mutex_unlock(&m->lock);
}

void raft_conf_state_clear(struct raft_conf_state *conf)
{
    free(conf->voters.ids);
    free(conf->learners.ids);
    free(conf->voters_outgoing.ids);
    free(conf->learners_next.ids);
    *conf = (struct raft_conf_state){0};
}
