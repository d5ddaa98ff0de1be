/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses of peers (see peer_resolve.h).
 *
 * getaddrinfo() knows what the machine's administrator has set up, and it blocks for as long as a
 * dead name server lets it. So each look-up has a detached thread, of which there are few, and who
 * asked may turn away: whichever of the two comes last frees it.
 *
 *   RUNNING ──answer──> POSTED ──task──> done(), freed
 *      └──cancelled──> ABANDONED ──answer──> freed by its thread, which touches nothing else
 *
 * I1. state changes under the lock. A thread posts to the loop under it as well, so a look-up that
 * was cancelled while RUNNING never touches a loop that may be gone.
 *
 * Thread: the loop; lookup_main() its own.
 */
#include "api/peer_resolve.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/un.h>

#include "api/peer_io.h"
#include "base/check.h"
#include "base/list.h"
#include "base/mem.h"

enum lookup_state { LOOKUP_RUNNING, LOOKUP_POSTED, LOOKUP_ABANDONED };

struct peer_lookup {
    struct peer_task task;
    struct peer_loop *loop;
    enum lookup_state state;
    bool cancelled; /* after it was posted */
    void (*done)(void *arg, const struct peer_addresses *found, const char *error);
    void *arg;
    char *host;
    char port[8];
    struct peer_addresses found;
    char *error;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t n_lookups;

/* ---- without asking anybody ---- */

static bool unix_address(const char *path, struct peer_address *ret)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    size_t len = strlen(path);

    if (len == 0 || len >= sizeof(a.sun_path))
        return false;
    memcpy(a.sun_path, path, len + 1);
    memcpy(&ret->storage, &a, sizeof(a));
    ret->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return true;
}

bool peer_address_read(const struct url *url, struct peer_address *ret)
{
    /* Go's dialer, too, takes "no host" for this machine. */
    const char *host = url->host[0] ? url->host : "127.0.0.1";
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(url->port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(url->port)};

    if (peer_url_is_local(url))
        return unix_address(url->host, ret);
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1) {
        memcpy(&ret->storage, &v4, sizeof(v4));
        ret->len = sizeof(v4);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1) {
        memcpy(&ret->storage, &v6, sizeof(v6));
        ret->len = sizeof(v6);
        return true;
    }
    return false;
}

/* ---- look-ups ---- */

static void lookup_free(struct peer_lookup *k)
{
    free(k->host);
    free(k->error);
    free(k);
}

static void addresses_fill(struct peer_addresses *found, const struct addrinfo *list)
{
    for (; list && found->len < PEER_ADDRESSES_MAX; list = list->ai_next) {
        struct peer_address *a = &found->items[found->len];
        if (list->ai_addrlen > sizeof(a->storage))
            continue;
        memcpy(&a->storage, list->ai_addr, list->ai_addrlen);
        a->len = list->ai_addrlen;
        found->len++;
    }
}

static void lookup_run(struct peer_lookup *k)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list = NULL;
    int r = getaddrinfo(k->host, k->port, &hints, &list);

    if (r == 0) {
        addresses_fill(&k->found, list);
        freeaddrinfo(list);
    } else {
        k->error = mem_printf("lookup %s: %s", k->host,
                              r == EAI_NONAME ? "no such host" : gai_strerror(r));
    }
}

static void *lookup_main(void *arg)
{
    struct peer_lookup *k = arg;

    pthread_setname_np(pthread_self(), "lookup");
    lookup_run(k);
    pthread_mutex_lock(&lock);
    n_lookups--;
    bool abandoned = k->state == LOOKUP_ABANDONED;
    if (!abandoned) {
        k->state = LOOKUP_POSTED;
        peer_loop_post(k->loop, &k->task);
    }
    pthread_mutex_unlock(&lock);
    if (abandoned)
        lookup_free(k);
    return NULL;
}

static void lookup_task(struct peer_task *task)
{
    struct peer_lookup *k = container_of(task, struct peer_lookup, task);

    /* Its thread has let go of the lock, and so of the look-up. */
    pthread_mutex_lock(&lock);
    check(k->state == LOOKUP_POSTED);
    pthread_mutex_unlock(&lock);
    if (!k->cancelled)
        k->done(k->arg, &k->found, k->error ? k->error : "no address");
    lookup_free(k);
}

static bool thread_start(struct peer_lookup *k)
{
    pthread_attr_t attributes;
    pthread_t thread;

    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&thread, &attributes, lookup_main, k);
    pthread_attr_destroy(&attributes);
    return r == 0;
}

struct peer_lookup *peer_lookup_start(struct peer_loop *l, const struct url *url,
                                      void (*done)(void *arg, const struct peer_addresses *found,
                                                   const char *error),
                                      void *arg)
{
    struct peer_lookup *k = mem_new(struct peer_lookup);

    *k = (struct peer_lookup){.task = {.run = lookup_task}, .loop = l, .done = done, .arg = arg};
    k->host = mem_strdup(url->host);
    snprintf(k->port, sizeof(k->port), "%u", url->port);
    pthread_mutex_lock(&lock);
    bool ok = n_lookups < PEER_LOOKUPS_MAX && thread_start(k);
    n_lookups += ok;
    pthread_mutex_unlock(&lock);
    if (ok)
        return k;
    lookup_free(k);
    return NULL;
}

void peer_lookup_cancel(struct peer_lookup *k)
{
    if (!k)
        return;
    pthread_mutex_lock(&lock);
    if (k->state == LOOKUP_RUNNING)
        k->state = LOOKUP_ABANDONED;
    else
        k->cancelled = true;
    pthread_mutex_unlock(&lock);
}
