/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the snapshot worker share: snapshot.c, the worker; snapshot_send.c, the way
 * out; snapshot_receive.c, the way in.
 *
 * Thread: the worker's, but for the inbox and the atomics.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "base/inbox.h"
#include "base/list.h"
#include "server/snapshot.h"
#include "server/transport.h"

enum snapshot_job_kind { JOB_SEND, JOB_SENT, JOB_TAKE, JOB_REMOVE };

struct snapshot_job {
    struct inbox_item item;
    struct snapshot_job *next; /* of those that wait */
    enum snapshot_job_kind kind;
    struct raft_message *message; /* SEND */
    struct delivery_out *out;     /* SENT */
    struct received *received;    /* TAKE */
    char *path;                   /* TAKE: as it came; REMOVE */
};

/* A snapshot that the transport has. */
struct delivery_out {
    struct transport_snapshot snapshot;
    struct snapshots *worker;
    struct snapshot_job job; /* its end */
    struct list link;
    struct raft_message *message;
    char *path;
    bool ok;
};

struct snapshots {
    struct snapshots_options o;
    struct node *node;
    struct inbox inbox;
    pthread_t thread;
    bool started;
    atomic_bool stopping; /* what is being written or read is given up */
    _Atomic unsigned taken;
    _Atomic unsigned queued;
    _Atomic uint64_t number; /* of the last file */

    struct snapshot_job *waiting; /* SEND, oldest first */
    struct snapshot_job **waiting_last;
    struct list sending; /* deliveries */
    unsigned n_sending;
};

/* A name for a file or a store that nobody else has. */
char *snapshot_path_new(struct snapshots *w, const char *what, uint64_t index);
/* Removes a file or a store; what can't be removed now the next start removes. */
void snapshot_path_remove(const char *path);
struct snapshot_job *snapshot_job_new(enum snapshot_job_kind kind);
struct snapshot_job *snapshot_job_free(struct snapshot_job *job);

/* ---- snapshot_send.c ---- */

void snapshot_send_queue(struct snapshots *w, struct snapshot_job *job); /* takes it */
void snapshot_send_some(struct snapshots *w);
void snapshot_send_end(struct snapshots *w, struct delivery_out *out);
void snapshot_send_deinit(struct snapshots *w);

/* ---- snapshot_receive.c ---- */

void snapshot_receive(struct snapshots *w, struct snapshot_job *job); /* takes it */
