/* SPDX-License-Identifier: Apache-2.0 */
/*
 * struct server, for the files of server/ that are its doors (server.c, propose.c, answers.c,
 * quota.c, scan.c). The workers (node, apply, housekeeper) don't see it: they get what they need in
 * their options.
 */
#pragma once

#include <pthread.h>

#include "server/alarm.h"
#include "server/apply.h"
#include "server/data_dir.h"
#include "server/disk_room.h"
#include "server/encode.h"
#include "server/housekeeper.h"
#include "server/member.h"
#include "server/node.h"
#include "server/scan.h"
#include "server/server.h"
#include "server/snapshot.h"
#include "server/state.h"
#include "server/store.h"
#include "server/ticker.h"
#include "server/transport.h"
#include "server/wait.h"

struct cluster_version;
struct lease_asks;
struct lease_expiry;
struct watch_hub;
struct promotions;

/* One of the member's own proposals: repeated until it succeeds. */
struct own_proposal {
    struct request request;
    struct server *server;
    struct buf payload;
    _Atomic bool under_way;
    _Atomic bool done;
    uint64_t retry_ms;
    _Atomic uint64_t submitted_ms;
};

struct server {
    const struct config *config;
    struct server_state state;
    struct data_dir *data_dir;
    struct disk_room *room;
    struct store store;
    struct transport *transport; /* NULL: alone, without a network */
    struct wait_table wait;
    struct node *node;
    struct apply *apply;
    struct housekeeper *housekeeper;
    struct snapshots *snapshots;
    struct ticker *ticker;
    struct scan_pool scan;
    pthread_t node_thread;
    pthread_t apply_thread;
    pthread_t watch_thread;
    bool node_started;
    bool apply_started;
    bool watch_started;
    _Atomic bool workers_stop;

    struct cluster_version *cluster_version;
    struct promotions *promotions;
    struct lease_expiry *lease_expiry;
    struct lease_asks *lease_asks;
    struct watch_hub *watch_hub;
    _Atomic uint64_t removed_at_ms; /* when a removed member stops; 0: it is none */

    struct own_proposal publish;
    struct own_proposal raise_alarm;
    pthread_mutex_t ready_lock;
    pthread_cond_t ready_cond;
    bool ready;
};

/* For tests and the simulator. */
struct server_tuning {
    uint64_t wal_segment_bytes; /* 0: WAL_SEGMENT_BYTES */
    uint64_t seed;              /* of elections and checksums; 0: of the system's randomness */
    bool single_threaded;       /* the raft log has no thread of its own either */
};

/* The two halves of server_start(). Without threads, tests and the simulator call the turns
 * themselves. Both ways end with server_drain() and server_stop(). tuning may be NULL. */
int server_open(struct server **ret, const struct config *config, struct transport *transport,
                const struct server_tuning *tuning);
int server_start_threads(struct server *s);

/* A leader gives its leadership to another member, if one is there (handover.c). */
void server_hand_over(struct server *s);

/* Why a request ran out of time (expiry.c): for wait_expire(); arg: the server. */
enum outcome server_timeout_outcome(void *arg, const struct request *request);

/* By its own account. */
static inline bool server_leads(const struct server *s)
{
    return atomic_load_explicit(&s->state.leader, memory_order_acquire) == s->state.member_id;
}

static inline struct response_header server_header(struct server *s, int64_t revision)
{
    return (struct response_header){.cluster_id = s->state.cluster_id,
                                    .member_id = s->state.member_id,
                                    .revision = revision,
                                    .raft_term =
                                        atomic_load_explicit(&s->state.term, memory_order_acquire)};
}
