/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport: its life, the links it has, and the way of a message out and in.
 *
 *   raft's thread ── send ──> link ──┬─ append, and there is a msgapp stream ──> writer
 *                                    ├─ there is a message stream ────────────> writer
 *                                    └─ else ─────────────────────────────────> pipeline
 *   the loop <── readers, POST /raft ── other members        ── deliver ──> raft's inbox
 *
 * I1. The loop alone changes the table of links, under the write lock. Whoever has the read lock
 * may use a link; so it is freed after it has left the table, when no task for it is under way.
 * I2. Whatever enters from another thread looks at `stopped` under the read lock and posts to the
 * loop before it gives the lock back. So the stop's own task is behind all of them.
 * I3. The loop ends when nothing that was lent out is left: requests that the server holds,
 * snapshots on their way, fetches.
 *
 * Thread: the composition root's for new, start, stop and free; ops as transport.h says.
 */
#include "api/peer_private.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

const struct peer_timing peer_timing_default = {.heartbeat = 5000 / 3,
                                                .silence = 5000,
                                                .redial = 100,
                                                .probe = 4000,
                                                .post = 5000,
                                                .request = 5000,
                                                .idle = 10000,
                                                .snapshot_answer = 600000};

static struct peer *peer_of(struct transport *t)
{
    return container_of(t, struct peer, transport);
}

uint64_t peer_dial_ms(const struct peer *p)
{
    return 1000 + p->config->election_timeout_ms;
}

/* ---- out: raft's thread ---- */

/* What of the messages at hand goes to one member, in whose writers a batch may be begun. */
struct batch {
    struct peer_link *link;
    bool tried[PEER_STREAMS];
    bool begun[PEER_STREAMS];
    bool dropped; /* for want of room */
    bool logged;
};

enum { BATCHES_MAX = 8 }; /* members at a time; the messages to more come in several rounds */

static bool batch_begin(struct batch *b, enum peer_stream_kind kind)
{
    if (!b->tried[kind])
        b->begun[kind] = peer_writer_begin(&b->link->writers[kind]);
    b->tried[kind] = true;
    return b->begun[kind];
}

static void batch_drop(struct batch *b, const struct raft_message *m, int reason)
{
    bool unsafe = reason == PEER_MESSAGE_E_UNSAFE;

    metric_add(&b->link->metrics->sent_failures, 1);
    b->dropped |= !unsafe;
    if (b->logged)
        return;
    b->logged = true;
    log_warn(unsafe ? "dropped a message that its receiver would not survive"
                    : "dropped internal Raft message since sending buffer is full",
             LOG_U64("message-type", m->type), LOG_ID("remote-peer-id", b->link->id),
             LOG_BOOL("remote-peer-active", atomic_load(&b->link->active_since_ms) != 0),
             LOG_STR("error", unsafe ? peer_message_unsafe(m) : "full"));
}

static void batch_add(struct batch *b, const struct raft_message *m)
{
    struct peer_link *link = b->link;
    int r;

    if (m->type == RAFT_MSG_APP && batch_begin(b, PEER_STREAM_MSGAPP))
        r = peer_writer_add(&link->writers[PEER_STREAM_MSGAPP], m);
    else if (batch_begin(b, PEER_STREAM_MESSAGE))
        r = peer_writer_add(&link->writers[PEER_STREAM_MESSAGE], m);
    else
        r = peer_pipeline_send(&link->pipeline, m);
    if (r != 0)
        batch_drop(b, m, r);
}

static void batches_end(struct batch *batches, size_t n)
{
    for (struct batch *b = batches; b < batches + n; b++) {
        for (int kind = 0; kind < PEER_STREAMS; kind++) {
            if (b->begun[kind])
                peer_writer_end(&b->link->writers[kind]);
        }
        if (b->dropped && b->link->is_member)
            server_peer_unreachable(b->link->peer->server, b->link->id);
    }
}

/* NULL: nobody knows that member. */
static struct batch *batch_of(struct peer *p, struct batch *batches, size_t *n, uint64_t to)
{
    for (size_t i = 0; i < *n; i++) {
        if (batches[i].link->id == to)
            return &batches[i];
    }
    struct peer_link *link = map_u64_get(&p->links, to);
    if (!link)
        return NULL;
    if (*n == BATCHES_MAX) {
        batches_end(batches, *n);
        *n = 0;
    }
    batches[*n] = (struct batch){.link = link};
    return &batches[(*n)++];
}

static void peer_send(struct transport *t, const struct raft_message *messages, size_t n)
{
    struct peer *p = peer_of(t);
    struct batch batches[BATCHES_MAX], *b;
    size_t n_batches = 0;

    pthread_rwlock_rdlock(&p->links_lock);
    for (size_t i = 0; i < n && !atomic_load(&p->stopped); i++) {
        b = batch_of(p, batches, &n_batches, messages[i].to);
        if (b)
            batch_add(b, &messages[i]);
    }
    batches_end(batches, n_batches);
    pthread_rwlock_unlock(&p->links_lock);
}

/* ---- in: the loop ---- */

static void refused(struct peer *p, struct peer_link *link, const struct raft_message *m,
                    enum peer_verdict verdict)
{
    static const char *const why[] = {[PEER_FULL] = "the receiving buffer is full",
                                      [PEER_WRONG_TO] = "it is addressed to another member",
                                      [PEER_REMOVED] = "its sender was removed",
                                      [PEER_INVALID] = "it is not for raft",
                                      [PEER_STOPPED] = "the server is stopping"};

    peer_refused_message(p, verdict, m);
    if (!link)
        return;
    metric_add(&link->metrics->received_failures, 1);
    if (verdict != PEER_STOPPED && peer_link_may_log(link))
        log_warn(verdict == PEER_FULL ? "dropped internal Raft message since receiving buffer is "
                                        "full (overloaded network)"
                                      : "failed to process Raft message",
                 LOG_ID("local-member-id", p->identity.member_id), LOG_ID("from", m->from),
                 LOG_ID("to", m->to), LOG_U64("message-type", m->type),
                 LOG_STR("error", why[verdict]));
}

enum peer_verdict peer_deliver(struct peer *p, struct peer_link *link, const struct peer_message *m)
{
    enum peer_verdict verdict = server_peer_message(p->server, &m->raft);

    if (link)
        metric_add(&link->metrics->received_bytes, m->encoded_bytes);
    if (verdict != PEER_OK)
        refused(p, link, &m->raft, verdict);
    return verdict;
}

void peer_removed(struct peer *p)
{
    server_peer_we_are_removed(p->server);
}

/* ---- the links ---- */

struct peer_link *peer_link_find(const struct peer *p, uint64_t id)
{
    return map_u64_get(&p->links, id);
}

static struct peer_link *link_add(struct peer *p, uint64_t id, struct url_list *urls)
{
    struct peer_link *link = peer_link_new(p, id, urls);

    pthread_rwlock_wrlock(&p->links_lock);
    check(!map_u64_put(&p->links, id, link));
    pthread_rwlock_unlock(&p->links_lock);
    return link;
}

static void link_drop(struct peer *p, struct peer_link *link)
{
    pthread_rwlock_wrlock(&p->links_lock);
    check(map_u64_remove(&p->links, link->id) == link);
    pthread_rwlock_unlock(&p->links_lock);
    p->n_remotes -= !link->is_member;
    log_info("removed remote peer", LOG_ID("local-member-id", p->identity.member_id),
             LOG_ID("removed-remote-peer-id", link->id));
    peer_link_remove(link);
}

static void split(struct bytes urls, struct string_list *ret)
{
    _cleanup_(mem_freep) char *text = mem_strndup((const char *)urls.data, urls.len);
    char *rest = text, *word;

    *ret = (struct string_list){.items = mem_alloc((urls.len + 1) * sizeof(char *))};
    while ((word = strsep(&rest, ",")))
        ret->items[ret->len++] = mem_strdup(word);
}

/* The one that was not heard of for longest makes room: whoever invents members must not keep a
 * real one out. */
static void remotes_make_room(struct peer *p)
{
    struct peer_link *link, *oldest = NULL;
    size_t pos = 0;

    if (p->n_remotes < PEER_REMOTES_MAX)
        return;
    while ((link = map_u64_next(&p->links, &pos, NULL))) {
        if (!link->is_member && (!oldest || link->heard < oldest->heard))
            oldest = link;
    }
    link_drop(p, oldest);
}

void peer_remote_add(struct peer *p, uint64_t id, struct bytes text)
{
    _cleanup_(string_list_deinit) struct string_list words = {NULL, 0};
    struct peer_link *link = peer_link_find(p, id);
    struct url_list urls;

    if (link)
        link->heard = ++p->n_heard;
    if (link || id == 0 || id == p->identity.member_id || text.len == 0 ||
        server_peer_is_removed(p->server, id))
        return;
    split(text, &words);
    if (!peer_urls_read(words.items, words.len, &urls))
        return;
    remotes_make_room(p);
    link_add(p, id, &urls)->heard = ++p->n_heard;
    p->n_remotes++;
    log_info("added new remote peer", LOG_ID("local-member-id", p->identity.member_id),
             LOG_ID("remote-peer-id", id), LOG_BYTES("remote-peer-urls", text));
}

/* ---- the member table ---- */

struct table_row {
    uint64_t id;
    struct string_list urls;
};

struct table {
    struct table_row rows[PEER_LINKS_MAX];
    size_t len;
};

static void table_visit(void *arg, const struct member *m)
{
    struct table *t = arg;

    if (t->len == PEER_LINKS_MAX)
        return;
    struct table_row *row = &t->rows[t->len++];
    row->id = m->id;
    row->urls.items = mem_alloc((m->n_peer_urls + 1) * sizeof(char *));
    for (size_t i = 0; i < m->n_peer_urls; i++)
        row->urls.items[row->urls.len++] = mem_strdup(m->peer_urls[i]);
}

static void row_apply(struct peer *p, const struct table_row *row)
{
    struct peer_link *link = peer_link_find(p, row->id);
    bool was_remote = link && !link->is_member;
    struct url_list urls;

    if (row->id == p->identity.member_id || !peer_urls_read(row->urls.items, row->urls.len, &urls))
        return;
    if (link)
        peer_link_update(link, &urls);
    else
        link = link_add(p, row->id, &urls);
    link->seen = true;
    if (link->is_member)
        return;
    p->n_remotes -= was_remote;
    pthread_rwlock_wrlock(&p->links_lock);
    link->is_member = true;
    pthread_rwlock_unlock(&p->links_lock);
    peer_link_start(link);
    log_info("added remote peer", LOG_ID("local-member-id", p->identity.member_id),
             LOG_ID("remote-peer-id", link->id),
             LOG_STRS("remote-peer-urls", (const char *const *)row->urls.items, row->urls.len));
}

/* Those that are gone from the table, and remotes whose ids were removed meanwhile. */
static void links_sweep(struct peer *p)
{
    struct peer_link *gone[PEER_LINKS_MAX + PEER_REMOTES_MAX], *link;
    size_t n = 0, pos = 0;

    while ((link = map_u64_next(&p->links, &pos, NULL))) {
        bool keep = link->is_member ? link->seen : !server_peer_is_removed(p->server, link->id);
        link->seen = false;
        if (!keep)
            gone[n++] = link;
    }
    while (n > 0)
        link_drop(p, gone[--n]);
}

static void members_read(struct peer_task *task)
{
    struct peer *p = container_of(task, struct peer, members_task);

    if (!p->started || p->stopping)
        return;
    struct table *table = mem_new(struct table);
    server_peer_visit(p->server, table_visit, table);
    for (size_t i = 0; i < table->len; i++) {
        row_apply(p, &table->rows[i]);
        string_list_deinit(&table->rows[i].urls);
    }
    free(table);
    links_sweep(p);
}

static void peer_members_changed(struct transport *t)
{
    struct peer *p = peer_of(t);

    pthread_rwlock_rdlock(&p->links_lock);
    if (!atomic_load(&p->stopped))
        peer_loop_post(&p->loop, &p->members_task);
    pthread_rwlock_unlock(&p->links_lock);
}

/* ---- questions ---- */

static uint64_t peer_active_ms(struct transport *t, uint64_t member_id)
{
    struct peer *p = peer_of(t);
    uint64_t since_ms = 0, now_ms = clock_mono_ms();

    pthread_rwlock_rdlock(&p->links_lock);
    struct peer_link *link = map_u64_get(&p->links, member_id);
    if (link && link->is_member)
        since_ms = atomic_load(&link->active_since_ms);
    pthread_rwlock_unlock(&p->links_lock);
    if (since_ms == 0)
        return 0;
    return now_ms > since_ms ? now_ms - since_ms : 1;
}

static bool peer_wants_tables(struct transport *t, uint64_t member_id)
{
    struct peer *p = peer_of(t);

    pthread_rwlock_rdlock(&p->links_lock);
    struct peer_link *link = map_u64_get(&p->links, member_id);
    bool wants = link && atomic_load(&link->takes_tables);
    pthread_rwlock_unlock(&p->links_lock);
    return wants;
}

static const struct transport_ops ops = {.send = peer_send,
                                         .send_snapshot = peer_send_snapshot,
                                         .members_changed = peer_members_changed,
                                         .active_ms = peer_active_ms,
                                         .fetch = peer_fetch,
                                         .wants_tables = peer_wants_tables};

struct transport *peer_transport(struct peer *p)
{
    return &p->transport;
}

/* ---- stop ---- */

void peer_stop_go_on(struct peer *p)
{
    if (p->stopping && peer_serve_idle(p) && list_empty(&p->sends) && list_empty(&p->receives))
        peer_loop_end(&p->loop);
}

static void stop_run(struct peer_task *task)
{
    struct peer *p = container_of(task, struct peer, stop_task);
    size_t pos = 0;
    struct peer_link *link;

    p->stopping = true;
    while ((link = map_u64_next(&p->links, &pos, NULL))) {
        link_drop(p, link);
        pos = 0;
    }
    peer_fetch_stop(p);
    peer_snapshots_stop(p);
    peer_serve_stop(p);
    peer_pool_close(&p->pool);
    peer_stop_go_on(p);
}

void peer_stop(struct peer *p)
{
    pthread_rwlock_wrlock(&p->links_lock);
    bool stopped = atomic_exchange(&p->stopped, true);
    pthread_rwlock_unlock(&p->links_lock);
    if (stopped)
        return;
    peer_loop_post(&p->loop, &p->stop_task);
    peer_loop_join(&p->loop);
}

/* ---- start ---- */

static void start_run(struct peer_task *task)
{
    struct peer *p = container_of(task, struct peer, start_task);

    p->started = true;
    peer_listen_start(p);
    members_read(&p->members_task);
}

static void identity_set(struct peer *p)
{
    const struct url_list *urls = &p->config->initial_advertise_peer_urls;
    struct server_info info;

    server_info(p->server, &info);
    for (size_t i = 0; i < urls->len; i++) {
        buf_append_str(&p->own_urls, i > 0 ? "," : "");
        buf_append_str(&p->own_urls, urls->items[i].text);
    }
    p->identity = (struct peer_identity){.member_id = info.member_id,
                                         .cluster_id = info.cluster_id,
                                         .peer_urls = buf_bytes(&p->own_urls),
                                         .takes_tables = true};
}

int peer_start(struct peer *p, struct server *server)
{
    check(!p->server);
    p->server = server;
    identity_set(p);
    int r = peer_listen_open(p);
    if (r == 0)
        peer_loop_post(&p->loop, &p->start_task);
    return r;
}

int peer_new(struct peer **ret, const struct config *config)
{
    struct peer *p = mem_new(struct peer);

    p->transport.ops = &ops;
    p->config = config;
    p->timing = peer_timing_default;
    p->members_task.run = members_read;
    p->start_task.run = start_run;
    p->stop_task.run = stop_run;
    check(pthread_rwlock_init(&p->links_lock, NULL) == 0);
    list_init(&p->served);
    list_init(&p->fetches);
    list_init(&p->sends);
    list_init(&p->receives);
    p->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r = p->stop_fd < 0 ? err_origin(-errno) : peer_loop_init(&p->loop);
    if (r == 0) {
        peer_pool_init(&p->pool, &p->loop);
        r = peer_loop_start(&p->loop);
    }
    if (r != 0) {
        atomic_store(&p->stopped, true);
        peer_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

struct peer *peer_free(struct peer *p)
{
    if (!p)
        return NULL;
    peer_stop(p);
    check(p->links.len == 0);
    peer_listen_close(p);
    peer_loop_deinit(&p->loop);
    if (p->stop_fd >= 0)
        close(p->stop_fd);
    map_u64_deinit(&p->links);
    buf_deinit(&p->own_urls);
    pthread_rwlock_destroy(&p->links_lock);
    free(p);
    return NULL;
}
