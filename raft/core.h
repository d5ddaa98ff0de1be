/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of struct raft, shared by the files of this folder and by nobody else. Each group of
 * functions says which file has it.
 */
#pragma once

#include "base/arena.h"
#include "base/check.h"
#include "base/rng.h"
#include "raft/conf.h"
#include "raft/log.h"
#include "raft/progress.h"
#include "raft/quorum.h"
#include "raft/raft.h"
#include "raft/vec.h"

enum {
    RAFT_WRITES_MAX = 4096,          /* readies handed out and not PERSISTED */
    /* reads sent to the leader and not answered; the oldest is given up */
    RAFT_READS_FORWARDED_MAX = 4096,
    RAFT_READS_PENDING_MAX = 65536,  /* reads a leader holds until they are confirmed */
};
/* Beyond any that a cluster can reach, so that arithmetic on what the network says never wraps. */
#define RAFT_TERM_MAX ((uint64_t)1 << 62)
#define RAFT_INDEX_MAX ((uint64_t)1 << 62)

struct raft_messages {
    /* of an APP: entries == NULL and n_entries > 0 until raft_ready() points them into the log */
    struct raft_message *items;
    size_t len;
    size_t cap;
};

/* Entries that a queued message owns: unreferenced when the ready is done. */
struct raft_owned {
    struct raft_entry *entries;
    size_t n;
};

/*
 * An acknowledgement of this member to itself: our own vote, or our own append. Delivered when the
 * disk has it.
 */
struct raft_self_ack {
    uint64_t number;  /* the ready that hands the write out; 0 = not handed out yet */
    enum raft_message_type type;
    uint64_t term;
    uint64_t index;
};

/* A write under way: where the log ended, and in which term. */
struct raft_write {
    uint64_t number;
    uint64_t term;
    uint64_t last_index;
    uint64_t last_term;
};

/* A read that a leader has not answered. */
struct raft_read_request {
    uint64_t from;                   /* 0 = ours */
    uint64_t id;                     /* of ours */
    struct blob *data;               /* of others: goes back as it came */
    uint64_t index;                  /* committed when it arrived */
};

struct raft_read_requests {
    struct raft_read_request *items;
    size_t len;
    size_t cap;
};

struct raft_u64s {
    uint64_t *items;
    size_t len;
    size_t cap;
};

struct raft {
    uint64_t id;
    struct rng rng;
    uint32_t election_ticks;
    uint32_t heartbeat_ticks;
    bool pre_vote;
    bool check_quorum;
    uint64_t message_bytes_max;
    uint32_t inflight_messages_max;
    uint64_t inflight_bytes_max;
    uint64_t uncommitted_bytes_max;

    uint64_t term;
    uint64_t vote;
    enum raft_role role;
    uint64_t leader;
    uint32_t election_elapsed;
    uint32_t heartbeat_elapsed;
    uint32_t election_timeout;       /* drawn from [election_ticks, 2 * election_ticks) */

    struct raft_log log;
    struct raft_conf_state conf;
    struct {
        struct progress *items;      /* ascending by id; every member of conf */
        size_t len;
        size_t cap;
    } members;

    /* Leader. */
    uint64_t lead_transferee;
    uint64_t conf_index_pending;     /* no further configuration change until this is applied */
    uint64_t uncommitted_bytes;      /* payloads appended and not yet applied */

    /* Reads: read_index.c. */
    struct raft_read_requests reads_postponed;  /* until an entry of the own term is committed */
    struct raft_read_requests reads_unconfirmed;  /* read number reads_confirmed + 1 stands first */
    uint64_t reads_confirmed;
    struct raft_u64s reads_forwarded;
    struct {
        struct raft_read *items;
        size_t len;
        size_t cap;
    } reads;
    struct raft_u64s reads_lost;

    /* the leader of that term relies on our having entries up to there, and we don't; 0 = none */
    uint64_t lost_tail_index;
    uint64_t lost_tail_term;

    /* What the next ready hands out. */
    struct raft_messages messages;
    struct raft_messages messages_durable;
    struct arena arena;              /* contexts, entries and snapshots of queued messages */
    struct {
        struct raft_owned *items;
        size_t len;
        size_t cap;
    } owned;
    struct {
        struct raft_self_ack *items;
        size_t len;
        size_t cap;
    } self_acks;
    struct {
        struct raft_write *items;
        size_t len;
        size_t cap;
    } writes;
    uint64_t number;                 /* of the last ready handed out */
    bool handing_out;                /* between raft_ready() and raft_advance() */
    uint64_t handing_out_applying;   /* the last committed entry in it */
    struct raft_hard_state hard_state_handed;
    enum raft_role role_handed;
    uint64_t leader_handed;
};

/* raft.c */
void raft_reset(struct raft *r, uint64_t term);
void raft_become_follower(struct raft *r, uint64_t term, uint64_t leader);
int raft_receive(struct raft *r, const struct raft_message *m, bool leave_joint);
int raft_applied(struct raft *r, uint64_t index);

/* send.c */
void raft_send(struct raft *r, struct raft_message m);
void raft_self_ack(struct raft *r, enum raft_message_type type, uint64_t term, uint64_t index);
struct bytes raft_keep_bytes(struct raft *r, struct bytes b);
struct raft_entry *raft_keep_entries(struct raft *r, const struct raft_entry *entries, size_t n);
void raft_pin_messages(struct raft *r);

/* message.c */
bool raft_message_valid(const struct raft *r, const struct raft_message *m);

/* ready.c */
void raft_persisted(struct raft *r, uint64_t number);

/* election.c */
void election_tick(struct raft *r);
int election_start(struct raft *r, bool transfer);
void election_handle_request(struct raft *r, const struct raft_message *m);
int election_handle_vote(struct raft *r, uint64_t from, enum raft_message_type type, bool granted);
bool election_promotable(const struct raft *r);
int transfer_start(struct raft *r, uint64_t target);
void transfer_continue(struct raft *r, const struct progress *p);

/* replicate.c */
void replicate_tick(struct raft *r);
int replicate_propose(struct raft *r, const struct raft_entry *entries, size_t n, bool leave_joint);
bool replicate_append_own(struct raft *r, const struct raft_entry *entries, size_t n);
bool replicate_send(struct raft *r, struct progress *p, bool even_if_empty);
void replicate_broadcast(struct raft *r);
void replicate_broadcast_heartbeat(struct raft *r);
bool replicate_commit(struct raft *r);
void replicate_acked(struct raft *r, struct progress *p, uint64_t index);
int replicate_handle_response(struct raft *r, struct progress *p, const struct raft_message *m);
int replicate_handle_heartbeat_response(struct raft *r, struct progress *p,
                                        const struct raft_message *m);

/* follow.c */
int follow_handle_append(struct raft *r, const struct raft_message *m);
int follow_handle_heartbeat(struct raft *r, const struct raft_message *m);
bool follow_lost_tail(const struct raft *r);

/* snapshot.c */
bool snapshot_send(struct raft *r, struct progress *p);
void snapshot_done(struct raft *r, uint64_t node, bool ok);
int snapshot_handle(struct raft *r, const struct raft_message *m);
void snapshot_installed(struct raft *r, uint64_t index);

/* member.c */
struct progress *member_find(const struct raft *r, uint64_t id);
void member_switch(struct raft *r, const struct raft_conf_state *conf,
                   const struct raft_ids *fresh);
int member_conf_applied(struct raft *r, const struct raft_conf_change *change);
bool member_quorum_active(const struct raft *r);
bool member_unapplied_change(const struct raft *r);

/* read_index.c */
int read_index_start(struct raft *r, uint64_t id);
int read_index_handle_request(struct raft *r, const struct raft_message *m);
int read_index_handle_response(struct raft *r, const struct raft_message *m);
int read_index_acked(struct raft *r, struct progress *p, struct bytes context);
void read_index_term_committed(struct raft *r);
struct bytes read_index_context(struct raft *r);
bool read_index_own_term_committed(const struct raft *r);
void read_index_leader_gone(struct raft *r);
void read_index_deinit(struct raft *r);
