/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configurations (see cluster.h).
 *
 * Thread: the only one.
 */
#include "tests/sim/cluster.h"

#include <stdio.h>
#include <stdlib.h>

#include "raft.pb-c.h"

#include "base/check.h"
#include "base/mem.h"

enum { LEARNERS_MAX = 1, IDS_MAX = 256 };

static struct {
    struct conf *items; /* the first one is empty */
    size_t len, cap;
    struct conf_member ids[IDS_MAX]; /* all that there ever were */
    size_t n_ids;
    struct {
        uint64_t id, index;
    } removed[IDS_MAX];
    size_t n_removed;
} all;

static struct conf *add(const struct conf *from)
{
    struct conf copy = from ? *from : (struct conf){0};

    if (all.len == all.cap) {
        all.cap = all.cap ? 2 * all.cap : 64;
        all.items = mem_realloc(all.items, all.cap * sizeof(*all.items));
    }
    all.items[all.len] = copy;
    return &all.items[all.len++];
}

void cluster_init(void)
{
    memset(&all, 0, sizeof(all));
    (void)add(NULL);
}

void cluster_deinit(void)
{
    free(all.items);
    memset(&all, 0, sizeof(all));
}

const struct conf *cluster_at(uint64_t index)
{
    size_t i = all.len - 1;

    while (all.items[i].index > index)
        i--;
    return &all.items[i];
}

const struct conf *cluster_now(void)
{
    return &all.items[all.len - 1];
}

const struct conf *cluster_after(const struct conf *c)
{
    return c + 1 < all.items + all.len ? c + 1 : NULL;
}

const struct conf_member *cluster_find(const struct conf *c, uint64_t id)
{
    for (unsigned i = 0; i < c->len; i++)
        if (c->members[i].id == id)
            return &c->members[i];
    return NULL;
}

const struct conf_member *cluster_of_machine(const struct conf *c, unsigned number)
{
    for (unsigned i = 0; i < c->len; i++)
        if (c->members[i].number == number)
            return &c->members[i];
    return NULL;
}

unsigned cluster_voters(const struct conf *c)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->len; i++)
        n += !c->members[i].learner;
    return n;
}

uint64_t cluster_removed_at(uint64_t id)
{
    for (size_t i = 0; i < all.n_removed; i++)
        if (all.removed[i].id == id)
            return all.removed[i].index;
    return UINT64_MAX;
}

bool cluster_is_removed(uint64_t id)
{
    return cluster_removed_at(id) != UINT64_MAX;
}

unsigned cluster_number(uint64_t id)
{
    for (size_t i = 0; i < all.n_ids; i++)
        if (all.ids[i].id == id)
            return all.ids[i].number;
    return 0;
}

char *cluster_text(const struct conf *c)
{
    struct buf text = BUF_NULL;

    for (unsigned i = 0; i < c->len; i++)
        buf_printf(&text, "%sm%u=http://10.0.0.%u:2380", i > 0 ? "," : "", c->members[i].number,
                   c->members[i].number);
    char *copy = mem_strdup(buf_cstr(&text));
    buf_deinit(&text);
    return copy;
}

/* ---- one change ---- */

struct change {
    Raftpb__ConfChangeType type;
    uint64_t id;
    unsigned number;
    bool learner;
    bool promotes;
};

static struct change parse(const struct raft_entry *entry)
{
    struct bytes data = blob_bytes(entry->data);
    Raftpb__ConfChange *m = raftpb__conf_change__unpack(NULL, data.len, data.data);
    check(m);
    struct change c = {.type = m->type, .id = m->node_id};
    char *text = mem_strndup((const char *)m->context.data, m->context.len);
    const char *url = text ? strstr(text, "http://10.0.0.") : NULL;

    if (url)
        check(sscanf(url, "http://10.0.0.%u:", &c.number) == 1);
    c.learner = text && strstr(text, "\"isLearner\":true");
    c.promotes = text && strstr(text, "\"isPromote\":true");
    free(text);
    raftpb__conf_change__free_unpacked(m, NULL);
    return c;
}

static unsigned learners(const struct conf *c)
{
    return c->len - cluster_voters(c);
}

/* etcd's ValidateConfigurationChange. */
static bool is_allowed(const struct conf *c, const struct change *change)
{
    const struct conf_member *m = cluster_find(c, change->id);

    if (cluster_is_removed(change->id))
        return false;
    switch (change->type) {
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode:
    case RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode: return m != NULL;
    default: break;
    }
    if (change->promotes)
        return m && m->learner;
    if (m || cluster_of_machine(c, change->number))
        return false;
    return !(change->learner && learners(c) >= LEARNERS_MAX);
}

static void insert(struct conf *c, struct conf_member m)
{
    unsigned i = c->len++;

    check(c->len <= CONF_MEMBERS_MAX && all.n_ids < IDS_MAX);
    for (; i > 0 && c->members[i - 1].id > m.id; i--)
        c->members[i] = c->members[i - 1];
    c->members[i] = m;
    all.ids[all.n_ids++] = m;
}

static void drop(struct conf *c, uint64_t id)
{
    unsigned n = 0;

    for (unsigned i = 0; i < c->len; i++)
        if (c->members[i].id != id)
            c->members[n++] = c->members[i];
    c->len = n;
    check(all.n_removed < IDS_MAX);
    all.removed[all.n_removed].id = id;
    all.removed[all.n_removed++].index = c->index;
}

void cluster_apply(const struct raft_entry *entry)
{
    struct change change = parse(entry);

    if (!is_allowed(cluster_now(), &change))
        return;
    struct conf *c = add(&all.items[all.len - 1]);
    c->index = entry->index;
    trace3("configuration %lu: change of type %lu of machine %lu", entry->index, change.type,
           change.number);
    if (change.type == RAFTPB__CONF_CHANGE_TYPE__ConfChangeRemoveNode)
        drop(c, change.id);
    else if (change.promotes)
        ((struct conf_member *)(uintptr_t)cluster_find(c, change.id))->learner = false;
    else if (change.type != RAFTPB__CONF_CHANGE_TYPE__ConfChangeUpdateNode)
        insert(c, (struct conf_member){change.id, change.number, change.learner});
}
