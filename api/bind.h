/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets as Go's net package makes them for etcd: "localhost" is 127.0.0.1, an
 * unspecified address takes IPv4 and IPv6, SO_REUSEADDR is always on, and a unix socket replaces a
 * socket file left behind. Thread: any.
 */
#pragma once

#include "server/config.h"

struct bind_options {
    bool reuse_port;
};

/*
 * Outcome 1: *ret_error (malloc'd) has Go's text. The socket does not block and is closed on exec;
 * accepted ones inherit TCP options.
 */
int bind_url(const struct url *url, const struct bind_options *options, int *ret_fd,
             char **ret_error);
/* Removes the file of a unix socket; nothing for others. */
void bind_unlink(const struct url *url);
