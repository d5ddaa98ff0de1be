/* SPDX-License-Identifier: Apache-2.0 */
/*
 * file.h on a real file system. Owns nothing but descriptors; logs nothing, because only the
 * caller knows what the file means.
 *
 * Thread: any; one struct file belongs to one thread at a time.
 *
 * Invariants
 *  (I1) EINTR and short reads and writes are continued; every other error is returned at once
 *       and nothing is tried twice, least of all a sync: the kernel reports a lost write once
 *       and then calls the page clean.
 *  (I2) A directory that dir_make() made is durable when it returns: each new name is synced in
 *       its parent.
 *  (I3) Descriptors are close-on-exec.
 */
#include "storage/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mem.h"

struct file {
    int fd;
};

static int open_retry(const char *path, int flags, mode_t mode)
{
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : fd;
}

int file_open(struct file **ret, const char *path, int flags)
{
    check(flags & (FILE_READ | FILE_WRITE));
    int open_flags = !(flags & FILE_WRITE) ? O_RDONLY : !(flags & FILE_READ) ? O_WRONLY : O_RDWR;
    if (flags & FILE_CREATE)
        open_flags |= O_CREAT;
    if (flags & FILE_EXCLUSIVE)
        open_flags |= O_EXCL;
    int fd = open_retry(path, open_flags, 0600);
    if (fd < 0)
        return fd;
    struct file *f = mem_new(struct file);
    f->fd = fd;
    *ret = f;
    return 0;
}

struct file *file_close(struct file *f)
{
    if (!f)
        return NULL;
    /* Nothing rests on what close() reports: whoever needs the data has synced it. */
    (void)close(f->fd);
    free(f);
    return NULL;
}

int file_size(struct file *f, uint64_t *ret)
{
    struct stat st;
    if (fstat(f->fd, &st) < 0)
        return -errno;
    *ret = (uint64_t)st.st_size;
    return 0;
}

int file_read(struct file *f, uint64_t offset, void *data, size_t len, size_t *ret_len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (char *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *ret_len = done;
    return 0;
}

int file_write(struct file *f, uint64_t offset, const void *data, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(f->fd, (const char *)data + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        done += (size_t)n;
    }
    return 0;
}

int file_sync(struct file *f)
{
    return fdatasync(f->fd) < 0 ? -errno : 0;
}

int file_truncate(struct file *f, uint64_t size)
{
    int r;
    do
        r = ftruncate(f->fd, (off_t)size);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int file_rename(const char *from, const char *to)
{
    return rename(from, to) < 0 ? -errno : 0;
}

int file_remove(const char *path)
{
    return unlink(path) < 0 ? -errno : 0;
}

int file_exists(const char *path, bool *ret)
{
    struct stat st;
    bool found = stat(path, &st) == 0;
    if (!found && errno != ENOENT)
        return -errno;
    *ret = found;
    return 0;
}

int dir_sync(const char *path)
{
    int fd = open_retry(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    int r = fsync(fd) < 0 ? -errno : 0;
    (void)close(fd);
    return r;
}

static int dir_make_one(const char *path)
{
    if (mkdir(path, 0700) == 0)
        return dir_sync_parent(path);
    if (errno != EEXIST)
        return -errno;
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int dir_make(const char *path)
{
    _cleanup_(mem_freep) char *part = mem_strdup(path);
    size_t len = strlen(part);
    if (len == 0)
        return -EINVAL;
    while (len > 1 && part[len - 1] == '/')
        part[--len] = '\0';
    for (size_t i = 1; i < len; i++) {
        if (part[i] != '/' || part[i - 1] == '/')
            continue;
        part[i] = '\0';
        int r = dir_make_one(part);
        if (r < 0)
            return r;
        part[i] = '/';
    }
    return dir_make_one(part);
}

int dir_list(const char *path, int (*visit)(void *arg, const char *name), void *arg)
{
    DIR *d = opendir(path);
    if (!d)
        return -errno;
    int r = 0;
    while (r == 0) {
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            r = -errno;
            break;
        }
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = visit(arg, e->d_name);
    }
    (void)closedir(d);
    return r;
}

int file_lock(struct file **ret, const char *path)
{
    struct file *f = NULL;
    int r = file_open(&f, path, FILE_READ | FILE_WRITE | FILE_CREATE);
    if (r < 0)
        return r;
    do
        r = flock(f->fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
    while (r == -EINTR);
    if (r < 0) {
        f = file_close(f);
        return r;
    }
    *ret = f;
    return 0;
}
