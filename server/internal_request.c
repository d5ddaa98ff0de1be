/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding and decoding of log entries (see internal_request.h). Layout of an entry, as etcd writes
 * it:
 *
 *     <tag of the request's field> <length> <the request message>   0xA2 0x06 <length>
 * <RequestHeader {1 ID, 2 username, 3 auth_revision}>
 *
 * in ascending order of field, so the header comes first where the request's field is above 100.
 *
 * Thread: any; no state.
 */
#include "server/internal_request.h"

#include "base/check.h"
#include "server/txn.h"

enum { FIELD_HEADER = 100, FIELD_TXN = 6 };

static const uint32_t fields[REQUEST_KIND_COUNT] = {
    [REQUEST_PUT] = 4,
    [REQUEST_DELETE_RANGE] = 5,
    [REQUEST_TXN] = FIELD_TXN,
    [REQUEST_COMPACT] = 7,
    [REQUEST_LEASE_GRANT] = 8,
    [REQUEST_LEASE_REVOKE] = 9,
    [REQUEST_LEASE_CHECKPOINT] = 11,
    [REQUEST_ALARM] = 10,
    [REQUEST_CLUSTER_VERSION_SET] = 1300,
    [REQUEST_MEMBER_ATTR_SET] = 1301,
};

static size_t put_tag(uint8_t *p, uint32_t field, uint32_t wire_type)
{
    return varint_put(p, (uint64_t)field << 3 | wire_type);
}

static size_t header_put(uint8_t *p, uint64_t id, const struct identity *identity)
{
    uint8_t *start = p;

    p += put_tag(p, 1, 0);
    p += varint_put(p, id);
    if (identity->user.len > 0) {
        p += put_tag(p, 2, 2);
        p += varint_put(p, identity->user.len);
        memcpy(p, identity->user.data, identity->user.len);
        p += identity->user.len;
    }
    if (identity->revision > 0) {
        p += put_tag(p, 3, 0);
        p += varint_put(p, identity->revision);
    }
    return (size_t)(p - start);
}

struct blob *internal_request_encode(enum request_kind kind, struct bytes payload, uint64_t id,
                                     const struct identity *identity)
{
    enum { OVERHEAD_MAX = 64 };
    uint8_t header[OVERHEAD_MAX + 256];
    uint8_t prefix[20];

    check(kind < REQUEST_KIND_COUNT && fields[kind] != 0);
    check(identity->user.len <= 256);
    size_t n_header = header_put(header, id, identity);
    size_t n_prefix = put_tag(prefix, fields[kind], 2);
    n_prefix += varint_put(prefix + n_prefix, payload.len);
    uint8_t suffix[20];
    size_t n_suffix = put_tag(suffix, FIELD_HEADER, 2);
    n_suffix += varint_put(suffix + n_suffix, n_header);

    struct blob *blob = blob_new(n_prefix + payload.len + n_suffix + n_header);
    bool header_first = fields[kind] > FIELD_HEADER;
    uint8_t *request_at = blob->data + (header_first ? n_suffix + n_header : 0);
    uint8_t *header_at = blob->data + (header_first ? 0 : n_prefix + payload.len);
    memcpy(request_at, prefix, n_prefix);
    if (payload.len > 0)
        memcpy(request_at + n_prefix, payload.data, payload.len);
    memcpy(header_at, suffix, n_suffix);
    memcpy(header_at + n_suffix, header, n_header);
    return blob;
}

static void *allocate(void *arena, size_t size)
{
    return arena_alloc(arena, size);
}

static void release(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

ProtobufCAllocator arena_allocator(struct arena *arena)
{
    return (ProtobufCAllocator){allocate, release, arena};
}

/* As protobuf-c reads it: ten bytes at most, bits above 64 don't matter. Stricter here would mean
 * to
 * stop looking where the decoder goes on. */
static bool skip_varint(struct bytes *s)
{
    for (size_t i = 0; i < VARINT_LEN_MAX && i < s->len; i++) {
        if (s->data[i] < 0x80) {
            s->data += i + 1;
            s->len -= i + 1;
            return true;
        }
    }
    return false;
}

/* Takes the next field of a message off *s. False at the end or when the bytes don't parse. value
 * is set for length-delimited ones. */
static bool next_field(struct bytes *s, uint32_t *ret_field, struct bytes *ret_value)
{
    uint64_t tag, v;

    *ret_value = BYTES_NULL;
    if (s->len == 0 || !varint_get(s, &tag))
        return false;
    *ret_field = (uint32_t)(tag >> 3);
    switch (tag & 7) {
    case 0: return skip_varint(s);
    case 1: v = 8; break;
    case 2:
        if (!varint_get(s, &v))
            return false;
        break;
    case 5: v = 4; break;
    default: return false;
    }
    if (v > s->len)
        return false;
    if ((tag & 7) == 2)
        *ret_value = bytes_of(s->data, (size_t)v);
    s->data += v;
    s->len -= (size_t)v;
    return true;
}

static bool op_depth_ok(struct bytes op, unsigned depth_left)
{
    enum { REQUEST_TXN_FIELD = 4 };
    struct bytes value;
    uint32_t field;

    while (next_field(&op, &field, &value)) {
        if (field == REQUEST_TXN_FIELD &&
            (depth_left == 0 || !txn_bytes_depth_ok(value, depth_left)))
            return false;
    }
    return true;
}

bool txn_bytes_depth_ok(struct bytes txn, unsigned depth_max)
{
    enum { SUCCESS_FIELD = 2, FAILURE_FIELD = 3 };
    struct bytes value;
    uint32_t field;

    if (depth_max == 0)
        return false;
    while (next_field(&txn, &field, &value)) {
        if ((field == SUCCESS_FIELD || field == FAILURE_FIELD) &&
            !op_depth_ok(value, depth_max - 1))
            return false;
    }
    return true;
}

static bool entry_depth_ok(struct bytes entry)
{
    struct bytes value;
    uint32_t field;

    while (next_field(&entry, &field, &value)) {
        if (field == FIELD_TXN && !txn_bytes_depth_ok(value, TXN_DEPTH_MAX))
            return false;
    }
    return true;
}

Etcdserverpb__InternalRaftRequest *internal_request_decode(struct bytes entry, struct arena *arena)
{
    ProtobufCAllocator allocator = arena_allocator(arena);

    if (!entry_depth_ok(entry))
        return NULL;
    return etcdserverpb__internal_raft_request__unpack(&allocator, entry.len, entry.data);
}
