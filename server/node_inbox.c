/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What other threads want of the raft worker: the doors, and the draining of the inbox.
 *
 * Each kind has a bound of its own, so that none can keep the others out:
 *
 *   proposals, reads      NODE_INBOX_MAX in number, proposals also by bytes; full is an answer
 *   messages of members   NODE_MESSAGES_MAX and by bytes; full: dropped, as a network drops
 *   their proposals       NODE_PEER_PROPOSALS_MAX and by bytes; likewise
 *   the other workers'    few, and never refused
 *
 * Thread: the doors any, the rest raft.
 */
#include "base/check.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/message.h"
#include "server/node_private.h"
#include "server/snapshot.h"

enum { PROPOSAL_OVERHEAD_BYTES = 256, COMPLAINT_MS = 10000 };

static struct note *note_new(enum note_kind kind, uint64_t id)
{
    struct note *note = mem_new(struct note);

    note->kind = kind;
    note->id = id;
    return note;
}

/* ---- requests ---- */

static bool charge(struct node *n, const struct blob *data)
{
    uint64_t bytes = blob_bytes(data).len + PROPOSAL_OVERHEAD_BYTES;

    if (atomic_fetch_add_explicit(&n->waiting_bytes, bytes, memory_order_relaxed) + bytes <=
        NODE_INBOX_BYTES_MAX)
        return true;
    atomic_fetch_sub_explicit(&n->waiting_bytes, bytes, memory_order_relaxed);
    return false;
}

void node_uncharge(struct node *n, const struct blob *data)
{
    atomic_fetch_sub_explicit(&n->waiting_bytes, blob_bytes(data).len + PROPOSAL_OVERHEAD_BYTES,
                              memory_order_relaxed);
}

bool node_propose(struct node *n, uint64_t id, struct raft_entry entry)
{
    struct note *note;

    if (!charge(n, entry.data))
        return false;
    note = note_new(NOTE_PROPOSAL, id);
    note->data = entry.data;
    note->type = entry.type;
    note->term = entry.term;
    if (inbox_push_quietly(&n->inbox, &note->item))
        return true;
    node_uncharge(n, entry.data);
    free(note);
    return false;
}

static bool push_request(struct node *n, struct note *note)
{
    if (inbox_push_quietly(&n->inbox, &note->item))
        return true;
    free(note);
    return false;
}

bool node_read(struct node *n, uint64_t id)
{
    return push_request(n, note_new(NOTE_READ, id));
}

void node_submitted(struct node *n)
{
    inbox_signal(&n->inbox);
}

bool node_transfer(struct node *n, uint64_t id, uint64_t to)
{
    struct note *note = note_new(NOTE_TRANSFER, id);

    note->to = to;
    if (!push_request(n, note))
        return false;
    node_submitted(n);
    return true;
}

void node_ask(struct node *n, struct node_task *task)
{
    struct note *note = note_new(NOTE_TASK, 0);

    note->task = task;
    inbox_push_always(&n->inbox, &note->item);
}

/* ---- the network ---- */

static bool is_proposal(const struct raft_message *m)
{
    return m->type == RAFT_MSG_PROP;
}

static bool load_add(struct load *l, uint64_t bytes, uint32_t len_max, uint64_t bytes_max)
{
    uint32_t len = atomic_fetch_add(&l->len, 1) + 1;
    uint64_t sum = atomic_fetch_add(&l->bytes, bytes) + bytes;

    if (len <= len_max && (sum <= bytes_max || len == 1))
        return true;
    atomic_fetch_sub(&l->bytes, bytes);
    atomic_fetch_sub(&l->len, 1);
    return false;
}

static bool admit(struct node *n, const struct raft_message *m, uint64_t bytes)
{
    return is_proposal(m)
               ? load_add(&n->peer_proposals, bytes, NODE_PEER_PROPOSALS_MAX,
                          NODE_PEER_PROPOSALS_BYTES_MAX)
               : load_add(&n->messages, bytes, NODE_MESSAGES_MAX, NODE_MESSAGES_BYTES_MAX);
}

static void discharge(struct node *n, const struct raft_message *m)
{
    struct load *l = is_proposal(m) ? &n->peer_proposals : &n->messages;

    atomic_fetch_sub(&l->bytes, message_bytes(m));
    atomic_fetch_sub(&l->len, 1);
}

bool node_message(struct node *n, const struct raft_message *message)
{
    struct note *note;

    if (!admit(n, message, message_bytes(message)))
        return false;
    note = note_new(NOTE_MESSAGE, 0);
    note->message = message_copy(message);
    inbox_push_always(&n->inbox, &note->item);
    return true;
}

/* A hint: where there is no room for it, raft finds out by itself. */
void node_unreachable(struct node *n, uint64_t member_id)
{
    if (load_add(&n->messages, 0, NODE_MESSAGES_MAX, NODE_MESSAGES_BYTES_MAX))
        inbox_push_always(&n->inbox, &note_new(NOTE_UNREACHABLE, member_id)->item);
}

/* ---- from the other workers ---- */

void node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change)
{
    struct note *note = note_new(NOTE_CONF_APPLIED, index);

    note->change = change;
    inbox_push_always(&n->inbox, &note->item);
}

void node_snapshot_installed(struct node *n, uint64_t index)
{
    inbox_push_always(&n->inbox, &note_new(NOTE_INSTALLED, index)->item);
}

void node_snapshot_received(struct node *n, struct received *received)
{
    struct note *note = note_new(NOTE_RECEIVED, 0);

    note->received = received;
    inbox_push_always(&n->inbox, &note->item);
}

void node_snapshot_refused(struct node *n)
{
    inbox_push_always(&n->inbox, &note_new(NOTE_REFUSED, 0)->item);
}

void node_snapshot_sent(struct node *n, uint64_t member_id, bool ok)
{
    struct note *note = note_new(NOTE_SENT, member_id);

    note->ok = ok;
    inbox_push_always(&n->inbox, &note->item);
}

void node_release(struct node *n, uint64_t index)
{
    inbox_push_always(&n->inbox, &note_new(NOTE_RELEASE, index)->item);
}

/* ---- the draining ---- */

static void batch_add(struct node *n, struct note *note)
{
    proposals_add(&n->batch, note->id,
                  &(struct raft_entry){.type = note->type, .term = note->term, .data = note->data});
    note->data = NULL;
}

static void conf_applied(struct node *n, const struct note *note)
{
    struct raft_conf_change change = {.changes = &note->change, .n_changes = 1};

    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_CONF_APPLIED, .conf = &change});
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_APPLIED, .index = note->id});
    n->applied = note->id;
}

/* The database is durable up to there. */
static int installed(struct node *n, uint64_t index)
{
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_PERSISTED_SNAPSHOT, .index = index});
    n->applied = index;
    return wal_release(n->wal, index);
}

/* A snapshot is being made ready here, or one was refused just now. A probe behind the end of our
 * log would be rejected, and bring the next snapshot: it is lost instead. */
static bool comes_too_early(struct node *n, const struct raft_message *m)
{
    struct raft_status status;

    if (m->type != RAFT_MSG_APP ||
        (!snapshots_preparing(n->o.snapshots) && n->now_ms >= n->no_snapshot_ms))
        return false;
    raft_status(n->raft, &status);
    return m->index > status.last_index;
}

static void complain(struct node *n, const struct raft_message *m, int r)
{
    if (r != RAFT_E_INVALID && r != RAFT_E_LOST_TAIL)
        return; /* one that can't be taken now */
    if (n->complained_ms != 0 && n->now_ms < n->complained_ms + COMPLAINT_MS)
        return;
    n->complained_ms = n->now_ms;
    if (r == RAFT_E_LOST_TAIL)
        log_error("this member's log has lost entries that it acknowledged; it does not vote until "
                  "they are here again. Replace it if its disk or data directory is an old copy",
                  LOG_ID("local-member-id", n->state->member_id), LOG_ID("leader-id", m->from));
    else
        log_warn("ignored a message that breaks the protocol",
                 LOG_ID("local-member-id", n->state->member_id), LOG_ID("from", m->from),
                 LOG_U64("message-type", m->type), LOG_U64("term", m->term),
                 LOG_U64("index", m->index));
}

static void step_message(struct node *n, const struct raft_message *m)
{
    if (!comes_too_early(n, m))
        complain(n, m,
                 raft_step(n->raft, &(struct raft_input){.type = RAFT_MESSAGE, .message = m}));
}

/* Whether raft has taken it is seen in the next ready. */
static void step_received(struct node *n, struct note *note)
{
    struct received *received = note->received;

    complain(n, received->message,
             raft_step(n->raft,
                       &(struct raft_input){.type = RAFT_MESSAGE, .message = received->message}));
    received->next = n->received;
    n->received = received;
    note->received = NULL;
}

static void transfer(struct node *n, const struct note *note)
{
    if (n->n_moves == MOVES_MAX) {
        n->n_moves--; /* the oldest waits for its time-out */
        memmove(n->moves, n->moves + 1, n->n_moves * sizeof(*n->moves));
    }
    n->moves[n->n_moves++] = (struct move){note->id, note->to};
    (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_TRANSFER, .node = note->to});
}

static void ask(struct node *n, struct note *note)
{
    struct node_task *task = note->task;

    note->task = NULL;
    task->run(task, n->raft);
}

/* One is enough: of two that wait raft would take only the first one's change. */
static bool keep_early(struct node *n, struct note *note)
{
    const struct raft_message *m = note->kind == NOTE_MESSAGE ? note->message : NULL;
    bool early = m && is_proposal(m) && !n->early && node_must_wait(n, m->entries, m->n_entries);

    if (early)
        n->early = note;
    return early;
}

static int take_note(struct node *n, struct note *note)
{
    switch (note->kind) {
    case NOTE_PROPOSAL: batch_add(n, note); return 0;
    case NOTE_READ: ids_add(&n->reads.next, note->id); return 0;
    case NOTE_TRANSFER: transfer(n, note); return 0;
    case NOTE_TASK: ask(n, note); return 0;
    case NOTE_MESSAGE: step_message(n, note->message); return 0;
    case NOTE_UNREACHABLE:
        (void)raft_step(n->raft, &(struct raft_input){.type = RAFT_UNREACHABLE, .node = note->id});
        return 0;
    case NOTE_CONF_APPLIED: conf_applied(n, note); return 0;
    case NOTE_RECEIVED: step_received(n, note); return 0;
    case NOTE_REFUSED: n->no_snapshot_ms = n->now_ms + REFUSED_PAUSE_MS; return 0;
    case NOTE_INSTALLED: return installed(n, note->id);
    case NOTE_SENT: node_send_done(n, note->id, note->ok); return 0;
    case NOTE_RELEASE: return wal_release(n->wal, node_kept_index(n, note->id));
    }
    return 0;
}

static void note_free(struct node *n, struct note *note)
{
    if (note->kind == NOTE_UNREACHABLE)
        atomic_fetch_sub(&n->messages.len, 1);
    if (note->kind == NOTE_PROPOSAL)
        blob_unref(note->data);
    if (note->kind == NOTE_TASK && note->task)
        note->task->run(note->task, NULL);
    if (note->kind == NOTE_MESSAGE) {
        discharge(n, note->message);
        message_free(note->message);
    }
    if (note->kind == NOTE_RECEIVED && note->received)
        snapshots_discard(n->o.snapshots, note->received, false);
    free(note);
}

void node_step_early(struct node *n)
{
    struct note *note = n->early;

    if (!note || node_must_wait(n, note->message->entries, note->message->n_entries))
        return;
    n->early = NULL;
    step_message(n, note->message);
    note_free(n, note);
}

int node_take_inbox(struct node *n)
{
    struct inbox_item *item = inbox_drain(&n->inbox, NULL), *next;
    int r = 0;

    for (; item; item = next) {
        struct note *note = container_of(item, struct note, item);
        next = item->next;
        if (keep_early(n, note))
            continue;
        if (r >= 0)
            r = take_note(n, note);
        note_free(n, note);
    }
    return r;
}

void node_free_inbox(struct node *n)
{
    struct inbox_item *item, *next;

    if (n->early)
        note_free(n, n->early);
    for (item = inbox_drain(&n->inbox, NULL); item; item = next) {
        next = item->next;
        note_free(n, container_of(item, struct note, item));
    }
    inbox_deinit(&n->inbox);
}
