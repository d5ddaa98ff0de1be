/* SPDX-License-Identifier: Apache-2.0 */
/*
 * grpc.health.v1: the only service with a status is "" (the whole server), and it serves from the
 * moment gRPC does. Watch sends the status and stays open. Thread: the call's queue.
 */
#include "api/call.h"
#include "api/handlers.h"
#include "health.pb-c.h"

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

static void respond_status(struct call *call, int status)
{
    Grpc__Health__V1__HealthCheckResponse m = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    struct buf *response = &call->request.response;
    m.status = status;
    buf_reserve(response, protobuf_c_message_get_packed_size(&m.base));
    response->len += protobuf_c_message_pack(&m.base, response->data + response->len);
}

static bool is_known(struct call *call)
{
    const Grpc__Health__V1__HealthCheckRequest *r = call->message;
    return r->service[0] == '\0';
}

void health_check(struct call *call)
{
    if (!is_known(call)) {
        call_answer_status(call, STATUS_NOT_FOUND, "unknown service");
        return;
    }
    respond_status(call, SERVING);
    call_answer(call, OUTCOME_OK);
}

/* A map with one entry. Go writes an empty key too, protobuf-c would leave it out. */
void health_list(struct call *call)
{
    static const uint8_t only_entry[] = {0x0A, 6, 0x0A, 0, 0x12, 2, 0x08, SERVING};
    buf_append(&call->request.response, only_entry, sizeof(only_entry));
    call_answer(call, OUTCOME_OK);
}

static void stay(struct call *call)
{
    if (call->outcome)
        call_answer(call, call->outcome);
    else
        call_stay_open(call);
}

void health_watch(struct call *call)
{
    respond_status(call, is_known(call) ? SERVING : SERVICE_UNKNOWN);
    call_send_message(call, stay);
}
