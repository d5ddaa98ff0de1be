/* SPDX-License-Identifier: Apache-2.0 */
/* Condition variables with an end (see cond.h). Owns nothing. Thread: any. */
#include "base/cond.h"

#include "base/check.h"

void cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    check(pthread_condattr_init(&attr) == 0);
    check(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    check(pthread_cond_init(cond, &attr) == 0);
    pthread_condattr_destroy(&attr);
}

struct timespec cond_until(uint64_t wait_ns)
{
    struct timespec t;

    check(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
    uint64_t ns = (uint64_t)t.tv_nsec + wait_ns % 1000000000;
    t.tv_sec += (time_t)(wait_ns / 1000000000 + ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}
