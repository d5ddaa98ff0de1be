/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The network between the machines: server/transport.h towards the member that sends,
 * server/peer_door.h towards the one that receives. Messages take time, are lost, repeated and
 * overtaken; links are cut one way or both.
 */
#pragma once

#include "tests/sim/machine.h"

void network_init(uint64_t seed);
void network_attach(struct machine *m);
/* What m waits for ends without an answer, on its current thread. */
void network_stop(struct machine *m);
/* From one machine to another, that direction only. */
void network_cut(unsigned from, unsigned to, bool cut);
void network_heal(void);
bool network_reaches(const struct machine *from, const struct machine *to);
/* No more loss, repetition and reordering. */
void network_calm(void);

struct network_counts {
    uint64_t sent, delivered, lost, repeated, snapshots, snapshots_lost;
};
struct network_counts network_counts(void);
