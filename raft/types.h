/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The words of consensus: entry, hard state, configuration, snapshot, message. Numbers equal
 * raftpb's, so that the wire code is a table. Payloads are refcounted immutable blobs; whoever
 * stores an entry holds a reference.
 */
#pragma once

#include "base/bytes.h"

enum raft_entry_type {
    RAFT_ENTRY_NORMAL = 0,
    RAFT_ENTRY_CONF_CHANGE = 1,
    RAFT_ENTRY_CONF_CHANGE_V2 = 2
};

struct raft_entry {
    uint64_t term;
    uint64_t index;
    enum raft_entry_type type;
    struct blob *data;               /* NULL = empty */
};

struct raft_hard_state {
    uint64_t term;
    uint64_t vote;                   /* 0 = none */
    uint64_t commit;
    /* the leader of that term counts on entries up to there, which we have lost; 0 = all is well:
     * follow.c */
    uint64_t lost_tail_index;
    uint64_t lost_tail_term;
};

struct raft_ids {
    uint64_t *ids;                   /* ascending, no duplicates */
    size_t len;
};

struct raft_conf_state {
    struct raft_ids voters;
    struct raft_ids learners;
    struct raft_ids voters_outgoing;  /* not empty: joint configuration */
    struct raft_ids learners_next;
    bool auto_leave;
};

enum raft_conf_change_type {
    RAFT_CONF_ADD_NODE = 0,
    RAFT_CONF_REMOVE_NODE = 1,
    RAFT_CONF_UPDATE_NODE = 2,
    RAFT_CONF_ADD_LEARNER = 3
};
enum raft_conf_transition {
    RAFT_CONF_AUTO = 0,
    RAFT_CONF_JOINT_IMPLICIT = 1,
    RAFT_CONF_JOINT_EXPLICIT = 2
};

struct raft_conf_single {
    enum raft_conf_change_type type;
    /* 0: the change was refused at apply; raft then only notes that it was applied */
    uint64_t node_id;
};

struct raft_conf_change {
    enum raft_conf_transition transition;
    const struct raft_conf_single *changes;   /* none: leave the joint configuration */
    size_t n_changes;
};

struct raft_snapshot {
    uint64_t index;
    uint64_t term;
    struct raft_conf_state conf;
    struct blob *data;               /* opaque to raft; may be NULL */
};

enum raft_message_type {
    RAFT_MSG_HUP = 0,
    RAFT_MSG_BEAT = 1,
    RAFT_MSG_PROP = 2,
    RAFT_MSG_APP = 3,
    RAFT_MSG_APP_RESP = 4,
    RAFT_MSG_VOTE = 5,
    RAFT_MSG_VOTE_RESP = 6,
    RAFT_MSG_SNAP = 7,
    RAFT_MSG_HEARTBEAT = 8,
    RAFT_MSG_HEARTBEAT_RESP = 9,
    RAFT_MSG_UNREACHABLE = 10,
    RAFT_MSG_SNAP_STATUS = 11,
    RAFT_MSG_CHECK_QUORUM = 12,
    RAFT_MSG_TRANSFER_LEADER = 13,
    RAFT_MSG_TIMEOUT_NOW = 14,
    RAFT_MSG_READ_INDEX = 15,
    RAFT_MSG_READ_INDEX_RESP = 16,
    RAFT_MSG_PRE_VOTE = 17,
    RAFT_MSG_PRE_VOTE_RESP = 18,
    RAFT_MSG_FORGET_LEADER = 23,
};

struct raft_message {
    enum raft_message_type type;
    uint64_t to;
    uint64_t from;
    uint64_t term;
    uint64_t log_term;
    uint64_t index;
    uint64_t commit;
    uint64_t reject_hint;
    bool reject;
    /*
     * READ_INDEX and its answer: exactly one, its data is the read's id (ours: 8 bytes, big-endian)
     */
    struct raft_entry *entries;
    size_t n_entries;
    struct raft_snapshot *snapshot;  /* SNAP only */
    struct bytes context;            /* at most RAFT_CONTEXT_MAX bytes */
};

enum { RAFT_CONTEXT_MAX = 64 };
