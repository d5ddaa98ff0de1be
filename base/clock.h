/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Time. Deadlines and timers use the monotonic clock (CLOCK_BOOTTIME, so a suspended machine counts
 * its sleep); the wall clock is for log lines, certificates and request ids only. clock_real.c is
 * the production clock, the simulator links its own.
 */
#pragma once

#include <stdint.h>

uint64_t clock_mono_ns(void);
uint64_t clock_wall_ns(void);       /* since the Unix epoch */
uint64_t clock_thread_cpu_ns(void); /* CPU time used by the calling thread */

static inline uint64_t clock_mono_ms(void)
{
    return clock_mono_ns() / 1000000;
}
