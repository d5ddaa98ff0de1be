/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The outgoing side: two queues, for messages that may leave at once and for those that promise
 * durability, and the acknowledgements to ourselves, which never become messages.
 *
 * An append does not copy its entries: it says where they stand, and raft_ready() points it into
 * the log. Whoever is about to change that part of the log calls raft_pin_messages() first, and
 * only then are they copied. Everything else that a queued message points to is in the arena, which
 * raft_advance() empties.
 *
 * Thread: the raft thread.
 */
#include "raft/core.h"

static bool promises_durability(enum raft_message_type type)
{
    return type == RAFT_MSG_APP_RESP || type == RAFT_MSG_VOTE_RESP ||
           type == RAFT_MSG_PRE_VOTE_RESP;
}

static bool has_own_term(enum raft_message_type type)
{
    return type == RAFT_MSG_VOTE || type == RAFT_MSG_VOTE_RESP || type == RAFT_MSG_PRE_VOTE ||
           type == RAFT_MSG_PRE_VOTE_RESP;
}

void raft_send(struct raft *r, struct raft_message m)
{
    if (m.from == 0)
        m.from = r->id;
    check(m.to != 0 && m.to != r->id);
    check(has_own_term(m.type) == (m.term != 0));
    /*
     * Proposals and read requests belong to no term: whoever is leader when they arrive may take
     * them.
     */
    if (!has_own_term(m.type) && m.type != RAFT_MSG_PROP && m.type != RAFT_MSG_READ_INDEX)
        m.term = r->term;
    struct raft_messages *queue = promises_durability(m.type) ? &r->messages_durable : &r->messages;
    *vec_push(queue) = m;
}

void raft_self_ack(struct raft *r, enum raft_message_type type, uint64_t term, uint64_t index)
{
    if (r->self_acks.len > 0) {
        struct raft_self_ack *last = &r->self_acks.items[r->self_acks.len - 1];
        /* one write, one acknowledgement */
        if (last->number == 0 && last->type == type && last->term == term) {
            last->index = index;
            return;
        }
    }
    *vec_push(&r->self_acks) = (struct raft_self_ack){.type = type, .term = term, .index = index};
}

struct bytes raft_keep_bytes(struct raft *r, struct bytes b)
{
    return b.len > 0 ? arena_copy(&r->arena, b) : BYTES_NULL;
}

struct raft_entry *raft_keep_entries(struct raft *r, const struct raft_entry *entries, size_t n)
{
    struct raft_entry *copy = arena_alloc(&r->arena, n * sizeof(*copy));
    for (size_t i = 0; i < n; i++) {
        copy[i] = entries[i];
        blob_ref(copy[i].data);
    }
    *vec_push(&r->owned) = (struct raft_owned){copy, n};
    return copy;
}

static void pin(struct raft *r, struct raft_messages *queue)
{
    for (size_t i = 0; i < queue->len; i++) {
        struct raft_message *m = &queue->items[i];
        if (m->n_entries > 0 && !m->entries)
            m->entries = raft_keep_entries(r, raft_log_at(&r->log, m->index + 1), m->n_entries);
    }
}

void raft_pin_messages(struct raft *r)
{
    pin(r, &r->messages);
}
