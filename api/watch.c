/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Watch service: what the client asks goes to the hub, what the hub says goes to the client.
 *
 *   received() ─> watch_create(), watch_cancel(), watch_progress()
 *   hub: ready() ─> call_wake() ─> send_next() ─> sent() ─> send_next() ... until there is nothing
 *
 * A response is taken when the one before has left. One more is taken beforehand, so that gRPC
 * hears whether another follows, and need not write to the socket for each.
 *
 * A client that asks and doesn't read the answers is not read on when WATCH_ANSWERS_MAX of them
 * wait (watch_stream_is_full()).
 *
 * A half-closed stream goes on, as etcd's does: the client may ask for its watchers and then only
 * listen.
 *
 * Thread: the call's queue, ready() any. Invariant: one response at most is in gRPC's hands, one
 * at most is taken beforehand.
 */
#include "api/handlers.h"
#include "api/stream.h"
#include "api/watch_message.h"
#include "base/mem.h"
#include "rpc.pb-c.h"

#define FILTER(name) ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__##name
#define REQUEST(name) ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_##name##_REQUEST

struct watch {
    struct watch_stream *stream;
    struct watch_response *next;
    bool held; /* the next request waits until the client has read */
};

static void on_ready(void *arg)
{
    call_wake(arg);
}

/* ---- requests ---- */

static void create(struct watch *w, const Etcdserverpb__WatchCreateRequest *r)
{
    struct watch_request request = {
        /* No key is the smallest key. */
        .key = r->key.len ? bytes_of(r->key.data, r->key.len) : bytes_of("", 1),
        .range_end = bytes_of(r->range_end.data, r->range_end.len),
        .start_revision = r->start_revision,
        .id = r->watch_id,
        .prev_kv = r->prev_kv,
        .fragment = r->fragment,
        .progress_notify = r->progress_notify,
    };
    for (size_t i = 0; i < r->n_filters; i++) {
        request.no_put |= r->filters[i] == FILTER(NOPUT);
        request.no_delete |= r->filters[i] == FILTER(NODELETE);
    }
    watch_create(w->stream, &request);
}

static void receive_next(struct call *call)
{
    struct watch *w = call->state;
    w->held = watch_stream_is_full(w->stream);
    if (!w->held)
        stream_receive(call);
}

static void received(struct call *call)
{
    const Etcdserverpb__WatchRequest *r = call->message;
    struct watch *w = call->state;
    switch (r->request_union_case) {
    case REQUEST(CREATE): create(w, r->create_request); break;
    case REQUEST(CANCEL): watch_cancel(w->stream, r->cancel_request->watch_id); break;
    case REQUEST(PROGRESS): watch_progress(w->stream); break;
    default: break; /* etcd goes on, too */
    }
    receive_next(call);
}

static void half_closed(struct call *call)
{
}

/* ---- responses ---- */

/* True: it has left already. */
static bool send(struct call *call, struct watch_response *r)
{
    struct watch *w = call->state;
    w->next = watch_stream_take(w->stream);
    watch_message_set(call, r);
    return stream_send(call, w->next ? STREAM_MORE : STREAM_FLUSH);
}

static void send_next(struct call *call)
{
    struct watch *w = call->state;
    struct watch_response *r = w->next ? w->next : watch_stream_take(w->stream);
    while (r && send(call, r))
        r = w->next;
    if (w->held)
        receive_next(call);
}

/* ---- life ---- */

static void ended(struct call *call)
{
    struct watch *w = call->state;
    watch_stream_close(w->stream);
    watch_response_free(w->next);
    free(w);
    call->state = NULL;
}

static const struct stream_handler handler = {.received = received,
                                              .half_closed = half_closed,
                                              .sent = send_next,
                                              .woken = send_next,
                                              .ended = ended};

void watch_call(struct call *call)
{
    struct watch *w = mem_new(struct watch);
    call->state = w;
    stream_start(call, &handler);
    w->stream = watch_stream_open(server_watch_hub(call->server), on_ready, call);
    stream_receive(call);
}
