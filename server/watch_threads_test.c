/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watch hub with its threads: one writes, one is the hub's, some consume, of which some cancel,
 * begin anew and close all the time. Every event arrives once. Meant for the thread sanitizer, too.
 */
#include "server/test_watch.h"

#include "base/clock.h"
#include "base/cond.h"
#include "base/log.h"

enum { WRITES = 4000, CONSUMERS = 4, PATIENCE_S = 120 };

struct consumer {
    struct watch_box *b;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool lasting; /* one stream for all; else a new one for some events each */
    bool is_ready;
    int64_t next;    /* revision that it is to see */
    unsigned n_anew; /* streams that it used */
};

static _Atomic bool hub_stop;

static void *hub_run(void *arg)
{
    struct watch_hub *h = arg;

    while (!atomic_load(&hub_stop)) {
        check(watch_hub_turn(h) >= 0);
        watch_hub_wait(h);
    }
    return NULL;
}

static void *write_run(void *arg)
{
    struct watch_box *b = arg;

    for (int i = 0; i < WRITES; i++)
        put(b, "key", "value");
    return NULL;
}

static void wake(void *arg)
{
    struct consumer *c = arg;

    pthread_mutex_lock(&c->lock);
    c->is_ready = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void sleep_until_ready(struct consumer *c)
{
    struct timespec ts = cond_until(UINT64_C(1000000000) * PATIENCE_S);

    pthread_mutex_lock(&c->lock);
    while (!c->is_ready)
        check(pthread_cond_timedwait(&c->cond, &c->lock, &ts) == 0);
    c->is_ready = false;
    pthread_mutex_unlock(&c->lock);
}

/* Each event has a revision of its own. */
static void check_response(struct consumer *c, const struct watch_response *r)
{
    for (size_t i = 0; i < r->n_events; i++) {
        Mvccpb__Event *e =
            mvccpb__event__unpack(NULL, r->events[i].encoded.len, r->events[i].encoded.data);
        check(e && e->kv->mod_revision == c->next++);
        mvccpb__event__free_unpacked(e, NULL);
    }
}

/* Up to a revision, or all there is. */
static void consume(struct consumer *c, int64_t until)
{
    struct watch_stream *s = watch_stream_open(c->b->hub, wake, c);
    struct watch_request q = watch_of("key", NULL);
    struct watch_response *r;

    q.start_revision = c->next;
    watch_create(s, &q);
    while (c->next < until) {
        sleep_until_ready(c);
        while ((r = watch_stream_take(s))) {
            check_response(c, r);
            watch_response_free(r);
        }
        watch_progress(s);
    }
    watch_cancel(s, 0);
    watch_stream_close(s);
    c->is_ready = false;
    c->n_anew++;
}

static void *consume_run(void *arg)
{
    struct consumer *c = arg;
    c->next = 2;
    while (c->next < WRITES + 2)
        consume(c, c->lasting ? WRITES + 2 : c->next + 1);
    return NULL;
}

static void test_threads(void **state)
{
    struct watch_box *b =
        watch_box_new(&(struct watch_hub_options){.ring_bytes = 20000, .stream_bytes_max = 20000});
    struct consumer consumers[CONSUMERS] = {0};
    pthread_t hub, writer;

    atomic_store(&hub_stop, false);
    assert_int_equal(pthread_create(&hub, NULL, hub_run, b->hub), 0);
    for (int i = 0; i < CONSUMERS; i++) {
        struct consumer *c = &consumers[i];
        c->b = b;
        c->lasting = i % 2 == 0;
        pthread_mutex_init(&c->lock, NULL);
        cond_init(&c->cond);
        assert_int_equal(pthread_create(&c->thread, NULL, consume_run, c), 0);
    }
    assert_int_equal(pthread_create(&writer, NULL, write_run, b), 0);
    pthread_join(writer, NULL);
    for (int i = 0; i < CONSUMERS; i++) {
        pthread_join(consumers[i].thread, NULL);
        assert_int_equal(consumers[i].next, WRITES + 2);
        pthread_cond_destroy(&consumers[i].cond);
        pthread_mutex_destroy(&consumers[i].lock);
    }
    atomic_store(&hub_stop, true);
    watch_hub_stop_waiting(b->hub);
    pthread_join(hub, NULL);
    watch_box_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
    };

    log_level_min = LOG_ERROR;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
