/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short responses are copied: a reference count and one more piece in each of gRPC's lists cost
 * more than some hundred bytes. The events of long ones stay where they are, so that a value of a
 * megabyte for a hundred watchers is there once. Not so if they keep much more from being freed
 * than they are long: gRPC may hold them for as long as the client does not read.
 *
 *   [header, id, ..., tag, length] event [tag, length] event ...
 *    own, one allocation           the hub's, kept by a reference to the response
 *
 * Thread: the call's queue; the last reference may go on any of gRPC's threads.
 * Invariant: a shared response is freed with the last slice that points into it.
 */
#include "api/watch_message.h"

#include "base/mem.h"
#include "server/encode.h"

enum {
    PREFIX_BYTES = 128,      /* about what stands before the events */
    EVENT_PREFIX_BYTES = 11, /* what stands before an event, at most */
    PIECES_MAX = 2 * WATCH_SHARE_EVENTS_MAX,
};

static void encode_prefix(struct call *call, const struct watch_response *r)
{
    struct buf *out = &call->request.response;
    struct response_header header;
    server_response_header(call->server, r->revision, &header);
    encode_header(out, &header);
    encode_i64(out, 2, r->id);
    encode_bool(out, 3, r->created);
    encode_bool(out, 4, r->canceled);
    encode_i64(out, 5, r->compact_revision);
    encode_bytes(out, 6, bytes_str(r->cancel_reason));
    encode_bool(out, 7, r->fragment);
}

static void encode_event_prefix(struct buf *out, const struct watch_event *e)
{
    encode_tag(out, 11, 2);
    buf_append_varint(out, e->encoded.len);
}

static void message_copy(struct call *call, struct watch_response *r)
{
    struct buf *out = &call->request.response;
    buf_reserve(out, PREFIX_BYTES + r->bytes + r->n_events * EVENT_PREFIX_BYTES);
    encode_prefix(call, r);
    for (size_t i = 0; i < r->n_events; i++) {
        encode_event_prefix(out, &r->events[i]);
        buf_append_bytes(out, r->events[i].encoded);
    }
    watch_response_free(r);
}

/* ---- shared ---- */

struct shared {
    struct watch_response *response;
    atomic_size_t n_refs;
};

static void shared_unref(void *arg)
{
    struct shared *s = arg;
    if (atomic_fetch_sub_explicit(&s->n_refs, 1, memory_order_acq_rel) > 1)
        return;
    watch_response_free(s->response);
    free(s);
}

static grpc_slice slice_of_event(struct shared *s, const struct watch_event *e)
{
    return grpc_slice_new_with_user_data((void *)(uintptr_t)e->encoded.data, e->encoded.len,
                                         shared_unref, s);
}

static void message_share(struct call *call, struct watch_response *r)
{
    struct buf *out = &call->request.response;
    struct shared *s = mem_new(struct shared);
    size_t ends[WATCH_SHARE_EVENTS_MAX], at = 0;
    grpc_slice pieces[PIECES_MAX];
    s->response = r;
    atomic_init(&s->n_refs, r->n_events);
    encode_prefix(call, r);
    for (size_t i = 0; i < r->n_events; i++) {
        encode_event_prefix(out, &r->events[i]);
        ends[i] = out->len;
    }
    for (size_t i = 0; i < r->n_events; at = ends[i++]) {
        pieces[2 * i] = grpc_slice_from_copied_buffer((const char *)out->data + at, ends[i] - at);
        pieces[2 * i + 1] = slice_of_event(s, &r->events[i]);
    }
    buf_clear(out);
    call_set_message(call, pieces, 2 * r->n_events);
}

void watch_message_set(struct call *call, struct watch_response *r)
{
    bool share = r->n_events && r->n_events <= WATCH_SHARE_EVENTS_MAX &&
                 r->bytes / r->n_events >= WATCH_SHARE_BYTES_MIN &&
                 r->bytes >= r->memory / WATCH_SHARE_PART_MIN;
    if (share)
        message_share(call, r);
    else
        message_copy(call, r);
}
