/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --initial-cluster (see initial_cluster.h): "name=url,name=url,...". A name that occurs again adds
 * a URL to its member; parts that are empty are passed over, and a part without "=" is a name with
 * an empty URL, which is none.
 *
 * Thread: the composition root's.
 */
#include "server/initial_cluster.h"

#include <stdlib.h>

#include "base/mem.h"
#include "server/config_private.h"

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->name, ((const struct member *)b)->name);
}

/* Takes both texts. */
static void add(struct member_list *list, char *name, char *url)
{
    struct member *m = NULL;

    for (size_t i = 0; i < list->len && !m; i++) {
        if (strcmp(list->items[i].name, name) == 0)
            m = &list->items[i];
    }
    if (m) {
        free(name);
    } else {
        member_list_add(list, (struct member){.name = name});
        m = &list->items[list->len - 1];
    }
    m->peer_urls = mem_realloc(m->peer_urls, (m->n_peer_urls + 1) * sizeof(*m->peer_urls));
    m->peer_urls[m->n_peer_urls++] = url;
}

static int part_parse(const char *part, struct member_list *list, char **ret_error)
{
    const char *equals = strchr(part, '=');
    _cleanup_(mem_freep) char *error = NULL;
    struct url url;

    if (url_parse(equals ? equals + 1 : "", &url, &error))
        return config_invalid(ret_error, "error setting up initial cluster: %s", error);
    add(list, equals ? mem_strndup(part, (size_t)(equals - part)) : mem_strdup(part),
        mem_strdup(url.text));
    url_deinit(&url);
    return 0;
}

int initial_cluster_parse(const char *text, struct member_list *ret, char **ret_error)
{
    struct member_list list = {0};
    struct string_list parts;
    int r = 0;

    string_list_split(text, false, &parts);
    for (size_t i = 0; i < parts.len && r == 0; i++) {
        if (parts.items[i][0])
            r = part_parse(parts.items[i], &list, ret_error);
    }
    string_list_deinit(&parts);
    if (r != 0) {
        member_list_deinit(&list);
        return r;
    }
    if (list.len > 0)
        qsort(list.items, list.len, sizeof(*list.items), compare_names);
    for (size_t i = 0; i < list.len; i++)
        qsort(list.items[i].peer_urls, list.items[i].n_peer_urls, sizeof(char *), compare_texts);
    *ret = list;
    return 0;
}

const struct member *initial_cluster_find(const struct member_list *list, const char *name)
{
    for (size_t i = 0; i < list->len; i++) {
        if (strcmp(list->items[i].name, name) == 0)
            return &list->items[i];
    }
    return NULL;
}

char **initial_cluster_urls(const struct member_list *list, const char *but, size_t *ret_n)
{
    char **urls = NULL;
    size_t n = 0;

    for (size_t i = 0; i < list->len; i++) {
        const struct member *m = &list->items[i];
        if (but && strcmp(m->name, but) == 0)
            continue;
        urls = mem_realloc(urls, (n + m->n_peer_urls + 1) * sizeof(*urls));
        for (size_t j = 0; j < m->n_peer_urls; j++)
            urls[n++] = m->peer_urls[j];
    }
    if (n > 0)
        qsort(urls, n, sizeof(*urls), compare_texts);
    *ret_n = n;
    return urls;
}

void initial_cluster_format(const struct member_list *list, struct buf *out)
{
    char **pairs = NULL;
    size_t n = 0;

    for (size_t i = 0; i < list->len; i++) {
        const struct member *m = &list->items[i];
        pairs = mem_realloc(pairs, (n + m->n_peer_urls + 1) * sizeof(*pairs));
        for (size_t j = 0; j < m->n_peer_urls; j++)
            pairs[n++] = mem_printf("%s=%s", m->name, m->peer_urls[j]);
    }
    if (n > 0)
        qsort(pairs, n, sizeof(*pairs), compare_texts);
    for (size_t i = 0; i < n; i++) {
        buf_printf(out, "%s%s", i > 0 ? "," : "", pairs[i]);
        free(pairs[i]);
    }
    free(pairs);
}

int initial_cluster_check_unique(const struct member_list *list, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    size_t n, i = 1;
    char **urls = initial_cluster_urls(list, NULL, &n);

    while (i < n && strcmp(urls[i - 1], urls[i]) != 0)
        i++;
    free(urls);
    if (i >= n)
        return 0;
    initial_cluster_format(list, &text);
    return config_invalid(ret_error, "initial cluster %s has duplicate url", buf_cstr(&text));
}
