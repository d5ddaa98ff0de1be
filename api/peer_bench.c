/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a message costs between two transports over loopback in one process, sender and receiver
 * together: appends of one 300-byte entry, one or 64 to a batch, and the time of a round trip
 * between two threads that stand for raft's, alone and while a snapshot of a gigabyte passes.
 *
 *     peer_bench [seconds of each scenario]
 */
#include "api/peer_test.h"

#include <sys/resource.h>

enum { SNAPSHOT_BYTES = 1 << 30, ENTRY_BYTES = 300, AHEAD_MAX = 4096 };

static double cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static size_t heard_by(struct node *n)
{
    pthread_mutex_lock(&n->server.lock);
    size_t heard = n->server.n_heard;
    pthread_mutex_unlock(&n->server.lock);
    return heard;
}

static void heard_wait(struct node *n, size_t want)
{
    pthread_mutex_lock(&n->server.lock);
    while (n->server.n_heard < want)
        pthread_cond_wait(&n->server.cond, &n->server.lock);
    pthread_mutex_unlock(&n->server.lock);
}

static void one_way(struct pair *p, size_t batch, double seconds)
{
    struct blob *data = blob_new(ENTRY_BYTES);
    struct raft_entry entries[64];
    struct raft_message messages[64];
    uint64_t begin_ns = clock_mono_ns(), index = 1;
    size_t before = heard_by(p->b), sent = 0;
    double cpu = cpu_us();

    memset(data->data, 'x', ENTRY_BYTES);
    while ((double)(clock_mono_ns() - begin_ns) < seconds * 1e9) {
        for (size_t i = 0; i < batch; i++, index++) {
            entries[i] = (struct raft_entry){.term = 5, .index = index + 1, .data = data};
            messages[i] = (struct raft_message){.type = RAFT_MSG_APP,
                                                .from = 1,
                                                .to = 2,
                                                .term = 5,
                                                .log_term = 5,
                                                .index = index,
                                                .commit = index,
                                                .entries = &entries[i],
                                                .n_entries = 1};
        }
        node_send(p->a, messages, batch);
        sent += batch;
        if (sent > AHEAD_MAX)
            heard_wait(p->b, before + sent - AHEAD_MAX);
    }
    heard_wait(p->b, before + sent);
    double ns = (double)(clock_mono_ns() - begin_ns);
    printf("one way, batch %2zu: %7.0f messages/s, %5.2f us of CPU each\n", batch,
           (double)sent / ns * 1e9, (cpu_us() - cpu) / (double)sent);
    blob_unref(data);
}

struct echo {
    struct pair *p;
    size_t heard; /* by b, before the first that is answered */
    atomic_bool stop;
};

static void *echo_main(void *arg)
{
    struct echo *e = arg;

    for (;;) {
        heard_wait(e->p->b, ++e->heard);
        if (atomic_load(&e->stop))
            return NULL;
        struct raft_message m = {.type = RAFT_MSG_HEARTBEAT_RESP, .from = 2, .to = 1, .term = 5};
        node_send(e->p->b, &m, 1);
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void round_trips(struct pair *p, double seconds)
{
    enum { MAX = 1 << 20 };
    uint64_t *took = mem_alloc(MAX * sizeof(*took)), begin_ns = clock_mono_ns(), n = 0;
    struct echo e = {.p = p, .heard = heard_by(p->b)};
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT, .from = 1, .to = 2, .term = 5};
    size_t heard = heard_by(p->a);
    pthread_t thread;

    check(pthread_create(&thread, NULL, echo_main, &e) == 0);
    double cpu = cpu_us();
    while (n < MAX && (double)(clock_mono_ns() - begin_ns) < seconds * 1e9) {
        uint64_t at_ns = clock_mono_ns();
        node_send(p->a, &m, 1);
        heard_wait(p->a, ++heard);
        took[n++] = clock_mono_ns() - at_ns;
    }
    cpu = cpu_us() - cpu;
    atomic_store(&e.stop, true);
    node_send(p->a, &m, 1);
    pthread_join(thread, NULL);
    qsort(took, n, sizeof(*took), compare);
    printf("round trip: p50 %.0f us, p99 %.0f us, %.1f us of CPU\n", (double)took[n / 2] / 1000,
           (double)took[n * 99 / 100] / 1000, cpu / (double)n);
    free(took);
}

struct passing {
    struct transport_snapshot snapshot;
    uint64_t begin_ns;
    atomic_bool done;
    bool ok;
};

static void passed(struct transport_snapshot *snapshot, bool ok)
{
    struct passing *p = container_of(snapshot, struct passing, snapshot);

    p->ok = ok;
    printf("snapshot: %s, %.0f MB/s\n", ok ? "sent" : "failed",
           (double)SNAPSHOT_BYTES / (double)(clock_mono_ns() - p->begin_ns) * 1000);
    atomic_store(&p->done, true);
}

static void round_trips_beside_a_snapshot(struct pair *pair, double seconds)
{
    _cleanup_(mem_freep) char *path = mem_printf("%s/db", pair->a->server.dir);
    uint64_t voters[] = {1, 2};
    struct raft_snapshot meta = {.index = 9, .term = 1, .conf = {.voters = {voters, 2}}};
    struct raft_message m = {
        .type = RAFT_MSG_SNAP, .from = 1, .to = 2, .term = 5, .snapshot = &meta};
    struct passing p = {.snapshot = {.message = &m, .file = path, .done = passed}};
    FILE *f = fopen(path, "wb");

    check(f && ftruncate(fileno(f), SNAPSHOT_BYTES) == 0);
    fclose(f);
    p.begin_ns = clock_mono_ns();
    pair->a->peer->transport.ops->send_snapshot(&pair->a->peer->transport, &p.snapshot);
    round_trips(pair, seconds);
    wait_for(&pair->a->server, atomic_load(&p.done));
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;

    log_level_min = LOG_ERROR;
    struct pair p = pair_new();
    p.a->server.keep_nothing = p.b->server.keep_nothing = true;
    one_way(&p, 1, seconds);
    one_way(&p, 64, seconds);
    round_trips(&p, seconds);
    round_trips_beside_a_snapshot(&p, seconds);
    pair_free(&p);
    return 0;
}
