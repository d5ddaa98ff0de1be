/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the targets of entries and of snapshots: a member as far as they reach it, from the apply
 * turn to the store, the watchers and whoever waits. raft alone stands for the node, nobody for the
 * asks: link with --wrap of node_conf_applied and lease_asks_applied, and as fuzz_store.h says.
 *
 * Thread: one.
 */
#pragma once

#include "raft/raft.h"
#include "server/apply.h"
#include "server/request.h"
#include "server/snapshot.h"

enum { SIDE_ASKERS = 8, SIDE_MEMBER = 1 };

enum { SIDE_LEADS = 1, SIDE_QUOTA = 2, SIDE_REPLAYS = 4 };

struct asker {
    struct request request;
    unsigned n_finished;
};

struct side {
    struct store store;
    struct store_options options;
    struct server_state state;
    struct wait_table wait;
    struct housekeeper *housekeeper;
    struct watch_hub *hub;
    struct watch_stream *stream;
    struct snapshots *snapshots; /* NULL: it takes none */
    struct apply *apply;
    struct raft *raft;
    bool raft_refused; /* a change of members, such as to do without the last voter */
    struct asker askers[SIDE_ASKERS];
};

/* It has applied the entries up to side_first_index() - 1: it is a member with a learner beside it,
 * and has keys, a lease and a compaction. Requests with the ids 1 to SIDE_ASKERS wait.
 * snapshots: a directory for them, or NULL. */
struct side *side_new(const char *path, uint8_t settings, const char *snapshots);
/* went_on: no turn has failed, so whoever waited must have been answered. */
void side_free(struct side *s, bool went_on);
uint64_t side_first_index(void);
/* The raft that such a configuration begins with. */
struct raft *side_raft(const struct raft_conf_state *conf);
void side_compact(struct side *s); /* to the end */
void side_take_events(struct side *s);
