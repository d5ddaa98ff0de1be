/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The few file operations that the raft log and the data directory need, so that the simulator
 * can put a faulty disk behind them (file_posix.c in production, the simulator links its own).
 * Every call returns 0 or -errno; nothing is retried but EINTR and short writes. A failed write
 * or sync is final: see wal.h.
 */
#pragma once

#include <string.h>

#include "base/bytes.h"
#include "base/mem.h"

struct file;

enum { FILE_READ = 1, FILE_WRITE = 2, FILE_CREATE = 4, FILE_EXCLUSIVE = 8 };

int file_open(struct file **ret, const char *path, int flags); /* new files are 0600 */
struct file *file_close(struct file *f);                       /* accepts NULL */
static inline void file_closep(struct file **f)
{
    *f = file_close(*f);
}
int file_size(struct file *f, uint64_t *ret);
/* *ret_len is less than len only at the end of the file. */
int file_read(struct file *f, uint64_t offset, void *data, size_t len, size_t *ret_len);
int file_write(struct file *f, uint64_t offset, const void *data, size_t len);
int file_sync(struct file *f); /* fdatasync */
int file_truncate(struct file *f, uint64_t size);

int file_rename(const char *from, const char *to);
int file_remove(const char *path); /* -ENOENT is returned like any other */
int file_exists(const char *path, bool *ret);
int dir_make(const char *path); /* 0700; with its parents; an existing directory is fine */
int dir_sync(const char *path);
/* Of the directory that holds the name path. */
static inline int dir_sync_parent(const char *path)
{
    _cleanup_(mem_freep) char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');
    if (!slash)
        return dir_sync(".");
    slash[slash == parent ? 1 : 0] = '\0';
    return dir_sync(parent);
}
/* Calls visit for each name but "." and "..", in unspecified order. A non-zero result of visit
 * ends the walk and is returned. */
int dir_list(const char *path, int (*visit)(void *arg, const char *name), void *arg);

/* Exclusive lock on the file path (made if missing), held until file_close() or the end of the
 * process. -EWOULDBLOCK: held by another. */
int file_lock(struct file **ret, const char *path);
