/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lines about those who are refused (see peer_refusal.h).
 *
 * Invariants:
 *   (I1) a place in the table is given away only when its time is over, so there are never more
 *        lines in an interval than places.
 *   (I2) what came from outside is cut to PEER_REFUSAL_TEXT_BYTES_MAX before it is written.
 *
 * Thread: the loop.
 */
#include "api/peer_refusal.h"

#include <ctype.h>

#include "api/peer_private.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/map.h"
#include "base/mem.h"

/* (I1) */
bool peer_refusals_allow(struct peer_refusals *r, uint64_t key, uint64_t now_ms)
{
    struct peer_refusal *place = NULL;

    for (size_t i = 0; i < PEER_REFUSALS_MAX; i++) {
        struct peer_refusal *one = &r->last[i];
        if (now_ms >= one->until_ms)
            place = one;
        else if (one->key == key)
            return false;
    }
    if (place)
        *place = (struct peer_refusal){key, now_ms + PEER_REFUSAL_INTERVAL_MS};
    return place != NULL;
}

static bool may_log(struct peer *p, const char *line, uint64_t sender)
{
    return peer_refusals_allow(&p->refusals, hash_bytes(bytes_str(line)) ^ hash_u64(sender),
                               clock_mono_ms());
}

/* (I2) */
static struct bytes shown(struct bytes text)
{
    size_t max = PEER_REFUSAL_TEXT_BYTES_MAX;

    return bytes_of(text.data, text.len < max ? text.len : max);
}

/* ---- all of /raft ---- */

static char *version_error(const struct peer_sender *s)
{
    struct bytes name = shown(s->name), version = shown(s->version);

    return mem_printf("%s version is too low: remote[%.*s]=%.*s, local=" PEER_VERSION,
                      s->version_too_low ? "remote" : "local", (int)name.len,
                      (const char *)name.data, (int)version.len, (const char *)version.data);
}

void peer_refused_sender(struct peer *p, int outcome, const struct peer_sender *s)
{
    bool version = outcome == PEER_HEADER_E_VERSION;
    const char *line =
        version ? "failed version compatibility check" : "request cluster ID mismatch";
    _cleanup_(mem_freep) char *error = version_error(s);

    if (!may_log(p, line, hash_bytes(s->name)))
        return;
    log_warn(line, LOG_ID("local-member-id", p->identity.member_id),
             LOG_ID("local-member-cluster-id", p->identity.cluster_id),
             LOG_STR("local-member-server-version", PEER_VERSION),
             LOG_STR("local-member-server-minimum-cluster-version", PEER_VERSION_MIN),
             LOG_BYTES("remote-peer-server-name", shown(s->name)),
             LOG_BYTES("remote-peer-server-version", shown(s->version)),
             LOG_BYTES("remote-peer-server-minimum-cluster-version", shown(s->version_min)),
             version ? LOG_STR("error", error)
                     : LOG_BYTES("remote-peer-cluster-id", shown(s->cluster)));
}

void peer_refused_message(struct peer *p, enum peer_verdict verdict, const struct raft_message *m)
{
    bool removed = verdict == PEER_REMOVED;
    const char *line = removed ? "rejected Raft message from removed member"
                               : "rejected Raft message to mismatch member";

    if ((!removed && verdict != PEER_WRONG_TO) || !may_log(p, line, m->from))
        return;
    log_warn(line, LOG_ID("local-member-id", p->identity.member_id),
             removed ? LOG_ID("removed-member-id", m->from) : LOG_ID("mismatch-member-id", m->to));
}

/* ---- streams ---- */

/* etcd gives its own id a second name. */
#define OWN_IDS(p)                                                                                 \
    LOG_ID("local-member-id", (p)->identity.member_id),                                            \
        LOG_ID("remote-peer-id-stream-handler", (p)->identity.member_id)

/* In Go's words. */
static char *id_error(struct bytes text)
{
    bool digits = text.len > 0;

    for (size_t i = 0; i < text.len; i++)
        digits &= isxdigit(text.data[i]) != 0;
    text = shown(text);
    return mem_printf("strconv.ParseUint: parsing \"%.*s\": %s", (int)text.len,
                      (const char *)text.data, digits ? "value out of range" : "invalid syntax");
}

void peer_refused_path(struct peer *p, struct bytes text)
{
    static const char line[] = "failed to parse path into ID";
    _cleanup_(mem_freep) char *error = id_error(text);

    if (may_log(p, line, 0))
        log_warn(line, OWN_IDS(p), LOG_BYTES("path", shown(text)), LOG_STR("error", error));
}

void peer_refused_removed(struct peer *p, uint64_t from)
{
    static const char line[] = "rejected stream from remote peer because it was removed";

    if (may_log(p, line, from))
        log_warn(line, OWN_IDS(p), LOG_ID("remote-peer-id-from", from));
}

void peer_refused_unknown(struct peer *p, uint64_t from)
{
    static const char line[] = "failed to find remote peer in cluster";

    if (may_log(p, line, from))
        log_warn(line, OWN_IDS(p), LOG_ID("remote-peer-id-from", from),
                 LOG_ID("cluster-id", p->identity.cluster_id));
}

void peer_refused_to(struct peer *p, uint64_t from, struct bytes to)
{
    static const char line[] = "ignored streaming request; ID mismatch";

    if (may_log(p, line, from))
        log_warn(line, OWN_IDS(p), LOG_BYTES("remote-peer-id-header", shown(to)),
                 LOG_ID("remote-peer-id-from", from), LOG_ID("cluster-id", p->identity.cluster_id));
}
