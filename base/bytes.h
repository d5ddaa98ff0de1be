/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Byte strings in three degrees of ownership:
 *
 *   struct bytes  borrowed: a pointer and a length; says nothing about who owns the memory.
 *   struct buf    owned and growable: one owner, freed with buf_deinit().
 *   struct blob   shared and immutable: reference counted, freed with the last blob_unref().
 *
 * Allocation failure aborts; sizes that come from outside are bounded by the caller before they get
 * here. Thread: none of its own; blobs may be referenced from any thread, bytes and bufs belong to
 * one at a time.
 */
#pragma once

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

struct bytes {
    const uint8_t *data;
    size_t len;
};

#define BYTES_NULL ((struct bytes){NULL, 0})
#define BYTES_LIT(s) ((struct bytes){(const uint8_t *)("" s), sizeof(s) - 1})

static inline struct bytes bytes_of(const void *data, size_t len)
{
    return (struct bytes){(const uint8_t *)data, len};
}

static inline struct bytes bytes_str(const char *s)
{
    return (struct bytes){(const uint8_t *)s, strlen(s)};
}

static inline bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* Bytewise order, a prefix before its extensions. Negative, zero, positive like memcmp. */
int bytes_compare(struct bytes a, struct bytes b);
bool bytes_has_prefix(struct bytes a, struct bytes prefix);

struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

#define BUF_NULL ((struct buf){NULL, 0, 0})

void buf_deinit(struct buf *b);
void buf_reserve(struct buf *b, size_t extra); /* room for extra more bytes */
void buf_append(struct buf *b, const void *data, size_t len);
void buf_append_bytes(struct buf *b, struct bytes s);
void buf_append_str(struct buf *b, const char *s);
void buf_append_u8(struct buf *b, uint8_t v);
void buf_append_u32_be(struct buf *b, uint32_t v);
void buf_append_u64_be(struct buf *b, uint64_t v);
void buf_append_varint(struct buf *b, uint64_t v); /* protobuf base-128 */
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *format, va_list args);
void buf_append_zero(struct buf *b, size_t len);
void buf_clear(struct buf *b);       /* len = 0, memory kept */
const char *buf_cstr(struct buf *b); /* NUL-terminates behind len; valid until the next change */
struct buf buf_take(struct buf *b);  /* moves the contents out, b becomes BUF_NULL */

static inline struct bytes buf_bytes(const struct buf *b)
{
    return (struct bytes){b->data, b->len};
}

enum { VARINT_LEN_MAX = 10 };

/* Bytes needed by v as a protobuf varint: 1 to VARINT_LEN_MAX. */
size_t varint_size(uint64_t v);
/* Writes v at p (room for VARINT_LEN_MAX) and returns the length written. */
size_t varint_put(uint8_t *p, uint64_t v);
/*
 * Reads a varint from *s and moves *s behind it. False if cut short, longer than VARINT_LEN_MAX
 * bytes or more than 64 bits; *s and *ret are untouched then.
 */
bool varint_get(struct bytes *s, uint64_t *ret);

static inline void u64_be_put(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint64_t u64_be_get(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v);
}

static inline void u32_be_put(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint32_t u32_be_get(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return __builtin_bswap32(v);
}

struct blob {
    atomic_uint refs;
    size_t len;
    uint8_t data[];
};

struct blob *blob_new(size_t len); /* contents undefined; the maker fills them before sharing */
struct blob *blob_copy(struct bytes s);
struct blob *blob_ref(struct blob *b);   /* accepts NULL, returns b */
struct blob *blob_unref(struct blob *b); /* accepts NULL, returns NULL */

static inline struct bytes blob_bytes(const struct blob *b)
{
    return b ? (struct bytes){b->data, b->len} : BYTES_NULL;
}
