/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on the disk: that it runs short is seen before a write fails, and some of it is set aside.
 *
 * Short means that less than a sixteenth of a file system is free, at least DISK_SHORT_BYTES_MIN
 * and at most DISK_SHORT_BYTES_MAX. Then this member raises the NOSPACE alarm, what grows is
 * refused, and the database is flushed early, while that still fits.
 *
 * The ballast is a file that takes room while there is plenty of it. It is removed when a start, or
 * a flush that can't wait, would not fit otherwise or did not, and made again when there is room.
 * Whoever has filled the disk may take that room too, so it is given up for nothing less.
 *
 * Thread: disk_room_check() from the housekeeper, open and close from the composition root, the
 * rest from any.
 */
#pragma once

#include "base/bytes.h"
#include "storage/db.h"

struct disk_room;

enum {
    DISK_SHORT_FRACTION = 16,
    DISK_SHORT_BYTES_MIN = 16 << 20,
    DISK_SHORT_BYTES_MAX = 256 << 20,
    DISK_BALLAST_BYTES = 2 * DB_WRITE_BUFFER_BYTES, /* all that a replay leaves to be flushed */
    DISK_START_BYTES_MIN = 4 << 20,                 /* the database writes that much to open */
};

#define DISK_BALLAST_NAME "BALLAST"

/* Before the database is opened, which must not meet a full disk: it would crash. Outcome 1: there
 * is too little room to start, also without the ballast; the reason is logged. */
int disk_room_open(struct disk_room **ret, const char *data_dir, const char *wal_dir);
struct disk_room *disk_room_close(struct disk_room *room); /* accepts NULL; the ballast stays */
/* Looks at the disks and makes the ballast if there is room for it. */
void disk_room_check(struct disk_room *room);
/* As the last check saw it. */
bool disk_room_short(const struct disk_room *room);
/* True: so many bytes are free in the data directory. */
bool disk_room_has(const struct disk_room *room, uint64_t bytes);
/* True: bytes can be written there as it is; nobody holds the room. */
bool disk_room_fits(const struct disk_room *room, uint64_t bytes);
/* True: bytes can be written to the log's directory, for later, and the disk is not short then. */
bool disk_room_fits_ahead(const struct disk_room *room, uint64_t bytes);
/* As disk_room_fits(), and if not, gives up the ballast for it. */
bool disk_room_make(struct disk_room *room, uint64_t bytes);
/* Until it is let go, nothing fits for anybody: who holds the room may take all of it for a while,
 * and others who write then would fail. Several may hold it. */
void disk_room_hold(struct disk_room *room);
void disk_room_let_go(struct disk_room *room);
/* A write has failed for want of room: gives up the ballast. */
void disk_room_give_up(struct disk_room *room);
