/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing raftpb.Message (see peer_message.h), straight into a buffer, fields in ascending order.
 *
 * etcd 3.7 writes a field if its code has set it, also if it has set it to zero. Which fields that
 * are depends on the type of the message (explicit_of()); any other is written if it is not zero.
 * To a reader it is all the same.
 *
 * What peer_message_unsafe() refuses is what etcd 3.7.1 does not survive, or takes for something
 * else: a term of zero marks a message as the receiver's own, members 2^64-1 and 2^64-2 are its
 * storage threads, gaps between entries and short contexts are read out of bounds, and a committed
 * configuration change of the second kind can't be applied.
 *
 * Thread: any.
 */
#include "api/peer_message.h"

#include "base/check.h"

enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

#define TAG(number, wire) ((uint8_t)((number) << 3 | (wire)))

/* ---- what may be sent ---- */

static bool has_term(enum raft_message_type type)
{
    return type != RAFT_MSG_PROP && type != RAFT_MSG_READ_INDEX;
}

static bool is_member_id(uint64_t id)
{
    return id != 0 && id < UINT64_MAX - 1;
}

static const char *entries_unsafe(const struct raft_message *m)
{
    uint64_t bytes = 0;

    if (m->n_entries > PEER_MESSAGE_ENTRIES_MAX)
        return "too many entries";
    for (size_t i = 0; i < m->n_entries; i++) {
        if (m->entries[i].type > RAFT_ENTRY_CONF_CHANGE)
            return "an entry that etcd can't apply";
        bytes += blob_bytes(m->entries[i].data).len;
    }
    return bytes <= PEER_PAYLOADS_BYTES_MAX ? NULL : "too many bytes";
}

static const char *append_unsafe(const struct raft_message *m)
{
    uint64_t term = m->log_term;

    if (term > m->term)
        return "an append behind an entry of a later term";
    if (m->index > UINT64_MAX - m->n_entries)
        return "an append beyond the last index";
    for (size_t i = 0; i < m->n_entries; i++) {
        const struct raft_entry *e = &m->entries[i];
        if (e->index != m->index + 1 + i)
            return "an append with a gap between entries";
        if (e->term < term || e->term == 0 || e->term > m->term)
            return "an append whose terms are out of order";
        term = e->term;
    }
    return NULL;
}

static const char *snapshot_unsafe(const struct raft_message *m)
{
    const struct raft_snapshot *s = m->snapshot;

    if (!s || s->index == 0 || s->term == 0)
        return "a snapshot of nothing";
    if (s->term > m->term)
        return "a snapshot of a later term";
    if (m->n_entries > 0)
        return "a snapshot with entries";
    if (blob_bytes(s->data).len > PEER_SNAPSHOT_DATA_BYTES_MAX)
        return "too many bytes";
    return s->conf.voters.len > 0 ? NULL : "a snapshot without voters";
}

/* By type. */
static const char *contents_unsafe(const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_MSG_PROP: return m->n_entries > 0 ? NULL : "a proposal of nothing";
    case RAFT_MSG_READ_INDEX:
    case RAFT_MSG_READ_INDEX_RESP:
        return m->n_entries == 1 ? NULL : "a read that is not exactly one";
    case RAFT_MSG_APP: return append_unsafe(m);
    case RAFT_MSG_SNAP: return snapshot_unsafe(m);
    case RAFT_MSG_HEARTBEAT:
    case RAFT_MSG_HEARTBEAT_RESP:
        return m->context.len == 0 || m->context.len >= PEER_CONTEXT_BYTES_MIN
                   ? NULL
                   : "a heartbeat with a context that is no number";
    case RAFT_MSG_APP_RESP:
    case RAFT_MSG_VOTE:
    case RAFT_MSG_VOTE_RESP:
    case RAFT_MSG_PRE_VOTE:
    case RAFT_MSG_PRE_VOTE_RESP:
    case RAFT_MSG_TRANSFER_LEADER:
    case RAFT_MSG_TIMEOUT_NOW: return NULL;
    default: return "of a type that is not for others";
    }
}

const char *peer_message_unsafe(const struct raft_message *m)
{
    if (!is_member_id(m->to) || !is_member_id(m->from))
        return "from or to nobody";
    if (has_term(m->type) != (m->term != 0))
        return "with a term where none belongs, or without";
    if (m->context.len > RAFT_CONTEXT_MAX)
        return "a context that is too long";
    if (m->snapshot && m->type != RAFT_MSG_SNAP)
        return "a snapshot that is not sent as one";
    const char *reason = entries_unsafe(m);
    return reason ? reason : contents_unsafe(m);
}

/* ---- entries ---- */

static size_t number_size(uint64_t v)
{
    return v != 0 ? 1 + varint_size(v) : 0;
}

static uint8_t *number_put(uint8_t *p, unsigned field, uint64_t v)
{
    if (v == 0)
        return p;
    *p++ = TAG(field, WIRE_VARINT);
    return p + varint_put(p, v);
}

size_t peer_entry_size(const struct raft_entry *e)
{
    size_t len = e->data ? e->data->len : 0, size = len > 0 ? number_size(len) + len : 0;

    return number_size((uint64_t)e->type) + number_size(e->term) + number_size(e->index) + size;
}

uint8_t *peer_entry_put(uint8_t *p, const struct raft_entry *e)
{
    p = number_put(p, 1, (uint64_t)e->type);
    p = number_put(p, 2, e->term);
    p = number_put(p, 3, e->index);
    if (!e->data || e->data->len == 0)
        return p;
    *p++ = TAG(4, WIRE_BYTES);
    p += varint_put(p, e->data->len);
    memcpy(p, e->data->data, e->data->len);
    return p + e->data->len;
}

static void entries_append(struct buf *out, const struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t size = peer_entry_size(&entries[i]);
        buf_reserve(out, 1 + VARINT_LEN_MAX + size);
        uint8_t *p = out->data + out->len;
        *p++ = TAG(7, WIRE_BYTES);
        p += varint_put(p, size);
        p = peer_entry_put(p, &entries[i]);
        out->len = (size_t)(p - out->data);
    }
}

/* ---- the snapshot ---- */

static void number_append(struct buf *out, unsigned field, uint64_t v)
{
    buf_append_u8(out, TAG(field, WIRE_VARINT));
    buf_append_varint(out, v);
}

static void bytes_append(struct buf *out, unsigned field, struct bytes s)
{
    buf_append_u8(out, TAG(field, WIRE_BYTES));
    buf_append_varint(out, s.len);
    buf_append_bytes(out, s);
}

static void conf_append(struct buf *out, const struct raft_conf_state *conf)
{
    const struct raft_ids *const sets[] = {&conf->voters, &conf->learners, &conf->voters_outgoing,
                                           &conf->learners_next};

    for (unsigned i = 0; i < sizeof(sets) / sizeof(sets[0]); i++)
        for (size_t k = 0; k < sets[i]->len; k++)
            number_append(out, i + 1, sets[i]->ids[k]);
    number_append(out, 5, conf->auto_leave);
}

static void snapshot_append(struct buf *out, const struct raft_snapshot *s)
{
    _cleanup_(buf_deinit) struct buf conf = BUF_NULL, metadata = BUF_NULL, snapshot = BUF_NULL;

    conf_append(&conf, &s->conf);
    bytes_append(&metadata, 1, buf_bytes(&conf));
    number_append(&metadata, 2, s->index);
    number_append(&metadata, 3, s->term);
    if (s->data && s->data->len > 0)
        bytes_append(&snapshot, 1, blob_bytes(s->data));
    bytes_append(&snapshot, 2, buf_bytes(&metadata));
    bytes_append(out, 9, buf_bytes(&snapshot));
}

/* ---- the message ---- */

enum { LOG_TERM = 1, INDEX = 2, COMMIT = 4, REJECT_HINT = 8 };

/* What is written although it may be zero. */
static unsigned explicit_of(const struct raft_message *m)
{
    switch (m->type) {
    case RAFT_MSG_APP: return LOG_TERM | INDEX | COMMIT;
    case RAFT_MSG_VOTE:
    case RAFT_MSG_PRE_VOTE: return LOG_TERM | INDEX;
    case RAFT_MSG_APP_RESP: return m->reject ? LOG_TERM | INDEX | REJECT_HINT : 0;
    case RAFT_MSG_HEARTBEAT: return COMMIT;
    case RAFT_MSG_READ_INDEX_RESP: return INDEX;
    default: return 0;
    }
}

static void field_append(struct buf *out, unsigned field, uint64_t v, bool is_explicit)
{
    if (v != 0 || is_explicit)
        number_append(out, field, v);
}

static void message_append(struct buf *out, const struct raft_message *m)
{
    unsigned shown = explicit_of(m);

    number_append(out, 1, (uint64_t)m->type);
    number_append(out, 2, m->to);
    number_append(out, 3, m->from);
    field_append(out, 4, m->term, false);
    field_append(out, 5, m->log_term, shown & LOG_TERM);
    field_append(out, 6, m->index, shown & INDEX);
    entries_append(out, m->entries, m->n_entries);
    field_append(out, 8, m->commit, shown & COMMIT);
    if (m->snapshot)
        snapshot_append(out, m->snapshot);
    field_append(out, 10, m->reject, false);
    field_append(out, 11, m->reject_hint, shown & REJECT_HINT);
    if (m->context.len > 0)
        bytes_append(out, 12, m->context);
}

int peer_message_encode(const struct raft_message *m, struct buf *out)
{
    if (m->type == RAFT_MSG_SNAP || peer_message_unsafe(m))
        return PEER_MESSAGE_E_UNSAFE;
    message_append(out, m);
    return 0;
}

int peer_snapshot_encode(const struct raft_message *m, struct buf *out)
{
    if (m->type != RAFT_MSG_SNAP || peer_message_unsafe(m))
        return PEER_MESSAGE_E_UNSAFE;
    size_t begin = out->len;
    buf_append_u64_be(out, 0);
    message_append(out, m);
    size_t len = out->len - begin - sizeof(uint64_t);
    check(len <= PEER_SNAPSHOT_BYTES_MAX);
    u64_be_put(out->data + begin, len);
    return 0;
}
