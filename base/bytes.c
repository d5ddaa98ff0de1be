/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte strings: comparison, growable buffers, varints, reference-counted blobs.
 *
 * Invariants: (1) len <= cap, and data is NULL exactly when cap is 0. (2) A buffer grows to at
 * least twice its size, so n appends cost O(n). (3) The contents of a blob never change once a
 * second thread can see it; the last unref frees it.
 */
#include "base/bytes.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/mem.h"

enum { BUF_CAP_MIN = 64 };

int bytes_compare(struct bytes a, struct bytes b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.data, b.data, len) : 0;
    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

bool bytes_has_prefix(struct bytes a, struct bytes prefix)
{
    return a.len >= prefix.len && (prefix.len == 0 || memcmp(a.data, prefix.data, prefix.len) == 0);
}

void buf_deinit(struct buf *b)
{
    if (!b)
        return;
    free(b->data);
    *b = BUF_NULL;
}

void buf_reserve(struct buf *b, size_t extra)
{
    check(b->len <= b->cap);
    if (extra <= b->cap - b->len)
        return;
    check(extra <= SIZE_MAX / 4 - b->len);
    size_t cap = b->cap < BUF_CAP_MIN ? BUF_CAP_MIN : b->cap * 2;
    if (cap < b->len + extra)
        cap = b->len + extra;
    b->data = mem_realloc(b->data, cap);
    b->cap = cap;
}

void buf_append(struct buf *b, const void *data, size_t len)
{
    if (len == 0)
        return;
    buf_reserve(b, len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void buf_append_bytes(struct buf *b, struct bytes s)
{
    buf_append(b, s.data, s.len);
}

void buf_append_str(struct buf *b, const char *s)
{
    buf_append(b, s, strlen(s));
}

void buf_append_u8(struct buf *b, uint8_t v)
{
    buf_reserve(b, 1);
    b->data[b->len++] = v;
}

void buf_append_u32_be(struct buf *b, uint32_t v)
{
    buf_reserve(b, sizeof(v));
    u32_be_put(b->data + b->len, v);
    b->len += sizeof(v);
}

void buf_append_u64_be(struct buf *b, uint64_t v)
{
    buf_reserve(b, sizeof(v));
    u64_be_put(b->data + b->len, v);
    b->len += sizeof(v);
}

void buf_append_varint(struct buf *b, uint64_t v)
{
    buf_reserve(b, VARINT_LEN_MAX);
    b->len += varint_put(b->data + b->len, v);
}

void buf_printf(struct buf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    buf_vprintf(b, format, args);
    va_end(args);
}

void buf_vprintf(struct buf *b, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    buf_reserve(b, BUF_CAP_MIN);
    size_t room = b->cap - b->len;
    int len = vsnprintf((char *)b->data + b->len, room, format, args);
    check(len >= 0);
    if ((size_t)len >= room) {
        buf_reserve(b, (size_t)len + 1);
        vsnprintf((char *)b->data + b->len, (size_t)len + 1, format, again);
    }
    va_end(again);
    b->len += (size_t)len;
}

void buf_append_zero(struct buf *b, size_t len)
{
    if (len == 0)
        return;
    buf_reserve(b, len);
    memset(b->data + b->len, 0, len);
    b->len += len;
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

const char *buf_cstr(struct buf *b)
{
    buf_reserve(b, 1);
    b->data[b->len] = '\0';
    return (const char *)b->data;
}

struct buf buf_take(struct buf *b)
{
    struct buf taken = *b;
    *b = BUF_NULL;
    return taken;
}

size_t varint_size(uint64_t v)
{
    /* Seven bits a byte: (bits + 6) / 7, where zero still needs one bit. */
    unsigned bits = 64 - (unsigned)__builtin_clzll(v | 1);
    return (bits + 6) / 7;
}

size_t varint_put(uint8_t *p, uint64_t v)
{
    size_t len = 0;
    while (v >= 0x80) {
        p[len++] = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    p[len++] = (uint8_t)v;
    return len;
}

bool varint_get(struct bytes *s, uint64_t *ret)
{
    uint64_t v = 0;
    size_t len_max = s->len < VARINT_LEN_MAX ? s->len : VARINT_LEN_MAX;
    for (size_t i = 0; i < len_max; i++) {
        uint8_t byte = s->data[i];
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte & 0x80)
            continue;
        if (i == VARINT_LEN_MAX - 1 && byte > 1)
            return false;
        s->data += i + 1;
        s->len -= i + 1;
        *ret = v;
        return true;
    }
    return false;
}

struct blob *blob_new(size_t len)
{
    check(len <= SIZE_MAX - sizeof(struct blob));
    struct blob *b = mem_alloc_raw(sizeof(*b) + len);
    atomic_init(&b->refs, 1);
    b->len = len;
    return b;
}

struct blob *blob_copy(struct bytes s)
{
    struct blob *b = blob_new(s.len);
    if (s.len)
        memcpy(b->data, s.data, s.len);
    return b;
}

struct blob *blob_ref(struct blob *b)
{
    if (b) {
        unsigned before = atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
        check(before > 0 && before < UINT_MAX / 2);
    }
    return b;
}

struct blob *blob_unref(struct blob *b)
{
    if (!b)
        return NULL;
    unsigned before = atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel);
    check(before > 0);
    if (before == 1)
        free(b);
    return NULL;
}
