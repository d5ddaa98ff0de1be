/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything that speaks to clients: listeners, gRPC, HTTP. One call starts it, two stop it
 * (api/README.md has threads and order).
 */
#pragma once

#include "server/server.h"

struct api;

/* Binds the client and metrics URLs of the configuration and serves. Outcome 1: an address can't be
 * bound or a scheme is not supported yet; the message is logged in etcd's words. */
int api_start(struct api **ret, struct server *server);
/* Stops accepting, refuses new calls, lets calls in flight end for at most grace_ms, then cancels
 * them. Call before server_drain(). */
void api_stop(struct api *api, uint64_t grace_ms);
struct api *api_free(struct api *api);
