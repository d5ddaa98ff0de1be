/* SPDX-License-Identifier: Apache-2.0 */
/* Handing a connected socket to gRPC: the one call that needs C++ (design: the address
 * "external:NAME"). */
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

/* handler: what gRPC stored into the pointer channel argument named like the address. Takes the
 * descriptor. Any thread. */
void grpc_external_accept(void *handler, int fd);
/* Before grpc_init(). */
void grpc_external_tune(void);

#ifdef __cplusplus
}
#endif
