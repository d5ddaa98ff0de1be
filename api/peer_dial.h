/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a connection to a URL: looks its host up, tries one address after the other. Thread: the
 * loop.
 */
#pragma once

#include "api/peer_io.h"
#include "api/peer_resolve.h"

enum { PEER_ERROR_BYTES_MAX = 192 };

struct peer_dial {
    /* Once, never from within peer_dial_start(). error NULL: peer_dial_take() has the connection.
     * Otherwise in Go's words, such as "dial tcp 127.0.0.1:1: connect: connection refused". */
    void (*done)(struct peer_dial *d, const char *error);

    struct peer_loop *loop;
    const struct url *url;
    struct peer_io io;
    struct peer_source source; /* while it connects */
    struct peer_timer timer;
    uint64_t deadline_ms;
    struct peer_lookup *lookup;
    struct peer_addresses addresses;
    size_t next;
    char error[PEER_ERROR_BYTES_MAX];
};

/* url is borrowed until done() or peer_dial_cancel(). */
void peer_dial_start(struct peer_dial *d, struct peer_loop *l, const struct url *url,
                     uint64_t timeout_ms);
struct peer_io peer_dial_take(struct peer_dial *d);
void peer_dial_cancel(struct peer_dial *d); /* also of one that is not under way */
