/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Key and value bytes of every kind of record. Pure functions; any thread.
 *
 * Invariants: (1) For user keys a < b, every k record of a sorts before every k record of b; of one
 * key, the higher revision sorts first. (2) Parsing accepts exactly what building makes, so a
 * damaged record is noticed. (3) The terminator 0x00 0x01 is below every escaped byte that can
 * follow a longer key (0x00 0xFF, or 0x01 and above), which is what gives (1).
 *
 * Head (value of h), varints: mod main, mod sub, mod main - create, version, lease (two's
 * complement). Revision (value of r): the kind byte, then the raw user key.
 */
#include "storage/schema.h"

#include "base/check.h"

enum { REV_BYTES = 12, END_BYTES = 2 };

static const uint8_t key_end[END_BYTES] = {0x00, 0x01};

static void escape(struct buf *out, struct bytes user_key)
{
    const uint8_t *p = user_key.data;
    const uint8_t *end = p + user_key.len;
    const uint8_t *zero;
    while (p < end && (zero = memchr(p, 0, (size_t)(end - p)))) {
        buf_append(out, p, (size_t)(zero - p) + 1);
        buf_append_u8(out, 0xFF);
        p = zero + 1;
    }
    buf_append(out, p, (size_t)(end - p));
}

void schema_k_from(struct buf *out, struct bytes user_key)
{
    buf_append_u8(out, 'k');
    escape(out, user_key);
}

void schema_k_prefix(struct buf *out, struct bytes user_key)
{
    schema_k_from(out, user_key);
    buf_append(out, key_end, END_BYTES);
}

void schema_k_rev(struct buf *out, struct rev rev)
{
    check(rev.main >= 0);
    buf_append_u64_be(out, ~(uint64_t)rev.main);
    buf_append_u32_be(out, ~rev.sub);
}

void schema_k(struct buf *out, struct bytes user_key, struct rev rev)
{
    schema_k_prefix(out, user_key);
    schema_k_rev(out, rev);
}

void schema_h(struct buf *out, struct bytes user_key)
{
    buf_append_u8(out, 'h');
    buf_append_bytes(out, user_key);
}

void schema_r(struct buf *out, struct rev rev)
{
    check(rev.main >= 0);
    buf_append_u8(out, 'r');
    buf_append_u64_be(out, (uint64_t)rev.main);
    buf_append_u32_be(out, rev.sub);
}

void schema_lease(struct buf *out, int64_t id)
{
    buf_append(out, "l\x01", 2);
    buf_append_u64_be(out, (uint64_t)id);
}

void schema_lease_key(struct buf *out, int64_t id, struct bytes user_key)
{
    buf_append(out, "l\x02", 2);
    buf_append_u64_be(out, (uint64_t)id);
    buf_append_bytes(out, user_key);
}

void schema_meta(struct buf *out, const char *name)
{
    buf_append_u8(out, 'm');
    buf_append_str(out, name);
}

void schema_member(struct buf *out, uint64_t id)
{
    buf_append_u8(out, 'c');
    buf_append_u64_be(out, id);
}

void schema_removed(struct buf *out, uint64_t id)
{
    buf_append_u8(out, 'x');
    buf_append_u64_be(out, id);
}

bool schema_split_k(struct bytes key, struct bytes *ret_prefix, struct rev *ret_rev)
{
    if (key.len < 1 + END_BYTES + REV_BYTES || key.data[0] != 'k')
        return false;
    size_t len = key.len - REV_BYTES;
    uint64_t main = ~u64_be_get(key.data + len);
    if (main > INT64_MAX || memcmp(key.data + len - END_BYTES, key_end, END_BYTES) != 0)
        return false;
    *ret_prefix = bytes_of(key.data, len);
    *ret_rev = (struct rev){(int64_t)main, ~u32_be_get(key.data + len + 8)};
    return true;
}

bool schema_unescape(struct bytes prefix, struct buf *out, struct bytes *ret_user_key)
{
    struct bytes escaped = bytes_of(prefix.data + 1, prefix.len - 1 - END_BYTES);
    const uint8_t *p = escaped.data;
    const uint8_t *end = p + escaped.len;
    const uint8_t *zero = escaped.len ? memchr(p, 0, escaped.len) : NULL;
    if (!zero) {
        *ret_user_key = escaped;
        return true;
    }
    buf_clear(out);
    for (; zero; zero = p < end ? memchr(p, 0, (size_t)(end - p)) : NULL) {
        if (zero + 1 >= end || zero[1] != 0xFF)
            return false;
        buf_append(out, p, (size_t)(zero - p) + 1);
        p = zero + 2;
    }
    buf_append(out, p, (size_t)(end - p));
    *ret_user_key = buf_bytes(out);
    return true;
}

bool schema_parse_k(struct bytes key, struct buf *ret_user_key, struct rev *ret_rev)
{
    struct bytes prefix, user_key;
    if (!schema_split_k(key, &prefix, ret_rev))
        return false;
    buf_clear(ret_user_key);
    if (!schema_unescape(prefix, ret_user_key, &user_key))
        return false;
    if (user_key.data != ret_user_key->data)
        buf_append_bytes(ret_user_key, user_key);
    return true;
}

bool schema_parse_r(struct bytes key, struct rev *ret)
{
    if (key.len != 1 + REV_BYTES || key.data[0] != 'r')
        return false;
    uint64_t main = u64_be_get(key.data + 1);
    if (main > INT64_MAX)
        return false;
    *ret = (struct rev){(int64_t)main, u32_be_get(key.data + 9)};
    return true;
}

bool schema_parse_r_value(struct bytes value, enum schema_kind *ret_kind,
                          struct bytes *ret_user_key)
{
    if (value.len < 1 || value.data[0] > SCHEMA_DELETE)
        return false;
    *ret_kind = (enum schema_kind)value.data[0];
    *ret_user_key = bytes_of(value.data + 1, value.len - 1);
    return true;
}

void schema_head_encode(struct buf *out, const struct head *head)
{
    check(head->mod.main >= head->create);
    buf_reserve(out, SCHEMA_HEAD_BYTES_MAX);
    uint8_t *p = out->data + out->len;
    p += varint_put(p, (uint64_t)head->mod.main);
    p += varint_put(p, head->mod.sub);
    p += varint_put(p, (uint64_t)(head->mod.main - head->create));
    p += varint_put(p, (uint64_t)head->version);
    p += varint_put(p, (uint64_t)head->lease);
    out->len = (size_t)(p - out->data);
}

bool schema_head_decode(struct bytes value, struct head *ret)
{
    uint64_t main, sub, age, version, lease;
    if (!varint_get(&value, &main) || !varint_get(&value, &sub) || !varint_get(&value, &age) ||
        !varint_get(&value, &version) || !varint_get(&value, &lease) || value.len > 0)
        return false;
    if (main > INT64_MAX || sub > UINT32_MAX || age > main || version > INT64_MAX)
        return false;
    *ret = (struct head){
        {(int64_t)main, (uint32_t)sub}, (int64_t)(main - age), (int64_t)version, (int64_t)lease};
    return true;
}

size_t schema_prefix_len(struct bytes key)
{
    if (key.len < 2)
        return 0;
    if (key.data[0] == 'h')
        return key.len;
    if (key.data[0] == 'k')
        return key.len > 1 + REV_BYTES ? key.len - REV_BYTES : 0;
    return 0;
}
