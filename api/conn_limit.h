/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How many connections are open, in all and per address, although they were handed to libraries
 * that do not say when they close one.
 *
 * A socket has an inode number for as long as it lives, and a descriptor number is used again soon
 * after it is closed. So each connection is remembered under its descriptor with its inode: when
 * that descriptor comes again, or names another inode when looked at, the old connection is gone.
 * The counts are exact after conn_limit_sweep() and too high before, never too low.
 *
 * Thread: one.
 */
#pragma once

#include <sys/socket.h>

#include "base/bytes.h"

struct conn_limit;

struct conn_limit *conn_limit_new(size_t connections_max, size_t address_connections_max);
struct conn_limit *conn_limit_free(struct conn_limit *c);

/*
 * Counts the connection fd from peer (unix sockets have no address and no limit per address).
 * False: over a limit, also after a sweep; it is not counted. Sweeps happen at most once per
 * CONN_SWEEP_MS.
 */
bool conn_limit_add(struct conn_limit *c, int fd, const struct sockaddr *peer, uint64_t now_ms);
/* fd was closed by the caller. */
void conn_limit_remove(struct conn_limit *c, int fd);
void conn_limit_sweep(struct conn_limit *c);
size_t conn_limit_count(const struct conn_limit *c);

enum { CONN_SWEEP_MS = 200 };
