/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot worker (see snapshot.h): its inbox, its thread, its directory.
 *
 *     in-INDEX-N         a file or directory that is being received; removed at a start
 *     in-INDEX-N.db      the database being made of it; removed at a start
 *     out-INDEX-N        a file or directory that is being sent; removed at a start
 *     TERM-INDEX         a database that raft has accepted (16 hex digits each); after it was
 *                        installed, the one that it replaced
 *
 * Invariants:
 *   (I1) TERM-INDEX is there before the log's mark that names it, and stays until the database that
 *        it was is in place. So a mark above the applied index always finds it.
 *   (I2) the worker removes; the raft thread and the apply turn only rename.
 *
 * Thread: the worker's.
 */
#include "server/snapshot.h"

#include <inttypes.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/message.h"
#include "server/snapshot_private.h"
#include "storage/file.h"

static char *accepted_path(const char *dir, uint64_t index, uint64_t term)
{
    return mem_printf("%s/%016" PRIx64 "-%016" PRIx64, dir, term, index);
}

char *snapshot_path_new(struct snapshots *w, const char *what, uint64_t index)
{
    return mem_printf("%s/%s-%016" PRIx64 "-%" PRIu64, w->o.dir, what, index,
                      atomic_fetch_add(&w->number, 1) + 1);
}

void snapshot_path_remove(const char *path)
{
    int r = file_remove(path);

    if (r == -EISDIR || r == -ENOENT || r == -EPERM) /* a store, which may have no file here */
        r = db_remove(path);
    if (r < 0)
        log_warn("could not remove a snapshot", LOG_STR("path", path), LOG_ERRNO("error", r));
}

/* ---- jobs ---- */

struct snapshot_job *snapshot_job_new(enum snapshot_job_kind kind)
{
    struct snapshot_job *job = mem_new(struct snapshot_job);

    job->kind = kind;
    return job;
}

struct snapshot_job *snapshot_job_free(struct snapshot_job *job)
{
    message_free(job->message);
    free(job->path);
    free(job);
    return NULL;
}

static void received_free(struct received *r, bool ok)
{
    if (r->done)
        r->done(r->arg, ok);
    message_free(r->message);
    free(r->path);
    free(r);
}

static void run(struct snapshots *w, struct snapshot_job *job)
{
    switch (job->kind) {
    case JOB_SEND: snapshot_send_queue(w, job); return;
    case JOB_SENT: snapshot_send_end(w, job->out); return;
    case JOB_TAKE: snapshot_receive(w, job); return;
    case JOB_REMOVE:
        snapshot_path_remove(job->path);
        snapshot_job_free(job);
        return;
    }
}

void snapshots_turn(struct snapshots *w)
{
    struct inbox_item *item = inbox_drain(&w->inbox, NULL), *next;

    for (; item; item = next) {
        next = item->next;
        run(w, container_of(item, struct snapshot_job, item));
    }
    snapshot_send_some(w);
}

/* ---- life ---- */

static int remove_name(void *arg, const char *name)
{
    char *path = mem_printf("%s/%s", (const char *)arg, name);

    snapshot_path_remove(path);
    free(path);
    return 0;
}

int snapshots_new(struct snapshots **ret, const struct snapshots_options *options)
{
    int r = dir_make(options->dir);
    struct snapshots *w;

    if (r == 0)
        r = dir_list(options->dir, remove_name, (void *)(uintptr_t)options->dir);
    if (r < 0)
        return err_origin(r);
    w = mem_new(struct snapshots);
    w->o = *options;
    w->waiting_last = &w->waiting;
    list_init(&w->sending);
    inbox_init(&w->inbox, SIZE_MAX); /* bounded by taken and queued */
    *ret = w;
    return 0;
}

static void drop(struct snapshots *w, struct snapshot_job *job)
{
    if (job->kind == JOB_SENT) {
        snapshot_send_end(w, job->out);
        return;
    }
    if (job->kind == JOB_TAKE)
        received_free(job->received, false);
    snapshot_job_free(job);
}

struct snapshots *snapshots_free(struct snapshots *w)
{
    struct inbox_item *item, *next;

    if (!w)
        return NULL;
    check(!w->started);
    for (item = inbox_drain(&w->inbox, NULL); item; item = next) {
        next = item->next;
        drop(w, container_of(item, struct snapshot_job, item));
    }
    snapshot_send_deinit(w);
    inbox_deinit(&w->inbox);
    free(w);
    return NULL;
}

void snapshots_set_node(struct snapshots *w, struct node *node)
{
    w->node = node;
}

static void *thread_run(void *arg)
{
    struct snapshots *w = arg;

    pthread_setname_np(pthread_self(), "snapshot");
    while (!atomic_load(&w->stopping)) {
        snapshots_turn(w);
        inbox_wait(&w->inbox, UINT64_MAX);
    }
    return NULL;
}

int snapshots_start(struct snapshots *w)
{
    int r = pthread_create(&w->thread, NULL, thread_run, w);

    w->started = r == 0;
    return r == 0 ? 0 : err_origin(-r);
}

void snapshots_stop(struct snapshots *w)
{
    if (!w)
        return;
    atomic_store(&w->stopping, true);
    inbox_wake(&w->inbox);
    if (w->started)
        pthread_join(w->thread, NULL);
    w->started = false;
}

int snapshots_recover(struct store *store, const char *dir, uint64_t index, uint64_t term)
{
    char *path = accepted_path(dir, index, term);
    uint64_t applied, applied_term;
    int r = store_exchange(store, path);

    if (r == 0)
        r = store_applied(store->db, NULL, &applied, &applied_term);
    if (r == -ENOENT || (r == 0 && applied != index)) {
        log_error("the raft log continues a snapshot that is not here; replace this member",
                  LOG_U64("snapshot-index", index), LOG_STR("path", path));
        r = 1;
    } else if (r == 0) {
        log_info("installed the snapshot that had been received before the last stop",
                 LOG_U64("snapshot-index", index));
    }
    free(path);
    return r;
}

/* ---- in ---- */

char *snapshots_path(struct snapshots *w, uint64_t index)
{
    return snapshot_path_new(w, "in", index);
}

bool snapshots_preparing(const struct snapshots *w)
{
    return atomic_load_explicit(&w->taken, memory_order_acquire) > 0;
}

void snapshots_refuse(struct snapshots *w, const char *path)
{
    struct snapshot_job *job = snapshot_job_new(JOB_REMOVE);

    job->path = mem_strdup(path);
    inbox_push_always(&w->inbox, &job->item);
}

bool snapshots_take(struct snapshots *w, const struct raft_message *message, const char *path,
                    void (*done)(void *arg, bool ok), void *arg)
{
    struct snapshot_job *job;

    if (atomic_fetch_add(&w->taken, 1) >= SNAPSHOTS_TAKEN_MAX || atomic_load(&w->stopping)) {
        atomic_fetch_sub(&w->taken, 1);
        snapshots_refuse(w, path);
        return false;
    }
    job = snapshot_job_new(JOB_TAKE);
    job->path = mem_strdup(path);
    job->received = mem_new(struct received);
    job->received->message = message_copy(message);
    job->received->done = done;
    job->received->arg = arg;
    inbox_push_always(&w->inbox, &job->item);
    return true;
}

/* (I1) */
int snapshots_accept(struct snapshots *w, struct received *r)
{
    const struct raft_snapshot *s = r->message->snapshot;
    char *path = accepted_path(w->o.dir, s->index, s->term);
    int e = db_exchange(r->path, path);

    if (e < 0) {
        free(path);
        return err_trace(e);
    }
    free(r->path);
    r->path = path;
    r->accepted = true;
    atomic_fetch_sub(&w->taken, 1);
    if (r->done)
        r->done(r->arg, true);
    r->done = NULL;
    return 0;
}

void snapshots_discard(struct snapshots *w, struct received *r, bool ok)
{
    if (r->path)
        snapshots_refuse(w, r->path); /* (I2) */
    if (!r->accepted)
        atomic_fetch_sub(&w->taken, 1);
    received_free(r, ok);
}

/* ---- out ---- */

bool snapshots_send(struct snapshots *w, const struct raft_message *message)
{
    struct snapshot_job *job;

    if (!w->o.transport || atomic_load(&w->stopping))
        return false;
    if (atomic_fetch_add(&w->queued, 1) >= SNAPSHOTS_QUEUED_MAX) {
        atomic_fetch_sub(&w->queued, 1);
        return false;
    }
    job = snapshot_job_new(JOB_SEND);
    job->message = message_copy(message);
    inbox_push_always(&w->inbox, &job->item);
    return true;
}
