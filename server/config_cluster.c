/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --initial-cluster: "name=url,name=url,...". A name that occurs again adds a URL to its member;
 * parts that are empty are passed over, and a part without "=" is a name with an empty URL. At each
 * start the URLs are checked, at the first one also that this member is among the members, with
 * the URLs that it advertises.
 *
 * etcd resolves host names before it finds the URLs different; here they are compared as texts.
 *
 * Thread: the composition root.
 */
#include "server/config_private.h"

#include <stdlib.h>

#include "base/mem.h"

/* One "name=url". */
struct entry {
    char *name;
    struct url url;
};

/* Sorted by name, then by URL; not each once. */
struct entries {
    struct entry *items;
    size_t len;
};

static void entries_deinit(struct entries *e)
{
    for (size_t i = 0; i < e->len; i++) {
        free(e->items[i].name);
        url_deinit(&e->items[i].url);
    }
    free(e->items);
}

static int compare_entries(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int r = strcmp(x->name, y->name);

    return r ? r : strcmp(x->url.text, y->url.text);
}

static int entry_parse(const char *text, struct entry *ret, char **ret_error)
{
    const char *equals = strchr(text, '=');
    _cleanup_(mem_freep) char *error = NULL;

    if (url_parse(equals ? equals + 1 : "", &ret->url, &error))
        return config_invalid(ret_error, "error setting up initial cluster: %s", error);
    ret->name = equals ? mem_strndup(text, (size_t)(equals - text)) : mem_strdup(text);
    return 0;
}

static int entries_parse(const char *text, struct entries *ret, char **ret_error)
{
    struct string_list parts;
    int r = 0;

    string_list_split(text, false, &parts);
    *ret = (struct entries){.items = mem_alloc((parts.len + 1) * sizeof(struct entry))};
    for (size_t i = 0; i < parts.len && r == 0; i++) {
        if (!parts.items[i][0])
            continue;
        r = entry_parse(parts.items[i], &ret->items[ret->len], ret_error);
        ret->len += r == 0;
    }
    string_list_deinit(&parts);
    qsort(ret->items, ret->len, sizeof(struct entry), compare_entries);
    return r;
}

int config_check_cluster(const struct config *config, char **ret_error)
{
    _cleanup_(entries_deinit) struct entries entries;

    if (entries_parse(config->initial_cluster, &entries, ret_error))
        return 1;
    if (entries.len > 0 && strcmp(entries.items[0].name, entries.items[entries.len - 1].name) != 0)
        return config_invalid(
            ret_error,
            "--initial-cluster with more than one member is not supported by Cairn %s yet (%s)",
            CAIRN_VERSION, config->initial_cluster);
    if (strcmp(config->initial_cluster_state, "existing") == 0)
        return config_invalid(ret_error,
                              "--initial-cluster-state=existing is not supported by Cairn %s yet",
                              CAIRN_VERSION);
    return 0;
}

/* ---- the first start ---- */

/* The URLs of one member, borrowed, sorted, not each once. */
struct url_texts {
    const char **items;
    size_t len;
};

static void url_texts_deinit(struct url_texts *t)
{
    free(t->items);
}

static void texts_of_member(const struct entries *e, const char *name, struct url_texts *ret)
{
    *ret = (struct url_texts){.items = mem_alloc((e->len + 1) * sizeof(char *))};
    for (size_t i = 0; i < e->len; i++) {
        if (strcmp(e->items[i].name, name) == 0)
            ret->items[ret->len++] = e->items[i].url.text;
    }
}

static void texts_of_list(const struct url_list *list, struct url_texts *ret)
{
    *ret = (struct url_texts){.items = mem_alloc((list->len + 1) * sizeof(char *))};
    for (size_t i = 0; i < list->len; i++)
        ret->items[ret->len++] = list->items[i].text;
}

/* Those of a that b does not have, each once, with prefix in front, separated by commas. */
static void append_missing(struct buf *out, const char *prefix, const struct url_texts *a,
                           const struct url_texts *b)
{
    for (size_t i = 0; i < a->len; i++) {
        size_t j = 0;
        while (j < b->len && strcmp(a->items[i], b->items[j]) != 0)
            j++;
        if (j == b->len && (i == 0 || strcmp(a->items[i], a->items[i - 1]) != 0))
            buf_printf(out, "%s%s%s", out->len ? "," : "", prefix, a->items[i]);
    }
}

static void append_go_strings(struct buf *out, const struct url_texts *t)
{
    buf_append_u8(out, '[');
    for (size_t i = 0; i < t->len; i++) {
        buf_append_str(out, i ? " " : "");
        go_quote(out, t->items[i]);
    }
    buf_append_u8(out, ']');
}

/* False: they are the same. */
static bool append_difference(struct buf *out, const struct url_texts *a, const struct url_texts *b)
{
    size_t i = 0;

    if (a->len != b->len) {
        buf_append_str(out, "len(");
        append_go_strings(out, a);
        buf_append_str(out, ") != len(");
        append_go_strings(out, b);
        buf_append_str(out, ")");
        return true;
    }
    while (i < a->len && strcmp(a->items[i], b->items[i]) == 0)
        i++;
    if (i == a->len)
        return false;
    buf_append_str(out, "resolved urls: ");
    go_quote(out, a->items[i]);
    buf_append_str(out, " != ");
    go_quote(out, b->items[i]);
    return true;
}

static int check_advertised(const char *name, const struct url_texts *advertised,
                            const struct url_texts *cluster, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf why = BUF_NULL, missing = BUF_NULL, joined = BUF_NULL,
                                     pairs = BUF_NULL;
    _cleanup_(mem_freep) char *prefix = mem_printf("%s=", name);
    const struct url_texts none = {NULL, 0};

    if (!append_difference(&why, advertised, cluster))
        return 0;
    append_missing(&joined, "", advertised, &none);
    append_missing(&pairs, prefix, advertised, &none);
    append_missing(&missing, prefix, cluster, advertised);
    if (missing.len > 0)
        return config_invalid(
            ret_error,
            "--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%s)",
            buf_cstr(&missing), buf_cstr(&joined), buf_cstr(&why));
    append_missing(&missing, "", advertised, cluster);
    if (missing.len > 0)
        return config_invalid(
            ret_error, "--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
            buf_cstr(&missing), buf_cstr(&pairs));
    return config_invalid(ret_error, "failed to resolve %s to match --initial-cluster=%s (%s)",
                          buf_cstr(&joined), buf_cstr(&pairs), buf_cstr(&why));
}

int config_check_bootstrap(const struct config *config, char **ret_error)
{
    _cleanup_(entries_deinit) struct entries entries;
    _cleanup_(url_texts_deinit) struct url_texts cluster = {NULL, 0}, advertised = {NULL, 0};

    if (entries_parse(config->initial_cluster, &entries, ret_error))
        return 1;
    texts_of_member(&entries, config->name, &cluster);
    texts_of_list(&config->initial_advertise_peer_urls, &advertised);
    if (cluster.len == 0)
        return config_invalid_quoted(ret_error, "couldn't find local name ", config->name,
                                     " in the initial cluster configuration");
    return check_advertised(config->name, &advertised, &cluster, ret_error);
}
