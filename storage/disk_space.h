/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much room there is on a disk. In a file of its own, so that a test can put a disk of any size
 * behind it: whoever defines disk_space() itself links that one.
 *
 * Thread: any.
 */
#pragma once

#include <stdint.h>

struct disk_space {
    uint64_t bytes;      /* of the whole file system; 0: it does not say */
    uint64_t free_bytes; /* that an ordinary process may still write */
};

/* Of the file system that path lies on. -errno. */
int disk_space(const char *path, struct disk_space *ret);
