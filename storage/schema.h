/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where everything lies in the store: one prefix byte a kind (docs/decisions has the measurements
 * behind it).
 *
 *   k  escaped user key, inverted main (8), inverted sub (4)
 *                             -> KeyValue as etcd stores it; a tombstone is one with a key only
 *   h  user key (raw)         -> head of the live key: mod main, mod sub, create, version, lease
 *   r  main (8 BE), sub (4 BE)  -> kind byte, user key
 *   l  0x01 lease id (8 BE)   -> Lease as etcd stores it {1 ID, 2 TTL, 3 RemainingTTL}
 *   l  0x02 lease id (8 BE), user key  -> nothing: the key is attached to the lease
 *   m  name                   -> counters and markers ("applied", "revision", ...)
 *   c  member id (8 BE)       -> member record (etcd's JSON)
 *   x  member id (8 BE)       -> removed member
 *   s  AlarmMember protobuf   -> nothing: an active alarm
 *   a  ...                    -> auth (with the security issue)
 *
 * Escaping of user keys inside k: 0x00 becomes 0x00 0xFF, the end is 0x00 0x01. So the order of k
 * is the bytewise order of the raw keys, and of one key's versions the newest comes first.
 */
#pragma once

#include "base/bytes.h"

enum { SCHEMA_KEY_BYTES_MAX = 2 << 20, SCHEMA_HEAD_BYTES_MAX = 50 };

struct rev {
    int64_t main;
    uint32_t sub;
};

static inline int rev_compare(struct rev a, struct rev b)
{
    return a.main != b.main ? (a.main < b.main ? -1 : 1)
                            : (a.sub != b.sub ? (a.sub < b.sub ? -1 : 1) : 0);
}

struct head {
    struct rev mod;
    int64_t create;
    int64_t version;
    int64_t lease;
};

enum schema_kind { SCHEMA_UPDATE = 0, SCHEMA_CREATE = 1, SCHEMA_DELETE = 2 }; /* of an r record */

/* All builders append to out (which they do not clear). */
void schema_k_prefix(struct buf *out, struct bytes user_key); /* without the revision */
void schema_k_rev(struct buf *out, struct rev rev);           /* the revision alone */
void schema_k(struct buf *out, struct bytes user_key, struct rev rev);
/* Before the first version of the first key >= user_key. */
void schema_k_from(struct buf *out, struct bytes user_key);
void schema_h(struct buf *out, struct bytes user_key);
void schema_r(struct buf *out, struct rev rev);
void schema_lease(struct buf *out, int64_t id);
void schema_lease_key(struct buf *out, int64_t id, struct bytes user_key);
void schema_meta(struct buf *out, const char *name);
void schema_member(struct buf *out, uint64_t id);
void schema_removed(struct buf *out, uint64_t id);

/* Parsers: false if the bytes are not of that form (a corrupt store: the caller stops). A buf is
 * overwritten. */
bool schema_parse_k(struct bytes key, struct buf *ret_user_key, struct rev *ret_rev);
/* In two steps, for scans: the part that all versions of a key share, then the user key in it
 * (borrowed from prefix, or from out if it had escapes). */
bool schema_split_k(struct bytes key, struct bytes *ret_prefix, struct rev *ret_rev);
bool schema_unescape(struct bytes prefix, struct buf *out, struct bytes *ret_user_key);
bool schema_parse_r(struct bytes key, struct rev *ret);
bool schema_parse_r_value(struct bytes value, enum schema_kind *ret_kind,
                          struct bytes *ret_user_key);
void schema_head_encode(struct buf *out, const struct head *head);
bool schema_head_decode(struct bytes value, struct head *ret);

/* For db_options.prefix_len. */
size_t schema_prefix_len(struct bytes key);
