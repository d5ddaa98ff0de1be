/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The monitor of the cluster's version (see cluster_version.h).
 *
 *   idle --first commit of our term, or 4 s gone by, while we lead--> asking one member after the
 *     ^                                                                other for GET /version
 *     +--- nothing to set, or set, or refused <-- proposing <-- decided -+
 *
 * A member that does not answer makes the lowest version unknown: a cluster without a version then
 * gets 3.0.0, and one with a version keeps it. etcd waits 7 s for each; so do we.
 *
 * Invariant: one round at a time. `busy` is set by the tick that begins it and cleared by whoever
 * ends it; in between the round is in one hand, the tick's, the transport's or the request's.
 *
 * Thread: see cluster_version.h; the ticks may come from two, while the server waits to be ready.
 */
#include "server/cluster_version.h"

#include <jansson.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/server_private.h"

static const struct version version_min = {.major = 3};

struct cluster_version {
    struct server *server;
    _Atomic bool busy;
    _Atomic uint64_t term_seen; /* whose first commit was noticed */
    _Atomic uint64_t next_ms;
    /* the round */
    struct member_list members;
    size_t at;
    struct version lowest;
    struct transport_fetch fetch;
    struct request request;
    struct buf payload;
};

/* ---- the decision ---- */

static struct version one_minor_lower(struct version v)
{
    return (struct version){.major = v.major, .minor = v.minor - 1};
}

static bool decide_downgrade(const struct version_facts *f, struct version *ret)
{
    struct version target, from_set = one_minor_lower(f->set),
                           from_lowest = one_minor_lower(f->lowest);

    if (!version_parse(f->downgrade.target, &target) || version_compare(target, f->set) == 0)
        return false;
    if (version_compare(target, from_set) != 0 || version_compare(target, from_lowest) != 0) {
        log_error("Cannot downgrade to downgrade-target",
                  LOG_STR("downgrade-target", f->downgrade.target));
        return false;
    }
    *ret = target;
    return true;
}

bool cluster_version_decide(const struct version_facts *f, struct version *ret)
{
    struct version lowest = version_minor(f->lowest);

    if (!f->is_set) {
        *ret = f->is_known ? lowest : version_min;
        return true;
    }
    if (!f->is_known)
        return false;
    if (f->downgrade.enabled)
        return decide_downgrade(f, ret);
    if (f->set.major != lowest.major || version_compare(f->set, f->lowest) >= 0 ||
        version_compare(version_minor(f->set), lowest) >= 0)
        return false;
    *ret = lowest;
    return true;
}

bool cluster_version_parse(struct bytes answer, const char *field, struct version *ret)
{
    json_t *root = json_loadb((const char *)answer.data, answer.len, 0, NULL);
    const char *text = json_string_value(json_object_get(root, field));
    bool ok = text && version_parse(text, ret);

    json_decref(root);
    return ok;
}

/* ---- a round ---- */

static void end_round(struct cluster_version *v, uint64_t pause_ms)
{
    member_list_deinit(&v->members);
    buf_deinit(&v->fetch.answer);
    atomic_store(&v->next_ms, clock_mono_ms() + pause_ms);
    atomic_store(&v->busy, false);
}

static void finished(struct request *request, enum outcome outcome)
{
    struct cluster_version *v = container_of(request, struct cluster_version, request);

    buf_deinit(&request->response);
    if (outcome == OUTCOME_OK)
        log_info("cluster version is updated");
    else if (outcome != OUTCOME_STOPPED)
        log_warn("failed to update cluster version");
    /* While a replay runs apply is behind, and proposals are refused: that is over soon. */
    end_round(v, outcome == OUTCOME_TOO_MANY_REQUESTS ? 0 : CLUSTER_VERSION_INTERVAL_MS);
}

static void propose(struct cluster_version *v, struct version version)
{
    char text[VERSION_TEXT_MAX];

    version_text(version, text);
    log_info("setting the cluster version", LOG_STR("cluster-version", text));
    buf_clear(&v->payload);
    encode_bytes(&v->payload, 1, bytes_str(text));
    v->request = (struct request){
        .kind = REQUEST_CLUSTER_VERSION_SET, .payload = buf_bytes(&v->payload), .finish = finished};
    server_submit(v->server, &v->request);
}

static void decide(struct cluster_version *v, bool is_known)
{
    struct server *s = v->server;
    struct version_facts facts = {.is_known = is_known, .lowest = v->lowest};
    struct version version;
    char set[16];

    store_hold(&s->store);
    members_cluster_version(s->store.members, set);
    members_downgrade(s->store.members, &facts.downgrade);
    store_release(&s->store);
    facts.is_set = version_parse(set, &facts.set);
    if (cluster_version_decide(&facts, &version) && !atomic_load(&s->state.stopping))
        propose(v, version);
    else
        end_round(v, CLUSTER_VERSION_INTERVAL_MS);
}

static void warn_higher(const struct cluster_version *v, struct version version)
{
    struct version own;
    char text[VERSION_TEXT_MAX];

    check(version_parse(SERVER_COMPATIBLE_VERSION, &own));
    if (version_compare(own, version) >= 0)
        return;
    version_text(version, text);
    log_warn("leader found higher-versioned member",
             LOG_STR("local-member-version", SERVER_COMPATIBLE_VERSION),
             LOG_ID("remote-member-id", v->members.items[v->at].id),
             LOG_STR("remote-member-version", text));
}

static void ask_next(struct cluster_version *v);

static void fetched(struct transport_fetch *f)
{
    struct cluster_version *v = f->arg;
    struct version version;

    if (!cluster_version_parse(buf_bytes(&f->answer), "etcdserver", &version)) {
        log_warn("failed to get version", LOG_ID("remote-member-id", v->members.items[v->at].id));
        decide(v, false);
        return;
    }
    warn_higher(v, version);
    if (version_compare(version, v->lowest) < 0)
        v->lowest = version;
    v->at++;
    ask_next(v);
}

static void ask_next(struct cluster_version *v)
{
    struct server *s = v->server;

    while (v->at < v->members.len && v->members.items[v->at].id == s->state.member_id)
        v->at++;
    if (v->at == v->members.len || !s->transport || atomic_load(&s->state.stopping)) {
        decide(v, v->at == v->members.len);
        return;
    }
    struct member *m = &v->members.items[v->at];
    buf_deinit(&v->fetch.answer);
    v->fetch = (struct transport_fetch){.method = "GET",
                                        .urls = m->peer_urls,
                                        .n_urls = m->n_peer_urls,
                                        .path = "/version",
                                        .timeout_ms = s->state.request_timeout_ms,
                                        .done = fetched,
                                        .arg = v};
    s->transport->ops->fetch(s->transport, &v->fetch);
}

/* ---- from outside ---- */

struct cluster_version *cluster_version_new(struct server *s)
{
    struct cluster_version *v = mem_new(struct cluster_version);

    v->server = s;
    return v;
}

struct cluster_version *cluster_version_free(struct cluster_version *v)
{
    if (!v)
        return NULL;
    check(!atomic_load(&v->busy));
    buf_deinit(&v->payload);
    free(v);
    return NULL;
}

void cluster_version_tick(struct cluster_version *v, uint64_t now_ms)
{
    struct server *s = v->server;
    uint64_t term = atomic_load(&s->state.term_begun);

    if (!server_leads(s) ||
        (term == atomic_load(&v->term_seen) && now_ms < atomic_load(&v->next_ms)) ||
        atomic_exchange(&v->busy, true))
        return;
    atomic_store(&v->term_seen, term);
    v->at = 0;
    check(version_parse(SERVER_COMPATIBLE_VERSION, &v->lowest));
    store_hold(&s->store);
    members_copy(s->store.members, &v->members);
    store_release(&s->store);
    ask_next(v);
}
