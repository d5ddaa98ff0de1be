/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A received snapshot becomes a database (see snapshot.h). Everything is looked at before raft
 * hears of it, because raft, once it has accepted a snapshot, can't go back: that it can be read to
 * its end and opened, that it holds the state at the message's index and term, and that its members
 * are the message's configuration.
 *
 * What is damaged or contradicts itself is dropped with a line in the log, and raft is told
 * nothing: the leader sends another one. What this version has no place for ends the process, since
 * no other one would be better.
 *
 * Thread: the worker's.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "server/node.h"
#include "server/snapshot_private.h"
#include "storage/file.h"
#include "storage/snapshot_db.h"

enum { E_REFUSED = 1 }; /* logged */

static int refuse(const struct raft_message *m, const char *why)
{
    log_error("refused a snapshot", LOG_ID("from", m->from),
              LOG_U64("snapshot-index", m->snapshot->index), LOG_STR("error", why));
    return E_REFUSED;
}

/* ---- a bbolt file ---- */

static int import_into(struct snapshots *w, struct db *db, const struct snapshot_job *job)
{
    char *sort_path = mem_printf("%s.sort", job->path), *error = NULL;
    struct snapshot_import_options options = {
        .db = db, .path = job->path, .sort_path = sort_path, .cancel = &w->stopping};
    struct snapshot_facts facts;
    int r = snapshot_import(&options, &facts, &error);

    if (r == SNAPSHOT_E_UNSUPPORTED) {
        (void)refuse(job->received->message, error);
        server_fatal("a snapshot holds what this version has no place for", -EOPNOTSUPP);
    }
    if (r > 0)
        r = refuse(job->received->message, error);
    free(sort_path);
    free(error);
    return r;
}

static int import(struct snapshots *w, const struct snapshot_job *job, const char *path)
{
    struct db_options options = {.path = path, .prefix_len = schema_prefix_len};
    struct db *db = NULL;
    char *error = NULL;
    int r = db_open(&db, &options, &error);

    if (r != 0)
        r = refuse(job->received->message, error ? error : "can't make a database of it");
    else
        r = import_into(w, db, job);
    free(error);
    db_close(db);
    return r;
}

/* ---- what it says ---- */

static bool ids_equal(const struct raft_ids *a, const struct raft_ids *b)
{
    return a->len == b->len &&
           (a->len == 0 || memcmp(a->ids, b->ids, a->len * sizeof(*a->ids)) == 0);
}

static int compare(const struct raft_message *m, struct db *db)
{
    const struct raft_snapshot *s = m->snapshot;
    struct raft_conf_state conf;
    uint64_t index, term;
    bool same;
    int r = store_applied(db, NULL, &index, &term);

    if (r == 0 && (index != s->index || term != s->term))
        return refuse(m, "it holds the state at another index than its message says");
    if (r == 0)
        r = store_conf(db, NULL, &conf);
    if (r < 0)
        return r;
    same = ids_equal(&conf.voters, &s->conf.voters) && ids_equal(&conf.learners, &s->conf.learners);
    raft_conf_state_clear(&conf);
    return same ? 0 : refuse(m, "its members are not those of its message");
}

/* Opens it as a member would, with all that is built on it. */
static int examine(struct snapshots *w, const struct raft_message *m, const char *path)
{
    struct store store = {0};
    struct store_options options = w->o.store->options;
    int r;

    options.path = path;
    r = store_open(&store, &options);
    if (r == 0)
        r = compare(m, store.db);
    store_close(&store);
    return r;
}

/* ---- a job ---- */

static int found_name(void *arg, const char *name)
{
    return 1;
}

static int make(struct snapshots *w, struct snapshot_job *job)
{
    struct received *received = job->received;
    int r = 0;

    if (dir_list(job->path, found_name, NULL) == 1) { /* tables: that is a database already */
        received->path = job->path;
        job->path = NULL;
    } else {
        received->path = mem_printf("%s.db", job->path);
        r = db_remove(received->path);
        if (r == 0)
            r = import(w, job, received->path);
    }
    return r == 0 ? examine(w, received->message, received->path) : r;
}

static bool is_outdated(struct snapshots *w, const struct raft_message *m)
{
    return m->snapshot->index <= atomic_load_explicit(&w->o.state->committed, memory_order_acquire);
}

void snapshot_receive(struct snapshots *w, struct snapshot_job *job)
{
    struct received *received = job->received;
    const struct raft_message *m = received->message;
    uint64_t start = clock_mono_ns();
    int r = 0;

    if (!is_outdated(w, m))
        r = make(w, job);
    if (r == 0) {
        log_info("received and prepared database snapshot", LOG_ID("from", m->from),
                 LOG_U64("snapshot-index", m->snapshot->index),
                 LOG_DURATION("took", clock_mono_ns() - start));
        node_snapshot_received(w->node, received);
    } else {
        if (r < 0 && r != -ECANCELED)
            log_error("could not prepare a snapshot", LOG_ERRNO("error", r));
        node_snapshot_refused(w->node);
        snapshots_discard(w, received, false);
    }
    if (job->path)
        snapshot_path_remove(job->path);
    snapshot_job_free(job);
}
