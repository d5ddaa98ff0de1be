/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transports that talk to each other over loopback, each with a server of the test's own behind it:
 * streams, the pipeline before there are any, members that come, go, move and were removed,
 * snapshots both ways, requests of the server.
 */
#include "api/peer_test.h"

static struct raft_message heartbeat(uint64_t from, uint64_t to, uint64_t term)
{
    return (struct raft_message){
        .type = RAFT_MSG_HEARTBEAT, .from = from, .to = to, .term = term, .commit = 1};
}

static struct raft_message append(uint64_t from, uint64_t to, uint64_t index,
                                  struct raft_entry *entry)
{
    return (struct raft_message){.type = RAFT_MSG_APP,
                                 .from = from,
                                 .to = to,
                                 .term = 5,
                                 .log_term = 5,
                                 .index = index,
                                 .commit = index,
                                 .entries = entry,
                                 .n_entries = 1};
}

/* ---- streams ---- */

static void messages_arrive_in_order_on_both_streams(void **state)
{
    enum { N = 2000 };
    struct pair p = pair_new();
    struct blob *data = blob_copy(BYTES_LIT("the payload of an entry"));

    for (uint64_t i = 1; i <= N; i += 10) {
        struct raft_message batch[20];
        struct raft_entry entries[10];
        for (uint64_t j = 0; j < 10; j++) {
            entries[j] = (struct raft_entry){.term = 5, .index = i + j + 1, .data = data};
            batch[2 * j] = append(1, 2, i + j, &entries[j]);
            batch[2 * j + 1] = heartbeat(1, 2, i + j);
        }
        node_send(p.a, batch, 20);
    }
    wait_until(&p.b->server, p.b->server.n_heard == 2 * N);
    uint64_t term = 0, index = 0;
    for (size_t i = 0; i < p.b->server.n_heard; i++) {
        const struct heard *h = &p.b->server.heard[i];
        assert_int_equal(h->m.from, 1);
        if (h->m.type == RAFT_MSG_HEARTBEAT) {
            assert_int_equal(h->m.term, ++term);
            continue;
        }
        assert_int_equal(h->m.type, RAFT_MSG_APP);
        assert_int_equal(h->m.index, ++index);
        assert_int_equal(h->m.log_term, 5);
        assert_int_equal(h->n_entries, 1);
        assert_int_equal(h->first_index, index + 1);
    }
    assert_int_equal(p.a->server.unreachable[2], 0);
    /* Appends went on their own stream. */
    struct peer_link *link = map_u64_get(&p.a->peer->links, 2);
    assert_int_equal(link->writers[PEER_STREAM_MSGAPP].codec.index, N + 1);
    assert_true(node_active_ms(p.a, 2) > 0);
    assert_int_equal(node_active_ms(p.a, 1), 0);
    assert_int_equal(node_active_ms(p.a, 3), 0);
    blob_unref(data);
    pair_free(&p);
}

/* Much more than a socket takes at once: the loop goes on where raft's thread stopped. */
static void long_messages_arrive_whole(void **state)
{
    enum { N = 20, BYTES = 3 << 20 };
    struct pair p = pair_new();
    struct blob *data = blob_new(BYTES);

    memset(data->data, 'x', BYTES);
    for (uint64_t i = 1; i <= N; i++) {
        struct raft_entry entry = {.term = 5, .index = i + 1, .data = data};
        struct raft_message m = append(1, 2, i, &entry);
        node_send(p.a, &m, 1);
    }
    wait_until(&p.b->server, p.b->server.n_heard == N);
    assert_int_equal(p.b->server.heard[N - 1].m.index, N);
    assert_int_equal(p.a->server.unreachable[2], 0);
    blob_unref(data);
    pair_free(&p);
}

static void a_full_queue_drops_and_tells_raft(void **state)
{
    enum { N = 64, BYTES = 4 << 20 };
    struct pair p = pair_new();
    struct blob *data = blob_new(BYTES);
    struct raft_message batch[N];
    struct raft_entry entries[N];

    memset(data->data, 'x', BYTES);
    for (uint64_t i = 0; i < N; i++) {
        entries[i] = (struct raft_entry){.term = 5, .index = i + 2, .data = data};
        batch[i] = append(1, 2, i + 1, &entries[i]);
    }
    node_send(p.a, batch, N); /* in one batch nothing leaves meanwhile */
    wait_until(&p.a->server, p.a->server.unreachable[2] == 1);
    wait_until(&p.b->server, p.b->server.n_heard == PEER_QUEUE_BYTES_MAX / BYTES);
    struct raft_message m = heartbeat(1, 2, 9);
    node_send(p.a, &m, 1);
    wait_until(&p.b->server, p.b->server.n_heard == 1 + PEER_QUEUE_BYTES_MAX / BYTES);
    blob_unref(data);
    pair_free(&p);
}

static void what_would_kill_its_receiver_is_not_sent(void **state)
{
    struct pair p = pair_new();
    struct raft_message batch[] = {{.type = RAFT_MSG_PROP, .from = 1, .to = 2}, heartbeat(1, 2, 3)};

    node_send(p.a, batch, 2); /* a proposal without entries makes etcd abort */
    wait_until(&p.b->server, p.b->server.n_heard == 1);
    assert_int_equal(p.b->server.heard[0].m.type, RAFT_MSG_HEARTBEAT);
    pair_free(&p);
}

static void one_batch_to_many_members_finds_each(void **state)
{
    enum { N = 5 };
    struct node *sender = node_new(1), *others[N];
    struct raft_message batch[3 * N];

    node_start(sender);
    for (uint64_t i = 0; i < N; i++) {
        others[i] = node_new(i + 2);
        node_start(others[i]);
        node_knows(others[i], 1, node_url(sender));
        node_knows(sender, i + 2, node_url(others[i]));
    }
    for (uint64_t i = 0; i < N; i++)
        wait_for(&sender->server, node_has_streams(sender, i + 2));
    for (uint64_t i = 0; i < 3 * N; i++)
        batch[i] = heartbeat(1, i % N + 2, i + 1);
    node_send(sender, batch, 3 * N);
    for (uint64_t i = 0; i < N; i++) {
        wait_until(&others[i]->server, others[i]->server.n_heard == 3);
        for (uint64_t j = 0; j < 3; j++)
            assert_int_equal(others[i]->server.heard[j].m.term, j * N + i + 1);
    }
    for (int i = 0; i < N; i++)
        node_free(others[i]);
    node_free(sender);
}

/* ---- without streams ---- */

static void before_there_are_streams_messages_are_posted(void **state)
{
    struct node *a = node_new(1), *b = node_new(2);

    node_start(a);
    node_start(b);
    node_knows(a, 2, node_url(b)); /* b does not know a: it dials nothing, and answers 404 */
    wait_for(&a->server, node_has_link(a, 2));
    for (uint64_t i = 1; i <= 3 * PEER_POSTS_MAX; i++) {
        struct raft_message m = heartbeat(1, 2, i);
        node_send(a, &m, 1);
        wait_until(&b->server, b->server.n_heard >= i - i % 10);
    }
    wait_until(&b->server, b->server.n_heard == 3 * PEER_POSTS_MAX);
    assert_int_equal(a->server.unreachable[2], 0);
    assert_false(node_has_streams(a, 2));
    node_free(a);
    node_free(b);
}

static void a_full_pipeline_drops_and_tells_raft(void **state)
{
    struct node *a = node_new(1);
    struct raft_message batch[PEER_POSTS_MAX + PEER_POSTS_AT_ONCE + 1];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    /* Connections are taken by the system, and nobody answers. */
    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(fd, 100), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    node_start(a);
    node_knows(a, 2, mem_printf("http://127.0.0.1:%u", ntohs(address.sin_port)));
    wait_for(&a->server, node_has_link(a, 2));
    size_t n = sizeof(batch) / sizeof(batch[0]);
    for (size_t i = 0; i < n; i++)
        batch[i] = heartbeat(1, 2, i + 1);
    node_send(a, batch, n);
    wait_until(&a->server, a->server.unreachable[2] > 0);
    close(fd);
    node_free(a);
}

/* Takes posts, each connection on a thread of its own: the first is answered; the second is read,
 * and the connection ends. */
struct taker {
    int listener;
    atomic_uint n_proposals, n_others;
};

struct taken {
    struct taker *t;
    int fd;
};

/* False: no post came. Its body begins with its type. */
static bool take_post(struct taken *c)
{
    char request[4096];
    size_t len = 0;
    const char *body = NULL;

    while (!body || request + len < body + 2) {
        ssize_t n = recv(c->fd, request + len, sizeof(request) - len, 0);
        if (n <= 0 || strncmp(request, "POST /raft HTTP", 15) != 0)
            return false; /* a stream is dialled, or a version asked for */
        len += (size_t)n;
        body = memmem(request, len, "\r\n\r\n", 4);
        body = body ? body + 4 : NULL;
    }
    atomic_fetch_add(body[1] == RAFT_MSG_PROP ? &c->t->n_proposals : &c->t->n_others, 1);
    return true;
}

static void *taken_main(void *arg)
{
    static const char done[] = "HTTP/1.1 204 No Content\r\n\r\n";
    struct taken *c = arg;

    if (take_post(c)) {
        (void)!send(c->fd, done, sizeof(done) - 1, MSG_NOSIGNAL);
        (void)take_post(c);
    }
    close(c->fd);
    free(c);
    return NULL;
}

static void *taker_main(void *arg)
{
    struct taker *t = arg;
    pthread_t thread;
    int fd;

    while ((fd = accept(t->listener, NULL, NULL)) >= 0) {
        struct taken *c = mem_new(struct taken);
        *c = (struct taken){t, fd};
        assert_int_equal(pthread_create(&thread, NULL, taken_main, c), 0);
        pthread_detach(thread);
    }
    return NULL;
}

/* Nobody knows whether it was taken: a proposal that is posted again might be carried out twice. */
static void a_proposal_is_posted_once(void **state)
{
    struct peer_timing timing = test_timing;
    timing.probe = 60000; /* or one may take the first connection */
    struct node *a = node_new_timed(1, timing);
    struct taker t = {.listener = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    struct raft_entry entry = {.data = blob_new(8)};
    struct raft_message first = heartbeat(1, 2, 1), proposal = {.type = RAFT_MSG_PROP,
                                                                .from = 1,
                                                                .to = 2,
                                                                .entries = &entry,
                                                                .n_entries = 1};
    pthread_t thread;

    assert_int_equal(bind(t.listener, (struct sockaddr *)&address, len), 0);
    assert_int_equal(listen(t.listener, 100), 0);
    assert_int_equal(getsockname(t.listener, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(pthread_create(&thread, NULL, taker_main, &t), 0);
    node_start(a);
    node_knows(a, 2, mem_printf("http://127.0.0.1:%u", ntohs(address.sin_port)));
    wait_for(&a->server, node_has_link(a, 2));
    double sent = metric_value(&peer_metrics_of(1, 2)->sent_bytes);
    node_send(a, &first, 1);
    wait_for(&a->server, metric_value(&peer_metrics_of(1, 2)->sent_bytes) > sent);
    node_send(a, &proposal, 1);
    wait_for(&a->server, atomic_load(&t.n_proposals) > 0);
    node_send(a, &first, 1); /* on the first connection, and again on another */
    wait_for(&a->server, atomic_load(&t.n_others) == 3);
    assert_int_equal(atomic_load(&t.n_proposals), 1);
    shutdown(t.listener, SHUT_RDWR);
    node_free(a);
    pthread_join(thread, NULL);
    close(t.listener);
    blob_unref(entry.data);
}

/* A member that was just added learns from the first request where its sender is. */
static void a_new_member_answers_a_sender_that_its_table_does_not_have(void **state)
{
    struct node *a = node_new(1), *b = node_new(2);
    char *error = NULL;
    _cleanup_(mem_freep) char *socket_url = mem_printf("unix://%s/a.sock", a->server.dir);

    url_list_deinit(&a->server.config.listen_peer_urls);
    assert_int_equal(url_list_parse(socket_url, &a->server.config.listen_peer_urls, &error), 0);
    assert_int_equal(
        url_list_parse(socket_url, &a->server.config.initial_advertise_peer_urls, &error), 0);
    node_start(a);
    node_start(b);
    node_knows(a, 2, node_url(b));
    wait_for(&b->server, node_has_link(b, 1));
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT_RESP, .from = 2, .to = 1, .term = 3};
    node_send(b, &m, 1);
    wait_until(&a->server, a->server.n_heard == 1);
    assert_int_equal(node_active_ms(b, 1), 0);
    node_knows(b, 1, mem_strdup(socket_url));
    wait_for(&b->server, node_has_streams(b, 1));
    wait_for(&a->server, node_has_streams(a, 2));
    node_free(a);
    node_free(b);
}

static void post_from(struct node *n, unsigned id)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    _cleanup_(mem_freep) char *request = mem_printf(
        "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-From: %x\r\nX-Server-Version: 3.7.1\r\n"
        "X-Etcd-Cluster-ID: c1\r\nX-PeerURLs: http://127.0.0.1:%u,junk\r\n"
        "Content-Length: 0\r\n\r\n",
        id, id);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char got[16];

    a.sin_port = htons(peer_port(n->peer, 0));
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, request, strlen(request), 0), strlen(request));
    assert_int_equal(recv(fd, got, sizeof(got), MSG_WAITALL), sizeof(got));
    close(fd);
}

/* Whoever invents members can't keep a real one from being answered. */
static void of_many_unknown_senders_the_latest_are_kept(void **state)
{
    struct node *n = node_new(1);

    n->server.removed[3] = true;
    node_start(n);
    for (unsigned id = 16; id < 16 + PEER_REMOTES_MAX + 5; id++)
        post_from(n, id);
    assert_false(node_has_link(n, 16));
    assert_false(node_has_link(n, 20));
    assert_true(node_has_link(n, 21));
    assert_true(node_has_link(n, 16 + PEER_REMOTES_MAX + 4));
    post_from(n, 1); /* ourselves */
    post_from(n, 3); /* removed */
    assert_true(node_has_link(n, 21));
    assert_false(node_has_link(n, 1));
    assert_false(node_has_link(n, 3));
    node_free(n);
}

/* ---- members come and go ---- */

static void a_member_that_comes_back_is_dialled_again(void **state)
{
    struct node *a = node_new(1), *b = node_new(2);
    char *error = NULL;
    _cleanup_(mem_freep) char *url = mem_printf("unix://%s/b.sock", a->server.dir);

    url_list_deinit(&b->server.config.listen_peer_urls);
    assert_int_equal(url_list_parse(url, &b->server.config.listen_peer_urls, &error), 0);
    node_start(a);
    node_start(b);
    node_knows(b, 1, node_url(a));
    node_knows(a, 2, mem_strdup(url));
    wait_for(&a->server, node_has_streams(a, 2) && node_active_ms(a, 2) > 0);
    struct raft_message m = append(1, 2, 7, &(struct raft_entry){.term = 5, .index = 8});
    node_send(a, &m, 1);
    wait_until(&b->server, b->server.n_heard == 1);
    node_free(b);
    wait_for(&a->server, node_active_ms(a, 2) == 0);
    wait_until(&a->server, a->server.unreachable[2] > 0);
    b = node_new(2);
    url_list_deinit(&b->server.config.listen_peer_urls);
    assert_int_equal(url_list_parse(url, &b->server.config.listen_peer_urls, &error), 0);
    node_start(b);
    node_knows(b, 1, node_url(a));
    wait_for(&a->server, node_has_streams(a, 2) && node_active_ms(a, 2) > 0);
    wait_for(&b->server, node_has_streams(b, 1));
    /* The new stream knows nothing of the appends on the old one. */
    m = append(1, 2, 8, &(struct raft_entry){.term = 5, .index = 9});
    node_send(a, &m, 1);
    wait_until(&b->server, b->server.n_heard == 1);
    assert_int_equal(b->server.heard[0].m.index, 8);
    assert_int_equal(b->server.heard[0].m.log_term, 5);
    node_free(a);
    node_free(b);
}

static void of_several_urls_the_next_is_tried(void **state)
{
    struct node *a = node_new(1), *b = node_new(2);

    node_start(b);
    char *second = a->server.second_url = node_url(b);
    node_start(a);
    node_knows(b, 1, node_url(a));
    node_knows(a, 2, mem_strdup("http://127.0.0.1:1")); /* nobody listens there */
    wait_for(&b->server, node_has_streams(b, 1));
    node_free(a);
    node_free(b);
    free(second);
}

static void a_changed_url_leaves_the_streams_alone(void **state)
{
    struct pair p = pair_new();
    uint64_t active_ms = node_active_ms(p.a, 2);
    struct raft_message m = heartbeat(1, 2, 3);

    node_knows(p.a, 2, mem_strdup("http://127.0.0.1:1"));
    node_knows(p.a, 3, mem_strdup("http://127.0.0.1:1"));
    wait_for(&p.a->server, node_has_link(p.a, 3));
    node_send(p.a, &m, 1);
    wait_until(&p.b->server, p.b->server.n_heard == 1);
    assert_true(node_active_ms(p.a, 2) >= active_ms);
    pair_free(&p);
}

static void a_removed_member_is_told_so_and_nobody_dials_it(void **state)
{
    struct pair p = pair_new();

    pthread_mutex_lock(&p.a->server.lock);
    p.a->server.removed[2] = true;
    pthread_mutex_unlock(&p.a->server.lock);
    node_knows(p.a, 2, NULL);
    wait_for(&p.a->server, !node_has_link(p.a, 2));
    wait_until(&p.b->server, p.b->server.we_are_removed > 0);
    wait_for(&p.b->server, !node_has_streams(p.b, 1));
    unsigned unreachable = p.b->server.unreachable[1];
    struct raft_message m = heartbeat(2, 1, 9);
    node_send(p.b, &m, 1);
    wait_until(&p.b->server, p.b->server.unreachable[1] > unreachable);
    assert_int_equal(p.a->server.n_heard, 0);
    assert_false(node_has_link(p.a, 2)); /* its URLs are not kept either */
    pair_free(&p);
}

/* ---- what is no member ---- */

struct impostor {
    int listener;
    struct bytes stream;
    atomic_uint n_dialled;
};

/* Answers each request for a stream with the same bytes, until its socket is shut down. */
static void *impostor_main(void *arg)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nX-Server-Version: 3.7.1\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    struct impostor *i = arg;
    char request[4096];
    int fd;

    while ((fd = accept(i->listener, NULL, NULL)) >= 0) {
        (void)!recv(fd, request, sizeof(request), 0);
        (void)!send(fd, head, sizeof(head) - 1, MSG_NOSIGNAL);
        (void)!send(fd, i->stream.data, i->stream.len, MSG_NOSIGNAL);
        (void)!recv(fd, request, sizeof(request), 0);
        close(fd);
        atomic_fetch_add(&i->n_dialled, 1);
    }
    return NULL;
}

static void a_stream_of_garbage_is_ended_and_dialled_again(void **state)
{
    static const struct bytes streams[] = {
        BYTES_LIT("9\r\n\xff\xff\xff\xff\xff\xff\xff\xff\x08\r\n"), /* too long a message */
        BYTES_LIT("c\r\n\0\0\0\0\0\0\0\4\xff\xff\xff\xff\r\n"),     /* none of raft */
        BYTES_LIT("zz\r\n"),
        BYTES_LIT("0\r\n\r\n"),
    };

    for (size_t i = 0; i < sizeof(streams) / sizeof(streams[0]); i++) {
        struct node *a = node_new(1);
        struct sockaddr_in address = {.sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof(address);
        struct impostor m = {.listener = socket(AF_INET, SOCK_STREAM, 0), .stream = streams[i]};
        pthread_t thread;
        assert_int_equal(bind(m.listener, (struct sockaddr *)&address, len), 0);
        assert_int_equal(listen(m.listener, 10), 0);
        assert_int_equal(getsockname(m.listener, (struct sockaddr *)&address, &len), 0);
        assert_int_equal(pthread_create(&thread, NULL, impostor_main, &m), 0);
        double disconnected = metric_value(&peer_metrics_of(1, 2)->disconnected);
        node_start(a);
        node_knows(a, 2, mem_printf("http://127.0.0.1:%u", ntohs(address.sin_port)));
        wait_for(&a->server, atomic_load(&m.n_dialled) >= 6);
        assert_int_equal(a->server.n_heard, 0);
        /* An orderly end says nothing about the member. */
        assert_true((metric_value(&peer_metrics_of(1, 2)->disconnected) > disconnected) == (i < 3));
        shutdown(m.listener, SHUT_RDWR);
        node_free(a);
        pthread_join(thread, NULL);
        close(m.listener);
    }
}

static void one_of_another_cluster_is_refused(void **state)
{
    struct node *a = node_new(1), *b = node_new(2);
    struct raft_message m = heartbeat(1, 2, 3);

    b->server.info.cluster_id = TEST_CLUSTER + 1;
    node_start(a);
    node_start(b);
    node_knows(a, 2, node_url(b));
    node_knows(b, 1, node_url(a));
    wait_for(&a->server, node_has_link(a, 2));
    node_send(a, &m, 1);
    wait_until(&a->server, a->server.unreachable[2] > 0);
    assert_int_equal(b->server.n_heard, 0);
    assert_int_equal(node_active_ms(a, 2), 0);
    assert_int_equal(node_active_ms(b, 1), 0);
    node_free(a);
    node_free(b);
}

static void tls_is_refused_by_name(void **state)
{
    struct node *n = node_new(1);
    char *error = NULL;

    url_list_deinit(&n->server.config.listen_peer_urls);
    assert_int_equal(
        url_list_parse("https://127.0.0.1:0", &n->server.config.listen_peer_urls, &error), 0);
    assert_int_equal(peer_start(n->peer, &n->server), 1);
    node_free(n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_in_order_on_both_streams),
        cmocka_unit_test(long_messages_arrive_whole),
        cmocka_unit_test(a_full_queue_drops_and_tells_raft),
        cmocka_unit_test(what_would_kill_its_receiver_is_not_sent),
        cmocka_unit_test(one_batch_to_many_members_finds_each),
        cmocka_unit_test(before_there_are_streams_messages_are_posted),
        cmocka_unit_test(a_proposal_is_posted_once),
        cmocka_unit_test(a_full_pipeline_drops_and_tells_raft),
        cmocka_unit_test(a_new_member_answers_a_sender_that_its_table_does_not_have),
        cmocka_unit_test(of_many_unknown_senders_the_latest_are_kept),
        cmocka_unit_test(a_member_that_comes_back_is_dialled_again),
        cmocka_unit_test(of_several_urls_the_next_is_tried),
        cmocka_unit_test(a_changed_url_leaves_the_streams_alone),
        cmocka_unit_test(a_removed_member_is_told_so_and_nobody_dials_it),
        cmocka_unit_test(a_stream_of_garbage_is_ended_and_dialled_again),
        cmocka_unit_test(one_of_another_cluster_is_refused),
        cmocka_unit_test(tls_is_refused_by_name),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
