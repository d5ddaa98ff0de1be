/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks of --initial-cluster: at each start its URLs; at the first one also that this member is
 * among the members and, in a new cluster, has there the URLs that it advertises.
 *
 * Thread: the composition root; config_check_bootstrap() may wait for names to be resolved.
 */
#include "server/config_private.h"

#include <stdlib.h>

#include "base/mem.h"
#include "server/initial_cluster.h"
#include "server/url_equal.h"

int config_check_cluster(const struct config *config, char **ret_error)
{
    struct member_list members = {0};
    int r = initial_cluster_parse(config->initial_cluster, &members, ret_error);

    member_list_deinit(&members);
    return r;
}

/* ---- what this member advertises ---- */

/* Those of a that b does not have, each once, with prefix in front, separated by commas. Sorted
 * lists. */
static void append_missing(struct buf *out, const char *prefix, struct url_texts a,
                           struct url_texts b)
{
    for (size_t i = 0; i < a.len; i++) {
        size_t j = 0;
        while (j < b.len && strcmp(a.items[i], b.items[j]) != 0)
            j++;
        if (j == b.len && (i == 0 || strcmp(a.items[i], a.items[i - 1]) != 0))
            buf_printf(out, "%s%s%s", out->len ? "," : "", prefix, a.items[i]);
    }
}

static int mismatch(const char *name, struct url_texts advertised, struct url_texts cluster,
                    const char *why, char **ret_error)
{
    _cleanup_(buf_deinit) struct buf missing = BUF_NULL, joined = BUF_NULL, pairs = BUF_NULL;
    _cleanup_(mem_freep) char *prefix = mem_printf("%s=", name);
    const struct url_texts none = {NULL, 0};

    append_missing(&joined, "", advertised, none);
    append_missing(&pairs, prefix, advertised, none);
    append_missing(&missing, prefix, cluster, advertised);
    if (missing.len > 0)
        return config_invalid(
            ret_error,
            "--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%s)",
            buf_cstr(&missing), buf_cstr(&joined), why);
    append_missing(&missing, "", advertised, cluster);
    if (missing.len > 0)
        return config_invalid(
            ret_error, "--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
            buf_cstr(&missing), buf_cstr(&pairs));
    return config_invalid(ret_error, "failed to resolve %s to match --initial-cluster=%s (%s)",
                          buf_cstr(&joined), buf_cstr(&pairs), why);
}

static int check_advertised(const struct config *config, const struct member *self,
                            char **ret_error)
{
    const struct url_list *urls = &config->initial_advertise_peer_urls;
    char **texts = mem_alloc((urls->len + 1) * sizeof(*texts));
    struct url_texts advertised = {texts, urls->len},
                     cluster = {self->peer_urls, self->n_peer_urls};
    _cleanup_(mem_freep) char *why = NULL;
    struct url_resolver resolver;
    int r;

    for (size_t i = 0; i < urls->len; i++)
        texts[i] = urls->items[i].text;
    url_resolver_init(&resolver);
    r = url_texts_compare(advertised, cluster, &resolver, &why);
    if (r != 0)
        r = mismatch(config->name, advertised, cluster, why, ret_error);
    free(texts);
    return r;
}

int config_check_bootstrap(const struct config *config, char **ret_error)
{
    struct member_list members;
    const struct member *self;
    int r = initial_cluster_parse(config->initial_cluster, &members, ret_error);

    if (r != 0)
        return r;
    self = initial_cluster_find(&members, config->name);
    if (!self)
        r = config_invalid_quoted(ret_error, "couldn't find local name ", config->name,
                                  " in the initial cluster configuration");
    if (r == 0 && strcmp(config->initial_cluster_state, "existing") != 0)
        r = check_advertised(config, self, ret_error);
    if (r == 0)
        r = initial_cluster_check_unique(&members, ret_error);
    member_list_deinit(&members);
    return r;
}
