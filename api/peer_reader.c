/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream from another member, which we dial: what it says comes as the endless body of the answer
 * to our GET.
 *
 *   waiting ──at once, then 100 ms after the last──> dialling ──200──> streaming ──┐
 *      └──<── refused, no connection, the stream ended, nothing for 5 s ──<────────┘
 *
 * A URL that can't be dialled, or refuses, makes the next one of the member the next to try. 410
 * says that we were removed. What is no message of the protocol ends the stream; what is none for
 * raft is passed over.
 *
 * Thread: the loop.
 */
#include "api/peer_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

static const char *name(const struct peer_reader *r)
{
    return peer_stream_name(r->kind);
}

static uint64_t local_id(const struct peer_reader *r)
{
    return r->link->peer->identity.member_id;
}

static void redial_later(struct peer_reader *r)
{
    struct peer *p = r->link->peer;
    uint64_t now_ms = clock_mono_ms(), next_ms = r->dialled_ms + p->timing.redial;

    peer_timer_set(&p->loop, &r->redial, next_ms > now_ms ? next_ms : now_ms);
}

/* ---- the stream ---- */

static void stream_begin(struct peer_reader *r)
{
    struct peer_link *link = r->link;
    uint64_t request_bytes_max = link->peer->config->max_request_bytes;

    r->streaming = true;
    peer_stream_reader_init(&r->codec, &(struct peer_stream_options){
                                           .kind = r->kind,
                                           .local = local_id(r),
                                           .remote = link->id,
                                           /* One entry may be as long as a request. */
                                           .bytes_max = PEER_STREAM_BYTES_MAX + request_bytes_max});
    atomic_store(&link->takes_tables, peer_takes_tables(r->call.reply.head.headers));
    peer_link_activate(link);
    log_info("established TCP streaming connection with remote peer",
             LOG_STR("stream-reader-type", name(r)), LOG_ID("local-member-id", local_id(r)),
             LOG_ID("remote-peer-id", link->id));
}

static void stream_end(struct peer_reader *r, const char *error)
{
    peer_stream_reader_deinit(&r->codec);
    r->streaming = false;
    log_warn("lost TCP streaming connection with remote peer",
             LOG_STR("stream-reader-type", name(r)), LOG_ID("local-member-id", local_id(r)),
             LOG_ID("remote-peer-id", r->link->id), LOG_STR("error", error ? error : "EOF"));
    if (error)
        peer_link_deactivate(r->link, (struct peer_failure){name(r), "read", error});
}

/* False: the call is of no more use. */
static bool arrived(struct peer_call *call)
{
    struct peer_reader *r = container_of(call, struct peer_reader, call);
    struct bytes in = buf_bytes(&call->answer);
    const struct peer_message *m;
    int outcome = PEER_STREAM_MORE;

    if (!r->streaming) {
        if (peer_stream_reply_check(&call->reply.head) != 0) {
            peer_link_url_failed(r->link, r->dialled);
            redial_later(r);
            return false;
        }
        stream_begin(r);
    }
    uint64_t heartbeats = r->codec.n_heartbeats;
    while (in.len > 0 && (outcome = peer_stream_read(&r->codec, &in, &m)) == 0)
        peer_deliver(r->link->peer, r->link, m);
    peer_metrics_heartbeats(r->codec.n_heartbeats - heartbeats);
    buf_clear(&call->answer);
    if (outcome != PEER_STREAM_WRONG)
        return true;
    stream_end(r, "what came is no message");
    redial_later(r);
    return false;
}

/* ---- answers that are no stream ---- */

static void log_ignored(struct peer_reader *r, const char *msg, const char *error)
{
    if (peer_link_may_log(r->link))
        log_warn(msg, LOG_ID("local-member-id", local_id(r)), LOG_ID("remote-peer-id", r->link->id),
                 LOG_STR("error", error));
}

/* *ret is the reason in etcd's words; what may be more than a moment's trouble is logged. */
static void refusal_read(struct peer_reader *r, const char **ret)
{
    struct peer_call *call = &r->call;
    struct bytes text = buf_bytes(&call->answer);

    if (text.len > 0 && text.data[text.len - 1] == '\n')
        text.len--;
    snprintf(r->why, sizeof(r->why), "unhandled http status %d", call->reply.head.status);
    *ret = r->why;
    if (call->reply.head.status == 404) {
        snprintf(r->why, sizeof(r->why), "peer %" PRIx64 " failed to find local node %" PRIx64,
                 r->link->id, local_id(r));
    } else if (call->reply.head.status == 412 && bytes_equal(text, BYTES_LIT("incompatible "
                                                                             "version"))) {
        *ret = "incompatible version";
        log_ignored(r,
                    "request sent was ignored by remote peer due to server version incompatibility",
                    *ret);
    } else if (call->reply.head.status == 412 && bytes_equal(text, BYTES_LIT("cluster ID "
                                                                             "mismatch"))) {
        *ret = "cluster ID mismatch";
        log_ignored(r, "request sent was ignored by remote peer due to cluster ID mismatch", *ret);
    }
}

static void refused(struct peer_reader *r)
{
    const char *why;

    switch (peer_stream_reply_check(&r->call.reply.head)) {
    case PEER_HEADER_E_VERSION: return; /* as etcd: no word about it, and it is not inactive */
    case PEER_HEADER_E_REMOVED:
        why = "the member has been permanently removed from the cluster";
        peer_removed(r->link->peer);
        break;
    default: refusal_read(r, &why);
    }
    peer_link_deactivate(r->link, (struct peer_failure){name(r), "dial", why});
}

static void done(struct peer_call *call, const char *error)
{
    struct peer_reader *r = container_of(call, struct peer_reader, call);

    if (r->streaming) {
        stream_end(r, error);
    } else {
        peer_link_url_failed(r->link, r->dialled);
        if (error)
            peer_link_deactivate(r->link, (struct peer_failure){name(r), "dial", error});
        else
            refused(r);
    }
    redial_later(r);
}

/* ---- dialling ---- */

static void dial(struct peer_timer *timer)
{
    struct peer_reader *r = container_of(timer, struct peer_reader, redial);
    struct peer *p = r->link->peer;
    const struct url *url = peer_link_url(r->link);
    _cleanup_(buf_deinit) struct buf path = BUF_NULL;

    free(r->dialled);
    r->dialled = mem_strdup(url->text);
    r->dialled_ms = clock_mono_ms();
    buf_append_str(&path, r->kind == PEER_STREAM_MSGAPP ? PEER_STREAM_PATH_MSGAPP
                                                        : PEER_STREAM_PATH_MESSAGE);
    peer_id_append(&path, local_id(r));
    struct peer_request request = {
        .method = "GET", .path = buf_bytes(&path), .identity = &p->identity, .to = r->link->id};
    peer_call_start(&r->call, &p->pool,
                    &(struct peer_call_options){.url = url,
                                                .request = request,
                                                .dial_ms = peer_dial_ms(p),
                                                .answer_ms = p->timing.silence,
                                                .answer_bytes_max = PEER_REPLY_STREAM});
}

/* ---- life ---- */

void peer_reader_init(struct peer_reader *r, struct peer_link *link, enum peer_stream_kind kind)
{
    *r = (struct peer_reader){.link = link,
                              .kind = kind,
                              .redial = {.expired = dial},
                              .call = {.done = done, .arrived = arrived}};
}

void peer_reader_start(struct peer_reader *r)
{
    peer_timer_set(&r->link->peer->loop, &r->redial, clock_mono_ms());
}

void peer_reader_deinit(struct peer_reader *r)
{
    peer_timer_clear(&r->link->peer->loop, &r->redial);
    peer_call_cancel(&r->call);
    if (r->streaming)
        peer_stream_reader_deinit(&r->codec);
    r->streaming = false;
    free(r->dialled);
    r->dialled = NULL;
}
