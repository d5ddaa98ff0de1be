/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From an outcome to what a client gets: the gRPC code and etcd's exact text. Thread: any (constant
 * data).
 */
#pragma once

#include "server/outcome.h"

/* gRPC's codes, in their order. */
enum status_code {
    STATUS_OK,
    STATUS_CANCELED,
    STATUS_UNKNOWN,
    STATUS_INVALID_ARGUMENT,
    STATUS_DEADLINE_EXCEEDED,
    STATUS_NOT_FOUND,
    STATUS_ALREADY_EXISTS,
    STATUS_PERMISSION_DENIED,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_FAILED_PRECONDITION,
    STATUS_ABORTED,
    STATUS_OUT_OF_RANGE,
    STATUS_UNIMPLEMENTED,
    STATUS_INTERNAL,
    STATUS_UNAVAILABLE,
    STATUS_DATA_LOSS,
    STATUS_UNAUTHENTICATED,
    STATUS_CODE_COUNT
};

struct status {
    enum status_code code;
    const char *text; /* "" for OK */
};

const struct status *status_of(enum outcome outcome);
/* The code's name as Go prints it, such as "InvalidArgument": the value of the metrics' label
 * grpc_code. */
const char *status_code_name(enum status_code code);
