/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files ready to become segments of the raft log: written once from end to end, so that a sync
 * of frames in them is a matter of data alone (half the time of one that also has to record an
 * extent or a size). They come from old segments (wal_spares_give) or are written with zeros: in
 * the background when the log is about to need one, else on the spot.
 *
 * Thread: all functions from the log's owner; spare_thread() runs beside it, makes files and
 * removes them. It is started when first wanted, because a log that stays small never needs it,
 * and not at all with options.single_threaded, which makes the log's I/O a function of its
 * calls.
 *
 * Invariants
 *  (I1) A file gets its spare name only when it is written and synced to its full size.
 *  (I2) The contents of a spare mean nothing: frames in it have other lsns than they would need
 *       in their next life.
 *  (I3) Failing to make a spare in the background is not an error of the log: it is tried again
 *       on the spot, and fails there. If the disk was full, the owner of the database hears of it
 *       (room.lacks), because what a release gives back needs no room; it is kept whatever its
 *       size.
 *  (I4) What is made in the background takes no room that others need (room.fits): it is looked
 *       at again with every chunk, and what there is of the file is given back.
 *  (I5) On the spot it is made in what room there is, and waited for: the database may have taken
 *       all of it for a moment.
 */
#include "storage/wal_internal.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"

enum {
    ZERO_CHUNK_BYTES = 256 << 10,
    ZERO_SYNC_BYTES = 1 << 20,
    ROOM_LOOK_NS = 20 * 1000 * 1000,
};

static uint8_t zeros[ZERO_CHUNK_BYTES];

static bool spares_stopping(struct wal_spares *s)
{
    pthread_mutex_lock(&s->mutex);
    bool stopping = s->stopping;
    pthread_mutex_unlock(&s->mutex);
    return stopping;
}

static bool lacks_room(int r)
{
    return r == -ENOSPC || r == -EDQUOT;
}

static struct wal_room spares_room(struct wal_spares *s)
{
    pthread_mutex_lock(&s->mutex);
    struct wal_room room = s->room;
    pthread_mutex_unlock(&s->mutex);
    return room;
}

/* Syncs every so often, so that the log's own syncs meanwhile never wait for more than that. */
static int zero_fill(struct wal_spares *s, struct file *f, uint64_t bytes, bool ahead)
{
    struct wal_room room = spares_room(s);
    uint64_t synced = 0;
    for (uint64_t at = 0; at < bytes;) {
        if (ahead && room.fits && !room.fits(room.arg, bytes - at)) /* (I4) */
            return -ENOSPC;
        size_t len = bytes - at < ZERO_CHUNK_BYTES ? (size_t)(bytes - at) : ZERO_CHUNK_BYTES;
        int r = file_write(f, at, zeros, len);
        if (r < 0)
            return r;
        at += len;
        if (at < bytes && at - synced < ZERO_SYNC_BYTES)
            continue;
        r = file_sync(f);
        if (r < 0)
            return r;
        synced = at;
        if (at < bytes && spares_stopping(s))
            return -ECANCELED;
    }
    return 0;
}

static int spare_make(struct wal_spares *s, uint64_t id, uint64_t bytes, bool ahead,
                      struct file **ret)
{
    check(bytes > 0 && bytes % WAL_BLOCK_BYTES == 0);
    _cleanup_(mem_freep) char *path = wal_path_spare(s->dir, id);
    _cleanup_(mem_freep) char *tmp = mem_printf("%s.tmp", path);
    _cleanup_(file_closep) struct file *f = NULL;
    int r = file_open(&f, tmp, FILE_READ | FILE_WRITE | FILE_CREATE | FILE_EXCLUSIVE);
    if (r < 0)
        return r;
    r = zero_fill(s, f, bytes, ahead);
    if (r == 0)
        r = file_rename(tmp, path);
    if (r < 0) {
        (void)file_remove(tmp);
        return r;
    }
    *ret = f;
    f = NULL;
    return 0;
}

static void spare_thread_turn(struct wal_spares *s, uint64_t id, uint64_t bytes)
{
    struct file *f = NULL;
    int r = spare_make(s, id, bytes, true, &f);
    f = file_close(f);
    bool starved = lacks_room(r);
    pthread_mutex_lock(&s->mutex);
    bool told = starved && s->starved;
    s->starved = starved;
    if (r == 0) {
        check(s->n_ready < WAL_SPARES_MAX);
        s->ready[s->n_ready++] = (struct wal_spare){.id = id, .bytes = bytes};
    }
    s->wanted_bytes = 0;
    struct wal_room room = s->room;
    pthread_mutex_unlock(&s->mutex);
    if (r < 0 && r != -ECANCELED && !told)
        log_warn("failed to prepare a raft log segment", LOG_STR("dir", s->dir),
                 LOG_ERRNO("error", r));
    if (starved && room.lacks)
        room.lacks(room.arg);
}

static void remove_turn(struct wal_spares *s, uint64_t id)
{
    _cleanup_(mem_freep) char *path = wal_path_spare(s->dir, id);
    int r = file_remove(path);
    if (r < 0)
        log_warn("failed to remove an old raft log segment", LOG_STR("path", path),
                 LOG_ERRNO("error", r));
}

static void *spare_thread(void *arg)
{
    struct wal_spares *s = arg;
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        while (!s->wanted_bytes && !s->n_removals && !s->stopping)
            pthread_cond_wait(&s->wake, &s->mutex);
        if (s->stopping)
            break;
        uint64_t bytes = s->wanted_bytes;
        uint64_t id = bytes ? s->id_next++ : s->removals[--s->n_removals];
        pthread_mutex_unlock(&s->mutex);
        if (bytes)
            spare_thread_turn(s, id, bytes);
        else
            remove_turn(s, id);
        pthread_mutex_lock(&s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* The thread inherits a mask without any signal: they are for the composition root. */
static void spare_thread_start(struct wal_spares *s)
{
    if (s->started)
        return;
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    s->started = pthread_create(&s->thread, NULL, spare_thread, s) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

void wal_spares_init(struct wal_spares *s, const char *dir, const struct wal_options *options)
{
    uint32_t max = options->spare_segments_max ? options->spare_segments_max : 2;
    *s = (struct wal_spares){
        .dir = mem_strdup(dir),
        .kept_max = max < WAL_SPARES_MAX - 1 ? max : WAL_SPARES_MAX - 1,
        .segment_bytes = wal_round_up(
            options->segment_bytes ? options->segment_bytes : WAL_SEGMENT_BYTES, WAL_BLOCK_BYTES),
        .threaded = !options->single_threaded,
        .id_next = 1,
    };
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->wake, NULL);
}

void wal_spares_deinit(struct wal_spares *s)
{
    if (!s->dir)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->mutex);
        s->stopping = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->mutex);
        pthread_join(s->thread, NULL);
    }
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mutex);
    free(s->dir);
    s->dir = NULL;
}

/* Keeps the file if it has the right size and there is room; else has it removed: in the
 * background, since that takes milliseconds for a large one. What a stop leaves of that is done
 * after the next start. */
static int spares_keep(struct wal_spares *s, uint64_t id, uint64_t bytes)
{
    pthread_mutex_lock(&s->mutex);
    bool keep = (bytes == s->segment_bytes || s->starved) && s->n_ready < s->kept_max;
    bool later = !keep && s->threaded && s->n_removals < WAL_REMOVALS_MAX;
    if (keep)
        s->ready[s->n_ready++] = (struct wal_spare){.id = id, .bytes = bytes};
    else if (later)
        s->removals[s->n_removals++] = id;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    if (later)
        spare_thread_start(s);
    if (keep || later)
        return 0;
    _cleanup_(mem_freep) char *path = wal_path_spare(s->dir, id);
    int r = file_remove(path);
    return r < 0 ? err_origin(r) : 0;
}

int wal_spares_adopt(struct wal_spares *s, uint64_t id)
{
    _cleanup_(mem_freep) char *path = wal_path_spare(s->dir, id);
    _cleanup_(file_closep) struct file *f = NULL;
    uint64_t bytes = 0;
    int r = file_open(&f, path, FILE_READ);
    if (r == 0)
        r = file_size(f, &bytes);
    if (r < 0)
        return err_origin(r);
    pthread_mutex_lock(&s->mutex);
    if (id >= s->id_next)
        s->id_next = id + 1;
    pthread_mutex_unlock(&s->mutex);
    return spares_keep(s, id, bytes);
}

void wal_spares_want(struct wal_spares *s, uint64_t bytes)
{
    check(bytes > 0);
    if (!s->threaded)
        return;
    pthread_mutex_lock(&s->mutex);
    bool make = s->n_ready == 0 && s->wanted_bytes == 0;
    if (make)
        s->wanted_bytes = bytes;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    if (make)
        spare_thread_start(s);
}

/* Takes the largest ready file, if it is large enough; else only a number for a new one. */
static bool spares_pop(struct wal_spares *s, uint64_t min_bytes, uint64_t *ret_id)
{
    pthread_mutex_lock(&s->mutex);
    size_t best = 0;
    for (size_t i = 1; i < s->n_ready; i++)
        if (s->ready[i].bytes > s->ready[best].bytes)
            best = i;
    bool found = s->n_ready > 0 && s->ready[best].bytes >= min_bytes;
    if (found) {
        *ret_id = s->ready[best].id;
        s->ready[best] = s->ready[--s->n_ready];
    } else {
        *ret_id = s->id_next++;
    }
    pthread_mutex_unlock(&s->mutex);
    return found;
}

/* (I5) */
static int spare_make_now(struct wal_spares *s, uint64_t id, uint64_t bytes, struct file **ret)
{
    const struct timespec pause = {.tv_nsec = ROOM_LOOK_NS};
    struct wal_room room = spares_room(s);
    uint64_t end_ms = clock_mono_ms() + room.wait_ms;
    int r = spare_make(s, id, bytes, false, ret);
    if (!lacks_room(r) || room.wait_ms == 0 || !s->threaded)
        return r;
    log_warn("the disk is full: the raft log waits for room", LOG_STR("dir", s->dir));
    if (room.lacks)
        room.lacks(room.arg);
    while (lacks_room(r) && clock_mono_ms() < end_ms) {
        (void)nanosleep(&pause, NULL);
        r = spare_make(s, id, bytes, false, ret);
    }
    if (r == 0)
        log_info("there is room for the raft log again");
    return r;
}

int wal_spares_take(struct wal_spares *s, uint64_t min_bytes, uint64_t new_bytes, uint64_t *ret_id,
                    struct file **ret)
{
    check(min_bytes <= new_bytes);
    uint64_t id;
    struct file *f = NULL;
    int r;
    if (spares_pop(s, min_bytes, &id)) {
        _cleanup_(mem_freep) char *path = wal_path_spare(s->dir, id);
        r = file_open(&f, path, FILE_READ | FILE_WRITE);
    } else {
        r = spare_make_now(s, id, new_bytes, &f);
    }
    if (r < 0)
        return err_origin(r);
    *ret_id = id;
    *ret = f;
    return 0;
}

int wal_spares_give(struct wal_spares *s, const char *path, uint64_t bytes)
{
    pthread_mutex_lock(&s->mutex);
    uint64_t id = s->id_next++;
    pthread_mutex_unlock(&s->mutex);
    _cleanup_(mem_freep) char *spare = wal_path_spare(s->dir, id);
    int r = file_rename(path, spare);
    return r < 0 ? err_origin(r) : spares_keep(s, id, bytes);
}
