/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading raftpb.Message (see peer_message.h; peer_message_encode.c writes it). By hand: an append
 * of hundreds of entries is what replication costs, and protobuf-c would copy each payload twice.
 *
 *     Message   1 type 2 to 3 from 4 term 5 logTerm 6 index 7 entries* 8 commit 9 snapshot
 *               10 reject 11 rejectHint 12 context (13 vote, 14 responses: never between members)
 *     Entry     1 type 2 term 3 index 4 data
 *     Snapshot  1 data 2 metadata { 1 conf_state 2 index 3 term }
 *     ConfState 1 voters* 2 learners* 3 voters_outgoing* 4 learners_next* 5 auto_leave
 *
 * As Go's reader has it: a field in another wire type than its own is unknown, the last of several
 * scalars counts, several of one embedded message are merged, repeated numbers come packed or not.
 *
 * Invariants:
 *  1. Nothing is allocated by a length or a number that the sender names before the bytes it speaks
 *     of are there: entries are counted as they come, payloads copied out of what is in memory.
 *  2. Whatever is wrong, m stays a message that can be cleared.
 *
 * Thread: any.
 */
#include "api/peer_message.h"

#include <stdlib.h>

#include "base/mem.h"
#include "raft/conf.h"
#include "raft/raft.h"
#include "raft/vec.h"

void peer_message_clear(struct peer_message *m)
{
    struct raft_entry *entries = m->raft.entries;
    size_t cap = m->entries_cap;

    for (size_t i = 0; i < m->raft.n_entries; i++)
        blob_unref(entries[i].data);
    if (cap > PEER_MESSAGE_ENTRIES_KEPT_MAX) {
        free(entries);
        entries = NULL;
        cap = 0;
    }
    conf_deinit(&m->snapshot.conf);
    blob_unref(m->snapshot.data);
    *m = (struct peer_message){.raft.entries = entries, .entries_cap = cap};
}

void peer_message_deinit(struct peer_message *m)
{
    peer_message_clear(m);
    free(m->raft.entries);
    *m = (struct peer_message){0};
}

/* ---- fields ---- */

enum wire {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_BYTES = 2,
    WIRE_GROUP = 3,
    WIRE_END_GROUP = 4,
    WIRE_FIXED32 = 5
};

#define TAG(number, wire) ((uint32_t)(number) << 3 | (wire))

enum {
    FIELD_NUMBER_MAX = (1 << 29) - 1,
    GROUPS_MAX = 32, /* inside each other; nobody sends any */
};

struct field {
    uint32_t tag;
    uint64_t value;     /* WIRE_VARINT */
    struct bytes bytes; /* WIRE_BYTES */
};

static inline bool number_next(struct bytes *s, uint64_t *ret)
{
    if (s->len > 0 && s->data[0] < 0x80) {
        *ret = s->data[0];
        *s = bytes_of(s->data + 1, s->len - 1);
        return true;
    }
    return varint_get(s, ret);
}

static bool take(struct bytes *s, uint64_t len, struct bytes *ret)
{
    if (len > s->len)
        return false;
    *ret = bytes_of(s->data, (size_t)len);
    *s = bytes_of(s->data + len, s->len - (size_t)len);
    return true;
}

static bool tag_next(struct bytes *s, uint32_t *ret)
{
    uint64_t tag;

    if (!number_next(s, &tag) || tag >> 3 == 0 || tag >> 3 > FIELD_NUMBER_MAX)
        return false;
    *ret = (uint32_t)tag;
    return true;
}

/* The value behind a tag; of a group none. */
static bool value_next(struct bytes *s, struct field *f)
{
    uint64_t len;

    switch (f->tag & 7) {
    case WIRE_VARINT: return number_next(s, &f->value);
    case WIRE_BYTES: return number_next(s, &len) && take(s, len, &f->bytes);
    case WIRE_FIXED64: return take(s, 8, &f->bytes);
    case WIRE_FIXED32: return take(s, 4, &f->bytes);
    case WIRE_GROUP:
    case WIRE_END_GROUP: return true;
    default: return false;
    }
}

/* What is left of the group that f begins, and all groups in it. */
static bool group_skip(struct bytes *s, struct field *f)
{
    uint32_t open[GROUPS_MAX];
    size_t n = 0;

    open[n++] = f->tag >> 3;
    while (n > 0) {
        if (!tag_next(s, &f->tag) || !value_next(s, f))
            return false;
        if ((f->tag & 7) == WIRE_END_GROUP && open[--n] != f->tag >> 3)
            return false;
        if ((f->tag & 7) == WIRE_GROUP) {
            if (n == GROUPS_MAX)
                return false;
            open[n++] = f->tag >> 3;
        }
    }
    return true;
}

/* False: the bytes are no field. A group comes out as the tag of its end. */
static bool field_next(struct bytes *s, struct field *f)
{
    if (!tag_next(s, &f->tag) || !value_next(s, f) || (f->tag & 7) == WIRE_END_GROUP)
        return false;
    return (f->tag & 7) != WIRE_GROUP || group_skip(s, f);
}

/* ---- entries ---- */

bool peer_message_add_entry(struct peer_message *m, struct bytes encoded)
{
    struct raft_message *raft = &m->raft;
    struct raft_entry e = {0};
    struct bytes data = BYTES_NULL;
    uint32_t type = 0;

    for (struct field f; encoded.len > 0;) {
        if (!field_next(&encoded, &f))
            return false;
        switch (f.tag) {
        case TAG(1, WIRE_VARINT): type = (uint32_t)f.value; break;
        case TAG(2, WIRE_VARINT): e.term = f.value; break;
        case TAG(3, WIRE_VARINT): e.index = f.value; break;
        case TAG(4, WIRE_BYTES): data = f.bytes; break;
        }
    }
    if (raft->n_entries == PEER_MESSAGE_ENTRIES_MAX)
        return false;
    if (type > RAFT_ENTRY_CONF_CHANGE_V2)
        m->has_unknown_entry = true;
    else
        e.type = (enum raft_entry_type)type;
    e.data = data.len > 0 ? blob_copy(data) : NULL;
    raft->entries = vec_reserve(raft->entries, &m->entries_cap, raft->n_entries + 1, sizeof(e));
    raft->entries[raft->n_entries++] = e;
    return true;
}

/* ---- the snapshot ---- */

/* No set has an id twice. */
static bool id_add(struct raft_ids *ids, uint64_t id)
{
    return ids->len < RAFT_MEMBERS_MAX && raft_ids_add(ids, id);
}

static bool ids_add_packed(struct raft_ids *ids, struct bytes packed)
{
    for (uint64_t id; packed.len > 0;)
        if (!number_next(&packed, &id) || !id_add(ids, id))
            return false;
    return true;
}

static bool conf_decode(struct bytes encoded, struct raft_conf_state *conf)
{
    struct raft_ids *const sets[] = {&conf->voters, &conf->learners, &conf->voters_outgoing,
                                     &conf->learners_next};

    for (struct field f; encoded.len > 0;) {
        bool ok = field_next(&encoded, &f);
        if (!ok)
            return false;
        uint32_t number = f.tag >> 3;
        if (number <= 4 && (f.tag & 7) == WIRE_VARINT)
            ok = id_add(sets[number - 1], f.value);
        else if (number <= 4 && (f.tag & 7) == WIRE_BYTES)
            ok = ids_add_packed(sets[number - 1], f.bytes);
        else if (f.tag == TAG(5, WIRE_VARINT))
            conf->auto_leave = f.value != 0;
        if (!ok)
            return false;
    }
    return true;
}

static bool metadata_decode(struct bytes encoded, struct raft_snapshot *s)
{
    for (struct field f; encoded.len > 0;) {
        if (!field_next(&encoded, &f))
            return false;
        if (f.tag == TAG(1, WIRE_BYTES) && !conf_decode(f.bytes, &s->conf))
            return false;
        if (f.tag == TAG(2, WIRE_VARINT))
            s->index = f.value;
        if (f.tag == TAG(3, WIRE_VARINT))
            s->term = f.value;
    }
    return true;
}

static bool snapshot_decode(struct bytes encoded, struct raft_snapshot *s)
{
    for (struct field f; encoded.len > 0;) {
        if (!field_next(&encoded, &f))
            return false;
        if (f.tag == TAG(1, WIRE_BYTES)) {
            blob_unref(s->data);
            s->data = f.bytes.len > 0 ? blob_copy(f.bytes) : NULL;
        }
        if (f.tag == TAG(2, WIRE_BYTES) && !metadata_decode(f.bytes, s))
            return false;
    }
    return true;
}

/* ---- the message ---- */

static bool context_decode(struct bytes encoded, struct peer_message *m)
{
    if (encoded.len > sizeof(m->context))
        return false;
    if (encoded.len > 0)
        memcpy(m->context, encoded.data, encoded.len);
    m->raft.context = bytes_of(m->context, encoded.len);
    return true;
}

static bool field_decode(struct peer_message *m, const struct field *f)
{
    struct raft_message *raft = &m->raft;

    switch (f->tag) {
    case TAG(1, WIRE_VARINT): raft->type = (enum raft_message_type)(uint32_t)f->value; break;
    case TAG(2, WIRE_VARINT): raft->to = f->value; break;
    case TAG(3, WIRE_VARINT): raft->from = f->value; break;
    case TAG(4, WIRE_VARINT): raft->term = f->value; break;
    case TAG(5, WIRE_VARINT): raft->log_term = f->value; break;
    case TAG(6, WIRE_VARINT): raft->index = f->value; break;
    case TAG(7, WIRE_BYTES): return peer_message_add_entry(m, f->bytes);
    case TAG(8, WIRE_VARINT): raft->commit = f->value; break;
    case TAG(9, WIRE_BYTES): return snapshot_decode(f->bytes, &m->snapshot);
    case TAG(10, WIRE_VARINT): raft->reject = f->value != 0; break;
    case TAG(11, WIRE_VARINT): raft->reject_hint = f->value; break;
    case TAG(12, WIRE_BYTES): return context_decode(f->bytes, m);
    }
    return true;
}

bool peer_message_ignored(const struct peer_message *m)
{
    if (m->has_unknown_entry)
        return true;
    switch (m->raft.type) {
    case RAFT_MSG_PROP:
    case RAFT_MSG_APP:
    case RAFT_MSG_APP_RESP:
    case RAFT_MSG_VOTE:
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_HEARTBEAT_RESP:
    case RAFT_MSG_TRANSFER_LEADER:
    case RAFT_MSG_TIMEOUT_NOW:
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_PRE_VOTE_RESP: return false;
    default: return true;
    }
}

int peer_message_decode(struct bytes encoded, struct peer_message *m)
{
    peer_message_clear(m);
    if (encoded.len > PEER_MESSAGE_BYTES_MAX)
        return PEER_MESSAGE_E_WIRE;
    m->encoded_bytes = encoded.len;
    for (struct field f; encoded.len > 0;)
        if (!field_next(&encoded, &f) || !field_decode(m, &f))
            return PEER_MESSAGE_E_WIRE;
    /* Members older than 3.7 put an empty snapshot into every message. */
    if (m->raft.type == RAFT_MSG_SNAP)
        m->raft.snapshot = &m->snapshot;
    return peer_message_ignored(m) ? PEER_MESSAGE_E_IGNORED : 0;
}
