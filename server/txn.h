/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Put, DeleteRange and Txn do to the store, and what they answer. Deterministic: the result,
 * also a refusal, is a function of the request and the state alone, so every member comes to the
 * same.
 *
 * All functions return 0, a positive enum outcome (nothing was changed then), or a negative error
 * (fatal to the process). out gets the encoded response message; NULL when nobody waits for it,
 * which also spares reads that only the response needs.
 *
 * Thread: the apply turn, between mvcc_begin() and mvcc_end(); txn_read_only() any.
 */
#pragma once

#include "rpc.pb-c.h"

#include "base/arena.h"
#include "server/encode.h"
#include "server/outcome.h"
#include "storage/lease.h"
#include "storage/mvcc.h"

enum { TXN_DEPTH_MAX = 512 }; /* of nested transactions; the op limit keeps honest ones far below */

struct txn_context {
    struct mvcc *mvcc;
    struct lease_table *leases;
    struct arena *arena;           /* lives until mvcc_publish() */
    struct response_header header; /* of the outermost response; the revision is filled in here */
};

int txn_put(struct txn_context *ctx, const Etcdserverpb__PutRequest *request, struct buf *out);
int txn_delete_range(struct txn_context *ctx, const Etcdserverpb__DeleteRangeRequest *request,
                     struct buf *out);
int txn_txn(struct txn_context *ctx, const Etcdserverpb__TxnRequest *request, struct buf *out);

/* True: the request reads more than single keys, so earlier entries of the apply turn must be in
 * the store before it runs. */
bool txn_delete_range_scans(const Etcdserverpb__DeleteRangeRequest *request);
bool txn_txn_scans(const Etcdserverpb__TxnRequest *request);

/* A transaction of ranges only, answered from published state at one revision. */
int txn_read_only(struct mvcc *mvcc, const struct response_header *header,
                  const Etcdserverpb__TxnRequest *request, struct buf *out);
