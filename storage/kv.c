/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The KeyValue message: six fields, written in ascending order, a field with a zero value left out.
 * Pure functions; any thread.
 *
 *   1 key (0A)      2 create_revision (10)  3 mod_revision (18)
 *   4 version (20)  5 value (2A)            6 lease (30)
 *
 * The decoder takes any valid encoding (other orders, unknown fields), because a restored file may
 * hold what another program wrote.
 */
#include "storage/kv.h"

#include "base/check.h"

enum {
    TAG_KEY = 0x0A,
    TAG_CREATE = 0x10,
    TAG_MOD = 0x18,
    TAG_VERSION = 0x20,
    TAG_VALUE = 0x2A,
    TAG_LEASE = 0x30
};
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

static size_t int_size(int64_t v)
{
    return v ? 1 + varint_size((uint64_t)v) : 0;
}

static size_t bytes_size(struct bytes s)
{
    return s.len ? 1 + varint_size(s.len) + s.len : 0;
}

size_t kv_size(const struct kv *kv)
{
    return bytes_size(kv->key) + int_size(kv->create) + int_size(kv->mod) + int_size(kv->version) +
           bytes_size(kv->value) + int_size(kv->lease);
}

static uint8_t *int_put(uint8_t *p, uint8_t tag, int64_t v)
{
    if (v == 0)
        return p;
    *p++ = tag;
    return p + varint_put(p, (uint64_t)v);
}

static uint8_t *bytes_put(uint8_t *p, uint8_t tag, struct bytes s)
{
    if (s.len == 0)
        return p;
    *p++ = tag;
    p += varint_put(p, s.len);
    memcpy(p, s.data, s.len);
    return p + s.len;
}

size_t kv_write(uint8_t *out, const struct kv *kv)
{
    uint8_t *p = bytes_put(out, TAG_KEY, kv->key);
    p = int_put(p, TAG_CREATE, kv->create);
    p = int_put(p, TAG_MOD, kv->mod);
    p = int_put(p, TAG_VERSION, kv->version);
    p = bytes_put(p, TAG_VALUE, kv->value);
    p = int_put(p, TAG_LEASE, kv->lease);
    return (size_t)(p - out);
}

void kv_encode(struct buf *out, const struct kv *kv)
{
    size_t size = kv_size(kv);
    buf_reserve(out, size);
    size_t len = size ? kv_write(out->data + out->len, kv) : 0;
    check(len == size);
    out->len += len;
}

size_t kv_put_frame(struct kv_frame *out, const struct kv *kv, struct bytes ret_parts[KV_PARTS])
{
    uint8_t *p = out->bytes;
    uint8_t *start = p;
    *p++ = TAG_KEY;
    p += varint_put(p, kv->key.len);
    ret_parts[0] = bytes_of(start, (size_t)(p - start));
    ret_parts[1] = kv->key;
    start = p;
    p = int_put(p, TAG_CREATE, kv->create);
    p = int_put(p, TAG_MOD, kv->mod);
    p = int_put(p, TAG_VERSION, kv->version);
    if (kv->value.len) {
        *p++ = TAG_VALUE;
        p += varint_put(p, kv->value.len);
    }
    ret_parts[2] = bytes_of(start, (size_t)(p - start));
    ret_parts[3] = kv->value;
    start = p;
    p = int_put(p, TAG_LEASE, kv->lease);
    ret_parts[4] = bytes_of(start, (size_t)(p - start));
    check((size_t)(p - out->bytes) <= sizeof(out->bytes));
    return ret_parts[4].len ? KV_PARTS : KV_PARTS - 1;
}

static bool skip(struct bytes *s, size_t len)
{
    if (len > s->len)
        return false;
    *s = bytes_of(s->data + len, s->len - len);
    return true;
}

static bool bytes_get(struct bytes *s, struct bytes *ret)
{
    uint64_t len;
    if (!varint_get(s, &len) || len > s->len)
        return false;
    *ret = bytes_of(s->data, (size_t)len);
    return skip(s, (size_t)len);
}

static bool unknown_skip(struct bytes *s, unsigned wire)
{
    uint64_t number;
    struct bytes value;
    switch (wire) {
    case WIRE_VARINT: return varint_get(s, &number);
    case WIRE_FIXED64: return skip(s, 8);
    case WIRE_BYTES: return bytes_get(s, &value);
    case WIRE_FIXED32: return skip(s, 4);
    default: return false;
    }
}

static bool field_get(struct bytes *s, uint64_t tag, struct kv *kv)
{
    uint64_t number = 0;
    switch (tag) {
    case TAG_KEY: return bytes_get(s, &kv->key);
    case TAG_VALUE: return bytes_get(s, &kv->value);
    case TAG_CREATE:
    case TAG_MOD:
    case TAG_VERSION:
    case TAG_LEASE:
        if (!varint_get(s, &number))
            return false;
        *(tag == TAG_CREATE    ? &kv->create
          : tag == TAG_MOD     ? &kv->mod
          : tag == TAG_VERSION ? &kv->version
                               : &kv->lease) = (int64_t)number;
        return true;
    default: return tag >> 3 != 0 && unknown_skip(s, tag & 7);
    }
}

bool kv_decode(struct bytes encoded, struct kv *ret)
{
    struct kv kv = {0};
    while (encoded.len > 0) {
        uint64_t tag;
        if (!varint_get(&encoded, &tag) || !field_get(&encoded, tag, &kv))
            return false;
    }
    *ret = kv;
    return true;
}

bool kv_is_tombstone(struct bytes encoded)
{
    struct bytes key;
    if (encoded.len == 0 || encoded.data[0] != TAG_KEY)
        return false;
    skip(&encoded, 1);
    return bytes_get(&encoded, &key) && encoded.len == 0;
}
