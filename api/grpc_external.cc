/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC's server accepts connections that somebody else accepted: for a port added as "external:NAME" it stores an object into the pointer
 * channel argument "external:NAME", whose one method takes the descriptor. The class is declared in no installed header, so it is declared here:
 * a destructor and Handle(), in this order, are its whole virtual table. Thread: any.
 */
#include "api/grpc_external.h"

struct grpc_byte_buffer;

namespace grpc_core {
class TcpServerFdHandler {
 public:
  virtual ~TcpServerFdHandler() = default;
  virtual void Handle(int listener_fd, int fd, grpc_byte_buffer *pending_read) = 0;
};
}  // namespace grpc_core

void grpc_external_accept(void *handler, int fd)
{
    static_cast<grpc_core::TcpServerFdHandler *>(handler)->Handle(-1, fd, nullptr);
}
