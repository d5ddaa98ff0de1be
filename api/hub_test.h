/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of what stands in front of the watch hub: a hub that keeps what it was asked and says
 * what the test wants, and a lessor of the same kind. Part of grpc_test.h.
 */
#pragma once

#include <pthread.h>

#include "base/list.h"
#include "base/mem.h"
#include "server/encode.h"
#include "server/lessor.h"
#include "server/watch_hub.h"

enum { HUB_REQUESTS_MAX = 8192, RENEWALS_MAX = 64, HUB_GUEST_AT = 100 };

/* ---- the hub ---- */

struct watch_stream {
    struct list link;
    struct list responses; /* not taken */
    void (*ready)(void *arg);
    void *arg;
    bool armed;          /* the next response is announced */
    size_t n_unanswered; /* watchers asked for, `created` not taken */
};

struct hub_response {
    struct watch_response r;
    struct list link;
    struct watch_event events[];
};

/* What the lessor was asked. */
struct lessor {
    struct lease_renewal *held[RENEWALS_MAX]; /* not finished */
    size_t n_held, n_asked, n_cancelled;
    bool inside; /* finishes before it returns, with a TTL of the id */
    bool fails;  /* cannot be taken back: finish() is about to be called */
};

struct hub {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct list streams;
    struct watch_stream *newest;
    size_t n_opened, n_closed, n_created, n_cancelled, n_progress, n_taken;
    size_t n_alive; /* responses not freed */
    /* Gets a response when others have taken HUB_GUEST_AT; they are counted until it takes. */
    struct watch_stream *guest;
    size_t n_before;
    struct watch_request created[HUB_REQUESTS_MAX];
    int64_t cancelled[HUB_REQUESTS_MAX];
    bool answers;          /* `created` comes at once */
    void (*at_open)(void); /* NULL: nothing */
    struct lessor lessor;
};

static struct hub hub = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

#define HUB_GET(field)                                                                             \
    ({                                                                                             \
        pthread_mutex_lock(&hub.lock);                                                             \
        __typeof__(hub.field) got_ = hub.field;                                                    \
        pthread_mutex_unlock(&hub.lock);                                                           \
        got_;                                                                                      \
    })
#define HUB_SET(field, to)                                                                         \
    do {                                                                                           \
        pthread_mutex_lock(&hub.lock);                                                             \
        hub.field = (to);                                                                          \
        pthread_mutex_unlock(&hub.lock);                                                           \
    } while (0)

static inline void hub_push_locked(struct watch_stream *s, struct hub_response *r)
{
    bool armed = s->armed;

    list_push(&s->responses, &r->link);
    hub.n_alive++;
    s->armed = false;
    if (armed)
        s->ready(s->arg);
}

/* Says that to the newest stream; n events of len bytes each. */
static inline struct hub_response *hub_response_new(int64_t id, size_t n, size_t len)
{
    struct hub_response *r = mem_alloc(sizeof(*r) + n * sizeof(r->events[0]));

    r->r = (struct watch_response){
        .id = id, .revision = 7, .cancel_reason = "", .n_events = n, .events = r->events};
    for (size_t i = 0; i < n; i++) {
        uint8_t *data = mem_alloc(len);

        /* An event that parses: kv { value } and its padding. */
        memset(data, 'e', len);
        r->events[i].encoded = bytes_of(data, len);
        r->r.bytes += len;
    }
    return r;
}

static inline void hub_say(struct hub_response *r)
{
    pthread_mutex_lock(&hub.lock);
    hub_push_locked(hub.newest, r);
    pthread_mutex_unlock(&hub.lock);
}

/* For as long as it changes every 20 s. */
static inline void hub_wait_between(const size_t *what, size_t min, size_t max)
{
    struct timespec until;
    size_t seen = SIZE_MAX;
    int r = 0;

    pthread_mutex_lock(&hub.lock);
    while ((*what < min || *what > max) && r == 0) {
        if (*what != seen) {
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec += 20;
        }
        seen = *what;
        r = pthread_cond_timedwait(&hub.changed, &hub.lock, &until);
    }
    pthread_mutex_unlock(&hub.lock);
    if (r != 0)
        fprintf(stderr, "waited for %zu to %zu, have %zu\n", min, max, *what);
    assert_int_equal(r, 0);
}

static inline void hub_wait(const size_t *what, size_t n)
{
    hub_wait_between(what, n, SIZE_MAX);
}

/* The last responses are freed by threads of gRPC's, maybe after the server has stopped. */
static inline void hub_wait_freed(void)
{
    hub_wait_between(&hub.n_alive, 0, 0);
}

static inline void hub_reset(void)
{
    pthread_mutex_lock(&hub.lock);
    for (size_t i = 0; i < hub.n_created; i++) {
        free((void *)(uintptr_t)hub.created[i].key.data);
        free((void *)(uintptr_t)hub.created[i].range_end.data);
    }
    hub.lessor = (struct lessor){0};
    hub.newest = NULL;
    hub.n_opened = hub.n_closed = hub.n_created = hub.n_cancelled = hub.n_progress = 0;
    hub.n_taken = hub.n_before = 0;
    hub.guest = NULL;
    hub.answers = false;
    hub.at_open = NULL;
    list_init(&hub.streams);
    pthread_mutex_unlock(&hub.lock);
}

struct watch_stream *watch_stream_open(struct watch_hub *h, void (*ready)(void *arg), void *arg)
{
    struct watch_stream *s = mem_new(struct watch_stream);

    *s = (struct watch_stream){.ready = ready, .arg = arg, .armed = true};
    list_init(&s->responses);
    pthread_mutex_lock(&hub.lock);
    list_push(&hub.streams, &s->link);
    hub.newest = s;
    hub.n_opened++;
    if (hub.at_open)
        hub.at_open();
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
    return s;
}

struct watch_response *watch_response_free(struct watch_response *r)
{
    if (!r)
        return NULL;
    struct hub_response *response = container_of(r, struct hub_response, r);
    for (size_t i = 0; i < r->n_events; i++)
        free((void *)(uintptr_t)r->events[i].encoded.data);
    free(response);
    pthread_mutex_lock(&hub.lock);
    hub.n_alive--;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
    return NULL;
}

struct watch_response *watch_stream_take(struct watch_stream *s)
{
    pthread_mutex_lock(&hub.lock);
    struct list *l = list_pop(&s->responses);
    s->armed = !l;
    if (l)
        container_of(l, struct hub_response, link)->r.more = !list_empty(&s->responses);
    hub.n_taken += l != NULL;
    if (hub.guest == s)
        hub.guest = NULL;
    else if (hub.guest && l && ++hub.n_before == HUB_GUEST_AT)
        hub_push_locked(hub.guest, hub_response_new(0, 0, 0));
    if (l && container_of(l, struct hub_response, link)->r.created)
        s->n_unanswered--;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
    return l ? &container_of(l, struct hub_response, link)->r : NULL;
}

void watch_stream_close(struct watch_stream *s)
{
    struct watch_response *r;

    while ((r = watch_stream_take(s)) != NULL)
        watch_response_free(r);
    pthread_mutex_lock(&hub.lock);
    list_remove(&s->link);
    if (hub.newest == s)
        hub.newest = NULL;
    free(s);
    hub.n_closed++;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
}

void watch_create(struct watch_stream *s, const struct watch_request *request)
{
    pthread_mutex_lock(&hub.lock);
    assert_true(hub.n_created < HUB_REQUESTS_MAX);
    struct watch_request *copy = &hub.created[hub.n_created++];
    *copy = *request;
    copy->key =
        bytes_of(mem_strndup((const char *)request->key.data, request->key.len), request->key.len);
    s->n_unanswered++;
    copy->range_end =
        bytes_of(mem_strndup((const char *)request->range_end.data, request->range_end.len),
                 request->range_end.len);
    if (hub.answers) {
        struct hub_response *r = hub_response_new((int64_t)hub.n_created - 1, 0, 0);

        r->r.created = true;
        hub_push_locked(s, r);
    }
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
}

void watch_cancel(struct watch_stream *s, int64_t id)
{
    pthread_mutex_lock(&hub.lock);
    assert_true(hub.n_cancelled < HUB_REQUESTS_MAX);
    hub.cancelled[hub.n_cancelled++] = id;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
}

bool watch_stream_is_full(struct watch_stream *s)
{
    pthread_mutex_lock(&hub.lock);
    bool full = s->n_unanswered >= WATCH_ANSWERS_MAX;
    pthread_mutex_unlock(&hub.lock);
    return full;
}

void watch_progress(struct watch_stream *s)
{
    pthread_mutex_lock(&hub.lock);
    hub.n_progress++;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
}

struct watch_hub *server_watch_hub(struct server *s)
{
    return NULL;
}

void server_response_header(struct server *s, int64_t revision, struct response_header *ret)
{
    *ret = (struct response_header){
        .cluster_id = 11, .member_id = 12, .revision = revision, .raft_term = 13};
}

/* ---- the lessor ---- */

void server_lease_renew(struct server *s, struct lease_renewal *r)
{
    pthread_mutex_lock(&hub.lock);
    bool inside = hub.lessor.inside;
    hub.lessor.n_asked++;
    if (!inside)
        hub.lessor.held[hub.lessor.n_held++] = r;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
    if (inside)
        r->finish(r, OUTCOME_OK, r->id);
}

bool server_lease_renew_cancel(struct server *s, struct lease_renewal *r)
{
    bool found = false;

    pthread_mutex_lock(&hub.lock);
    for (size_t i = 0; i < hub.lessor.n_held && !found && !hub.lessor.fails; i++) {
        found = hub.lessor.held[i] == r;
        if (found)
            hub.lessor.held[i] = hub.lessor.held[--hub.lessor.n_held];
    }
    hub.lessor.n_cancelled++;
    pthread_cond_broadcast(&hub.changed);
    pthread_mutex_unlock(&hub.lock);
    return found;
}

/* Finishes the oldest that waits. */
static inline void lessor_finish(enum outcome outcome, int64_t ttl_s)
{
    pthread_mutex_lock(&hub.lock);
    assert_true(hub.lessor.n_held > 0);
    struct lease_renewal *r = hub.lessor.held[0];
    memmove(hub.lessor.held, hub.lessor.held + 1, --hub.lessor.n_held * sizeof(hub.lessor.held[0]));
    pthread_mutex_unlock(&hub.lock);
    r->finish(r, outcome, ttl_s);
}
