/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Room on a disk, as the file system tells it (see disk_space.h).
 *
 * Thread: any. No state.
 */
#include "storage/disk_space.h"

#include <errno.h>
#include <sys/statvfs.h>

int disk_space(const char *path, struct disk_space *ret)
{
    struct statvfs v;

    if (statvfs(path, &v) < 0)
        return -errno;
    *ret = (struct disk_space){.bytes = (uint64_t)v.f_blocks * v.f_frsize,
                               .free_bytes = (uint64_t)v.f_bavail * v.f_frsize};
    return 0;
}
