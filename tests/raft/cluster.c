/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated owner of a raft: does with a ready what raft.h asks for, in that order, and nothing
 * more.
 *
 * Checked on the way: raft_sanity() after every step, and that no two nodes apply different entries
 * at one index. Configuration entries carry readable text instead of protobuf.
 */
#include "tests/raft/cluster.h"

#include <stdio.h>

#include "base/check.h"
#include "base/mem.h"
#include "raft/conf.h"
#include "raft/describe.h"
#include "raft/log.h"
#include "raft/vec.h"

void cluster_init(struct cluster *c)
{
    *c = (struct cluster){0};
}

static void entries_push(struct entry_list *l, const struct raft_entry *e)
{
    struct raft_entry copy = *e;
    blob_ref(copy.data);
    *vec_push(l) = copy;
}

static void entries_cut(struct entry_list *l, size_t len)
{
    while (l->len > len)
        blob_unref(l->items[--l->len].data);
}

static void entries_deinit(struct entry_list *l)
{
    entries_cut(l, 0);
    free(l->items);
    *l = (struct entry_list){0};
}

static struct raft_message message_copy(const struct raft_message *m)
{
    struct raft_message copy = *m;
    copy.entries = NULL;
    if (m->n_entries > 0) {
        copy.entries = mem_alloc_raw(m->n_entries * sizeof(*copy.entries));
        for (size_t i = 0; i < m->n_entries; i++) {
            copy.entries[i] = m->entries[i];
            blob_ref(copy.entries[i].data);
        }
    }
    if (m->snapshot)
        copy.snapshot = raft_snapshot_copy(m->snapshot);
    if (m->context.len > 0) {
        uint8_t *context = mem_alloc_raw(m->context.len);
        memcpy(context, m->context.data, m->context.len);
        copy.context.data = context;
    }
    return copy;
}

static void message_deinit(struct raft_message *m)
{
    for (size_t i = 0; i < m->n_entries; i++)
        blob_unref(m->entries[i].data);
    free(m->entries);
    raft_snapshot_free(m->snapshot);
    if (m->context.len > 0)
        free((void *)(uintptr_t)m->context.data);
}

static void messages_deinit(struct message_list *l)
{
    for (size_t i = 0; i < l->len; i++)
        message_deinit(&l->items[i]);
    free(l->items);
    *l = (struct message_list){0};
}

static void write_deinit(struct disk_write *w)
{
    raft_snapshot_free(w->snapshot);
    entries_deinit(&w->entries);
    messages_deinit(&w->durable);
}

void node_stop(struct node *n)
{
    n->raft = raft_free(n->raft);
    for (size_t i = 0; i < n->writes.len; i++)
        write_deinit(&n->writes.items[i]);
    n->writes.len = 0;
    entries_cut(&n->to_apply, 0);
}

void cluster_deinit(struct cluster *c)
{
    for (size_t i = 0; i < c->n_nodes; i++) {
        struct node *n = &c->nodes[i];
        node_stop(n);
        free(n->writes.items);
        entries_deinit(&n->to_apply);
        entries_deinit(&n->entries);
        conf_deinit(&n->conf);
    }
    messages_deinit(&c->network);
    entries_deinit(&c->applied);
    *c = (struct cluster){0};
}

struct node *cluster_node(struct cluster *c, uint64_t id)
{
    return id > 0 && id <= c->n_nodes ? &c->nodes[id - 1] : NULL;
}

struct node *cluster_add(struct cluster *c, const struct raft_config *config, uint64_t index,
                         const struct raft_conf_state *conf)
{
    check(c->n_nodes < CLUSTER_NODES_MAX && config->id == c->n_nodes + 1);
    struct node *n = &c->nodes[c->n_nodes++];
    *n = (struct node){.id = config->id, .config = *config, .base_index = index, .applied = index};
    n->base_term = index > 0;
    n->hard_state = (struct raft_hard_state){.term = index > 0, .commit = index};
    conf_copy(&n->conf, conf);
    return n;
}

int node_start(struct node *n)
{
    check(!n->raft);
    struct raft_config config = n->config;
    config.hard_state = n->hard_state;
    if (config.hard_state.commit < n->applied)
        /* a commit index alone is not synced; what was applied was committed */
        config.hard_state.commit = n->applied;
    config.snapshot_index = n->base_index;
    config.snapshot_term = n->base_term;
    config.conf = &n->conf;
    config.entries = n->entries.items;
    config.n_entries = n->entries.len;
    config.applied = n->applied;
    return raft_new(&n->raft, &config);
}

int node_step(struct node *n, const struct raft_input *in)
{
    int r = raft_step(n->raft, in);
    raft_sanity(n->raft);
    return r;
}

static void disk_write_entry(struct node *n, const struct raft_entry *e)
{
    check(e->index > n->base_index && e->index <= n->base_index + n->entries.len + 1);
    entries_cut(&n->entries, (size_t)(e->index - n->base_index - 1));
    entries_push(&n->entries, e);
}

static void install(struct node *n, const struct raft_snapshot *s)
{
    check(s->index > n->applied);
    entries_cut(&n->entries, 0);
    entries_cut(&n->to_apply, 0);        /* the snapshot covers them */
    n->base_index = s->index;
    n->base_term = s->term;
    n->applied = s->index;
    conf_deinit(&n->conf);
    conf_copy(&n->conf, &s->conf);
}

static void sync_write(struct cluster *c, struct node *n, struct disk_write *w)
{
    if (w->snapshot)
        install(n, w->snapshot);
    for (size_t i = 0; i < w->entries.len; i++)
        disk_write_entry(n, &w->entries.items[i]);
    if (w->hard_state_changed)
        n->hard_state = w->hard_state;
    for (size_t i = 0; i < w->durable.len; i++)
        cluster_send(c, &w->durable.items[i]);
    if (w->snapshot)
        node_step(
            n, &(struct raft_input){.type = RAFT_PERSISTED_SNAPSHOT, .index = w->snapshot->index});
    node_step(n, &(struct raft_input){.type = RAFT_PERSISTED, .number = w->number});
}

bool cluster_sync(struct cluster *c, struct node *n, struct buf *b)
{
    if (n->writes.len == 0)
        return false;
    struct disk_write w = n->writes.items[0];
    n->writes.len--;
    memmove(n->writes.items, n->writes.items + 1, n->writes.len * sizeof(w));
    buf_printf(b, "node %llu has ready %llu on disk\n", (unsigned long long)n->id,
               (unsigned long long)w.number);
    sync_write(c, n, &w);
    write_deinit(&w);
    return true;
}

static bool parse_one(const char *word, struct raft_conf_change *ret,
                      struct raft_conf_single *changes, size_t max, bool *refused)
{
    if (strcmp(word, "explicit") == 0) {
        ret->transition = RAFT_CONF_JOINT_EXPLICIT;
    } else if (strcmp(word, "implicit") == 0) {
        ret->transition = RAFT_CONF_JOINT_IMPLICIT;
    } else if (strcmp(word, "refused") == 0) {
        *refused = true;
    } else {
        const char *kinds = "vrul";       /* in the order of enum raft_conf_change_type */
        const char *kind = strchr(kinds, word[0]);
        char *end;
        if (!word[0] || !kind || ret->n_changes == max)
            return false;
        changes[ret->n_changes].type = (enum raft_conf_change_type)(kind - kinds);
        changes[ret->n_changes++].node_id = strtoull(word + 1, &end, 10);
        return end > word + 1 && *end == 0;
    }
    return true;
}

bool parse_conf_change(struct bytes text, struct raft_conf_change *ret,
                       struct raft_conf_single *changes, size_t max)
{
    char copy[256];
    char *save = NULL;
    bool refused = false;
    if (text.len >= sizeof(copy))
        return false;
    memcpy(copy, text.data ? text.data : (const uint8_t *)"", text.len);
    copy[text.len] = 0;
    *ret = (struct raft_conf_change){.changes = changes};
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        if (!parse_one(word, ret, changes, max, &refused))
            return false;
    for (size_t i = 0; refused && i < ret->n_changes; i++)
        changes[i].node_id = 0;
    return true;
}

static void apply_conf(struct node *n, const struct raft_entry *e, struct buf *b)
{
    struct raft_conf_single changes[16];
    struct raft_conf_change change;
    check(parse_conf_change(blob_bytes(e->data), &change, changes, 16));
    int r = node_step(n, &(struct raft_input){.type = RAFT_CONF_APPLIED, .conf = &change});
    conf_deinit(&n->conf);
    conf_copy(&n->conf, raft_conf(n->raft));
    buf_append_str(b, r == 0 ? "  configuration " : "  can't apply; configuration ");
    describe_conf(b, &n->conf);
    buf_append_str(b, "\n");
}

static void apply_one(struct cluster *c, struct node *n, const struct raft_entry *e, struct buf *b)
{
    check(e->index == n->applied + 1);
    if (e->type != RAFT_ENTRY_NORMAL)
        apply_conf(n, e, b);
    n->applied = e->index;
    while (c->applied.len < e->index)
        *vec_push(&c->applied) = (struct raft_entry){0};
    struct raft_entry *seen = &c->applied.items[e->index - 1];
    if (seen->index == 0) {
        *seen = *e;
        blob_ref(seen->data);
    }
    check(seen->term == e->term && bytes_equal(blob_bytes(seen->data), blob_bytes(e->data)));
}

bool cluster_apply(struct cluster *c, struct node *n, size_t max, struct buf *b)
{
    size_t n_apply = n->to_apply.len < max ? n->to_apply.len : max;
    if (n_apply == 0)
        return false;
    for (size_t i = 0; i < n_apply; i++) {
        apply_one(c, n, &n->to_apply.items[i], b);
        blob_unref(n->to_apply.items[i].data);
    }
    n->to_apply.len -= n_apply;
    memmove(n->to_apply.items, n->to_apply.items + n_apply,
            n->to_apply.len * sizeof(struct raft_entry));
    node_step(n, &(struct raft_input){.type = RAFT_APPLIED, .index = n->applied});
    return true;
}

static struct disk_write take_write(const struct raft_ready *rd)
{
    struct disk_write w = {.number = rd->number,
                           .hard_state_changed = rd->hard_state_changed,
                           .hard_state = rd->hard_state};
    if (rd->snapshot)
        w.snapshot = raft_snapshot_copy(rd->snapshot);
    for (size_t i = 0; i < rd->n_entries; i++)
        entries_push(&w.entries, &rd->entries[i]);
    for (size_t i = 0; i < rd->n_messages_durable; i++)
        *vec_push(&w.durable) = message_copy(&rd->messages_durable[i]);
    return w;
}

void cluster_ready(struct cluster *c, struct node *n, struct buf *b)
{
    struct raft_ready rd;
    raft_ready(n->raft, &rd);
    buf_printf(b, "node %llu, ready %llu\n", (unsigned long long)n->id,
               (unsigned long long)rd.number);
    describe_ready(b, &rd, "  ");
    for (size_t i = 0; i < rd.n_messages; i++)
        cluster_send(c, &rd.messages[i]);
    for (size_t i = 0; i < rd.n_committed; i++)
        entries_push(&n->to_apply, &rd.committed[i]);
    struct disk_write w = take_write(&rd);
    bool empty = !rd.must_sync && !rd.hard_state_changed && rd.n_messages_durable == 0;
    raft_advance(n->raft);
    if (n->manual_disk && !empty) {
        *vec_push(&n->writes) = w;
    } else {
        sync_write(c, n, &w);
        write_deinit(&w);
    }
    raft_sanity(n->raft);
    if (!n->manual_apply)
        cluster_apply(c, n, SIZE_MAX, b);
}

void cluster_send(struct cluster *c, const struct raft_message *m)
{
    if (m->from <= CLUSTER_NODES_MAX && m->to <= CLUSTER_NODES_MAX && c->cut[m->from][m->to])
        return;
    *vec_push(&c->network) = message_copy(m);
}

static struct raft_message take_message(struct cluster *c, size_t i)
{
    check(i < c->network.len);
    struct raft_message m = c->network.items[i];
    c->network.len--;
    memmove(&c->network.items[i], &c->network.items[i + 1], (c->network.len - i) * sizeof(m));
    return m;
}

void cluster_drop(struct cluster *c, size_t i)
{
    struct raft_message m = take_message(c, i);
    message_deinit(&m);
}

int cluster_deliver(struct cluster *c, size_t i, struct buf *b)
{
    static const char *const outcomes[] = {"", " (dropped)", " (invalid)", " (not ready)",
                                           " (lost tail)"};
    struct raft_message m = take_message(c, i);
    struct node *n = cluster_node(c, m.to);
    buf_append_str(b, "deliver ");
    describe_message(b, &m);
    int r = 0;
    if (n && n->raft) {
        r = node_step(n, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m});
        buf_append_str(b, outcomes[r]);
    } else {
        buf_append_str(b, " (nobody there)");
    }
    buf_append_str(b, "\n");
    message_deinit(&m);
    return r;
}

void node_compact(struct node *n, uint64_t index)
{
    check(index <= n->applied);
    if (index <= n->base_index)
        return;
    size_t drop = (size_t)(index - n->base_index);
    n->base_term = n->entries.items[drop - 1].term;
    for (size_t i = 0; i < drop; i++)
        blob_unref(n->entries.items[i].data);
    n->entries.len -= drop;
    memmove(n->entries.items, n->entries.items + drop, n->entries.len * sizeof(struct raft_entry));
    n->base_index = index;
    node_step(n, &(struct raft_input){.type = RAFT_COMPACT, .index = index});
}
