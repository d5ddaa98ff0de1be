/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state on its way to a member that lags (see snapshot.h).
 *
 * raft's message says from where on at least; what is sent is the state at a view of the database
 * taken now, and the message is made anew of what that view itself says: index, term, members. So
 * the parts can't contradict each other, however much is applied meanwhile.
 *
 * Thread: the worker's; delivery_done() any.
 */
#include <errno.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/message.h"
#include "server/node.h"
#include "server/server.h"
#include "server/server_metrics.h"
#include "server/snapshot_private.h"
#include "storage/snapshot_db.h"

/* ---- what is sent ---- */

/* Reads what a state says of itself into the message to send. */
static int describe(struct delivery_out *out, const struct raft_message *wanted, struct db *db,
                    const struct db_view *view)
{
    struct raft_snapshot snapshot = {0};
    struct raft_message message = *wanted;
    int r = store_applied(db, view, &snapshot.index, &snapshot.term);

    if (r == 0)
        r = store_conf(db, view, &snapshot.conf);
    if (r < 0)
        return r;
    check(snapshot.index >= wanted->snapshot->index); /* raft hears of what is applied afterwards */
    message.snapshot = &snapshot;
    out->message = message_copy(&message);
    raft_conf_state_clear(&snapshot.conf);
    return 0;
}

/* The database's own tables, by hard links. */
static int make_tables(struct snapshots *w, struct delivery_out *out,
                       const struct raft_message *wanted)
{
    struct db_options options = {
        .path = out->path, .prefix_len = schema_prefix_len, .read_only = true};
    struct db *copy = NULL;
    char *error = NULL;
    int r;

    store_hold_job(w->o.store);
    r = db_checkpoint(w->o.store->db, out->path);
    store_release_job(w->o.store);
    if (r == 0)
        r = db_open(&copy, &options, &error);
    if (error)
        log_error("a copy of the database can't be read", LOG_STR("error", error));
    free(error);
    if (r > 0)
        r = err_fold(r);
    if (r == 0)
        r = describe(out, wanted, copy, NULL);
    db_close(copy);
    return r;
}

static int export(struct snapshots *w, struct delivery_out *out, const struct db_view *view)
{
    struct snapshot_export_options options = {.db = w->o.store->db,
                                              .view = view,
                                              .path = out->path,
                                              .storage_version = SERVER_STORAGE_VERSION,
                                              .conf = &out->message->snapshot->conf,
                                              .cancel = &w->stopping};
    struct snapshot_facts facts;
    char *error = NULL;
    int r = snapshot_export(&options, &facts, &error);

    if (error)
        log_error("can't write a snapshot", LOG_STR("error", error));
    free(error);
    return r > 0 ? err_fold(r) : r;
}

static int make_file(struct snapshots *w, struct delivery_out *out,
                     const struct raft_message *wanted)
{
    struct db_view *view;
    int r;

    store_hold_job(w->o.store);
    view = db_view_new(w->o.store->db);
    r = describe(out, wanted, w->o.store->db, view);
    if (r == 0)
        r = export(w, out, view);
    db_view_free(w->o.store->db, view);
    store_release_job(w->o.store);
    return r;
}

/* ---- its way ---- */

static void delivery_done(struct transport_snapshot *s, bool ok)
{
    struct delivery_out *out = container_of(s, struct delivery_out, snapshot);

    out->ok = ok;
    inbox_push_always(&out->worker->inbox, &out->job.item);
}

static void delivery_free(struct delivery_out *out)
{
    list_remove(&out->link);
    if (out->path)
        snapshot_path_remove(out->path);
    message_free(out->message);
    free(out->path);
    free(out);
}

static int make(struct snapshots *w, struct delivery_out *out, const struct raft_message *wanted)
{
    struct transport *t = w->o.transport;
    bool tables = t->ops->wants_tables && t->ops->wants_tables(t, wanted->to);
    uint64_t start = clock_mono_ns();
    int r = tables ? make_tables(w, out, wanted) : make_file(w, out, wanted);

    if (r < 0)
        return r;
    out->snapshot = (struct transport_snapshot){.message = out->message,
                                                .file = tables ? NULL : out->path,
                                                .directory = tables ? out->path : NULL,
                                                .done = delivery_done};
    log_info("made a snapshot for a member", LOG_ID("to", wanted->to),
             LOG_U64("snapshot-index", out->message->snapshot->index), LOG_BOOL("tables", tables),
             LOG_DURATION("took", clock_mono_ns() - start));
    return 0;
}

static void start(struct snapshots *w, struct snapshot_job *job)
{
    struct delivery_out *out = mem_new(struct delivery_out);
    struct transport *t = w->o.transport;
    int r;

    list_init(&out->link);
    out->worker = w;
    out->job = (struct snapshot_job){.kind = JOB_SENT, .out = out};
    out->path = snapshot_path_new(w, "out", job->message->snapshot->index);
    r = make(w, out, job->message);
    if (r == 0) {
        list_push(&w->sending, &out->link);
        w->n_sending++;
        t->ops->send_snapshot(t, &out->snapshot);
        return;
    }
    if (r != -ECANCELED)
        log_error("failed to make a snapshot for a member", LOG_ID("to", job->message->to),
                  LOG_ERRNO("error", r));
    node_snapshot_sent(w->node, job->message->to, false);
    delivery_free(out);
}

void snapshot_send_queue(struct snapshots *w, struct snapshot_job *job)
{
    job->next = NULL;
    *w->waiting_last = job;
    w->waiting_last = &job->next;
}

static struct snapshot_job *pop(struct snapshots *w)
{
    struct snapshot_job *job = w->waiting;

    if (!job)
        return NULL;
    w->waiting = job->next;
    if (!w->waiting)
        w->waiting_last = &w->waiting;
    atomic_fetch_sub(&w->queued, 1);
    return job;
}

void snapshot_send_some(struct snapshots *w)
{
    struct snapshot_job *job;

    while (w->n_sending < SNAPSHOTS_SENDING_MAX && (job = pop(w))) {
        start(w, job);
        snapshot_job_free(job);
    }
}

void snapshot_send_end(struct snapshots *w, struct delivery_out *out)
{
    uint64_t to = out->message->to;

    w->n_sending--;
    if (!atomic_load(&w->stopping))
        node_snapshot_sent(w->node, to, out->ok);
    delivery_free(out);
}

void snapshot_send_deinit(struct snapshots *w)
{
    struct snapshot_job *job;
    struct list *link;

    while ((job = pop(w)))
        snapshot_job_free(job);
    while ((link = list_pop(&w->sending)))
        delivery_free(container_of(link, struct delivery_out, link));
}
