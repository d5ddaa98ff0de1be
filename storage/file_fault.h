/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk in memory that fails on demand, behind file.h; tests link it instead of file_posix.c.
 * One disk per process, one thread.
 *
 * Each file has what a reader sees (the cache) and what survives a power loss (the disk),
 * 512-byte sectors; each directory change is pending until dir_sync(). Unsynced sectors reach
 * the disk at random moments, as a kernel writes them back.
 */
#pragma once

#include "storage/file.h"

enum fault_kind {
    FAULT_NONE,
    FAULT_ERROR, /* that call fails; a write is cut short, a sync forgets what was unsynced */
    FAULT_POWER, /* from that call on the power is off: nothing has an effect, everything fails */
};

void fault_reset(uint64_t seed); /* an empty disk; all files must be closed */
/* The call-th call from now on that changes or syncs something (1 = the next) meets the fault. */
void fault_arm(uint64_t call, enum fault_kind kind);
bool fault_met(void); /* the armed fault has happened */
bool fault_power_is_off(void);
uint64_t fault_calls(void); /* calls that change or sync something, since fault_reset() */
uint64_t fault_syncs(void); /* file syncs among them */
/* Power loss and power on: each unsynced sector and directory change is kept or lost at random.
 * Open files stay closeable. */
void fault_power_cycle(void);

/* The whole disk, to return to. */
struct fault_image;
struct fault_image *fault_save(void);
void fault_restore(const struct fault_image *image);
struct fault_image *fault_image_free(struct fault_image *image);

/* Damage, in cache and disk alike. */
uint64_t fault_size(const char *path); /* 0 if there is no such file */
void fault_flip(const char *path, uint64_t bit);
void fault_cut(const char *path, uint64_t size);
void fault_copy(const char *path, uint64_t offset, uint8_t *data, size_t len); /* reads */
void fault_patch(const char *path, uint64_t offset, const uint8_t *data, size_t len);
