/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One member, lists of members, and etcd's ids (see member.h); what of it needs no table.
 *
 *     member id   first 8 bytes of SHA-1(peer URLs, token or seconds), big-endian
 *     cluster id  likewise of the founders' ids, 8 bytes each, big-endian
 *
 * Thread: any.
 */
#include "server/member.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/digest.h"
#include "base/mem.h"

static void texts_free(char **items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(items[i]);
    free(items);
}

static char **texts_copy(char *const *items, size_t n)
{
    char **copy = items ? mem_alloc((n + 1) * sizeof(*copy)) : NULL;

    for (size_t i = 0; i < n; i++)
        copy[i] = mem_strdup(items[i]);
    return copy;
}

void member_deinit(struct member *m)
{
    texts_free(m->peer_urls, m->n_peer_urls);
    texts_free(m->client_urls, m->n_client_urls);
    free(m->name);
    *m = (struct member){0};
}

struct member member_copy(const struct member *m)
{
    struct member copy = *m;

    copy.peer_urls = texts_copy(m->peer_urls, m->n_peer_urls);
    copy.client_urls = texts_copy(m->client_urls, m->n_client_urls);
    copy.name = mem_strdup(m->name ? m->name : "");
    return copy;
}

void member_list_deinit(struct member_list *list)
{
    for (size_t i = 0; i < list->len; i++)
        member_deinit(&list->items[i]);
    free(list->items);
    *list = (struct member_list){0};
}

void member_list_add(struct member_list *list, struct member member)
{
    list->items = mem_realloc(list->items, (list->len + 1) * sizeof(*list->items));
    list->items[list->len++] = member;
}

struct member *member_list_find(const struct member_list *list, uint64_t id)
{
    for (size_t i = 0; i < list->len; i++) {
        if (list->items[i].id == id)
            return &list->items[i];
    }
    return NULL;
}

/* ---- ids ---- */

static uint64_t id_of_text(const struct buf *text)
{
    uint8_t digest[SHA1_LEN];

    sha1(buf_bytes(text), digest);
    return u64_be_get(digest);
}

static uint64_t id_of_urls(char *const *sorted_urls, size_t n, const char *suffix)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    for (size_t i = 0; i < n; i++)
        buf_append_str(&text, sorted_urls[i]);
    buf_append_str(&text, suffix);
    return id_of_text(&text);
}

uint64_t member_id_of(char *const *sorted_urls, size_t n, const char *token)
{
    return id_of_urls(sorted_urls, n, token);
}

uint64_t member_id_of_added(char *const *sorted_urls, size_t n, uint64_t unix_s)
{
    char suffix[24];

    snprintf(suffix, sizeof(suffix), "%" PRIu64, unix_s);
    return id_of_urls(sorted_urls, n, suffix);
}

uint64_t cluster_id_of(const uint64_t *sorted_member_ids, size_t n)
{
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;

    for (size_t i = 0; i < n; i++)
        buf_append_u64_be(&text, sorted_member_ids[i]);
    return id_of_text(&text);
}
