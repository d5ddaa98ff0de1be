/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joining a cluster that exists (see bootstrap_private.h). Somebody has added this member there;
 * its id was made from the moment of that, so it must be asked for: whose URLs in the cluster's
 * list are those that --initial-cluster gives for our name. The other members' URLs must match,
 * too, each list as a set, host names by their addresses.
 *
 * A member that lags may still know the one that had our URLs before and was removed. With that
 * one's id and an empty log we could vote a second time in its name. So who says that we have
 * been at work before is not believed while another can be asked; if all say so, it is done as in
 * etcd, where a member that has lost its data comes back that way, with a warning.
 *
 * raft then begins with an empty log and no configuration, so it can't campaign. Until the log or a
 * snapshot brings the members, the list that was fetched stands in for them.
 *
 * Thread: the composition root's.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "server/bootstrap_private.h"
#include "server/transport.h"
#include "server/url_equal.h"

/* ---- texts as Go prints them ---- */

static void append_texts(struct buf *out, char *const *items, size_t n)
{
    buf_append_u8(out, '[');
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%s", i > 0 ? " " : "", items[i]);
    buf_append_u8(out, ']');
}

static void append_member(struct buf *out, const struct member *m)
{
    buf_printf(out, "&{ID:%" PRIx64 " RaftAttributes:{PeerURLs:", m->id);
    append_texts(out, m->peer_urls, m->n_peer_urls);
    buf_printf(out,
               " IsLearner:%s} Attributes:{Name:%s ClientURLs:", m->is_learner ? "true" : "false",
               m->name);
    append_texts(out, m->client_urls, m->n_client_urls);
    buf_append_str(out, "}}");
}

static void append_cluster(struct buf *out, uint64_t id, const struct member_list *members)
{
    buf_printf(out, "{ClusterID:%" PRIx64 " Members:[", id);
    for (size_t i = 0; i < members->len; i++) {
        buf_append_str(out, i > 0 ? " " : "");
        append_member(out, &members->items[i]);
    }
    buf_append_str(out, "] RemovedMemberIDs:[]}");
}

/* ---- who is who ---- */

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = ((const struct member *)a)->id, y = ((const struct member *)b)->id;

    return (x > y) - (x < y);
}

static struct url_texts urls_of(const struct member *m)
{
    return (struct url_texts){m->peer_urls, m->n_peer_urls};
}

/* One of the cluster's members gives its id to ours with the same URLs. */
static int assign_id(const struct member *existing, struct member_list *ours,
                     struct url_resolver *resolver, struct buf *error)
{
    _cleanup_(mem_freep) char *why = NULL;

    for (size_t i = 0; i < ours->len; i++) {
        mem_freep(&why);
        why = NULL;
        if (url_texts_compare(urls_of(existing), urls_of(&ours->items[i]), resolver, &why) == 0) {
            ours->items[i].id = existing->id;
            return 0;
        }
    }
    buf_printf(error, "PeerURLs: no match found for existing member (%" PRIx64 ", ", existing->id);
    append_texts(error, existing->peer_urls, existing->n_peer_urls);
    buf_printf(error, "), last resolver error (%s)", why ? why : "%!w(<nil>)");
    return 1;
}

static int assign_ids(const struct member_list *existing, struct member_list *ours,
                      struct url_resolver *resolver, struct buf *error)
{
    int r = 0;

    if (existing->len != ours->len) {
        buf_append_str(error, "member count is unequal");
        return 1;
    }
    for (size_t i = 0; i < existing->len && r == 0; i++)
        r = assign_id(&existing->items[i], ours, resolver, error);
    return r;
}

static int match(const struct member_list *existing, uint64_t cluster_id, struct member_list *ours,
                 struct url_resolver *resolver)
{
    _cleanup_(buf_deinit) struct buf error = BUF_NULL, cluster = BUF_NULL;

    if (assign_ids(existing, ours, resolver, &error) == 0)
        return 0;
    append_cluster(&cluster, cluster_id, existing);
    return bootstrap_refuse("error validating peerURLs %s: %s", buf_cstr(&cluster),
                            buf_cstr(&error));
}

static int check_learners(const struct config *config, const struct member_list *members)
{
    size_t n = 0;

    for (size_t i = 0; i < members->len; i++)
        n += members->items[i].is_learner;
    return n > config->max_learners
               ? bootstrap_refuse("membership: too many learner members in cluster")
               : 0;
}

/* ---- joining ---- */

static int begin_log(struct bootstrap *b, const struct bootstrap_options *o)
{
    int outcome = 0, r = bootstrap_open_log(b, o, true, &outcome);

    if (r == 0 && outcome != 0)
        r = bootstrap_refuse("the raft log in %s can't be begun: %s", o->dir->wal,
                             b->recovery.error ? b->recovery.error : "it is another member's");
    if (r == 0)
        log_info("starting local member", LOG_ID("local-member-id", b->member_id),
                 LOG_ID("cluster-id", b->cluster_id), LOG_STR("name", o->config->name));
    return r;
}

/* How we see the cluster that is joined. */
struct joiner {
    struct member_list ours; /* ids: as the others say */
    const char *name;
    struct url_resolver resolver; /* one budget of time for all that is looked up */
};

/* We are a member there that has not been at work yet. */
static bool expects_us(void *arg, const struct member_list *existing)
{
    struct joiner *j = arg;
    _cleanup_(buf_deinit) struct buf error = BUF_NULL;

    return assign_ids(existing, &j->ours, &j->resolver, &error) == 0 &&
           !bootstrap_is_started(existing, initial_cluster_find(&j->ours, j->name)->id);
}

/* existing: taken. */
static int enter(struct bootstrap *b, const struct bootstrap_options *o, struct joiner *j,
                 struct member_list *existing)
{
    uint64_t timeout_ms = 5000 + 2 * (uint64_t)o->config->election_timeout_ms;
    int r;

    qsort(existing->items, existing->len, sizeof(*existing->items), compare_ids);
    r = match(existing, b->cluster_id, &j->ours, &j->resolver);
    if (r == 0) {
        b->member_id = initial_cluster_find(&j->ours, j->name)->id;
        if (b->member_id == 0)
            r = bootstrap_refuse("cannot use 0 as member id");
    }
    if (r == 0) {
        if (bootstrap_is_started(existing, b->member_id))
            log_warn("this member has been started before and its data is gone; if it was not to "
                     "be, remove it from the cluster and add it again",
                     LOG_ID("local-member-id", b->member_id));
        if (!bootstrap_is_compatible(o->transport, &j->ours, b->member_id, timeout_ms))
            r = bootstrap_refuse("incompatible with current running cluster");
    }
    if (r == 0)
        r = check_learners(o->config, existing);
    if (r == 0)
        r = begin_log(b, o);
    if (r == 0)
        members_stand_in(o->store->members, b->member_id, existing);
    member_list_deinit(existing);
    return r;
}

int bootstrap_join(struct bootstrap *b, const struct bootstrap_options *o)
{
    struct joiner j = {.name = o->config->name};
    struct bootstrap_cluster cluster;
    char *error = NULL;
    int r = bootstrap_check_flags(o->config);

    if (r == 0)
        r = bootstrap_founders(o->config, &j.ours);
    if (r != 0)
        return r;
    url_resolver_init(&j.resolver);
    size_t n;
    char **urls = initial_cluster_urls(&j.ours, j.name, &n);
    if (!o->transport)
        n = 0; /* nobody can be asked */
    if (bootstrap_ask_members(o->transport, urls, n, BOOTSTRAP_ASK_JOIN_MS, expects_us, &j,
                              &cluster, &error)) {
        b->cluster_id = cluster.id;
        r = enter(b, o, &j, &cluster.members);
    } else {
        r = bootstrap_refuse("cannot fetch cluster info from peer urls: %s", error);
    }
    free(error);
    free(urls);
    member_list_deinit(&j.ours);
    return r;
}
