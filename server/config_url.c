/* SPDX-License-Identifier: Apache-2.0 */
/*
 * URLs of listeners and members, with the rules and the error texts of Go's net/url (1.26, strict
 * colons) and etcd's types.NewURLs: scheme http, https, unix or unixs; for the first two
 * "host:port" and nothing behind it. Go's percent-decoding of a host is checked but not undone: no
 * address that can be bound or dialled needs it.
 *
 * Thread: any; no state.
 */
#include "server/config_private.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdlib.h>
#include <strings.h>

#include "base/mem.h"

/* The parts of a URL text, all inside it. */
struct parts {
    struct bytes scheme;
    struct bytes authority; /* behind any user name */
    const char *path;
    size_t path_len;
    bool has_authority;
    bool opaque;
};

static int fail(char **ret_error, struct buf *why)
{
    *ret_error = mem_strdup(buf_cstr(why));
    return 1;
}

static int parse_fail(const char *text, const char *why, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    buf_append_str(&b, "parse ");
    go_quote(&b, text);
    buf_printf(&b, ": %s", why);
    return fail(ret_error, &b);
}

static int parse_fail_quoted(const char *text, const char *before, struct bytes s,
                             const char *after, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    _cleanup_(mem_freep) char *word = mem_strndup((const char *)s.data, s.len);

    buf_append_str(&b, before);
    go_quote(&b, word);
    buf_append_str(&b, after);
    return parse_fail(text, buf_cstr(&b), ret_error);
}

static int split_scheme(const char *text, struct parts *p, const char **ret_rest, char **ret_error)
{
    size_t i = 0;

    while (isalpha((unsigned char)text[i]) ||
           (i > 0 && text[i] && (isdigit((unsigned char)text[i]) || strchr("+-.", text[i]))))
        i++;
    *ret_rest = text;
    if (text[i] != ':')
        return 0;
    if (i == 0)
        return parse_fail(text, "missing protocol scheme", ret_error);
    p->scheme = bytes_of(text, i);
    *ret_rest = text + i + 1;
    return 0;
}

static int split(const char *text, struct parts *p, char **ret_error)
{
    const char *rest;

    for (const char *c = text; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return parse_fail(text, "net/url: invalid control character in URL", ret_error);
    }
    if (split_scheme(text, p, &rest, ret_error))
        return 1;
    size_t len = strcspn(rest, "?#");
    if (len == 0 || rest[0] != '/') {
        p->opaque = p->scheme.len > 0;
        if (!p->opaque && memchr(rest, ':', strcspn(rest, "/?#")))
            return parse_fail(text, "first path segment in URL cannot contain colon", ret_error);
        p->path = rest;
        p->path_len = p->opaque ? 0 : len;
        return 0;
    }
    if (len >= 2 && rest[1] == '/' && (p->scheme.len > 0 || rest[2] != '/')) {
        size_t n = strcspn(rest + 2, "/?#");
        p->has_authority = true;
        p->authority = bytes_of(rest + 2, n);
        rest += 2 + n;
        len -= 2 + n;
        const uint8_t *at = memrchr(p->authority.data, '@', n);
        if (at)
            p->authority = bytes_of(at + 1, n - (size_t)(at + 1 - p->authority.data));
    }
    p->path = rest;
    p->path_len = len;
    return 0;
}

static bool port_text_ok(struct bytes s)
{
    if (s.len > 0 && s.data[0] != ':')
        return false;
    for (size_t i = 1; i < s.len; i++) {
        if (!isdigit(s.data[i]))
            return false;
    }
    return true;
}

/* The characters of a host, and the percent escapes that Go lets pass in one. */
static int host_chars_check(const char *text, struct bytes host, char **ret_error)
{
    for (size_t i = 0; i < host.len; i++) {
        uint8_t c = host.data[i];
        if (c == '%') {
            bool hex = i + 2 < host.len && isxdigit(host.data[i + 1]) && isxdigit(host.data[i + 2]);
            bool percent = hex && host.data[i + 1] == '2' && host.data[i + 2] == '5';
            if (!hex || (host.data[i + 1] < '8' && !percent)) {
                size_t n = host.len - i < 3 ? host.len - i : 3;
                return parse_fail_quoted(text, "invalid URL escape ", bytes_of(host.data + i, n),
                                         "", ret_error);
            }
        } else if (c < 0x80 && !isalnum(c) && !strchr("-_.~!$&'()*+,;=:[]<>\"", c)) {
            return parse_fail_quoted(text, "invalid character ", bytes_of(host.data + i, 1),
                                     " in host name", ret_error);
        }
    }
    return 0;
}

static int bracket_host_split(const char *text, struct bytes a, struct bytes *ret_host,
                              struct bytes *ret_port, char **ret_error)
{
    const uint8_t *close = memrchr(a.data, ']', a.len);
    struct in6_addr address;

    if (!close)
        return parse_fail(text, "missing ']' in host", ret_error);
    *ret_host = bytes_of(a.data + 1, (size_t)(close - a.data) - 1);
    *ret_port = bytes_of(close + 1, a.len - ret_host->len - 2);
    if (!port_text_ok(*ret_port))
        return parse_fail_quoted(text, "invalid port ", *ret_port, " after host", ret_error);
    if (host_chars_check(text, *ret_host, ret_error))
        return 1;
    const uint8_t *zone = memchr(ret_host->data, '%', ret_host->len);
    _cleanup_(mem_freep) char *name = mem_strndup(
        (const char *)ret_host->data, zone ? (size_t)(zone - ret_host->data) : ret_host->len);
    if (inet_pton(AF_INET6, name, &address) != 1) {
        _cleanup_(mem_freep) char *why =
            mem_printf("invalid host: ParseAddr(\"%s\"): unable to parse IP", name);
        return parse_fail(text, why, ret_error);
    }
    return 0;
}

/* Host and ":port" ("" if none). */
static int authority_split(const char *text, const struct parts *p, struct bytes *ret_host,
                           struct bytes *ret_port, char **ret_error)
{
    struct bytes a = p->authority;
    bool strict = p->scheme.len >= 4 && strncasecmp((const char *)p->scheme.data, "http", 4) == 0;
    const uint8_t *bracket = a.data ? memrchr(a.data, '[', a.len) : NULL;

    if (bracket == a.data && bracket)
        return bracket_host_split(text, a, ret_host, ret_port, ret_error);
    if (bracket)
        return parse_fail(text, "invalid IP-literal", ret_error);
    const uint8_t *colon =
        a.data ? (strict ? memchr(a.data, ':', a.len) : memrchr(a.data, ':', a.len)) : NULL;
    size_t host_len = colon ? (size_t)(colon - a.data) : a.len;
    *ret_host = bytes_of(a.data, host_len);
    *ret_port = bytes_of(a.data + host_len, a.len - host_len);
    if (!port_text_ok(*ret_port))
        return parse_fail_quoted(text, "invalid port ", *ret_port, " after host", ret_error);
    return host_chars_check(text, *ret_host, ret_error);
}

static void port_read(struct url *url, struct bytes port)
{
    unsigned v = 0;

    url->port_valid = true;
    for (size_t i = 1; i < port.len; i++) {
        v = v * 10 + (unsigned)(port.data[i] - '0');
        if (v > UINT16_MAX) {
            url->port_valid = false;
            return;
        }
    }
    url->port = (uint16_t)v;
}

static int http_url_fill(const char *text, const struct parts *p, struct bytes host,
                         struct bytes port, struct url *url, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;

    if (p->opaque || port.len == 0) {
        buf_printf(&b, "URL address does not have the form \"host:port\": %s", text);
        return fail(ret_error, &b);
    }
    if (p->path_len > 0) {
        buf_printf(&b, "URL must not contain a path: %s", text);
        return fail(ret_error, &b);
    }
    url->host = host.len ? mem_strndup((const char *)host.data, host.len) : mem_strdup("");
    port_read(url, port);
    return 0;
}

static int url_fill(const char *text, const struct parts *p, struct url *url, char **ret_error)
{
    struct bytes host = BYTES_NULL, port = BYTES_NULL;

    if (p->has_authority && authority_split(text, p, &host, &port, ret_error))
        return 1;
    url->scheme =
        p->scheme.len ? mem_strndup((const char *)p->scheme.data, p->scheme.len) : mem_strdup("");
    for (char *c = url->scheme; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    url->text = mem_printf("%s%s", url->scheme, text + p->scheme.len);
    if (strcmp(url->scheme, "http") == 0 || strcmp(url->scheme, "https") == 0)
        return http_url_fill(text, p, host, port, url, ret_error);
    if (strcmp(url->scheme, "unix") == 0 || strcmp(url->scheme, "unixs") == 0) {
        url->host = mem_printf("%.*s%.*s", (int)p->authority.len,
                               p->authority.len ? (const char *)p->authority.data : "",
                               (int)p->path_len, p->path);
        url->port_valid = true;
        return 0;
    }
    *ret_error = mem_printf("URL scheme must be http, https, unix, or unixs: %s", text);
    return 1;
}

int url_parse(const char *text, struct url *ret, char **ret_error)
{
    struct url url = {0};
    struct parts p = {0};

    while (isspace((unsigned char)*text))
        text++;
    size_t len = strlen(text);
    while (len > 0 && isspace((unsigned char)text[len - 1]))
        len--;
    _cleanup_(mem_freep) char *trimmed = mem_strndup(text, len);

    if (split(trimmed, &p, ret_error))
        return 1;
    if (url_fill(trimmed, &p, &url, ret_error)) {
        url_deinit(&url);
        return 1;
    }
    *ret = url;
    return 0;
}

void url_deinit(struct url *url)
{
    free(url->scheme);
    free(url->host);
    free(url->text);
    *url = (struct url){0};
}

static int compare_urls(const void *a, const void *b)
{
    return strcmp(((const struct url *)a)->text, ((const struct url *)b)->text);
}

static void list_dedup(struct url_list *list)
{
    size_t kept = 0;

    qsort(list->items, list->len, sizeof(struct url), compare_urls);
    for (size_t i = 0; i < list->len; i++) {
        if (kept > 0 && strcmp(list->items[kept - 1].text, list->items[i].text) == 0)
            url_deinit(&list->items[i]);
        else
            list->items[kept++] = list->items[i];
    }
    list->len = kept;
}

int url_list_parse(const char *text, struct url_list *ret, char **ret_error)
{
    struct string_list words = {NULL, 0};
    struct url_list list = {NULL, 0};

    string_list_split(text, false, &words);
    list.items = mem_alloc(words.len * sizeof(struct url));
    int r = 0;
    for (size_t i = 0; i < words.len && r == 0; i++) {
        r = url_parse(words.items[i], &list.items[i], ret_error);
        list.len += r == 0;
    }
    string_list_deinit(&words);
    if (r) {
        url_list_deinit(&list);
        return r;
    }
    list_dedup(&list);
    *ret = list;
    return 0;
}

void url_list_deinit(struct url_list *list)
{
    for (size_t i = 0; i < list->len; i++)
        url_deinit(&list->items[i]);
    free(list->items);
    *list = (struct url_list){NULL, 0};
}
