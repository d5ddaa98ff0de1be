/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data directory: who may use it and where things lie in it.
 *
 *   DIR/             0700
 *     LOCK           held for the life of the process
 *     member/wal/    the raft log (or --wal-dir)
 *     member/db/     the database
 *     member/snap/   snapshots on their way in or out
 */
#pragma once

#include "base/bytes.h"

struct data_dir {
    char *path;
    char *wal;
    char *db;
    char *snap;
    struct file *lock;
    int wal_fd; /* the log's directory, locked too: two data directories may name one --wal-dir */
};

/* True: there is neither a raft log nor a database, so a start would be the member's first. Changes
 * nothing. False also when that can't be found out. */
bool data_dir_is_new(const char *path, const char *wal_path);
/* Makes and locks it. Outcome 1: refused, the reason is logged (in use by another process, an etcd
 * data
 * directory; in etcd's words when it can't be listed or made). */
int data_dir_open(struct data_dir **ret, const char *path, const char *wal_path);
struct data_dir *data_dir_close(struct data_dir *d);
