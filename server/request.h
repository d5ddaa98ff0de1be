/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request under way: one object, finished exactly once.
 *
 *   made by api/ -> server_submit() -> waiting in the wait table -> finish(): result, time-out,
 *                                          |                        stop or refusal
 *                                          +-> server_cancel(): the client went away; finish() is
 *                                              then never called
 *
 * The object belongs to its maker. Between submit and finish (or a successful cancel) it must not
 * be freed. finish() may run on any thread, also inside server_submit(); it must not block:
 * api/call.c hands the call to its own queue, or answers a lone one.
 *
 * The server's own limit (5 s + 2 x election timeout) is kept here; a client's shorter deadline is
 * the client's to notice, which then cancels.
 */
#pragma once

#include "base/bytes.h"
#include "base/list.h"
#include "server/outcome.h"

enum request_kind {
    REQUEST_PUT,
    REQUEST_DELETE_RANGE,
    REQUEST_TXN,
    REQUEST_COMPACT,
    REQUEST_LEASE_GRANT,
    REQUEST_LEASE_REVOKE,
    REQUEST_LEASE_CHECKPOINT,
    REQUEST_ALARM,
    REQUEST_CLUSTER_VERSION_SET,
    REQUEST_MEMBER_ATTR_SET,
    REQUEST_READ_INDEX, /* no entry: waits until a linearizable read may run */
    REQUEST_MEMBER_ADD, /* from here to PROMOTE: a configuration entry */
    REQUEST_MEMBER_REMOVE,
    REQUEST_MEMBER_UPDATE,
    REQUEST_MEMBER_PROMOTE,
    REQUEST_MOVE_LEADER, /* no entry: waits until another member leads */
    REQUEST_LEASE_RENEW, /* no entry: this and the next wait for the leader, or for what it does */
    REQUEST_LEASE_TIME_TO_LIVE,
    REQUEST_KIND_COUNT
};

/* What the caller shows about itself; empty when it shows nothing. Borrowed until finish(). */
struct credentials {
    struct bytes token;
    struct bytes certificate_name;
};

struct request {
    enum request_kind kind;
    struct bytes
        payload; /* the encoded request message (PutRequest and so on); borrowed until finish() */
    size_t stripped_bytes; /* of the message: left out of payload, but counted against the limit */
    struct credentials credentials;
    bool physical; /* COMPACT: answer when the deletion is done */
    bool more; /* the caller has more at hand: raft begins with them at server_submitted() */
    uint64_t only_term; /* proposed by this term's leader or by nobody; 0: by any */
    void (*finish)(struct request *request, enum outcome outcome);

    /* The result. */
    int64_t ttl_s; /* LEASE_RENEW: what the lease has again */
    struct buf
        response; /* the encoded response message; the finisher fills it, the maker frees it */

    /* The wait table's own. */
    uint64_t id;
    struct request *wait_next;
    struct list wait_link;
    uint64_t expires_ms;
};
