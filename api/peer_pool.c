/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Idle connections (see peer_pool.h): a list, because there are few.
 *
 * Thread: the loop.
 */
#include "api/peer_pool.h"

#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"

struct idle {
    struct list link;
    struct peer_pool *pool;
    struct peer_conn *conn;
    struct peer_timer timer;
    char *where;
};

void peer_pool_init(struct peer_pool *p, struct peer_loop *l)
{
    *p = (struct peer_pool){.loop = l};
    list_init(&p->idle);
}

static struct peer_conn *idle_free(struct idle *i)
{
    struct peer_conn *conn = i->conn;

    check(i->pool->len > 0);
    i->pool->len--;
    list_remove(&i->link);
    peer_timer_clear(i->pool->loop, &i->timer);
    free(i->where);
    free(i);
    return conn;
}

static void idle_expired(struct peer_timer *timer)
{
    peer_conn_free(idle_free(container_of(timer, struct idle, timer)));
}

/* Whatever it is, an answer that nobody asked for or the end: it is of no more use. */
static void idle_ready(struct peer_conn *c, uint32_t events)
{
    peer_conn_free(idle_free(c->owner));
}

void peer_pool_close(struct peer_pool *p)
{
    while (!list_empty(&p->idle))
        peer_conn_free(idle_free(container_of(p->idle.next, struct idle, link)));
}

struct peer_conn *peer_pool_take(struct peer_pool *p, const char *where)
{
    list_for_each (it, &p->idle) {
        struct idle *i = container_of(it, struct idle, link);
        if (strcmp(i->where, where) == 0)
            return idle_free(i);
    }
    return NULL;
}

static size_t idle_count(const struct peer_pool *p, const char *where)
{
    size_t n = 0;

    list_for_each (it, &p->idle)
        n += strcmp(container_of(it, struct idle, link)->where, where) == 0;
    return n;
}

void peer_pool_put(struct peer_pool *p, const char *where, struct peer_conn *conn)
{
    if (idle_count(p, where) >= PEER_IDLE_HOST_MAX) {
        peer_conn_free(conn);
        return;
    }
    if (p->len == PEER_IDLE_MAX)
        peer_conn_free(idle_free(container_of(p->idle.prev, struct idle, link)));
    struct idle *i = mem_new(struct idle);
    *i = (struct idle){.pool = p, .conn = conn, .timer = {.expired = idle_expired}};
    i->where = mem_strdup(where);
    list_insert(&p->idle, &i->link);
    p->len++;
    peer_conn_own(conn, idle_ready, i);
    peer_timer_set(p->loop, &i->timer, clock_mono_ms() + PEER_POOL_IDLE_MS);
}
