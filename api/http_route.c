/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the HTTP side answers: status, headers and bodies as etcd 3.7.1 gives them on its client
 * port (/version, /health, /livez, /readyz, /metrics, with CORS headers, the host whitelist and
 * Go's path redirects) and on its metrics URLs (the last four only, and none of the rest).
 *
 * Thread: the HTTP side's.
 */
#include "api/http_conn.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/metrics.h"

#define TEXT_PLAIN "text/plain; charset=utf-8"
#define TEXT_METRICS "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"

struct answer {
    int status;
    const char *content_type; /* NULL: none */
    const char *allow;
    const char *location;
    bool nosniff;
    struct bytes body;
};

/* ---- writing ---- */

/* NULL: this origin gets no CORS headers. */
static const char *cors_origin(struct http_conn *c)
{
    const struct string_list *allowed = &server_config(c->http->server)->cors;
    const char *origin = buf_cstr(&c->origin);

    if (c->metrics_only)
        return NULL;
    if (allowed->len == 0 || strcmp(allowed->items[0], "*") == 0)
        return "*";
    for (size_t i = 0; i < allowed->len; i++) {
        if (strcmp(allowed->items[i], origin) == 0)
            return origin;
    }
    return NULL;
}

static void answer_write(struct http_conn *c, const struct answer *a)
{
    const char *origin = a->status == 421 ? NULL : cors_origin(c);
    bool head = strcmp(buf_cstr(&c->method), "HEAD") == 0;
    struct buf *out = &c->out;

    buf_printf(out, "HTTP/1.%d %d %s\r\n", !c->is_http10, a->status, http_status_text(a->status));
    if (origin)
        buf_printf(out,
                   "Access-Control-Allow-Headers: accept, content-type, authorization\r\n"
                   "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"
                   "Access-Control-Allow-Origin: %s\r\n",
                   origin);
    if (a->allow)
        buf_printf(out, "Allow: %s\r\n", a->allow);
    if (a->content_type)
        buf_printf(out, "Content-Type: %s\r\n", a->content_type);
    if (a->location)
        buf_printf(out, "Location: %s\r\n", a->location);
    if (a->nosniff)
        buf_append_str(out, "X-Content-Type-Options: nosniff\r\n");
    http_date_append(out);
    buf_printf(out, "Content-Length: %zu\r\n", a->body.len);
    if (!c->keep_alive)
        buf_append_str(out, c->is_http10 ? "" : "Connection: close\r\n");
    else if (c->is_http10)
        buf_append_str(out, "Connection: keep-alive\r\n");
    buf_append_str(out, "\r\n");
    if (!head)
        buf_append_bytes(out, a->body);
}

/* http.Error() of Go, with its text. */
static int answer_error(struct http_conn *c, int status, const char *allow, const char *text)
{
    struct answer a = {.status = status,
                       .content_type = TEXT_PLAIN,
                       .allow = allow,
                       .nosniff = true,
                       .body = bytes_str(text)};

    answer_write(c, &a);
    return 0;
}

void http_answer_error(struct http_conn *c, const struct http_error *error)
{
    const char *colon = error->detail[0] ? ": " : "", *text = http_status_text(error->status);

    c->keep_alive = false;
    buf_printf(
        &c->out,
        "HTTP/1.1 %d %s%s%s\r\nContent-Type: " TEXT_PLAIN "\r\nConnection: close\r\n\r\n%d %s%s%s",
        error->status, text, colon, error->detail, error->status, text, colon, error->detail);
}

/* ---- endpoints ---- */

static int answer_method_not_allowed(struct http_conn *c)
{
    return answer_error(c, 405, "GET", "Method Not Allowed\n");
}

static int version_answer(struct http_conn *c, struct server *server)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    struct server_info info;

    if (strcmp(buf_cstr(&c->method), "GET") != 0)
        return answer_method_not_allowed(c);
    server_info(server, &info);
    const char *version = info.cluster_version;
    buf_printf(&body, "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"%s\",\"storage\":\"%s\"}",
               *version ? version : "not_decided", *version ? version : "unknown");
    struct answer a = {.status = 200, .content_type = "application/json", .body = buf_bytes(&body)};
    answer_write(c, &a);
    return 0;
}

static int metrics_answer(struct http_conn *c)
{
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;

    metrics_render(&body);
    struct answer a = {.status = 200, .content_type = TEXT_METRICS, .body = buf_bytes(&body)};
    answer_write(c, &a);
    return 0;
}

static void health_answer(struct http_conn *c)
{
    struct health *h = &c->health;
    bool plain = h->kind == HEALTH_HEALTH && h->status == 200;
    struct answer a = {.status = h->status,
                       .content_type = TEXT_PLAIN,
                       .nosniff = !plain,
                       .body = buf_bytes(&h->text)};

    answer_write(c, &a);
    health_deinit(h);
    c->has_health = false;
}

static int health_start(struct http_conn *c, struct server *server, enum health_kind kind,
                        const char *name)
{
    if (strcmp(buf_cstr(&c->method), "GET") != 0) {
        log_warn("Health request error", LOG_STR("path", buf_cstr(&c->path)),
                 LOG_I64("status-code", 405));
        return answer_method_not_allowed(c);
    }
    health_begin(&c->health, kind, name, buf_bytes(&c->query), http_read_finished);
    c->has_health = true;
    int r = health_run(&c->health, server);
    if (r == 0)
        health_answer(c);
    return r;
}

int http_answer_resume(struct http_conn *c, struct server *server)
{
    check(c->has_health);
    health_resume(&c->health, server, c->outcome);
    int r = health_run(&c->health, server);
    if (r == 0)
        health_answer(c);
    return r;
}

/* "/livez" and "/livez/<check>"; *ret_check is "" or the name. */
static bool path_is_set(const char *path, const char *set, const char **ret_check)
{
    size_t len = strlen(set);

    if (strncmp(path, set, len) != 0 || (path[len] && path[len] != '/'))
        return false;
    *ret_check = path[len] ? path + len + 1 : path + len;
    return !path[len] || health_check_exists(set + 1, *ret_check);
}

static int route(struct http_conn *c, struct server *server)
{
    const char *path = buf_cstr(&c->path), *name;

    if (strcmp(path, "/metrics") == 0)
        return metrics_answer(c);
    if (strcmp(path, "/health") == 0)
        return health_start(c, server, HEALTH_HEALTH, "");
    if (path_is_set(path, "/livez", &name))
        return health_start(c, server, HEALTH_LIVEZ, name);
    if (path_is_set(path, "/readyz", &name))
        return health_start(c, server, HEALTH_READYZ, name);
    if (strcmp(path, "/version") == 0 && !c->metrics_only)
        return version_answer(c, server);
    return answer_error(c, 404, NULL, "404 page not found\n");
}

/* ---- in front of the endpoints ---- */

/* The Host header without its port and brackets. */
static char *host_name(struct http_conn *c)
{
    const char *host = buf_cstr(&c->host), *bracket = strchr(host, ']'),
               *colon = strrchr(host, ':');

    if (host[0] == '[' && bracket && (bracket[1] == ':' || !bracket[1]))
        return bracket[1] ? mem_strndup(host + 1, (size_t)(bracket - host) - 1) : mem_strdup(host);
    if (colon && strchr(host, ':') == colon)
        return mem_strndup(host, (size_t)(colon - host));
    return mem_strdup(host);
}

static bool host_is_allowed(struct http_conn *c, const char *host)
{
    const struct string_list *allowed = &server_config(c->http->server)->host_whitelist;

    for (size_t i = 0; i < allowed->len; i++) {
        if (strcmp(allowed->items[i], "*") == 0 || strcmp(allowed->items[i], host) == 0)
            return true;
    }
    return allowed->len == 0;
}

static int misdirected(struct http_conn *c, const char *host)
{
    _cleanup_(mem_freep) char *text =
        mem_printf("\nThis member does not serve HTTP requests for the host name \"%s\".\n\n"
                   "Other names could be pointed at it by anybody's DNS server and let web pages "
                   "reach it. If this one is\n"
                   "yours, add it to --host-whitelist.\n\n",
                   host);

    log_warn("rejecting HTTP request to prevent DNS rebinding attacks", LOG_STR("host", host));
    return answer_error(c, 421, NULL, text);
}

/* The path as Go's URL.String() would escape it. */
static void location_append(struct buf *out, struct bytes path)
{
    for (size_t i = 0; i < path.len; i++) {
        uint8_t b = path.data[i];
        if (isalnum(b) || (b && strchr("-_.~$&+,/:;=@!'()*", b)))
            buf_append_u8(out, b);
        else
            buf_printf(out, "%%%02X", b);
    }
}

static int redirect(struct http_conn *c, const struct buf *clean)
{
    _cleanup_(buf_deinit) struct buf location = BUF_NULL, body = BUF_NULL;
    bool get = strcmp(buf_cstr(&c->method), "GET") == 0,
         head = strcmp(buf_cstr(&c->method), "HEAD") == 0;

    location_append(&location, buf_bytes(clean));
    if (c->query.len > 0)
        buf_printf(&location, "?%s", buf_cstr(&c->query));
    if (get) {
        buf_append_str(&body, "<a href=\"");
        for (const char *p = buf_cstr(&location); *p; p++) {
            if (*p == '&' || *p == '<' || *p == '>' || *p == '"' || *p == '\'')
                buf_printf(&body, "&#%d;", *p);
            else
                buf_append_u8(&body, (uint8_t)*p);
        }
        buf_append_str(&body, "\">Temporary Redirect</a>.\n\n");
    }
    struct answer a = {.status = 307,
                       .content_type = get || head ? "text/html; charset=utf-8" : NULL,
                       .location = buf_cstr(&location),
                       .body = buf_bytes(&body)};
    answer_write(c, &a);
    return 0;
}

int http_answer(struct http_conn *c, struct server *server)
{
    _cleanup_(buf_deinit) struct buf clean = BUF_NULL;
    _cleanup_(mem_freep) char *host = host_name(c);
    struct answer options = {.status = 200};

    if (!c->metrics_only && !host_is_allowed(c, host))
        return misdirected(c, host);
    if (strcmp(buf_cstr(&c->method), "OPTIONS") == 0 && !c->metrics_only) {
        answer_write(c, &options);
        return 0;
    }
    http_path_clean(buf_bytes(&c->raw_path), &clean);
    if (c->raw_path.data[0] == '/' && !bytes_equal(buf_bytes(&clean), buf_bytes(&c->raw_path)))
        return redirect(c, &clean);
    return route(c, server);
}
