/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport of api/peer.c with the simplest of followers behind it: it keeps the terms of its
 * log in memory, acknowledges what fits, votes for nobody, applies nothing, and proposes a name for
 * itself. Among members of etcd it counts for a quorum all the same, so that what it says and hears
 * can be judged by them.
 *
 *     peer_follower ID CLUSTER URL DIR { ID=URL }*
 *
 * It ends when its input does. For each line of input it writes one:
 *
 *     term commit last heartbeats appends rejected snapshots snapshot_bytes active removed
 *
 * Thread: the loop's for all that the transport calls, main for the rest; one lock.
 */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/peer.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/lessor.h"
#include "server/peer_door.h"

enum { OTHERS_MAX = 8, LOG_MAX = 1 << 20 };

struct server {
    struct config config;
    struct server_info info;
    struct transport *transport;
    const char *dir;
    char *urls[OTHERS_MAX];
    uint64_t ids[OTHERS_MAX];
    size_t n_members;

    pthread_mutex_t lock;
    uint64_t term, commit, last;
    uint64_t *terms; /* of the entries, by index; 0: none, or before the snapshot */
    uint64_t heartbeats, appends, rejected, snapshots, snapshot_bytes;
    bool named; /* the proposal was sent */
    bool removed;
};

/* ---- the follower; under the lock ---- */

static void answer(struct server *s, const struct raft_message *m, enum raft_message_type type,
                   struct raft_message reply)
{
    reply.type = type;
    reply.from = s->info.member_id;
    reply.to = m->from;
    reply.term = s->term;
    s->transport->ops->send(s->transport, &reply, 1);
}

static void reject(struct server *s, const struct raft_message *m)
{
    uint64_t hint = m->index < s->last ? m->index : s->last;

    while (hint > 0 && s->terms[hint] > m->log_term)
        hint--;
    s->rejected++;
    answer(s, m, RAFT_MSG_APP_RESP,
           (struct raft_message){
               .index = m->index, .reject = true, .reject_hint = hint, .log_term = s->terms[hint]});
}

static void append(struct server *s, const struct raft_message *m)
{
    s->appends++;
    if (m->index < s->commit) {
        answer(s, m, RAFT_MSG_APP_RESP, (struct raft_message){.index = s->commit});
        return;
    }
    if (m->index > s->last || s->terms[m->index] != m->log_term ||
        m->index + m->n_entries >= LOG_MAX) {
        reject(s, m);
        return;
    }
    uint64_t last = m->index + m->n_entries;
    bool differs = last > s->last;
    for (size_t i = 0; i < m->n_entries; i++) {
        uint64_t index = m->index + 1 + i;
        differs |= s->terms[index] != m->entries[i].term;
        s->terms[index] = m->entries[i].term;
    }
    if (differs)
        s->last = last;
    if (m->commit > s->commit)
        s->commit = m->commit < last ? m->commit : last;
    answer(s, m, RAFT_MSG_APP_RESP, (struct raft_message){.index = last});
}

static void restore(struct server *s, const struct raft_message *m)
{
    if (m->snapshot->index > s->commit && m->snapshot->index < LOG_MAX) {
        memset(s->terms, 0, LOG_MAX * sizeof(*s->terms));
        s->last = s->commit = m->snapshot->index;
        s->terms[s->last] = m->snapshot->term;
    }
    answer(s, m, RAFT_MSG_APP_RESP, (struct raft_message){.index = s->commit});
}

static void field_append(struct buf *out, unsigned number, struct bytes value)
{
    buf_append_varint(out, number << 3 | 2);
    buf_append_varint(out, value.len);
    buf_append_bytes(out, value);
}

/* A member without a name has not started, to etcd. An InternalRaftRequest: header and
 * cluster_member_attr_set. */
static void propose_name(struct server *s, uint64_t leader)
{
    _cleanup_(buf_deinit) struct buf header = BUF_NULL, attributes = BUF_NULL, set = BUF_NULL,
                                     request = BUF_NULL;

    buf_append_u8(&header, 1 << 3);
    buf_append_varint(&header, s->info.member_id << 48 | 1);
    field_append(&request, 100, buf_bytes(&header));
    field_append(&attributes, 1, BYTES_LIT("follower"));
    field_append(&attributes, 2, BYTES_LIT("http://127.0.0.1:1"));
    buf_append_u8(&set, 1 << 3);
    buf_append_varint(&set, s->info.member_id);
    field_append(&set, 2, buf_bytes(&attributes));
    field_append(&request, 1301, buf_bytes(&set));
    struct raft_entry entry = {.data = blob_copy(buf_bytes(&request))};
    struct raft_message m = {.type = RAFT_MSG_PROP,
                             .from = s->info.member_id,
                             .to = leader,
                             .entries = &entry,
                             .n_entries = 1};
    s->transport->ops->send(s->transport, &m, 1);
    blob_unref(entry.data);
    s->named = true;
}

static void step(struct server *s, const struct raft_message *m)
{
    if (m->type == RAFT_MSG_VOTE || m->type == RAFT_MSG_PRE_VOTE) {
        answer(s, m, m->type == RAFT_MSG_VOTE ? RAFT_MSG_VOTE_RESP : RAFT_MSG_PRE_VOTE_RESP,
               (struct raft_message){.reject = true});
        return;
    }
    if (m->term > s->term)
        s->term = m->term;
    if (m->type == RAFT_MSG_APP) {
        append(s, m);
    } else if (m->type == RAFT_MSG_SNAP) {
        restore(s, m);
    } else if (m->type == RAFT_MSG_HEARTBEAT) {
        s->heartbeats++;
        if (m->commit > s->commit)
            s->commit = m->commit < s->last ? m->commit : s->last;
        answer(s, m, RAFT_MSG_HEARTBEAT_RESP, (struct raft_message){.context = m->context});
        if (!s->named && s->commit > 0)
            propose_name(s, m->from);
    }
}

/* ---- the door ---- */

const struct config *server_config(const struct server *s)
{
    return &s->config;
}

void server_info(struct server *s, struct server_info *ret)
{
    *ret = s->info;
}

enum peer_verdict server_peer_message(struct server *s, const struct raft_message *m)
{
    if (m->to != s->info.member_id)
        return PEER_WRONG_TO;
    pthread_mutex_lock(&s->lock);
    step(s, m);
    pthread_mutex_unlock(&s->lock);
    return PEER_OK;
}

void server_peer_unreachable(struct server *s, uint64_t member_id)
{
    log_info("told that a member is unreachable", LOG_ID("member-id", member_id));
}

void server_peer_we_are_removed(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    s->removed = true;
    pthread_mutex_unlock(&s->lock);
}

char *server_peer_snapshot_path(struct server *s, uint64_t index)
{
    return mem_printf("%s/%016" PRIx64 ".db", s->dir, index);
}

enum peer_verdict server_peer_snapshot_then(struct server *s, const struct raft_message *m,
                                            const char *path, void (*done)(void *arg, bool ok),
                                            void *arg)
{
    struct stat st = {0};

    (void)!stat(path, &st);
    pthread_mutex_lock(&s->lock);
    s->snapshots++;
    s->snapshot_bytes = (uint64_t)st.st_size;
    step(s, m);
    pthread_mutex_unlock(&s->lock);
    done(arg, true);
    return PEER_OK;
}

bool server_peer_is_removed(struct server *s, uint64_t member_id)
{
    return false;
}

void server_peer_visit(struct server *s, void (*visit)(void *arg, const struct member *m),
                       void *arg)
{
    for (size_t i = 0; i < s->n_members; i++)
        visit(arg, &(struct member){.id = s->ids[i], .peer_urls = &s->urls[i], .n_peer_urls = 1});
}

void server_peer_members(struct server *s, struct buf *response)
{
    buf_append_str(response, "[]\n");
}

enum outcome server_peer_hash_kv(struct server *s, int64_t revision, struct buf *response)
{
    return OUTCOME_COMPACTED;
}

bool server_scan(struct server *s, struct scan_job *job)
{
    return false;
}

bool server_read_index(struct server *s, struct request *request)
{
    request->finish(request, OUTCOME_OK);
    return false;
}

bool server_cancel(struct server *s, struct request *request)
{
    return false;
}

void server_promote_member(struct server *s, struct request *request, uint64_t member_id)
{
    request->finish(request, OUTCOME_STOPPED);
}

void server_peer_lease_renew(struct server *s, struct request *request, int64_t id)
{
    request->finish(request, OUTCOME_NOT_PRIMARY);
}

void server_peer_lease_time_to_live(struct server *s, struct request *request, int64_t id,
                                    bool keys)
{
    request->finish(request, OUTCOME_NOT_PRIMARY);
}

int server_peer_promote_answer(const struct request *request, enum outcome outcome,
                               struct buf *body, bool *ret_json)
{
    *ret_json = false;
    return 500;
}

bool server_peer_downgrade_enabled(struct server *s)
{
    return false;
}

/* ---- main ---- */

static unsigned active(struct server *s)
{
    unsigned n = 0;

    for (size_t i = 0; i < s->n_members; i++)
        n += s->transport->ops->active_ms(s->transport, s->ids[i]) > 0;
    return n;
}

static void report(struct server *s)
{
    unsigned n = active(s);

    pthread_mutex_lock(&s->lock);
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
           " %" PRIu64 " %u %d\n",
           s->term, s->commit, s->last, s->heartbeats, s->appends, s->rejected, s->snapshots,
           s->snapshot_bytes, n, s->removed);
    pthread_mutex_unlock(&s->lock);
    fflush(stdout);
}

/* "ID=URL" */
static bool member_add(struct server *s, char *text)
{
    char *equals = strchr(text, '=');

    if (!equals || s->n_members == OTHERS_MAX)
        return false;
    s->ids[s->n_members] = strtoull(text, NULL, 16);
    s->urls[s->n_members++] = equals + 1;
    return true;
}

static bool arguments(struct server *s, int argc, char **argv)
{
    char *error = NULL;

    if (argc < 5 || url_list_parse(argv[3], &s->config.listen_peer_urls, &error) != 0 ||
        url_list_parse(argv[3], &s->config.initial_advertise_peer_urls, &error) != 0)
        return false;
    s->info.member_id = strtoull(argv[1], NULL, 16);
    s->info.cluster_id = strtoull(argv[2], NULL, 16);
    s->dir = argv[4];
    for (int i = 5; i < argc; i++) {
        if (!member_add(s, argv[i]))
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct server s = {.lock = PTHREAD_MUTEX_INITIALIZER,
                       .config = {.election_timeout_ms = 1000, .max_request_bytes = 1536 * 1024},
                       .info = {.cluster_version = "3.7.0"}};
    struct peer *peer;
    char line[16];

    signal(SIGPIPE, SIG_IGN);
    if (!arguments(&s, argc, argv)) {
        fprintf(stderr, "peer_follower ID CLUSTER URL DIR { ID=URL }*\n");
        return 2;
    }
    s.terms = mem_alloc(LOG_MAX * sizeof(*s.terms));
    if (peer_new(&peer, &s.config) != 0)
        return 1;
    s.transport = peer_transport(peer);
    if (peer_start(peer, &s) != 0)
        return 1;
    while (fgets(line, sizeof(line), stdin))
        report(&s);
    peer_stop(peer);
    peer_free(peer);
    url_list_deinit(&s.config.listen_peer_urls);
    url_list_deinit(&s.config.initial_advertise_peer_urls);
    free(s.terms);
    return 0;
}
