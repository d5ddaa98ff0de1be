/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A snapshot on its way to another member: POST /raft/snapshot with the message and behind it the
 * database, as a bbolt file, or as the files of a directory if the member takes those. The loop
 * makes the connection, a thread of its own writes.
 *
 *   send_snapshot ──> dial ──> thread: head, message, database, answer ──> joined, done()
 *
 * I1. done() comes once, from the loop, or from within send_snapshot() if it can't begin.
 * I2. The length is known before: the body has a Content-Length, which etcd takes as well as
 * chunks.
 * I3. An answer that comes before the end ends it: it can only be a refusal.
 *
 * Thread: its own; peer_send_snapshot() any, the rest the loop.
 */
#include "api/peer_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/peer_tables.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/thread.h"

enum { PIECE_BYTES = 256 << 10, STALL_MS = 30000, REFUSAL_MS = 1000 };

enum { SEND_REFUSED = 1 }; /* an answer came early, or is none of success */

struct send {
    struct peer_task task;
    struct peer *peer;
    struct list link;
    struct transport_snapshot *snapshot;
    uint64_t to;
    char *url; /* the text of the one that was picked */
    struct url_list urls;
    struct peer_dial dial;
    bool started;
    pthread_t thread;
    uint64_t started_ms;

    struct peer_io io;
    struct peer_wait wait;
    struct buf head; /* of the request, and the message */
    int file_fd;
    uint64_t file_bytes;
    struct peer_tables tables;
    int result; /* 0, SEND_REFUSED or negative */
    int status; /* 0: no answer */
    bool removed;
};

static bool is_tables(const struct send *s)
{
    return s->snapshot->directory != NULL;
}

static uint64_t database_bytes(const struct send *s)
{
    return is_tables(s) ? s->tables.body_bytes : s->file_bytes;
}

/* ---- the body; the thread ---- */

static int file_send(struct send *s)
{
    off_t offset = 0;

    while ((uint64_t)offset < s->file_bytes) {
        uint64_t rest = s->file_bytes - (uint64_t)offset;
        size_t len = rest < PIECE_BYTES ? (size_t)rest : PIECE_BYTES;
        if (peer_io_readable(&s->io))
            return SEND_REFUSED;
        int r = peer_io_write_file(&s->io, &s->wait, s->file_fd, &offset, len);
        if (r < 0)
            return r;
    }
    return 0;
}

static int bytes_send(struct send *s, int fd, uint64_t left, uint32_t *crc)
{
    _cleanup_(mem_freep) uint8_t *piece = mem_alloc_raw(PIECE_BYTES);

    while (left > 0) {
        size_t len = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        ssize_t n = TEMP_FAILURE_RETRY(read(fd, piece, len));
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        if (peer_io_readable(&s->io))
            return SEND_REFUSED;
        *crc = crc32c(*crc, piece, (size_t)n);
        int r = peer_io_write_all(&s->io, &s->wait, piece, (size_t)n);
        if (r < 0)
            return r;
        left -= (uint64_t)n;
    }
    return 0;
}

static int table_send(struct send *s, const struct peer_table_file *file)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", s->snapshot->directory, file->name);
    _cleanup_(buf_deinit) struct buf around = BUF_NULL;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint32_t crc = 0;

    if (fd < 0)
        return -errno;
    peer_tables_head(&around, file);
    int r = peer_io_write_all(&s->io, &s->wait, around.data, around.len);
    if (r == 0)
        r = bytes_send(s, fd, file->bytes, &crc);
    close(fd);
    if (r != 0)
        return r;
    buf_clear(&around);
    buf_append_u32_be(&around, crc);
    return peer_io_write_all(&s->io, &s->wait, around.data, around.len);
}

static int tables_send(struct send *s)
{
    static const uint8_t end[2] = {0, 0};
    int r = 0;

    for (size_t i = 0; i < s->tables.len && r == 0; i++)
        r = table_send(s, &s->tables.files[i]);
    return r == 0 ? peer_io_write_all(&s->io, &s->wait, end, sizeof(end)) : r;
}

/* ---- the answer; the thread ---- */

static int answer_read(struct send *s, uint64_t timeout_ms)
{
    _cleanup_(peer_reply_deinit) struct peer_reply reply;
    _cleanup_(buf_deinit) struct buf text = BUF_NULL;
    uint8_t data[4096];
    int r = PEER_REPLY_MORE;

    peer_reply_init(&reply, PEER_REFUSAL_BYTES_MAX);
    s->wait.timeout_ms = timeout_ms;
    while (r == PEER_REPLY_MORE) {
        ssize_t n = peer_io_read_some(&s->io, &s->wait, data, sizeof(data));
        if (n <= 0 && reply.has_head)
            break; /* the head says it all */
        if (n <= 0)
            return n < 0 ? (int)n : -ENODATA;
        struct bytes in = bytes_of(data, (size_t)n);
        while ((r = peer_reply_read(&reply, &in, &text)) == PEER_REPLY_HEAD)
            s->wait.timeout_ms = s->peer->timing.silence;
    }
    if (r == PEER_REPLY_WRONG)
        return -EBADMSG;
    s->status = reply.head.status;
    int outcome = peer_post_reply_check(&reply.head);
    s->removed = outcome == PEER_HEADER_E_REMOVED;
    return outcome == 0 ? 0 : SEND_REFUSED;
}

static void *send_main(void *arg)
{
    struct send *s = arg;
    uint64_t patience_ms = s->peer->timing.snapshot_answer;

    pthread_setname_np(pthread_self(), "snapshot-out");
    thread_set_background();
    int r = peer_io_write_all(&s->io, &s->wait, s->head.data, s->head.len);
    if (r == 0)
        r = is_tables(s) ? tables_send(s) : file_send(s);
    /* Whoever refuses does so early, and may have closed its side already. */
    if (r == SEND_REFUSED || r == -EPIPE || r == -ECONNRESET)
        patience_ms = REFUSAL_MS;
    if (r == 0 || patience_ms == REFUSAL_MS) {
        int answered = answer_read(s, patience_ms);
        r = r < 0 && answered < 0 ? r : answered == 0 && r != 0 ? SEND_REFUSED : answered;
    }
    s->result = r;
    peer_loop_post(&s->peer->loop, &s->task);
    return NULL;
}

/* ---- the end; the loop ---- */

static void count(const struct send *s, struct peer_metrics *m)
{
    bool ok = s->result == 0;

    metric_add(ok ? &m->snapshot_sent : &m->snapshot_send_failures, 1);
    metric_add(ok ? &m->sent_bytes : &m->sent_failures, ok ? s->head.len + database_bytes(s) : 1);
    if (ok)
        metric_observe(&m->snapshot_send_seconds, (double)(clock_mono_ms() - s->started_ms) / 1000);
}

static void log_fields(const struct send *s, const char *msg, const char *error)
{
    uint64_t index = s->snapshot->message->snapshot->index;

    if (error)
        log_warn(msg, LOG_U64("snapshot-index", index), LOG_ID("remote-peer-id", s->to),
                 LOG_U64("bytes", database_bytes(s)), LOG_I64("status", s->status),
                 LOG_STR("error", error));
    else
        log_info(msg, LOG_U64("snapshot-index", index), LOG_ID("remote-peer-id", s->to),
                 LOG_U64("bytes", database_bytes(s)),
                 LOG_STR("form", is_tables(s) ? "tables" : "bbolt"));
}

static void failed(struct send *s, struct peer_link *link, const char *error)
{
    log_fields(s, "failed to send database snapshot", error);
    if (s->removed)
        peer_removed(s->peer);
    if (!link)
        return;
    if (s->url)
        peer_link_url_failed(link, s->url);
    peer_link_deactivate(link, (struct peer_failure){"sendMsgSnap", "post", error});
    server_peer_unreachable(s->peer->server, s->to);
}

static void send_end(struct send *s, const char *error)
{
    struct peer *p = s->peer;
    struct peer_link *link = peer_link_find(p, s->to);
    struct transport_snapshot *snapshot = s->snapshot;
    bool ok = !error;

    if (!ok && s->result == 0)
        s->result = SEND_REFUSED;
    if (link)
        count(s, link->metrics);
    if (ok)
        log_fields(s, "sent database snapshot", NULL);
    else
        failed(s, link, error);
    if (ok && link)
        peer_link_activate(link);
    if (s->started && link)
        metric_gauge_add(&link->metrics->snapshot_send_inflight, -1);
    list_remove(&s->link);
    atomic_fetch_sub(&p->n_sends, 1);
    peer_dial_cancel(&s->dial);
    peer_io_close(&s->io);
    if (s->file_fd >= 0)
        close(s->file_fd);
    peer_tables_deinit(&s->tables);
    url_list_deinit(&s->urls);
    buf_deinit(&s->head);
    free(s->url);
    free(s);
    snapshot->done(snapshot, ok);
    peer_stop_go_on(p);
}

static void send_ended(struct peer_task *task)
{
    struct send *s = container_of(task, struct send, task);
    char error[PEER_ERROR_BYTES_MAX];

    pthread_join(s->thread, NULL);
    if (s->result == SEND_REFUSED)
        snprintf(error, sizeof(error), "unexpected http status %d", s->status);
    else
        snprintf(error, sizeof(error), "%s",
                 s->result == -ENODATA ? "unexpected EOF" : err_text(s->result).text);
    send_end(s, s->result == 0 ? NULL : error);
}

/* ---- the beginning; the loop ---- */

static int database_open(struct send *s)
{
    struct stat st;

    if (is_tables(s))
        return peer_tables_list(s->snapshot->directory, &s->tables);
    s->file_fd = open(s->snapshot->file, O_RDONLY | O_CLOEXEC);
    if (s->file_fd < 0 || fstat(s->file_fd, &st) < 0)
        return -errno;
    s->file_bytes = (uint64_t)st.st_size;
    return 0;
}

static int head_write(struct send *s)
{
    _cleanup_(buf_deinit) struct buf envelope = BUF_NULL;
    const char *slashes = strstr(s->url, "://");

    if (peer_snapshot_encode(s->snapshot->message, &envelope) != 0)
        return -EINVAL;
    struct peer_request request = {.method = "POST",
                                   .host = bytes_str(slashes ? slashes + 3 : s->url),
                                   .path = BYTES_LIT("/raft/snapshot"),
                                   .identity = &s->peer->identity,
                                   .content_type =
                                       is_tables(s) ? PEER_TABLES_TYPE : "application/octet-stream",
                                   .body = PEER_BODY_LENGTH,
                                   .body_bytes = envelope.len + database_bytes(s)};
    if (peer_request_head(&s->head, &request) != 0)
        return -EINVAL;
    buf_append_bytes(&s->head, buf_bytes(&envelope));
    return 0;
}

static void dialled(struct peer_dial *d, const char *error)
{
    struct send *s = container_of(d, struct send, dial);
    struct peer_link *link = peer_link_find(s->peer, s->to);

    if (error) {
        send_end(s, error);
        return;
    }
    s->io = peer_dial_take(d);
    if (pthread_create(&s->thread, NULL, send_main, s) != 0) {
        send_end(s, "no thread for it");
        return;
    }
    s->started = true;
    if (link)
        metric_gauge_add(&link->metrics->snapshot_send_inflight, 1);
}

static void send_begin(struct peer_task *task)
{
    struct send *s = container_of(task, struct send, task);
    struct peer *p = s->peer;
    struct peer_link *link = peer_link_find(p, s->to);

    list_push(&p->sends, &s->link);
    s->task.run = send_ended;
    s->started_ms = clock_mono_ms();
    if (!link) {
        send_end(s, "member not found");
        return;
    }
    s->url = mem_strdup(peer_link_url(link)->text);
    check(peer_urls_read(&s->url, 1, &s->urls));
    int r = database_open(s);
    if (r == 0)
        r = head_write(s);
    if (r < 0) {
        send_end(s, err_text(r).text);
        return;
    }
    log_fields(s, "sending database snapshot", NULL);
    s->dial.done = dialled;
    peer_dial_start(&s->dial, &p->loop, &s->urls.items[0], peer_dial_ms(p));
}

void peer_send_snapshot(struct transport *t, struct transport_snapshot *snapshot)
{
    struct peer *p = container_of(t, struct peer, transport);

    pthread_rwlock_rdlock(&p->links_lock);
    bool taken = !atomic_load(&p->stopped) && atomic_load(&p->n_sends) < PEER_SENDS_MAX;
    if (taken) {
        struct send *s = mem_new(struct send);
        *s = (struct send){.task = {.run = send_begin},
                           .peer = p,
                           .snapshot = snapshot,
                           .to = snapshot->message->to,
                           .io = {.fd = -1},
                           .wait = {.stop_fd = p->stop_fd, .timeout_ms = STALL_MS},
                           .file_fd = -1};
        atomic_fetch_add(&p->n_sends, 1);
        peer_loop_post(&p->loop, &s->task);
    }
    pthread_rwlock_unlock(&p->links_lock);
    if (!taken)
        snapshot->done(snapshot, false);
}

void peer_snapshots_stop(struct peer *p)
{
    uint64_t one = 1;

    check(write(p->stop_fd, &one, sizeof(one)) == sizeof(one));
    list_for_each_safe (it, tmp, &p->sends) {
        struct send *s = container_of(it, struct send, link);
        if (!s->started)
            send_end(s, "stopped");
    }
}
