/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Condition variables whose waiting has an end: on CLOCK_MONOTONIC, so that a step of the wall
 * clock changes nothing. Thread: any.
 */
#pragma once

#include <pthread.h>
#include <stdint.h>
#include <time.h>

void cond_init(pthread_cond_t *cond);
/* The end of a wait that begins now, for pthread_cond_timedwait(). */
struct timespec cond_until(uint64_t wait_ns);
