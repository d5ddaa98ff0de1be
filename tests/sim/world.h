/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One run: machines with their members, clients, a network, and what goes wrong with them, all
 * drawn from one seed.
 *
 *   chaos    for some seconds of virtual time everything that the seed has chosen happens
 *   healing  all faults end, everything that can run runs, the network works
 *   proof    within a bound every member takes a write; then all members hold the same state
 */
#pragma once

#include "base/bytes.h"
#include "base/rng.h"
#include "server/config.h"
#include "tests/sim/disk.h"
#include "tests/sim/kernel.h"
#include "tests/sim/trace.h"

struct server;
struct machine;

#define STALL_NS_MAX (9 * SECOND) /* of a database's writes */

enum {
    MACHINES_MAX = 16, /* with those that come later; numbered from 1 */
    CLIENTS_MAX = 16,
    CLOCK_RATE_MIN_PPM = 700000, /* how slow and fast the nemesis lets clocks run */
    CLOCK_RATE_MAX_PPM = 1500000,
};

enum phase { PHASE_CHAOS, PHASE_HEALING, PHASE_PROOF, PHASE_DONE };

/* What the seed has chosen (options.c); rates are per second of virtual time and thousandths, so
 * 500 is once in two seconds. */
struct options {
    unsigned n_members;
    bool same_clock;               /* wall clocks agree, so members start at the same millisecond */
    unsigned n_clients, n_readers; /* the first n_readers of them only read */
    unsigned n_keys;
    uint64_t chaos_ns;
    unsigned ops_max; /* of all clients */
    uint64_t think_ns_max;

    /* Members. */
    uint32_t heartbeat_ms;
    uint32_t election_ms;
    bool pre_vote;
    uint64_t catchup_entries;
    uint64_t snapshot_count;
    uint32_t compaction_batch;
    uint64_t wal_segment_bytes;
    uint64_t message_bytes_max;
    uint32_t inflight_max;
    uint64_t uncommitted_bytes_max;
    uint64_t applying_bytes_max;
    bool tables; /* snapshots travel as the database's own files */

    /* Scheduling. */
    uint64_t delay_ns_max;
    uint32_t preempt_ppm;

    /* Disks. */
    struct disk_faults disk;

    /* Network. */
    uint64_t latency_ns_min, latency_ns_max;
    uint32_t drop_ppm, duplicate_ppm, reorder_ppm;
    uint64_t reorder_ns_max;
    unsigned late_type; /* messages of that type are late, besides; 0: none */
    uint32_t late_ppm;
    uint64_t late_ns_max;
    uint64_t snapshot_ns_max; /* on the way, more than the latency */

    /* What goes wrong. */
    uint32_t crash_rate, power_rate, boundary_rate, stop_rate, pause_rate, partition_rate;
    uint32_t wander_rate, echo_rate, lag_rate;
    uint32_t slow_disk_rate, stall_rate, disk_error_rate, clock_rate, flip_rate;
    uint32_t member_rate, transfer_rate, make_room_rate;
    uint32_t install_ppm; /* of snapshots whose installation meets a crash */
    uint64_t down_ns_max, pause_ns_max, partition_ns_max;
    uint32_t old_copy_rate;
    uint64_t old_copy_ns_max; /* how old */

    /* Clients: shares of a hundred. */
    uint8_t share_put, share_delete, share_txn, share_range, share_serializable, share_compact;
    unsigned large_one_in; /* values of some kilobytes */

    /* Clients that watch, and what the hub has for them. */
    unsigned n_viewers;
    uint64_t view_ns_max; /* between looks */
    size_t ring_bytes, stream_bytes, hub_bytes, slice_events, response_bytes;
    uint32_t progress_ms; /* between notifications */

    /* Clients with leases. */
    unsigned n_holders;
    uint64_t keep_ns_max;   /* between keep-alives */
    uint64_t checkpoint_ns; /* between checkpoints of a lease; 0: none */
};

struct world {
    uint64_t seed;
    struct rng rng; /* for choices of the world itself */
    struct options o;
    enum phase phase;
    struct machine *machines[MACHINES_MAX + 1]; /* by number; [0] is NULL */
    unsigned n_machines;

    /* When it is over. */
    uint64_t digest, events, virtual_ns;
};

extern struct world world;

struct world_settings {
    uint64_t seed;
    bool trace;
    bool logs;
};

/* The whole run; returns if nothing is violated. */
void world_run(const struct world_settings *settings);
void options_draw(struct options *o, uint64_t seed);

/* True once in so many times. */
static inline bool one_in(uint64_t n)
{
    return rng_below(&world.rng, n) == 0;
}
static inline uint64_t between(uint64_t low, uint64_t high)
{
    return low + rng_below(&world.rng, high - low + 1);
}
