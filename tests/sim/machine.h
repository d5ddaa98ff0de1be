/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A machine: a disk, an address, and the process of a member that is started, stopped, killed and
 * started again on it. What the process does is what server/main.c does, with server_start() and
 * all the threads behind it.
 */
#pragma once

#include "raft/raft.h"
#include "server/config.h"
#include "server/transport.h"
#include "tests/sim/world.h"

enum machine_state {
    MACHINE_DOWN,     /* may be started */
    MACHINE_STARTING, /* in server_start() */
    MACHINE_UP,
    MACHINE_STOPPING,
    MACHINE_RETIRED, /* its member is no more: removed, or its disk is damaged */
};

enum { MACHINE_STORES_MAX = 6 };

/* A database that the process has open. */
struct open_store {
    struct db *db;
    bool current;     /* the member's own, not a snapshot on its way */
    uint64_t applied; /* that the last write says */
    uint64_t flushed; /* of it, durable for sure */
};

struct machine {
    unsigned number;
    char name[8];
    char db_path[32];
    struct process process;
    struct disk *disk;
    struct config config;
    bool has_config;
    enum machine_state state;
    unsigned lives;
    bool joins;               /* its first start asks the others, and may be refused */
    bool damaged;             /* a bit was flipped: it may refuse to start */
    bool killed;              /* by us: its death needs no other reason */
    enum disk_end end;        /* then: how */
    uint64_t stalls_until_ns; /* writes of its database */
    bool wants_stop;
    uint64_t errors_at_start; /* of the disk */
    uint64_t last_wall_ns;    /* when the last life ended */
    unsigned inside;          /* calls that run in it */

    /* Of this life; NULL if not there. */
    struct server *server; /* open to other members */
    bool serves;           /* open to clients, too */
    struct raft *raft;
    bool installing; /* the log has the mark of a snapshot whose database has no place yet */
    struct open_store stores[MACHINE_STORES_MAX];
    uint64_t closed_flushed; /* of the member's own, while it is exchanged */
    uint64_t member_id;      /* known since the first start */

    struct transport transport;
};

struct machine *machine_new(unsigned number);
void machines_free(void);
struct machine *machine_current(void); /* whose fiber runs; NULL: outside */
static inline bool machine_serves(const struct machine *m)
{
    return m && m->state == MACHINE_UP && m->serves;
}

/* initial: the text of --initial-cluster; joins: the cluster exists. */
void machine_configure(struct machine *m, const char *initial, bool joins);
void machine_start(struct machine *m);
/* Kills the process; it may be started again after it. */
void machine_crash(struct machine *m, enum disk_end end);
/* An orderly stop, in a while. */
void machine_stop(struct machine *m);
/* A new, empty machine at the old address. */
void machine_wipe(struct machine *m);
/* Runs run(arg) on a thread of the process, which must be alive; it never waits for anything but
 * locks. An orderly stop waits for its end. */
void machine_call(struct machine *m, void (*run)(void *arg), void *arg);

/* Stores (called from the taps). */
struct open_store *machine_store(struct machine *m, struct db *db);
uint64_t machine_flushed(const struct machine *m); /* what its database holds for sure */
struct open_store *machine_store_opened(struct machine *m, struct db *db, const char *path);
void machine_store_closed(struct machine *m, struct db *db);
