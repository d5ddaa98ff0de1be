/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP requests between members' peer ports: what server/transport.h calls a fetch.
 */
#pragma once

#include "tests/sim/machine.h"

void errands_init(void);
void errand_send(struct machine *from, struct transport_fetch *f);
/* What m waits for ends without an answer, on its current thread. */
void errands_stop(struct machine *m);
