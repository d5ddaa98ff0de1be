/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that is not a request's path and may take its time: physical compaction in bounded
 * steps, flushing the database so that the log can be cut, watching sizes and the room on the disk.
 *
 * Thread: its own, for the turns; the other functions from any.
 */
#pragma once

#include "server/request.h"
#include "server/state.h"
#include "server/store.h"

struct disk_room;
struct housekeeper;
struct node;

enum { FLUSH_ENTRIES_MAX = 25000, FLUSH_BYTES_MAX = 64 << 20, HOUSEKEEPER_TICK_MS = 100 };

struct housekeeper_options {
    struct store *store;
    struct server_state *state;
    struct disk_room *room;
    uint64_t replay_to; /* once this is applied: flush, so that the next start need not replay it */
    uint64_t snapshot_count; /* entries applied beyond those that are durable; UINT64_MAX: any */
    uint64_t catchup_entries;
    int64_t compaction_sleep_ns;
    /* called every HOUSEKEEPER_TICK_MS while the disk is short; the store is held as by a job */
    void (*disk_short)(void *arg);
    void *arg;
};

struct housekeeper *housekeeper_new(const struct housekeeper_options *options);
void housekeeper_set_node(struct housekeeper *h, struct node *node); /* before the first turn */
int housekeeper_start(struct housekeeper *h);
/* What the thread does whenever it is woken or a tick is due: at most one step of a compaction, one
 * flush, one look at sizes and disks. */
void housekeeper_turn(struct housekeeper *h, uint64_t now_ms);
/* Requests that wait for a compaction, and later ones, are finished with OUTCOME_STOPPED. */
void housekeeper_drain(struct housekeeper *h);
/* Joins the thread. */
void housekeeper_stop(struct housekeeper *h);
struct housekeeper *housekeeper_free(struct housekeeper *h);

void housekeeper_wake(struct housekeeper *h);
/* Finishes request with OUTCOME_OK when the compaction at revision is physically done. Takes the
 * request. */
void housekeeper_await_compaction(struct housekeeper *h, struct request *request, int64_t revision);
/* The apply worker reports how much it wrote; starts a flush when a replay would take too long. */
void housekeeper_note_written(struct housekeeper *h, uint64_t entries, uint64_t bytes);
/* The log found no room for its next segment: flushes now, so that it can use old ones again. */
void housekeeper_make_room(struct housekeeper *h);
/* Bytes that the quota counts; refreshed every tick. */
uint64_t housekeeper_used_bytes(const struct housekeeper *h);
