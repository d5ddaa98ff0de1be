/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The raft worker: one turn takes everything from the inbox, steps raft, makes the log durable with
 * one sync, and hands committed entries to the apply worker. Batching comes from the shape: what
 * arrives during a sync is the next turn's work.
 *
 * Thread: node_turn() from the raft thread alone; the other functions from any.
 */
#pragma once

#include "base/inbox.h"
#include "raft/raft.h"
#include "server/state.h"
#include "server/wait.h"
#include "storage/wal.h"

struct apply;
struct node;
struct received;
struct snapshots;
struct transport;

enum { NODE_INBOX_MAX = 32768, NODE_INBOX_BYTES_MAX = 256 << 20 };
/* Messages of other members in the inbox; their proposals have a bound of their own, so that they
 * don't keep heartbeats out. */
enum { NODE_MESSAGES_MAX = 4096, NODE_MESSAGES_BYTES_MAX = 128 << 20 };
enum { NODE_PEER_PROPOSALS_MAX = 4096, NODE_PEER_PROPOSALS_BYTES_MAX = 64 << 20 };
/* Of applied entries kept for peers that lag; and while one is being sent a snapshot. */
enum { NODE_CATCHUP_BYTES_MAX = 64 << 20, NODE_SNAPSHOT_KEPT_BYTES_MAX = 512 << 20 };

struct node_options {
    struct raft *raft; /* the node owns both from here on */
    struct wal *wal;
    struct apply *apply;
    struct wait_table *wait;
    struct server_state *state;
    struct snapshots *snapshots;
    struct transport *transport; /* NULL: a member alone, whose messages go nowhere */
    uint32_t tick_ms;
    uint32_t election_ticks;
    bool tick_advance; /* --initial-election-tick-advance */
    uint64_t catchup_entries;
    /* raft's entries up to applied are kept, too */
    const struct raft_entry *entries;
    size_t n_entries;
    uint64_t applied;
};

struct node *node_new(const struct node_options *options);
struct node *node_free(struct node *n);
/* Negative: the disk failed; the member must stop. */
int node_turn(struct node *n, uint64_t now_ms);
/* Sleeps until there is something to do or a tick is due. */
void node_wait(struct node *n);
void node_wake(struct node *n);

/* ---- requests ---- */

/* An entry of which type, term and data count. With a term it is proposed only while this member
 * leads in that one, never sent on to another; else the request is finished with
 * OUTCOME_NOT_LEADER. False: the inbox is full. Takes the blob when true. */
bool node_propose(struct node *n, uint64_t id, struct raft_entry entry);
/* The request with that id is finished with OUTCOME_OK once a linearizable read may run. False:
 * full. */
bool node_read(struct node *n, uint64_t id);
/* Behind the last of several of these two: they don't wake the worker, this does. */
void node_submitted(struct node *n);
/* Moves leadership to that member; the request is finished with OUTCOME_OK when it leads. False:
 * full. */
bool node_transfer(struct node *n, uint64_t id, uint64_t to);

/* A question to raft: run() is called in a turn, on the raft thread; it must not block. With NULL:
 * the node ends. */
struct node_task {
    void (*run)(struct node_task *task, const struct raft *raft);
};
void node_ask(struct node *n, struct node_task *task);

/* ---- the network ---- */

/* Copies the message. False: full. */
bool node_message(struct node *n, const struct raft_message *message);
void node_unreachable(struct node *n, uint64_t member_id);

/* ---- from the other workers ---- */

/* The committed configuration entry at index was applied; a refused one has node_id 0. Called
 * before state->applied reaches index, so that raft never believes it applied and keeps the old
 * configuration. */
void node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change);
/* The snapshot was installed; likewise before state->applied reaches index. */
void node_snapshot_installed(struct node *n, uint64_t index);
/* A snapshot, ready to be installed: takes it. */
void node_snapshot_received(struct node *n, struct received *received);
/* One was of no use. The leader is not asked for the next one at once: it costs as much again. */
void node_snapshot_refused(struct node *n);
/* The result of sending one. */
void node_snapshot_sent(struct node *n, uint64_t member_id, bool ok);
/* The database is durable up to this applied index: the log behind it may go. */
void node_release(struct node *n, uint64_t index);
