/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one table from outcomes to gRPC statuses. Clients of etcd match errors by text, so the texts
 * are the contract.
 *
 * Two of etcd's errors (too many requests, not enough started members) are mapped to the client's
 * error type by mistake there and therefore travel as Unknown, with the right text. We send what
 * etcd sends.
 *
 * Thread: any. Invariant: every outcome has a row (status_test.c); a hole would answer "unknown
 * error".
 */
#include "api/status.h"

#include <stddef.h>

#define E(text) "etcdserver: " text

static const struct status statuses[OUTCOME_COUNT] = {
    [OUTCOME_OK] = {STATUS_OK, ""},

    [OUTCOME_EMPTY_KEY] = {STATUS_INVALID_ARGUMENT, E("key is not provided")},
    [OUTCOME_KEY_NOT_FOUND] = {STATUS_INVALID_ARGUMENT, E("key not found")},
    [OUTCOME_VALUE_PROVIDED] = {STATUS_INVALID_ARGUMENT, E("value is provided")},
    [OUTCOME_LEASE_PROVIDED] = {STATUS_INVALID_ARGUMENT, E("lease is provided")},
    [OUTCOME_TOO_MANY_OPS] = {STATUS_INVALID_ARGUMENT, E("too many operations in txn request")},
    [OUTCOME_DUPLICATE_KEY] = {STATUS_INVALID_ARGUMENT, E("duplicate key given in txn request")},
    [OUTCOME_INVALID_SORT_OPTION] = {STATUS_INVALID_ARGUMENT, E("invalid sort option")},
    [OUTCOME_INVALID_CLIENT_API_VERSION] = {STATUS_INVALID_ARGUMENT,
                                            E("invalid client api version")},
    [OUTCOME_REQUEST_TOO_LARGE] = {STATUS_INVALID_ARGUMENT, E("request is too large")},
    [OUTCOME_RANGE_STREAM_SORT] = {STATUS_UNIMPLEMENTED,
                                   "RangeStream does not support custom sort orders"},
    [OUTCOME_RANGE_STREAM_FILTER] = {STATUS_UNIMPLEMENTED,
                                     "RangeStream does not support revision filters"},
    [OUTCOME_MALFORMED] =
        {STATUS_INTERNAL,
         "grpc: error unmarshalling request: proto: cannot parse invalid wire-format data"},

    [OUTCOME_COMPACTED] = {STATUS_OUT_OF_RANGE, E("mvcc: required revision has been compacted")},
    [OUTCOME_FUTURE_REVISION] = {STATUS_OUT_OF_RANGE,
                                 E("mvcc: required revision is a future revision")},
    [OUTCOME_NO_SPACE] = {STATUS_RESOURCE_EXHAUSTED, E("mvcc: database space exceeded")},
    [OUTCOME_CORRUPT] = {STATUS_DATA_LOSS, E("corrupt cluster")},

    [OUTCOME_LEASE_NOT_FOUND] = {STATUS_NOT_FOUND, E("requested lease not found")},
    [OUTCOME_LEASE_EXISTS] = {STATUS_FAILED_PRECONDITION, E("lease already exists")},
    [OUTCOME_LEASE_TTL_TOO_LARGE] = {STATUS_OUT_OF_RANGE, E("too large lease TTL")},
    [OUTCOME_NOT_PRIMARY] = {STATUS_UNKNOWN, "not a primary lessor"},

    [OUTCOME_MEMBER_EXISTS] = {STATUS_FAILED_PRECONDITION, E("member ID already exist")},
    [OUTCOME_PEER_URL_EXISTS] = {STATUS_FAILED_PRECONDITION, E("Peer URLs already exists")},
    [OUTCOME_MEMBER_NOT_ENOUGH_STARTED] =
        {STATUS_UNKNOWN, E("re-configuration failed due to not enough started members")},
    [OUTCOME_MEMBER_BAD_URLS] = {STATUS_INVALID_ARGUMENT, E("given member URLs are invalid")},
    [OUTCOME_MEMBER_NOT_FOUND] = {STATUS_NOT_FOUND, E("member not found")},
    [OUTCOME_MEMBER_NOT_LEARNER] = {STATUS_FAILED_PRECONDITION,
                                    E("can only promote a learner member")},
    [OUTCOME_LEARNER_NOT_READY] =
        {STATUS_FAILED_PRECONDITION,
         E("can only promote a learner member which is in sync with leader")},
    [OUTCOME_TOO_MANY_LEARNERS] = {STATUS_FAILED_PRECONDITION,
                                   E("too many learner members in cluster")},
    [OUTCOME_CLUSTER_ID_MISMATCH] = {STATUS_FAILED_PRECONDITION, E("cluster ID mismatch")},
    [OUTCOME_LEARNER_UNSUPPORTED] = {STATUS_FAILED_PRECONDITION,
                                     E("rpc not supported for learner")},
    [OUTCOME_BAD_LEADER_TRANSFEREE] = {STATUS_FAILED_PRECONDITION, E("bad leader transferee")},

    [OUTCOME_TOO_MANY_REQUESTS] = {STATUS_UNKNOWN, E("too many requests")},
    [OUTCOME_NO_LEADER] = {STATUS_UNAVAILABLE, E("no leader")},
    [OUTCOME_NOT_LEADER] = {STATUS_FAILED_PRECONDITION, E("not leader")},
    [OUTCOME_LEADER_CHANGED] = {STATUS_UNAVAILABLE, E("leader changed")},
    [OUTCOME_STOPPED] = {STATUS_UNAVAILABLE, E("server stopped")},
    [OUTCOME_TIMEOUT] = {STATUS_UNAVAILABLE, E("request timed out")},
    [OUTCOME_TIMEOUT_LEADER_FAILURE] =
        {STATUS_UNAVAILABLE, E("request timed out, possibly due to previous leader failure")},
    [OUTCOME_TIMEOUT_CONNECTION_LOST] = {STATUS_UNAVAILABLE,
                                         E("request timed out, possibly due to connection lost")},
    [OUTCOME_TIMEOUT_WAIT_APPLIED] =
        {STATUS_UNAVAILABLE, E("request timed out, waiting for the applied index took too long")},
    [OUTCOME_TIMEOUT_LEADER_TRANSFER] = {STATUS_UNKNOWN,
                                         E("request timed out, leader transfer took too long")},
    [OUTCOME_UNHEALTHY] = {STATUS_UNAVAILABLE, E("unhealthy cluster")},
    [OUTCOME_NOT_CAPABLE] = {STATUS_FAILED_PRECONDITION, E("not capable")},
    [OUTCOME_CANCELED] = {STATUS_CANCELED, E("request canceled")},
    [OUTCOME_DEADLINE] = {STATUS_DEADLINE_EXCEEDED, "context deadline exceeded"},
    [OUTCOME_UNIMPLEMENTED] = {STATUS_UNIMPLEMENTED, E("not implemented in this version")},
    [OUTCOME_INTERNAL] = {STATUS_INTERNAL, E("internal error")},

    [OUTCOME_INVALID_AUTH_TOKEN] = {STATUS_UNAUTHENTICATED, E("invalid auth token")},
    [OUTCOME_USER_EMPTY] = {STATUS_INVALID_ARGUMENT, E("user name is empty")},
    [OUTCOME_PERMISSION_DENIED] = {STATUS_PERMISSION_DENIED, E("permission denied")},
    [OUTCOME_AUTH_OLD_REVISION] = {STATUS_INVALID_ARGUMENT, E("revision of auth store is old")},
    [OUTCOME_AUTH_NOT_ENABLED] = {STATUS_FAILED_PRECONDITION, E("authentication is not enabled")},
};

static const char *const code_names[STATUS_CODE_COUNT] = {
    "OK",       "Canceled",        "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",   "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",      "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated",
};

const struct status *status_of(enum outcome outcome)
{
    static const struct status unknown = {STATUS_UNKNOWN, "unknown error"};
    if ((unsigned)outcome >= OUTCOME_COUNT || !statuses[outcome].text)
        return &unknown;
    return &statuses[outcome];
}

const char *status_code_name(enum status_code code)
{
    return (unsigned)code < STATUS_CODE_COUNT ? code_names[code] : "Unknown";
}
