/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network between members as the server needs it. api/peer.c is etcd's peer protocol over
 * HTTP, the simulator has its own; the composition root makes one and hands it to server_start().
 *
 * A transport may lose, delay, repeat and reorder messages; it never alters them. What it can tell
 * the raft worker it says through server/peer_door.h.
 *
 * Thread: each function says which. None of them blocks on the network.
 */
#pragma once

#include "raft/types.h"

struct transport;
struct transport_snapshot;
struct transport_fetch;

struct transport_ops {
    /* Raft thread. In this order to each member; what is needed later is copied or referenced.
     * Messages to a member that the table doesn't know are dropped. Never a SNAP. */
    void (*send)(struct transport *t, const struct raft_message *messages, size_t n);
    /* Snapshot worker. Borrowed until its done() was called, which may be before this returns (the
     * member is unknown, or too many are on their way). */
    void (*send_snapshot)(struct transport *t, struct transport_snapshot *snapshot);
    /* Apply thread: the member table has changed; the transport reads it again
     * (server_peer_visit). Also once at the start. */
    void (*members_changed)(struct transport *t);
    /* Any thread. For how long messages have reached that member without a failure; 0: they don't
     * (or it is this member). */
    uint64_t (*active_ms)(struct transport *t, uint64_t member_id);
    /* Any thread, also before server_start() (bootstrap asks the other members). Borrowed until its
     * done() was called, at the latest at its time-out or when the transport stops; that may be
     * before fetch() returns. */
    void (*fetch)(struct transport *t, struct transport_fetch *fetch);
    /* Any thread. True: that member said in its headers that it takes a snapshot as table files. */
    bool (*wants_tables)(struct transport *t, uint64_t member_id);
};

struct transport {
    const struct transport_ops *ops;
};

/* One snapshot on its way to a member: POST /raft/snapshot. */
struct transport_snapshot {
    const struct raft_message *message; /* SNAP, with index, term and configuration */
    /* The body: a bbolt file; or, towards a member that said that it takes them (wants_tables), the
     * database's own files in one directory. */
    const char *file;
    const char *directory;
    /* Any thread. */
    void (*done)(struct transport_snapshot *s, bool ok);
};

enum { TRANSPORT_ANSWER_BYTES_MAX = 1 << 20 }; /* where the caller says nothing */

/* One HTTP request to a member's peer URLs, tried one after the other until one answers. */
struct transport_fetch {
    const char *method; /* GET or POST */
    char *const *urls;  /* scheme://host:port */
    size_t n_urls;
    const char *path; /* of the request, with a leading slash */
    const char *content_type;
    struct bytes body;
    struct bytes authorization; /* empty: no such header */
    uint64_t timeout_ms;        /* for all URLs together */
    uint64_t answer_bytes_max;  /* 0: TRANSPORT_ANSWER_BYTES_MAX */
    void (*done)(struct transport_fetch *f);
    void *arg; /* the caller's */

    /* The answer; whoever made the fetch frees it with buf_deinit(). */
    int status;          /* HTTP; 0: nobody answered in time */
    uint64_t cluster_id; /* X-Etcd-Cluster-ID; 0: none */
    struct buf answer;

    void *private; /* the transport's own */
};

/* Makes the request and waits for its end: for bootstrap, on the composition root's thread.
 * Implemented in transport.c over the ops. */
void transport_fetch_wait(struct transport *t, struct transport_fetch *f);
