/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The beginning of a call, up to its handler: the message in one piece, decoded; the metadata; the
 * row's validation. The order is etcd's: a message that doesn't parse is refused before anything
 * else looks at the call. The messages of a bidirectional stream come later, one by one.
 *
 * Thread: the call's queue. Invariant: a call that is refused here has been answered.
 */
#include "api/call.h"

#include <grpc/byte_buffer_reader.h>
#include <stdarg.h>
#include <stdio.h>

#include "api/decode.h"
#include "api/grpc_metrics.h"
#include "base/clock.h"

/* The received message as one piece: gRPC's own memory if it is one there, else a copy. */
static struct bytes call_payload(struct call *call)
{
    grpc_byte_buffer_reader reader;
    grpc_slice *slice, *first;
    if (!grpc_byte_buffer_reader_init(&reader, call->received))
        return BYTES_NULL;
    size_t len = grpc_byte_buffer_length(reader.buffer_out);
    struct bytes payload = BYTES_NULL;
    if (grpc_byte_buffer_reader_peek(&reader, &first)) {
        payload = bytes_of(GRPC_SLICE_START_PTR(*first), GRPC_SLICE_LENGTH(*first));
        if (payload.len != len) {
            uint8_t *copy = arena_alloc(&call->arena, len), *at = copy;
            at = mempcpy(at, payload.data, payload.len);
            while (grpc_byte_buffer_reader_peek(&reader, &slice))
                at = mempcpy(at, GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
            payload = bytes_of(copy, (size_t)(at - copy));
        }
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return payload;
}

static struct bytes slice_bytes(const grpc_slice *slice)
{
    return bytes_of(GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice));
}

struct call_headers {
    struct bytes token;
    struct bytes authorization;
    struct bytes version;
    struct bytes leader;
};

static void header_read(struct bytes key, struct bytes value, struct call_headers *h)
{
    /* The lengths tell most headers apart without looking at them. */
    switch (key.len) {
    case 5:
        if (!h->token.data && bytes_equal(key, BYTES_LIT("token")))
            h->token = value;
        break;
    case 9:
        if (!h->leader.data && bytes_equal(key, BYTES_LIT("hasleader")))
            h->leader = value;
        break;
    case 13:
        if (!h->authorization.data && bytes_equal(key, BYTES_LIT("authorization")))
            h->authorization = value;
        break;
    case 18:
        if (!h->version.data && bytes_equal(key, BYTES_LIT("client-api-version")))
            h->version = value;
        break;
    default: break;
    }
}

static enum outcome call_check_learner(const struct call *call)
{
    bool refuse =
        server_is_learner(call->server) && !method_serves_learner(call->method, call->message);
    return refuse ? OUTCOME_LEARNER_UNSUPPORTED : OUTCOME_OK;
}

/* What etcd does with a call's metadata before any handler sees it. */
static enum outcome call_read_headers(struct call *call)
{
    struct call_headers h = {0};
    for (size_t i = 0; i < call->metadata.count; i++)
        header_read(slice_bytes(&call->metadata.metadata[i].key),
                    slice_bytes(&call->metadata.metadata[i].value), &h);
    struct bytes version = h.version.data ? h.version : BYTES_LIT("unknown");
    if (!decode_text_is_valid(version))
        return OUTCOME_INVALID_CLIENT_API_VERSION;
    grpc_metrics_client_request(call->method->type != METHOD_UNARY, version);
    struct bytes token = h.token.data ? h.token : h.authorization;
    if (bytes_has_prefix(token, BYTES_LIT("Bearer ")))
        token = bytes_of(token.data + 7, token.len - 7);
    call->request.credentials = (struct credentials){.token = token};
    if (!bytes_equal(h.leader, BYTES_LIT("true")))
        return OUTCOME_OK;
    call->needs_leader = call->method->type != METHOD_UNARY;
    if (!server_has_leader(call->server))
        return OUTCOME_NO_LEADER;
    call->queue->n_no_leader = 0; /* an idle queue has not looked */
    return OUTCOME_OK;
}

static void call_refuse(struct call *call, enum status_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Answers with a text of its own. */
static void call_refuse(struct call *call, enum status_code code, const char *format, ...)
{
    char *text = arena_alloc(&call->arena, CALL_TEXT_BYTES_MAX);
    va_list args;
    va_start(args, format);
    vsnprintf(text, CALL_TEXT_BYTES_MAX, format, args);
    va_end(args);
    call_answer_status(call, code, text);
}

/* grpc-go's words for a call that ended before its message came. */
static void call_refuse_empty(struct call *call)
{
    if (call->method->type == METHOD_UNARY)
        call_answer_status(call, STATUS_UNKNOWN, "EOF");
    else
        call_answer_status(call, STATUS_INTERNAL,
                           "cardinality violation: received no request message from "
                           "non-client-streaming RPC");
}

bool call_decode(struct call *call)
{
    bool unary = call->method->type == METHOD_UNARY;
    void *message;
    call->payload = call_payload(call);
    size_t len = call->payload.len, len_max = call->queue->message_bytes_max;
    metric_add(&grpc_metrics_received_bytes, len);
    if (len > len_max) {
        call_refuse(call, STATUS_RESOURCE_EXHAUSTED,
                    "grpc: received message larger than max (%zu vs. %zu)", len, len_max);
        return false;
    }
    int r = decode_message(call->method->request, &call->payload, &call->arena, &message);
    call->request.stripped_bytes = len - call->payload.len;
    if (r == 0) {
        call->message = message;
        metric_add(&method_metrics_of(call->method)->received, 1);
    } else if (r == DECODE_E_DEPTH) {
        call_answer(call, OUTCOME_TOO_MANY_OPS); /* only transactions nest */
    } else {
        call_refuse(call, STATUS_INTERNAL, "grpc: %s: %s",
                    unary ? "error unmarshalling request"
                          : "failed to unmarshal the received message",
                    decode_error_text(r));
    }
    return r == 0;
}

/* As the interceptors of grpc-go do: a unary call counts from when its message is decoded, a stream
 * from its beginning. */
static void call_count_start(struct call *call)
{
    call->counted = true;
    metric_add(&method_metrics_of(call->method)->started, 1);
}

/* False: the call is answered. A bidirectional stream begins without a message. */
static bool call_read_message(struct call *call)
{
    if (call->method->type == METHOD_BIDI_STREAM)
        return true;
    if (call->received)
        return call_decode(call);
    call_refuse_empty(call);
    return false;
}

void call_start(struct call *call, const struct method *method)
{
    call->method = method;
    call->arrived_ns = clock_mono_ns();
    call->phase = CALL_RUNS;
    call->n_events = 1; /* its answer */
    call->message = NULL;
    call->counted = false;
    if (method->type != METHOD_UNARY || !method->run)
        call_count_start(call);
    if (!method->run) {
        enum outcome refused =
            server_is_learner(call->server) ? OUTCOME_LEARNER_UNSUPPORTED : call_read_headers(call);
        call_answer(call, refused ? refused : OUTCOME_UNIMPLEMENTED);
        return;
    }
    if (atomic_load_explicit(&call->queue->n_calls, memory_order_relaxed) > QUEUE_CALLS_MAX) {
        call_answer(call, OUTCOME_TOO_MANY_REQUESTS);
        return;
    }
    if (!call_read_message(call))
        return;
    if (method->type == METHOD_UNARY)
        call_count_start(call);
    enum outcome outcome = call_check_learner(call);
    if (!outcome)
        outcome = call_read_headers(call);
    if (!outcome && method->validate)
        outcome = method->validate(call->server, call->message);
    /* The others that were open have been ended, and nobody comes for this one. */
    if (!outcome && method->type == METHOD_BIDI_STREAM && call->queue->stop_seen != QUEUE_RUNS)
        outcome = OUTCOME_STOPPED;
    if (!outcome && call->late)
        outcome = OUTCOME_DEADLINE;
    if (outcome)
        call_answer(call, outcome);
    else
        method->run(call);
}
