/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Consensus as a pure function. Many raft_step(input), then one raft_ready(), do what it says,
 * raft_advance().
 *
 *   Same configuration (with its seed) and same inputs give the same readies. No clock, disk,
 *   network, thread, log or protobuf in here: time is TICK, the disk's acknowledgement is
 *   PERSISTED, the network is MESSAGE, all of them inputs.
 *
 *   Behaviour is etcd-raft's (pre-vote, check-quorum, ReadIndex, transfer, learners, joint
 *   configurations, flow control), so that a Cairn member can share a cluster with etcd members.
 *   Where we are stricter, raft/README.md lists it.
 *
 * The order that keeps promises (what the owner of the raft must do with a ready):
 *   1. messages may be sent at once (a leader's appends: dissertation 10.2.1).
 *   2. snapshot, entries and hard_state are made durable, in this order, with one sync if
 *      must_sync.
 *   3. messages_durable are sent only now: votes, acknowledgements. If the ready carries a
 *      committed configuration entry and this member is not the leader, they (and messages) wait
 *      until it is applied.
 *   4. raft_advance(), then raft_step(PERSISTED); after the installation of a snapshot also
 *      raft_step(PERSISTED_SNAPSHOT).
 *   5. committed entries are applied in order; each is already durable here. For each configuration
 *      entry raft_step(CONF_APPLIED), then raft_step(APPLIED).
 *   6. once more, until raft_has_ready() is false: a PERSISTED commits, so it brings the next
 *      ready.
 * A member never counts itself before its own PERSISTED, also in a cluster of one.
 *
 * Memory: raft_step() takes its own references to payloads. What a ready hands out is borrowed
 * until raft_advance(); no raft_step() comes between the two.
 * Thread: one owner, the raft thread.
 */
#pragma once

#include "raft/types.h"

/* Outcomes of raft_step(). */
enum {
    /*
     * A proposal or read that can't be taken now: no leader, transfer under way, too much
     * uncommitted, not a member.
     */
    RAFT_E_DROPPED = 1,
    /* A message that breaks the protocol, or a change that can't be applied; it is ignored. */
    RAFT_E_INVALID = 2,
    RAFT_E_NOT_READY = 3,     /* campaign or transfer that the rules forbid now */
    /*
     * The leader knows that we acknowledged entries which we don't have: our log was lost or is an
     * old copy. No vote, no acknowledgement until they are here again; the member should be
     * replaced.
     */
    RAFT_E_LOST_TAIL = 4,
};

enum raft_role { RAFT_FOLLOWER, RAFT_PRE_CANDIDATE, RAFT_CANDIDATE, RAFT_LEADER };

struct raft;

struct raft_config {
    uint64_t id;
    uint64_t seed;                        /* another on each member, or all time out at once */
    uint32_t election_ticks;              /* randomised to [election_ticks, 2 * election_ticks) */
    uint32_t heartbeat_ticks;
    bool pre_vote;
    bool check_quorum;
    uint64_t message_bytes_max;           /* entries per append message; at least one entry goes */
    uint32_t inflight_messages_max;
    uint64_t inflight_bytes_max;          /* 0 = no limit */
    uint64_t uncommitted_bytes_max;       /* 0 = no limit */
    /* Of committed entries handed out and not yet APPLIED; 0 = no limit. */
    uint64_t applying_bytes_max;

    /* The restored state. */
    struct raft_hard_state hard_state;
    uint64_t snapshot_index;              /* the log begins behind this; 0 = from the start */
    uint64_t snapshot_term;
    const struct raft_conf_state *conf;   /* configuration as of applied */
    /* From snapshot_index + 1 on, all durable; raft takes its own references. */
    const struct raft_entry *entries;
    size_t n_entries;
    uint64_t applied;                     /* in [snapshot_index, hard_state.commit] */
};

enum raft_input_type {
    RAFT_TICK,
    RAFT_CAMPAIGN,
    RAFT_PROPOSE,             /* entries: type and data only */
    RAFT_MESSAGE,             /* message: from another member, addressed to us */
    /*
     * number: all that the readies up to this one handed out is durable; 0 = up to the last
     * advanced. Needed after each ready with must_sync; after any other it is harmless, if it is
     * true.
     */
    RAFT_PERSISTED,
    RAFT_PERSISTED_SNAPSHOT,  /* index: the snapshot handed out is installed */
    RAFT_APPLIED,             /* index */
    /* conf: a committed configuration entry was applied (also a refused one: node_id 0) */
    RAFT_CONF_APPLIED,
    /* read_id: wants a read index; ids never used before, also not before a restart; not 0 */
    RAFT_READ,
    RAFT_TRANSFER,            /* node */
    RAFT_FORGET_LEADER,
    RAFT_UNREACHABLE,         /* node */
    RAFT_SNAPSHOT_DONE,       /* node, ok: the result of sending a snapshot */
    /* index: entries up to here are dropped from memory; must be applied; term is kept for index */
    RAFT_COMPACT,
};

struct raft_input {
    enum raft_input_type type;
    uint64_t index;
    uint64_t number;
    uint64_t node;
    uint64_t read_id;
    bool ok;
    /*
     * PROPOSE, or MESSAGE of type PROP: its configuration entry leaves the joint configuration
     * (raft does not read payloads; an empty CONF_CHANGE_V2 is understood without this)
     */
    bool leave_joint;
    const struct raft_entry *entries;
    size_t n_entries;
    const struct raft_message *message;
    const struct raft_conf_change *conf;
};

struct raft_read {
    uint64_t id;
    uint64_t index;                       /* answer the read once applied >= index */
};

struct raft_ready {
    uint64_t number;                      /* 1, 2, 3, ...: what PERSISTED refers to */
    bool soft_changed;                    /* leader or role changed since the last ready */
    enum raft_role role;
    uint64_t leader;                      /* 0 = none known */

    /* entries, a snapshot, or a change of term, vote or lost tail */
    bool must_sync;
    bool hard_state_changed;
    struct raft_hard_state hard_state;
    const struct raft_snapshot *snapshot; /* NULL = none: install before entries */
    /* to append; may overwrite: an entry with index i discards all stored >= i */
    const struct raft_entry *entries;
    size_t n_entries;

    /*
     * the snapshot of a SNAP has index, term and configuration as of applied; the owner sends one
     * at that index or later, with data, and reports SNAPSHOT_DONE
     */
    const struct raft_message *messages;
    size_t n_messages;
    const struct raft_message *messages_durable;
    size_t n_messages_durable;

    /* to apply: consecutive, begins at the last handed out + 1 */
    const struct raft_entry *committed;
    size_t n_committed;
    const struct raft_read *reads;
    size_t n_reads;
    /* reads that will not be answered (leader changed): ask again with a new id */
    const uint64_t *reads_lost;
    size_t n_reads_lost;
};

/*
 * Takes copies of and references to everything in config. Negative -EINVAL: the restored state
 * contradicts itself.
 */
int raft_new(struct raft **ret, const struct raft_config *config);
struct raft *raft_free(struct raft *r);
static inline void raft_freep(struct raft **r)
{
    *r = raft_free(*r);
}

/* The most voters, and the most learners, of a configuration; a larger one is invalid. */
enum { RAFT_MEMBERS_MAX = 256 };

/* 0 or an outcome above; never a negative error. Nothing in a message makes it abort. */
int raft_step(struct raft *r, const struct raft_input *in);
bool raft_has_ready(const struct raft *r);
void raft_ready(struct raft *r, struct raft_ready *ret);
void raft_advance(struct raft *r);

struct raft_status {
    uint64_t id;
    uint64_t term;
    uint64_t vote;
    uint64_t leader;
    enum raft_role role;
    uint64_t commit;
    uint64_t applied;
    bool applying_paused;                 /* committed entries are held back until APPLIED */
    uint64_t first_index;                 /* of the entries in memory */
    uint64_t last_index;
    uint64_t persisted_index;
    /* leader only: an entry of its own term is committed, so commit serves reads */
    bool committed_in_term;
    bool sole_voter;  /* the configuration has exactly one voter, this member, and is not joint */
    uint64_t lead_transferee;
    /* leader only: a new configuration change is refused until applied reaches this */
    uint64_t conf_index_pending;
    uint64_t uncommitted_bytes;
    uint32_t election_timeout_ticks;      /* as drawn for this role and term */
    bool lost_tail;                       /* see RAFT_E_LOST_TAIL */
};

void raft_status(const struct raft *r, struct raft_status *ret);
/* borrowed until the next raft_step() */
const struct raft_conf_state *raft_conf(const struct raft *r);

struct raft_progress {
    uint64_t id;
    uint64_t match;
    uint64_t next;
    bool is_learner;
    bool recent_active;
    uint8_t state;                        /* 0 probe, 1 replicate, 2 snapshot */
    bool paused;
    uint64_t snapshot_index;              /* pending, in state snapshot */
    uint32_t inflight_messages;
};

/* Leader only: fills up to max entries, returns how many there are. */
size_t raft_progress(const struct raft *r, struct raft_progress *ret, size_t max);

/*
 * Internal consistency; aborts through check(). Tests and the simulator call it after every step.
 */
void raft_sanity(const struct raft *r);
