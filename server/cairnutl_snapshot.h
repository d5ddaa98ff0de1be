/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cairnutl snapshot export | import: a stopped member's state as a snapshot file of etcd's, and
 * back.
 *
 *   snapshot export FILE --data-dir DIR [--wal-dir DIR] [--without-log]
 *       What `etcdctl snapshot save` would have got from the member. Entries that are in its log
 *       and not yet in its database would be missing: that is refused, unless --without-log.
 *   snapshot import FILE --data-dir DIR [--skip-hash-check]
 *       Makes a data directory for a founder of a new cluster with the file's keys, leases, alarms
 *       and compactions. Its first start founds the cluster, as its flags say; each founder imports
 *       the same file.
 *
 * Prints a line of JSON about the file. Returns the exit code: 0 done, 1 refused or failed (the
 * reason is on err), 2 wrong usage.
 */
#pragma once

#include <stdio.h>

/* argv[0] is the word after "snapshot". */
int cairnutl_snapshot(int argc, char **argv, FILE *out, FILE *err);
