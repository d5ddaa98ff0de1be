/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel's clocks. Thread: any. The object file holds nothing else, so a program that defines
 * the three functions itself (the simulator) never pulls it out of the library.
 */
#include "base/clock.h"

#include <time.h>

#include "base/check.h"

static uint64_t clock_read_ns(clockid_t id)
{
    struct timespec t;
    check(clock_gettime(id, &t) == 0);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
    return clock_read_ns(CLOCK_BOOTTIME);
}

uint64_t clock_wall_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

uint64_t clock_thread_cpu_ns(void)
{
    return clock_read_ns(CLOCK_THREAD_CPUTIME_ID);
}
