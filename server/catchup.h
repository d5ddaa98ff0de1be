/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of the applied entries a member of a cluster still keeps in memory, for peers that lag: so
 * many entries, and no more than so many bytes. What is kept is known by marks at some entries, so
 * the bytes are exact only there.
 *
 * Thread: raft.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { CATCHUP_MARKS_MAX = 1024 };

struct catchup {
    struct catchup_mark {
        uint64_t index;
        uint64_t total_bytes; /* of all entries ever added, up to this one */
    } marks[CATCHUP_MARKS_MAX];
    size_t len;
    uint64_t total_bytes;
    uint64_t dropped_bytes;
};

/* Entries that end at index, behind those added before, take that many bytes. */
void catchup_add(struct catchup *c, uint64_t index, uint64_t bytes);
/* The entries up to the result may go if no more than bytes_max may stay; 0: none need to. */
uint64_t catchup_over(const struct catchup *c, uint64_t bytes_max);
/* The entries up to index are gone. */
void catchup_drop(struct catchup *c, uint64_t index);
