/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two files of the lease table share: lease.c, records and lookups; lease_time.c, the
 * times of a leader. Thread: the table's lock.
 */
#pragma once

#include <pthread.h>

#include "base/heap.h"
#include "base/map.h"
#include "storage/lease.h"

/* There may be millions: 64 bytes each, as malloc() has it. */
struct lease {
    struct heap_node due; /* of a primary: when somebody must look at it */
    int64_t id;
    int64_t ttl_s;
    int64_t remaining_s;
    uint64_t expiry_ns;   /* of a primary; else whatever it was */
    uint32_t serial : 31; /* of its grant; not 0 */
    uint32_t queued : 1;  /* for a checkpoint */
    uint32_t found;       /* by that look for checkpoints, the last one; 0: by none */
};

struct lease_queued {
    uint64_t due_ns;
    int64_t id;
    uint32_t serial;
};

/* A ring; each lease is in it once at most. */
struct lease_queue {
    struct lease_queued *items;
    size_t first, len, cap; /* cap: 0 or a power of two */
};

struct lease_table {
    struct db *db;
    int64_t ttl_min_s;
    pthread_mutex_t lock;  /* guards all that follows */
    struct map_u64 leases; /* id -> struct lease, owned */
    uint32_t serial;       /* of the last grant */
    uint64_t term;         /* of the leadership whose times these are; 0: none */
    uint64_t begins_ns;    /* until then the leader before it may have made promises, too */
    struct heap heap;
    uint64_t checkpoint_ns;
    struct lease_queue queue;
    uint32_t looks;     /* for checkpoints, so far */
    bool checkpointing; /* what the last of them found is under way */
};

/* A lease has come; its time begins if this member leads. */
void lease_time_begin(struct lease_table *t, struct lease *l);
void lease_time_end(struct lease_table *t, struct lease *l);
/* It may have to be checkpointed from now on. */
void lease_queue_add(struct lease_table *t, struct lease *l, uint64_t now_ns);
