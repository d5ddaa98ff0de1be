/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The gRPC side: completion queues and their threads, calls, the table of methods. Thread:
 * grpc_side_adopt() any; the queues have their own.
 */
#pragma once

#include "server/server.h"

struct grpc_side;

int grpc_side_start(struct grpc_side **ret, struct server *server);
void grpc_side_adopt(struct grpc_side *g, int fd); /* takes a connected socket */
void grpc_side_stop(struct grpc_side *g, uint64_t grace_ms);
struct grpc_side *grpc_side_free(struct grpc_side *g);
