/* SPDX-License-Identifier: Apache-2.0 */
/* Messages for tests: from hexadecimal text, at random from a seed, and compared. */
#pragma once

#include "api/peer_message.h"
#include "base/check.h"
#include "base/mem.h"
#include "base/rng.h"
#include "raft/conf.h"
#include "raft/vec.h"

/* Blanks and bars between the digits are passed over; 'text' in quotes stands for itself. */
static inline void test_hex(struct buf *out, const char *hex)
{
    for (unsigned n = 0, v = 0; *hex; hex++) {
        if (*hex == '\'') {
            for (hex++; *hex != '\''; hex++)
                buf_append_u8(out, (uint8_t)*hex);
        } else if (*hex != ' ' && *hex != '|') {
            v = v << 4 | (unsigned)(*hex <= '9' ? *hex - '0' : *hex - 'a' + 10);
            if (++n % 2 == 0)
                buf_append_u8(out, (uint8_t)v);
        }
    }
}

static inline bool test_entries_equal(const struct raft_message *a, const struct raft_message *b)
{
    for (size_t i = 0; i < a->n_entries && i < b->n_entries; i++) {
        const struct raft_entry *x = &a->entries[i], *y = &b->entries[i];
        if (x->term != y->term || x->index != y->index || x->type != y->type ||
            !bytes_equal(blob_bytes(x->data), blob_bytes(y->data)))
            return false;
    }
    return a->n_entries == b->n_entries;
}

static inline bool test_messages_equal(const struct raft_message *a, const struct raft_message *b)
{
    const struct raft_snapshot *s = a->snapshot, *t = b->snapshot;

    if (a->type != b->type || a->to != b->to || a->from != b->from || a->term != b->term ||
        a->log_term != b->log_term || a->index != b->index || a->commit != b->commit ||
        a->reject != b->reject || a->reject_hint != b->reject_hint || !s != !t)
        return false;
    if (s && (s->index != t->index || s->term != t->term || !conf_equal(&s->conf, &t->conf) ||
              !bytes_equal(blob_bytes(s->data), blob_bytes(t->data))))
        return false;
    return bytes_equal(a->context, b->context) && test_entries_equal(a, b);
}

/* Of any length, so that varints are. */
static inline uint64_t test_number(struct rng *rng)
{
    return rng_next(rng) >> rng_below(rng, 64);
}

static inline uint64_t test_member_id(struct rng *rng)
{
    uint64_t id = test_number(rng);

    return id == 0 || id >= UINT64_MAX - 1 ? 1 : id;
}

static inline struct blob *test_blob(struct rng *rng, size_t len_max)
{
    size_t len = (size_t)rng_below(rng, len_max + 1);
    struct blob *b = len > 0 ? blob_new(len) : NULL;

    for (size_t i = 0; i < len; i++)
        b->data[i] = (uint8_t)rng_next(rng);
    return b;
}

static inline void test_add_entry(struct peer_message *m, struct raft_entry e)
{
    struct raft_message *raft = &m->raft;

    raft->entries = vec_reserve(raft->entries, &m->entries_cap, raft->n_entries + 1, sizeof(e));
    raft->entries[raft->n_entries++] = e;
}

/* Entries behind (log_term, index), whose terms never pass the message's. */
static inline void test_append(struct rng *rng, struct peer_message *m, size_t n)
{
    uint64_t term = m->raft.log_term;

    for (size_t i = 0; i < n; i++) {
        if (term < m->raft.term && (term == 0 || rng_below(rng, 4) == 0))
            term += 1 + rng_below(rng, m->raft.term - term);
        test_add_entry(m, (struct raft_entry){.term = term,
                                              .index = m->raft.index + 1 + i,
                                              .type = (enum raft_entry_type)rng_below(rng, 2),
                                              .data = test_blob(rng, 400)});
    }
}

static inline void test_snapshot(struct rng *rng, struct peer_message *m)
{
    struct raft_snapshot *s = &m->snapshot;
    struct raft_ids *sets[] = {&s->conf.voters, &s->conf.learners, &s->conf.voters_outgoing,
                               &s->conf.learners_next};

    s->index = test_number(rng) | 1;
    s->term = 1 + rng_below(rng, m->raft.term);
    s->data = test_blob(rng, 2000);
    s->conf.auto_leave = rng_below(rng, 2);
    raft_ids_add(&s->conf.voters, 1);
    for (uint64_t n = rng_below(rng, 9); n > 0; n--)
        raft_ids_add(sets[rng_below(rng, 4)], test_member_id(rng));
    m->raft.snapshot = s;
}

/* A message of that type which may be sent. m is cleared before. */
static inline void test_message(struct rng *rng, enum raft_message_type type,
                                struct peer_message *m)
{
    static const size_t context_lens[] = {0, 8, 8, 8, 16, RAFT_CONTEXT_MAX};
    struct raft_message *raft = &m->raft;

    peer_message_clear(m);
    raft->type = type;
    raft->to = test_member_id(rng);
    raft->from = test_member_id(rng);
    raft->term = (test_number(rng) >> 1) + 1;
    raft->log_term = rng_below(rng, 3) ? rng_below(rng, raft->term) : raft->term;
    raft->index = test_number(rng) >> 1;
    raft->commit = rng_below(rng, 2) * test_number(rng);
    raft->reject = rng_below(rng, 2);
    raft->reject_hint = rng_below(rng, 2) * test_number(rng);
    size_t len = context_lens[rng_below(rng, 6)];
    for (size_t i = 0; i < len; i++)
        m->context[i] = (uint8_t)rng_next(rng);
    raft->context = bytes_of(m->context, len);
    if (type == RAFT_MSG_APP)
        test_append(rng, m, (size_t)rng_below(rng, 12));
    if (type == RAFT_MSG_SNAP)
        test_snapshot(rng, m);
    if (type == RAFT_MSG_PROP || type == RAFT_MSG_READ_INDEX)
        raft->term = 0;
    size_t n = type == RAFT_MSG_PROP ? 1 + (size_t)rng_below(rng, 5) : 0;
    if (type == RAFT_MSG_READ_INDEX || type == RAFT_MSG_READ_INDEX_RESP)
        n = 1;
    for (; n > 0; n--)
        test_add_entry(m, (struct raft_entry){.data = test_blob(rng, 40)});
}

static const enum raft_message_type test_types[] = {
    RAFT_MSG_PROP,          RAFT_MSG_APP,        RAFT_MSG_APP_RESP,        RAFT_MSG_VOTE,
    RAFT_MSG_VOTE_RESP,     RAFT_MSG_HEARTBEAT,  RAFT_MSG_HEARTBEAT_RESP,  RAFT_MSG_TRANSFER_LEADER,
    RAFT_MSG_TIMEOUT_NOW,   RAFT_MSG_READ_INDEX, RAFT_MSG_READ_INDEX_RESP, RAFT_MSG_PRE_VOTE,
    RAFT_MSG_PRE_VOTE_RESP,
};
enum { TEST_TYPES = sizeof(test_types) / sizeof(test_types[0]) };
