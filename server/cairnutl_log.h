/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cairnutl log dump | verify: the raft log as text, also while the member runs.
 *
 *   log dump   --data-dir DIR [--wal-dir DIR]   {"commit":N}, then a line per entry in index order
 *   log verify --data-dir DIR [--wal-dir DIR]   reads and checks every record
 *
 * Returns the exit code: 0 done, 1 damaged or not readable (the reason is on err), 2 wrong usage.
 */
#pragma once

#include <stdio.h>

/* argv[0] is the word after "log". */
int cairnutl_log(int argc, char **argv, FILE *out, FILE *err);
