/* SPDX-License-Identifier: Apache-2.0 */
/*
 * InternalRaftRequest: what a normal log entry carries. Encoding splices the request's own bytes
 * behind a tag instead of packing them again; decoding goes through protobuf-c into an arena,
 * behind a bound on nesting (protobuf-c has none of its own).
 */
#pragma once

#include "raft_internal.pb-c.h"

#include "auth/auth.h"
#include "base/arena.h"
#include "server/request.h"

/* A new blob with the encoded InternalRaftRequest. */
struct blob *internal_request_encode(enum request_kind kind, struct bytes payload, uint64_t id,
                                     const struct identity *identity);
/* Into the arena; NULL: the bytes are not an InternalRaftRequest. */
Etcdserverpb__InternalRaftRequest *internal_request_decode(struct bytes entry, struct arena *arena);

/* For protobuf-c: allocates from an arena, frees nothing. */
ProtobufCAllocator arena_allocator(struct arena *arena);
/* True if the encoded TxnRequest nests transactions at most depth_max deep. Bytes that don't parse
 * are left to the decoder. */
bool txn_bytes_depth_ok(struct bytes txn, unsigned depth_max);
