/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The space quota: refuses what grows before it is proposed, and raises the NOSPACE alarm for this
 * member. What counts is the live size of the database, refreshed every housekeeper tick, so
 * deletes and a compaction bring room without any defragmentation.
 *
 * Thread: any.
 */
#include "server/quota.h"

#include "base/list.h"
#include "base/log.h"
#include "server/server_metrics.h"
#include "server/server_private.h"

enum { QUOTA_DEFAULT_BYTES = 2 * INT64_C(1024) * 1024 * 1024 };

int64_t quota_bytes(const struct config *config)
{
    return config->quota_backend_bytes == 0 ? QUOTA_DEFAULT_BYTES : config->quota_backend_bytes;
}

bool server_quota_exceeded(struct server *s, uint64_t cost_bytes)
{
    int64_t quota = quota_bytes(s->config);

    if (cost_bytes == 0 || quota < 0 ||
        housekeeper_used_bytes(s->housekeeper) + cost_bytes < (uint64_t)quota)
        return false;
    atomic_store(&s->raise_alarm.done, false); /* the housekeeper's next tick proposes it */
    return true;
}
