/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decoding of requests. protobuf-c differs from Go in three ways: it recurses without limit and
 * takes any bytes for a string; it refuses a known field in another wire type, and groups, which Go
 * skips as unknown; and where a message that can be there once is there twice, Go merges the two,
 * while protobuf-c forgets the first (in a oneof) or merges by rules of its own. So a pass over the
 * wire form comes first. It does not recurse, and decides whether protobuf-c may see the message,
 * and whether it has to be rewritten before (repair(); hardly ever: no client library writes such
 * messages).
 *
 * What is proposed is the rewritten form: apply decodes it once more, with protobuf-c alone. An
 * etcd member decodes the same entry with Go, so the two must see the same in it: that is why
 * repeats are put right here.
 *
 * Thread: any; the arena belongs to the caller.
 *
 * Invariants:
 *  1. protobuf-c never sees a message nested deeper than DECODE_DEPTH_MAX, and nothing that it
 *     refuses.
 *  2. A string field that passed has no NUL: what C code sees is what the client sent.
 *  3. What protobuf-c sees has no message field twice but repeated ones, and means to Go and to
 *     protobuf-c what the original means to Go.
 */
#include "api/decode.h"

#include "base/check.h"
#include "base/mem.h"

enum wire {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    WIRE_GROUP = 3,
    WIRE_END_GROUP = 4,
    WIRE_FIXED32 = 5
};

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

/* ---- fields ---- */

struct field {
    uint64_t number;
    enum wire wire;
    struct bytes value; /* WIRE_BYTES: the contents */
    const ProtobufCFieldDescriptor *known;
    bool usable; /* known, and in a wire type that protobuf-c takes for it */
};

static enum wire wire_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT: return WIRE_FIXED32;
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return WIRE_FIXED64;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE: return WIRE_BYTES;
    default: return WIRE_VARINT;
    }
}

static bool is_usable(const ProtobufCFieldDescriptor *known, enum wire wire)
{
    if (wire == wire_of(known->type))
        return true;
    return wire == WIRE_BYTES && known->label == PROTOBUF_C_LABEL_REPEATED; /* packed */
}

static bool skip(struct bytes *s, uint64_t len)
{
    if (len > s->len)
        return false;
    s->data += len;
    s->len -= len;
    return true;
}

/* Reads tag and value of anything but a group, whose tag alone is read. */
static bool field_read(struct bytes *s, struct field *f)
{
    uint64_t tag, n = 0;
    if (!varint_get(s, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX >> 3)
        return false;
    f->number = tag >> 3;
    f->wire = (enum wire)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT: return varint_get(s, &n);
    case WIRE_FIXED64: return skip(s, 8);
    case WIRE_FIXED32: return skip(s, 4);
    case WIRE_BYTES:
        if (!varint_get(s, &n))
            return false;
        f->value = bytes_of(s->data, (size_t)n);
        return skip(s, n);
    case WIRE_GROUP:
    case WIRE_END_GROUP: return true;
    default: return false;
    }
}

/* The rest of a group and all groups in it. */
static int group_skip(struct bytes *s, uint64_t number, unsigned depth)
{
    struct field f;
    if (depth > DECODE_DEPTH_MAX)
        return DECODE_E_RECURSION;
    while (field_read(s, &f)) {
        if (f.wire == WIRE_END_GROUP)
            return f.number == number ? 0 : DECODE_E_WIRE;
        int r = f.wire == WIRE_GROUP ? group_skip(s, f.number, depth + 1) : 0;
        if (r)
            return r;
    }
    return DECODE_E_WIRE;
}

/* One whole field. Zero: *s is behind it. */
static int field_next(const ProtobufCMessageDescriptor *descriptor, struct bytes *s,
                      struct field *f)
{
    if (!field_read(s, f) || f->wire == WIRE_END_GROUP)
        return DECODE_E_WIRE;
    f->known = protobuf_c_message_descriptor_get_field(descriptor, (unsigned)f->number);
    f->usable = f->known && is_usable(f->known, f->wire);
    return f->wire == WIRE_GROUP ? group_skip(s, f->number, 1) : 0;
}

/* ---- the first pass ---- */

/* The messages that the pass is in; the rest of an outer one waits while an inner one is read. */
struct level {
    const ProtobufCMessageDescriptor *descriptor;
    struct bytes rest;
    uint64_t seen; /* the message fields that it has had, a bit each */
};

enum { LEVELS_INLINE = 32 };

struct walk {
    struct level *levels;
    size_t len, cap;
    size_t deepest;
    bool needs_repair;
    struct level inline_levels[LEVELS_INLINE];
};

static void walk_deinit(struct walk *w)
{
    if (w->levels != w->inline_levels)
        free(w->levels);
}

static int walk_enter(struct walk *w, const ProtobufCMessageDescriptor *descriptor,
                      struct bytes message)
{
    if (w->len >= DECODE_WIRE_DEPTH_MAX)
        return DECODE_E_RECURSION;
    if (w->len == w->cap) {
        w->cap *= 2;
        struct level *more = mem_alloc_raw(w->cap * sizeof(*more));
        memcpy(more, w->levels, w->len * sizeof(*more));
        walk_deinit(w);
        w->levels = more;
    }
    w->levels[w->len++] = (struct level){descriptor, message, 0};
    if (w->len > w->deepest)
        w->deepest = w->len;
    return 0;
}

/* A message that can be there once has been there. With more than 64 fields two may share a bit;
 * that costs a needless repair. */
static bool is_repeat(struct level *level, const ProtobufCFieldDescriptor *known)
{
    uint64_t bit = UINT64_C(1) << ((known - level->descriptor->fields) & 63);
    bool seen = level->seen & bit;
    level->seen |= bit;
    return seen && known->label != PROTOBUF_C_LABEL_REPEATED;
}

static int walk_field(struct walk *w, struct level *level, const struct field *f)
{
    if (!f->usable) {
        w->needs_repair |= f->known || f->wire == WIRE_GROUP;
        return 0;
    }
    if (f->known->type == PROTOBUF_C_TYPE_MESSAGE) {
        w->needs_repair |= is_repeat(level, f->known);
        return walk_enter(w, f->known->descriptor, f->value);
    }
    if (f->known->type == PROTOBUF_C_TYPE_STRING && !decode_text_is_valid(f->value))
        return DECODE_E_TEXT;
    return 0;
}

static int walk_run(struct walk *w, const ProtobufCMessageDescriptor *descriptor,
                    struct bytes encoded)
{
    w->levels = w->inline_levels;
    w->cap = LEVELS_INLINE;
    int r = walk_enter(w, descriptor, encoded);
    while (r == 0 && w->len) {
        struct level *level = &w->levels[w->len - 1];
        struct field f;
        if (level->rest.len == 0) {
            w->len--;
            continue;
        }
        r = field_next(level->descriptor, &level->rest, &f);
        if (r == 0)
            r = walk_field(w, level, &f);
    }
    return r;
}

/* ---- the second ---- */

/* One takes the other's place: the same field, or another member of its oneof. */
static bool is_rival(const struct field *f, const ProtobufCFieldDescriptor *known)
{
    if (!f->usable)
        return false;
    return f->known == known || (f->known->flags & known->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
                                 f->known->quantifier_offset == known->quantifier_offset);
}

static bool has_rival(const ProtobufCMessageDescriptor *descriptor, struct bytes s,
                      const ProtobufCFieldDescriptor *known)
{
    while (s.len) {
        struct field f;
        check(field_next(descriptor, &s, &f) == 0);
        if (is_rival(&f, known))
            return true;
    }
    return false;
}

/* What Go makes of a field's occurrences: they are read as one, but for those before another member
 * of the oneof. */
static void merge(const ProtobufCMessageDescriptor *descriptor, struct bytes s,
                  const ProtobufCFieldDescriptor *known, struct buf *out)
{
    while (s.len) {
        struct field f;
        check(field_next(descriptor, &s, &f) == 0);
        if (!is_rival(&f, known))
            continue;
        if (f.known == known)
            buf_append_bytes(out, f.value);
        else
            buf_clear(out);
    }
}

static void repair(const ProtobufCMessageDescriptor *descriptor, struct bytes s, struct buf *out);

static void repair_inner(const ProtobufCFieldDescriptor *known, struct bytes message,
                         struct buf *out)
{
    _cleanup_(buf_deinit) struct buf inner = BUF_NULL;
    repair(known->descriptor, message, &inner);
    buf_append_varint(out, (uint64_t)known->id << 3 | WIRE_BYTES);
    buf_append_varint(out, inner.len);
    buf_append_bytes(out, buf_bytes(&inner));
}

/* Writes the message without what protobuf-c would refuse, and what Go would merge as one, in the
 * place of the last. The first pass has checked all of it. At each level it takes time in
 * proportion to the size: the search for a rival ends at the next one, and merge() runs once for
 * each field. */
static void repair(const ProtobufCMessageDescriptor *descriptor, struct bytes message,
                   struct buf *out)
{
    struct bytes s = message;
    while (s.len) {
        struct bytes whole = s;
        struct field f;
        check(field_next(descriptor, &s, &f) == 0);
        if (!f.usable && (f.known || f.wire == WIRE_GROUP))
            continue;
        if (!f.known || f.known->type != PROTOBUF_C_TYPE_MESSAGE) {
            buf_append(out, whole.data, whole.len - s.len);
        } else if (f.known->label == PROTOBUF_C_LABEL_REPEATED) {
            repair_inner(f.known, f.value, out);
        } else if (!has_rival(descriptor, s, f.known)) {
            _cleanup_(buf_deinit) struct buf merged = BUF_NULL;
            merge(descriptor, message, f.known, &merged);
            repair_inner(f.known, buf_bytes(&merged), out);
        }
    }
}

static void *arena_allocate(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void arena_ignore(void *arena, void *p)
{
}

int decode_message(const ProtobufCMessageDescriptor *descriptor, struct bytes *encoded,
                   struct arena *arena, void **ret)
{
    _cleanup_(walk_deinit) struct walk w;
    w.len = w.deepest = 0;
    w.needs_repair = false;
    int r = walk_run(&w, descriptor, *encoded);
    if (r)
        return r;
    if (w.deepest > (w.needs_repair ? DECODE_REPAIR_DEPTH_MAX : DECODE_DEPTH_MAX))
        return DECODE_E_DEPTH;
    if (w.needs_repair) {
        _cleanup_(buf_deinit) struct buf repaired = BUF_NULL;
        repair(descriptor, *encoded, &repaired);
        *encoded = arena_copy(arena, buf_bytes(&repaired));
    }
    ProtobufCAllocator allocator = {arena_allocate, arena_ignore, arena};
    void *message = protobuf_c_message_unpack(descriptor, &allocator, encoded->len, encoded->data);
    if (!message)
        return DECODE_E_WIRE;
    *ret = message;
    return 0;
}

const char *decode_error_text(int error)
{
    switch (error) {
    case DECODE_E_TEXT: return "string field contains invalid UTF-8";
    case DECODE_E_RECURSION: return "proto: exceeded maximum recursion depth";
    default: return "proto: cannot parse invalid wire-format data";
    }
}
