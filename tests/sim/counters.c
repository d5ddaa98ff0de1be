/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counters (see counters.h) in memory that all real processes share.
 *
 * Thread: any; several processes at once.
 */
#include "tests/sim/counters.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"
#include "tests/sim/trace.h"

static const char *const names[COUNTERS] = {
    [COUNT_EVENTS] = "events",
    [COUNT_VIRTUAL_MS] = "virtual milliseconds",
    [COUNT_ANSWERS] = "writes answered",
    [COUNT_READS] = "reads answered",
    [COUNT_UNKNOWN] = "requests with unknown end",
    [COUNT_REFUSED] = "requests refused",
    [COUNT_ENTRIES] = "entries committed",
    [COUNT_TERMS] = "terms with a leader",
    [COUNT_MESSAGES] = "messages",
    [COUNT_LOST] = "messages lost",
    [COUNT_REPEATED] = "messages repeated",
    [COUNT_SNAPSHOTS] = "snapshots received",
    [COUNT_SNAPSHOTS_LOST] = "snapshots lost",
    [COUNT_INSTALLS] = "snapshots installed",
    [COUNT_INSTALL_KILLS] = "kills while a snapshot is installed",
    [COUNT_INSTALL_POWER_LOSSES] = "power losses while a snapshot is installed",
    [COUNT_KILLS] = "kills",
    [COUNT_POWER_LOSSES] = "power losses",
    [COUNT_BOUNDARY_ENDS] = "ends at an I/O boundary",
    [COUNT_GAVE_UP] = "ends by a disk error or damage",
    [COUNT_STOPS] = "orderly stops",
    [COUNT_PAUSES] = "pauses",
    [COUNT_PARTITIONS] = "partitions",
    [COUNT_ECHOES] = "leaders that hear old answers only",
    [COUNT_LAGS] = "messages as slow as elections",
    [COUNT_DISK_ERRORS] = "disk errors",
    [COUNT_FLIPS] = "flipped bits",
    [COUNT_OLD_COPIES] = "members put back to an older copy",
    [COUNT_LOST_TAILS] = "lost tails that a member has marked",
    [COUNT_REFUSED_STARTS] = "refused starts",
    [COUNT_SLOW_DISKS] = "slow disks",
    [COUNT_STALLS] = "stalls of the database",
    [COUNT_CLOCKS] = "clocks that jump and run at another speed",
    [COUNT_FLUSHES] = "flushes of the database",
    [COUNT_LOG_CUTS] = "cuts of the log",
    [COUNT_MEMBER_CHANGES] = "changes of members",
    [COUNT_MEMBERS_REMOVED] = "removed members that ended",
    [COUNT_TRANSFERS] = "transfers of leadership",
    [COUNT_HASHES] = "hashes compared",
    [COUNT_WATCH_STREAMS] = "streams of watches",
    [COUNT_WATCH_EVENTS] = "events told to watches",
    [COUNT_WATCH_PROGRESS] = "notifications of progress",
    [COUNT_WATCHES_COMPACTED] = "watches overtaken by a compaction",
    [COUNT_KEEPALIVES] = "keep-alives answered",
    [COUNT_TIMES_TOLD] = "times left of leases",
    [COUNT_EXPIRIES] = "leases that expired",
};

/* Of require() in the sections that the linker has put together. */
extern struct checked __start_sim_checked[], __stop_sim_checked[];

static atomic_uint_fast64_t *counters; /* then one for each place that checks */

static size_t places(void)
{
    return (size_t)(__stop_sim_checked - __start_sim_checked);
}

void counters_init(void)
{
    counters = mmap(NULL, (COUNTERS + places()) * sizeof(*counters), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(counters != MAP_FAILED);
}

void count(enum counter c, uint64_t n)
{
    atomic_fetch_add_explicit(&counters[c], n, memory_order_relaxed);
}

void count_checks(void)
{
    for (size_t i = 0; i < places(); i++) {
        atomic_fetch_add_explicit(&counters[COUNTERS + i], __start_sim_checked[i].n,
                                  memory_order_relaxed);
        __start_sim_checked[i].n = 0;
    }
}

/* Of all places that look at this invariant; 0 times are told, too. */
static void print_checks(size_t first)
{
    const char *invariant = __start_sim_checked[first].invariant;
    uint64_t sum = 0;

    for (size_t i = 0; i < places(); i++) {
        if (strcmp(__start_sim_checked[i].invariant, invariant) != 0)
            continue;
        if (i < first)
            return; /* printed */
        sum += atomic_load(&counters[COUNTERS + i]);
    }
    printf("%14" PRIu64 " %s\n", sum, invariant);
}

void counters_print(void)
{
    printf("--- what happened\n");
    for (int i = 0; i < COUNTERS; i++)
        printf("%14" PRIu64 " %s\n", (uint64_t)atomic_load(&counters[i]), names[i]);
    printf("--- how often an invariant was looked at\n");
    for (size_t i = 0; i < places(); i++)
        print_checks(i);
}
