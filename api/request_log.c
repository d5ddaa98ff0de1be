/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slow requests, in the log. Thread: whichever answers the call; nothing is kept.
 */
#include "api/request_log.h"

#include <grpc/support/alloc.h>
#include <stdio.h>
#include <time.h>

#include "api/call.h"
#include "base/clock.h"
#include "base/log.h"
#include "rpc.pb-c.h"

/* ---- a message as text ---- */

static void quote(struct buf *text, struct bytes s)
{
    buf_append_u8(text, '"');
    for (size_t i = 0; i < s.len && text->len < REQUEST_TEXT_BYTES_MAX; i++) {
        uint8_t c = s.data[i];
        if (c == '"' || c == '\\')
            buf_printf(text, "\\%c", c);
        else if (c < 0x20 || c >= 0x7F)
            buf_printf(text, "\\x%02x", c);
        else
            buf_append_u8(text, c);
    }
    buf_append_u8(text, '"');
}

static void field_text(const ProtobufCFieldDescriptor *field, const void *at, struct buf *text)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        buf_printf(text, "%s:{", field->name);
        request_text(*(const ProtobufCMessage *const *)at, text);
        buf_append_u8(text, '}');
        break;
    case PROTOBUF_C_TYPE_BYTES: {
        const ProtobufCBinaryData *data = at;
        if (strcmp(field->name, "value") == 0) {
            buf_printf(text, "value_size:%zu", data->len);
        } else {
            buf_printf(text, "%s:", field->name);
            quote(text, bytes_of(data->data, data->len));
        }
        break;
    }
    case PROTOBUF_C_TYPE_STRING:
        buf_printf(text, "%s:", field->name);
        quote(text, bytes_str(*(const char *const *)at));
        break;
    case PROTOBUF_C_TYPE_BOOL: buf_printf(text, "%s:true", field->name); break;
    case PROTOBUF_C_TYPE_INT64:
        buf_printf(text, "%s:%lld", field->name, (long long)*(const int64_t *)at);
        break;
    case PROTOBUF_C_TYPE_UINT64:
        buf_printf(text, "%s:%llu", field->name, (unsigned long long)*(const uint64_t *)at);
        break;
    case PROTOBUF_C_TYPE_ENUM: buf_printf(text, "%s:%d", field->name, *(const int *)at); break;
    default: buf_printf(text, "%s:?", field->name); break;
    }
    buf_append_u8(text, ' ');
}

static bool is_absent(const ProtobufCFieldDescriptor *field, const void *at)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_MESSAGE: return !*(const void *const *)at;
    case PROTOBUF_C_TYPE_BYTES: return ((const ProtobufCBinaryData *)at)->len == 0;
    case PROTOBUF_C_TYPE_STRING: return !**(const char *const *)at;
    case PROTOBUF_C_TYPE_BOOL: return !*(const protobuf_c_boolean *)at;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_UINT64: return !*(const uint64_t *)at;
    default: return !*(const uint32_t *)at;
    }
}

void request_text(const ProtobufCMessage *message, struct buf *text)
{
    for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
        const uint8_t *at = (const uint8_t *)message + field->offset;
        if (text->len >= REQUEST_TEXT_BYTES_MAX)
            return;
        if (field->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(const size_t *)(const void *)((const uint8_t *)message +
                                                       field->quantifier_offset);
            const void *const *items = *(const void *const *const *)(const void *)at;
            bool pointers =
                field->type == PROTOBUF_C_TYPE_MESSAGE || field->type == PROTOBUF_C_TYPE_STRING;
            for (size_t j = 0; pointers && j < n && text->len < REQUEST_TEXT_BYTES_MAX; j++)
                field_text(field, &items[j], text);
            continue;
        }
        bool in_oneof = field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF;
        uint32_t chosen = in_oneof ? *(const uint32_t *)(const void *)((const uint8_t *)message +
                                                                       field->quantifier_offset)
                                   : field->id;
        if (chosen == field->id && !is_absent(field, at))
            field_text(field, at, text);
    }
    while (text->len && text->data[text->len - 1] == ' ')
        text->len--;
}

/* ---- the line ---- */

/* The number in a field of the response; 0 if absent. Only what the line needs is read, the
 * response is not decoded. */
static int64_t response_field(struct bytes response, uint64_t field)
{
    uint64_t tag, n = 0;
    while (response.len && varint_get(&response, &tag)) {
        unsigned wire = tag & 7;
        size_t len = wire == 1 ? 8 : wire == 5 ? 4 : 0;
        if (wire != 1 && wire != 5 && !varint_get(&response, &n))
            return 0;
        if (wire == 0 && tag >> 3 == field)
            return (int64_t)n;
        if (wire == 2)
            len = (size_t)n;
        if (len > response.len)
            return 0;
        response = bytes_of(response.data + len, response.len - len);
    }
    return 0;
}

struct stats {
    int64_t request_count, request_bytes, response_count, response_bytes;
    struct buf content;
};

static int64_t ops_size(Etcdserverpb__RequestOp *const *ops, size_t n_ops)
{
    size_t size = 0;
    for (size_t i = 0; i < n_ops; i++)
        size += protobuf_c_message_get_packed_size(&ops[i]->base);
    return (int64_t)size;
}

/* etcd fills the numbers in for four kinds of requests only. */
static void stats_collect(const struct call *call, struct stats *s)
{
    struct bytes response = buf_bytes(&call->request.response);
    const ProtobufCMessageDescriptor *d = call->method->request;
    const void *message = call->message;
    bool ok = call->status.code == STATUS_OK;
    *s = (struct stats){.request_bytes = (int64_t)call->payload.len,
                        .response_bytes = (int64_t)response.len};
    if (d == &etcdserverpb__range_request__descriptor) {
        s->response_count = response_field(response, 4);
    } else if (d == &etcdserverpb__put_request__descriptor) {
        s->request_count = 1;
    } else if (d == &etcdserverpb__delete_range_request__descriptor) {
        s->response_count = response_field(response, 2);
    } else if (d == &etcdserverpb__txn_request__descriptor) {
        const Etcdserverpb__TxnRequest *txn = message;
        bool succeeded = response_field(response, 2);
        s->request_count = !ok ? 0 : (int64_t)(succeeded ? txn->n_success : txn->n_failure);
        s->request_bytes = !ok         ? 0
                           : succeeded ? ops_size(txn->success, txn->n_success)
                                       : ops_size(txn->failure, txn->n_failure);
    } else {
        s->request_count = s->request_bytes = s->response_count = s->response_bytes = -1;
        return;
    }
    request_text(message, &s->content);
}

static void time_text(char text[40], uint64_t wall_ns)
{
    time_t seconds = (time_t)(wall_ns / 1000000000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    size_t len = strftime(text, 40, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + len, 40 - len, ".%06uZ", (unsigned)(wall_ns % 1000000000 / 1000));
}

static void write_line(struct call *call, uint64_t ns, enum log_level level)
{
    struct stats s;
    char start[40];
    stats_collect(call, &s);
    time_text(start, clock_wall_ns() - ns);
    char *peer = grpc_call_get_peer(call->grpc);
    const char *remote = strchr(peer, ':');
    log_at(level, "request stats", LOG_STR("start time", start), LOG_DURATION("time spent", ns),
           LOG_STR("remote", remote ? remote + 1 : peer),
           LOG_STR("response type", call->method->path), LOG_I64("request count", s.request_count),
           LOG_I64("request size", s.request_bytes), LOG_I64("response count", s.response_count),
           LOG_I64("response size", s.response_bytes),
           LOG_STR("request content", buf_cstr(&s.content)));
    gpr_free(peer);
    buf_deinit(&s.content);
}

void request_log(struct call *call, uint64_t ns)
{
    bool slow = ns > (uint64_t)server_config(call->server)->warning_unary_request_duration_ns;
    bool debug = log_level_min <= LOG_DEBUG;
    if (!slow && !debug)
        return;
    /* Refused before it was decoded: etcd has no line for it either. */
    if (call->message)
        write_line(call, ns, debug ? LOG_DEBUG : LOG_WARN);
}
