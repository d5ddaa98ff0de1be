/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs seeds. Each run is made in a process of its own: production code has some state that belongs
 * to a process (metrics), what a killed member had in memory is not given back, and a crash of the
 * simulator itself, or a loop without an end, is an answer about one seed.
 */
#pragma once

#include <time.h>

#include "tests/sim/world.h"

enum { RUNNER_JOBS_MAX = 64, RUNNER_SEED_SECONDS_MAX = 60, RUNNER_FAILURES_MAX = 16 };

struct runner_settings {
    struct world_settings world;
    bool twice;          /* each seed is run by another process, too: the digests must be equal */
    unsigned jobs;       /* at once */
    unsigned stop_after; /* failures; 0: never */
};

/* One run in this process; prints a line about it, or ends the process. */
void runner_run_single(const struct runner_settings *s);
/* n of them, or (until) as many as there is time for. */
void runner_run(const struct runner_settings *s, uint64_t (*next)(void *arg), void *arg,
                uint64_t n);
void runner_run_until(const struct runner_settings *s, uint64_t (*next)(void *arg), void *arg,
                      time_t end);
uint64_t runner_done(void);
/* Says again what has failed (the first RUNNER_FAILURES_MAX), and ends with a line that has the
 * counts and those seeds: the last lines are often all that is kept. False: a run has failed, or
 * there was none. */
bool runner_report(void);
