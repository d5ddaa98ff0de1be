/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Closed stores of RocksDB as directories: one takes the place of another, or goes.
 *
 * Thread: any; the stores are closed and nobody else touches them.
 */
#include "storage/db_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "storage/db.h"
#include "storage/file.h"

/* Where a file system can't exchange two names, the old store waits under a third. If only that is
 * there, a crash came between the two renames: the first is undone. */
static char *aside_of(const char *path)
{
    return mem_printf("%s.old", path);
}

static int exchange_in_two(const char *next, const char *path)
{
    _cleanup_(mem_freep) char *aside = aside_of(path);
    int r = file_rename(path, aside);
    if (r == 0)
        r = dir_sync_parent(path);
    if (r == 0)
        r = file_rename(next, path);
    if (r == 0)
        r = dir_sync_parent(path);
    return r == 0 ? db_remove(aside) : r;
}

int db_files_recover(const char *path)
{
    _cleanup_(mem_freep) char *aside = aside_of(path);
    bool there = false, aside_there = false;
    int r = file_exists(path, &there);
    if (r == 0)
        r = file_exists(aside, &aside_there);
    if (r < 0 || !aside_there)
        return r;
    if (there)
        return db_remove(aside);
    r = file_rename(aside, path);
    return r == 0 ? dir_sync_parent(path) : r;
}

static int exchange(const char *next, const char *path)
{
    bool there;
    int r = file_exists(path, &there);
    if (r == 0 && !there)
        return file_rename(next, path);
    if (r < 0 || renameat2(AT_FDCWD, next, AT_FDCWD, path, RENAME_EXCHANGE) == 0)
        return r;
    return errno == EINVAL || errno == ENOSYS ? exchange_in_two(next, path) : -errno;
}

int db_exchange(const char *next, const char *path)
{
    int r = exchange(next, path);
    if (r == 0)
        r = dir_sync_parent(path);
    if (r == 0)
        r = dir_sync_parent(next);
    return r < 0 ? err_origin(r) : 0;
}

static int remove_name(void *arg, const char *name)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/%s", (const char *)arg, name);
    return file_remove(path);
}

/* A store's directory has no others in it. */
int db_remove(const char *path)
{
    int r = dir_list(path, remove_name, (void *)(uintptr_t)path);
    if (r == 0 && rmdir(path) < 0)
        r = -errno;
    return r < 0 && r != -ENOENT ? err_origin(r) : 0;
}
