/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A fault: a member is put back to an older copy of its disk, and so its log loses its tail, which
 * the leader counts on; then it ends once more (see old_copy.c).
 */
#pragma once

#include "raft/raft.h"
#include "tests/sim/machine.h"

void old_copy_init(void);
/* Copies a member's disk; in a while the member is put back to that, if the cluster can bear it. */
void old_copy_strike(void);
/* A leader that counts on what is lost ends: the next one asks what is there. */
void old_copy_heal(void);
/* Entries are still missing. */
bool old_copy_is_lost(const struct machine *m); /* NULL: no */

/* It acknowledged that entry to the leader of that term, who may count it. */
bool old_copy_counted(const struct machine *m, uint64_t index, uint64_t term);

/* Called from the taps: around each input of raft, at each ready, at the end of a life. */
void old_copy_before_step(struct machine *m);
void old_copy_stepped(struct machine *m);
void old_copy_ready(struct machine *m);
void old_copy_died(const struct machine *m);

/* A message leaves the member. False: it gets lost. */
bool old_copy_may_send(const struct machine *m, const struct raft_message *message);
