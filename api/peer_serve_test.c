/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer port from outside: each path's answers as etcd 3.7.1 gives them (taken from one that
 * ran, but for the dates), in its order of checks; then everything that is not HTTP, not in time or
 * too much.
 */
#include "api/peer_test.h"

#include <errno.h>
#include <poll.h>

enum { ANSWER_MAX = 1 << 16 };

#define ID "X-Etcd-Cluster-Id: c1\r\n"
#define VERSION "X-Server-Version: 3.7.1\r\n"
#define TABLES "X-Cairn-Tables: 1\r\n"
#define PLAIN "Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"
#define GOOD                                                                                       \
    "Host: x\r\nX-Server-From: 2\r\nX-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\n"   \
    "X-Etcd-Cluster-ID: c1\r\n"
#define NOT_FOUND                                                                                  \
    "HTTP/1.1 404 Not Found\r\n" PLAIN "Content-Length: 19\r\n\r\n404 page not found\n"
#define NOT_ALLOWED(method)                                                                        \
    "HTTP/1.1 405 Method Not Allowed\r\nAllow: " method "\r\n" PLAIN                               \
    "Content-Length: 19\r\n\r\nMethod Not Allowed\n"

/* ---- a client ---- */

static int dial(struct node *n)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(peer_port(n->peer, 0)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = TEST_PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

static void say(int fd, const void *data, size_t len)
{
    assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

/* Takes the Date line out. */
static void date_cut(char *text)
{
    char *date = strstr(text, "Date: ");

    if (date) {
        char *end = strstr(date, "\r\n") + 2;
        memmove(date, end, strlen(end) + 1);
    }
}

static char got[ANSWER_MAX];

/* Reads as much as want has, or up to the end. */
static void answer_read(int fd, const char *want)
{
    size_t len = 0;

    for (;;) {
        got[len] = '\0';
        date_cut(got);
        len = strlen(got);
        if (len >= strlen(want) && (len > 0 || !*want))
            break;
        ssize_t n = recv(fd, got + len, sizeof(got) - len - 1, 0);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
}

static void answer_until(int fd, const char *want)
{
    answer_read(fd, want);
    assert_string_equal(got, want);
}

static void answer_begins(int fd, const char *want)
{
    answer_read(fd, want);
    got[strlen(want)] = '\0';
    assert_string_equal(got, want);
}

static void end_expected(int fd)
{
    char byte;
    ssize_t n = recv(fd, &byte, 1, 0);

    assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
    close(fd);
}

static void ask_bytes(struct node *n, const void *request, size_t len, const char *want)
{
    int fd = dial(n);

    say(fd, request, len);
    answer_until(fd, want);
    close(fd);
}

static void ask(struct node *n, const char *request, const char *want)
{
    ask_bytes(n, request, strlen(request), want);
}

static void post(struct node *n, const char *path_and_headers, struct bytes body, const char *want)
{
    _cleanup_(buf_deinit) struct buf request = BUF_NULL;

    buf_printf(&request, "POST %sContent-Length: %zu\r\n\r\n", path_and_headers, body.len);
    buf_append_bytes(&request, body);
    ask_bytes(n, request.data, request.len, want);
}

static struct node *begin(struct peer_timing timing)
{
    struct node *n = node_new_timed(1, timing);

    node_start(n);
    node_knows(n, 2, mem_strdup("http://127.0.0.1:1"));
    wait_for(&n->server, node_has_link(n, 2));
    return n;
}

static int setup(void **state)
{
    *state = begin(test_timing);
    return 0;
}

/* A connection in each of these times out, or must not. Two seconds, because what must be in time
 * has to be so on a busy machine. */
static int setup_impatient(void **state)
{
    struct peer_timing timing = test_timing;

    timing.request = timing.idle = 2000;
    *state = begin(timing);
    return 0;
}

static int setup_impatient_stream(void **state)
{
    struct peer_timing timing = test_timing;

    timing.silence = 300;
    *state = begin(timing);
    return 0;
}

static int setup_patient(void **state)
{
    struct peer_timing timing = test_timing;

    timing.request = 60000;
    timing.heartbeat = 60000;
    *state = begin(timing);
    return 0;
}

static int teardown(void **state)
{
    node_free(*state);
    return 0;
}

/* ---- answers ---- */

static void paths_without_checks(void **state)
{
    struct node *n = *state;

    ask(n, "GET /members HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" ID
        "Content-Length: 11\r\n\r\n[{\"id\":1}]\n");
    ask(n, "POST /members HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", NOT_ALLOWED("GET"));
    ask(n, "HEAD /members HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n" PLAIN "Content-Length: 19\r\n\r\n");
    ask(n, "GET /members/ HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    ask(n, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    ask(n, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    ask(n, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    ask(n, "GET /raft/x HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    ask(n, "POST /raft/ HTTP/1.1\r\n" GOOD "Content-Length: 0\r\n\r\n", NOT_FOUND);
    ask(n, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 62\r\n\r\n"
        "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}");
    ask(n, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 62\r\n"
        "Connection: close\r\n\r\n"
        "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}");
    n->server.info.cluster_version[0] = '\0';
    ask(n, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 70\r\n\r\n"
        "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}");
}

static void probes_of_any_method(void **state)
{
    static const char *const methods[] = {"GET", "POST", "BREW"};
    struct node *n = *state;

    for (int i = 0; i < 3; i++) {
        _cleanup_(mem_freep) char *request = mem_printf(
            "%s /raft/probing HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", methods[i]);
        int fd = dial(n);
        say(fd, request, strlen(request));
        answer_begins(fd, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
                          "Content-Length: 51\r\n\r\n{\"OK\":true,\"Now\":\"20");
        close(fd);
    }
}

static void raft_checks_in_order(void **state)
{
    struct node *n = *state;
    static const uint8_t wrong_to[] = {0x08, 0x08, 0x10, 0x09, 0x18, 0x02, 0x20, 0x01};
    static const uint8_t right[] = {0x08, 0x08, 0x10, 0x01, 0x18, 0x02, 0x20, 0x01};
    const char *refused = "HTTP/1.1 500 Internal Server Error\r\n" PLAIN ID
                          "Transfer-Encoding: chunked\r\n\r\n1e\r\nerror processing raft message\n"
                          "\r\n";

    ask(n, "GET /raft HTTP/1.1\r\nHost: x\r\n\r\n", NOT_ALLOWED("POST"));
    post(n, "/raft HTTP/1.1\r\nHost: x\r\n", BYTES_NULL,
         "HTTP/1.1 412 Precondition Failed\r\n" PLAIN ID
         "Content-Length: 21\r\n\r\nincompatible version\n");
    post(n,
         "/raft HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.8.0\r\n"
         "X-Etcd-Cluster-ID: c1\r\n",
         BYTES_NULL,
         "HTTP/1.1 412 Precondition Failed\r\n" PLAIN ID
         "Content-Length: 21\r\n\r\nincompatible version\n");
    post(n,
         "/raft HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\n"
         "X-Etcd-Cluster-ID: 0c1\r\n",
         BYTES_NULL,
         "HTTP/1.1 412 Precondition Failed\r\n" PLAIN ID
         "Content-Length: 20\r\n\r\ncluster ID mismatch\n");
    post(n, "/raft HTTP/1.1\r\n" GOOD, BYTES_LIT("\xff\xff"),
         "HTTP/1.1 400 Bad Request\r\n" PLAIN ID
         "Content-Length: 33\r\n\r\nerror unmarshalling raft message\n");
    post(n, "/raft HTTP/1.1\r\n" GOOD, BYTES_NULL, refused);
    post(n, "/raft HTTP/1.1\r\n" GOOD, bytes_of(wrong_to, sizeof(wrong_to)), refused);
    assert_int_equal(n->server.n_heard, 0);
    post(n, "/raft HTTP/1.1\r\n" GOOD, bytes_of(right, sizeof(right)),
         "HTTP/1.1 204 No Content\r\n" ID "\r\n");
    assert_int_equal(n->server.n_heard, 1);
    n->server.verdict = PEER_FULL;
    post(n, "/raft HTTP/1.1\r\n" GOOD, bytes_of(right, sizeof(right)), refused);
}

static void a_refused_message_costs_the_connection(void **state)
{
    struct node *n = *state;
    int fd = dial(n);

    say(fd, "POST /raft HTTP/1.1\r\n" GOOD "Content-Length: 0\r\n\r\n",
        strlen("POST /raft HTTP/1.1\r\n" GOOD "Content-Length: 0\r\n\r\n"));
    answer_until(fd, "HTTP/1.1 500 Internal Server Error\r\n" PLAIN ID
                     "Transfer-Encoding: chunked\r\n\r\n1e\r\nerror processing raft message\n\r\n");
    end_expected(fd);
}

static void a_broken_version_cuts_the_connection(void **state)
{
    static const char request[] = "POST /raft HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.7\r\n"
                                  "Content-Length: 0\r\n\r\n";
    int fd = dial(*state);

    say(fd, request, strlen(request));
    end_expected(fd);
}

#define STREAM(status, text) "HTTP/1.1 " status "\r\n" PLAIN TABLES ID VERSION text

static void stream_checks_in_order(void **state)
{
    struct node *n = *state;

    n->server.removed[3] = true;
    ask(n, "POST /raft/stream/message/2 HTTP/1.1\r\n" GOOD "Content-Length: 0\r\n\r\n",
        NOT_ALLOWED("GET"));
    ask(n, "GET /raft/stream/message/2 HTTP/1.1\r\nHost: x\r\n\r\n",
        STREAM("412 Precondition Failed", "Content-Length: 21\r\n\r\nincompatible version\n"));
    ask(n, "GET /raft/stream/foo/2 HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("404 Not Found", "Content-Length: 13\r\n\r\ninvalid path\n"));
    ask(n, "GET /raft/stream/ HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("404 Not Found", "Content-Length: 13\r\n\r\ninvalid path\n"));
    ask(n, "GET /raft/stream/message/2/2 HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("404 Not Found", "Content-Length: 13\r\n\r\ninvalid path\n"));
    ask(n, "GET /raft/stream/message/xyz HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("404 Not Found", "Content-Length: 13\r\n\r\ninvalid from\n"));
    ask(n, "GET /raft/stream/message/ HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("404 Not Found", "Content-Length: 13\r\n\r\ninvalid from\n"));
    ask(n, "GET /raft/stream/message/3 HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("410 Gone", "Content-Length: 15\r\n\r\nremoved member\n"));
    ask(n, "GET /raft/stream/message/4 HTTP/1.1\r\n" GOOD "X-Raft-To: 1\r\n\r\n",
        STREAM("404 Not Found", "Content-Length: 23\r\n\r\nerror sender not found\n"));
    ask(n, "GET /raft/stream/message/2 HTTP/1.1\r\n" GOOD "\r\n",
        STREAM("412 Precondition Failed", "Content-Length: 18\r\n\r\nto field mismatch\n"));
}

#define STREAM_GET(kind) "GET /raft/stream/" kind "/2 HTTP/1.1\r\n" GOOD "X-Raft-To: 1\r\n\r\n"
#define STREAM_OK "HTTP/1.1 200 OK\r\n" TABLES ID VERSION "Transfer-Encoding: chunked\r\n\r\n"

static void a_stream_begins_at_once_and_has_link_heartbeats(void **state)
{
    struct node *n = *state;

    ask(n, STREAM_GET("msgapp"), STREAM_OK "00000001\r\n");
    ask(n, STREAM_GET("message"), STREAM_OK "0000000a\r\n");
}

static void link_heartbeats_go_on(void **state)
{
    static const char beat[] = "00000001\r\n\0\r\n"; /* on a msgapp stream */
    char beats[5][sizeof(beat) - 1];
    int fd = dial(*state);

    say(fd, STREAM_GET("msgapp"), strlen(STREAM_GET("msgapp")));
    answer_until(fd, STREAM_OK);
    assert_int_equal(recv(fd, beats, sizeof(beats), MSG_WAITALL), sizeof(beats));
    for (int i = 0; i < 5; i++)
        assert_memory_equal(beats[i], beat, sizeof(beats[i]));
    close(fd);
}

static void a_newer_stream_ends_the_older_one(void **state)
{
    struct node *n = *state;
    int older = dial(n), newer;

    say(older, STREAM_GET("message"), strlen(STREAM_GET("message")));
    answer_until(older, STREAM_OK);
    newer = dial(n);
    say(newer, STREAM_GET("message"), strlen(STREAM_GET("message")));
    answer_until(newer, STREAM_OK);
    answer_until(older, "0\r\n\r\n");
    end_expected(older);
    struct raft_message m = {.type = RAFT_MSG_HEARTBEAT, .from = 1, .to = 2, .term = 1};
    node_send(n, &m, 1);
    answer_until(newer, "00000012\r\n");
    close(newer);
}

static void who_says_something_on_a_stream_loses_it(void **state)
{
    struct node *n = *state;
    int fd = dial(n);

    say(fd, STREAM_GET("message"), strlen(STREAM_GET("message")));
    answer_until(fd, STREAM_OK);
    say(fd, "x", 1);
    wait_until(&n->server, n->server.unreachable[2] == 1);
    close(fd);
}

/* Nobody reads: when the socket is full for too long, the stream is over. */
static void a_stream_that_is_not_read_is_given_up(void **state)
{
    struct node *n = *state;
    struct blob *data = blob_new(8 << 20);
    struct raft_entry entry = {.term = 1, .index = 2, .data = data};
    struct raft_message m = {.type = RAFT_MSG_APP,
                             .from = 1,
                             .to = 2,
                             .term = 1,
                             .log_term = 1,
                             .index = 1,
                             .entries = &entry,
                             .n_entries = 1};
    int fd = dial(n);

    memset(data->data, 0, 8 << 20);
    say(fd, STREAM_GET("msgapp"), strlen(STREAM_GET("msgapp")));
    answer_until(fd, STREAM_OK);
    for (int i = 0; i < 4; i++)
        node_send(n, &m, 1);
    wait_until(&n->server, n->server.unreachable[2] > 0);
    assert_int_equal(node_active_ms(n, 2), 0);
    close(fd);
    blob_unref(data);
}

/* ---- what the server is asked ---- */

#define HASH(revision, len)                                                                        \
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" ID "Content-Length: " len "\r\n\r\n"   \
    "{\"hash\":9,\"hash_revision\":" revision "}"
#define HASH_ERROR(status, len, text)                                                              \
    "HTTP/1.1 " status "\r\n" PLAIN "Content-Length: " len "\r\n\r\n" text "\n"

static void ask_hash(struct node *n, const char *headers, const char *body, const char *want)
{
    _cleanup_(mem_freep) char *request =
        mem_printf("GET /members/hashkv HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s",
                   headers, strlen(body), body);

    ask(n, request, want);
}

static void hashes(void **state)
{
    struct node *n = *state;
    const char *wrong = HASH_ERROR("400 Bad Request", "28", "error unmarshalling request");

    ask_hash(n, "", "{\"revision\":163}", HASH("163", "30"));
    assert_int_equal(n->server.hash_revision, 163);
    ask_hash(n, "X-Etcd-Cluster-ID: c1\r\n", "{}", HASH("0", "28"));
    ask_hash(n, "X-Etcd-Cluster-ID: \r\n", "null", HASH("0", "28"));
    ask_hash(n, "", "{\"Revision\":5,\"other\":[]}", HASH("5", "28"));
    ask_hash(n, "", "{\"revision\":-1}", HASH("-1", "29"));
    ask_hash(n, "X-Etcd-Cluster-ID: c2\r\n", "{}",
             HASH_ERROR("412 Precondition Failed", "20", "cluster ID mismatch"));
    ask_hash(n, "", "", wrong);
    ask_hash(n, "", "[1]", wrong);
    ask_hash(n, "", "{\"revision\":1.5}", wrong);
    ask_hash(n, "", "{\"revision\":\"1\"}", wrong);
    ask_hash(n, "", "{\"revision\":1} x", wrong);
    ask_hash(n, "", "{\"revision\":99999999999999999999}", wrong);
    n->server.hash_outcome = OUTCOME_COMPACTED;
    ask_hash(n, "", "{}",
             HASH_ERROR("400 Bad Request", "43", "mvcc: required revision has been compacted"));
    n->server.hash_outcome = OUTCOME_FUTURE_REVISION;
    ask_hash(n, "", "{}",
             HASH_ERROR("400 Bad Request", "45", "mvcc: required revision is a future revision"));
    n->server.scan_full = true;
    ask_hash(n, "", "{}",
             HASH_ERROR("500 Internal Server Error", "30", "etcdserver: too many requests"));
}

#define DOWNGRADE "GET /downgrade/enabled HTTP/1.1\r\nHost: x\r\n\r\n"

static void downgrade_waits_for_a_read_index(void **state)
{
    struct node *n = *state;
    const char *no =
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" ID "Content-Length: 5\r\n\r\nfalse";

    ask(n, DOWNGRADE, no);
    n->server.hold_reads = true;
    int fd = dial(n);
    say(fd, DOWNGRADE DOWNGRADE, 2 * strlen(DOWNGRADE)); /* the second waits for the first */
    wait_until(&n->server, n->server.held);
    struct request *held = held_take(&n->server);
    held->finish(held, OUTCOME_OK);
    answer_until(fd, no);
    wait_until(&n->server, n->server.held);
    held = held_take(&n->server);
    held->finish(held, OUTCOME_TIMEOUT);
    answer_until(fd, "HTTP/1.1 500 Internal Server Error\r\n" PLAIN ID "Content-Length: 54\r\n\r\n"
                     "failed linearized read: etcdserver: request timed out\n");
    close(fd);
}

static void who_leaves_while_the_server_is_asked_is_forgotten(void **state)
{
    struct node *n = *state;

    n->server.hold_reads = true;
    int fd = dial(n);
    say(fd, DOWNGRADE, strlen(DOWNGRADE));
    wait_until(&n->server, n->server.held);
    close(fd);
    wait_until(&n->server, !n->server.held); /* taken back */
    fd = dial(n);
    say(fd, DOWNGRADE, strlen(DOWNGRADE));
    wait_until(&n->server, n->server.held);
    struct request *held = held_take(&n->server); /* too late to be taken back */
    close(fd);
    ask(n, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    held->finish(held, OUTCOME_OK);
}

static void promotions_are_the_servers(void **state)
{
    struct node *n = *state;

    ask(n, "GET /members/promote/1 HTTP/1.1\r\nHost: x\r\n\r\n", NOT_ALLOWED("POST"));
    post(n, "/members/promote/abc HTTP/1.1\r\nHost: x\r\n", BYTES_NULL,
         "HTTP/1.1 404 Not Found\r\n" PLAIN ID
         "Content-Length: 32\r\n\r\nmember abc not found in cluster\n");
    post(n, "/members/promote/ HTTP/1.1\r\nHost: x\r\n", BYTES_NULL,
         "HTTP/1.1 404 Not Found\r\n" PLAIN ID
         "Content-Length: 29\r\n\r\nmember  not found in cluster\n");
    post(n, "/members/promote/18446744073709551616 HTTP/1.1\r\nHost: x\r\n", BYTES_NULL,
         "HTTP/1.1 404 Not Found\r\n" PLAIN ID
         "Content-Length: 49\r\n\r\nmember 18446744073709551616 not found in cluster\n");
    post(n, "/members/promote/18446744073709551615 HTTP/1.1\r\nHost: x\r\nAuthorization: t.1\r\n",
         BYTES_NULL,
         "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" ID
         "Content-Length: 6\r\n\r\nt.1[]\n");
    assert_true(n->server.promoted == UINT64_MAX);
    n->server.read_outcome = OUTCOME_LEARNER_NOT_READY;
    post(n, "/members/promote/7 HTTP/1.1\r\nHost: x\r\n", BYTES_NULL,
         "HTTP/1.1 412 Precondition Failed\r\n" PLAIN ID "Content-Length: 3\r\n\r\nno\n");
    assert_true(n->server.promoted == 7);
}

#define PLAIN_ANSWER(head, length, text)                                                           \
    "HTTP/1.1 " head "\r\n" PLAIN "Content-Length: " length "\r\n\r\n" text "\n"

static void ask_lease(struct node *n, enum outcome outcome, const char *path, struct bytes body,
                      const char *want)
{
    n->server.read_outcome = outcome;
    post(n, path, body, want);
}

static void leases_are_the_servers(void **state)
{
    static const char renew[] = "/leases HTTP/1.1\r\nHost: x\r\n";
    static const char left[] = "/leases/internal HTTP/1.1\r\nHost: x\r\n";
    const struct bytes id = BYTES_LIT("\x08\x07"), question = BYTES_LIT("\x0a\4\x08\x09\x10\1");
    struct node *n = *state;

    ask(n, "GET /leases HTTP/1.1\r\nHost: x\r\n\r\n",
        PLAIN_ANSWER("405 Method Not Allowed", "19", "Method Not Allowed"));
    ask_lease(n, OUTCOME_OK, renew, id,
              "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\n"
              "Content-Length: 7\r\n\r\nrenewed");
    assert_int_equal(n->server.lease, 7);
    ask_lease(n, OUTCOME_OK, left, question,
              "HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\n"
              "Content-Length: 4\r\n\r\nleft");
    assert_int_equal(n->server.lease, 9);
    assert_true(n->server.lease_keys);
    ask_lease(n, OUTCOME_LEASE_NOT_FOUND, renew, id,
              PLAIN_ANSWER("404 Not Found", "16", "lease not found"));
    ask_lease(n, OUTCOME_NOT_PRIMARY, renew, id,
              PLAIN_ANSWER("400 Bad Request", "21", "not a primary lessor"));
    ask_lease(n, OUTCOME_NOT_PRIMARY, left, question,
              PLAIN_ANSWER("500 Internal Server Error", "21", "not a primary lessor"));
    ask_lease(n, OUTCOME_TIMEOUT_WAIT_APPLIED, left, question,
              PLAIN_ANSWER("408 Request Timeout", "61",
                           "waiting for node to catch up its applied index has timed out"));
}

static void questions_about_leases_that_are_none(void **state)
{
    static const char renew[] = "/leases HTTP/1.1\r\nHost: x\r\n";
    static const char left[] = "/leases/internal HTTP/1.1\r\nHost: x\r\n";
    static const char refused[] =
        PLAIN_ANSWER("400 Bad Request", "28", "error unmarshalling request");
    struct node *n = *state;
    struct buf big = BUF_NULL;

    post(n, renew, BYTES_LIT("\x08"), refused);
    post(n, left, BYTES_LIT("\x0a\x02\x08"), refused);
    post(n, left, BYTES_LIT(""), refused);
    buf_append_zero(&big, 70000);
    post(n, renew, buf_bytes(&big),
         "HTTP/1.1 413 Request Entity Too Large\r\n" PLAIN
         "Content-Length: 23\r\nConnection: close\r\n\r\nrequest body too large\n");
    buf_deinit(&big);
    assert_int_equal(n->server.lease, 0);
}

/* ---- connections ---- */

static void requests_follow_each_other_on_one_connection(void **state)
{
    struct node *n = *state;
    static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    int fd = dial(n);

    for (int i = 0; i < 3; i++) {
        say(fd, request, strlen(request));
        answer_until(fd, NOT_FOUND);
    }
    say(fd, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
        strlen("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"));
    answer_until(fd, NOT_FOUND); /* before the rest of the body is there */
    say(fd, "cdeGET / HTTP/1.1\r\nHost: x\r\n\r\n", strlen("cdeGET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    answer_until(fd, NOT_FOUND);
    close(fd);
}

static void a_request_that_comes_byte_by_byte(void **state)
{
    struct node *n = *state;
    static const char request[] =
        "POST /raft HTTP/1.1\r\n" GOOD "Transfer-Encoding: chunked\r\n\r\n"
        "4\r\n\x08\x08\x10\x01\r\n4\r\n\x18\x02\x20\x01\r\n0\r\n\r\n";
    int fd = dial(n), on = 1;

    setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof(on));
    for (size_t i = 0; i < sizeof(request) - 1; i++)
        say(fd, request + i, 1);
    answer_until(fd, "HTTP/1.1 204 No Content\r\n" ID "\r\n");
    assert_int_equal(n->server.n_heard, 1);
    close(fd);
}

static void what_is_no_http_is_told_so(void **state)
{
    static const char *const wrong[] = {
        "hello\r\n\r\n",
        "GET /members\r\n\r\n",
        "\x16\x03\x01\x02\x07\x01\x01\xfc\x03\x03\r\n\r\n",
        "POST /raft HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    };
    struct node *n = *state;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        int fd = dial(n);
        say(fd, wrong[i], strlen(wrong[i]));
        answer_begins(fd, "HTTP/1.1 400 Bad Request");
        close(fd);
    }
    ask(n, "GET /version HTTP/1.1\r\n\r\n",
        "HTTP/1.1 400 Bad Request: missing required Host header\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        "400 Bad Request: missing required Host header");
    int fd = dial(n);
    static const char endless[] = "GET / HTTP/1.1\r\nHost: x\r\nX: ";
    say(fd, endless, strlen(endless));
    for (int i = 0; i < 70; i++) {
        char text[1024];
        memset(text, 'a', sizeof(text));
        (void)!send(fd, text, sizeof(text), MSG_NOSIGNAL);
    }
    answer_begins(fd, "HTTP/1.1 431 Request Header Fields Too Large");
    close(fd);
}

static void nobody_waits_for_ever(void **state)
{
    struct node *n = *state;
    static const char *const begun[] = {
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: x\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    };

    for (size_t i = 0; i < sizeof(begun) / sizeof(begun[0]); i++) {
        int fd = dial(n);
        say(fd, begun[i], strlen(begun[i]));
        if (begun[i][0] == 'P')
            answer_until(fd, NOT_FOUND);
        end_expected(fd);
    }
    int fd = dial(n);
    static const char half[] = "POST /raft HTTP/1.1\r\n" GOOD "Content-Length: 5\r\n\r\nab";
    say(fd, half, strlen(half));
    answer_until(fd, "HTTP/1.1 400 Bad Request\r\n" PLAIN ID
                     "Content-Length: 27\r\nConnection: close\r\n\r\nerror reading raft message\n");
    end_expected(fd);
    fd = dial(n);
    say(fd, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", strlen("GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    answer_until(fd, NOT_FOUND);
    end_expected(fd);
}

static void the_longest_idle_makes_room_for_new_connections(void **state)
{
    struct node *n = *state;
    static int fds[PEER_SERVED_MAX + 1];

    for (int i = 0; i < PEER_SERVED_MAX; i++)
        fds[i] = dial(n);
    ask(n, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    end_expected(fds[0]);
    for (int i = 1; i < PEER_SERVED_MAX; i++)
        close(fds[i]);
}

static void random_bytes_do_no_harm(void **state)
{
    struct node *n = *state;
    uint64_t x = 20261128;

    for (int i = 0; i < 300; i++) {
        _cleanup_(buf_deinit) struct buf b = BUF_NULL;
        static const char *const starts[] = {
            "", "POST /raft HTTP/1.1\r\n" GOOD,
            "POST /raft/snapshot HTTP/1.1\r\n" GOOD "Content-Length: 40\r\n\r\n",
            "POST /raft HTTP/1.1\r\n" GOOD "Transfer-Encoding: chunked\r\n\r\n4\r\n"};
        buf_append_str(&b, starts[i % 4]);
        for (int j = 0; j < 64; j++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            buf_append_u8(&b, (uint8_t)(x >> 56));
        }
        int fd = dial(n);
        say(fd, b.data, b.len);
        shutdown(fd, SHUT_WR);
        char drop[1024];
        while (recv(fd, drop, sizeof(drop), 0) > 0)
            ;
        close(fd);
    }
    ask(n, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", NOT_FOUND);
    assert_int_equal(n->server.n_heard, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IMPATIENT(name) cmocka_unit_test_setup_teardown(name, setup_impatient, teardown)
#define TEST_IMPATIENT_STREAM(name)                                                                \
    cmocka_unit_test_setup_teardown(name, setup_impatient_stream, teardown)
#define TEST_PATIENT(name) cmocka_unit_test_setup_teardown(name, setup_patient, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paths_without_checks),
        TEST(probes_of_any_method),
        TEST(raft_checks_in_order),
        TEST(a_refused_message_costs_the_connection),
        TEST(a_broken_version_cuts_the_connection),
        TEST(stream_checks_in_order),
        TEST(a_stream_begins_at_once_and_has_link_heartbeats),
        TEST(link_heartbeats_go_on),
        TEST_PATIENT(a_newer_stream_ends_the_older_one),
        TEST(who_says_something_on_a_stream_loses_it),
        TEST_IMPATIENT_STREAM(a_stream_that_is_not_read_is_given_up),
        TEST(hashes),
        TEST(downgrade_waits_for_a_read_index),
        TEST(who_leaves_while_the_server_is_asked_is_forgotten),
        TEST(promotions_are_the_servers),
        TEST(leases_are_the_servers),
        TEST(questions_about_leases_that_are_none),
        TEST(requests_follow_each_other_on_one_connection),
        TEST(a_request_that_comes_byte_by_byte),
        TEST(what_is_no_http_is_told_so),
        TEST_IMPATIENT(nobody_waits_for_ever),
        TEST_PATIENT(the_longest_idle_makes_room_for_new_connections),
        TEST(random_bytes_do_no_harm),
    };
    log_level_min = LOG_FATAL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
