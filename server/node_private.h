/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the raft worker share: node.c, the turn; node_inbox.c, what other threads want;
 * node_propose.c and node_read.c, proposals and linearizable reads; node_send.c, messages to other
 * members and what is kept for them.
 *
 * Thread: raft, but for the inbox and its bounds.
 */
#pragma once

#include "server/catchup.h"
#include "server/node.h"

enum { READ_TRIES_MAX = 16, READ_RETRY_MS = 500, MOVES_MAX = 64 };
enum { READ_GATHER_MIN = 4, READ_GATHER_MS = 2 };
enum { DELAYED_MAX = 4096, SENDS_MAX = 64, SEND_KEEP_MS = 30000 };
enum { REFUSED_PAUSE_MS = 5000 };

enum note_kind {
    NOTE_PROPOSAL,
    NOTE_READ,
    NOTE_TRANSFER,
    NOTE_TASK,
    NOTE_MESSAGE,
    NOTE_UNREACHABLE,
    NOTE_CONF_APPLIED,
    NOTE_RECEIVED,
    NOTE_REFUSED,
    NOTE_INSTALLED,
    NOTE_SENT,
    NOTE_RELEASE,
};

struct note {
    struct inbox_item item;
    enum note_kind kind;
    uint64_t id; /* of a request or member; RELEASE, CONF_APPLIED, INSTALLED: the index */
    union {
        struct blob *data;              /* PROPOSAL */
        struct raft_message *message;   /* MESSAGE */
        struct received *received;      /* RECEIVED */
        struct raft_conf_single change; /* CONF_APPLIED */
        uint64_t to;                    /* TRANSFER */
        struct node_task *task;         /* TASK */
        bool ok;                        /* SENT */
    };
    enum raft_entry_type type; /* PROPOSAL */
    uint64_t term;             /* PROPOSAL: as the leader of this one only; 0: of any */
};

/* How much of one kind is in the inbox. */
struct load {
    _Atomic uint32_t len;
    _Atomic uint64_t bytes;
};

struct ids {
    uint64_t *items;
    size_t len;
    size_t cap;
};

/* Proposals, with the ids of their requests. An entry's term: of the only leader that may propose
 * it; 0: any may. */
struct proposals {
    struct raft_entry *entries;
    uint64_t *ids;
    size_t len;
    size_t cap;
};

/* Reads that wait (node_read.c). */
struct reads {
    struct ids next;                /* for the next round */
    struct ids round;               /* of the round under way */
    uint64_t tries[READ_TRIES_MAX]; /* the ids under which raft knows the round; 0 of them: none */
    size_t n_tries;
    uint64_t retry_ms;
    size_t last_len;  /* of the round before, */
    uint64_t last_ms; /* and when it ended */
};

/* A request that waits for a member to lead. */
struct move {
    uint64_t id;
    uint64_t to;
};

/* A snapshot on its way to a member. */
struct sending {
    uint64_t to;
    uint64_t index;
    uint64_t until_ms; /* 0: under way; else entries behind it are kept until then */
};

struct node {
    struct node_options o;
    struct raft *raft;
    struct wal *wal;
    struct server_state *state;
    uint64_t now_ms;           /* of the turn */
    uint64_t last_tick_ms;     /* when it was due */
    uint64_t ticked_ms;        /* when it was */
    uint64_t advance_until_ms; /* the first ticks may come at once; 0: not any more */
    uint64_t applied;          /* last told to raft */
    uint64_t applied_seen; /* before this turn's drain of the inbox: its configurations are known */
    uint64_t local_reads_index; /* local reads from here on; 0: not now */
    uint64_t no_snapshot_ms;    /* until then none is asked for */
    uint64_t complained_ms;     /* of a message that raft refused */

    struct inbox inbox;
    _Atomic uint64_t waiting_bytes; /* proposals in the inbox and held */
    struct load messages;
    struct load peer_proposals;
    struct note *early; /* the one message of a follower that must wait, as node_propose.c says */

    struct proposals batch; /* of this turn */
    struct proposals held;  /* until they may be proposed */
    struct reads reads;
    struct move moves[MOVES_MAX];
    size_t n_moves;

    struct raft_message *delayed[DELAYED_MAX]; /* until delayed_until is applied */
    size_t n_delayed;
    uint64_t delayed_until;
    struct raft_message *scratch; /* a batch of messages without those that need not go */
    size_t cap_scratch;
    struct sending sends[SENDS_MAX];
    size_t n_sends;
    struct catchup catchup;
    struct received *received; /* given to raft in this turn; a list */
};

void grow(void **items, size_t *cap, size_t len, size_t size);
void ids_add(struct ids *ids, uint64_t id);

/* ---- node_propose.c ---- */

void proposals_add(struct proposals *p, uint64_t id, const struct raft_entry *entry);
/* Those held go before this turn's, if somebody still waits for them. */
void node_proposals_release(struct node *n);
void node_proposals_step(struct node *n, const struct raft_status *status);
/* There is a change of members among these, and this leader has not applied the one before. */
bool node_must_wait(const struct node *n, const struct raft_entry *entries, size_t len);
void node_proposals_tick(struct node *n);
void node_proposals_deinit(struct node *n);

/* ---- node_inbox.c ---- */

/* All that has come: into the batch, the reads, raft or the log. */
int node_take_inbox(struct node *n);
void node_step_early(struct node *n); /* if it need not wait any more */
void node_free_inbox(struct node *n);
/* The payload of a proposal is gone or raft's. */
void node_uncharge(struct node *n, const struct blob *data);

/* ---- node_read.c ---- */

void node_reads_start(struct node *n);
/* When node_reads_start() has to be called again. */
uint64_t node_reads_deadline(const struct node *n);
/* The round is asked for again, if it has waited long; who is gone is forgotten. */
void node_reads_tick(struct node *n);
void node_reads_ready(struct node *n, const struct raft_ready *rd);
/* A leader is there that was not there before: the round's reads end with "leader changed". */
void node_reads_leader_changed(struct node *n);

/* ---- node_send.c ---- */

/* What may leave at once, and what may leave only now that all is durable. */
void node_send(struct node *n, const struct raft_ready *rd);
void node_send_durable(struct node *n, const struct raft_ready *rd);
/* Messages that waited for a configuration to be applied. */
void node_send_delayed(struct node *n);
void node_drop_delayed(struct node *n);
/* Drops from raft's memory what nobody needs any more. */
void node_compact(struct node *n);
/* What must stay behind index for members that are being sent a snapshot. */
uint64_t node_kept_index(const struct node *n, uint64_t index);
void node_send_done(struct node *n, uint64_t member_id, bool ok);
void node_sends_tick(struct node *n);
