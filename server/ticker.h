/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that calls a short function every so often: time-outs of requests and the member's own
 * proposals, which may wait for nothing, least of all for a disk.
 *
 * Thread: its own, for tick(); the functions below from the composition root.
 */
#pragma once

#include <stdint.h>

struct ticker;

enum { TICKER_MS = 100 };

struct ticker *ticker_new(void (*tick)(void *arg), void *arg);
/* The first tick comes at once. Negative: -errno. */
int ticker_start(struct ticker *t);
void ticker_stop(struct ticker *t); /* no tick runs or comes after it; accepts one not started */
struct ticker *ticker_free(struct ticker *t); /* accepts NULL */
