/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mvccpb.KeyValue by hand: the stored form of every record, byte-identical to etcd's (fields
 * ascending, zero fields absent), which is also the form a response carries. A tombstone is a
 * KeyValue with the key alone.
 */
#pragma once

#include "base/bytes.h"

struct kv {
    struct bytes key;
    int64_t create;
    int64_t mod;
    int64_t version;
    struct bytes value;
    int64_t lease;
};

size_t kv_size(const struct kv *kv);
void kv_encode(struct buf *out, const struct kv *kv);
size_t kv_write(uint8_t *out, const struct kv *kv); /* into kv_size() bytes; returns the length */
/* Borrows from encoded. False: not a KeyValue. */
bool kv_decode(struct bytes encoded, struct kv *ret);

/* The encoded form in parts for db_batch_putv(), so that key and value are not copied into a buffer
 * first: ret_parts borrows from out and kv. Returns the number of parts. */
enum { KV_PARTS = 5 };
struct kv_frame {
    uint8_t bytes[80];
};
size_t kv_put_frame(struct kv_frame *out, const struct kv *kv, struct bytes ret_parts[KV_PARTS]);

/* The key and nothing else. An empty record is none: a restore with a revision bump leaves one,
 * which counts as a put. */
bool kv_is_tombstone(struct bytes encoded);
