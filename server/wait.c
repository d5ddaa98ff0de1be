/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wait table (see wait.h). Sixty-four shards by id, each a small chained hash table and a list
 * in order of expiry.
 *
 * Invariants:
 *   (I1) a request is in a bucket iff it is in its shard's by_expiry list.
 *   (I2) finish() is called outside the lock, by the one who took the request out.
 */
#include "server/wait.h"

#include "base/check.h"

static struct wait_shard *shard_of(struct wait_table *w, uint64_t id)
{
    return &w->shards[id % WAIT_SHARDS];
}

static struct request **bucket_of(struct wait_shard *s, uint64_t id)
{
    return &s->buckets[(id / WAIT_SHARDS) % WAIT_BUCKETS];
}

void wait_init(struct wait_table *w)
{
    for (size_t i = 0; i < WAIT_SHARDS; i++) {
        struct wait_shard *s = &w->shards[i];
        memset(s, 0, sizeof(*s));
        pthread_mutex_init(&s->lock, NULL);
        list_init(&s->by_expiry);
    }
}

void wait_deinit(struct wait_table *w)
{
    for (size_t i = 0; i < WAIT_SHARDS; i++) {
        check(list_empty(&w->shards[i].by_expiry));
        pthread_mutex_destroy(&w->shards[i].lock);
    }
}

static bool is_proposal(const struct request *request)
{
    return request->kind < REQUEST_READ_INDEX;
}

size_t wait_proposals(struct wait_table *w)
{
    size_t n = 0;

    for (size_t i = 0; i < WAIT_SHARDS; i++) {
        pthread_mutex_lock(&w->shards[i].lock);
        n += w->shards[i].n_proposals;
        pthread_mutex_unlock(&w->shards[i].lock);
    }
    return n;
}

bool wait_add(struct wait_table *w, struct request *request)
{
    struct wait_shard *s = shard_of(w, request->id);

    pthread_mutex_lock(&s->lock);
    bool stopped = s->stopped;
    if (!stopped) {
        struct request **bucket = bucket_of(s, request->id);
        request->wait_next = *bucket;
        *bucket = request;
        list_init(&request->wait_link);
        list_push(&s->by_expiry, &request->wait_link);
        s->n_proposals += is_proposal(request);
    }
    pthread_mutex_unlock(&s->lock);
    return !stopped;
}

static struct request **find(struct wait_shard *s, uint64_t id)
{
    struct request **p = bucket_of(s, id);
    while (*p && (*p)->id != id)
        p = &(*p)->wait_next;
    return p;
}

static struct request *take_locked(struct wait_shard *s, uint64_t id)
{
    struct request **p = find(s, id);
    struct request *request = *p;
    if (request) {
        *p = request->wait_next;
        request->wait_next = NULL;
        list_remove(&request->wait_link);
        s->n_proposals -= is_proposal(request);
    }
    return request;
}

struct request *wait_take(struct wait_table *w, uint64_t id)
{
    struct wait_shard *s = shard_of(w, id);

    pthread_mutex_lock(&s->lock);
    struct request *request = take_locked(s, id);
    pthread_mutex_unlock(&s->lock);
    return request;
}

bool wait_contains(struct wait_table *w, uint64_t id)
{
    struct wait_shard *s = shard_of(w, id);

    pthread_mutex_lock(&s->lock);
    bool found = *find(s, id) != NULL;
    pthread_mutex_unlock(&s->lock);
    return found;
}

bool wait_cancel(struct wait_table *w, struct request *request)
{
    struct wait_shard *s = shard_of(w, request->id);

    pthread_mutex_lock(&s->lock);
    bool found = *find(s, request->id) == request && take_locked(s, request->id);
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* Moves the expired requests (all of them if now_ms is UINT64_MAX) to the list out. */
static void take_expired(struct wait_shard *s, uint64_t now_ms, struct list *out)
{
    while (!list_empty(&s->by_expiry)) {
        struct request *request = container_of(s->by_expiry.next, struct request, wait_link);
        if (request->expires_ms > now_ms)
            break;
        check(take_locked(s, request->id) == request);
        list_push(out, &request->wait_link);
    }
}

void wait_expire(struct wait_table *w, uint64_t now_ms,
                 enum outcome (*outcome_of)(void *arg, const struct request *request), void *arg)
{
    for (size_t i = 0; i < WAIT_SHARDS; i++) {
        struct wait_shard *s = &w->shards[i];
        struct list expired, *link;

        list_init(&expired);
        pthread_mutex_lock(&s->lock);
        take_expired(s, now_ms, &expired);
        pthread_mutex_unlock(&s->lock);
        while ((link = list_pop(&expired))) {
            struct request *request = container_of(link, struct request, wait_link);
            request->finish(request, outcome_of(arg, request));
        }
    }
}

static enum outcome outcome_stopped(void *arg, const struct request *request)
{
    (void)arg;
    (void)request;
    return OUTCOME_STOPPED;
}

void wait_stop(struct wait_table *w)
{
    for (size_t i = 0; i < WAIT_SHARDS; i++) {
        pthread_mutex_lock(&w->shards[i].lock);
        w->shards[i].stopped = true;
        pthread_mutex_unlock(&w->shards[i].lock);
    }
    wait_expire(w, UINT64_MAX, outcome_stopped, NULL);
}
