/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Comparing lists of URLs (see url_equal.h), as etcd's netutil does: sorted, pair by pair, with IP
 * addresses in their normal form; if that finds a difference, once more with the first address of
 * each host in the place of its name. "localhost" stays what it is, and so do unix sockets.
 *
 * Thread: see url_equal.h.
 */
#include "server/url_equal.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/config_private.h"

/* ---- the system's resolver ---- */

static void address_format(const struct sockaddr *address, char ret[URL_ADDRESS_MAX])
{
    const void *bytes = address->sa_family == AF_INET
                            ? (const void *)&((const struct sockaddr_in *)address)->sin_addr
                            : (const void *)&((const struct sockaddr_in6 *)address)->sin6_addr;

    if (!inet_ntop(address->sa_family, bytes, ret, URL_ADDRESS_MAX))
        ret[0] = '\0';
}

static int resolve_by_system(struct url_resolver *r, const char *host, char ret[URL_ADDRESS_MAX],
                             char **ret_error)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found = NULL;
    int e = getaddrinfo(host, NULL, &hints, &found);

    (void)r;
    if (e == 0 && found)
        address_format(found->ai_addr, ret);
    freeaddrinfo(found);
    if (e == 0)
        return 0;
    *ret_error = mem_printf("lookup %s: %s", host, gai_strerror(e));
    return 1;
}

static bool pause_by_clock(struct url_resolver *r)
{
    struct timespec second = {.tv_sec = URL_RESOLVE_RETRY_MS / 1000};

    if (clock_mono_ms() + URL_RESOLVE_RETRY_MS > r->until_ms)
        return false;
    nanosleep(&second, NULL);
    return true;
}

void url_resolver_init(struct url_resolver *r)
{
    *r = (struct url_resolver){.until_ms = clock_mono_ms() + URL_RESOLVE_LIMIT_MS,
                               .resolve = resolve_by_system,
                               .pause = pause_by_clock};
}

/* ---- forms of a URL ---- */

/* One URL: as it is printed, and as it is compared. */
struct form {
    char *text;
    char *key;
};

struct forms {
    struct form *items;
    struct url *urls;
    size_t len;
};

static void forms_deinit(struct forms *f)
{
    for (size_t i = 0; i < f->len; i++) {
        free(f->items[i].text);
        free(f->items[i].key);
        url_deinit(&f->urls[i]);
    }
    free(f->items);
    free(f->urls);
}

static bool is_unix(const struct url *u)
{
    return strncmp(u->scheme, "unix", 4) == 0;
}

/* True: the host is an address, and *ret is it in Go's normal form, with brackets if need be. */
static bool address_normal(const char *host, char ret[URL_ADDRESS_MAX])
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr six;
    struct in_addr four;

    if (inet_pton(AF_INET, host, &four) == 1) {
        snprintf(ret, URL_ADDRESS_MAX, "%s", host);
        return true;
    }
    if (inet_pton(AF_INET6, host, &six) != 1)
        return false;
    if (IN6_IS_ADDR_V4MAPPED(&six)) {
        inet_ntop(AF_INET, &six.s6_addr[12], ret, URL_ADDRESS_MAX);
        return true;
    }
    inet_ntop(AF_INET6, &six, text, sizeof(text));
    snprintf(ret, URL_ADDRESS_MAX, "[%s]", text);
    return true;
}

static char *key_of(const struct url *u, const char *host)
{
    char normal[URL_ADDRESS_MAX];

    if (is_unix(u))
        return mem_strdup(u->text);
    return mem_printf("%s://%s:%u", u->scheme, address_normal(host, normal) ? normal : host,
                      (unsigned)u->port);
}

static int compare_forms(const void *a, const void *b)
{
    return strcmp(((const struct form *)a)->text, ((const struct form *)b)->text);
}

static int compare_urls(const void *a, const void *b)
{
    return strcmp(((const struct url *)a)->text, ((const struct url *)b)->text);
}

static int forms_parse(struct url_texts texts, struct forms *ret, char **ret_why)
{
    *ret = (struct forms){.items = mem_alloc((texts.len + 1) * sizeof(*ret->items)),
                          .urls = mem_alloc((texts.len + 1) * sizeof(*ret->urls))};
    for (; ret->len < texts.len; ret->len++) {
        _cleanup_(mem_freep) char *error = NULL;
        if (url_parse(texts.items[ret->len], &ret->urls[ret->len], &error) != 0)
            return config_invalid_quoted(
                ret_why, "failed to parse string to URL: ", texts.items[ret->len], "");
    }
    qsort(ret->urls, ret->len, sizeof(*ret->urls), compare_urls);
    for (size_t i = 0; i < ret->len; i++)
        ret->items[i] = (struct form){.text = mem_strdup(ret->urls[i].text),
                                      .key = key_of(&ret->urls[i], ret->urls[i].host)};
    return 0;
}

/* ---- comparing ---- */

/* The first pair that differs; len: none. */
static size_t first_difference(const struct forms *a, const struct forms *b)
{
    size_t i = 0;

    while (i < a->len && strcmp(a->items[i].key, b->items[i].key) == 0)
        i++;
    return i;
}

static int host_resolve(const struct url *u, struct url_resolver *r, char ret[URL_ADDRESS_MAX],
                        char **ret_why)
{
    for (;;) {
        _cleanup_(mem_freep) char *error = NULL;
        if (r->resolve(r, u->host, ret, &error) == 0) {
            log_info("resolved URL Host", LOG_STR("url", u->text), LOG_STR("host", u->host),
                     LOG_STR("resolved-addr", ret));
            return 0;
        }
        log_warn("failed to resolve URL Host", LOG_STR("url", u->text), LOG_STR("host", u->host),
                 LOG_STR("error", error));
        if (!r->pause(r)) {
            _cleanup_(mem_freep) char *after = mem_printf(" (%s)", error);
            return config_invalid_quoted(ret_why, "failed to resolve ", u->text, after);
        }
    }
}

/* Puts addresses in the place of names. */
static int forms_resolve(struct forms *f, struct url_resolver *r, char **ret_why)
{
    char address[URL_ADDRESS_MAX];

    for (size_t i = 0; i < f->len; i++) {
        const struct url *u = &f->urls[i];
        if (is_unix(u) || strcmp(u->host, "localhost") == 0)
            continue;
        if (address_normal(u->host, address))
            snprintf(address, sizeof(address), "%s", u->host);
        else if (host_resolve(u, r, address, ret_why) != 0)
            return 1;
        free(f->items[i].key);
        free(f->items[i].text);
        f->items[i].key = key_of(u, address);
        f->items[i].text = mem_strdup(f->items[i].key);
    }
    qsort(f->items, f->len, sizeof(*f->items), compare_forms);
    return 0;
}

static void append_go_strings(struct buf *out, struct url_texts t)
{
    buf_append_u8(out, '[');
    for (size_t i = 0; i < t.len; i++) {
        buf_append_str(out, i ? " " : "");
        go_quote(out, t.items[i]);
    }
    buf_append_u8(out, ']');
}

static int other_length(struct url_texts a, struct url_texts b, char **ret_why)
{
    _cleanup_(buf_deinit) struct buf why = BUF_NULL;

    buf_append_str(&why, "len(");
    append_go_strings(&why, a);
    buf_append_str(&why, ") != len(");
    append_go_strings(&why, b);
    buf_append_str(&why, ")");
    *ret_why = mem_strdup(buf_cstr(&why));
    return 1;
}

static int forms_compare(struct forms *a, struct forms *b, struct url_resolver *r, char **ret_why)
{
    _cleanup_(buf_deinit) struct buf why = BUF_NULL;
    size_t i;

    if (first_difference(a, b) == a->len)
        return 0;
    if (forms_resolve(a, r, ret_why) != 0 || forms_resolve(b, r, ret_why) != 0)
        return 1;
    i = first_difference(a, b);
    if (i == a->len)
        return 0;
    buf_append_str(&why, "resolved urls: ");
    go_quote(&why, a->items[i].text);
    buf_append_str(&why, " != ");
    go_quote(&why, b->items[i].text);
    *ret_why = mem_strdup(buf_cstr(&why));
    return 1;
}

int url_texts_compare(struct url_texts a, struct url_texts b, struct url_resolver *r,
                      char **ret_why)
{
    struct forms fa, fb = {0};
    int e;

    if (a.len != b.len)
        return other_length(a, b, ret_why);
    e = forms_parse(a, &fa, ret_why);
    if (e == 0)
        e = forms_parse(b, &fb, ret_why);
    if (e == 0)
        e = forms_compare(&fa, &fb, r, ret_why);
    forms_deinit(&fa);
    forms_deinit(&fb);
    return e;
}
