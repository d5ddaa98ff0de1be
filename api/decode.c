/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding of requests. protobuf-c recurses without limit and takes any bytes for a string, so a
 * first pass over the wire form (which itself recurses at most DECODE_DEPTH_MAX deep, in small
 * frames) decides whether its decoder may see the message at all.
 *
 * Thread: any; the arena belongs to the caller.
 *
 * Invariants:
 *  1. protobuf-c never sees a message nested deeper than DECODE_DEPTH_MAX.
 *  2. A string field that passed has no NUL: what C code sees is what the client sent.
 */
#include "api/decode.h"

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* True if there is nothing to check before decoding: no messages inside, no strings. */
static bool is_flat(const ProtobufCMessageDescriptor *descriptor)
{
    for (unsigned i = 0; i < descriptor->n_fields; i++) {
        ProtobufCType type = descriptor->fields[i].type;
        if (type == PROTOBUF_C_TYPE_MESSAGE || type == PROTOBUF_C_TYPE_STRING)
            return false;
    }
    return true;
}

/* UTF-8 as Go's utf8.Valid sees it: no overlong forms, no surrogates, nothing above U+10FFFF. NUL
 * is refused as well (invariant 2). */
bool decode_text_is_valid(struct bytes s)
{
    size_t i = 0;
    while (i < s.len) {
        uint8_t c = s.data[i++];
        if (c != 0 && c < 0x80)
            continue;
        size_t extra = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : 1;
        if (c < 0xC2 || c > 0xF4 || s.len - i < extra)
            return false;
        uint8_t d = s.data[i];
        if ((c == 0xE0 && d < 0xA0) || (c == 0xED && d > 0x9F) || (c == 0xF0 && d < 0x90) ||
            (c == 0xF4 && d > 0x8F))
            return false;
        for (; extra; extra--)
            if ((s.data[i++] & 0xC0) != 0x80)
                return false;
    }
    return true;
}

static int check_wire(const ProtobufCMessageDescriptor *descriptor, struct bytes s, unsigned depth);

static int check_field(const ProtobufCFieldDescriptor *field, struct bytes value, unsigned depth)
{
    if (!field)
        return 0;
    if (field->type == PROTOBUF_C_TYPE_MESSAGE)
        return check_wire(field->descriptor, value, depth + 1);
    if (field->type == PROTOBUF_C_TYPE_STRING && !decode_text_is_valid(value))
        return DECODE_E_MALFORMED;
    return 0;
}

static bool skip(struct bytes *s, uint64_t len)
{
    if (len > s->len)
        return false;
    s->data += len;
    s->len -= len;
    return true;
}

static int check_wire(const ProtobufCMessageDescriptor *descriptor, struct bytes s, unsigned depth)
{
    if (depth > DECODE_DEPTH_MAX)
        return DECODE_E_DEPTH;
    while (s.len) {
        uint64_t tag, n = 0;
        if (!varint_get(&s, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX >> 3)
            return DECODE_E_MALFORMED;
        unsigned wire = tag & 7;
        bool ok = wire == WIRE_FIXED64 ? skip(&s, 8)
                  : wire == WIRE_FIXED32
                      ? skip(&s, 4)
                      : (wire == WIRE_VARINT || wire == WIRE_BYTES) && varint_get(&s, &n);
        struct bytes value = {s.data, (size_t)n};
        if (!ok || (wire == WIRE_BYTES && !skip(&s, n)))
            return DECODE_E_MALFORMED;
        if (wire != WIRE_BYTES)
            continue;
        int r =
            check_field(protobuf_c_message_descriptor_get_field(descriptor, (unsigned)(tag >> 3)),
                        value, depth);
        if (r)
            return r;
    }
    return 0;
}

static void *arena_allocate(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void arena_ignore(void *arena, void *p)
{
}

int decode_message(const ProtobufCMessageDescriptor *descriptor, struct bytes encoded,
                   struct arena *arena, void **ret)
{
    if (!is_flat(descriptor)) {
        int r = check_wire(descriptor, encoded, 1);
        if (r)
            return r;
    }
    ProtobufCAllocator allocator = {arena_allocate, arena_ignore, arena};
    void *message = protobuf_c_message_unpack(descriptor, &allocator, encoded.len, encoded.data);
    if (!message)
        return DECODE_E_MALFORMED;
    *ret = message;
    return 0;
}
