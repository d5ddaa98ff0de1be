/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fewer packets: gRPC writes each answer with a system call of its own, and on each the kernel
 * sends a segment and wakes the peer. When several answers for one connection are ready, the socket
 * is corked (TCP_CORK) around them and they leave together.
 *
 * A cork is advice on a descriptor number, nothing more: the socket belongs to gRPC, which may
 * close it at any time, and the number may then mean something else. So only cork_hold() and
 * cork_release() ever use the number, always as a pair; on a foreign socket that is harmless, on
 * anything else it fails.
 *
 * Thread: any (a mutex inside).
 */
#pragma once

#include "base/bytes.h"

struct cork;

struct cork *cork_new(void);
struct cork *cork_free(struct cork *c);
/* A connection that gRPC is about to take. A connection that had the same number before is
 * forgotten. */
void cork_add(struct cork *c, int fd);
/* The descriptor of the connection with that peer, as grpc_call_get_peer() names it; -1: not known.
 */
int cork_find(struct cork *c, const char *peer);
/* No connection is written to any more: what was written still arrives, and then its end. Advice,
 * too: a number that means another peer by now is left alone. */
void cork_end_all(struct cork *c);
void cork_hold(int fd);
void cork_release(int fd);
