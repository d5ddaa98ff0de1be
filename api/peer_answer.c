/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Answers of the peer port, byte by byte as Go's net/http gives etcd's: fields in alphabetical
 * order, then Date, the body's length, Connection.
 *
 * Thread: any.
 */
#include "api/peer_serve.h"

#include <inttypes.h>


#define TEXT_PLAIN "text/plain; charset=utf-8"

struct peer_answer peer_answer_error(int status, const char *text)
{
    return (struct peer_answer){
        .status = status, .content_type = TEXT_PLAIN, .nosniff = true, .body = bytes_str(text)};
}

static void field(struct buf *out, const char *name, const char *value)
{
    if (value)
        buf_printf(out, "%s: %s\r\n", name, value);
}

void peer_answer_write(const struct peer *p, struct buf *out, const struct peer_answer *a)
{
    buf_printf(out, "HTTP/1.%d %d %s\r\n", !a->is_http10, a->status, http_status_text(a->status));
    field(out, "Allow", a->allow);
    field(out, "Content-Type", a->content_type);
    field(out, "Location", a->location);
    field(out, "X-Content-Type-Options", a->nosniff ? "nosniff" : NULL);
    field(out, PEER_TABLES_HEADER, a->with_version ? "1" : NULL);
    if (a->with_cluster)
        buf_printf(out, "X-Etcd-Cluster-Id: %" PRIx64 "\r\n", p->identity.cluster_id);
    field(out, "X-Server-Version", a->with_version ? PEER_VERSION : NULL);
    http_date_append(out);
    if (a->endless)
        buf_append_str(out, "Transfer-Encoding: chunked\r\n");
    else if (a->status != 204)
        buf_printf(out, "Content-Length: %zu\r\n", a->body.len);
    if (a->close && !a->endless)
        field(out, "Connection", a->is_http10 ? NULL : "close");
    else if (a->is_http10)
        field(out, "Connection", "keep-alive");
    buf_append_str(out, "\r\n");
    if (!a->no_body && !a->endless)
        buf_append_bytes(out, a->body);
}

/* ---- for an endpoint ---- */

enum peer_step peer_serve_answer(struct peer_serve *s, struct peer_answer a)
{
    a.is_http10 = s->head.is_http10;
    a.close = !s->keep_alive;
    a.no_body = bytes_equal(s->head.method, BYTES_LIT("HEAD"));
    peer_answer_write(s->peer, &s->conn->out, &a);
    return PEER_STEP_ANSWERED;
}

enum peer_step peer_serve_error(struct peer_serve *s, int status, const char *text)
{
    return peer_serve_answer(s, peer_answer_error(status, text));
}

enum peer_step peer_serve_cluster_error(struct peer_serve *s, int status, const char *text)
{
    struct peer_answer a = peer_answer_error(status, text);

    a.with_cluster = true;
    return peer_serve_answer(s, a);
}

enum peer_step peer_serve_json(struct peer_serve *s, const struct buf *body, bool with_cluster)
{
    return peer_serve_answer(s, (struct peer_answer){.status = 200,
                                                     .content_type = "application/json",
                                                     .with_cluster = with_cluster,
                                                     .body = buf_bytes(body)});
}
