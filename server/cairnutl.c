/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cairnutl: what can be done with a member's files without a running server.
 *
 * Thread: main.
 */
#include <stdio.h>
#include <string.h>

#include "server/cairnutl_log.h"
#include "server/cairnutl_snapshot.h"

static int usage(FILE *out)
{
    fputs("usage: cairnutl COMMAND [ARGUMENTS]\n"
          "  log dump --data-dir DIR    the raft log as JSON lines; safe while the member runs\n"
          "  log verify --data-dir DIR  reads every record and says whether the log is whole\n"
          "  snapshot export FILE --data-dir DIR  a stopped member as a snapshot file of etcd's\n"
          "  snapshot import FILE --data-dir DIR  a data directory for a new cluster\n"
          "  version                    the versions of this program\n",
          out);
    return out == stdout ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";

    if (strcmp(command, "log") == 0)
        return cairnutl_log(argc - 2, argv + 2, stdout, stderr);
    if (strcmp(command, "snapshot") == 0)
        return cairnutl_snapshot(argc - 2, argv + 2, stdout, stderr);
    if (strcmp(command, "version") == 0) {
        printf("cairnutl version: %s\nAPI version: 3.7\n", CAIRN_VERSION);
        return 0;
    }
    return usage(strcmp(command, "help") == 0 || strcmp(command, "--help") == 0 ? stdout : stderr);
}
