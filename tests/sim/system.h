/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System calls of simulated processes: clocks, randomness, the end of a process, and the few calls
 * on files that do not go through storage/file.h. system.c has what production code links instead
 * of the kernel's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

void system_init(uint64_t seed, bool show_logs);
uint64_t system_random(void);
/* True with that probability, in millionths. */
bool system_chance(uint32_t ppm);
/* Why the last process ended by itself: the last error or fatal line of its log. */
const char *system_last_words(void);
