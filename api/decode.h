/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes off the wire to a protobuf-c message, without trusting them and by Go's rules: what
 * etcd accepts is accepted, what it refuses is refused. Thread: any.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

enum {
    /* Messages inside each other that protobuf-c may see: each takes about 1 KiB of stack. */
    DECODE_DEPTH_MAX = 2000,
    /* The same where the message has to be rewritten, which copies it once for each. The
     * transactions that etcd takes by default are no deeper than 256. */
    DECODE_REPAIR_DEPTH_MAX = 300,
    /* Go's own limit: deeper is not a message at all. */
    DECODE_WIRE_DEPTH_MAX = 10000,
};

enum {
    DECODE_E_WIRE = 1,      /* not the wire format */
    DECODE_E_TEXT = 2,      /* a string that is not UTF-8, or one with a NUL, which C cannot hold */
    DECODE_E_DEPTH = 3,     /* deeper than these two; Go would take it */
    DECODE_E_RECURSION = 4, /* deeper than DECODE_WIRE_DEPTH_MAX */
};

/*
 * *ret lives in the arena, its bytes fields too. *encoded becomes an equal message that protobuf-c
 * decodes everywhere: fields that Go sees as unknown though their number is known (another wire
 * type) are left out, and a message that can be there once is there once. Mostly it stays as it is;
 * otherwise it lives in the arena.
 */
int decode_message(const ProtobufCMessageDescriptor *descriptor, struct bytes *encoded,
                   struct arena *arena, void **ret);
/* What Go says about it. */
const char *decode_error_text(int error);
/* UTF-8 without NUL. */
bool decode_text_is_valid(struct bytes s);
