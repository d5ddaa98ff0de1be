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

enum { NODE_INBOX_MAX = 32768, NODE_INBOX_BYTES_MAX = 256 << 20 };

struct node_options {
    struct raft *raft; /* the node owns both from here on */
    struct wal *wal;
    struct apply *apply;
    struct wait_table *wait;
    struct server_state *state;
    uint32_t tick_ms;
};

struct node *node_new(const struct node_options *options);
struct node *node_free(struct node *n);
/* Negative: the disk failed; the member must stop. */
int node_turn(struct node *n, uint64_t now_ms);
/* Sleeps until there is something to do or a tick is due. */
void node_wait(struct node *n);

/* False: the inbox is full. Takes the blob when true. */
bool node_propose(struct node *n, uint64_t id, struct blob *data);
/* The request with that id is finished with OUTCOME_OK once a linearizable read may run. False:
 * full. */
bool node_read(struct node *n, uint64_t id);
/* The committed configuration entry at index was applied; a refused one has node_id 0. Called
 * before
 * state->applied reaches index, so that raft never believes it applied and keeps the old
 * configuration. */
void node_conf_applied(struct node *n, uint64_t index, struct raft_conf_single change);
/* The database is durable up to this applied index: the log behind it may go. */
void node_release(struct node *n, uint64_t index);
void node_wake(struct node *n);
