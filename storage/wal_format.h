/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of the raft log: frames and the records in them. Pure functions over memory;
 * wal_format.c's head has the layout. Only storage/wal*.c include this.
 */
#pragma once

#include "raft/types.h"

enum wal_type {
    WAL_TYPE_SEGMENT = 1,    /* first frame of each file: struct wal_header */
    WAL_TYPE_OPEN = 2,       /* a process opened the log here; no payload */
    WAL_TYPE_ENTRY = 3,      /* index, term, data; the entry's type is in the frame's subtype */
    WAL_TYPE_HARD_STATE = 4, /* term, vote, commit; then the lost tail, if there is one */
    WAL_TYPE_SNAPSHOT = 5,   /* index, term */
};

enum {
    WAL_FRAME_BYTES = 36, /* before the payload */
    WAL_FRAME_ALIGN = 8,
    WAL_BLOCK_BYTES = 4096, /* unit of writing; file sizes are multiples of it */
    WAL_ENTRY_HEAD_BYTES = 16,
    WAL_HARD_STATE_BYTES = 24,
    WAL_HARD_STATE_BYTES_MAX = 40, /* with a lost tail */
    WAL_SNAPSHOT_BYTES = 16,
    WAL_HEADER_BYTES = 136,
    WAL_VERSION = 1,
    WAL_LSN_FIRST = WAL_BLOCK_BYTES, /* not 0, so that zeros never look like a frame in place */
};

struct wal_frame {
    enum wal_type type;
    uint8_t subtype;
    uint32_t generation;  /* of the open that wrote it */
    uint64_t lsn;         /* where it stands in the log */
    uint64_t durable_lsn; /* all before this was synced when it was written */
    struct bytes payload;
    uint32_t crc;
    size_t size; /* with header and padding */
};

/* State of the log where a segment begins: older segments are not needed to know it. */
struct wal_header {
    uint32_t version;
    uint32_t salt;  /* seeds the checksums of the whole log */
    uint32_t chain; /* crc of the last frame before */
    uint64_t cluster_id;
    uint64_t member_id;
    uint64_t seq;         /* also the file's name */
    uint64_t file_bytes;  /* size of this file; shorter means cut */
    uint64_t first_index; /* log position: lowest index that may be held, */
    uint64_t last_index;  /* and the last entry (or snapshot) before this segment */
    uint64_t last_term;
    struct raft_hard_state hard_state;
    uint64_t snapshot_index;
    uint64_t snapshot_term;
};

size_t wal_frame_size(size_t payload_len);

/* Fills in header and padding around a payload that is already at p + WAL_FRAME_BYTES;
 * f->payload.len says how long it is. *chain: crc of the frame before, then of this one. */
void wal_frame_seal(uint8_t *p, const struct wal_frame *f, uint32_t salt, uint32_t *chain);

/* Reads the 36 bytes at p. False: no frame header with this salt. payload.data, crc and size are
 * set but not verified. */
bool wal_frame_parse(const uint8_t *p, uint32_t salt, struct wal_frame *ret);
/* f is parsed and all f->size bytes are at p. */
bool wal_frame_verify(const uint8_t *p, const struct wal_frame *f, uint32_t chain);

void wal_header_put(uint8_t *p, const struct wal_header *h);       /* WAL_HEADER_BYTES at p */
bool wal_header_get(struct bytes payload, struct wal_header *ret); /* false: not of our format */
/* Reads and verifies the first frame of a file, whose salt and chain are inside it. */
bool wal_header_parse(struct bytes block, struct wal_frame *ret_frame, struct wal_header *ret);

void wal_entry_head_put(uint8_t *p, const struct raft_entry *e);
/* ret->data stays NULL. */
bool wal_entry_get(const struct wal_frame *f, struct raft_entry *ret, struct bytes *ret_data);
/* WAL_HARD_STATE_BYTES_MAX at p; the payload's length is returned. */
size_t wal_hard_state_put(uint8_t *p, const struct raft_hard_state *hs);
bool wal_hard_state_get(struct bytes payload, struct raft_hard_state *ret);
void wal_snapshot_put(uint8_t *p, uint64_t index, uint64_t term);
bool wal_snapshot_get(struct bytes payload, uint64_t *ret_index, uint64_t *ret_term);

/* The file that an orderly stop leaves behind: the log ends exactly there. */
struct wal_clean {
    uint64_t lsn;
    uint32_t chain;
};
enum { WAL_CLEAN_BYTES = 32 };
void wal_clean_put(uint8_t *p, const struct wal_clean *c);
bool wal_clean_get(struct bytes s, struct wal_clean *ret);

static inline uint64_t wal_round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}
