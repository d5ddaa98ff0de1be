/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated disks behind storage/file.h, one for each machine; a path begins with the machine's
 * number: /3/data/...
 *
 * A file has what a reader sees (the cache) and what survives a power loss (the disk), in sectors;
 * a change of names is pending until its directory is synced. What is unsynced reaches the disk at
 * random moments. Each call that changes or syncs something is a boundary: there the process may
 * sleep, meet an error, or die.
 */
#pragma once

#include "storage/file.h"
#include "tests/sim/kernel.h"

enum { DISKS_MAX = 24, DISK_FILE_BYTES_MAX = 64 << 20 };

/* How a disk behaves; changed at any time. */
struct disk_faults {
    uint64_t call_ns_max; /* what a call takes */
    uint64_t sync_ns_min, sync_ns_max;
    uint32_t stall_ppm; /* of syncs that take up to stall_ns_max */
    uint64_t stall_ns_max;
    uint32_t write_error_ppm;
    uint32_t sync_error_ppm;
};

enum disk_end {
    DISK_KILL,  /* the process dies; what it wrote is in the cache */
    DISK_POWER, /* the machine dies: what is unsynced is lost, or not, sector by sector */
};

struct disk;

/* number: 1 to DISKS_MAX - 1. p: whose disk it is. */
struct disk *disk_new(unsigned number, struct process *p, uint64_t seed);
void disks_free(void);
struct disk *disk_of(const char *path); /* NULL: a real path */
struct disk_faults *disk_faults(struct disk *d);
void disk_wipe(struct disk *d);

/* The process dies at the call-th boundary from now (1: the next). 0: not any more. */
void disk_arm(struct disk *d, uint64_t call, enum disk_end end);
uint64_t disk_errors(const struct disk *d); /* injected so far */
/* The armed end has come. */
bool disk_met_end(const struct disk *d);
/* After the death of the process. The armed end that killed it, or else end, decides, and is
 * returned. */
enum disk_end disk_reboot(struct disk *d, enum disk_end end);

/* Flips a bit of what was synced into a file under dir, and had been synced before something behind
 * it was. False: there is no such file. */
bool disk_flip(struct disk *d, const char *dir);

bool disk_has(struct disk *d, const char *path); /* a file or directory */
/* Removes a directory with all that is in it, at once and for ever. */
void disk_drop(struct disk *d, const char *path);
/* Copies a file, or the files of a directory, between machines: durable, names included. */
void disk_copy(const char *from, const char *to);
