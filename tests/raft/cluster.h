/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A cluster of raft nodes in memory, for scripts and for the differential driver: each with a disk
 * that forgets what was not synced, and a network that holds every message until it is delivered or
 * dropped.
 */
#pragma once

#include "raft/raft.h"

enum { CLUSTER_NODES_MAX = 16 };

struct message_list {
    struct raft_message *items;
    size_t len;
    size_t cap;
};

struct entry_list {
    struct raft_entry *items;
    size_t len;
    size_t cap;
};

/* What one ready gave the disk, not synced yet. */
struct disk_write {
    uint64_t number;
    bool hard_state_changed;
    struct raft_hard_state hard_state;
    struct raft_snapshot *snapshot;
    struct entry_list entries;
    struct message_list durable;          /* leave when this is synced */
};

struct node {
    uint64_t id;
    struct raft *raft;                    /* NULL: stopped */
    struct raft_config config;  /* the settings; the restored state is filled in at each start */

    struct raft_hard_state hard_state;    /* the disk */
    uint64_t base_index;
    uint64_t base_term;
    struct entry_list entries;
    uint64_t applied;                     /* the state machine, durable with its configuration */
    struct raft_conf_state conf;

    bool manual_disk;                     /* writes wait for cluster_sync() */
    bool manual_apply;                    /* committed entries wait for cluster_apply() */
    struct {
        struct disk_write *items;
        size_t len;
        size_t cap;
    } writes;
    struct entry_list to_apply;
};

struct cluster {
    struct node nodes[CLUSTER_NODES_MAX]; /* id i + 1 */
    size_t n_nodes;
    struct message_list network;
    struct entry_list applied;            /* what any node applied, by index: they must all agree */
    bool cut[CLUSTER_NODES_MAX + 1][CLUSTER_NODES_MAX + 1];       /* from, to */
};

void cluster_init(struct cluster *c);
void cluster_deinit(struct cluster *c);
struct node *cluster_node(struct cluster *c, uint64_t id);        /* NULL if there is none */

/*
 * A node of this id and settings whose disk holds a snapshot at index (0 = nothing) with this
 * configuration.
 */
struct node *cluster_add(struct cluster *c, const struct raft_config *config, uint64_t index,
                         const struct raft_conf_state *conf);
/* Starts a stopped node from its disk. Negative: its disk contradicts itself. */
int node_start(struct node *n);
/* Stops it as a crash does: what was not synced is gone. */
void node_stop(struct node *n);
int node_step(struct node *n, const struct raft_input *in);

/*
 * Handles one ready and describes it in b. What the node's modes don't hold back is written, sent
 * and applied.
 */
void cluster_ready(struct cluster *c, struct node *n, struct buf *b);
/* the oldest write; false if none waits */
bool cluster_sync(struct cluster *c, struct node *n, struct buf *b);
bool cluster_apply(struct cluster *c, struct node *n, size_t max, struct buf *b);
/* Takes message i off the network and hands it over. Returns the outcome of raft_step(). */
int cluster_deliver(struct cluster *c, size_t i, struct buf *b);
void cluster_drop(struct cluster *c, size_t i);
void cluster_send(struct cluster *c, const struct raft_message *m);
void node_compact(struct node *n, uint64_t index);

/*
 * "v1 l2 r3 u4", with "explicit", "implicit" or "refused"; empty = leave. False if it is none of
 * that.
 */
bool parse_conf_change(struct bytes text, struct raft_conf_change *ret,
                       struct raft_conf_single *changes, size_t max);
