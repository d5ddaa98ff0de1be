/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few facts that every thread may read without asking: who we are, and how far raft and apply
 * have come. Each is written by one at a time (named below) and read by all. "Apply turn" is the
 * holder of apply's turn lock: the apply thread, or the raft thread in apply_now().
 */
#pragma once

#include <stdatomic.h>

#include "base/bytes.h"

struct server_state {
    uint64_t cluster_id; /* fixed before the threads start */
    uint64_t member_id;
    uint64_t request_timeout_ms; /* 5 s + 2 x election timeout */
    uint64_t election_timeout_ms;

    _Atomic uint64_t committed; /* raft thread */
    _Atomic uint64_t term;      /* raft thread */
    _Atomic uint64_t leader;    /* raft thread; 0 = none */
    _Atomic uint64_t
        leader_since_ms; /* raft thread; monotonic, of the last change to a known leader */
    _Atomic uint64_t
        leader_lost_ms;          /* raft thread; monotonic, of the last loss of a leader; 0: there
                                        was none yet */
    _Atomic bool local_reads;    /* raft thread: sole voter, leader, an entry of its term committed:
                                 reads need no round */
    _Atomic uint64_t tick_ms;    /* raft thread; monotonic, of its last tick that all of the above
                                    has seen: it is not stuck */
    _Atomic uint64_t applied;    /* apply turn; after the effects are visible */
    _Atomic bool applied_wanted; /* raft thread: it must be woken when applied moves */
    _Atomic uint64_t term_begun; /* apply turn: of the newest leader's first entry */
    _Atomic bool is_learner;     /* apply turn: this member is in the table and a learner */
    _Atomic bool stopping;       /* server_drain() */
    _Atomic uint64_t next_id;    /* any thread: server_state_next_id() */
};

/* As etcd makes its request ids: unique over members and restarts. */
static inline uint64_t server_state_next_id(struct server_state *s)
{
    return atomic_fetch_add_explicit(&s->next_id, 1, memory_order_relaxed) + 1;
}

/* The last words of a member that must not go on: logs, then abort()s. Never returns. */
_Noreturn void server_fatal(const char *what, int error);
