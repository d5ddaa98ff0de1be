/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong, at random moments, at the rates that the seed has chosen; and its end.
 */
#pragma once

#include "tests/sim/world.h"

struct machine;

void nemesis_start(void);
/* Ends all faults: the network works, disks are quick, what can run runs. */
void nemesis_heal(void);
/* A member begins to put the state of a snapshot in the place of its own. */
void nemesis_install(struct machine *m);
/* A member's process has ended, however: it is started again in a while. */
void nemesis_restart(struct machine *m);

/* The leader of the highest term, as its raft sees it; NULL: there is none. */
struct machine *nemesis_leader(void);
/* Members that the cluster can't count on. */
unsigned nemesis_hurt(void);
