/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data directory (see data_dir.h).
 *
 * Thread: the composition root's.
 */
#include "server/data_dir.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "storage/file.h"

/* Others must not be able to change the data; that they can read it is worth a warning, as in etcd.
 */
static int check_permissions(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return err_origin(-errno);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022)) {
        log_error(
            "data directory must be a directory of this user that nobody else can write to",
            LOG_STR("path", path), LOG_U64("owner", st.st_uid),
            LOG_U64("mode-octal", (uint64_t)(((st.st_mode >> 6) & 7) * 100 +
                                             ((st.st_mode >> 3) & 7) * 10 + (st.st_mode & 7))));
        return 1;
    }
    if (st.st_mode & 077)
        log_warn("check file permission", LOG_STR("path", path),
                 LOG_STR("error", "others can read the data directory; 0700 is recommended"));
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

static int prepare(struct data_dir *d)
{
    int r = dir_make(d->path);

    if (r == 0)
        r = check_permissions(d->path);
    if (r == 0)
        r = refuse_etcd_data(d->path);
    if (r == 0)
        r = take_lock(d);
    if (r == 0) {
        char *member = mem_printf("%s/member", d->path);
        r = dir_make(member);
        free(member);
    }
    if (r < 0)
        log_error("cannot use the data directory", LOG_STR("path", d->path), LOG_ERRNO("error", r));
    return r < 0 ? 1 : r;
}

int data_dir_open(struct data_dir **ret, const char *path, const char *wal_path)
{
    struct data_dir *d = mem_new(struct data_dir);
    int r;

    d->path = mem_strdup(path);
    d->wal = wal_path && wal_path[0] ? mem_strdup(wal_path) : mem_printf("%s/member/wal", path);
    d->db = mem_printf("%s/member/db", path);
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
    file_close(d->lock);
    free(d->path);
    free(d->wal);
    free(d->db);
    free(d);
    return NULL;
}
