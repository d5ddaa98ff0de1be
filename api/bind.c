/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a URL to a listening socket. The TCP options are set on the listener because Linux hands
 * them down to accepted sockets, which saves system calls for each connection: no delay, keepalive
 * after 30 s idle, every 30 s (etcd's listener does the same on each connection).
 *
 * Thread: any; no state.
 */
#include "api/bind.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/mem.h"

enum { KEEPALIVE_SECONDS = 30, BACKLOG_MAX = 4096 };

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    };
    socklen_t len;
    bool v6_only;
};

/* Go's words for the errors that bind() and listen() usually give. */
static const char *error_text(int error)
{
    switch (error) {
    case EADDRINUSE: return "address already in use";
    case EADDRNOTAVAIL: return "cannot assign requested address";
    case EACCES: return "permission denied";
    case EINVAL: return "invalid argument";
    case ENOENT: return "no such file or directory";
    }
    return strerror(error);
}

static int listen_error(const struct url *url, const char *call, int error, char **ret_error)
{
    bool v6 = strchr(url->host, ':');

    if (strncmp(url->scheme, "unix", 4) == 0)
        *ret_error = mem_printf("listen unix %s: %s: %s", url->host, call, error_text(error));
    else
        *ret_error = mem_printf("listen tcp %s%s%s:%u: %s: %s", v6 ? "[" : "",
                                strcmp(url->host, "localhost") == 0 ? "127.0.0.1" : url->host,
                                v6 ? "]" : "", url->port, call, error_text(error));
    return 1;
}

static bool address_tcp(const struct url *url, bool dual, struct address *ret)
{
    const char *host = strcmp(url->host, "localhost") == 0 ? "127.0.0.1" : url->host;
    struct address a = {.len = sizeof(a.v4)};

    if (inet_pton(AF_INET, host, &a.v4.sin_addr) == 1 && (a.v4.sin_addr.s_addr != 0 || !dual)) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons(url->port);
    } else {
        memset(&a.v6, 0, sizeof(a.v6));
        if (strcmp(host, "0.0.0.0") != 0 && inet_pton(AF_INET6, host, &a.v6.sin6_addr) != 1)
            return false;
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons(url->port);
        a.len = sizeof(a.v6);
        a.v6_only = !IN6_IS_ADDR_UNSPECIFIED(&a.v6.sin6_addr);
    }
    *ret = a;
    return true;
}

static bool address_unix(const struct url *url, struct address *ret)
{
    struct address a = {.local = {.sun_family = AF_UNIX}};
    size_t len = strlen(url->host);

    if (len == 0 || len >= sizeof(a.local.sun_path))
        return false;
    memcpy(a.local.sun_path, url->host, len + 1);
    a.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    *ret = a;
    return true;
}

static void options_set(int fd, const struct address *a, const struct bind_options *options)
{
    int on = 1, v6_only = a->v6_only, seconds = KEEPALIVE_SECONDS;

    if (a->any.sa_family == AF_UNIX)
        return;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (options->reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (a->any.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof(seconds));
}

/* 0 or the errno; *ret_call is the call that failed. */
static int socket_listen(const struct address *a, const struct bind_options *options, int *ret_fd,
                         const char **ret_call)
{
    int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), error = 0;

    *ret_call = "socket";
    if (fd < 0)
        return errno;
    options_set(fd, a, options);
    *ret_call = "bind";
    if (bind(fd, &a->any, a->len) < 0) {
        error = errno;
    } else if (listen(fd, BACKLOG_MAX) < 0) {
        *ret_call = "listen";
        error = errno;
    }
    if (error)
        close(fd);
    else
        *ret_fd = fd;
    return error;
}

int bind_url(const struct url *url, const struct bind_options *options, int *ret_fd,
             char **ret_error)
{
    bool local = strncmp(url->scheme, "unix", 4) == 0;
    const char *call = "bind";
    struct address a;
    int error;

    if (local ? !address_unix(url, &a) : !address_tcp(url, true, &a))
        return listen_error(url, call, EINVAL, ret_error);
    bind_unlink(url);
    error = socket_listen(&a, options, ret_fd, &call);
    /* No IPv6 on this machine: the unspecified address means IPv4 alone. */
    if (error && !local && !a.v6_only && a.any.sa_family == AF_INET6 && error != EADDRINUSE &&
        address_tcp(url, false, &a))
        error = socket_listen(&a, options, ret_fd, &call);
    return error ? listen_error(url, call, error, ret_error) : 0;
}

void bind_unlink(const struct url *url)
{
    struct stat st;

    if (strncmp(url->scheme, "unix", 4) == 0 && lstat(url->host, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(url->host);
}
