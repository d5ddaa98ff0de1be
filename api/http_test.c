/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side with a server of the test's own behind it: answers byte by byte as etcd 3.7.1 gives
 * them (but for the date), pipelining, reads that end later or never, clients that leave.
 */
#include "api/http.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/http_conn.h"
#include "base/mem.h"
#include "base/metrics.h"
#include "server/config_private.h"

enum { ANSWER_MAX = 1 << 17 };

/* ---- the server behind ---- */

struct server {
    struct config config;
    struct server_info info;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool hold; /* reads wait for the test */
    bool uncancellable;
    struct request *held;
    bool cancelled;
    enum outcome read_outcome;
    enum outcome range_outcome;
};

const struct config *server_config(const struct server *s)
{
    return &s->config;
}

void server_info(struct server *s, struct server_info *ret)
{
    *ret = s->info;
}

enum outcome server_range(struct server *s, const void *request, struct buf *response)
{
    return s->range_outcome;
}

bool server_read_index(struct server *s, struct request *request)
{
    pthread_mutex_lock(&s->lock);
    bool hold = s->hold;
    if (hold)
        s->held = request;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    if (!hold)
        request->finish(request, s->read_outcome);
    return hold;
}

bool server_cancel(struct server *s, struct request *request)
{
    pthread_mutex_lock(&s->lock);
    bool taken_back = s->held == request && !s->uncancellable;
    if (taken_back)
        s->held = NULL;
    s->cancelled = true;
    pthread_cond_broadcast(&s->cond);
    pthread_mutex_unlock(&s->lock);
    return taken_back;
}

static struct request *held_wait(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->held)
        pthread_cond_wait(&s->cond, &s->lock);
    struct request *request = s->held;
    pthread_mutex_unlock(&s->lock);
    return request;
}

static void cancelled_wait(struct server *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->cancelled)
        pthread_cond_wait(&s->cond, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* ---- clients ---- */

struct fixture {
    struct server server;
    struct http *http;
};

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);

    f->server =
        (struct server){.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    f->server.info = (struct server_info){.leader_id = 1, .cluster_version = "3.7.0"};
    assert_int_equal(http_start(&f->http, &f->server), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    http_free(f->http);
    string_list_deinit(&f->server.config.cors);
    string_list_deinit(&f->server.config.host_whitelist);
    free(f);
    return 0;
}

static int client(struct fixture *f, bool metrics_only)
{
    struct timeval wait = {.tv_sec = 20};
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)), 0);
    http_adopt(f->http, dup(pair[1]), metrics_only);
    close(pair[1]);
    return pair[0];
}

static void say(int fd, const char *text)
{
    size_t len = strlen(text);

    assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
}

/* Reads up to the end of the connection, without the Date lines, whose form is checked. */
static char *hear_all(int fd)
{
    char *text = mem_alloc(ANSWER_MAX);
    size_t len = 0;
    ssize_t n;

    while ((n = recv(fd, text + len, ANSWER_MAX - 1 - len, 0)) > 0)
        len += (size_t)n;
    assert_int_equal(n, 0);
    for (char *date; (date = strstr(text, "Date: "));) {
        assert_memory_equal(date + 31, " GMT\r\n", 6);
        memmove(date, date + 37, strlen(date + 37) + 1);
    }
    close(fd);
    return text;
}

/*
 * The answers to a text of requests. A last request asks for the end of the connection; its answer
 * is cut off. (Half-closing instead would tell the server that the client has gone, as it does in
 * etcd.)
 */
static char *ask(struct fixture *f, bool metrics_only, const char *request)
{
    static const char end[] = "Content-Length: 19\r\nConnection: close\r\n\r\n404 page not found\n";
    int fd = client(f, metrics_only);

    say(fd, request);
    say(fd, "GET /end HTTP/1.1\r\nHost: good\r\nConnection: close\r\n\r\n");
    char *text = hear_all(fd), *last = NULL;
    for (char *p = text; (p = strstr(p, "HTTP/1.1 404 Not Found\r\n")); p++)
        last = p;
    size_t len = strlen(text);
    if (last && len > sizeof(end) && strcmp(text + len - (sizeof(end) - 1), end) == 0)
        *last = '\0';
    return text;
}

static void expect(struct fixture *f, bool metrics_only, const char *request, const char *answer)
{
    _cleanup_(mem_freep) char *got = ask(f, metrics_only, request);

    if (strcmp(got, answer) != 0)
        fail_msg("request:\n%s\nanswer:\n%s\nwanted:\n%s", request, got, answer);
}

#define CORS                                                                                       \
    "Access-Control-Allow-Headers: accept, content-type, authorization\r\n"                        \
    "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, DELETE\r\n"                            \
    "Access-Control-Allow-Origin: *\r\n"
#define PLAIN "Content-Type: text/plain; charset=utf-8\r\n"
#define NOSNIFF "X-Content-Type-Options: nosniff\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"
#define NOT_FOUND                                                                                  \
    "HTTP/1.1 404 Not Found\r\n" CORS PLAIN NOSNIFF "Content-Length: 19\r\n\r\n404 page not "      \
    "found\n"
#define VERSION "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"3.7.0\",\"storage\":\"3.7.0\"}"
#define HEALTHY "{\"health\":\"true\",\"reason\":\"\"}"

static const struct {
    const char *request;
    const char *answer;
} answer_cases[] = {
    {GET("/version"), "HTTP/1.1 200 OK\r\n" CORS
                      "Content-Type: application/json\r\nContent-Length: 62\r\n\r\n" VERSION},
    {"HEAD /version HTTP/1.1\r\nHost: a\r\n\r\n",
     "HTTP/1.1 405 Method Not Allowed\r\n" CORS "Allow: GET\r\n" PLAIN NOSNIFF
     "Content-Length: 19\r\n\r\n"},
    {"FOO /version HTTP/1.1\r\nHost: a\r\n\r\n",
     "HTTP/1.1 405 Method Not Allowed\r\n" CORS "Allow: GET\r\n" PLAIN NOSNIFF
     "Content-Length: 19\r\n\r\nMethod Not Allowed\n"},
    {"OPTIONS /foo HTTP/1.1\r\nHost: a\r\n\r\n",
     "HTTP/1.1 200 OK\r\n" CORS "Content-Length: 0\r\n\r\n"},
    {GET("/health"), "HTTP/1.1 200 OK\r\n" CORS PLAIN "Content-Length: 29\r\n\r\n" HEALTHY},
    {GET("/he%61lth"), "HTTP/1.1 200 OK\r\n" CORS PLAIN "Content-Length: 29\r\n\r\n" HEALTHY},
    {GET("/livez"), "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF "Content-Length: 3\r\n\r\nok\n"},
    {GET("/livez?verbose"), "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF
                            "Content-Length: 27\r\n\r\n[+]serializable_read ok\nok\n"},
    {GET("/readyz?verbose=1"),
     "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF
     "Content-Length: 91\r\n\r\n[+]data_corruption ok\n[+]serializable_read "
     "ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n"},
    {GET("/readyz?exclude=foo&exclude=linearizable_read&verbose"),
     "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF
     "Content-Length: 67\r\n\r\n[+]data_corruption ok\n[+]serializable_read ok\n[+]non_learner "
     "ok\nok\n"},
    {GET("/readyz/non_learner?verbose"),
     "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF "Content-Length: 21\r\n\r\n[+]non_learner ok\nok\n"},
    {GET("/readyz/foo"), NOT_FOUND},
    {GET("/livez/non_learner"), NOT_FOUND},
    {GET("/livez/"), NOT_FOUND},
    {GET("/"), NOT_FOUND},
    {GET("/v2/keys"), NOT_FOUND},
    {"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" GET("/x"),
     "HTTP/1.1 405 Method Not Allowed\r\n" CORS "Allow: GET\r\n" PLAIN NOSNIFF
     "Content-Length: 19\r\n\r\nMethod Not Allowed\n" NOT_FOUND},
    {"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
     "chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" GET("/y"),
     NOT_FOUND NOT_FOUND},
    {GET("/x") GET("/y") GET("/z"), NOT_FOUND NOT_FOUND NOT_FOUND},
    {GET("//version"),
     "HTTP/1.1 307 Temporary Redirect\r\n" CORS
     "Content-Type: text/html; charset=utf-8\r\nLocation: /version\r\n"
     "Content-Length: 44\r\n\r\n<a href=\"/version\">Temporary Redirect</a>.\n\n"},
    {GET("/a/../b//c%2fd?x=1"),
     "HTTP/1.1 307 Temporary Redirect\r\n" CORS "Content-Type: text/html; charset=utf-8\r\n"
     "Location: /b/c%252fd?x=1\r\nContent-Length: 50\r\n\r\n"
     "<a href=\"/b/c%252fd?x=1\">Temporary Redirect</a>.\n\n"},
    {"POST //version HTTP/1.1\r\nHost: a\r\n\r\n",
     "HTTP/1.1 307 Temporary Redirect\r\n" CORS "Location: /version\r\nContent-Length: 0\r\n\r\n"},
    {"GET /version HTTP/1.0\r\n\r\n",
     "HTTP/1.0 200 OK\r\n" CORS
     "Content-Type: application/json\r\nContent-Length: 62\r\n\r\n" VERSION},
    {"GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
     "HTTP/1.0 200 OK\r\n" CORS "Content-Type: application/json\r\nContent-Length: "
     "62\r\nConnection: keep-alive\r\n\r\n" VERSION},
    {"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" GET("/y"),
     "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF "Content-Length: 3\r\nConnection: close\r\n\r\nok\n"},
    {"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\nExpect: "
     "100-continue\r\n\r\n",
     "HTTP/1.1 405 Method Not Allowed\r\n" CORS "Allow: GET\r\n" PLAIN NOSNIFF
     "Content-Length: 19\r\nConnection: close\r\n\r\nMethod Not Allowed\n"},
    {"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n",
     "HTTP/1.1 405 Method Not Allowed\r\n" CORS "Allow: GET\r\n" PLAIN NOSNIFF
     "Content-Length: 19\r\nConnection: close\r\n\r\nMethod Not Allowed\n"},
    {"GET / HTTP/1.1\r\n\r\n",
     "HTTP/1.1 400 Bad Request: missing required Host header\r\n" PLAIN "Connection: close\r\n\r\n"
     "400 Bad Request: missing required Host header"},
    {GET("/health%zz"),
     "HTTP/1.1 400 Bad Request\r\n" PLAIN "Connection: close\r\n\r\n400 Bad Request"},
    {"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx",
     "HTTP/1.1 400 Bad Request\r\n" PLAIN "Connection: close\r\n\r\n400 Bad Request"},
};

static void test_answers(void **state)
{
    for (size_t i = 0; i < sizeof(answer_cases) / sizeof(answer_cases[0]); i++)
        expect(*state, false, answer_cases[i].request, answer_cases[i].answer);
}

static void test_metrics_urls(void **state)
{
    expect(*state, true, GET("/version"),
           "HTTP/1.1 404 Not Found\r\n" PLAIN NOSNIFF
           "Content-Length: 19\r\n\r\n404 page not found\n");
    expect(*state, true, GET("/livez"),
           "HTTP/1.1 200 OK\r\n" PLAIN NOSNIFF "Content-Length: 3\r\n\r\nok\n");
    expect(*state, true, "OPTIONS /health HTTP/1.1\r\nHost: a\r\n\r\n",
           "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n" PLAIN NOSNIFF
           "Content-Length: 19\r\n\r\nMethod Not Allowed\n");
    for (int metrics_only = 0; metrics_only < 2; metrics_only++) {
        _cleanup_(mem_freep) char *got =
            ask(*state, metrics_only, "POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_non_null(strstr(
            got,
            "Content-Type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores\r\n"));
        assert_non_null(strstr(
            got, "\n# TYPE etcd_server_health_success counter\netcd_server_health_success "));
        assert_non_null(strstr(
            got, "\netcd_server_healthcheck{name=\"serializable_read\",type=\"livez\"} 1\n"));
        assert_non_null(strstr(got, "\netcd_server_healthchecks_total{name=\"serializable_read\","
                                    "status=\"success\",type=\"livez\"} "));
        assert_int_equal(strstr(got, "Access-Control") != NULL, !metrics_only);
    }
}

static void test_unhealthy(void **state)
{
    struct fixture *f = *state;
#define SICK(reason, len)                                                                          \
    "HTTP/1.1 503 Service Unavailable\r\n" CORS PLAIN NOSNIFF "Content-Length: " len "\r\n\r\n"    \
    "{\"health\":\"false\",\"reason\":\"" reason "\"}\n"
    f->server.info.no_space_alarm = true;
    expect(f, false, GET("/health"), SICK("ALARM NOSPACE", "44"));
    expect(f, false, GET("/health?exclude=CORRUPT&exclude=NOSPACE"),
           "HTTP/1.1 200 OK\r\n" CORS PLAIN "Content-Length: 29\r\n\r\n" HEALTHY);
    f->server.info.no_space_alarm = false;
    f->server.info.corrupt_alarm = true;
    expect(f, false, GET("/health?exclude=NOSPACE"), SICK("ALARM CORRUPT", "44"));
    expect(f, false, GET("/readyz/data_corruption"),
           "HTTP/1.1 503 Service Unavailable\r\n" CORS PLAIN NOSNIFF
           "Content-Length: 53\r\n\r\n[-]data_corruption failed: alarm activated: CORRUPT\n\n");
    f->server.info.corrupt_alarm = false;
    f->server.info.leader_id = 0;
    expect(f, false, GET("/health"), SICK("RAFT NO LEADER", "45"));
    expect(f, false, GET("/health?serializable=true"),
           "HTTP/1.1 200 OK\r\n" CORS PLAIN "Content-Length: 29\r\n\r\n" HEALTHY);
    f->server.info.leader_id = 1;
    f->server.read_outcome = OUTCOME_TIMEOUT;
    expect(f, false, GET("/health"), SICK("RANGE ERROR:etcdserver: request timed out", "72"));
    f->server.info.is_learner = true;
    expect(f, false, GET("/readyz"),
           "HTTP/1.1 503 Service Unavailable\r\n" CORS PLAIN NOSNIFF
           "Content-Length: 155\r\n\r\n[+]data_corruption ok\n[+]serializable_read ok\n"
           "[-]linearizable_read failed: etcdserver: request timed out\n[-]non_learner failed: not "
           "supported for learner\n\n");
    f->server.info.cluster_version[0] = '\0';
    expect(f, false, GET("/version"),
           "HTTP/1.1 200 OK\r\n" CORS "Content-Type: application/json\r\nContent-Length: 70\r\n\r\n"
           "{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"not_decided\",\"storage\":\"unknown\"}");
}

static void test_whitelist_and_cors(void **state)
{
    struct fixture *f = *state;

    string_list_split("::1,good", false, &f->server.config.host_whitelist);
    string_list_split("http://a:1,http://b:1", false, &f->server.config.cors);
    expect(f, false, "GET /x HTTP/1.1\r\nHost: good:2379\r\nOrigin: http://b:1\r\n\r\n",
           "HTTP/1.1 404 Not Found\r\nAccess-Control-Allow-Headers: accept, content-type, "
           "authorization\r\n"
           "Access-Control-Allow-Methods: POST, GET, OPTIONS, PUT, "
           "DELETE\r\nAccess-Control-Allow-Origin: http://b:1\r\n" PLAIN NOSNIFF
           "Content-Length: 19\r\n\r\n404 page not found\n");
    expect(f, false, "GET /x HTTP/1.1\r\nHost: [::1]:2379\r\nOrigin: http://c:1\r\n\r\n",
           "HTTP/1.1 404 Not Found\r\n" PLAIN NOSNIFF
           "Content-Length: 19\r\n\r\n404 page not found\n");
    _cleanup_(mem_freep) char *got =
        ask(f, false, "GET /version HTTP/1.1\r\nHost: evil:2379\r\nOrigin: http://b:1\r\n\r\n");
    assert_ptr_equal(
        strstr(got, "HTTP/1.1 421 Misdirected Request\r\n" PLAIN NOSNIFF "Content-Length: "), got);
    assert_non_null(strstr(got, "host name \"evil\"."));
    _cleanup_(mem_freep) char *metrics = ask(f, true, "GET /livez HTTP/1.1\r\nHost: evil\r\n\r\n");
    assert_non_null(strstr(metrics, " 200 OK"));
}

/*
 * While one client's read waits, others are answered; then it gets its answer and the request
 * behind it is taken up.
 */
static void test_a_read_that_waits(void **state)
{
    struct fixture *f = *state;

    f->server.hold = true;
    int fd = client(f, false);
    say(fd, GET("/health") "GET /x HTTP/1.0\r\n\r\n");
    struct request *request = held_wait(&f->server);
    expect(f, false, GET("/version"),
           "HTTP/1.1 200 OK\r\n" CORS
           "Content-Type: application/json\r\nContent-Length: 62\r\n\r\n" VERSION);
    request->finish(request, OUTCOME_OK);
    _cleanup_(mem_freep) char *got = hear_all(fd);
    assert_string_equal(got, "HTTP/1.1 200 OK\r\n" CORS PLAIN "Content-Length: 29\r\n\r\n" HEALTHY
                             "HTTP/1.0 404 Not Found\r\n" CORS PLAIN NOSNIFF
                             "Content-Length: 19\r\n\r\n404 page not found\n");
}

static void test_client_leaves_while_waiting(void **state)
{
    struct fixture *f = *state;

    f->server.hold = true;
    for (int uncancellable = 0; uncancellable < 2; uncancellable++) {
        f->server.uncancellable = uncancellable;
        f->server.cancelled = false;
        f->server.held = NULL;
        int fd = client(f, false);
        say(fd, GET("/readyz"));
        struct request *request = held_wait(&f->server);
        close(fd);
        cancelled_wait(&f->server);
        if (uncancellable)
            request->finish(request, OUTCOME_OK);
    }
    f->server.hold = false;
    expect(f, false, GET("/livez"),
           "HTTP/1.1 200 OK\r\n" CORS PLAIN NOSNIFF "Content-Length: 3\r\n\r\nok\n");
}

static void *finish_later(void *arg)
{
    struct server *s = arg;

    cancelled_wait(s);
    s->held->finish(s->held, OUTCOME_STOPPED);
    return NULL;
}

/*
 * Stop closes idle connections and those in the middle of a head, and waits for the read that
 * cannot be taken back.
 */
static void test_stop(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;

    f->server.hold = f->server.uncancellable = true;
    int idle = client(f, false), half = client(f, false), waiting = client(f, false);
    say(half, "GET / HTTP");
    say(waiting, GET("/health"));
    held_wait(&f->server);
    assert_int_equal(pthread_create(&thread, NULL, finish_later, &f->server), 0);
    http_stop(f->http);
    pthread_join(thread, NULL);
    int fds[] = {idle, half, waiting};
    for (size_t i = 0; i < 3; i++) {
        char byte;
        assert_true(recv(fds[i], &byte, 1, 0) <= 0);
        close(fds[i]);
    }
    int late = client(f, false);
    char byte;
    assert_int_equal(recv(late, &byte, 1, 0), 0);
    close(late);
}

/*
 * A reader and two writers of one descriptor meet: a read of it waits until it has been written
 * twice. read() and write() take the place of the C library's in this program.
 */
static struct {
    atomic_int fd; /* -1: nobody meets */
    sem_t reading;
    sem_t written;
} meeting = {.fd = -1};

ssize_t read(int fd, void *bytes, size_t size)
{
    if (fd == atomic_load(&meeting.fd)) {
        sem_post(&meeting.reading);
        sem_wait(&meeting.written);
        sem_wait(&meeting.written);
        atomic_store(&meeting.fd, -1);
    }
    return syscall(SYS_read, fd, bytes, size);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    ssize_t n = syscall(SYS_write, fd, bytes, size);

    if (fd == atomic_load(&meeting.fd))
        sem_post(&meeting.written);
    return n;
}

/*
 * The thread has been woken for a new connection, and before it empties its eventfd the stop
 * writes to it: the two wake-ups are one, and the thread must notice the stop all the same.
 */
static void test_stop_meets_a_wake_up(void **state)
{
    struct fixture *f = *state;
    char byte;

    assert_int_equal(sem_init(&meeting.reading, 0, 0), 0);
    assert_int_equal(sem_init(&meeting.written, 0, 0), 0);
    atomic_store(&meeting.fd, f->http->wake_fd);
    int fd = client(f, false);
    sem_wait(&meeting.reading);
    http_stop(f->http);
    assert_int_equal(recv(fd, &byte, 1, 0), 0);
    close(fd);
}

/* An answer larger than the socket's buffer, to a client that sends byte by byte and reads late. */
static void test_slow_client(void **state)
{
    static struct metric_family family = {
        .name = "test_large", .help = "Large.", .kind = METRIC_COUNTER};
    enum { SERIES = 600 };
    static struct metric metrics[SERIES];
    static char labels[SERIES][128];
    struct fixture *f = *state;
    const char *request = "GET /metrics HTTP/1.0\r\n\r\n";
    int fd = client(f, true), small = 4096;

    for (size_t i = 0; i < SERIES; i++) {
        snprintf(labels[i], sizeof(labels[i]), "name=\"%0100zu\"", i);
        metrics_register_labelled(&family, &metrics[i], labels[i]);
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    for (const char *p = request; *p; p++)
        assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
    _cleanup_(mem_freep) char *got = hear_all(fd);
    const char *body = strstr(got, "\r\n\r\n"), *length = strstr(got, "Content-Length: ");
    assert_non_null(body);
    assert_non_null(length);
    assert_int_equal(strlen(body + 4), strtoul(length + 16, NULL, 10));
    assert_true(strlen(body) > SERIES * 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metrics_urls, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unhealthy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whitelist_and_cors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_read_that_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_client_leaves_while_waiting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_meets_a_wake_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_client, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
