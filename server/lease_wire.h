/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What members ask each other about leases: bodies of POST /leases and /leases/internal, as etcd
 * writes and reads them.
 *
 *   /leases            LeaseKeepAliveRequest    ->  LeaseKeepAliveResponse, without a header
 *   /leases/internal   LeaseInternalRequest     ->  LeaseInternalResponse, with an empty header
 *
 * Thread: any; no state.
 */
#pragma once

#include "base/bytes.h"

#define LEASE_WIRE_RENEW_PATH "/leases"
#define LEASE_WIRE_LEFT_PATH "/leases/internal"
#define LEASE_WIRE_CONTENT_TYPE "application/protobuf"

enum {
    LEASE_WIRE_REQUEST_BYTES_MAX = 64 << 10, /* etcd's limits */
    LEASE_WIRE_ANSWER_BYTES_MAX = 100 << 20,
    LEASE_WIRE_RENEWED_BYTES_MAX = 4096 /* an error's text included */
};

/* All of the _read(): false: the bytes are no such message. */

void lease_wire_renew_put(struct buf *out, int64_t id);
bool lease_wire_renew_read(struct bytes body, int64_t *ret_id);

struct lease_wire_renewed {
    int64_t id;
    int64_t ttl_s;
};
void lease_wire_renewed_put(struct buf *out, const struct lease_wire_renewed *r);
bool lease_wire_renewed_read(struct bytes body, struct lease_wire_renewed *ret);

struct lease_wire_question {
    int64_t id;
    bool keys;
};
void lease_wire_question_put(struct buf *out, const struct lease_wire_question *q);
/* False also when the question inside is missing; etcd falls over that. */
bool lease_wire_question_read(struct bytes body, struct lease_wire_question *ret);

struct lease_wire_left {
    int64_t id;
    int64_t ttl_s;
    int64_t granted_ttl_s;
    struct bytes keys; /* encoded fields of LeaseTimeToLiveResponse, one a key */
};
/* The fields of a LeaseTimeToLiveResponse but for the header. */
void lease_wire_left_fields(struct buf *out, const struct lease_wire_left *left);
void lease_wire_left_key(struct buf *keys, struct bytes key); /* one more */
void lease_wire_left_put(struct buf *out, const struct lease_wire_left *left);
/* keys gets the memory of ret->keys. */
bool lease_wire_left_read(struct bytes body, struct lease_wire_left *ret, struct buf *keys);
