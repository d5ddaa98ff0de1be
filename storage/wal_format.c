/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Encoding and decoding of the raft log's bytes. Thread: any. All numbers are big-endian.
 *
 * A frame, 8-byte aligned, padded with zeros to a multiple of 8:
 *
 *      0  u32  length of the payload
 *      4  u32  generation
 *      8  u64  lsn: position of this frame in the log since its first byte ever
 *     16  u64  durable_lsn: everything before it was synced when this frame was written
 *     24  u8   type, u8 subtype, u16 zero
 *     28  u32  crc of header crc, payload and padding, seeded with that of the frame before (chain)
 *     32  u32  header crc, of bytes 0 to 27, seeded with the salt
 *     36       payload
 *
 * Invariants
 *  (I1) A header is believed only after its own crc, so a damaged length is never followed; and
 *       no length sits across two sectors, because frames are 8-byte aligned.
 *  (I2) The salt is random per log and not known to clients: no value that is stored can pass
 *       for a frame.
 *  (I3) Every bit of a frame is under one of the two checksums: the header crc itself is under
 *       the other one, and the other one is what the comparison is made with.
 *  (I4) Nothing here trusts its input: all functions called *_get and *_parse return false on
 *       bytes that are not of their form.
 */
#include "storage/wal_format.h"

#include "base/check.h"
#include "base/digest.h"

enum {
    AT_LENGTH = 0,
    AT_GENERATION = 4,
    AT_LSN = 8,
    AT_DURABLE = 16,
    AT_TYPE = 24,
    AT_SUBTYPE = 25,
    AT_ZERO = 26,
    AT_CRC = 28,
    AT_HEADER_CRC = 32,
};

static const char header_magic[8] = {'C', 'a', 'i', 'r', 'n', 'L', 'o', 'g'};
static const char clean_magic[8] = {'C', 'a', 'i', 'r', 'n', 'E', 'n', 'd'};

size_t wal_frame_size(size_t payload_len)
{
    return wal_round_up(WAL_FRAME_BYTES + payload_len, WAL_FRAME_ALIGN);
}

void wal_frame_seal(uint8_t *p, const struct wal_frame *f, uint32_t salt, uint32_t *chain)
{
    check(f->payload.len <= UINT32_MAX - WAL_FRAME_BYTES - WAL_FRAME_ALIGN);
    check(f->durable_lsn <= f->lsn && f->lsn % WAL_FRAME_ALIGN == 0);
    size_t end = WAL_FRAME_BYTES + f->payload.len;
    size_t size = wal_frame_size(f->payload.len);
    memset(p + end, 0, size - end);
    u32_be_put(p + AT_LENGTH, (uint32_t)f->payload.len);
    u32_be_put(p + AT_GENERATION, f->generation);
    u64_be_put(p + AT_LSN, f->lsn);
    u64_be_put(p + AT_DURABLE, f->durable_lsn);
    p[AT_TYPE] = (uint8_t)f->type;
    p[AT_SUBTYPE] = f->subtype;
    p[AT_ZERO] = p[AT_ZERO + 1] = 0;
    u32_be_put(p + AT_HEADER_CRC, crc32c(salt, p, AT_CRC));
    *chain = crc32c(*chain, p + AT_HEADER_CRC, size - AT_HEADER_CRC);
    u32_be_put(p + AT_CRC, *chain);
}

bool wal_frame_parse(const uint8_t *p, uint32_t salt, struct wal_frame *ret)
{
    if (u32_be_get(p + AT_HEADER_CRC) != crc32c(salt, p, AT_CRC))
        return false;
    if (p[AT_ZERO] || p[AT_ZERO + 1])
        return false;
    uint32_t len = u32_be_get(p + AT_LENGTH);
    *ret = (struct wal_frame){
        .type = p[AT_TYPE],
        .subtype = p[AT_SUBTYPE],
        .generation = u32_be_get(p + AT_GENERATION),
        .lsn = u64_be_get(p + AT_LSN),
        .durable_lsn = u64_be_get(p + AT_DURABLE),
        .payload = bytes_of(p + WAL_FRAME_BYTES, len),
        .crc = u32_be_get(p + AT_CRC),
        .size = wal_frame_size(len),
    };
    return ret->durable_lsn <= ret->lsn;
}

bool wal_frame_verify(const uint8_t *p, const struct wal_frame *f, uint32_t chain)
{
    return f->crc == crc32c(chain, p + AT_HEADER_CRC, f->size - AT_HEADER_CRC);
}

void wal_header_put(uint8_t *p, const struct wal_header *h)
{
    memcpy(p, header_magic, sizeof(header_magic));
    u32_be_put(p + 8, WAL_VERSION);
    u32_be_put(p + 12, h->salt);
    u32_be_put(p + 16, h->chain);
    u32_be_put(p + 20, 0);
    const struct raft_hard_state *hs = &h->hard_state;
    const uint64_t fields[] = {h->cluster_id,       h->member_id,      h->seq,
                               h->file_bytes,       h->first_index,    h->last_index,
                               h->last_term,        hs->term,          hs->vote,
                               hs->commit,          h->snapshot_index, h->snapshot_term,
                               hs->lost_tail_index, hs->lost_tail_term};
    size_t at = 24;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++, at += 8)
        u64_be_put(p + at, fields[i]);
    check(at == WAL_HEADER_BYTES);
}

bool wal_header_get(struct bytes payload, struct wal_header *ret)
{
    const uint8_t *p = payload.data;
    if (payload.len != WAL_HEADER_BYTES || memcmp(p, header_magic, sizeof(header_magic)) != 0)
        return false;
    *ret = (struct wal_header){
        .version = u32_be_get(p + 8),
        .salt = u32_be_get(p + 12),
        .chain = u32_be_get(p + 16),
        .cluster_id = u64_be_get(p + 24),
        .member_id = u64_be_get(p + 32),
        .seq = u64_be_get(p + 40),
        .file_bytes = u64_be_get(p + 48),
        .first_index = u64_be_get(p + 56),
        .last_index = u64_be_get(p + 64),
        .last_term = u64_be_get(p + 72),
        .hard_state = {.term = u64_be_get(p + 80),
                       .vote = u64_be_get(p + 88),
                       .commit = u64_be_get(p + 96),
                       .lost_tail_index = u64_be_get(p + 120),
                       .lost_tail_term = u64_be_get(p + 128)},
        .snapshot_index = u64_be_get(p + 104),
        .snapshot_term = u64_be_get(p + 112),
    };
    return true;
}

bool wal_header_parse(struct bytes block, struct wal_frame *ret_frame, struct wal_header *ret)
{
    size_t size = wal_frame_size(WAL_HEADER_BYTES);
    struct wal_header h;
    if (block.len < size ||
        !wal_header_get(bytes_of(block.data + WAL_FRAME_BYTES, WAL_HEADER_BYTES), &h))
        return false;
    struct wal_frame f;
    if (!wal_frame_parse(block.data, h.salt, &f) || f.type != WAL_TYPE_SEGMENT || f.size != size ||
        f.payload.len != WAL_HEADER_BYTES)
        return false;
    if (!wal_frame_verify(block.data, &f, h.chain))
        return false;
    *ret_frame = f;
    *ret = h;
    return true;
}

void wal_entry_head_put(uint8_t *p, const struct raft_entry *e)
{
    u64_be_put(p, e->index);
    u64_be_put(p + 8, e->term);
}

bool wal_entry_get(const struct wal_frame *f, struct raft_entry *ret, struct bytes *ret_data)
{
    if (f->payload.len < WAL_ENTRY_HEAD_BYTES || f->subtype > RAFT_ENTRY_CONF_CHANGE_V2)
        return false;
    *ret = (struct raft_entry){
        .index = u64_be_get(f->payload.data),
        .term = u64_be_get(f->payload.data + 8),
        .type = f->subtype,
    };
    *ret_data =
        bytes_of(f->payload.data + WAL_ENTRY_HEAD_BYTES, f->payload.len - WAL_ENTRY_HEAD_BYTES);
    return ret->index > 0;
}

size_t wal_hard_state_put(uint8_t *p, const struct raft_hard_state *hs)
{
    u64_be_put(p, hs->term);
    u64_be_put(p + 8, hs->vote);
    u64_be_put(p + 16, hs->commit);
    if (hs->lost_tail_index == 0)
        return WAL_HARD_STATE_BYTES;
    u64_be_put(p + 24, hs->lost_tail_index);
    u64_be_put(p + 32, hs->lost_tail_term);
    return WAL_HARD_STATE_BYTES_MAX;
}

bool wal_hard_state_get(struct bytes payload, struct raft_hard_state *ret)
{
    if (payload.len != WAL_HARD_STATE_BYTES && payload.len != WAL_HARD_STATE_BYTES_MAX)
        return false;
    *ret = (struct raft_hard_state){
        .term = u64_be_get(payload.data),
        .vote = u64_be_get(payload.data + 8),
        .commit = u64_be_get(payload.data + 16),
    };
    if (payload.len == WAL_HARD_STATE_BYTES_MAX) {
        ret->lost_tail_index = u64_be_get(payload.data + 24);
        ret->lost_tail_term = u64_be_get(payload.data + 32);
    }
    return true;
}

void wal_snapshot_put(uint8_t *p, uint64_t index, uint64_t term)
{
    u64_be_put(p, index);
    u64_be_put(p + 8, term);
}

bool wal_snapshot_get(struct bytes payload, uint64_t *ret_index, uint64_t *ret_term)
{
    if (payload.len != WAL_SNAPSHOT_BYTES)
        return false;
    *ret_index = u64_be_get(payload.data);
    *ret_term = u64_be_get(payload.data + 8);
    return *ret_index > 0;
}

void wal_clean_put(uint8_t *p, const struct wal_clean *c)
{
    memcpy(p, clean_magic, sizeof(clean_magic));
    u64_be_put(p + 8, c->lsn);
    u32_be_put(p + 16, c->chain);
    memset(p + 20, 0, WAL_CLEAN_BYTES - 24);
    u32_be_put(p + WAL_CLEAN_BYTES - 4, crc32c(0, p, WAL_CLEAN_BYTES - 4));
}

bool wal_clean_get(struct bytes s, struct wal_clean *ret)
{
    const uint8_t *p = s.data;
    if (s.len != WAL_CLEAN_BYTES || memcmp(p, clean_magic, sizeof(clean_magic)) != 0)
        return false;
    if (u32_be_get(p + WAL_CLEAN_BYTES - 4) != crc32c(0, p, WAL_CLEAN_BYTES - 4))
        return false;
    ret->lsn = u64_be_get(p + 8);
    ret->chain = u32_be_get(p + 16);
    return true;
}
