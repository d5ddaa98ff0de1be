/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Protobuf encoding by hand for the answers that are built while they are computed: fields with
 * default values are left out, a nested message gets its length when it ends. The order of fields
 * in an answer is free, so a header that needs the result comes last.
 */
#pragma once

#include "base/bytes.h"

static inline void encode_tag(struct buf *out, uint32_t field, uint32_t wire_type)
{
    buf_append_varint(out, (uint64_t)field << 3 | wire_type);
}

static inline void encode_u64(struct buf *out, uint32_t field, uint64_t v)
{
    if (v == 0)
        return;
    encode_tag(out, field, 0);
    buf_append_varint(out, v);
}

static inline void encode_i64(struct buf *out, uint32_t field, int64_t v)
{
    encode_u64(out, field, (uint64_t)v);
}

static inline void encode_bool(struct buf *out, uint32_t field, bool v)
{
    encode_u64(out, field, v ? 1 : 0);
}

/* A nested message or a repeated bytes field: present even when empty. */
static inline void encode_present_bytes(struct buf *out, uint32_t field, struct bytes v)
{
    encode_tag(out, field, 2);
    buf_append_varint(out, v.len);
    buf_append_bytes(out, v);
}

static inline void encode_bytes(struct buf *out, uint32_t field, struct bytes v)
{
    if (v.len > 0)
        encode_present_bytes(out, field, v);
}

/* Returns the mark for encode_end(). */
size_t encode_begin(struct buf *out, uint32_t field);
void encode_end(struct buf *out, size_t mark);

/* ResponseHeader as field 1; zero fields left out. */
struct response_header {
    uint64_t cluster_id;
    uint64_t member_id;
    int64_t revision;
    uint64_t raft_term;
};

void encode_header(struct buf *out, const struct response_header *header);
