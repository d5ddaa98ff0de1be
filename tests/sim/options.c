/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a seed chooses. "Swarm": each run has some of the faults only, because a fault that is
 * always there hides what another one would show; and limits are often very small, so that what is
 * rare elsewhere happens all the time.
 *
 * Thread: the only one.
 */
#include <stddef.h>

#include "raft/types.h"
#include "tests/sim/world.h"

static struct rng rng;

static uint64_t pick(uint64_t low, uint64_t high)
{
    return low + rng_below(&rng, high - low + 1);
}

static bool odds(unsigned percent)
{
    return rng_below(&rng, 100) < percent;
}

/* A number in [low, high], small ones as likely as large ones. */
static uint64_t pick_log(uint64_t low, uint64_t high)
{
    uint64_t limit = low;

    while (limit < high && odds(75))
        limit = limit * 2 < high ? limit * 2 : high;
    return pick(low, limit);
}

static uint32_t rate(unsigned percent, uint64_t high)
{
    return odds(percent) ? (uint32_t)pick(1, high) : 0;
}

static unsigned cluster_size(void)
{
    static const uint8_t sizes[] = {1, 3, 3, 3, 3, 5, 5, 2, 4, 7};

    return sizes[rng_below(&rng, sizeof(sizes))];
}

static void draw_members(struct options *o)
{
    o->n_members = cluster_size();
    o->same_clock = odds(50);
    o->heartbeat_ms = (uint32_t)pick(20, 100);
    o->election_ms = o->heartbeat_ms * (uint32_t)pick(5, 10);
    o->pre_vote = odds(80);
    o->catchup_entries = odds(70) ? pick_log(1, 100) : 5000;
    o->snapshot_count = pick_log(10, 400);
    o->compaction_batch = (uint32_t)pick_log(1, 1000);
    o->wal_segment_bytes = pick_log(4 << 10, 256 << 10);
    o->message_bytes_max = odds(50) ? pick_log(1, 4096) : 512 << 10;
    o->inflight_max = (uint32_t)(odds(50) ? pick_log(1, 16) : 512);
    o->uncommitted_bytes_max = odds(25) ? pick_log(3000, 50000) : 0;
    o->applying_bytes_max = odds(50) ? pick_log(2000, 100000) : 64 << 20;
    o->tables = odds(50);
}

static const uint8_t late_types[] = {
    RAFT_MSG_APP,       RAFT_MSG_APP_RESP,       RAFT_MSG_VOTE,           RAFT_MSG_VOTE_RESP,
    RAFT_MSG_HEARTBEAT, RAFT_MSG_HEARTBEAT_RESP, RAFT_MSG_HEARTBEAT_RESP, RAFT_MSG_TIMEOUT_NOW,
    RAFT_MSG_PRE_VOTE,  RAFT_MSG_PRE_VOTE_RESP,  RAFT_MSG_READ_INDEX,     RAFT_MSG_READ_INDEX_RESP,
    RAFT_MSG_PROP,
};

static void draw_speeds(struct options *o)
{
    o->delay_ns_max = pick_log(10 * MICROSECOND, 5 * MILLISECOND);
    o->preempt_ppm = odds(50) ? (uint32_t)pick_log(1000, 100000) : 0;
    o->disk.call_ns_max = odds(50) ? pick_log(1 * MICROSECOND, 2 * MILLISECOND) : 0;
    o->disk.sync_ns_min = pick_log(10 * MICROSECOND, 2 * MILLISECOND);
    o->disk.sync_ns_max = o->disk.sync_ns_min + pick_log(10 * MICROSECOND, 20 * MILLISECOND);
    o->disk.stall_ppm = odds(30) ? (uint32_t)pick_log(1000, 50000) : 0;
    o->disk.stall_ns_max = pick(10, 1500) * MILLISECOND;
    o->latency_ns_min = pick_log(10 * MICROSECOND, 5 * MILLISECOND);
    o->latency_ns_max = o->latency_ns_min + pick_log(10 * MICROSECOND, 20 * MILLISECOND);
    o->drop_ppm = odds(50) ? (uint32_t)pick_log(1000, 200000) : 0;
    o->duplicate_ppm = odds(50) ? (uint32_t)pick_log(1000, 200000) : 0;
    o->reorder_ppm = odds(50) ? (uint32_t)pick_log(1000, 300000) : 0;
    o->reorder_ns_max = pick_log(MILLISECOND, 3 * SECOND);
    o->late_type = odds(40) ? late_types[rng_below(&rng, sizeof(late_types))] : 0;
    o->late_ppm = (uint32_t)pick(10000, 600000);
    o->late_ns_max = pick_log(10 * MILLISECOND, 4 * SECOND);
    o->snapshot_ns_max = odds(40) ? pick_log(10 * MILLISECOND, 3 * SECOND) : 0;
}

/* In so many runs of a hundred, and then up to so often (see struct options). */
static const struct fault {
    size_t at;
    uint8_t percent;
    uint16_t high;
} faults[] = {
    {offsetof(struct options, crash_rate), 40, 500},
    {offsetof(struct options, power_rate), 40, 500},
    {offsetof(struct options, boundary_rate), 50, 600},
    {offsetof(struct options, stop_rate), 25, 300},
    {offsetof(struct options, pause_rate), 35, 500},
    {offsetof(struct options, partition_rate), 50, 500},
    {offsetof(struct options, wander_rate), 35, 400},
    {offsetof(struct options, echo_rate), 30, 400},
    {offsetof(struct options, lag_rate), 25, 400},
    {offsetof(struct options, slow_disk_rate), 20, 200},
    {offsetof(struct options, stall_rate), 20, 200},
    {offsetof(struct options, disk_error_rate), 20, 200},
    {offsetof(struct options, clock_rate), 30, 300},
    {offsetof(struct options, flip_rate), 20, 1000},
    {offsetof(struct options, make_room_rate), 50, 1500},
    {offsetof(struct options, member_rate), 45, 2000},
    {offsetof(struct options, transfer_rate), 30, 500},
};
enum { FAULTS = sizeof(faults) / sizeof(*faults), ALONE_PERCENT = 15 };

/* Now and then one fault has the run for itself: then a leader may stay for long. */
static void draw_rates(struct options *o)
{
    uint64_t alone = odds(ALONE_PERCENT) ? pick(0, FAULTS - 1) : FAULTS;

    for (unsigned i = 0; i < FAULTS; i++) {
        unsigned percent = alone == FAULTS ? faults[i].percent : alone == i ? 100 : 0;
        *(uint32_t *)((char *)o + faults[i].at) = rate(percent, faults[i].high);
    }
}

static void draw_faults(struct options *o)
{
    draw_rates(o);
    o->install_ppm = odds(40) ? (uint32_t)pick(50000, 900000) : 0;
    o->down_ns_max = pick_log(10 * MILLISECOND, 4 * SECOND);
    o->pause_ns_max = pick_log(10 * MILLISECOND, 5 * SECOND);
    o->partition_ns_max = pick_log(100 * MILLISECOND, 6 * SECOND);
}

static void draw_clients(struct options *o)
{
    o->n_readers = odds(50) ? (unsigned)pick(1, 4) : 0;
    o->n_clients = (unsigned)pick(1, 10) + o->n_readers;
    o->n_keys = (unsigned)pick(2, 20);
    o->chaos_ns = (odds(75) ? pick(4, 15) : pick(15, 40)) * SECOND;
    o->ops_max = (unsigned)pick_log(100, 2500);
    o->think_ns_max = pick_log(MILLISECOND, 200 * MILLISECOND);
    o->large_one_in = odds(75) ? 16 : 2;
    o->share_put = (uint8_t)pick(15, 40);
    o->share_delete = (uint8_t)pick(2, 12);
    o->share_txn = (uint8_t)pick(5, 20);
    o->share_range = (uint8_t)(odds(80) ? pick(5, 15) : pick(15, 30));
    o->share_serializable = (uint8_t)pick(0, 6);
    o->share_compact = odds(70) ? (uint8_t)pick(0, 4) : 0;
}

static void draw_watches(struct options *o)
{
    o->n_viewers = odds(80) ? (unsigned)pick(1, 6) : 0;
    o->view_ns_max = pick_log(50 * MILLISECOND, 3 * SECOND);
    o->ring_bytes = odds(60) ? pick_log(2000, 1 << 20) : 0;
    o->stream_bytes = odds(60) ? pick_log(500, 256 << 10) : 0;
    o->hub_bytes = odds(40) ? pick_log(2000, 1 << 20) : 0;
    o->slice_events = odds(60) ? pick_log(1, 1000) : 0;
    o->response_bytes = pick_log(100, 64 << 10);
    o->progress_ms = (uint32_t)pick_log(100, 5000);
}

static void draw_leases(struct options *o)
{
    o->n_holders = odds(75) ? (unsigned)pick(1, 6) : 0;
    o->keep_ns_max = pick_log(20 * MILLISECOND, 2 * SECOND);
    o->checkpoint_ns = odds(30) ? pick(300, 2000) * MILLISECOND : 0;
}

/* Only where the members stay the same (see old_copy.c). */
static void draw_old_copies(struct options *o)
{
    o->old_copy_rate = o->member_rate == 0 ? rate(60, 1500) : 0;
    o->old_copy_ns_max = pick_log(10 * MILLISECOND, 3 * SECOND);
}

void options_draw(struct options *o, uint64_t seed)
{
    rng_init(&rng, seed);
    *o = (struct options){0};
    draw_members(o);
    draw_speeds(o);
    draw_faults(o);
    draw_clients(o);
    draw_watches(o);
    draw_leases(o);
    draw_old_copies(o);
}
