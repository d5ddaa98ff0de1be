/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How often what happened, over all runs of one call: whoever reads "0 failed" wants to know that
 * there was something to fail at.
 */
#pragma once

#include <stdint.h>

enum counter {
    COUNT_EVENTS,
    COUNT_VIRTUAL_MS,
    COUNT_ANSWERS, /* requests with a known result */
    COUNT_READS,
    COUNT_UNKNOWN,
    COUNT_REFUSED,
    COUNT_ENTRIES, /* committed */
    COUNT_TERMS,   /* that had a leader */
    COUNT_MESSAGES,
    COUNT_LOST,
    COUNT_REPEATED,
    COUNT_SNAPSHOTS,
    COUNT_SNAPSHOTS_LOST,
    COUNT_INSTALLS,
    COUNT_INSTALL_KILLS,
    COUNT_INSTALL_POWER_LOSSES,
    COUNT_KILLS,
    COUNT_POWER_LOSSES,
    COUNT_BOUNDARY_ENDS,
    COUNT_GAVE_UP,
    COUNT_STOPS,
    COUNT_PAUSES,
    COUNT_PARTITIONS,
    COUNT_ECHOES,
    COUNT_LAGS,
    COUNT_DISK_ERRORS,
    COUNT_FLIPS,
    COUNT_OLD_COPIES,
    COUNT_LOST_TAILS,
    COUNT_REFUSED_STARTS,
    COUNT_SLOW_DISKS,
    COUNT_STALLS,
    COUNT_CLOCKS,
    COUNT_FLUSHES,
    COUNT_LOG_CUTS,
    COUNT_MEMBER_CHANGES,
    COUNT_MEMBERS_REMOVED,
    COUNT_TRANSFERS,
    COUNT_HASHES,
    COUNT_WATCH_STREAMS,
    COUNT_WATCH_EVENTS,
    COUNT_WATCH_PROGRESS,
    COUNT_WATCHES_COMPACTED,
    COUNT_KEEPALIVES,
    COUNT_TIMES_TOLD,
    COUNT_EXPIRIES,
    COUNTERS
};

void counters_init(void); /* before the first fork */
void count(enum counter c, uint64_t n);
void count_checks(void); /* what this run has checked; at its end */
void counters_print(void);
