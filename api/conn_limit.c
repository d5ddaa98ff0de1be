/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections by descriptor and inode. Owns: one slot per descriptor number, one count per address.
 *
 * I1. count is the number of slots in use; a peer's count the number of slots that point to it.
 * I2. A slot in use is either an open connection or one that nobody has noticed to be closed.
 *
 * Thread: one (the listener's).
 */
#include "api/conn_limit.h"

#include <netinet/in.h>
#include <sys/stat.h>

#include "base/check.h"
#include "base/map.h"
#include "base/mem.h"

struct peer {
    size_t count;
    uint8_t address[16];
};

struct slot {
    ino_t inode;       /* 0: free */
    struct peer *peer; /* NULL: no address */
};

struct conn_limit {
    struct slot *slots; /* by descriptor */
    size_t n_slots;
    size_t count;
    size_t connections_max;
    size_t address_connections_max;
    struct map_bytes peers; /* by address */
    uint64_t swept_ms;
};

struct conn_limit *conn_limit_new(size_t connections_max, size_t address_connections_max)
{
    struct conn_limit *c = mem_new(struct conn_limit);

    c->connections_max = connections_max;
    c->address_connections_max = address_connections_max;
    return c;
}

static void slot_clear(struct conn_limit *c, struct slot *slot)
{
    struct peer *peer = slot->peer;

    check(c->count > 0);
    c->count--;
    if (peer && --peer->count == 0) {
        map_bytes_remove(&c->peers, bytes_of(peer->address, sizeof(peer->address)));
        free(peer);
    }
    *slot = (struct slot){0};
}

struct conn_limit *conn_limit_free(struct conn_limit *c)
{
    if (!c)
        return NULL;
    for (size_t i = 0; i < c->n_slots; i++) {
        if (c->slots[i].inode)
            slot_clear(c, &c->slots[i]);
    }
    check(c->count == 0 && c->peers.len == 0);
    map_bytes_deinit(&c->peers);
    free(c->slots);
    free(c);
    return NULL;
}

static ino_t inode_of(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

void conn_limit_sweep(struct conn_limit *c)
{
    for (size_t i = 0; i < c->n_slots; i++) {
        if (c->slots[i].inode && inode_of((int)i) != c->slots[i].inode)
            slot_clear(c, &c->slots[i]);
    }
}

static struct slot *slot_at(struct conn_limit *c, int fd)
{
    size_t needed = (size_t)fd + 1, n = c->n_slots ? c->n_slots : 64;

    check(fd >= 0);
    if (needed > c->n_slots) {
        while (n < needed)
            n *= 2;
        c->slots = mem_realloc(c->slots, n * sizeof(struct slot));
        memset(c->slots + c->n_slots, 0, (n - c->n_slots) * sizeof(struct slot));
        c->n_slots = n;
    }
    return &c->slots[fd];
}

/* IPv4 addresses in the form that IPv6 sockets see them, so that both ways in count together. */
static bool address_of(const struct sockaddr *peer, uint8_t ret[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    if (peer->sa_family == AF_INET6) {
        memcpy(ret, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, 16);
        return true;
    }
    if (peer->sa_family != AF_INET)
        return false;
    memcpy(ret, mapped, sizeof(mapped));
    memcpy(ret + 12, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, 4);
    return true;
}

static bool over_limit(const struct conn_limit *c, const struct peer *peer)
{
    return c->count >= c->connections_max || (peer && peer->count >= c->address_connections_max);
}

bool conn_limit_add(struct conn_limit *c, int fd, const struct sockaddr *from, uint64_t now_ms)
{
    struct slot *slot = slot_at(c, fd);
    uint8_t address[16];
    bool has_address = address_of(from, address);
    struct bytes key = bytes_of(address, sizeof(address));

    if (slot->inode)
        slot_clear(c, slot);
    struct peer *peer = has_address ? map_bytes_get(&c->peers, key) : NULL;
    if (over_limit(c, peer) && now_ms - c->swept_ms >= CONN_SWEEP_MS) {
        c->swept_ms = now_ms;
        conn_limit_sweep(c);
        peer = has_address ? map_bytes_get(&c->peers, key) : NULL;
    }
    if (over_limit(c, peer))
        return false;
    if (has_address && !peer) {
        peer = mem_new(struct peer);
        memcpy(peer->address, address, sizeof(address));
        map_bytes_put(&c->peers, bytes_of(peer->address, sizeof(peer->address)), peer);
    }
    if (peer)
        peer->count++;
    *slot = (struct slot){.inode = inode_of(fd), .peer = peer};
    check(slot->inode);
    c->count++;
    return true;
}

void conn_limit_remove(struct conn_limit *c, int fd)
{
    if ((size_t)fd < c->n_slots && c->slots[fd].inode)
        slot_clear(c, &c->slots[fd]);
}

size_t conn_limit_count(const struct conn_limit *c)
{
    return c->count;
}
