/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The "request stats" line for unary calls that took longer than --warning-unary-request-duration
 * (and for all at debug level), with etcd's fields. Values are never printed, only their sizes.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/bytes.h"

struct call;

/* The call is about to be answered, ns after it came. Thread: whichever answers. */
void request_log(struct call *call, uint64_t ns);

enum { REQUEST_TEXT_BYTES_MAX = 4096 };
/* The message as text, like "key:\"a\" value_size:3 lease:7", at most about REQUEST_TEXT_BYTES_MAX
 * long. */
void request_text(const ProtobufCMessage *message, struct buf *text);
