/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Several rafts behind a pipe, for comparison with another implementation: reads commands as lines
 * on stdin, answers each with lines on stdout that end with a line ".". It decides nothing itself.
 *
 *   new ID SEED ELECTION HEARTBEAT PREVOTE CHECKQUORUM MSGBYTES INFLIGHT INFLIGHTBYTES UNCOMMITTED
 *   APPLYING
 *       TERM VOTE COMMIT SNAPINDEX SNAPTERM APPLIED CONF ENTRY...
 *   free ID | tick ID | campaign ID | propose ID LEAVES ENTRY... | msg ID LEAVES MESSAGE |
 *   persisted ID NUMBER installed ID INDEX | applied ID INDEX | conf ID TRANSITION TYPE:NODE... |
 *   read ID READ | transfer ID NODE | forget ID unreachable ID NODE | snapdone ID NODE OK | compact
 *   ID INDEX | ready ID
 *
 *   ENTRY    TYPE:TERM:INDEX:HEX
 *   CONF     VOTERS/OUTGOING/LEARNERS/NEXT/AUTOLEAVE, ids separated by commas
 *   MESSAGE  TYPE TO FROM TERM LOGTERM INDEX COMMIT HINT REJECT CONTEXTHEX SNAPSHOT ENTRY...
 *   "-" is an empty word SNAPSHOT INDEX:TERM:CONF
 *
 * The answer to a step is its outcome and the state; to ready, the ready, already advanced.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "raft/conf.h"
#include "raft/raft.h"

enum { NODES_MAX = 16, WORDS_MAX = 4096 };

static struct raft *nodes[NODES_MAX];

struct words {
    char **w;
    size_t n;
    size_t next;
};

static const char *word(struct words *ws)
{
    return ws->next < ws->n ? ws->w[ws->next++] : "-";
}

static uint64_t word_u64(struct words *ws)
{
    return strtoull(word(ws), NULL, 10);
}

static struct blob *parse_hex(const char *hex)
{
    size_t len = strlen(hex) / 2;
    if (len == 0)
        return NULL;
    struct blob *b = blob_new(len);
    for (size_t i = 0; i < len; i++) {
        char pair[3] = {hex[2 * i], hex[2 * i + 1], 0};
        b->data[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return b;
}

static struct raft_entry parse_entry(const char *text)
{
    char *end;
    struct raft_entry e = {.type = (enum raft_entry_type)strtoull(text, &end, 10)};
    e.term = strtoull(end + 1, &end, 10);
    e.index = strtoull(end + 1, &end, 10);
    e.data = parse_hex(end + 1);
    return e;
}

static struct raft_entry *parse_entries(struct words *ws, size_t *ret_n)
{
    *ret_n = ws->n - ws->next;
    struct raft_entry *entries = mem_alloc((*ret_n + 1) * sizeof(*entries));
    for (size_t i = 0; i < *ret_n; i++)
        entries[i] = parse_entry(word(ws));
    return entries;
}

static void free_entries(struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++)
        blob_unref(entries[i].data);
    free(entries);
}

static const char *parse_ids(const char *text, struct raft_ids *ids)
{
    char *end = (char *)(uintptr_t)text;
    while (*text && *text != '/') {
        raft_ids_add(ids, strtoull(text, &end, 10));
        text = *end == ',' ? end + 1 : end;
    }
    return *text == '/' ? text + 1 : text;
}

static void parse_conf(const char *text, struct raft_conf_state *ret)
{
    *ret = (struct raft_conf_state){0};
    text = parse_ids(text, &ret->voters);
    text = parse_ids(text, &ret->voters_outgoing);
    text = parse_ids(text, &ret->learners);
    text = parse_ids(text, &ret->learners_next);
    ret->auto_leave = *text == '1';
}

static void print_ids(const struct raft_ids *ids, const char *end)
{
    for (size_t i = 0; i < ids->len; i++)
        printf("%s%llu", i > 0 ? "," : "", (unsigned long long)ids->ids[i]);
    fputs(end, stdout);
}

static void print_conf(const struct raft_conf_state *c)
{
    print_ids(&c->voters, "/");
    print_ids(&c->voters_outgoing, "/");
    print_ids(&c->learners, "/");
    print_ids(&c->learners_next, "/");
    fputs(c->auto_leave ? "1" : "0", stdout);
}

static void print_hex(struct bytes b)
{
    for (size_t i = 0; i < b.len; i++)
        printf("%02x", b.data[i]);
}

static void print_entry(const struct raft_entry *e)
{
    printf("%d:%llu:%llu:", e->type, (unsigned long long)e->term, (unsigned long long)e->index);
    print_hex(blob_bytes(e->data));
}

static void print_snapshot(const struct raft_snapshot *s)
{
    printf("%llu:%llu:", (unsigned long long)s->index, (unsigned long long)s->term);
    print_conf(&s->conf);
}

static void print_message(const char *kind, const struct raft_message *m)
{
    printf("%s %d %llu %llu %llu %llu %llu %llu %llu %d ", kind, m->type, (unsigned long long)m->to,
           (unsigned long long)m->from, (unsigned long long)m->term,
           (unsigned long long)m->log_term, (unsigned long long)m->index,
           (unsigned long long)m->commit, (unsigned long long)m->reject_hint, m->reject);
    print_hex(m->context);
    fputs(m->context.len > 0 ? " " : "- ", stdout);
    if (m->snapshot)
        print_snapshot(m->snapshot);
    else
        putchar('-');
    for (size_t i = 0; i < m->n_entries; i++) {
        putchar(' ');
        print_entry(&m->entries[i]);
    }
    putchar('\n');
}

static void print_state(const struct raft *r, int outcome)
{
    struct raft_status s;
    struct raft_progress p[NODES_MAX];
    raft_sanity(r);
    raft_status(r, &s);
    printf("state %d %d %llu %llu %llu %llu %llu %llu %llu %llu %u %llu %llu %llu %d ", outcome,
           s.role, (unsigned long long)s.term, (unsigned long long)s.vote,
           (unsigned long long)s.leader, (unsigned long long)s.commit,
           (unsigned long long)s.applied, (unsigned long long)s.first_index,
           (unsigned long long)s.last_index, (unsigned long long)s.persisted_index,
           s.election_timeout_ticks, (unsigned long long)s.conf_index_pending,
           (unsigned long long)s.uncommitted_bytes, (unsigned long long)s.lead_transferee,
           raft_has_ready(r));
    print_conf(raft_conf(r));
    size_t n = raft_progress(r, p, NODES_MAX);
    for (size_t i = 0; i < n; i++) {
        if (p[i].id == s.id)      /* how a leader tracks itself is its own affair */
            p[i] = (struct raft_progress){
                .id = s.id, .is_learner = p[i].is_learner, .recent_active = p[i].recent_active};
        printf(" %llu:%d:%llu:%llu:%d:%d:%d:%llu:%u", (unsigned long long)p[i].id, p[i].state,
               (unsigned long long)p[i].match, (unsigned long long)p[i].next, p[i].is_learner,
               p[i].recent_active, p[i].paused, (unsigned long long)p[i].snapshot_index,
               p[i].inflight_messages);
    }
    putchar('\n');
}

static void print_ready(struct raft *r)
{
    struct raft_ready rd;
    raft_ready(r, &rd);
    printf("ready %llu %d\n", (unsigned long long)rd.number, rd.must_sync);
    if (rd.soft_changed)
        printf("soft %d %llu\n", rd.role, (unsigned long long)rd.leader);
    if (rd.hard_state_changed)
        printf("hard %llu %llu %llu\n", (unsigned long long)rd.hard_state.term,
               (unsigned long long)rd.hard_state.vote, (unsigned long long)rd.hard_state.commit);
    if (rd.snapshot) {
        printf("snap ");
        print_snapshot(rd.snapshot);
        putchar('\n');
    }
    for (size_t i = 0; i < rd.n_entries; i++) {
        printf("entry ");
        print_entry(&rd.entries[i]);
        putchar('\n');
    }
    for (size_t i = 0; i < rd.n_messages; i++)
        print_message("msg", &rd.messages[i]);
    for (size_t i = 0; i < rd.n_messages_durable; i++)
        print_message("dmsg", &rd.messages_durable[i]);
    for (size_t i = 0; i < rd.n_committed; i++) {
        printf("apply ");
        print_entry(&rd.committed[i]);
        putchar('\n');
    }
    for (size_t i = 0; i < rd.n_reads; i++)
        printf("read %llu %llu\n", (unsigned long long)rd.reads[i].id,
               (unsigned long long)rd.reads[i].index);
    for (size_t i = 0; i < rd.n_reads_lost; i++)
        printf("lost %llu\n", (unsigned long long)rd.reads_lost[i]);
    raft_advance(r);
    print_state(r, 0);
}

static void do_new(uint64_t id, struct words *ws)
{
    struct raft_config c = {.id = id};
    struct raft_conf_state conf;
    c.seed = word_u64(ws);
    c.election_ticks = (uint32_t)word_u64(ws);
    c.heartbeat_ticks = (uint32_t)word_u64(ws);
    c.pre_vote = word_u64(ws) != 0;
    c.check_quorum = word_u64(ws) != 0;
    c.message_bytes_max = word_u64(ws);
    c.inflight_messages_max = (uint32_t)word_u64(ws);
    c.inflight_bytes_max = word_u64(ws);
    c.uncommitted_bytes_max = word_u64(ws);
    c.applying_bytes_max = word_u64(ws);
    c.hard_state.term = word_u64(ws);
    c.hard_state.vote = word_u64(ws);
    c.hard_state.commit = word_u64(ws);
    c.snapshot_index = word_u64(ws);
    c.snapshot_term = word_u64(ws);
    c.applied = word_u64(ws);
    parse_conf(word(ws), &conf);
    c.conf = &conf;
    struct raft_entry *entries = parse_entries(ws, &c.n_entries);
    c.entries = entries;
    nodes[id] = raft_free(nodes[id]);
    check(raft_new(&nodes[id], &c) == 0);
    print_state(nodes[id], 0);
    free_entries(entries, c.n_entries);
    conf_deinit(&conf);
}

static int do_propose(struct raft *r, struct words *ws)
{
    struct raft_input in = {.type = RAFT_PROPOSE, .leave_joint = word_u64(ws) != 0};
    struct raft_entry *entries = parse_entries(ws, &in.n_entries);
    in.entries = entries;
    int outcome = raft_step(r, &in);
    free_entries(entries, in.n_entries);
    return outcome;
}

static int do_message(struct raft *r, struct words *ws)
{
    struct raft_message m = {0};
    struct raft_snapshot snapshot = {0};
    bool leaves = word_u64(ws) != 0;
    m.type = (enum raft_message_type)word_u64(ws);
    m.to = word_u64(ws);
    m.from = word_u64(ws);
    m.term = word_u64(ws);
    m.log_term = word_u64(ws);
    m.index = word_u64(ws);
    m.commit = word_u64(ws);
    m.reject_hint = word_u64(ws);
    m.reject = word_u64(ws) != 0;
    const char *context_text = word(ws);
    struct blob *context = strcmp(context_text, "-") == 0 ? NULL : parse_hex(context_text);
    m.context = blob_bytes(context);
    const char *snapshot_text = word(ws);
    if (strcmp(snapshot_text, "-") != 0) {
        char *end;
        snapshot.index = strtoull(snapshot_text, &end, 10);
        snapshot.term = strtoull(end + 1, &end, 10);
        parse_conf(end + 1, &snapshot.conf);
        m.snapshot = &snapshot;
    }
    m.entries = parse_entries(ws, &m.n_entries);
    int outcome = raft_step(
        r, &(struct raft_input){.type = RAFT_MESSAGE, .message = &m, .leave_joint = leaves});
    free_entries(m.entries, m.n_entries);
    conf_deinit(&snapshot.conf);
    blob_unref(context);
    return outcome;
}

static int do_conf(struct raft *r, struct words *ws)
{
    struct raft_conf_single changes[32];
    struct raft_conf_change c = {.transition = (enum raft_conf_transition)word_u64(ws),
                                 .changes = changes};
    while (ws->next < ws->n && c.n_changes < 32) {
        char *end;
        changes[c.n_changes].type = (enum raft_conf_change_type)strtoull(word(ws), &end, 10);
        changes[c.n_changes++].node_id = strtoull(end + 1, NULL, 10);
    }
    return raft_step(r, &(struct raft_input){.type = RAFT_CONF_APPLIED, .conf = &c});
}

static const struct {
    const char *name;
    enum raft_input_type type;
} plain[] = {
    {"tick", RAFT_TICK},
    {"campaign", RAFT_CAMPAIGN},
    {"persisted", RAFT_PERSISTED},
    {"installed", RAFT_PERSISTED_SNAPSHOT},
    {"applied", RAFT_APPLIED},
    {"read", RAFT_READ},
    {"transfer", RAFT_TRANSFER},
    {"forget", RAFT_FORGET_LEADER},
    {"unreachable", RAFT_UNREACHABLE},
    {"snapdone", RAFT_SNAPSHOT_DONE},
    {"compact", RAFT_COMPACT},
};

/* All that take at most a number, which means whatever the input's type means by it. */
static int do_plain(struct raft *r, const char *name, struct words *ws)
{
    uint64_t v = word_u64(ws);
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++)
        if (strcmp(plain[i].name, name) == 0)
            return raft_step(r, &(struct raft_input){.type = plain[i].type,
                                                     .index = v,
                                                     .number = v,
                                                     .node = v,
                                                     .read_id = v,
                                                     .ok = word_u64(ws) != 0});
    fprintf(stderr, "unknown command %s\n", name);
    exit(2);
}

static void run(struct words *ws)
{
    const char *name = word(ws);
    uint64_t id = word_u64(ws);
    check(id < NODES_MAX);
    struct raft *r = nodes[id];
    if (strcmp(name, "new") == 0)
        do_new(id, ws);
    else if (strcmp(name, "free") == 0)
        nodes[id] = raft_free(r);
    else if (strcmp(name, "ready") == 0)
        print_ready(r);
    else if (strcmp(name, "propose") == 0)
        print_state(r, do_propose(r, ws));
    else if (strcmp(name, "msg") == 0)
        print_state(r, do_message(r, ws));
    else if (strcmp(name, "conf") == 0)
        print_state(r, do_conf(r, ws));
    else
        print_state(r, do_plain(r, name, ws));
    puts(".");
    fflush(stdout);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    char **w = mem_alloc(WORDS_MAX * sizeof(*w));
    while (getline(&line, &cap, stdin) > 0) {
        struct words ws = {.w = w};
        char *save = NULL;
        for (char *p = strtok_r(line, " \n", &save); p && ws.n < WORDS_MAX;
             p = strtok_r(NULL, " \n", &save))
            w[ws.n++] = p;
        if (ws.n > 0)
            run(&ws);
    }
    for (size_t i = 0; i < NODES_MAX; i++)
        raft_free(nodes[i]);
    free(line);
    free(w);
    return 0;
}
