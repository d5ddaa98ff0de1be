/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dialling (see peer_dial.h).
 *
 *   start ──name──> look-up ──> address 1 ──fails──> address 2 ... ──> done(error)
 *     └──number──────────────────┘  └──connected──> done(NULL)
 *
 * The timer stands for the whole of it. Failures that are known at once are told by the timer, too,
 * so that done() never comes from within start.
 *
 * Thread: the loop.
 */
#include "api/peer_dial.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/list.h"

enum { KEEPALIVE_SECONDS = 30 };

static void stop(struct peer_dial *d)
{
    peer_timer_clear(d->loop, &d->timer);
    peer_lookup_cancel(d->lookup);
    d->lookup = NULL;
    if (d->source.fd >= 0)
        peer_source_remove(d->loop, &d->source);
    d->source.fd = -1;
}

static void end(struct peer_dial *d, const char *error)
{
    stop(d);
    if (error)
        peer_io_close(&d->io);
    d->done(d, error);
}

static const char *network(const struct peer_dial *d)
{
    return peer_url_is_local(d->url) ? "unix" : "tcp";
}

/* Where it goes, as Go prints it. */
static const char *where(const struct peer_dial *d)
{
    const char *slashes = strstr(d->url->text, "://");

    return slashes ? slashes + 3 : d->url->text;
}

static void error_set(struct peer_dial *d, const char *what)
{
    snprintf(d->error, sizeof(d->error), "dial %s %.64s: %.100s", network(d), where(d), what);
}

static void expired(struct peer_timer *timer)
{
    struct peer_dial *d = container_of(timer, struct peer_dial, timer);

    if (clock_mono_ms() >= d->deadline_ms)
        error_set(d, "i/o timeout");
    end(d, d->error);
}

/* Tells of d->error, but not from within the caller. */
static void fail_soon(struct peer_dial *d)
{
    peer_timer_set(d->loop, &d->timer, 0);
}

/* ---- connecting ---- */

static void options_set(int fd)
{
    int on = 1, seconds = KEEPALIVE_SECONDS;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
}

/* Begins to connect. A positive errno: this address is of no use. */
static int address_try(struct peer_dial *d, const struct peer_address *a)
{
    int family = a->storage.ss_family;
    int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return errno;
    if (family != AF_UNIX)
        options_set(fd);
    int error = connect(fd, (const struct sockaddr *)&a->storage, a->len) < 0 ? errno : 0;
    if (error != 0 && error != EINPROGRESS) {
        close(fd);
        return error;
    }
    if (peer_io_client(&d->io, d->url, fd) != 0) {
        close(fd);
        return EPROTONOSUPPORT;
    }
    d->source.fd = fd;
    if (peer_source_add(d->loop, &d->source, EPOLLOUT) == 0)
        return 0;
    d->source.fd = -1;
    peer_io_close(&d->io);
    return ENOMEM;
}

static void addresses_try(struct peer_dial *d)
{
    int error = 0;

    while (d->next < d->addresses.len) {
        error = address_try(d, &d->addresses.items[d->next++]);
        if (error == 0)
            return;
        char what[PEER_ERROR_BYTES_MAX];
        snprintf(what, sizeof(what), "connect: %s", err_text(error).text);
        error_set(d, error == EPROTONOSUPPORT ? "TLS is not supported yet" : what);
    }
    fail_soon(d);
}

static void connecting_ready(struct peer_source *source, uint32_t events)
{
    struct peer_dial *d = container_of(source, struct peer_dial, source);
    int error = 0;
    socklen_t len = sizeof(error);
    char what[PEER_ERROR_BYTES_MAX];

    check(getsockopt(source->fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0);
    if (error == 0) {
        end(d, NULL);
        return;
    }
    peer_source_remove(d->loop, source);
    source->fd = -1;
    peer_io_close(&d->io);
    snprintf(what, sizeof(what), "connect: %s", err_text(error).text);
    error_set(d, what);
    addresses_try(d);
}

static void lookup_done(void *arg, const struct peer_addresses *found, const char *error)
{
    struct peer_dial *d = arg;

    d->lookup = NULL;
    d->addresses = *found;
    error_set(d, error);
    addresses_try(d);
}

void peer_dial_start(struct peer_dial *d, struct peer_loop *l, const struct url *url,
                     uint64_t timeout_ms)
{
    *d = (struct peer_dial){.done = d->done,
                            .loop = l,
                            .url = url,
                            .io = {.fd = -1},
                            .source = {.ready = connecting_ready, .fd = -1},
                            .timer = {.expired = expired},
                            .deadline_ms = clock_mono_ms() + timeout_ms};
    peer_timer_set(l, &d->timer, d->deadline_ms);
    if (peer_address_read(url, &d->addresses.items[0])) {
        d->addresses.len = 1;
        addresses_try(d);
        return;
    }
    d->lookup = peer_lookup_start(l, url, lookup_done, d);
    if (!d->lookup) {
        error_set(d, "too many names are being looked up");
        fail_soon(d);
    }
}

struct peer_io peer_dial_take(struct peer_dial *d)
{
    struct peer_io io = d->io;

    check(io.ops && d->source.fd < 0);
    d->io = (struct peer_io){.fd = -1};
    return io;
}

void peer_dial_cancel(struct peer_dial *d)
{
    if (!d->loop)
        return;
    stop(d);
    peer_io_close(&d->io);
    d->loop = NULL;
}
