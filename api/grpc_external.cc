/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What can only be said to gRPC in C++. Two things:
 *
 * gRPC's server accepts connections that somebody else accepted: for a port added as
 * "external:NAME" it stores an object into the pointer channel argument "external:NAME", whose one
 * method takes the descriptor. The class is declared in no installed header, so it is declared
 * here: a destructor and Handle(), in this order, are its whole virtual table.
 *
 * Debian builds gRPC and abseil with their debug checks, among them a search for deadlocks at each
 * lock of a mutex. It is a run-time switch, and 6 % of a call's CPU time.
 *
 * Thread: any.
 */
#include "api/grpc_external.h"

#if __has_include(<absl/synchronization/mutex.h>)
#include <absl/synchronization/mutex.h>
#define HAVE_ABSL_MUTEX 1
#endif

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

void grpc_external_tune(void)
{
#ifdef HAVE_ABSL_MUTEX
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
#endif
}
