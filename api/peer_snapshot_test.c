/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots between two transports and by hand, whole and broken; requests of the server to other
 * members, which answer, don't, or say nothing.
 */
#include "api/peer_test.h"

#include <sys/stat.h>

#include "api/peer_tables.h"

/* ---- sending ---- */

struct sending {
    struct transport_snapshot snapshot;
    struct server *server; /* whose lock is used */
    struct raft_message message;
    struct raft_snapshot meta;
    uint64_t voters[2];
    bool done;
    bool ok;
};

static void sent(struct transport_snapshot *snapshot, bool ok)
{
    struct sending *s = container_of(snapshot, struct sending, snapshot);

    pthread_mutex_lock(&s->server->lock);
    s->done = true;
    s->ok = ok;
    pthread_cond_broadcast(&s->server->cond);
    pthread_mutex_unlock(&s->server->lock);
}

static void sending_init(struct sending *s, struct node *from, uint64_t to)
{
    *s = (struct sending){.server = &from->server, .voters = {1, 2}};
    s->meta = (struct raft_snapshot){.index = 77, .term = 3, .conf = {.voters = {s->voters, 2}}};
    s->message = (struct raft_message){
        .type = RAFT_MSG_SNAP, .from = 1, .to = to, .term = 4, .snapshot = &s->meta};
    s->snapshot = (struct transport_snapshot){.message = &s->message, .done = sent};
}

static bool send_and_wait(struct sending *s, struct node *from)
{
    from->peer->transport.ops->send_snapshot(&from->peer->transport, &s->snapshot);
    wait_until(s->server, s->done);
    return s->ok;
}

static char *file_make(const char *dir, const char *name, size_t bytes)
{
    char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = i * 0x9e3779b97f4a7c15u;
        assert_int_equal(fwrite(&word, 1, bytes - i < 8 ? bytes - i : 8, f),
                         bytes - i < 8 ? bytes - i : 8);
    }
    fclose(f);
    return path;
}

static void files_equal(const char *a, const char *b)
{
    FILE *fa = fopen(a, "rb"), *fb = fopen(b, "rb");
    static uint8_t ba[65536], bb[65536];
    size_t n;

    assert_non_null(fa);
    assert_non_null(fb);
    do {
        n = fread(ba, 1, sizeof(ba), fa);
        assert_int_equal(fread(bb, 1, sizeof(bb), fb), n);
        assert_memory_equal(ba, bb, n);
    } while (n > 0);
    fclose(fa);
    fclose(fb);
}

static void a_file_arrives_as_it_was_while_messages_go_on(void **state)
{
    static const size_t sizes[] = {0, 1, 4096, (30 << 20) + 5};
    struct pair p = pair_new();
    struct sending s;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        _cleanup_(mem_freep) char *path = file_make(p.a->server.dir, "db", sizes[i]);
        struct raft_message m = {.type = RAFT_MSG_HEARTBEAT, .from = 1, .to = 2, .term = i + 1};
        sending_init(&s, p.a, 2);
        s.snapshot.file = path;
        p.a->peer->transport.ops->send_snapshot(&p.a->peer->transport, &s.snapshot);
        node_send(p.a, &m, 1);
        wait_until(&p.b->server, p.b->server.n_heard == i + 1);
        wait_until(&p.a->server, s.done);
        assert_true(s.ok);
        assert_int_equal(p.b->server.n_snapshots, i + 1);
        assert_int_equal(p.b->server.snapshot_index, 77);
        files_equal(path, p.b->server.snapshot_path);
    }
    assert_int_equal(p.a->server.unreachable[2], 0);
    pair_free(&p);
}

static void a_directory_arrives_as_files(void **state)
{
    struct pair p = pair_new();
    _cleanup_(mem_freep) char *dir = mem_printf("%s/checkpoint", p.a->server.dir);
    _cleanup_(mem_freep) char *one = NULL, *two = NULL, *one_there = NULL, *two_there = NULL;
    struct sending s;

    assert_true(p.a->peer->transport.ops->wants_tables(&p.a->peer->transport, 2));
    assert_false(p.a->peer->transport.ops->wants_tables(&p.a->peer->transport, 3));
    assert_int_equal(mkdir(dir, 0700), 0);
    one = file_make(dir, "000007.sst", 3 << 20);
    two = file_make(dir, "CURRENT", 16);
    sending_init(&s, p.a, 2);
    s.snapshot.directory = dir;
    assert_true(send_and_wait(&s, p.a));
    one_there = mem_printf("%s/000007.sst", p.b->server.snapshot_path);
    two_there = mem_printf("%s/CURRENT", p.b->server.snapshot_path);
    files_equal(one, one_there);
    files_equal(two, two_there);
    assert_int_equal(test_dir_count(p.b->server.snapshot_path), 2);
    pair_free(&p);
}

static void what_can_not_be_sent_is_told(void **state)
{
    struct pair p = pair_new();
    struct sending s;

    sending_init(&s, p.a, 3); /* unknown */
    s.snapshot.file = "/dev/null";
    assert_false(send_and_wait(&s, p.a));
    sending_init(&s, p.a, 2);
    s.snapshot.file = "/nonexistent";
    assert_false(send_and_wait(&s, p.a));
    wait_until(&p.a->server, p.a->server.unreachable[2] == 1);
    pthread_mutex_lock(&p.b->server.lock);
    p.b->server.snapshot_verdict = PEER_INVALID;
    pthread_mutex_unlock(&p.b->server.lock);
    _cleanup_(mem_freep) char *path = file_make(p.a->server.dir, "db", 5000);
    sending_init(&s, p.a, 2);
    s.snapshot.file = path;
    assert_false(send_and_wait(&s, p.a));
    assert_int_equal(p.b->server.n_snapshots, 1);
    pthread_mutex_lock(&p.b->server.lock);
    p.b->server.removed[1] = true;
    pthread_mutex_unlock(&p.b->server.lock);
    sending_init(&s, p.a, 2);
    s.snapshot.file = path;
    assert_false(send_and_wait(&s, p.a));
    assert_int_equal(p.b->server.n_snapshots, 1);
    peer_stop(p.a->peer);
    sending_init(&s, p.a, 2);
    s.snapshot.file = path;
    assert_false(send_and_wait(&s, p.a));
    pair_free(&p);
}

/* The answer says that raft has the snapshot, so it waits for that. */
static void a_snapshot_is_sent_when_raft_has_it(void **state)
{
    static const bool taken[] = {true, false};
    struct pair p = pair_new();
    _cleanup_(mem_freep) char *path = file_make(p.a->server.dir, "db", 5000);
    struct sending s;

    p.b->server.hold_snapshots = true;
    for (int i = 0; i < 2; i++) {
        sending_init(&s, p.a, 2);
        s.snapshot.file = path;
        p.a->peer->transport.ops->send_snapshot(&p.a->peer->transport, &s.snapshot);
        wait_until(&p.b->server, p.b->server.snapshot_done);
        assert_false(s.done);
        p.b->server.snapshot_done(p.b->server.snapshot_arg, taken[i]);
        p.b->server.snapshot_done = NULL;
        wait_until(&p.a->server, s.done);
        assert_true(s.ok == taken[i]);
    }
    sending_init(&s, p.a, 2);
    s.snapshot.file = path;
    p.a->peer->transport.ops->send_snapshot(&p.a->peer->transport, &s.snapshot);
    wait_until(&p.b->server, p.b->server.snapshot_done);
    peer_stop(p.b->peer); /* does not wait for a server that is not done */
    wait_until(&p.a->server, s.done);
    assert_false(s.ok);
    p.b->server.snapshot_done(p.b->server.snapshot_arg, true);
    pair_free(&p);
}

/* A socket that takes connections, and a member behind it that never says anything. */
static int silent_listener(char **ret_url)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(fd, 100), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *ret_url = mem_printf("http://127.0.0.1:%u", ntohs(a.sin_port));
    return fd;
}

static void a_stop_ends_what_is_on_its_way(void **state)
{
    struct node *a = node_new(1);
    _cleanup_(mem_freep) char *path = file_make(a->server.dir, "db", 20 << 20);
    struct sending s;
    char *url;
    int fd = silent_listener(&url);

    node_start(a);
    node_knows(a, 2, url);
    wait_for(&a->server, node_has_link(a, 2));
    sending_init(&s, a, 2);
    s.snapshot.file = path;
    a->peer->transport.ops->send_snapshot(&a->peer->transport, &s.snapshot);
    peer_stop(a->peer);
    assert_true(s.done);
    assert_false(s.ok);
    close(fd);
    node_free(a);
}

/* ---- receiving, by hand ---- */

#define HEAD                                                                                       \
    "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Server-From: 1\r\nX-Server-Version: 3.7.1\r\n"   \
    "X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\n"

static void envelope(struct buf *out, uint64_t to)
{
    uint64_t voters[] = {1, 2};
    struct raft_snapshot meta = {.index = 77, .term = 3, .conf = {.voters = {voters, 2}}};
    struct raft_message m = {
        .type = RAFT_MSG_SNAP, .from = 1, .to = to, .term = 4, .snapshot = &meta};

    assert_int_equal(peer_snapshot_encode(&m, out), 0);
}

static char post_got[4096];

/* Sends and reads to the end. */
static void post_once(struct node *n, const struct buf *request)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(peer_port(n->peer, 0)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    size_t len = 0;
    ssize_t r;

    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, request->data, request->len, MSG_NOSIGNAL), request->len);
    shutdown(fd, SHUT_WR);
    while (len < sizeof(post_got) - 1 &&
           (r = recv(fd, post_got + len, sizeof(post_got) - 1 - len, 0)) > 0)
        len += (size_t)r;
    post_got[len] = '\0';
    close(fd);
}

/* One that is answered counts among those being received for a moment more. */
static void post(struct node *n, const struct buf *request, const char *want)
{
    uint64_t end_ms = clock_mono_ms() + TEST_PATIENCE_MS;

    do
        post_once(n, request);
    while (!strstr(post_got, want) && strstr(post_got, "too many are being received") &&
           clock_mono_ms() < end_ms);
    if (!strstr(post_got, want))
        fail_msg("not in the answer: %s; but: %s", want, post_got);
}

static void post_body(struct node *n, const char *headers, struct bytes body, const char *want)
{
    _cleanup_(buf_deinit) struct buf request = BUF_NULL;

    buf_printf(&request, HEAD "%sContent-Length: %zu\r\n\r\n", headers, body.len);
    buf_append_bytes(&request, body);
    post(n, &request, want);
}

static struct node *receiver(struct peer_timing timing)
{
    struct node *n = node_new_timed(2, timing);

    node_start(n);
    node_knows(n, 1, mem_strdup("http://127.0.0.1:1"));
    wait_for(&n->server, node_has_link(n, 1));
    return n;
}

static void envelopes_that_are_none(void **state)
{
    struct node *n = receiver(test_timing);
    _cleanup_(buf_deinit) struct buf to_other = BUF_NULL, good = BUF_NULL;

    post_body(n, "", BYTES_NULL, "\r\n\r\nfailed to decode raft message (EOF)\n");
    post_body(n, "",
              bytes_of("\0\0\0\0\0\0\0\x10"
                       "ab",
                       10),
              "\r\n\r\nfailed to decode raft message (unexpected EOF)\n");
    post_body(n, "", bytes_of("\0\0\0\x1\0\0\0\0ab", 10), "HTTP/1.1 400 Bad Request");
    post_body(n, "", bytes_of("\0\0\0\0\0\0\0\x2\xff\xff", 10), "HTTP/1.1 400 Bad Request");
    post_body(n, "", bytes_of("\0\0\0\0\0\0\0\x2\x08\x08", 10),
              "\r\n\r\nwrong raft message type\n");
    post_body(n, "", bytes_of("\0\0\0\0\0\0\0\x2\x08\x07", 10), "HTTP/1.1 400 Bad Request");
    envelope(&to_other, 3);
    post_body(n, "", buf_bytes(&to_other),
              "failed to process raft message (cannot process message to mismatch member)");
    envelope(&good, 2);
    n->server.removed[1] = true;
    post_body(n, "", buf_bytes(&good),
              "failed to process raft message (cannot process message from removed member)");
    assert_int_equal(n->server.n_snapshots, 0);
    assert_int_equal(test_dir_count(n->server.dir), 0);
    node_free(n);
}

/* By its head, as on /raft: the sender is not even remembered. */
static void a_snapshot_of_another_cluster_is_refused(void **state)
{
    static const char head[] =
        "POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Server-From: 5\r\nX-Server-Version: 3.7.1\r\n"
        "X-Min-Cluster-Version: 3.0.0\r\nX-PeerURLs: http://127.0.0.1:1\r\n";
    struct node *n = receiver(test_timing);
    _cleanup_(buf_deinit) struct buf body = BUF_NULL, foreign = BUF_NULL, ours = BUF_NULL;

    envelope(&body, 2);
    buf_append_str(&body, "the database");
    buf_printf(&foreign, "%sX-Etcd-Cluster-ID: c2\r\nContent-Length: %zu\r\n\r\n", head, body.len);
    buf_append_bytes(&foreign, buf_bytes(&body));
    post(n, &foreign, "HTTP/1.1 412 Precondition Failed\r\n");
    post(n, &foreign, "\r\n\r\ncluster ID mismatch\n");
    assert_int_equal(n->server.n_snapshots, 0);
    assert_int_equal(test_dir_count(n->server.dir), 0);
    assert_false(node_has_link(n, 5));

    buf_printf(&ours, "%sX-Etcd-Cluster-ID: c1\r\nContent-Length: %zu\r\n\r\n", head, body.len);
    buf_append_bytes(&ours, buf_bytes(&body));
    post(n, &ours, "HTTP/1.1 204 No Content\r\n");
    assert_int_equal(n->server.n_snapshots, 1);
    assert_true(node_has_link(n, 5));
    node_free(n);
}

static void bodies_that_end_early_leave_nothing_behind(void **state)
{
    struct node *n = receiver(test_timing);
    _cleanup_(buf_deinit) struct buf cut = BUF_NULL, chunked = BUF_NULL, tables = BUF_NULL,
                                     other = BUF_NULL;

    buf_append_str(&cut, HEAD "Content-Length: 100000\r\n\r\n");
    envelope(&cut, 2);
    buf_append_str(&cut, "only this");
    post(n, &cut, "failed to save KV snapshot (unexpected EOF)");
    buf_append_str(&chunked, HEAD "Transfer-Encoding: chunked\r\n\r\n");
    size_t begin = peer_chunk_begin(&chunked);
    envelope(&chunked, 2);
    peer_chunk_end(&chunked, begin);
    buf_append_str(&chunked, "zz\r\n");
    post(n, &chunked, "failed to save KV snapshot (malformed chunked encoding)");
    envelope(&tables, 2);
    peer_tables_head(&tables, &(struct peer_table_file){"a.sst", 4});
    buf_append_str(&tables, "abc");
    post_body(n, "Content-Type: " PEER_TABLES_TYPE "\r\n", buf_bytes(&tables),
              "failed to save KV snapshot (unexpected EOF)");
    buf_append_str(&tables, "d1234"); /* no such checksum */
    post_body(n, "Content-Type: " PEER_TABLES_TYPE "\r\n", buf_bytes(&tables),
              "failed to save KV snapshot (malformed");
    envelope(&other, 2);
    post_body(n, "Content-Type: " PEER_TABLES_TYPE "\r\n", buf_bytes(&other),
              "failed to save KV snapshot (unexpected EOF)");
    assert_int_equal(n->server.n_snapshots, 0);
    assert_int_equal(test_dir_count(n->server.dir), 0);
    node_free(n);
}

/* As etcd sends it: in chunks, whose borders mean nothing. */
static void a_chunked_body_is_taken(void **state)
{
    struct node *n = receiver(test_timing);
    _cleanup_(buf_deinit) struct buf whole = BUF_NULL, request = BUF_NULL;
    struct stat st;

    envelope(&whole, 2);
    size_t head = whole.len;
    for (int i = 0; i < 1000; i++)
        buf_append_str(&whole, "the database ");
    buf_append_str(&request, HEAD "Transfer-Encoding: chunked\r\n\r\n");
    for (size_t at = 0; at < whole.len; at += 7) {
        size_t len = whole.len - at < 7 ? whole.len - at : 7, begin = peer_chunk_begin(&request);
        buf_append(&request, whole.data + at, len);
        peer_chunk_end(&request, begin);
    }
    buf_append_bytes(&request, PEER_CHUNK_LAST);
    post(n, &request, "HTTP/1.1 204 No Content\r\n");
    assert_int_equal(n->server.n_snapshots, 1);
    assert_int_equal(stat(n->server.snapshot_path, &st), 0);
    assert_int_equal(st.st_size, whole.len - head);
    node_free(n);
}

static void a_sender_that_stalls_is_given_up(void **state)
{
    struct peer_timing timing = test_timing;
    timing.silence = 100;
    struct node *n = receiver(timing);
    _cleanup_(buf_deinit) struct buf request = BUF_NULL;
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(peer_port(n->peer, 0)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char got[64];

    buf_append_str(&request, HEAD "Content-Length: 100000\r\n\r\n");
    envelope(&request, 2);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, request.data, request.len, 0), request.len);
    assert_int_equal(recv(fd, got, sizeof(got), MSG_WAITALL), sizeof(got));
    assert_memory_equal(got, "HTTP/1.1 500 ", 13);
    close(fd);
    node_free(n);
}

/* ---- requests of the server ---- */

static struct transport_fetch fetch_of(char *const *urls, size_t n, const char *path)
{
    return (struct transport_fetch){
        .method = "GET", .urls = urls, .n_urls = n, .path = path, .timeout_ms = 5000};
}

static void requests_try_one_url_after_the_other(void **state)
{
    struct node *a = node_new(1), *b = node_new(2), *other = node_new(3);
    char *silent, *url, *other_url;
    int fd = silent_listener(&silent);

    other->server.info.cluster_id = TEST_CLUSTER + 1;
    node_start(b);
    node_start(other);
    url = node_url(b);
    other_url = node_url(other);
    char *urls[] = {"http://127.0.0.1:1", "nonsense", silent, "http://name.invalid:1", url};
    struct transport_fetch f = fetch_of(urls, 5, "/members");
    /* Two of them have a third of it each. */
    f.timeout_ms = 6000;
    transport_fetch_wait(&a->peer->transport, &f); /* before a has a server */
    assert_int_equal(f.status, 200);
    assert_int_equal(f.cluster_id, TEST_CLUSTER);
    assert_true(bytes_equal(buf_bytes(&f.answer), BYTES_LIT("[{\"id\":1}]\n")));
    buf_deinit(&f.answer);
    _cleanup_(mem_freep) char *by_name = mem_printf("http://localhost%s", strrchr(url, ':'));
    f = fetch_of(&by_name, 1, "/members");
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 200);
    buf_deinit(&f.answer);
    f = fetch_of(&other_url, 1, "/members"); /* not on the connection that is open */
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 200);
    assert_int_equal(f.cluster_id, TEST_CLUSTER + 1);
    buf_deinit(&f.answer);
    f = fetch_of(urls + 4, 1, "/nowhere");
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 404);
    assert_int_equal(f.cluster_id, 0);
    buf_deinit(&f.answer);
    f = fetch_of(urls + 4, 1, "/leases");
    f.method = "POST";
    f.body = BYTES_LIT("\x08\x01");
    f.content_type = "application/protobuf";
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 200);
    assert_true(bytes_equal(buf_bytes(&f.answer), BYTES_LIT("renewed")));
    assert_int_equal(b->server.lease, 1);
    buf_deinit(&f.answer);
    f.answer_bytes_max = 6;
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 0); /* too long an answer is none */
    buf_deinit(&f.answer);
    free(url);
    free(other_url);
    free(silent);
    close(fd);
    node_free(a);
    node_free(b);
    node_free(other);
}

/* Answers once on each connection; what comes next on the first it leaves unanswered. */
static void *answers_once(void *arg)
{
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    int listener = *(int *)arg;
    char request[4096];

    for (int i = 0; i < 2; i++) {
        int fd = accept(listener, NULL, NULL);
        (void)!recv(fd, request, sizeof(request), 0);
        (void)!send(fd, answer, sizeof(answer) - 1, MSG_NOSIGNAL);
        (void)!recv(fd, request, sizeof(request), 0);
        close(fd);
    }
    return NULL;
}

/* A connection that turns out to be closed: a question is asked again, a change is not made
 * twice. */
static void what_is_safe_is_repeated_on_a_new_connection(void **state)
{
    static const struct {
        const char *method;
        int status;
    } cases[] = {{"GET", 200}, {"POST", 0}};

    for (int i = 0; i < 2; i++) {
        struct node *a = node_new(1);
        char *url;
        int listener = silent_listener(&url);
        struct transport_fetch f = fetch_of(&url, 1, "/x");
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, answers_once, &listener), 0);
        transport_fetch_wait(&a->peer->transport, &f);
        assert_int_equal(f.status, 200);
        f.method = cases[i].method;
        transport_fetch_wait(&a->peer->transport, &f);
        assert_int_equal(f.status, cases[i].status);
        if (cases[i].status == 0) { /* lets the other side come to its end */
            transport_fetch_wait(&a->peer->transport, &f);
            assert_int_equal(f.status, 200);
        }
        node_free(a);
        pthread_join(thread, NULL);
        close(listener);
        free(url);
    }
}

static void requests_end_in_time_or_with_the_transport(void **state)
{
    struct node *a = node_new(1);
    char *silent;
    int fd = silent_listener(&silent);
    struct transport_fetch f = fetch_of(&silent, 1, "/members");

    f.timeout_ms = 50;
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 0);
    f = fetch_of(&silent, 0, "/members");
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 0);
    peer_stop(a->peer);
    f = fetch_of(&silent, 1, "/members");
    transport_fetch_wait(&a->peer->transport, &f);
    assert_int_equal(f.status, 0);
    free(silent);
    close(fd);
    node_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_arrives_as_it_was_while_messages_go_on),
        cmocka_unit_test(a_directory_arrives_as_files),
        cmocka_unit_test(what_can_not_be_sent_is_told),
        cmocka_unit_test(a_snapshot_is_sent_when_raft_has_it),
        cmocka_unit_test(a_stop_ends_what_is_on_its_way),
        cmocka_unit_test(envelopes_that_are_none),
        cmocka_unit_test(a_snapshot_of_another_cluster_is_refused),
        cmocka_unit_test(bodies_that_end_early_leave_nothing_behind),
        cmocka_unit_test(a_chunked_body_is_taken),
        cmocka_unit_test(a_sender_that_stalls_is_given_up),
        cmocka_unit_test(requests_try_one_url_after_the_other),
        cmocka_unit_test(what_is_safe_is_repeated_on_a_new_connection),
        cmocka_unit_test(requests_end_in_time_or_with_the_transport),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
