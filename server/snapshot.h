/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot worker: the whole state on its way to a member that lags, and on its way in.
 *
 *   out   raft's SNAP -> a frozen view, its own index, term and configuration -> a bbolt file (or
 *         the tables, towards a member that takes them) -> the transport -> raft hears the result
 *   in    a file or tables -> a database of its own, checked -> raft is given the message -> the
 *         ready says: install -> the database gets the name TERM-INDEX, the log its mark -> the
 *         apply turn puts it in the place of the current one -> the old one is removed
 *
 * All that may go wrong with a received snapshot has gone wrong before raft hears of it: what it
 * accepts only has to be renamed. A crash at any point: without a mark in the log the next start
 * removes what was received; with one above the database's applied index it installs it.
 *
 * Thread: its own, for the turns; the other functions as they say.
 */
#pragma once

#include "raft/types.h"
#include "server/state.h"
#include "server/store.h"

struct node;
struct snapshots;
struct transport;

enum {
    SNAPSHOTS_SENDING_MAX = 2, /* at a time */
    SNAPSHOTS_QUEUED_MAX = 16, /* behind those */
    SNAPSHOTS_TAKEN_MAX = 2,   /* received and not yet raft's or removed */
};

struct snapshots_options {
    struct store *store;
    struct server_state *state;
    struct transport *transport; /* NULL: none */
    const char *dir;             /* for all files of this worker; borrowed */
};

/* Outcomes as store_open(). Makes the directory and removes what is in it. */
int snapshots_new(struct snapshots **ret, const struct snapshots_options *options);
struct snapshots *snapshots_free(struct snapshots *w); /* accepts NULL; after node and apply */
void snapshots_set_node(struct snapshots *w, struct node *node); /* before the first turn */
int snapshots_start(struct snapshots *w);
void snapshots_stop(struct snapshots *w); /* gives up what is under way; accepts NULL */
/* All that there is to do. What is being made meanwhile ends early after snapshots_stop(). */
void snapshots_turn(struct snapshots *w);

/* At the start: the log continues a snapshot that the database does not hold yet. Outcome 1: it is
 * not there; the reason is logged. */
int snapshots_recover(struct store *store, const char *dir, uint64_t index, uint64_t term);

/* ---- in ---- */

/* A snapshot received. */
struct received {
    struct received *next; /* node.c's */
    struct raft_message *message;
    char *path;                       /* of the closed database; NULL: outdated, none was made */
    void (*done)(void *arg, bool ok); /* NULL: nobody waits, or was told */
    void *arg;
    bool accepted;
};

/* Any thread. See peer_door.h. */
char *snapshots_path(struct snapshots *w, uint64_t index);
/* Any thread: the snapshot at path is the worker's. False: full, or stopping; it is removed. */
bool snapshots_take(struct snapshots *w, const struct raft_message *message, const char *path,
                    void (*done)(void *arg, bool ok), void *arg);
/* Any thread: removes what was received. */
void snapshots_refuse(struct snapshots *w, const char *path);
/* Any thread: one is on its way to raft. */
bool snapshots_preparing(const struct snapshots *w);
/* Raft thread: raft has accepted it; it gets its name, durably. Negative: the disk failed. */
int snapshots_accept(struct snapshots *w, struct received *r);
/* Any thread: raft does not need it, or it has been installed. Takes it. */
void snapshots_discard(struct snapshots *w, struct received *r, bool ok);

/* ---- out ---- */

/* Raft thread: sends the state to message->to. The result comes through node_snapshot_sent().
 * False: too many wait. */
bool snapshots_send(struct snapshots *w, const struct raft_message *message);
