/* SPDX-License-Identifier: Apache-2.0 */
/* The words of a raft script: one line, one command. */
#pragma once

#include "tests/raft/cluster.h"

/*
 * Runs one line against the cluster and appends what there is to see. An unknown or malformed
 * command says so in the output.
 */
void command_run(struct cluster *c, const char *line, struct buf *out);
