/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests: up to five members in one process, each a whole server without threads, and a network
 * between them that does what the test says. Time is the test's, too: a step is CLUSTER_STEP_MS.
 *
 * Failures here are check()s.
 */
#pragma once

#include "server/lease_wire.h"
#include "server/lessor.h"
#include "server/message.h"
#include "server/peer_door.h"
#include "server/test_box.h"
#include "storage/file.h"

enum { CLUSTER_MAX = 5, CLUSTER_STEP_MS = 20, CLUSTER_STEPS_MAX = 3000, CLUSTER_PORT = 21600 };

struct cluster;

/* A member and its end of the network. */
struct peer {
    struct transport transport;
    struct cluster *cluster;
    struct box *box;
    uint64_t id;
    bool up;
    bool cut;    /* nothing gets in or out */
    bool silent; /* takes what it is asked, and answers nothing */
    bool takes_tables;
};

struct flying {
    struct flying *next;
    struct raft_message *message;
};

struct unanswered {
    struct unanswered *next;
    struct transport_fetch *fetch;
    uint64_t until_ms;
};

struct cluster {
    struct peer peers[CLUSTER_MAX];
    size_t n;
    uint64_t now_ms;
    uint64_t opened; /* for seeds */
    struct flying *first, **last;
    unsigned sent[24];  /* messages by type, also those that were lost */
    unsigned snapshots; /* sent */
    atomic_uint fetches;
    struct unanswered *unanswered;                                 /* asked of who is silent */
    void (*spoil_answer)(struct transport_fetch *f);               /* NULL: nothing */
    bool (*lose)(struct cluster *c, const struct raft_message *m); /* NULL: nothing */
    void (*spoil)(const char *file); /* what happens to a snapshot's file on its way */
    uint64_t snapshot_shift;         /* added to its message's index */
    uint64_t catchup_entries;
};

static inline struct peer *peer_of(struct transport *t)
{
    return container_of(t, struct peer, transport);
}

static inline struct peer *cluster_find(struct cluster *c, uint64_t id)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->peers[i].id == id)
            return &c->peers[i];
    }
    return NULL;
}

/* ---- the network ---- */

static inline bool reaches(const struct peer *from, const struct peer *to)
{
    return to && to->up && !from->cut && !to->cut;
}

static inline void net_send(struct transport *t, const struct raft_message *messages, size_t n)
{
    struct peer *from = peer_of(t);
    struct cluster *c = from->cluster;

    for (size_t i = 0; i < n; i++) {
        check(messages[i].type != RAFT_MSG_SNAP && messages[i].from != 0);
        c->sent[messages[i].type]++;
        if (c->lose && c->lose(c, &messages[i]))
            continue;
        struct flying *f = mem_new(struct flying);
        f->message = message_copy(&messages[i]);
        if (from->cut) { /* also if it is healed before this arrives */
            message_free(f->message);
            free(f);
            continue;
        }
        *c->last = f;
        c->last = &f->next;
    }
}

static inline void net_deliver(struct cluster *c)
{
    struct flying *f = c->first, *next;

    c->first = NULL;
    c->last = &c->first;
    for (; f; f = next) {
        struct peer *to = cluster_find(c, f->message->to);
        struct peer *from = cluster_find(c, f->message->from);
        next = f->next;
        if (reaches(from, to)) {
            enum peer_verdict verdict = server_peer_message(to->box->s, f->message);
            check(verdict == PEER_OK || verdict == PEER_REMOVED);
        }
        message_free(f->message);
        free(f);
    }
}

static inline void file_copy(const char *from, const char *to)
{
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    char data[65536];
    size_t len;

    check(in && out);
    while ((len = fread(data, 1, sizeof(data), in)) > 0)
        check(fwrite(data, 1, len, out) == len);
    fclose(in);
    check(fclose(out) == 0);
}

struct tables_copy {
    const char *from, *to;
};

static inline int tables_copy_file(void *arg, const char *name)
{
    struct tables_copy *c = arg;
    char *from = mem_printf("%s/%s", c->from, name), *to = mem_printf("%s/%s", c->to, name);

    file_copy(from, to);
    free(from);
    free(to);
    return 0;
}

static inline void net_send_snapshot(struct transport *t, struct transport_snapshot *s)
{
    struct peer *from = peer_of(t), *to = cluster_find(from->cluster, s->message->to);
    struct cluster *c = from->cluster;
    struct raft_message message = *s->message;
    struct raft_snapshot snapshot = *s->message->snapshot;
    char *path;

    c->snapshots++;
    if (!reaches(from, to)) {
        s->done(s, false);
        return;
    }
    snapshot.index += c->snapshot_shift;
    message.snapshot = &snapshot;
    path = server_peer_snapshot_path(to->box->s, snapshot.index);
    if (s->directory) {
        struct tables_copy copy = {s->directory, path};
        check(dir_make(path) == 0 && dir_list(s->directory, tables_copy_file, &copy) == 0);
    } else {
        file_copy(s->file, path);
        if (c->spoil)
            c->spoil(path);
    }
    s->done(s, server_peer_snapshot(to->box->s, &message, path) == PEER_OK);
    free(path);
}

static inline void net_members_changed(struct transport *t)
{
    (void)t;
}

static inline uint64_t net_active_ms(struct transport *t, uint64_t member_id)
{
    struct peer *from = peer_of(t), *to = cluster_find(from->cluster, member_id);

    return to != from && reaches(from, to) ? 60000 : 0;
}

/* What one member asks another about a lease, on the way that api/peer_lease.c makes it go. */
struct net_question {
    struct request request;
    struct transport_fetch *fetch;
    struct cluster *cluster;
};

static inline void net_answered(struct request *request, enum outcome outcome)
{
    struct net_question *q = container_of(request, struct net_question, request);
    struct transport_fetch *f = q->fetch;

    f->status = outcome == OUTCOME_OK ? 200 : outcome == OUTCOME_LEASE_NOT_FOUND ? 404 : 400;
    buf_append_bytes(&f->answer, buf_bytes(&request->response));
    if (q->cluster->spoil_answer)
        q->cluster->spoil_answer(f);
    buf_deinit(&request->response);
    free(q);
    f->done(f);
}

static inline void net_ask(struct peer *to, struct transport_fetch *f)
{
    struct net_question *q = mem_new(struct net_question);
    struct lease_wire_question left;
    int64_t id;

    *q = (struct net_question){{.finish = net_answered}, f, to->cluster};
    if (strcmp(f->path, LEASE_WIRE_RENEW_PATH) == 0) {
        check(lease_wire_renew_read(f->body, &id));
        q->request.kind = REQUEST_LEASE_RENEW;
        server_peer_lease_renew(to->box->s, &q->request, id);
    } else {
        check(lease_wire_question_read(f->body, &left));
        q->request.kind = REQUEST_LEASE_TIME_TO_LIVE;
        server_peer_lease_time_to_live(to->box->s, &q->request, left.id, left.keys);
    }
}

static inline void net_keep(struct cluster *c, struct transport_fetch *f)
{
    struct unanswered *u = mem_new(struct unanswered);

    *u = (struct unanswered){c->unanswered, f, c->now_ms + f->timeout_ms};
    c->unanswered = u;
}

static inline struct unanswered *net_overdue(struct cluster *c, uint64_t now_ms)
{
    struct unanswered **p = &c->unanswered, *u;

    while ((u = *p) && u->until_ms > now_ms)
        p = &u->next;
    if (u)
        *p = u->next;
    return u;
}

static inline void net_give_up(struct cluster *c, uint64_t now_ms)
{
    struct unanswered *u;

    while ((u = net_overdue(c, now_ms))) {
        u->fetch->done(u->fetch);
        free(u);
    }
}

/* Nothing but leases is served. */
static inline void net_fetch(struct transport *t, struct transport_fetch *f)
{
    struct peer *from = peer_of(t);
    size_t i = strtoul(strrchr(f->urls[0], ':') + 1, NULL, 10) - CLUSTER_PORT;
    struct peer *to = i < from->cluster->n ? &from->cluster->peers[i] : NULL;

    atomic_fetch_add(&from->cluster->fetches, 1);
    f->status = 0;
    if (to && to->silent)
        net_keep(from->cluster, f);
    else if (reaches(from, to) && bytes_has_prefix(bytes_str(f->path), BYTES_LIT("/leases")))
        net_ask(to, f);
    else
        f->done(f);
}

static inline bool net_wants_tables(struct transport *t, uint64_t member_id)
{
    struct peer *to = cluster_find(peer_of(t)->cluster, member_id);

    return to && to->takes_tables;
}

static const struct transport_ops net_ops = {.send = net_send,
                                             .send_snapshot = net_send_snapshot,
                                             .members_changed = net_members_changed,
                                             .active_ms = net_active_ms,
                                             .fetch = net_fetch,
                                             .wants_tables = net_wants_tables};

/* ---- members ---- */

static inline struct server *server_at(struct cluster *c, size_t i)
{
    return c->peers[i].box->s;
}

static inline void cluster_configure(struct cluster *c, size_t i)
{
    struct box *b = c->peers[i].box;
    char *path = mem_printf("%s/data", b->dir), *name = mem_printf("m%zu", i);
    char *url = mem_printf("http://127.0.0.1:%zu", (size_t)CLUSTER_PORT + i);
    char *no_environ[] = {NULL};
    struct buf all = BUF_NULL;
    int exit_code;

    for (size_t k = 0; k < c->n; k++)
        buf_printf(&all, "%sm%zu=http://127.0.0.1:%zu", k ? "," : "", k, (size_t)CLUSTER_PORT + k);
    char *args[] = {(char *)"cairn",
                    (char *)"--data-dir",
                    path,
                    (char *)"--name",
                    name,
                    (char *)"--initial-advertise-peer-urls",
                    url,
                    (char *)"--listen-peer-urls",
                    url,
                    (char *)"--initial-cluster",
                    (char *)(uintptr_t)buf_cstr(&all),
                    (char *)"--unsafe-no-fsync",
                    NULL};
    config_deinit(&b->config);
    check(config_parse(12, args, no_environ, &b->config, &exit_code) == CONFIG_RUN);
    b->config.warning_apply_duration_ns = INT64_MAX;
    if (c->catchup_entries)
        b->config.snapshot_catchup_entries = c->catchup_entries;
    buf_deinit(&all);
    free(path);
    free(name);
    free(url);
}

/* Positive or negative: it does not open. */
static inline int cluster_try_open(struct cluster *c, size_t i)
{
    struct server_tuning tuning = {
        .wal_segment_bytes = BOX_SEGMENT_BYTES, .seed = 1 + ++c->opened, .single_threaded = true};
    struct peer *p = &c->peers[i];
    int r = server_open(&p->box->s, &p->box->config, &p->transport, &tuning);

    p->up = r == 0;
    if (r == 0)
        p->id = p->box->s->state.member_id;
    return r;
}

static inline void cluster_open(struct cluster *c, size_t i)
{
    check(cluster_try_open(c, i) == 0);
}

/* As a crash: what the database has not flushed is gone. */
static inline void cluster_close(struct cluster *c, size_t i)
{
    c->peers[i].up = false;
    box_close(c->peers[i].box);
}

static inline struct cluster *cluster_new(size_t n, uint64_t catchup_entries)
{
    struct cluster *c = mem_new(struct cluster);

    c->n = n;
    c->now_ms = 1000;
    c->last = &c->first;
    c->catchup_entries = catchup_entries;
    for (size_t i = 0; i < n; i++) {
        c->peers[i].cluster = c;
        c->peers[i].transport.ops = &net_ops;
        c->peers[i].box = box_new(test_dir_new());
        cluster_configure(c, i);
    }
    for (size_t i = 0; i < n; i++)
        cluster_open(c, i);
    return c;
}

static inline struct cluster *cluster_free(struct cluster *c)
{
    for (size_t i = 0; i < c->n; i++) {
        c->peers[i].up = false;
        if (c->peers[i].box->s)
            server_drain(c->peers[i].box->s); /* what they ask each other is answered */
    }
    net_deliver(c);
    net_give_up(c, UINT64_MAX);
    for (size_t i = 0; i < c->n; i++)
        box_free(c->peers[i].box);
    free(c);
    return NULL;
}

/* ---- time ---- */

static inline int member_step(struct cluster *c, size_t i)
{
    struct server *s = server_at(c, i);
    int r = node_turn(s->node, c->now_ms);

    if (r == 0)
        r = apply_turn(s->apply);
    if (r == 0)
        snapshots_turn(s->snapshots);
    return r;
}

static inline void cluster_step(struct cluster *c)
{
    c->now_ms += CLUSTER_STEP_MS;
    for (size_t i = 0; i < c->n; i++) {
        if (c->peers[i].up)
            check(member_step(c, i) == 0);
    }
    net_deliver(c);
    net_give_up(c, c->now_ms);
}

static inline void cluster_run(struct cluster *c, uint64_t ms)
{
    for (uint64_t until = c->now_ms + ms; c->now_ms < until;)
        cluster_step(c);
}

static inline uint64_t leader_of(struct cluster *c, size_t i)
{
    return atomic_load(&server_at(c, i)->state.leader);
}

/* The member that leads by its own account, not cut off; SIZE_MAX: none. */
static inline size_t cluster_leader(struct cluster *c)
{
    for (size_t i = 0; i < c->n; i++) {
        if (c->peers[i].up && !c->peers[i].cut && leader_of(c, i) == c->peers[i].id)
            return i;
    }
    return SIZE_MAX;
}

static inline bool cluster_agrees(struct cluster *c)
{
    size_t leader = cluster_leader(c);

    for (size_t i = 0; leader != SIZE_MAX && i < c->n; i++) {
        if (c->peers[i].up && !c->peers[i].cut && leader_of(c, i) != c->peers[leader].id)
            return false;
    }
    return leader != SIZE_MAX;
}

/* Runs until all that can hear each other have one leader; returns it. */
static inline size_t cluster_elect(struct cluster *c)
{
    for (int i = 0; !cluster_agrees(c); i++) {
        check(i < CLUSTER_STEPS_MAX);
        cluster_step(c);
    }
    return cluster_leader(c);
}

static inline bool cluster_is_even(struct cluster *c)
{
    size_t leader = cluster_leader(c);

    for (size_t i = 0; leader != SIZE_MAX && i < c->n; i++) {
        struct server_state *a = &server_at(c, leader)->state, *b = &server_at(c, i)->state;
        if (c->peers[i].up && !c->peers[i].cut &&
            (atomic_load(&a->committed) != atomic_load(&b->applied) ||
             atomic_load(&a->applied) != atomic_load(&b->applied)))
            return false;
    }
    return leader != SIZE_MAX;
}

/* Runs until all that can hear each other have applied the same, and compares their states. */
static inline void cluster_settle(struct cluster *c)
{
    size_t leader = cluster_elect(c);

    for (int i = 0; !cluster_is_even(c); i++) {
        check(i < CLUSTER_STEPS_MAX);
        cluster_step(c);
    }
    leader = cluster_leader(c);
    char *want = box_text(c->peers[leader].box);
    for (size_t i = 0; i < c->n; i++) {
        if (!c->peers[i].up || c->peers[i].cut)
            continue;
        char *have = box_text(c->peers[i].box);
        if (strcmp(want, have) != 0)
            fprintf(stderr, "leader: %s\nmember: %s\n", want, have);
        check(strcmp(want, have) == 0);
        free(have);
    }
    free(want);
}

/* Runs until it is answered. */
static inline int cluster_wait(struct cluster *c, struct call *call)
{
    for (int k = 0; call->n_finished == 0; k++) {
        check(k < CLUSTER_STEPS_MAX);
        cluster_step(c);
    }
    call_deinit(call);
    return call->outcome;
}

/* Through member i; returns when it is answered. */
static inline int cluster_put(struct cluster *c, size_t i, const char *key, const char *value)
{
    struct call call;

    call_put(c->peers[i].box, &call, key, value, 0);
    server_submit(server_at(c, i), &call.request);
    return cluster_wait(c, &call);
}

static inline void cluster_puts(struct cluster *c, size_t i, int n)
{
    for (int k = 0; k < n; k++) {
        char *key = mem_printf("key-%d", k % 40), *value = mem_printf("value-%d", k);
        check(cluster_put(c, i, key, value) == OUTCOME_OK);
        free(key);
        free(value);
    }
}
