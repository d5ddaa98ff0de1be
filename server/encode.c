/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nested messages and the response header (see encode.h).
 *
 * Thread: any; no state.
 */
#include "server/encode.h"

size_t encode_begin(struct buf *out, uint32_t field)
{
    encode_tag(out, field, 2);
    return out->len;
}

void encode_end(struct buf *out, size_t mark)
{
    size_t len = out->len - mark;
    size_t prefix = varint_size(len);

    buf_reserve(out, prefix);
    memmove(out->data + mark + prefix, out->data + mark, len);
    varint_put(out->data + mark, len);
    out->len += prefix;
}

void encode_header(struct buf *out, const struct response_header *header)
{
    size_t mark = encode_begin(out, 1);

    encode_u64(out, 1, header->cluster_id);
    encode_u64(out, 2, header->member_id);
    encode_i64(out, 3, header->revision);
    encode_u64(out, 4, header->raft_term);
    encode_end(out, mark);
}
