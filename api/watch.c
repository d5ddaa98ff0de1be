/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Watch service: what the client asks goes to the hub, what the hub says goes to the client.
 *
 *   received() ─> watch_create(), watch_cancel(), watch_progress()
 *   hub: ready() ─> call_wake() ─> send_next() ─> sent() ─> send_next() ... until there is nothing
 *
 * A response is taken when the one before has left: when gRPC could put all of it into the
 * client's window. So what a client does not read stays in the hub, but for one response, which the
 * hub keeps short when many hold one. The hub says whether another follows; then gRPC need not
 * write each short one to the socket, and may have 64 KiB of these beside the one.
 *
 * gRPC may take response after response at once. After WATCH_TURN_BYTES_MAX the others who have
 * something to send come first.
 *
 * A client that asks and doesn't read the answers is not read on when WATCH_ANSWERS_MAX of them
 * wait (watch_stream_is_full()).
 *
 * A half-closed stream goes on, as etcd's does: the client may ask for its watchers and then only
 * listen.
 *
 * Thread: the call's queue, ready() any. Invariant: of the responses taken one at most has not
 * left.
 */
#include "api/handlers.h"
#include "api/stream.h"
#include "api/watch_message.h"
#include "base/mem.h"
#include "rpc.pb-c.h"

#define FILTER(name) ETCDSERVERPB__WATCH_CREATE_REQUEST__FILTER_TYPE__##name
#define REQUEST(name) ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_##name##_REQUEST

enum {
    WATCH_TURN_BYTES_MAX = 256 << 10, /* sent one behind the other */
    WATCH_TURN_COST_BYTES = 2 << 10,  /* what a response counts for besides its events */
    WATCH_SHORT_BYTES_MAX = 8 << 10   /* gRPC may wait with a write of no more */
};

struct watch {
    struct watch_stream *stream;
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
        .key = bytes_of(r->key.data, r->key.len),
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
    bool may_wait = r->more && r->bytes <= WATCH_SHORT_BYTES_MAX;
    watch_message_set(call, r);
    return stream_send(call, may_wait ? STREAM_MORE : STREAM_FLUSH);
}

/* Sends until one does not leave at once, there is no other, or it is the others' turn. */
static void send_some(struct call *call)
{
    const struct watch *w = call->state;
    size_t bytes = 0;
    while (bytes < WATCH_TURN_BYTES_MAX) {
        struct watch_response *r = watch_stream_take(w->stream);
        bytes += r ? WATCH_TURN_COST_BYTES + r->bytes : 0;
        if (!r || !send(call, r))
            return;
    }
    call_wake(call);
}

static void send_next(struct call *call)
{
    const struct watch *w = call->state;
    send_some(call);
    if (w->held)
        receive_next(call);
}

/* ---- life ---- */

static void ended(struct call *call)
{
    struct watch *w = call->state;
    watch_stream_close(w->stream);
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
