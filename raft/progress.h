/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a leader knows about one member, and how fast it may send to it.
 *
 *     probe -----accepted----> replicate
 *      ^  |  <---rejected,-----    |
 *      |  |      unreachable       |
 *      |  +--its entries are gone--+
 *      |           v
 *      +------ snapshot -----acknowledged----> replicate
 *     reported
 *
 *   probe      one append at a time, until one is accepted; a heartbeat's answer allows the next.
 *   replicate  appends are pipelined, bounded by the inflight window.
 *   snapshot   nothing is sent until the snapshot has arrived or failed.
 */
#pragma once

#include "raft/quorum.h"
#include "raft/types.h"

struct inflight {
    uint64_t index;                  /* of the message's last entry */
    uint64_t bytes;
};

/* Append messages sent and not yet acknowledged: a ring in order of index. */
struct inflights {
    struct inflight *ring;
    uint32_t cap;                    /* allocated; grows up to messages_max */
    uint32_t start;
    uint32_t len;
    uint64_t bytes;
    uint32_t messages_max;
    uint64_t bytes_max;              /* 0 = no limit; the message that crosses it still goes */
};

void inflights_init(struct inflights *in, uint32_t messages_max, uint64_t bytes_max);
void inflights_deinit(struct inflights *in);
void inflights_add(struct inflights *in, uint64_t index, uint64_t bytes);      /* not when full */
/* all up to index are acknowledged */
void inflights_free_to(struct inflights *in, uint64_t index);
void inflights_reset(struct inflights *in);
bool inflights_full(const struct inflights *in);

enum progress_state { PROGRESS_PROBE, PROGRESS_REPLICATE, PROGRESS_SNAPSHOT };

struct progress {
    uint64_t id;
    uint64_t match;                  /* the log is known to agree up to here */
    uint64_t next;                   /* the next entry to send; always above match */
    uint64_t commit_sent;            /* the highest commit index under way to it */
    uint64_t snapshot_index;         /* pending, in state snapshot */
    uint64_t read_acked;             /* the newest read round it has confirmed */
    enum progress_state state;
    enum quorum_vote vote;           /* in the running election */
    bool recent_active;              /* heard from since the last quorum check */
    bool flow_paused;  /* a probe is out, or the window is full; a heartbeat's answer lifts it */
    bool is_learner;
    struct inflights inflights;
};

void progress_init(struct progress *p, uint64_t id, uint64_t next, bool is_learner,
                   uint32_t messages_max, uint64_t bytes_max);
void progress_deinit(struct progress *p);
/* What a change of role or term leaves: the id and whether it learns. */
void progress_reset(struct progress *p, uint64_t match, uint64_t next);

void progress_become_probe(struct progress *p);
void progress_become_replicate(struct progress *p);
void progress_become_snapshot(struct progress *p, uint64_t snapshot_index);

void progress_sent(struct progress *p, size_t n_entries, uint64_t bytes);
/* An acknowledgement up to index. False if it says nothing new. */
bool progress_acked(struct progress *p, uint64_t index);
/*
 * A rejection of the append that followed index rejected; hint is where the logs may agree. False
 * if it is stale.
 */
bool progress_rejected(struct progress *p, uint64_t rejected, uint64_t hint);
/* Whether sending this commit index could tell the member something new. */
bool progress_wants_commit(const struct progress *p, uint64_t commit);
bool progress_paused(const struct progress *p);
void progress_sanity(const struct progress *p);
