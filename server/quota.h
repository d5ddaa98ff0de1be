/* SPDX-License-Identifier: Apache-2.0 */
/* The space quota (see quota.c). Thread: any. */
#pragma once

#include "raft_internal.pb-c.h"
#include "server/config.h"

/* Negative: off. */
int64_t quota_bytes(const struct config *config);
/* What the request may add to the store, as etcd reckons it; 0: it can't make it grow. */
uint64_t quota_cost(const Etcdserverpb__InternalRaftRequest *request);
/* A cost of 0 always fits. quota: as quota_bytes(). */
bool quota_exceeded(int64_t quota, uint64_t used_bytes, uint64_t cost_bytes);
/* This member's NOSPACE alarm is due: the next tick proposes it. arg: the struct
 * server. */
void quota_raise_alarm(void *arg);
