/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From bytes off the wire to a protobuf-c message, without trusting them: nesting is bounded before
 * anything recurses, strings are checked for what Go refuses and C cannot hold. Thread: any.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>

#include "base/arena.h"

/* Messages inside each other: deeper is refused. Each level costs the decoder about 1 KiB of stack.
 */
enum { DECODE_DEPTH_MAX = 2000 };

enum {
    DECODE_E_MALFORMED =
        1, /* not an encoding of such a message, or a string is not UTF-8 or holds a NUL */
    DECODE_E_DEPTH = 2,
};

/* *ret lives in the arena; its bytes fields too. */
int decode_message(const ProtobufCMessageDescriptor *descriptor, struct bytes encoded,
                   struct arena *arena, void **ret);
/* UTF-8 without NUL. */
bool decode_text_is_valid(struct bytes s);
