/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The active alarms: replicated, persisted, keyed by (member, type). NOSPACE refuses what grows,
 * CORRUPT refuses everything that could spread or serve wrong data.
 *
 * Thread: changes in the apply turn; reads from any.
 */
#pragma once

#include "rpc.pb-c.h"

#include "storage/db.h"

struct alarms;

int alarms_open(struct alarms **ret, struct db *db);
struct alarms *alarms_close(struct alarms *a);
/* Apply. Appends the alarms fields of an AlarmResponse to out (NULL: nobody waits). */
void alarms_apply(struct alarms *a, struct db_batch *batch,
                  const Etcdserverpb__AlarmRequest *request, struct buf *out);
/* Appends repeated AlarmMember under that field number, those of the given type or all (NONE). */
void alarms_encode(struct alarms *a, Etcdserverpb__AlarmType type, uint32_t field, struct buf *out);
bool alarms_no_space(const struct alarms *a);
bool alarms_corrupt(const struct alarms *a);
/* That member's own alarm of that type; the two above ask for anybody's. */
bool alarms_active(struct alarms *a, uint64_t member, Etcdserverpb__AlarmType type);
/* The strings of a StatusResponse's errors, such as "memberID:123 alarm:NOSPACE ". */
void alarms_describe(struct alarms *a, uint32_t field, struct buf *out);
