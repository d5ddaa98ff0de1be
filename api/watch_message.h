/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a response of the watch hub to a message: WatchResponse, encoded by hand. Thread: the call's
 * queue.
 */
#pragma once

#include "api/call.h"
#include "server/watch_hub.h"

enum {
    WATCH_SHARE_BYTES_MIN = 16384, /* events that are longer on average are not copied */
    WATCH_SHARE_EVENTS_MAX = 64,   /* a response of more is copied as a whole */
    WATCH_SHARE_PART_MIN = 4,      /* so many times its length it keeps in memory at most */
};

/* Makes r the call's next message and frees it, or lets gRPC do that when the message has been
 * sent. */
void watch_message_set(struct call *call, struct watch_response *r);
