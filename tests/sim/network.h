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
/* Its process is gone. */
void network_died(struct machine *m);
/* From one machine to another, that direction only. */
void network_cut(unsigned from, unsigned to, bool cut);
void network_heal(void);
/* Messages take longer by so much, in that direction; 0: not any more. */
void network_slow(unsigned from, unsigned to, uint64_t ns);
bool network_reaches(const struct machine *from, const struct machine *to);
bool network_answers(const struct machine *from, const struct machine *to); /* and back */
uint64_t network_latency(void);
/* No more loss, repetition and reordering. */
void network_calm(void);
/* What was sent while links lagged has arrived: nothing waits behind it any more. */
bool network_has_calmed(void);

/* All connections break, without any loss, and are there again at once. */
void network_break(void);

struct network_counts {
    uint64_t sent, delivered, lost, repeated, snapshots, snapshots_lost;
};
struct network_counts network_counts(void);
