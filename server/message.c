/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of messages (see message.h). The memory of one, in this order, so that all is aligned:
 *
 *   raft_message | entries | raft_snapshot | ids of the configuration | context
 *
 * Thread: any.
 */
#include "server/message.h"

#include "base/check.h"
#include "base/mem.h"

/* What is still free of a copy's memory. */
struct room {
    uint8_t *at;
    uint8_t *end;
};

static void *take(struct room *room, const void *from, size_t bytes)
{
    void *to = room->at;

    check((size_t)(room->end - room->at) >= bytes);
    if (bytes > 0)
        memcpy(to, from, bytes);
    room->at += bytes;
    return to;
}

static size_t conf_bytes(const struct raft_conf_state *c)
{
    return (c->voters.len + c->learners.len + c->voters_outgoing.len + c->learners_next.len) *
           sizeof(uint64_t);
}

static size_t copy_bytes(const struct raft_message *m)
{
    size_t bytes = sizeof(*m) + m->n_entries * sizeof(*m->entries) + m->context.len;

    if (m->snapshot)
        bytes += sizeof(*m->snapshot) + conf_bytes(&m->snapshot->conf);
    return bytes;
}

uint64_t message_bytes(const struct raft_message *m)
{
    uint64_t bytes = copy_bytes(m);

    for (size_t i = 0; i < m->n_entries; i++)
        bytes += blob_bytes(m->entries[i].data).len;
    if (m->snapshot)
        bytes += blob_bytes(m->snapshot->data).len;
    return bytes;
}

static void take_ids(struct room *room, struct raft_ids *ids)
{
    ids->ids = take(room, ids->ids, ids->len * sizeof(*ids->ids));
}

static void take_snapshot(struct room *room, struct raft_message *m)
{
    struct raft_snapshot *s = m->snapshot = take(room, m->snapshot, sizeof(*s));

    take_ids(room, &s->conf.voters);
    take_ids(room, &s->conf.learners);
    take_ids(room, &s->conf.voters_outgoing);
    take_ids(room, &s->conf.learners_next);
    blob_ref(s->data);
}

struct raft_message *message_copy(const struct raft_message *m)
{
    size_t bytes = copy_bytes(m);
    uint8_t *memory = mem_alloc_raw(bytes);
    struct room room = {memory, memory + bytes};
    struct raft_message *copy = take(&room, m, sizeof(*m));

    copy->entries = take(&room, m->entries, m->n_entries * sizeof(*m->entries));
    for (size_t i = 0; i < copy->n_entries; i++)
        blob_ref(copy->entries[i].data);
    if (copy->snapshot)
        take_snapshot(&room, copy);
    copy->context.data = take(&room, m->context.data, m->context.len);
    return copy;
}

struct raft_message *message_free(struct raft_message *m)
{
    if (!m)
        return NULL;
    for (size_t i = 0; i < m->n_entries; i++)
        blob_unref(m->entries[i].data);
    if (m->snapshot)
        blob_unref(m->snapshot->data);
    free(m);
    return NULL;
}
