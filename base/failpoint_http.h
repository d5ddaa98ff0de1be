/* SPDX-License-Identifier: Apache-2.0 */
/* A private part of base/failpoint.c: its HTTP side, and what it asks of the registry. */
#pragma once

#include <pthread.h>

#include "base/bytes.h"

enum failpoint_result {
    FAILPOINT_DONE,
    FAILPOINT_UNKNOWN,
    FAILPOINT_DISABLED,
    FAILPOINT_MALFORMED,
};

/* Implemented by failpoint.c. Names with or without a prefix; any thread. */
void failpoint_list(struct buf *out); /* "name=term" lines */
enum failpoint_result failpoint_enable(const char *name, const char *terms);
enum failpoint_result failpoint_enable_many(const char *text); /* "name=term;name=term" */
enum failpoint_result failpoint_disable(const char *name);
enum failpoint_result failpoint_status(const char *name, struct buf *out, uint64_t *ret_count);
/* Held while an answer is under way, so that a panic does not cut it off. */
extern pthread_mutex_t failpoint_panic_lock;

/* Binds "host:port" and starts the thread. Negative: the address is malformed or can't be bound. */
int failpoint_http_start(const char *address);
void failpoint_http_stop(void);
/* One request without the network: the whole answer is appended to out. The request is
 * NUL-terminated. */
void failpoint_http_answer(char *request, struct buf *out);
