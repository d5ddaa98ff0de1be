/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of raft's messages that outlive whatever they came from: in one piece of memory, with
 * references to the payloads.
 *
 * Thread: any.
 */
#pragma once

#include "raft/types.h"

struct raft_message *message_copy(const struct raft_message *m);
struct raft_message *message_free(struct raft_message *m); /* accepts NULL */
static inline void message_freep(struct raft_message **m)
{
    *m = message_free(*m);
}
/* What it holds on to, for bounds. */
uint64_t message_bytes(const struct raft_message *m);
