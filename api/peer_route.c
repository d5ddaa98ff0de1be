/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the peer port answers: etcd 3.7.1's paths, in its order of checks, with its codes and texts.
 *
 * /raft/stream/... and /raft/snapshot take the connection away from here; what the server is asked
 * and answers later is in peer_ask.c and peer_lease.c.
 *
 * Thread: the loop.
 */
#include "api/peer_serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"
#include "server/lease_wire.h"

enum { SMALL_BODY_BYTES_MAX = 64 << 10 };

#define STREAM_PREFIX "/raft/stream/"

void peer_route_wrong(struct peer_serve *s, const struct http_error *error)
{
    const char *colon = error->detail[0] ? ": " : "", *text = http_status_text(error->status);

    buf_printf(&s->conn->out,
               "HTTP/1.1 %d %s%s%s\r\nContent-Type: text/plain; charset=utf-8\r\n"
               "Connection: close\r\n\r\n%d %s%s%s",
               error->status, text, colon, error->detail, error->status, text, colon,
               error->detail);
}

/* ---- who asks ---- */

/* The checks that all of /raft but the probes share. True: go on. */
static bool sender_ok(struct peer_serve *s, struct peer_sender *ret, bool is_stream,
                      enum peer_step *ret_step)
{
    struct peer *p = s->peer;
    int r = peer_sender_check(s->head.headers, p->identity.cluster_id, ret);
    struct peer_answer a = peer_answer_error(
        412, r == PEER_HEADER_E_VERSION ? "incompatible version\n" : "cluster ID mismatch\n");

    if (r == 0) {
        struct peer_link *link = peer_link_find(p, ret->from);
        if (link)
            atomic_store(&link->takes_tables, peer_takes_tables(s->head.headers));
        return true;
    }
    if (r == PEER_HEADER_E_TEXT) {
        *ret_step = PEER_STEP_CUT;
        return false;
    }
    peer_refused_sender(p, r, ret);
    a.with_cluster = true;
    a.with_version = is_stream;
    *ret_step = peer_serve_answer(s, a);
    return false;
}

/* ---- /raft ---- */

static enum peer_step raft_head(struct peer_serve *s)
{
    struct peer_sender sender;
    enum peer_step step;

    if (!sender_ok(s, &sender, false, &step))
        return step;
    peer_remote_add(s->peer, sender.from, sender.peer_urls);
    return PEER_STEP_BODY;
}

/* As etcd: the end of the body is missing, so that the sender can't take it for an answer. */
static enum peer_step raft_refused(struct peer_serve *s)
{
    static const char text[] = "error processing raft message\n";
    struct peer_answer a = peer_answer_error(500, "");

    a.with_cluster = true;
    a.endless = true;
    peer_serve_answer(s, a);
    buf_printf(&s->conn->out, "%zx\r\n%s\r\n", sizeof(text) - 1, text);
    s->keep_alive = false;
    s->cut = true;
    return PEER_STEP_ANSWERED;
}

/* Of a message that is not for raft: etcd looks at these two before it passes it over. */
static enum peer_verdict ignored_verdict(struct peer *p, const struct raft_message *m)
{
    if (server_peer_is_removed(p->server, m->from))
        return PEER_REMOVED;
    return m->to == p->identity.member_id ? PEER_OK : PEER_WRONG_TO;
}

static enum peer_step raft_finish(struct peer_serve *s)
{
    struct peer *p = s->peer;
    struct peer_message m = {0};
    enum peer_verdict verdict;
    int r = peer_message_decode(buf_bytes(&s->body_bytes), &m);

    if (r == PEER_MESSAGE_E_WIRE) {
        peer_message_deinit(&m);
        return peer_serve_cluster_error(s, 400, "error unmarshalling raft message\n");
    }
    if (r == PEER_MESSAGE_E_IGNORED) {
        verdict = ignored_verdict(p, &m.raft);
        peer_refused_message(p, verdict, &m.raft);
    } else {
        verdict = peer_deliver(p, peer_link_find(p, m.raft.from), &m);
    }
    peer_message_deinit(&m);
    if (verdict != PEER_OK)
        return raft_refused(s);
    return peer_serve_answer(s, (struct peer_answer){.status = 204, .with_cluster = true});
}

/* ---- /raft/snapshot ---- */

static enum peer_step snapshot_head(struct peer_serve *s)
{
    struct peer_sender sender;
    enum peer_step step;

    if (!sender_ok(s, &sender, false, &step))
        return step;
    peer_remote_add(s->peer, sender.from, sender.peer_urls);
    return peer_receive_begin(s, &sender);
}

/* ---- /raft/stream/{message,msgapp}/<from> ---- */

static enum peer_step stream_error(struct peer_serve *s, int status, const char *text)
{
    struct peer_answer a = peer_answer_error(status, text);

    a.with_cluster = true;
    a.with_version = true;
    return peer_serve_answer(s, a);
}

/* False: no such stream. *ret_from: what stands behind it. */
static bool stream_path_read(struct bytes path, enum peer_stream_kind *ret_kind,
                             struct bytes *ret_from)
{
    static const struct bytes prefixes[] = {
        [PEER_STREAM_MESSAGE] = BYTES_LIT(PEER_STREAM_PATH_MESSAGE),
        [PEER_STREAM_MSGAPP] = BYTES_LIT(PEER_STREAM_PATH_MSGAPP)};

    for (int kind = 0; kind < PEER_STREAMS; kind++) {
        size_t len = prefixes[kind].len;
        if (!bytes_has_prefix(path, prefixes[kind]))
            continue;
        *ret_kind = kind;
        *ret_from = bytes_of(path.data + len, path.len - len);
        return ret_from->len == 0 || !memchr(ret_from->data, '/', ret_from->len);
    }
    return false;
}

static enum peer_step stream_attach(struct peer_serve *s, struct peer_writer *w)
{
    struct peer_answer a = {
        .status = 200, .with_cluster = true, .with_version = true, .endless = true};
    struct buf rest;

    peer_serve_answer(s, a);
    struct peer_conn *conn = peer_serve_take(s, &rest);
    buf_deinit(&rest);
    peer_writer_attach(w, conn);
    return PEER_STEP_TAKEN;
}

static enum peer_step stream_head(struct peer_serve *s)
{
    struct peer *p = s->peer;
    enum peer_stream_kind kind;
    struct peer_sender sender;
    struct bytes from_text;
    enum peer_step step;
    uint64_t from;

    if (!sender_ok(s, &sender, true, &step))
        return step;
    if (!stream_path_read(buf_bytes(&s->path), &kind, &from_text))
        return stream_error(s, 404, "invalid path\n");
    if (!peer_id_parse(from_text, &from)) {
        peer_refused_path(p, from_text);
        return stream_error(s, 404, "invalid from\n");
    }
    if (server_peer_is_removed(p->server, from)) {
        peer_refused_removed(p, from);
        return stream_error(s, 410, "removed member\n");
    }
    struct peer_link *link = peer_link_find(p, from);
    if (!link || !link->is_member) {
        peer_remote_add(p, from, sender.peer_urls);
        peer_refused_unknown(p, from);
        return stream_error(s, 404, "error sender not found\n");
    }
    if (!peer_id_is(sender.to, p->identity.member_id)) {
        peer_refused_to(p, from, sender.to);
        return stream_error(s, 412, "to field mismatch\n");
    }
    return s->head.is_http10 ? PEER_STEP_CUT : stream_attach(s, &link->writers[kind]);
}

/* ---- /raft/probing, /version, /members ---- */

static enum peer_step probing_finish(struct peer_serve *s)
{
    uint64_t now_ns = clock_wall_ns();
    time_t now = (time_t)(now_ns / 1000000000);
    char date[32], text[96];
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text, sizeof(text), "{\"OK\":true,\"Now\":\"%s.%09" PRIu64 "Z\"}\n", date,
             now_ns % 1000000000);
    return peer_serve_answer(s, (struct peer_answer){.status = 200,
                                                     .content_type = "text/plain; charset=utf-8",
                                                     .body = bytes_str(text)});
}

static enum peer_step version_finish(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    struct server_info info;

    server_info(s->peer->server, &info);
    const char *cluster = info.cluster_version;
    buf_printf(&body, "{\"etcdserver\":\"%s\",\"etcdcluster\":\"%s\",\"storage\":\"%s\"}",
               SERVER_COMPATIBLE_VERSION, *cluster ? cluster : "not_decided",
               *cluster ? cluster : "unknown");
    return peer_serve_json(s, &body, false);
}

static enum peer_step members_finish(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;

    server_peer_members(s->peer->server, &body);
    if (body.len == 0 || body.data[body.len - 1] != '\n')
        buf_append_u8(&body, '\n');
    return peer_serve_json(s, &body, true);
}

/* ---- the table ---- */

static const struct peer_endpoint endpoints[] = {
    {.path = "/raft",
     .method = "POST",
     .body_bytes_max = PEER_BODIES_BYTES_MAX,
     .body_error = "error reading raft message\n",
     .head = raft_head,
     .finish = raft_finish},
    {.path = "/raft/snapshot", .method = "POST", .head = snapshot_head},
    {.path = STREAM_PREFIX, .is_prefix = true, .method = "GET", .head = stream_head},
    {.path = "/raft/probing", .body_bytes_max = SMALL_BODY_BYTES_MAX, .finish = probing_finish},
    {.path = "/version",
     .method = "GET",
     .body_bytes_max = SMALL_BODY_BYTES_MAX,
     .finish = version_finish},
    {.path = "/members",
     .method = "GET",
     .body_bytes_max = SMALL_BODY_BYTES_MAX,
     .finish = members_finish},
    {.path = "/members/hashkv",
     .method = "GET",
     .body_bytes_max = SMALL_BODY_BYTES_MAX,
     .body_error = "error reading body\n",
     .head = peer_ask_hash_head,
     .finish = peer_ask_hash_finish,
     .resume = peer_ask_hash_resume},
    {.path = PEER_PROMOTE_PREFIX,
     .is_prefix = true,
     .method = "POST",
     .body_bytes_max = SMALL_BODY_BYTES_MAX,
     .finish = peer_ask_promote_finish,
     .resume = peer_ask_promote_resume},
    {.path = LEASE_WIRE_RENEW_PATH,
     .method = "POST",
     .no_allow = true,
     .body_bytes_max = LEASE_WIRE_REQUEST_BYTES_MAX,
     .body_error = "error reading body\n",
     .says_too_large = true,
     .finish = peer_lease_renew_finish,
     .resume = peer_lease_renew_resume},
    {.path = LEASE_WIRE_LEFT_PATH,
     .method = "POST",
     .no_allow = true,
     .body_bytes_max = LEASE_WIRE_REQUEST_BYTES_MAX,
     .body_error = "error reading body\n",
     .says_too_large = true,
     .finish = peer_lease_left_finish,
     .resume = peer_lease_left_resume},
    {.path = "/downgrade/enabled",
     .method = "GET",
     .body_bytes_max = SMALL_BODY_BYTES_MAX,
     .finish = peer_ask_downgrade_finish,
     .resume = peer_ask_downgrade_resume},
};

static const struct peer_endpoint *endpoint_find(const char *path)
{
    for (size_t i = 0; i < sizeof(endpoints) / sizeof(endpoints[0]); i++) {
        const struct peer_endpoint *e = &endpoints[i];
        if (e->is_prefix ? strncmp(path, e->path, strlen(e->path)) == 0
                         : strcmp(path, e->path) == 0)
            return e;
    }
    return NULL;
}

enum peer_step peer_route_head(struct peer_serve *s)
{
    const struct peer_endpoint *e = endpoint_find(buf_cstr(&s->path));

    s->endpoint = e;
    if (!e)
        return peer_serve_error(s, 404, "404 page not found\n");
    if (e->method && !bytes_equal(s->head.method, bytes_str(e->method))) {
        struct peer_answer a = peer_answer_error(405, "Method Not Allowed\n");
        a.allow = e->no_allow ? NULL : e->method;
        return peer_serve_answer(s, a);
    }
    return e->head ? e->head(s) : PEER_STEP_BODY;
}

enum peer_step peer_route_body_too_long(struct peer_serve *s)
{
    if (s->endpoint->says_too_large)
        return peer_serve_error(s, 413, "request body too large\n");
    return peer_serve_error(s, 400,
                            s->endpoint->body_error ? s->endpoint->body_error
                                                    : "the request's body is too long\n");
}

enum peer_step peer_route_body_stalled(struct peer_serve *s)
{
    return s->endpoint->body_error ? peer_serve_cluster_error(s, 400, s->endpoint->body_error)
                                   : PEER_STEP_CUT;
}
