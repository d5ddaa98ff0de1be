/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules for changes of members (see member_rules.h). A member is started when it has published its
 * name. As in etcd:
 *
 *   add voter   started voters are a quorum of one voter more (the first addition to a single
 *               member is let through); then, connected voters likewise
 *   add learner connected voters are a quorum of one voter more
 *   remove      started voters are a quorum of those that remain; a voter that is connected may go
 *               only if the connected ones without it are a quorum of the rest
 *   promote     started voters and the learner are a quorum of both together
 *
 * "Connected" is this member itself, and whoever its messages have reached for MEMBER_HEALTH_MS.
 *
 * Thread: any.
 */
#include "server/member_rules.h"

#include <stdlib.h>

#include "base/mem.h"
#include "server/config_private.h"

static const double ready_share = 0.9; /* of the leader's log */

static size_t quorum(size_t n)
{
    return n / 2 + 1;
}

static bool is_connected(const struct member_situation *s, uint64_t id, uint64_t ms)
{
    return id == s->local_id || s->active_ms(s->arg, id) > ms;
}

/* What is known of the voters but that one. */
struct voters {
    size_t n, started, connected;
};

static struct voters count_voters(const struct member_situation *s, uint64_t except)
{
    struct voters v = {0};

    for (size_t i = 0; i < s->members->len; i++) {
        const struct member *m = &s->members->items[i];
        if (m->is_learner || m->id == except)
            continue;
        v.n++;
        v.started += m->name && m->name[0];
        v.connected += is_connected(s, m->id, MEMBER_HEALTH_MS);
    }
    return v;
}

enum outcome member_may_add(const struct member_situation *s, bool is_learner)
{
    struct voters v = count_voters(s, 0);
    bool first = v.n == 1 && v.started == 1;

    if (!is_learner && !first && v.started < quorum(v.n + 1))
        return OUTCOME_MEMBER_NOT_ENOUGH_STARTED;
    return v.n == 1 || v.connected >= quorum(v.n + 1) ? OUTCOME_OK : OUTCOME_UNHEALTHY;
}

enum outcome member_may_remove(const struct member_situation *s, uint64_t id)
{
    const struct member *m = member_list_find(s->members, id);
    struct voters rest = count_voters(s, id), all = count_voters(s, 0);

    if (m && m->is_learner)
        return OUTCOME_OK;
    if (rest.started < quorum(rest.n))
        return OUTCOME_MEMBER_NOT_ENOUGH_STARTED;
    if (id != s->local_id && s->active_ms(s->arg, id) == 0)
        return OUTCOME_OK; /* it is not part of what holds the quorum now */
    return all.connected >= 1 + quorum(all.n - 1) ? OUTCOME_OK : OUTCOME_UNHEALTHY;
}

enum outcome member_may_promote(const struct member_situation *s)
{
    struct voters v = count_voters(s, 0);

    return v.started + 1 >= quorum(v.n + 1) ? OUTCOME_OK : OUTCOME_MEMBER_NOT_ENOUGH_STARTED;
}

enum outcome member_is_ready(uint64_t learner_match, uint64_t leader_match)
{
    bool ready = !((double)learner_match / (double)leader_match < ready_share);

    return ready ? OUTCOME_OK : OUTCOME_LEARNER_NOT_READY;
}

bool member_has_quorum_since(const struct member_situation *s, uint64_t ms)
{
    size_t connected = 0;

    for (size_t i = 0; i < s->members->len; i++)
        connected += is_connected(s, s->members->items[i].id, ms);
    return connected >= quorum(s->members->len);
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool member_urls_parse(char *const *texts, size_t n, char ***ret)
{
    char **urls;
    size_t i = 0;

    if (n == 0 || n > MEMBER_URLS_MAX)
        return false;
    urls = mem_alloc((n + 1) * sizeof(*urls));
    for (; i < n; i++) {
        _cleanup_(mem_freep) char *error = NULL;
        struct url url;
        if (url_parse(texts[i], &url, &error) != 0)
            break;
        urls[i] = mem_strdup(url.text);
        url_deinit(&url);
    }
    qsort(urls, i, sizeof(*urls), compare_texts);
    if (i == n) {
        *ret = urls;
        return true;
    }
    while (i > 0)
        free(urls[--i]);
    free(urls);
    return false;
}
