/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Endpoints of the peer port whose answer the server gives later: hashes go through the scan
 * threads, promotions and /downgrade/enabled through the wait table.
 *
 * A connection waits in PEER_SERVE_WAITING. What the server has answered comes back as a task of
 * the loop, also if it has answered at once.
 *
 * Thread: the loop; finish() and run() of what the server is asked any.
 */
#include "api/peer_serve.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <strings.h>

#include "api/status.h"

/* ---- /members/hashkv ---- */

enum peer_step peer_ask_hash_head(struct peer_serve *s)
{
    struct bytes id;

    if (http_header_find(s->head.headers, "X-Etcd-Cluster-ID", &id) && id.len > 0 &&
        !peer_id_is(id, s->peer->identity.cluster_id))
        return peer_serve_error(s, 412, "cluster ID mismatch\n");
    return PEER_STEP_BODY;
}

/* As Go reads {"revision":N}: any case, null is nothing, the last one counts. */
static bool hash_request_read(struct bytes body, int64_t *ret)
{
    json_t *json = json_loadb((const char *)body.data, body.len, JSON_DECODE_ANY, NULL), *value;
    bool ok = json_is_object(json) || json_is_null(json);
    const char *key;

    *ret = 0;
    json_object_foreach(json, key, value)
    {
        if (strcasecmp(key, "revision") != 0 || json_is_null(value))
            continue;
        ok &= json_is_integer(value);
        *ret = json_integer_value(value);
    }
    json_decref(json);
    return ok;
}

static void hash_run(struct scan_job *job)
{
    struct peer_serve *s = container_of(job, struct peer_serve, job);

    s->outcome = server_peer_hash_kv(s->peer->server, s->revision, &s->result);
    peer_serve_resume(s);
}

enum peer_step peer_ask_hash_finish(struct peer_serve *s)
{
    if (!hash_request_read(buf_bytes(&s->body_bytes), &s->revision))
        return peer_serve_error(s, 400, "error unmarshalling request\n");
    s->job = (struct scan_job){.run = hash_run};
    return server_scan(s->peer->server, &s->job)
               ? PEER_STEP_WAIT
               : peer_serve_error(s, 500, "etcdserver: too many requests\n");
}

void peer_ask_hash_resume(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    switch (s->outcome) {
    case OUTCOME_OK: peer_serve_json(s, &s->result, true); return;
    case OUTCOME_COMPACTED:
        buf_append_str(&text, "mvcc: required revision has been compacted\n");
        break;
    case OUTCOME_FUTURE_REVISION:
        buf_append_str(&text, "mvcc: required revision is a future revision\n");
        break;
    default: buf_printf(&text, "%s\n", status_of(s->outcome)->text);
    }
    peer_serve_error(s, 400, buf_cstr(&text));
}

/* ---- /downgrade/enabled ---- */

static void request_finished(struct request *request, enum outcome outcome)
{
    struct peer_serve *s = container_of(request, struct peer_serve, request);

    s->outcome = outcome;
    peer_serve_resume(s);
}

enum peer_step peer_ask_downgrade_finish(struct peer_serve *s)
{
    s->request = (struct request){.kind = REQUEST_READ_INDEX, .finish = request_finished};
    server_read_index(s->peer->server, &s->request);
    return PEER_STEP_WAIT;
}

void peer_ask_downgrade_resume(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    bool enabled = s->outcome == OUTCOME_OK && server_peer_downgrade_enabled(s->peer->server);

    if (s->outcome != OUTCOME_OK) {
        buf_printf(&text, "failed linearized read: %s\n", status_of(s->outcome)->text);
        peer_serve_cluster_error(s, 500, buf_cstr(&text));
        return;
    }
    peer_serve_answer(s, (struct peer_answer){.status = 200,
                                              .content_type = "text/plain",
                                              .with_cluster = true,
                                              .body = bytes_str(enabled ? "true" : "false")});
}

/* ---- /members/promote ---- */

static bool decimal_read(const char *text, uint64_t *ret)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return !*end && errno == 0;
}

enum peer_step peer_ask_promote_finish(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    const char *id_text = buf_cstr(&s->path) + strlen(PEER_PROMOTE_PREFIX);
    struct bytes token = BYTES_NULL;
    uint64_t id;

    if (!decimal_read(id_text, &id)) {
        buf_printf(&text, "member %s not found in cluster\n", id_text);
        return peer_serve_cluster_error(s, 404, buf_cstr(&text));
    }
    (void)http_header_find(s->head.headers, "Authorization", &token);
    s->request = (struct request){.credentials.token = token, .finish = request_finished};
    server_promote_member(s->peer->server, &s->request, id);
    return PEER_STEP_WAIT;
}

void peer_ask_promote_resume(struct peer_serve *s)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    bool json;
    int status = server_peer_promote_answer(&s->request, s->outcome, &body, &json);

    buf_deinit(&s->request.response);
    if (json)
        peer_serve_answer(s, (struct peer_answer){.status = status,
                                                  .content_type = "application/json",
                                                  .with_cluster = true,
                                                  .body = buf_bytes(&body)});
    else
        peer_serve_cluster_error(s, status, buf_cstr(&body));
}
