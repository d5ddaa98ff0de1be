/* SPDX-License-Identifier: Apache-2.0 */
/*
 * etcd's peer protocol as a transport (server/transport.h): streams and requests between members
 * over HTTP/1.1. README.md says how it is laid out.
 *
 *   peer_new     its loop runs: bootstrap can ask other members
 *   peer_start   with the server: listens on --listen-peer-urls, dials the members
 *   peer_stop    closes everything; what the server has borrowed to it comes back. The transport
 *                may still be called: it drops all
 *   peer_free    after server_stop()
 *
 * Thread: the composition root's.
 */
#pragma once

#include "server/server.h"
#include "server/transport.h"

struct peer;

/* config is borrowed until peer_free(). Negative: -errno. */
int peer_new(struct peer **ret, const struct config *config);
struct transport *peer_transport(struct peer *p);
/* Outcome 1: can't listen (logged, with etcd's text). */
int peer_start(struct peer *p, struct server *server);
void peer_stop(struct peer *p);
struct peer *peer_free(struct peer *p); /* accepts NULL; stops it if need be */

/* Of the listening socket i, in the order of the URLs: for tests with port 0. */
uint16_t peer_port(const struct peer *p, size_t i);
