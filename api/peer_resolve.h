/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the host of a URL to socket addresses. Numbers and paths of unix sockets are read at once;
 * names are looked up by the system, which may take long, on a thread of their own each.
 *
 * Thread: the loop.
 */
#pragma once

#include <sys/socket.h>

#include "api/peer_loop.h"
#include "server/config.h"

enum { PEER_ADDRESSES_MAX = 8, PEER_LOOKUPS_MAX = 32 };

struct peer_address {
    struct sockaddr_storage storage;
    socklen_t len;
};

struct peer_addresses {
    struct peer_address items[PEER_ADDRESSES_MAX];
    size_t len;
};

/* False: it is a name, or nothing at all. */
bool peer_address_read(const struct url *url, struct peer_address *ret);

struct peer_lookup;

/* NULL: there are PEER_LOOKUPS_MAX already. done() comes once: none found, error says why. */
struct peer_lookup *peer_lookup_start(struct peer_loop *l, const struct url *url,
                                      void (*done)(void *arg, const struct peer_addresses *found,
                                                   const char *error),
                                      void *arg);
/* done() will not be called any more; accepts NULL. */
void peer_lookup_cancel(struct peer_lookup *lookup);
