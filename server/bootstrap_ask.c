/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Questions to other members before there is a server: GET /members, /version, /downgrade/enabled
 * of their peer ports (see bootstrap_private.h). One URL after the other, in the order given, as
 * etcd asks; what the answer says counts, not its status.
 *
 * Thread: the composition root's, which waits.
 */
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/bootstrap_private.h"
#include "server/cluster_version.h"
#include "server/member_json.h"
#include "server/server.h"
#include "server/transport.h"

/* One GET of one URL; free with buf_deinit(&f->answer). */
static void ask(struct transport *t, char *const *url, const char *path, uint64_t timeout_ms,
                struct transport_fetch *f)
{
    *f = (struct transport_fetch){
        .method = "GET", .urls = url, .n_urls = 1, .path = path, .timeout_ms = timeout_ms};
    transport_fetch_wait(t, f);
}

/* False: no answer that is one. */
static bool ask_members(struct transport *t, char *const *url, uint64_t timeout_ms,
                        struct bootstrap_cluster *ret)
{
    struct transport_fetch f;
    bool usable;

    ask(t, url, "/members", timeout_ms, &f);
    ret->id = f.cluster_id;
    usable = f.status != 0 && member_json_list_parse(buf_bytes(&f.answer), &ret->members) == 0;
    if (usable && f.cluster_id == 0) {
        member_list_deinit(&ret->members);
        usable = false;
    }
    if (!usable)
        log_debug("failed to get cluster response", LOG_STR("address", *url));
    buf_deinit(&f.answer);
    return usable;
}

bool bootstrap_ask_members(struct transport *t, char *const *urls, size_t n, uint64_t timeout_ms,
                           bool (*fits)(void *arg, const struct member_list *members), void *arg,
                           struct bootstrap_cluster *ret, char **ret_error)
{
    bool found = false, content = false;

    for (size_t i = 0; i < n && !content; i++) {
        struct bootstrap_cluster answer;
        if (!ask_members(t, &urls[i], timeout_ms, &answer))
            continue;
        content = !fits || (!found && answer.members.len == 0) || fits(arg, &answer.members);
        if (found)
            member_list_deinit(content ? &ret->members : &answer.members);
        if (content || !found)
            *ret = answer;
        found = true;
    }
    if (!found)
        *ret_error = mem_strdup("could not retrieve cluster information from the given URLs");
    if (!found || ret->members.len > 0)
        return found;
    *ret_error = mem_strdup("failed to get raft cluster member(s) from the given URLs");
    member_list_deinit(&ret->members);
    return false;
}

/* ---- versions ---- */

/* GET of any of a member's URLs, until take() is content with an answer. */
static bool ask_member(struct transport *t, const struct member *m, const char *path,
                       uint64_t timeout_ms, bool (*take)(struct bytes answer, void *ret), void *ret)
{
    bool taken = false;

    for (size_t i = 0; i < m->n_peer_urls && !taken; i++) {
        struct transport_fetch f;
        ask(t, &m->peer_urls[i], path, timeout_ms, &f);
        taken = f.status != 0 && take(buf_bytes(&f.answer), ret);
        buf_deinit(&f.answer);
    }
    return taken;
}

/* The cluster's version as one member sees it; not decided yet: not parsed. */
struct cluster_answer {
    bool is_parsed;
    struct version version;
};

static bool take_version(struct bytes answer, void *ret)
{
    struct cluster_answer *a = ret;

    a->is_parsed = cluster_version_parse(answer, "etcdcluster", &a->version);
    return answer.len > 0;
}

/* As Go's strconv.ParseBool. */
static bool take_flag(struct bytes answer, void *ret)
{
    static const char *const words[2][6] = {{"0", "f", "F", "false", "FALSE", "False"},
                                            {"1", "t", "T", "true", "TRUE", "True"}};

    for (int value = 0; value < 2; value++) {
        for (int i = 0; i < 6; i++) {
            if (!bytes_equal(answer, bytes_str(words[value][i])))
                continue;
            *(bool *)ret = value != 0;
            return true;
        }
    }
    return false;
}

static bool downgrade_is_enabled(struct transport *t, const struct member_list *members,
                                 uint64_t local_id, uint64_t timeout_ms)
{
    bool enabled = false, answered = false;

    for (size_t i = 0; i < members->len && !answered; i++) {
        if (members->items[i].id != local_id)
            answered = ask_member(t, &members->items[i], "/downgrade/enabled", timeout_ms,
                                  take_flag, &enabled);
    }
    return answered && enabled;
}

/* Clusters in which this version can live: not above ours; while a downgrade is under way just the
 * one above, which is to become ours. */
struct window {
    struct version lowest, highest;
};

static struct window compatible(bool downgrades)
{
    struct window w = {.lowest = {.major = 3}};

    check(version_parse(SERVER_CLUSTER_VERSION, &w.highest));
    if (downgrades) {
        w.highest.minor++;
        w.lowest = w.highest;
    }
    return w;
}

static bool fits(const struct window *w, const struct member *m, struct version version)
{
    bool low = version_compare(version, w->lowest) < 0;
    char text[VERSION_TEXT_MAX];

    if (!low && version_compare(version, w->highest) <= 0)
        return true;
    version_text(version, text);
    log_warn(low ? "cluster version of remote member is not compatible; too low"
                 : "cluster version of remote member is not compatible; too high",
             LOG_ID("remote-member-id", m->id), LOG_STR("remote-member-cluster-version", text));
    return false;
}

bool bootstrap_is_compatible(struct transport *t, const struct member_list *members,
                             uint64_t local_id, uint64_t timeout_ms)
{
    struct cluster_answer *answers = mem_alloc((members->len + 1) * sizeof(*answers));
    bool some = false, all_fit = true;
    struct window window;

    for (size_t i = 0; i < members->len; i++) {
        const struct member *m = &members->items[i];
        if (m->id != local_id &&
            !ask_member(t, m, "/version", timeout_ms, take_version, &answers[i]))
            log_warn("failed to get version", LOG_ID("remote-member-id", m->id));
    }
    window = compatible(downgrade_is_enabled(t, members, local_id, timeout_ms));
    for (size_t i = 0; i < members->len; i++) {
        if (!answers[i].is_parsed)
            continue;
        some = true;
        all_fit = all_fit && fits(&window, &members->items[i], answers[i].version);
    }
    free(answers);
    return some && all_fit;
}
