/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The operator of the cluster: adds, promotes, removes and replaces members and moves the leader,
 * one change at a time, through some member. What it asked for may fail or have an unknown end; it
 * then looks at the configuration and starts what belongs to it.
 */
#pragma once

#include "tests/sim/machine.h"

void operator_init(void);
void operator_start(void);
/* Starts every member of the configuration that does not run: nothing is asked for any more. */
void operator_settle(void);
/* Asks the leader, if there is one, to hand over to another voter. */
void operator_move_leader(void);
/* The process that was asked is gone. */
void operator_lose(const struct machine *m);
