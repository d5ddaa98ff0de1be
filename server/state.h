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
        leader_since_ms;      /* raft thread; monotonic, of the last change to a known leader */
    _Atomic bool local_reads; /* raft thread: sole voter, leader, an entry of its term committed:
                                 reads need no round */
    _Atomic uint64_t applied; /* apply turn; after the effects are visible */
    _Atomic bool stopping;    /* server_drain() */
};

/* The last words of a member that must not go on: logs, then abort()s. Never returns. */
_Noreturn void server_fatal(const char *what, int error);
