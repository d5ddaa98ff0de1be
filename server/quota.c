/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The space quota: what grows the store is refused before it is proposed (server_quota_exceeded()),
 * looked at again when it is applied (apply_entry.c), and either way this member's NOSPACE alarm is
 * raised. What counts is the live size of the database, refreshed every housekeeper tick, so
 * deletes and a compaction bring room without any defragmentation.
 *
 * Quota and size are this member's own, the alarm is everybody's: only the alarm, which is an
 * entry, may decide what another entry does.
 *
 * Thread: any.
 */
#include "server/quota.h"

#include "base/list.h"
#include "base/log.h"
#include "server/cost.h"
#include "server/server_metrics.h"
#include "server/server_private.h"

enum { QUOTA_DEFAULT_BYTES = 2 * INT64_C(1024) * 1024 * 1024 };

int64_t quota_bytes(const struct config *config)
{
    return config->quota_backend_bytes == 0 ? QUOTA_DEFAULT_BYTES : config->quota_backend_bytes;
}

uint64_t quota_cost(const Etcdserverpb__InternalRaftRequest *request)
{
    if (request->put)
        return cost_put(request->put);
    if (request->txn)
        return cost_txn(request->txn);
    return request->lease_grant ? COST_LEASE_BYTES : 0;
}

/* ---- does it fit ---- */

bool quota_exceeded(int64_t quota, uint64_t used_bytes, uint64_t cost_bytes)
{
    return cost_bytes > 0 && quota >= 0 && used_bytes + cost_bytes >= (uint64_t)quota;
}

void quota_raise_alarm(void *arg)
{
    struct server *s = arg;

    if (atomic_exchange(&s->raise_alarm.done, false))
        log_warn("message exceeded backend quota; raising alarm",
                 LOG_U64("quota-size-bytes", (uint64_t)quota_bytes(s->config)));
}

bool server_quota_exceeded(struct server *s, uint64_t cost_bytes)
{
    uint64_t used_bytes = housekeeper_used_bytes(s->housekeeper);

    if (cost_bytes > 0 && disk_room_short(s->room))
        return true; /* the housekeeper sees to the alarm */
    if (!quota_exceeded(quota_bytes(s->config), used_bytes, cost_bytes))
        return false;
    quota_raise_alarm(s);
    return true;
}
