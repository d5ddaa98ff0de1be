/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot that comes in: POST /raft/snapshot, length, raftpb.Message, and then the database, as
 * one file or (from a Cairn member) as the files of a directory. It may be many gigabytes long, so
 * it has a thread of its own, which gets the connection from the loop and reads it to the end.
 *
 *   head ok ──> envelope ──> file or directory, synced ──> the server ──> raft has it ──> 204
 *                  └── 400, 500           └── 500              └── 500, also for a stop
 *
 * The answer waits for raft: a leader that hears "done" sends the entries behind the snapshot, and
 * may cut its log.
 *
 * I1. The server sees a snapshot only when all of it is durable. What was begun and not finished is
 * removed here, or, after a crash, at the next start.
 * I2. The loop joins the thread and frees; until then the transfer is in peer->receives.
 *
 * Thread: its own; peer_receive_begin() and the end the loop.
 */
#include "api/peer_serve.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "api/peer_tables.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"
#include "storage/file.h"

enum { READ_BYTES = 256 << 10, LINGER_MS = 2000, LINGER_BYTES_MAX = 64 << 20 };

struct receive {
    struct peer_task task;
    struct peer *peer;
    struct list link;
    pthread_t thread;
    uint64_t started_ms;
    uint64_t from;                /* as the head says */
    struct peer_metrics *metrics; /* NULL: of nobody we know */
    bool is_tables;
    bool expect_continue;
    bool ok;

    struct peer_io io;
    struct peer_wait wait;
    struct http_body body;
    struct buf raw; /* from the socket, before chunks are taken off */
    size_t raw_used;
    struct buf part; /* of the body */
    size_t part_used;
    struct peer_stream_reader envelope;
    const struct peer_message *message;
    uint64_t database_bytes;
    char *path;
};

/* The answer's text. */
struct verdict {
    int status;
    char text[256];
};

static void verdict_set(struct verdict *v, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void verdict_set(struct verdict *v, int status, const char *format, ...)
{
    va_list args;

    v->status = status;
    va_start(args, format);
    vsnprintf(v->text, sizeof(v->text), format, args);
    va_end(args);
}

/* ---- the body, without its chunks ---- */

enum { BODY_PART = 1, BODY_END = 0 };

static int raw_fill(struct receive *r)
{
    buf_clear(&r->raw);
    r->raw_used = 0;
    buf_reserve(&r->raw, READ_BYTES);
    ssize_t n = peer_io_read_some(&r->io, &r->wait, r->raw.data, READ_BYTES);
    if (n > 0)
        r->raw.len = (size_t)n;
    return n > 0 ? 0 : n == 0 ? -ENODATA : (int)n;
}

/* BODY_PART: there are bytes in part; BODY_END; or negative: -ENODATA, the connection ended. */
static int body_fill(struct receive *r)
{
    struct http_error error;
    int outcome;

    buf_clear(&r->part);
    r->part_used = 0;
    for (;;) {
        struct bytes in = bytes_of(r->raw.data + r->raw_used, r->raw.len - r->raw_used);
        size_t before = in.len;
        outcome = http_body_read(&r->body, &in, &r->part, &error);
        r->raw_used += before - in.len;
        if (r->part.len > 0)
            return BODY_PART;
        if (outcome == 0)
            return BODY_END;
        int e = outcome == HTTP_WRONG ? -EBADMSG : raw_fill(r);
        if (e < 0)
            return e;
    }
}

static struct bytes part_rest(const struct receive *r)
{
    return bytes_of(r->part.data + r->part_used, r->part.len - r->part_used);
}

static const char *body_error(int error)
{
    switch (error) {
    case BODY_END:
    case -ENODATA: return "unexpected EOF";
    case -ETIMEDOUT: return "i/o timeout";
    case -EBADMSG: return "malformed chunked encoding";
    case -ECANCELED: return "stopped";
    }
    return strerror(-error);
}

/* ---- the envelope ---- */

/* False: the verdict is set. */
static bool envelope_read(struct receive *r, struct verdict *v)
{
    int outcome = PEER_STREAM_MORE, fill = BODY_PART;
    bool empty = true;

    while (outcome == PEER_STREAM_MORE) {
        fill = body_fill(r);
        if (fill != BODY_PART)
            break;
        struct bytes in = buf_bytes(&r->part);
        outcome = peer_stream_read(&r->envelope, &in, &r->message);
        r->part_used = r->part.len - in.len;
        empty = false;
    }
    if (fill != BODY_PART)
        verdict_set(v, 400, "failed to decode raft message (%s)\n",
                    empty && fill == BODY_END ? "EOF" : body_error(fill));
    else if (outcome != 0)
        verdict_set(v, 400,
                    "failed to decode raft message (proto: cannot parse invalid "
                    "wire-format data)\n");
    return fill == BODY_PART && outcome == 0;
}

/* What raft would refuse anyway is refused before the database is read. */
static bool envelope_ok(struct receive *r, struct verdict *v)
{
    const struct raft_message *m = &r->message->raft;

    if (m->type != RAFT_MSG_SNAP)
        verdict_set(v, 400, "wrong raft message type\n");
    else if (!m->snapshot || m->snapshot->index == 0)
        verdict_set(v, 400, "failed to decode raft message (no snapshot)\n");
    else if (server_peer_is_removed(r->peer->server, m->from))
        verdict_set(v, 500,
                    "failed to process raft message (cannot process message from removed "
                    "member)\n");
    else if (m->to != r->peer->identity.member_id)
        verdict_set(v, 500,
                    "failed to process raft message (cannot process message to mismatch "
                    "member)\n");
    else
        return true;
    return false;
}

/* ---- the database ---- */

/* 0; negative: the disk, or (BODY's errors) the connection. */
static int file_save(struct receive *r)
{
    int fd = open(r->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), result, fill = BODY_PART;

    if (fd < 0)
        return -errno;
    do {
        result = peer_file_append(fd, part_rest(r), &r->database_bytes);
        if (result == 0)
            fill = body_fill(r);
    } while (result == 0 && fill == BODY_PART);
    if (result == 0 && fill < 0)
        result = fill;
    if (result == 0 && fsync(fd) < 0)
        result = -errno;
    close(fd);
    return result;
}

static int tables_save(struct receive *r)
{
    struct peer_tables_reader reader;
    int result = peer_tables_reader_init(&reader, r->path), fill = BODY_PART;
    bool complete = false;

    while (result >= 0 && fill == BODY_PART) {
        struct bytes in = part_rest(r);
        r->database_bytes += in.len;
        if (in.len > 0) {
            result = peer_tables_read(&reader, &in);
            complete = result == 0;
            if (result == PEER_TABLES_WRONG || in.len > 0)
                result = -EBADMSG;
        }
        if (result >= 0)
            fill = body_fill(r);
    }
    peer_tables_reader_deinit(&reader);
    if (result >= 0 && fill < 0)
        return fill;
    return result < 0 ? result : complete ? 0 : -ENODATA;
}

static int parent_sync(const char *path)
{
    _cleanup_(mem_freep) char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');

    if (!slash)
        return dir_sync(".");
    slash[slash == parent] = '\0';
    return dir_sync(parent);
}

static bool database_save(struct receive *r, struct verdict *v)
{
    uint64_t index = r->message->raft.snapshot->index;

    r->path = server_peer_snapshot_path(r->peer->server, index);
    int error = r->path ? 0 : -ENOENT;
    if (error == 0)
        error = r->is_tables ? tables_save(r) : file_save(r);
    if (error == 0)
        error = parent_sync(r->path);
    if (error == 0)
        return true;
    verdict_set(v, 500, "failed to save KV snapshot (%s)\n", body_error(error));
    log_warn("failed to save incoming database snapshot",
             LOG_ID("local-member-id", r->peer->identity.member_id),
             LOG_ID("remote-snapshot-sender-id", r->message->raft.from),
             LOG_U64("incoming-snapshot-index", index), LOG_STR("error", body_error(error)));
    if (r->path)
        peer_tables_remove(r->path);
    return false;
}

/* ---- handing over ---- */

/* Between the thread and the server, which may be done after the thread has stopped waiting: the
 * last of the two frees it. */
struct handover {
    atomic_uint refs;
    int done_fd; /* an eventfd */
    atomic_bool ok;
};

static void handover_unref(struct handover *h)
{
    if (atomic_fetch_sub(&h->refs, 1) > 1)
        return;
    close(h->done_fd);
    free(h);
}

static void handover_done(void *arg, bool ok)
{
    struct handover *h = arg;
    uint64_t one = 1;

    atomic_store(&h->ok, ok);
    check(write(h->done_fd, &one, sizeof(one)) == sizeof(one));
    handover_unref(h);
}

/* Waits until raft has the snapshot; false: it will not, or we are stopping. */
static bool handover_wait(struct receive *r, struct handover *h)
{
    struct pollfd fds[] = {{.fd = h->done_fd, .events = POLLIN},
                           {.fd = r->wait.stop_fd, .events = POLLIN}};

    check(TEMP_FAILURE_RETRY(poll(fds, 2, -1)) > 0);
    return fds[0].revents && atomic_load(&h->ok);
}

static enum peer_verdict snapshot_give(struct receive *r)
{
    struct handover *h = mem_new(struct handover);

    *h = (struct handover){.refs = 2, .done_fd = eventfd(0, EFD_CLOEXEC)};
    check(h->done_fd >= 0);
    enum peer_verdict verdict =
        server_peer_snapshot_then(r->peer->server, &r->message->raft, r->path, handover_done, h);
    if (verdict != PEER_OK)
        handover_unref(h); /* done() does not come */
    else if (!handover_wait(r, h))
        verdict = PEER_INVALID;
    handover_unref(h);
    return verdict;
}

static void snapshot_hand_over(struct receive *r, struct verdict *v)
{
    const struct raft_message *m = &r->message->raft;

    log_info("received and saved database snapshot",
             LOG_ID("local-member-id", r->peer->identity.member_id),
             LOG_ID("remote-snapshot-sender-id", m->from),
             LOG_U64("incoming-snapshot-index", m->snapshot->index),
             LOG_U64("incoming-snapshot-size-bytes", r->database_bytes),
             LOG_DURATION("download-took", (clock_mono_ms() - r->started_ms) * 1000000));
    enum peer_verdict verdict = snapshot_give(r);
    r->ok = verdict == PEER_OK;
    if (r->ok)
        verdict_set(v, 204, "%s", "");
    else
        verdict_set(v, 500, "failed to process raft message (%s)\n",
                    verdict == PEER_STOPPED ? "raft: stopped" : "it was refused");
}

/* ---- the thread ---- */

static void answer(struct receive *r, const struct verdict *v)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct peer_answer a = peer_answer_error(v->status, v->text);
    uint64_t end_ms = clock_mono_ms() + LINGER_MS;
    size_t dropped = 0;
    ssize_t n = 1;

    if (v->status == 204)
        a = (struct peer_answer){.status = 204};
    a.with_cluster = true;
    a.close = true;
    peer_answer_write(r->peer, &out, &a);
    if (peer_io_write_all(&r->io, &r->wait, out.data, out.len) < 0)
        return;
    r->io.ops->finish(&r->io);
    /* What still comes is read, or the sender would see a reset instead of the answer. */
    r->wait.timeout_ms = LINGER_MS;
    buf_reserve(&r->raw, READ_BYTES);
    while (n > 0 && dropped < LINGER_BYTES_MAX && clock_mono_ms() < end_ms) {
        n = peer_io_read_some(&r->io, &r->wait, r->raw.data, READ_BYTES);
        dropped += n > 0 ? (size_t)n : 0;
    }
}

static void log_begin(const struct receive *r)
{
    log_info("receiving database snapshot", LOG_ID("local-member-id", r->peer->identity.member_id),
             LOG_ID("remote-snapshot-sender-id", r->message->raft.from),
             LOG_U64("incoming-snapshot-index", r->message->raft.snapshot->index),
             LOG_U64("incoming-snapshot-message-size-bytes", r->message->encoded_bytes),
             LOG_STR("form", r->is_tables ? "tables" : "bbolt"));
}

static void *receive_main(void *arg)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct receive *r = arg;
    struct verdict v = {0};

    pthread_setname_np(pthread_self(), "snapshot-in");
    thread_set_background();
    if (r->expect_continue)
        (void)peer_io_write_all(&r->io, &r->wait, go_on, sizeof(go_on) - 1);
    if (envelope_read(r, &v) && envelope_ok(r, &v)) {
        log_begin(r);
        if (database_save(r, &v))
            snapshot_hand_over(r, &v);
    }
    if (!r->ok)
        log_warn("failed to receive a snapshot", LOG_ID("remote-snapshot-sender-id", r->from),
                 LOG_I64("status", v.status), LOG_STR("error", v.text));
    answer(r, &v);
    peer_loop_post(&r->peer->loop, &r->task);
    return NULL;
}

/* ---- the loop ---- */

static void count(const struct receive *r)
{
    if (!r->metrics)
        return;
    metric_gauge_add(&r->metrics->snapshot_receive_inflight, -1);
    metric_add(&r->metrics->received_bytes, r->database_bytes);
    metric_add(r->ok ? &r->metrics->snapshot_received : &r->metrics->snapshot_receive_failures, 1);
    if (r->ok)
        metric_observe(&r->metrics->snapshot_receive_seconds,
                       (double)(clock_mono_ms() - r->started_ms) / 1000);
}

static void receive_free(struct receive *r)
{
    list_remove(&r->link);
    r->peer->n_receives--;
    peer_io_close(&r->io);
    peer_stream_reader_deinit(&r->envelope);
    buf_deinit(&r->raw);
    buf_deinit(&r->part);
    free(r->path);
    free(r);
}

static void receive_ended(struct peer_task *task)
{
    struct receive *r = container_of(task, struct receive, task);
    struct peer *p = r->peer;

    pthread_join(r->thread, NULL);
    count(r);
    receive_free(r);
    peer_stop_go_on(p);
}

static struct receive *receive_new(struct peer_serve *s, const struct peer_sender *sender)
{
    struct peer *p = s->peer;
    struct receive *r = mem_new(struct receive);
    struct peer_link *link = peer_link_find(p, sender->from);
    struct bytes type;

    *r = (struct receive){.task = {.run = receive_ended},
                          .peer = p,
                          .started_ms = clock_mono_ms(),
                          .from = sender->from,
                          .metrics = link ? link->metrics : NULL,
                          .is_tables = http_header_find(s->head.headers, "Content-Type", &type) &&
                                       bytes_equal(type, BYTES_LIT(PEER_TABLES_TYPE)),
                          .expect_continue = s->head.expect_continue,
                          .wait = {.stop_fd = p->stop_fd, .timeout_ms = p->timing.silence},
                          .body = s->body};
    peer_stream_reader_init(&r->envelope,
                            &(struct peer_stream_options){.kind = PEER_STREAM_SNAPSHOT});
    r->io = peer_conn_release(peer_serve_take(s, &r->raw));
    list_push(&p->receives, &r->link);
    p->n_receives++;
    return r;
}

enum peer_step peer_receive_begin(struct peer_serve *s, const struct peer_sender *sender)
{
    struct peer *p = s->peer;

    if (p->n_receives >= PEER_RECEIVES_MAX || p->stopping) {
        struct peer_answer a =
            peer_answer_error(500, "failed to save KV snapshot (too many are being received)\n");
        a.with_cluster = true;
        a.close = true;
        s->keep_alive = false;
        peer_answer_write(p, &s->conn->out, &a);
        return PEER_STEP_ANSWERED;
    }
    struct receive *r = receive_new(s, sender);
    if (pthread_create(&r->thread, NULL, receive_main, r) != 0) {
        receive_free(r);
        return PEER_STEP_TAKEN;
    }
    if (r->metrics)
        metric_gauge_add(&r->metrics->snapshot_receive_inflight, 1);
    return PEER_STEP_TAKEN;
}
