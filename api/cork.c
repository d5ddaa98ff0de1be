/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of adopted sockets: by the peer's address in the form "1.2.3.4:5" or "[::1]:5", and by
 * descriptor number. Entries live until their number is taken by another connection, so there are
 * never more than numbers that were in use at one time.
 *
 * Thread: any, under one mutex. Invariant: an entry is in both indexes or in none.
 */
#include "api/cork.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"

enum { PEER_LEN_MAX = 80 };

struct connection {
    int fd;
    struct bytes peer;
    char text[PEER_LEN_MAX];
};

struct cork {
    pthread_mutex_t lock;
    struct map_bytes by_peer;
    struct map_u64 by_fd; /* key: fd */
};

struct cork *cork_new(void)
{
    struct cork *c = mem_new(struct cork);
    check(pthread_mutex_init(&c->lock, NULL) == 0);
    return c;
}

struct cork *cork_free(struct cork *c)
{
    if (!c)
        return NULL;
    size_t pos = 0;
    void *connection;
    while ((connection = map_u64_next(&c->by_fd, &pos, NULL)))
        free(connection);
    map_u64_deinit(&c->by_fd);
    map_bytes_deinit(&c->by_peer);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return NULL;
}

static bool peer_of(int fd, char text[PEER_LEN_MAX])
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    char host[INET6_ADDRSTRLEN];
    if (getpeername(fd, (struct sockaddr *)&address, &len) < 0)
        return false;
    if (address.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(text, PEER_LEN_MAX, "%s:%u", host, ntohs(in->sin_port));
        return true;
    }
    if (address.ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&address;
    bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
    inet_ntop(mapped ? AF_INET : AF_INET6, in6->sin6_addr.s6_addr + (mapped ? 12 : 0), host,
              sizeof(host));
    snprintf(text, PEER_LEN_MAX, mapped ? "%s:%u" : "[%s]:%u", host, ntohs(in6->sin6_port));
    return true;
}

static void forget(struct cork *c, struct connection *old)
{
    if (!old)
        return;
    map_bytes_remove(&c->by_peer, old->peer);
    map_u64_remove(&c->by_fd, (uint64_t)old->fd);
    free(old);
}

void cork_add(struct cork *c, int fd)
{
    struct connection *connection = mem_new(struct connection);
    bool known = peer_of(fd, connection->text);
    connection->fd = fd;
    connection->peer = bytes_str(connection->text);
    check(pthread_mutex_lock(&c->lock) == 0);
    forget(c, map_u64_get(&c->by_fd, (uint64_t)fd));
    if (known) {
        forget(c, map_bytes_get(&c->by_peer, connection->peer));
        map_u64_put(&c->by_fd, (uint64_t)fd, connection);
        map_bytes_put(&c->by_peer, connection->peer, connection);
    } else {
        free(connection);
    }
    check(pthread_mutex_unlock(&c->lock) == 0);
}

/* gRPC's form is a URI: "ipv4:1.2.3.4:5", "ipv6:%5B::1%5D:5". */
static struct bytes peer_parse(const char *uri, char text[PEER_LEN_MAX])
{
    const char *p = strchr(uri, ':');
    size_t len = 0;
    for (p = p ? p + 1 : uri; *p && len < PEER_LEN_MAX - 1; p++) {
        if (p[0] == '%' && p[1] == '5' && (p[2] == 'B' || p[2] == 'D')) {
            text[len++] = p[2] == 'B' ? '[' : ']';
            p += 2;
        } else {
            text[len++] = *p;
        }
    }
    return bytes_of(text, len);
}

int cork_find(struct cork *c, const char *peer)
{
    char text[PEER_LEN_MAX];
    struct bytes key = peer_parse(peer, text);
    check(pthread_mutex_lock(&c->lock) == 0);
    const struct connection *connection = map_bytes_get(&c->by_peer, key);
    int fd = connection ? connection->fd : -1;
    check(pthread_mutex_unlock(&c->lock) == 0);
    return fd;
}

void cork_end_all(struct cork *c)
{
    const struct connection *connection;
    size_t pos = 0;
    check(pthread_mutex_lock(&c->lock) == 0);
    while ((connection = map_u64_next(&c->by_fd, &pos, NULL))) {
        char text[PEER_LEN_MAX];
        if (peer_of(connection->fd, text) && strcmp(text, connection->text) == 0)
            (void)shutdown(connection->fd, SHUT_WR);
    }
    check(pthread_mutex_unlock(&c->lock) == 0);
}

static void cork_set(int fd, int on)
{
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on));
}

void cork_hold(int fd)
{
    cork_set(fd, 1);
}

void cork_release(int fd)
{
    cork_set(fd, 0);
}
