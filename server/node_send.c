/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages to other members, and what is kept for them.
 *
 *   ready --messages---------> transport at once, beside the own disk
 *         --messages_durable-> transport behind the sync
 *         --SNAP-------------> the snapshot worker, which makes it and sends it
 *
 * Invariants:
 *   (I1) messages of a ready that commits a configuration entry leave a member that does not lead
 *        only when that entry is applied, and so do all behind them: what it said by the old
 *        configuration could count for the wrong quorum. Its ticks go on meanwhile.
 *   (I2) of several acknowledgements to one member in one ready the last goes: it covers the rest.
 *   (I3) entries that a member will need behind its snapshot stay until SEND_KEEP_MS after it has
 *        arrived, unless they are more than NODE_SNAPSHOT_KEPT_BYTES_MAX.
 *
 * Thread: raft.
 */
#include "base/check.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/snapshot.h"
#include "server/transport.h"

enum { COMPACT_FRACTION = 16 }; /* of what is kept goes at a time */

/* ---- snapshots on their way ---- */

static struct sending *sending_find(struct node *n, uint64_t to)
{
    for (size_t i = 0; i < n->n_sends; i++) {
        if (n->sends[i].to == to)
            return &n->sends[i];
    }
    return NULL;
}

/* raft hears of the result later: it may not be stepped while a ready is out. */
static void send_snapshot(struct node *n, const struct raft_message *m)
{
    struct sending *s = sending_find(n, m->to);

    if (!s && n->n_sends < SENDS_MAX)
        s = &n->sends[n->n_sends++];
    if (!s || !snapshots_send(n->o.snapshots, m)) {
        node_snapshot_sent(n, m->to, false);
        return;
    }
    *s = (struct sending){.to = m->to, .index = m->snapshot->index};
}

void node_send_done(struct node *n, uint64_t member_id, bool ok)
{
    struct sending *s = sending_find(n, member_id);

    if (s && ok)
        s->until_ms = n->now_ms + SEND_KEEP_MS;
    else if (s)
        *s = n->sends[--n->n_sends];
    (void)raft_step(n->raft,
                    &(struct raft_input){.type = RAFT_SNAPSHOT_DONE, .node = member_id, .ok = ok});
}

void node_sends_tick(struct node *n)
{
    for (size_t i = 0; i < n->n_sends;) {
        struct sending *s = &n->sends[i];
        if (s->until_ms != 0 && n->now_ms >= s->until_ms)
            *s = n->sends[--n->n_sends];
        else
            i++;
    }
}

/* ---- what is kept ---- */

/* (I3) */
uint64_t node_kept_index(const struct node *n, uint64_t index)
{
    uint64_t over = catchup_over(&n->catchup, NODE_SNAPSHOT_KEPT_BYTES_MAX);

    for (size_t i = 0; i < n->n_sends; i++) {
        uint64_t needed = n->sends[i].index > over ? n->sends[i].index : over;
        if (needed < index)
            index = needed;
    }
    return index;
}

static uint64_t drop_index(const struct node *n)
{
    const struct raft_conf_state *conf = raft_conf(n->raft);
    uint64_t entries = n->o.catchup_entries, over;

    if (conf->voters.len + conf->learners.len <= 1)
        return n->applied;
    over = catchup_over(&n->catchup, NODE_CATCHUP_BYTES_MAX);
    if (n->applied > entries && n->applied - entries > over)
        over = n->applied - entries;
    over = node_kept_index(n, over);
    return over < n->applied ? over : n->applied;
}

void node_compact(struct node *n)
{
    uint64_t index = drop_index(n);
    struct raft_status status;

    raft_status(n->raft, &status);
    if (index < status.first_index ||
        (index < n->applied &&
         index - status.first_index < n->o.catchup_entries / COMPACT_FRACTION))
        return;
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_COMPACT, .index = index});
    catchup_drop(&n->catchup, index);
}

/* ---- messages ---- */

static void transmit(struct node *n, const struct raft_message *messages, size_t len)
{
    if (len > 0 && n->o.transport)
        n->o.transport->ops->send(n->o.transport, messages, len);
}

/* In runs between the snapshots, which go their own way. */
static void send_now(struct node *n, const struct raft_message *messages, size_t len)
{
    size_t first = 0;

    for (size_t i = 0; i < len; i++) {
        if (messages[i].type != RAFT_MSG_SNAP)
            continue;
        transmit(n, messages + first, i - first);
        send_snapshot(n, &messages[i]);
        first = i + 1;
    }
    transmit(n, messages + first, len - first);
}

/* (I1) */
static void delay(struct node *n, const struct raft_message *messages, size_t len)
{
    for (size_t i = 0; i < len && n->n_delayed < DELAYED_MAX; i++)
        n->delayed[n->n_delayed++] = message_copy(&messages[i]);
}

static uint64_t last_conf_index(const struct raft_ready *rd)
{
    for (size_t i = rd->n_committed; i > 0; i--) {
        if (rd->committed[i - 1].type != RAFT_ENTRY_NORMAL)
            return rd->committed[i - 1].index;
    }
    return 0;
}

static void send_or_delay(struct node *n, const struct raft_ready *rd,
                          const struct raft_message *messages, size_t len)
{
    if (len == 0)
        return;
    if (rd->role != RAFT_LEADER && n->delayed_until > n->applied)
        delay(n, messages, len);
    else
        send_now(n, messages, len);
}

void node_send(struct node *n, const struct raft_ready *rd)
{
    uint64_t index = rd->role == RAFT_LEADER ? 0 : last_conf_index(rd);

    if (index > n->delayed_until)
        n->delayed_until = index;
    send_or_delay(n, rd, rd->messages, rd->n_messages);
}

/* (I2) */
static bool is_covered(const struct raft_message *m, const struct raft_message *later, size_t len)
{
    if (m->type != RAFT_MSG_APP_RESP || m->reject)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (later[i].type == RAFT_MSG_APP_RESP && later[i].to == m->to && !later[i].reject &&
            later[i].term == m->term && later[i].index >= m->index)
            return true;
    }
    return false;
}

void node_send_durable(struct node *n, const struct raft_ready *rd)
{
    enum { LOOK_AHEAD = 4 };
    size_t total = rd->n_messages_durable, len = 0;

    if (total <= 1) {
        send_or_delay(n, rd, rd->messages_durable, total);
        return;
    }
    if (n->cap_scratch < total)
        grow((void **)&n->scratch, &n->cap_scratch, total - 1, sizeof(*n->scratch));
    for (size_t i = 0; i < total; i++) {
        size_t left = total - i - 1;
        const struct raft_message *m = &rd->messages_durable[i];
        if (!is_covered(m, m + 1, left < LOOK_AHEAD ? left : LOOK_AHEAD))
            n->scratch[len++] = *m;
    }
    send_or_delay(n, rd, n->scratch, len);
}

void node_drop_delayed(struct node *n)
{
    while (n->n_delayed > 0)
        message_free(n->delayed[--n->n_delayed]);
}

void node_send_delayed(struct node *n)
{
    if (n->n_delayed == 0 || n->delayed_until > n->applied)
        return;
    for (size_t i = 0; i < n->n_delayed; i++)
        send_now(n, n->delayed[i], 1);
    node_drop_delayed(n);
}
