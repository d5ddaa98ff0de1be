/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Script commands. Arguments are words; "name=value" words are options. Every command prints what
 * it did, so that a transcript can be read as a story; tests/raft/README.md lists them.
 */
#include "tests/raft/command.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "raft/conf.h"
#include "raft/describe.h"
#include "raft/vec.h"

enum { WORDS_MAX = 64, QUIET_ROUNDS_MAX = 200 };

struct words {
    char line[1024];
    char *w[WORDS_MAX];
    size_t n;
};

static bool split(struct words *ws, const char *line)
{
    char *save = NULL;
    if (strlen(line) >= sizeof(ws->line))
        return false;
    strcpy(ws->line, line);
    ws->n = 0;
    for (char *w = strtok_r(ws->line, " ", &save); w && ws->n < WORDS_MAX;
         w = strtok_r(NULL, " ", &save))
        ws->w[ws->n++] = w;
    return ws->n > 0;
}

static const char *option(const struct words *ws, const char *name)
{
    size_t len = strlen(name);
    for (size_t i = 1; i < ws->n; i++)
        if (strncmp(ws->w[i], name, len) == 0 && ws->w[i][len] == '=')
            return ws->w[i] + len + 1;
    return NULL;
}

static uint64_t option_u64(const struct words *ws, const char *name, uint64_t otherwise)
{
    const char *v = option(ws, name);
    return v ? strtoull(v, NULL, 10) : otherwise;
}

static bool flag(const struct words *ws, const char *name)
{
    for (size_t i = 1; i < ws->n; i++)
        if (strcmp(ws->w[i], name) == 0)
            return true;
    return false;
}

static uint64_t number(const struct words *ws, size_t i)
{
    return i < ws->n ? strtoull(ws->w[i], NULL, 10) : 0;
}

/* The node that word i names, if it runs. */
static struct node *running(struct cluster *c, const struct words *ws, size_t i, struct buf *out)
{
    struct node *n = cluster_node(c, number(ws, i));
    if (n && n->raft)
        return n;
    buf_append_str(out, "no such node runs\n");
    return NULL;
}

static void print_outcome(struct buf *out, int r)
{
    static const char *const outcomes[] = {"ok", "dropped", "invalid", "not ready", "lost tail"};
    buf_printf(out, "%s\n", outcomes[r]);
}

static struct raft_config config_from(const struct words *ws, uint64_t id)
{
    return (struct raft_config){
        .id = id, .seed = id, .election_ticks = (uint32_t)option_u64(ws, "election", 3),
        .heartbeat_ticks = (uint32_t)option_u64(ws, "heartbeat", 1),
        .pre_vote = flag(ws, "pre-vote"), .check_quorum = flag(ws, "check-quorum"),
        .message_bytes_max = option_u64(ws, "message-bytes", UINT64_MAX),
        .inflight_messages_max = (uint32_t)option_u64(ws, "inflight", 256),
        .inflight_bytes_max = option_u64(ws, "inflight-bytes", 0),
        .uncommitted_bytes_max = option_u64(ws, "uncommitted-bytes", 0),
        .applying_bytes_max = option_u64(ws, "applying-bytes", 0),
    };
}

static void parse_ids(struct raft_ids *ids, const char *list)
{
    while (list && *list) {
        raft_ids_add(ids, strtoull(list, NULL, 10));
        list = strchr(list, ',');
        list = list ? list + 1 : NULL;
    }
}

/*
 * nodes N [voters=1,2 | empty] [learners=3] [index=I] [settings]: adds N nodes that all know this
 * configuration.
 */
static void do_nodes(struct cluster *c, const struct words *ws, struct buf *out)
{
    uint64_t n = number(ws, 1);
    struct raft_conf_state conf = {0};
    parse_ids(&conf.learners, option(ws, "learners"));
    parse_ids(&conf.voters, option(ws, "voters"));
    for (uint64_t id = 1; !option(ws, "voters") && !flag(ws, "empty") && id <= c->n_nodes + n; id++)
        if (!raft_ids_contains(&conf.learners, id))
            raft_ids_add(&conf.voters, id);
    for (uint64_t i = 0; i < n; i++) {
        struct raft_config config = config_from(ws, c->n_nodes + 1);
        struct node *node = cluster_add(c, &config, option_u64(ws, "index", 0), &conf);
        node->manual_disk = flag(ws, "manual-disk");
        node->manual_apply = flag(ws, "manual-apply");
        if (node_start(node) != 0)
            buf_printf(out, "node %llu does not start\n", (unsigned long long)node->id);
    }
    conf_deinit(&conf);
}

static void do_simple_step(struct node *n, enum raft_input_type type, struct buf *out)
{
    print_outcome(out, node_step(n, &(struct raft_input){.type = type}));
}

static void do_campaign(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        do_simple_step(n, RAFT_CAMPAIGN, out);
}

static void do_forget_leader(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        do_simple_step(n, RAFT_FORGET_LEADER, out);
}

/* tick NODE [TIMES | election]: election = until this node's drawn timeout is over. */
static void do_tick(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (!n)
        return;
    struct raft_status s;
    raft_status(n->raft, &s);
    uint64_t times = flag(ws, "election") ? s.election_timeout_ticks
                     : ws->n > 2          ? number(ws, 2)
                                          : 1;
    for (uint64_t i = 0; i < times; i++)
        node_step(n, &(struct raft_input){.type = RAFT_TICK});
}

/*
 * propose NODE DATA...: one entry per word, all in one proposal. "bytes=N" is an entry of N bytes,
 * "empty" one without.
 */
static void do_propose(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    struct raft_entry entries[WORDS_MAX] = {0};
    size_t len = 0;
    if (!n || ws->n < 3)
        return;
    for (size_t i = 2; i < ws->n; i++, len++) {
        if (strncmp(ws->w[i], "bytes=", 6) == 0) {
            entries[len].data = blob_new((size_t)strtoull(ws->w[i] + 6, NULL, 10));
            memset(entries[len].data->data, 'x', entries[len].data->len);
        } else if (strcmp(ws->w[i], "empty") != 0) {
            entries[len].data = blob_copy(bytes_str(ws->w[i]));
        }
    }
    print_outcome(out,
                  node_step(n, &(struct raft_input){
                                   .type = RAFT_PROPOSE, .entries = entries, .n_entries = len}));
    for (size_t i = 0; i < len; i++)
        blob_unref(entries[i].data);
}

/* propose-conf NODE CHANGES... | leave */
static void do_propose_conf(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    struct buf text = BUF_NULL;
    bool leave = flag(ws, "leave");
    bool v2 = leave || ws->n > 3;
    for (size_t i = 2; i < ws->n && !leave; i++)
        buf_printf(&text, "%s%s", i == 2 ? "" : " ", ws->w[i]);
    struct raft_entry e = {.type = v2 ? RAFT_ENTRY_CONF_CHANGE_V2 : RAFT_ENTRY_CONF_CHANGE};
    if (text.len > 0)
        e.data = blob_copy(buf_bytes(&text));
    if (n)
        print_outcome(out, node_step(n, &(struct raft_input){
            .type = RAFT_PROPOSE, .entries = &e, .n_entries = 1, .leave_joint = leave}));
    blob_unref(e.data);
    buf_deinit(&text);
}

static void do_ready(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (!n)
        return;
    if (raft_has_ready(n->raft))
        cluster_ready(c, n, out);
    else
        buf_append_str(out, "nothing ready\n");
}

static void do_sync(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n && !cluster_sync(c, n, out))
        buf_append_str(out, "nothing to sync\n");
}

/* apply NODE [MAX] */
static void do_apply(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n && !cluster_apply(c, n, ws->n > 2 ? (size_t)number(ws, 2) : SIZE_MAX, out))
        buf_append_str(out, "nothing to apply\n");
    else if (n)
        buf_printf(out, "node %llu has applied %llu\n", (unsigned long long)n->id,
                   (unsigned long long)n->applied);
}

static bool message_selected(const struct raft_message *m, const struct words *ws)
{
    const char *type = option(ws, "type");
    return (!option(ws, "from") || option_u64(ws, "from", 0) == m->from)
        && (!option(ws, "to") || option_u64(ws, "to", 0) == m->to)
        && (!type || strcmp(type, describe_message_type(m->type)) == 0);
}

/*
 * deliver [NODE] [from=F] [to=T] [type=WORD] [first]: what is on the network now, in order of
 * sending.
 */
static void do_deliver(struct cluster *c, const struct words *ws, struct buf *out)
{
    uint64_t to = ws->n > 1 ? number(ws, 1) : 0;
    size_t n = c->network.len;
    for (size_t i = 0; n > 0; n--) {
        if ((to != 0 && c->network.items[i].to != to) ||
            !message_selected(&c->network.items[i], ws)) {
            i++;
            continue;
        }
        cluster_deliver(c, i, out);
        if (flag(ws, "first"))
            return;
    }
}

/* drop [from=F] [to=T] [type=WORD] */
static void do_drop(struct cluster *c, const struct words *ws, struct buf *out)
{
    for (size_t i = 0; i < c->network.len;) {
        if (!message_selected(&c->network.items[i], ws)) {
            i++;
            continue;
        }
        buf_append_str(out, "drop ");
        describe_message(out, &c->network.items[i]);
        buf_append_str(out, "\n");
        cluster_drop(c, i);
    }
}

/* duplicate [from=F] [to=T] [type=WORD]: what is selected is sent once more. */
static void do_duplicate(struct cluster *c, const struct words *ws, struct buf *out)
{
    size_t n = c->network.len;
    for (size_t i = 0; i < n; i++)
        if (message_selected(&c->network.items[i], ws)) {
            struct raft_message m = c->network.items[i];
            cluster_send(c, &m);
        }
}

static bool in_scope(const struct words *ws, uint64_t id)
{
    bool any = false;
    for (size_t i = 1; i < ws->n; i++) {
        any |= strcmp(ws->w[i], "quiet") != 0;
        if (number(ws, i) == id)
            return true;
    }
    return !any;
}

static bool stabilize_round(struct cluster *c, const struct words *ws, struct buf *out)
{
    bool busy = false;
    for (size_t i = 0; i < c->n_nodes; i++) {
        struct node *n = &c->nodes[i];
        if (!n->raft || !in_scope(ws, n->id))
            continue;
        while (raft_has_ready(n->raft)) {
            cluster_ready(c, n, out);
            busy = true;
        }
        while (cluster_sync(c, n, out) || cluster_apply(c, n, SIZE_MAX, out))
            busy = true;
    }
    for (size_t i = 0, n = c->network.len; n > 0; n--) {
        if (!in_scope(ws, c->network.items[i].to)) {
            i++;
            continue;
        }
        cluster_deliver(c, i, out);
        busy = true;
    }
    return busy;
}

/* stabilize [NODES...] [quiet]: everything, until nothing is left to do. */
static void do_stabilize(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct buf discarded = BUF_NULL;
    int rounds = 0;
    while (stabilize_round(c, ws, flag(ws, "quiet") ? &discarded : out))
        if (++rounds == QUIET_ROUNDS_MAX) {
            buf_append_str(out, "it does not come to rest\n");
            break;
        }
    buf_deinit(&discarded);
}

/* cut A B: nothing from A to B arrives any more. heal: everything does. */
static void do_cut(struct cluster *c, const struct words *ws, struct buf *out)
{
    uint64_t from = number(ws, 1);
    uint64_t to = number(ws, 2);
    if (from <= CLUSTER_NODES_MAX && to <= CLUSTER_NODES_MAX)
        c->cut[from][to] = true;
}

static void do_isolate(struct cluster *c, const struct words *ws, struct buf *out)
{
    uint64_t id = number(ws, 1);
    for (uint64_t other = 1; id <= CLUSTER_NODES_MAX && other <= CLUSTER_NODES_MAX; other++)
        c->cut[id][other] = c->cut[other][id] = true;
}

static void do_heal(struct cluster *c, const struct words *ws, struct buf *out)
{
    memset(c->cut, 0, sizeof(c->cut));
}

static void print_status(struct node *n, struct buf *out)
{
    struct raft_status s;
    if (!n->raft) {
        buf_printf(out, "%llu stopped\n", (unsigned long long)n->id);
        return;
    }
    raft_status(n->raft, &s);
    buf_printf(out,
               "%llu %s term %llu vote %llu leader %llu commit %llu applied %llu log %llu..%llu "
               "persisted %llu",
               (unsigned long long)n->id, describe_role(s.role), (unsigned long long)s.term,
               (unsigned long long)s.vote, (unsigned long long)s.leader,
               (unsigned long long)s.commit, (unsigned long long)s.applied,
               (unsigned long long)s.first_index, (unsigned long long)s.last_index,
               (unsigned long long)s.persisted_index);
    buf_append_str(out, s.committed_in_term ? " reads-ok" : "");
    buf_append_str(out, s.sole_voter ? " sole-voter" : "");
    buf_append_str(out, s.lost_tail ? " lost-tail" : "");
    if (s.lead_transferee != 0)
        buf_printf(out, " transfer-to %llu", (unsigned long long)s.lead_transferee);
    if (s.uncommitted_bytes != 0)
        buf_printf(out, " uncommitted %llu", (unsigned long long)s.uncommitted_bytes);
    buf_append_str(out, "\n");
}

static void do_status(struct cluster *c, const struct words *ws, struct buf *out)
{
    for (size_t i = 0; i < c->n_nodes; i++)
        if (in_scope(ws, c->nodes[i].id))
            print_status(&c->nodes[i], out);
}

static void do_progress(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct raft_progress p[CLUSTER_NODES_MAX];
    struct node *n = running(c, ws, 1, out);
    size_t len = n ? raft_progress(n->raft, p, CLUSTER_NODES_MAX) : 0;
    for (size_t i = 0; i < len; i++) {
        describe_progress(out, &p[i]);
        buf_append_str(out, "\n");
    }
}

static void do_conf(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (!n)
        return;
    describe_conf(out, raft_conf(n->raft));
    buf_append_str(out, raft_conf(n->raft)->voters.len > 0 ? "\n" : "nobody\n");
}

/* disk NODE: what a restart would find. */
static void do_disk(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = cluster_node(c, number(ws, 1));
    if (!n)
        return;
    buf_printf(out, "term %llu vote %llu commit %llu", (unsigned long long)n->hard_state.term,
               (unsigned long long)n->hard_state.vote, (unsigned long long)n->hard_state.commit);
    if (n->hard_state.lost_tail_index > 0)
        buf_printf(out, " lost tail %llu/%llu", (unsigned long long)n->hard_state.lost_tail_term,
                   (unsigned long long)n->hard_state.lost_tail_index);
    buf_printf(out, ", log after %llu/%llu:", (unsigned long long)n->base_term,
               (unsigned long long)n->base_index);
    for (size_t i = 0; i < n->entries.len; i++) {
        buf_append_str(out, " ");
        describe_entry(out, &n->entries.items[i]);
    }
    buf_append_str(out, "\n");
}

static void do_stop(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        node_stop(n);
}

/* start NODE [manual-disk] [manual-apply] [pre-vote]: restart is stop and start. */
static void do_start(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = cluster_node(c, number(ws, 1));
    if (!n)
        return;
    node_stop(n);
    n->manual_disk = flag(ws, "manual-disk");
    n->manual_apply = flag(ws, "manual-apply");
    n->config.pre_vote |= flag(ws, "pre-vote");
    if (node_start(n) != 0)
        buf_append_str(out, "its disk contradicts itself\n");
}

/*
 * lose-log NODE INDEX: a stopped node's disk forgets the entries above index, as an old copy would.
 */
static void do_lose_log(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = cluster_node(c, number(ws, 1));
    uint64_t index = number(ws, 2);
    if (!n || n->raft || index < n->base_index)
        return;
    while (n->base_index + n->entries.len > index)
        blob_unref(n->entries.items[--n->entries.len].data);
    if (n->hard_state.commit > index)
        n->hard_state.commit = index;
    if (n->applied > index)
        n->applied = index;
}

static void do_compact(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        node_compact(n, number(ws, 2));
}

/* read NODE ID */
static void do_read(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        print_outcome(
            out, node_step(n, &(struct raft_input){.type = RAFT_READ, .read_id = number(ws, 2)}));
}

static void do_transfer(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        print_outcome(
            out, node_step(n, &(struct raft_input){.type = RAFT_TRANSFER, .node = number(ws, 2)}));
}

static void do_unreachable(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        node_step(n, &(struct raft_input){.type = RAFT_UNREACHABLE, .node = number(ws, 2)});
}

/* snapshot-done NODE MEMBER ok|failed */
static void do_snapshot_done(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct node *n = running(c, ws, 1, out);
    if (n)
        node_step(n, &(struct raft_input){
                         .type = RAFT_SNAPSHOT_DONE, .node = number(ws, 2), .ok = flag(ws, "ok")});
}

static bool message_type_of(const char *name, enum raft_message_type *ret)
{
    for (int t = RAFT_MSG_HUP; t <= RAFT_MSG_FORGET_LEADER; t++)
        if (name && strcmp(describe_message_type((enum raft_message_type)t), name) == 0) {
            *ret = (enum raft_message_type)t;
            return true;
        }
    return false;
}

static void parse_entries(const char *list, struct raft_entry *entries, size_t max, size_t *n)
{
    for (*n = 0; list && *list && *n < max; (*n)++) {
        char *end;
        entries[*n].term = strtoull(list, &end, 10);
        entries[*n].index = *end ? strtoull(end + 1, &end, 10) : 0;
        list = *end == ',' ? end + 1 : end;
    }
}

/*
 * message type=WORD from=F to=T [at=NODE term= index= log-term= commit= hint= reject=
 * entries=1/2,1/3 read=ID round=N context=TEXT]: straight from the hand of an enemy.
 */
static void do_message(struct cluster *c, const struct words *ws, struct buf *out)
{
    struct raft_entry entries[16] = {0};
    struct raft_message m = {
        .from = option_u64(ws, "from", 0),
        .to = option_u64(ws, "to", 0),
        .term = option_u64(ws, "term", 0),
        .index = option_u64(ws, "index", 0),
        .log_term = option_u64(ws, "log-term", 0),
        .commit = option_u64(ws, "commit", 0),
        .reject_hint = option_u64(ws, "hint", 0),
        .reject = option_u64(ws, "reject", 0) != 0,
        .entries = entries,
    };
    parse_entries(option(ws, "entries"), entries, 16, &m.n_entries);
    uint8_t id[8];
    u64_be_put(id, option_u64(ws, "read", 0));
    if (option(ws, "read"))
        entries[m.n_entries++].data = blob_copy(bytes_of(id, sizeof(id)));
    uint64_t round = option_u64(ws, "round", 0);      /* little-endian, like this machine */
    if (option(ws, "context"))
        m.context = bytes_str(option(ws, "context"));
    else if (option(ws, "round"))
        m.context = bytes_of(&round, sizeof(round));
    struct node *n = cluster_node(c, option_u64(ws, "at", m.to));
    if (!n || !n->raft || !message_type_of(option(ws, "type"), &m.type)) {
        buf_append_str(out, "no such node or type\n");
        return;
    }
    print_outcome(out, node_step(n, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m}));
    blob_unref(entries[m.n_entries > 0 ? m.n_entries - 1 : 0].data);
}

/*
 * snapshot F->T term= at=TERM/INDEX voters= outgoing= learners= next= [auto-leave]: a message, by
 * hand.
 */
static void do_snapshot(struct cluster *c, const struct words *ws, struct buf *out)
{
    char *end = "";
    struct raft_snapshot s = {.conf.auto_leave = flag(ws, "auto-leave")};
    struct raft_message m = {
        .type = RAFT_MSG_SNAP, .term = option_u64(ws, "term", 0), .snapshot = &s};
    m.from = ws->n > 1 ? strtoull(ws->w[1], &end, 10) : 0;
    m.to = strlen(end) > 2 ? strtoull(end + 2, NULL, 10) : 0;
    s.term = strtoull(option(ws, "at") ? option(ws, "at") : "", &end, 10);
    s.index = *end ? strtoull(end + 1, NULL, 10) : 0;
    parse_ids(&s.conf.voters, option(ws, "voters"));
    parse_ids(&s.conf.voters_outgoing, option(ws, "outgoing"));
    parse_ids(&s.conf.learners, option(ws, "learners"));
    parse_ids(&s.conf.learners_next, option(ws, "next"));
    struct node *n = cluster_node(c, m.to);
    if (n && n->raft)
        print_outcome(out, node_step(n, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m}));
    conf_deinit(&s.conf);
}

static const struct {
    const char *name;
    void (*run)(struct cluster *c, const struct words *ws, struct buf *out);
} commands[] = {
    {"apply", do_apply},
    {"campaign", do_campaign},
    {"compact", do_compact},
    {"conf", do_conf},
    {"cut", do_cut},
    {"deliver", do_deliver},
    {"disk", do_disk},
    {"drop", do_drop},
    {"duplicate", do_duplicate},
    {"forget-leader", do_forget_leader},
    {"heal", do_heal},
    {"isolate", do_isolate},
    {"lose-log", do_lose_log},
    {"message", do_message},
    {"nodes", do_nodes},
    {"progress", do_progress},
    {"propose", do_propose},
    {"propose-conf", do_propose_conf},
    {"read", do_read},
    {"ready", do_ready},
    {"restart", do_start},
    {"snapshot", do_snapshot},
    {"snapshot-done", do_snapshot_done},
    {"stabilize", do_stabilize},
    {"start", do_start},
    {"status", do_status},
    {"stop", do_stop},
    {"sync", do_sync},
    {"tick", do_tick},
    {"transfer", do_transfer},
    {"unreachable", do_unreachable},
};

void command_run(struct cluster *c, const char *line, struct buf *out)
{
    struct words ws;
    if (!split(&ws, line)) {
        buf_append_str(out, "not a command\n");
        return;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strcmp(commands[i].name, ws.w[0]) == 0) {
            commands[i].run(c, &ws, out);
            return;
        }
    buf_printf(out, "unknown command %s\n", ws.w[0]);
}
