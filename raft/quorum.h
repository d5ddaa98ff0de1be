/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Majorities, of one set of voters or of both halves of a joint configuration. The caller says what
 * each voter has acknowledged or voted. An empty set agrees to everything, so that a configuration
 * that is not joint needs no special case. Thread: any.
 */
#pragma once

#include "raft/types.h"

enum quorum_vote { QUORUM_VOTE_NONE, QUORUM_VOTE_YES, QUORUM_VOTE_NO };
enum quorum_result { QUORUM_PENDING, QUORUM_LOST, QUORUM_WON };

typedef uint64_t (*quorum_acked_fn)(const void *context, uint64_t id);        /* 0 = nothing */
typedef enum quorum_vote (*quorum_vote_fn)(const void *context, uint64_t id);

/* The largest index that a majority has acknowledged; UINT64_MAX for no voters. */
uint64_t quorum_index(const struct raft_ids *voters, quorum_acked_fn acked, const void *context);
enum quorum_result quorum_votes(const struct raft_ids *voters, quorum_vote_fn vote,
                                const void *context);

uint64_t quorum_joint_index(const struct raft_conf_state *conf, quorum_acked_fn acked,
                            const void *context);
enum quorum_result quorum_joint_votes(const struct raft_conf_state *conf, quorum_vote_fn vote,
                                      const void *context);
