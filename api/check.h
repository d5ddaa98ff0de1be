/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a request must satisfy before it is proposed or run: etcd's checks in etcd's order. All
 * return OUTCOME_OK or the first complaint. They look at the request alone, never at the store.
 * Thread: any.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "rpc.pb-c.h"
#include "server/outcome.h"

enum outcome check_range(const Etcdserverpb__RangeRequest *r);
enum outcome check_range_stream(const Etcdserverpb__RangeRequest *r);
enum outcome check_put(const Etcdserverpb__PutRequest *r);
enum outcome check_delete_range(const Etcdserverpb__DeleteRangeRequest *r);
/* Fields and the budget of operations (recursively), then that no key is written twice. */
enum outcome check_txn(const Etcdserverpb__TxnRequest *r, uint32_t ops_max);

/* Every operation of both branches is a range (so an empty transaction is read-only too). */
bool check_txn_read_only(const Etcdserverpb__TxnRequest *r);
/* Every operation of both branches is a serializable range. */
bool check_txn_serializable(const Etcdserverpb__TxnRequest *r);
