/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data directory (see data_dir.h).
 *
 * Thread: the composition root's.
 */
#include "server/data_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/file.h"

/* Lax permissions are worth a warning, as in etcd, and no more: volumes that a cluster manager made
 * are often writable for a group. */
static int check_permissions(const char *path)
{
    _cleanup_(mem_freep) char *text = NULL;
    struct stat st;

    if (stat(path, &st) < 0)
        return err_origin(-errno);
    if (!S_ISDIR(st.st_mode))
        return err_origin(-ENOTDIR);
    if ((st.st_mode & 0777) == 0700)
        return 0;
    text = mem_printf("directory \"%s\" exist, but the permission is \"%04o\". The recommended "
                      "permission is \"0700\" to prevent possible unprivileged access to the data",
                      path, st.st_mode & 07777);
    log_warn("check file permission", LOG_STR("error", text));
    return 0;
}

static int refuse_etcd_data(const char *path)
{
    char *db = mem_printf("%s/member/snap/db", path);
    bool exists = false;
    int r = file_exists(db, &exists);

    if (r == 0 && exists) {
        log_error("this is an etcd data directory; move the member by snapshot or by joining its "
                  "cluster, and start with an empty directory",
                  LOG_STR("found", db));
        r = 1;
    }
    free(db);
    return r;
}

static int take_lock(struct data_dir *d)
{
    char *path = mem_printf("%s/LOCK", d->path);
    int r = file_lock(&d->lock, path);

    if (r == -EWOULDBLOCK) {
        log_error("data directory is in use by another process", LOG_STR("path", path));
        r = 1;
    }
    free(path);
    return r;
}

static int ignore_name(void *arg, const char *name)
{
    (void)arg;
    (void)name;
    return 0;
}

/* As in etcd, what can't be listed is refused first; that it isn't there yet is fine. */
static int check_list(const char *path)
{
    int r = dir_list(path, ignore_name, NULL);
    struct stat st;

    if (r == 0 || r == -ENOENT)
        return 0;
    bool is_file = stat(path, &st) == 0 && !S_ISDIR(st.st_mode);
    _cleanup_(mem_freep) char *why =
        mem_printf("%s %s: %s", is_file ? "readdirent" : "open", path, err_text(r).text);
    log_error("failed to list data directory", LOG_STR("dir", path), LOG_STR("error", why));
    return 1;
}

/* The part of the path up to the first directory that is not there: the one that can't be made. */
static char *first_missing(const char *path)
{
    char *part = mem_strdup(path);
    struct stat st;

    for (size_t i = 1; part[i]; i++) {
        if (part[i] != '/')
            continue;
        part[i] = '\0';
        if (stat(part, &st) < 0)
            return part;
        part[i] = '/';
    }
    return part;
}

/* what: "data" or "member". */
static int make(const char *path, const char *what)
{
    int r = dir_make(path);

    if (r == 0)
        return 0;
    _cleanup_(mem_freep) char *missing = first_missing(path),
                              *why = mem_printf("cannot access %s directory: mkdir %s: %s", what,
                                                missing, err_text(r).text);
    log_error("can't make the data directory", LOG_STR("dir", path), LOG_STR("error", why));
    return 1;
}

static int lock_wal(struct data_dir *d)
{
    int r = make(d->wal, "wal");

    if (r != 0)
        return r;
    d->wal_fd = open(d->wal, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->wal_fd < 0)
        return err_origin(-errno);
    if (flock(d->wal_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno != EWOULDBLOCK)
        return err_origin(-errno);
    log_error("raft log directory is in use by another process", LOG_STR("path", d->wal));
    return 1;
}

static int prepare(struct data_dir *d)
{
    int r = check_list(d->path);

    if (r == 0)
        r = make(d->path, "data");
    if (r == 0)
        r = check_permissions(d->path);
    if (r == 0)
        r = refuse_etcd_data(d->path);
    if (r == 0)
        r = take_lock(d);
    if (r == 0) {
        char *member = mem_printf("%s/member", d->path);
        r = make(member, "member");
        free(member);
    }
    if (r == 0)
        r = lock_wal(d);
    if (r < 0)
        log_error("cannot use the data directory", LOG_STR("path", d->path),
                  LOG_STR("error", err_text(r).text));
    return r < 0 ? 1 : r;
}

static char *wal_of(const char *path, const char *wal_path)
{
    return wal_path && wal_path[0] ? mem_strdup(wal_path) : mem_printf("%s/member/wal", path);
}

static int found_name(void *arg, const char *name)
{
    (void)arg;
    (void)name;
    return 1;
}

static bool is_empty(const char *path)
{
    int r = dir_list(path, found_name, NULL);

    return r == 0 || r == -ENOENT;
}

bool data_dir_is_new(const char *path, const char *wal_path)
{
    _cleanup_(mem_freep) char *wal = wal_of(path, wal_path), *db = mem_printf("%s/member/db", path);

    return is_empty(wal) && is_empty(db);
}

int data_dir_open(struct data_dir **ret, const char *path, const char *wal_path)
{
    struct data_dir *d = mem_new(struct data_dir);
    int r;

    d->wal_fd = -1;
    d->path = mem_strdup(path);
    d->wal = wal_of(path, wal_path);
    d->db = mem_printf("%s/member/db", path);
    d->snap = mem_printf("%s/member/snap", path);
    r = prepare(d);
    if (r != 0) {
        data_dir_close(d);
        return r;
    }
    *ret = d;
    return 0;
}

struct data_dir *data_dir_close(struct data_dir *d)
{
    if (!d)
        return NULL;
    if (d->wal_fd >= 0)
        close(d->wal_fd);
    file_close(d->lock);
    free(d->path);
    free(d->wal);
    free(d->db);
    free(d->snap);
    free(d);
    return NULL;
}
