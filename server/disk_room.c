/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on the disk (see disk_room.h).
 *
 *   free    0 ................ mark ........ 5/4 mark .............. 2 mark + ballast .......
 *             becomes short <--|             |--> is short no more   |--> the ballast is made
 *
 * Invariants:
 *   (I1) making the ballast never brings the disk near to being short.
 *   (I2) what can't be measured is taken for plenty: the writes themselves then tell.
 *   (I3) the room that the ballast gave is no room to grow: until there is one again, the marks are
 *        higher by it.
 */
#include "server/disk_room.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/disk_space.h"
#include "storage/file.h"

enum { PLACES = 2 };

struct disk_room {
    char *places[PLACES]; /* directories: data, log; often on one file system */
    char *ballast;
    _Atomic bool is_short;
    _Atomic unsigned holders;

    pthread_mutex_t lock; /* guards what follows */
    bool has_ballast;
    bool no_ballast; /* the file system can't set room aside */
    bool spent;      /* given up, and not made again (I3) */
};

/* (I2) */
static struct disk_space measure(const char *path)
{
    struct disk_space space;

    if (disk_space(path, &space) < 0 || space.bytes == 0)
        return (struct disk_space){UINT64_MAX, UINT64_MAX};
    return space;
}

static uint64_t short_bytes(uint64_t disk_bytes)
{
    uint64_t bytes = disk_bytes / DISK_SHORT_FRACTION;

    if (bytes < DISK_SHORT_BYTES_MIN)
        return DISK_SHORT_BYTES_MIN;
    return bytes < DISK_SHORT_BYTES_MAX ? bytes : DISK_SHORT_BYTES_MAX;
}

/* ---- the ballast; under the lock ---- */

static int reserve(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int r = 0;

    if (fd < 0)
        return -errno;
    if (fallocate(fd, 0, 0, DISK_BALLAST_BYTES) < 0)
        r = -errno;
    close(fd);
    return r;
}

static void make_ballast(struct disk_room *room)
{
    int r = reserve(room->ballast);

    room->has_ballast = r == 0;
    room->no_ballast = r < 0;
    room->spent = false;
    if (r == 0)
        return;
    (void)file_remove(room->ballast);
    log_warn("no room can be set aside for the day when the disk is full",
             LOG_STR("path", room->ballast), LOG_ERRNO("error", r));
}

/* False: there is none, or it can't be removed. */
static bool give_up_ballast(struct disk_room *room)
{
    int r;

    if (!room->has_ballast)
        return false;
    r = file_remove(room->ballast);
    room->has_ballast = false;
    if (r < 0) {
        log_error("the ballast can't be removed", LOG_STR("path", room->ballast),
                  LOG_ERRNO("error", r));
        return false;
    }
    room->spent = true;
    log_warn("the disk is nearly full: the room that was set aside is given up",
             LOG_STR("path", room->ballast), LOG_U64("bytes", DISK_BALLAST_BYTES));
    return true;
}

/* ---- the doors ---- */

bool disk_room_has(const struct disk_room *room, uint64_t bytes)
{
    return measure(room->places[0]).free_bytes >= bytes;
}

bool disk_room_fits(const struct disk_room *room, uint64_t bytes)
{
    return atomic_load(&room->holders) == 0 && disk_room_has(room, bytes);
}

bool disk_room_fits_ahead(const struct disk_room *room, uint64_t bytes)
{
    struct disk_space space = measure(room->places[1]);

    return atomic_load(&room->holders) == 0 && space.free_bytes >= bytes &&
           space.free_bytes - bytes >= short_bytes(space.bytes);
}

void disk_room_hold(struct disk_room *room)
{
    atomic_fetch_add(&room->holders, 1);
}

void disk_room_let_go(struct disk_room *room)
{
    check(atomic_fetch_sub(&room->holders, 1) > 0);
}

bool disk_room_make(struct disk_room *room, uint64_t bytes)
{
    bool fits = disk_room_fits(room, bytes);

    pthread_mutex_lock(&room->lock);
    if (!fits && atomic_load(&room->holders) == 0 && give_up_ballast(room))
        fits = disk_room_fits(room, bytes);
    pthread_mutex_unlock(&room->lock);
    return fits;
}

void disk_room_give_up(struct disk_room *room)
{
    pthread_mutex_lock(&room->lock);
    (void)give_up_ballast(room);
    pthread_mutex_unlock(&room->lock);
}

/* Of all places. Under the lock. */
static bool look(struct disk_room *room, bool was)
{
    bool now = false;

    for (int i = 0; i < PLACES; i++) {
        struct disk_space space = measure(room->places[i]);
        uint64_t mark = short_bytes(space.bytes);
        if (was)
            mark += mark / 4;
        if (room->spent && i == 0)
            mark += DISK_BALLAST_BYTES; /* (I3) */
        bool here = space.free_bytes < mark;
        if (here && !was && !now)
            log_warn(
                "the disk is nearly full: raising the NOSPACE alarm; make room, then disarm it",
                LOG_STR("dir", room->places[i]), LOG_U64("free-bytes", space.free_bytes),
                LOG_U64("wanted-bytes", mark));
        now |= here;
    }
    if (was && !now)
        log_info("there is room on the disk again; the NOSPACE alarm can be disarmed");
    return now;
}

void disk_room_check(struct disk_room *room)
{
    struct disk_space space = measure(room->places[0]);
    bool now;

    pthread_mutex_lock(&room->lock);
    now = look(room, disk_room_short(room));
    if (!room->has_ballast && !room->no_ballast &&
        space.free_bytes / 2 >= short_bytes(space.bytes) + DISK_BALLAST_BYTES / 2) /* (I1) */
        make_ballast(room);
    pthread_mutex_unlock(&room->lock);
    atomic_store_explicit(&room->is_short, now, memory_order_release);
}

bool disk_room_short(const struct disk_room *room)
{
    return atomic_load_explicit(&room->is_short, memory_order_acquire);
}

int disk_room_open(struct disk_room **ret, const char *data_dir, const char *wal_dir)
{
    struct disk_room *room = mem_new(struct disk_room);

    room->places[0] = mem_strdup(data_dir);
    room->places[1] = mem_strdup(wal_dir);
    room->ballast = mem_printf("%s/" DISK_BALLAST_NAME, data_dir);
    pthread_mutex_init(&room->lock, NULL);
    room->has_ballast = access(room->ballast, F_OK) == 0;
    if (!disk_room_make(room, DISK_BALLAST_BYTES) && !disk_room_make(room, DISK_START_BYTES_MIN)) {
        log_error("the disk is full: make room and start again; nothing that was acknowledged is "
                  "lost",
                  LOG_STR("dir", data_dir), LOG_U64("free-bytes", measure(data_dir).free_bytes),
                  LOG_U64("wanted-bytes", DISK_START_BYTES_MIN));
        disk_room_close(room);
        return 1;
    }
    *ret = room;
    return 0;
}

struct disk_room *disk_room_close(struct disk_room *room)
{
    if (!room)
        return NULL;
    for (int i = 0; i < PLACES; i++)
        free(room->places[i]);
    free(room->ballast);
    pthread_mutex_destroy(&room->lock);
    free(room);
    return NULL;
}
