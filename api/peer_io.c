/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plain connections (see peer_io.h), and where TLS will branch off.
 *
 * Thread: one at a time.
 */
#include "api/peer_io.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

static ssize_t result(ssize_t n)
{
    return n >= 0 ? n : -errno;
}

static ssize_t plain_read(struct peer_io *io, void *data, size_t len)
{
    return result(TEMP_FAILURE_RETRY(recv(io->fd, data, len, 0)));
}

static ssize_t plain_write(struct peer_io *io, const void *data, size_t len)
{
    return result(TEMP_FAILURE_RETRY(send(io->fd, data, len, MSG_NOSIGNAL)));
}

static ssize_t plain_write_file(struct peer_io *io, int file_fd, off_t *offset, size_t len)
{
    return result(TEMP_FAILURE_RETRY(sendfile(io->fd, file_fd, offset, len)));
}

static void plain_finish(struct peer_io *io)
{
    shutdown(io->fd, SHUT_WR);
}

static void plain_close(struct peer_io *io)
{
    close(io->fd);
}

static const struct peer_io_ops plain_ops = {.read = plain_read,
                                             .write = plain_write,
                                             .write_file = plain_write_file,
                                             .finish = plain_finish,
                                             .close = plain_close};

bool peer_url_wants_tls(const struct url *url)
{
    return strcmp(url->scheme, "https") == 0 || strcmp(url->scheme, "unixs") == 0;
}

static int plain_open(struct peer_io *ret, const struct url *url, int fd)
{
    if (peer_url_wants_tls(url))
        return PEER_IO_E_TLS;
    *ret = (struct peer_io){
        .ops = &plain_ops, .fd = fd, .read_waits = EPOLLIN, .write_waits = EPOLLOUT};
    return 0;
}

bool peer_url_is_local(const struct url *url)
{
    return strncmp(url->scheme, "unix", 4) == 0;
}

int peer_io_client(struct peer_io *ret, const struct url *url, int fd)
{
    return plain_open(ret, url, fd);
}

int peer_io_server(struct peer_io *ret, const struct url *url, int fd)
{
    return plain_open(ret, url, fd);
}

void peer_io_close(struct peer_io *io)
{
    if (io->ops)
        io->ops->close(io);
    *io = (struct peer_io){.fd = -1};
}

/* ---- with waiting ---- */

static int wait_for(const struct peer_io *io, uint32_t events, const struct peer_wait *w)
{
    struct pollfd fds[] = {{.fd = io->fd, .events = events & EPOLLOUT ? POLLOUT : POLLIN},
                           {.fd = w->stop_fd, .events = POLLIN}};

    check(w->timeout_ms <= INT_MAX);
    int n = (int)TEMP_FAILURE_RETRY(poll(fds, 2, (int)w->timeout_ms));
    check(n >= 0);
    if (fds[1].revents)
        return -ECANCELED;
    return n == 0 ? -ETIMEDOUT : 0;
}

ssize_t peer_io_read_some(struct peer_io *io, const struct peer_wait *w, void *data, size_t len)
{
    ssize_t n;

    while ((n = io->ops->read(io, data, len)) == -EAGAIN) {
        int r = wait_for(io, io->read_waits, w);
        if (r < 0)
            return r;
    }
    return n;
}

int peer_io_write_all(struct peer_io *io, const struct peer_wait *w, const void *data, size_t len)
{
    const uint8_t *at = data;

    while (len > 0) {
        ssize_t n = io->ops->write(io, at, len);
        if (n == -EAGAIN)
            n = wait_for(io, io->write_waits, w);
        if (n < 0)
            return (int)n;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

int peer_io_write_file(struct peer_io *io, const struct peer_wait *w, int file_fd, off_t *offset,
                       size_t len)
{
    while (len > 0) {
        ssize_t n = io->ops->write_file(io, file_fd, offset, len);
        if (n == 0)
            return -ENODATA;
        if (n == -EAGAIN)
            n = wait_for(io, io->write_waits, w);
        if (n < 0)
            return (int)n;
        len -= (size_t)n;
    }
    return 0;
}

bool peer_io_readable(struct peer_io *io)
{
    struct pollfd fd = {.fd = io->fd, .events = POLLIN};

    return poll(&fd, 1, 0) > 0;
}
