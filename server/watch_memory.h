/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many bytes a hub's pieces, batches and blocks hold. The count has a life of its own: the last
 * responses are freed by gRPC's threads, when a connection goes, which may be after the server has
 * stopped and the hub is gone. So the hub has bytes of it as everything else has, and whoever gives
 * the last ones back frees it.
 *
 * Thread: any.
 */
#pragma once

#include <stdatomic.h>

#include "base/mem.h"

struct watch_memory {
    atomic_size_t bytes; /* its own included, which are the hub's */
};

static inline struct watch_memory *watch_memory_new(void)
{
    struct watch_memory *m = mem_new(struct watch_memory);

    atomic_init(&m->bytes, sizeof(*m));
    return m;
}

static inline size_t watch_memory_bytes(const struct watch_memory *m)
{
    return atomic_load_explicit(&m->bytes, memory_order_relaxed) - sizeof(*m);
}

/* The caller has some already, or is the hub. */
static inline void watch_memory_take(struct watch_memory *m, size_t bytes)
{
    atomic_fetch_add_explicit(&m->bytes, bytes, memory_order_relaxed);
}

/* m may be gone then. */
static inline void watch_memory_give(struct watch_memory *m, size_t bytes)
{
    if (atomic_fetch_sub_explicit(&m->bytes, bytes, memory_order_acq_rel) == bytes)
        free(m);
}

/* The hub's part. */
static inline struct watch_memory *watch_memory_free(struct watch_memory *m)
{
    watch_memory_give(m, sizeof(*m));
    return NULL;
}
