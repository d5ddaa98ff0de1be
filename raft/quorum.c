/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Majorities: an index is committed, or an election won, by a quorum of each half (dissertation 3.3
 * and 4.3). Thread: any.
 */
#include "raft/quorum.h"

#include "base/check.h"
#include "raft/raft.h"

uint64_t quorum_index(const struct raft_ids *voters, quorum_acked_fn acked, const void *context)
{
    uint64_t sorted[RAFT_MEMBERS_MAX];
    size_t n = voters->len;
    check(n <= RAFT_MEMBERS_MAX);
    if (n == 0)
        return UINT64_MAX;
    for (size_t i = 0; i < n; i++) {       /* descending insertion sort: there are few voters */
        uint64_t v = acked(context, voters->ids[i]);
        size_t j = i;
        for (; j > 0 && sorted[j - 1] < v; j--)
            sorted[j] = sorted[j - 1];
        sorted[j] = v;
    }
    return sorted[n / 2];
}

enum quorum_result quorum_votes(const struct raft_ids *voters, quorum_vote_fn vote,
                                const void *context)
{
    size_t yes = 0;
    size_t open = 0;
    if (voters->len == 0)
        return QUORUM_WON;
    for (size_t i = 0; i < voters->len; i++) {
        enum quorum_vote v = vote(context, voters->ids[i]);
        yes += v == QUORUM_VOTE_YES;
        open += v == QUORUM_VOTE_NONE;
    }
    size_t needed = voters->len / 2 + 1;
    if (yes >= needed)
        return QUORUM_WON;
    return yes + open >= needed ? QUORUM_PENDING : QUORUM_LOST;
}

uint64_t quorum_joint_index(const struct raft_conf_state *conf, quorum_acked_fn acked,
                            const void *context)
{
    uint64_t a = quorum_index(&conf->voters, acked, context);
    uint64_t b = quorum_index(&conf->voters_outgoing, acked, context);
    return a < b ? a : b;
}

enum quorum_result quorum_joint_votes(const struct raft_conf_state *conf, quorum_vote_fn vote,
                                      const void *context)
{
    enum quorum_result a = quorum_votes(&conf->voters, vote, context);
    enum quorum_result b = quorum_votes(&conf->voters_outgoing, vote, context);
    if (a == QUORUM_LOST || b == QUORUM_LOST)
        return QUORUM_LOST;
    return a == QUORUM_WON && b == QUORUM_WON ? QUORUM_WON : QUORUM_PENDING;
}
