/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who watches a key? Watchers of the same interest (interval, filters, prev_kv) are one set, so
 * that an event finds them together, and what they get is made once.
 *
 *   one key   a hash of keys
 *   ranges    an AVL tree by (begin, end, flags); each node knows the greatest end below it
 *
 * Invariants: (1) a set in the index has a watcher, or is in hand (its `touched` is set). (2) An
 * interest is in the index once.
 *
 * Thread: under the hub's lock.
 */
#pragma once

#include "base/list.h"
#include "base/map.h"
#include "storage/interval.h"
#include "storage/mvcc.h"

enum watch_flags { WATCH_NO_PUT = 1, WATCH_NO_DELETE = 2, WATCH_PREVIOUS = 4 };

/* What a watcher wants to see; shared by those who want the same. */
struct watch_interest {
    unsigned refs;
    enum watch_flags flags;
    struct interval interval; /* of the bytes behind; never empty */
    uint8_t bytes[];
};

struct watch_interest *watch_interest_new(const struct interval *interval, enum watch_flags flags);
struct watch_interest *watch_interest_ref(struct watch_interest *i);
struct watch_interest *watch_interest_unref(struct watch_interest *i);
bool watch_interest_wants(const struct watch_interest *i, enum schema_kind kind);

struct watch_set {
    struct watch_interest *interest;
    struct list watchers; /* struct watcher.link */
    struct watch_set *same_key;
    struct watch_set *left, *right;
    const struct watch_set *greatest; /* of the subtree, by end */
    int height;
    /* What a slice has for it. */
    bool touched;
    uint32_t first_match, last_match, n_matches;
};

struct watch_index {
    struct map_bytes points;
    struct watch_set *ranges;
    size_t n_sets;
};

void watch_index_deinit(struct watch_index *x); /* is empty */
/* The set of that interest; made if there is none. */
struct watch_set *watch_index_get(struct watch_index *x, struct watch_interest *interest);
/* Frees the set, which has no watcher and is not in hand. */
void watch_index_remove(struct watch_index *x, struct watch_set *set);
/* Calls visit for every set that wants an event of that kind at that key. */
void watch_index_match(const struct watch_index *x, struct bytes key, enum schema_kind kind,
                       void (*visit)(void *arg, struct watch_set *set), void *arg);
/* All sets there are, n_sets; the caller frees the array. */
struct watch_set **watch_index_list(const struct watch_index *x);
