/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RangeStream: a long list in messages of bounded size. The next message is made (on the scan pool)
 * when the last one has been taken by the transport, so a client that doesn't read holds one
 * message, not the whole list.
 *
 *   [read index] ─> scan_next() on the pool ─> send_next() ─> last: answered with the status
 *                        ^──── delivered() <────────┘
 *
 * Thread: the call's queue, scan_next() a scan thread; never both at once.
 */
#include "api/call.h"
#include "api/check.h"
#include "api/handlers.h"

enum outcome kv_range_stream_check(struct server *server, const void *request)
{
    return check_range_stream(request);
}

static void scan_next(struct call *call)
{
    call->outcome = range_stream_next(call->state, &call->request.response, &call->last);
}

static void delivered(struct call *call);

static void send_next(struct call *call)
{
    if (call->outcome || call->last)
        call_answer(call, call->outcome);
    else
        call_send_message(call, delivered);
}

static void delivered(struct call *call)
{
    if (call->outcome)
        call_answer(call, call->outcome);
    else
        call_scan(call, scan_next, send_next);
}

static void state_free(struct call *call)
{
    range_stream_free(call->state);
}

static void start(struct call *call)
{
    if (call->outcome) {
        call_answer(call, call->outcome);
        return;
    }
    call->state = range_stream_new(call->server, call->message);
    call->cleanup = state_free;
    call_scan(call, scan_next, send_next);
}

void kv_range_stream(struct call *call)
{
    const Etcdserverpb__RangeRequest *r = call->message;
    if (!r->serializable) {
        call_read_index(call, start);
        return;
    }
    call->outcome = OUTCOME_OK;
    start(call);
}
