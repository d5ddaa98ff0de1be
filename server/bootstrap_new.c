/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A new cluster (see bootstrap_private.h). It begins, as etcd's do, with one configuration entry
 * per member at term 1, ascending by id, already committed, that every founder writes by itself.
 * Ids follow etcd's rules, so the same flags give the same ids, and founders of both kinds agree.
 *
 * A founder that has lost its data must not begin anew: it would vote again in terms in which it
 * has voted. So it first asks the others whether they know it as one that has started; that nobody
 * answers is the rule when all start at once.
 *
 * Thread: the composition root's.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/bootstrap_private.h"
#include "server/member_json.h"

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = ((const struct member *)a)->id, y = ((const struct member *)b)->id;

    return (x > y) - (x < y);
}

static int check_ids(const struct member_list *members)
{
    for (size_t i = 0; i < members->len; i++) {
        const struct member *m = &members->items[i];
        if (m->id == 0)
            return bootstrap_refuse("cannot use 0 as member id");
        if (i > 0 && members->items[i - 1].id == m->id)
            return bootstrap_refuse("member exists with identical ID %" PRIx64, m->id);
    }
    return 0;
}

int bootstrap_founders(const struct config *config, struct member_list *ret)
{
    struct member_list members;
    char *error = NULL;
    int r = initial_cluster_parse(config->initial_cluster, &members, &error);

    if (r != 0) {
        bootstrap_refuse("%s", error);
        free(error);
        return r;
    }
    for (size_t i = 0; i < members.len; i++) {
        struct member *m = &members.items[i];
        m->id = member_id_of(m->peer_urls, m->n_peer_urls, config->initial_cluster_token);
    }
    if (members.len > 0)
        qsort(members.items, members.len, sizeof(*members.items), compare_ids);
    r = check_ids(&members);
    if (r == 0)
        *ret = members;
    else
        member_list_deinit(&members);
    return r;
}

static uint64_t cluster_id(const struct member_list *founders)
{
    uint64_t *ids = mem_alloc((founders->len + 1) * sizeof(*ids)), id;

    for (size_t i = 0; i < founders->len; i++)
        ids[i] = founders->items[i].id;
    id = cluster_id_of(ids, founders->len);
    free(ids);
    return id;
}

/* Does another member know that this one has been at work before? */
static int check_not_started(const struct bootstrap_options *o, const struct member_list *founders,
                             const struct member *self)
{
    struct bootstrap_cluster known;
    char *error = NULL;
    size_t n;
    char **urls = initial_cluster_urls(founders, self->name, &n);
    int r = 0;

    if (o->transport && n > 0 &&
        bootstrap_ask_members(o->transport, urls, n, BOOTSTRAP_ASK_NEW_MS, NULL, NULL, &known,
                              &error)) {
        if (bootstrap_is_started(&known.members, self->id))
            r = bootstrap_refuse("member %" PRIx64 " has already been bootstrapped", self->id);
        member_list_deinit(&known.members);
    }
    free(error);
    free(urls);
    return r;
}

static int make_log(struct bootstrap *b, const struct bootstrap_options *o,
                    const struct member_list *founders, const struct member *self)
{
    int outcome = 0, r = check_not_started(o, founders, self);

    if (r != 0)
        return r;
    b->member_id = self->id;
    b->cluster_id = cluster_id(founders);
    r = bootstrap_open_log(b, o, true, &outcome);
    if (r == 0 && outcome != 0)
        r = bootstrap_refuse("the raft log in %s can't be begun: %s", o->dir->wal,
                             b->recovery.error ? b->recovery.error : "it is another member's");
    return r;
}

static int write_founding_entries(struct bootstrap *b, const struct member_list *founders)
{
    struct raft_hard_state hard_state = {.term = 1, .commit = founders->len};
    struct raft_entry *entries = mem_alloc((founders->len + 1) * sizeof(*entries));
    int r;

    for (size_t i = 0; i < founders->len; i++) {
        const struct member *m = &founders->items[i];
        _cleanup_(buf_deinit) struct buf context = BUF_NULL;
        member_json(&context, m);
        entries[i] = (struct raft_entry){
            .term = 1,
            .index = i + 1,
            .type = RAFT_ENTRY_CONF_CHANGE,
            .data = member_change_encode(0, RAFTPB__CONF_CHANGE_TYPE__ConfChangeAddNode, m->id,
                                         buf_bytes(&context))};
    }
    r = bootstrap_append(b, &hard_state, entries, founders->len);
    free(entries);
    return r;
}

static int found(struct bootstrap *b, const struct bootstrap_options *o, bool create,
                 const struct member_list *founders)
{
    const struct member *self = initial_cluster_find(founders, o->config->name);
    int r = 0;

    check(self); /* bootstrap_check_flags() */
    if (create)
        r = make_log(b, o, founders, self);
    if (r == 0 && (self->id != b->member_id || cluster_id(founders) != b->cluster_id))
        r = bootstrap_refuse(
            "the raft log in %s was begun with other flags; remove it to start anew", o->dir->wal);
    if (r == 0)
        r = write_founding_entries(b, founders);
    if (r == 0)
        log_info("starting local member", LOG_ID("local-member-id", b->member_id),
                 LOG_ID("cluster-id", b->cluster_id), LOG_STR("name", self->name));
    return r;
}

int bootstrap_new(struct bootstrap *b, const struct bootstrap_options *o, bool create)
{
    struct member_list founders;
    int r = bootstrap_check_flags(o->config);

    if (r == 0)
        r = bootstrap_founders(o->config, &founders);
    if (r != 0)
        return r;
    r = found(b, o, create, &founders);
    member_list_deinit(&founders);
    return r;
}
