/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of one connection between members, plain or (with the security work) in TLS: the one
 * place through which all of them go. A TLS session makes its handshake within the first calls; it
 * then may have to wait for the socket in the other direction, which is what read_waits and
 * write_waits are for.
 *
 * Thread: one at a time.
 */
#pragma once

#include <sys/types.h>

#include "server/config.h"

struct peer_io;

struct peer_io_ops {
    /* Bytes (read: 0 is the end), -EAGAIN, or another negative errno. Nothing blocks. */
    ssize_t (*read)(struct peer_io *io, void *data, size_t len);
    ssize_t (*write)(struct peer_io *io, const void *data, size_t len);
    /* As write, from a file; *offset moves on. */
    ssize_t (*write_file)(struct peer_io *io, int file_fd, off_t *offset, size_t len);
    void (*finish)(struct peer_io *io); /* nothing more is written: the other side sees the end */
    void (*close)(struct peer_io *io);
};

struct peer_io {
    const struct peer_io_ops *ops;
    int fd;
    uint32_t read_waits; /* EPOLLIN or EPOLLOUT: for what a read or write that gave -EAGAIN waits */
    uint32_t write_waits;
    void *session;
};

enum { PEER_IO_E_TLS = 1 }; /* outcome: the URL wants TLS, which is not there yet */

bool peer_url_is_local(const struct url *url); /* a unix socket */
bool peer_url_wants_tls(const struct url *url);
/* Takes fd, a connected (or connecting) socket that does not block, unless it fails. */
int peer_io_client(struct peer_io *ret, const struct url *url, int fd);
int peer_io_server(struct peer_io *ret, const struct url *url, int fd);
void peer_io_close(struct peer_io *io);

/*
 * For the threads that move snapshots: these wait for the socket. A wait that lasts longer than
 * timeout_ms is -ETIMEDOUT; -ECANCELED: stop_fd is readable.
 */
struct peer_wait {
    int stop_fd;
    uint64_t timeout_ms;
};
/* 0 is the end. */
ssize_t peer_io_read_some(struct peer_io *io, const struct peer_wait *w, void *data, size_t len);
int peer_io_write_all(struct peer_io *io, const struct peer_wait *w, const void *data, size_t len);
/* len bytes of the file from *offset on. -ENODATA: it is shorter. */
int peer_io_write_file(struct peer_io *io, const struct peer_wait *w, int file_fd, off_t *offset,
                       size_t len);
bool peer_io_readable(struct peer_io *io); /* something has come; never waits */
