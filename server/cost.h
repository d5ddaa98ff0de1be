/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request may add to the store, in bytes as etcd reckons them for its quota: before it is
 * proposed (api/) and again when it is applied (quota.c). They look at the request alone.
 * Thread: any.
 */
#pragma once

#include <stdint.h>

#include "rpc.pb-c.h"

enum { COST_KEY_BYTES = 256, COST_LEASE_BYTES = 64 };

uint64_t cost_put(const Etcdserverpb__PutRequest *r);
/* The dearer branch. */
uint64_t cost_txn(const Etcdserverpb__TxnRequest *r);
