/* SPDX-License-Identifier: Apache-2.0 */
/* The front door, on real loopback sockets, turn by turn with the clock in the test's hand; the
 * linker lets it count the lines of the log. */
#include "api/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/conn_limit.h"
#include "base/log.h"
#include "base/mem.h"

enum { HANDED_MAX = 64, TURN_MS = 2000 };

static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* What the handlers were given. */
struct fixture {
    struct config config;
    struct listener *l;
    struct listener_limits limits;
    uint64_t now_ms;
    int grpc[HANDED_MAX], http[HANDED_MAX], metrics[HANDED_MAX];
    size_t n_grpc, n_http, n_metrics;
};

/* Lines of the log, and what the last one says that was left out before it. */
static uint64_t n_lines, n_suppressed;

void __real_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields);
void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields);
void __wrap_log_line(enum log_level level, const char *file, int line, const char *msg,
                     const struct log_field *fields)
{
    n_lines++;
    for (const struct log_field *f = fields; f && f->key; f++) {
        if (strcmp(f->key, "suppressed") == 0)
            n_suppressed = f->u64;
    }
    __real_log_line(level, file, line, msg, fields);
}

static void take_grpc(void *arg, int fd)
{
    struct fixture *f = arg;

    assert_true(f->n_grpc < HANDED_MAX);
    f->grpc[f->n_grpc++] = fd;
}

static void take_http(void *arg, int fd, bool metrics_only)
{
    struct fixture *f = arg;

    assert_true(f->n_http + f->n_metrics < HANDED_MAX);
    if (metrics_only)
        f->metrics[f->n_metrics++] = fd;
    else
        f->http[f->n_http++] = fd;
}

static void fixture_open(struct fixture *f, const char *client, const char *http,
                         const char *metrics)
{
    struct listener_handlers handlers = {take_grpc, take_http, f};
    char *error = NULL;

    f->now_ms = 1000000;
    if (!f->limits.connections)
        f->limits = (struct listener_limits){100, 100, 100};
    assert_int_equal(url_list_parse(client, &f->config.listen_client_urls, &error), 0);
    if (http)
        assert_int_equal(url_list_parse(http, &f->config.listen_client_http_urls, &error), 0);
    if (metrics)
        assert_int_equal(url_list_parse(metrics, &f->config.listen_metrics_urls, &error), 0);
    assert_int_equal(listener_open(&f->l, &f->config, &handlers, &f->limits), 0);
}

static void fds_close(int *fds, size_t *n)
{
    for (size_t i = 0; i < *n; i++)
        close(fds[i]);
    *n = 0;
}

static void fixture_close(struct fixture *f)
{
    listener_free(f->l);
    fds_close(f->grpc, &f->n_grpc);
    fds_close(f->http, &f->n_http);
    fds_close(f->metrics, &f->n_metrics);
    url_list_deinit(&f->config.listen_client_urls);
    url_list_deinit(&f->config.listen_client_http_urls);
    url_list_deinit(&f->config.listen_metrics_urls);
}

static int dial(const struct fixture *f, size_t socket_index)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(listener_port(f->l, socket_index)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void say(int fd, const char *data, size_t len)
{
    assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), len);
}

static void turn(struct fixture *f)
{
    listener_turn(f->l, f->now_ms, TURN_MS);
}

static struct listener_stats stats(const struct fixture *f)
{
    struct listener_stats s;

    listener_stats(f->l, &s);
    return s;
}

/* The server closed its end: a read ends (or is reset) at once. */
static bool is_closed(int fd)
{
    struct timeval wait = {.tv_sec = 20};
    char byte;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    ssize_t n = recv(fd, &byte, 1, 0);
    return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void test_routes(void **state)
{
    struct fixture f = {0};
    char data[64];

    fixture_open(&f, "http://127.0.0.1:0", NULL, "http://localhost:0");
    int grpc = dial(&f, 0), http = dial(&f, 0), tls = dial(&f, 0), metrics = dial(&f, 1),
        odd = dial(&f, 0);
    say(grpc, preface, sizeof(preface) - 1);
    say(http, "GET / HTTP/1.1\r\n\r\n", 18);
    say(tls, "\x16\x03\x01", 3);
    say(metrics, "GET /metrics HTTP/1.1\r\n\r\n", 25);
    say(odd, "PRI * HTTP/1.1\r\n\r\n", 18);
    while (f.n_grpc + f.n_http + f.n_metrics < 4)
        turn(&f);
    assert_int_equal(f.n_grpc, 1);
    assert_int_equal(f.n_http, 2);
    assert_int_equal(f.n_metrics, 1);
    assert_true(is_closed(tls));
    assert_int_equal(stats(&f).accepted, 5);
    assert_int_equal(stats(&f).pending, 0);
    /* Nothing was read, the socket does not block, and small answers leave at once. */
    assert_int_equal(recv(f.grpc[0], data, sizeof(data), 0), sizeof(preface) - 1);
    assert_true(fcntl(f.grpc[0], F_GETFL) & O_NONBLOCK);
    int on = 0;
    socklen_t len = sizeof(on);
    assert_int_equal(getsockopt(f.grpc[0], IPPROTO_TCP, TCP_NODELAY, &on, &len), 0);
    assert_true(on);
    close(grpc), close(http), close(tls), close(metrics), close(odd);
    fixture_close(&f);
}

static void test_first_bytes_in_pieces(void **state)
{
    struct fixture f = {0};

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    int slow = dial(&f, 0);
    turn(&f);
    assert_int_equal(stats(&f).pending, 1);
    for (size_t i = 0; i < 13; i++) {
        say(slow, preface + i, 1);
        turn(&f);
        assert_int_equal(f.n_grpc + f.n_http, 0);
    }
    /* Edge-triggered: bytes that are there but do not decide must not wake the loop again. */
    listener_turn(f.l, f.now_ms, 0);
    assert_int_equal(stats(&f).pending, 1);
    say(slow, preface + 13, 1);
    turn(&f);
    assert_int_equal(f.n_grpc, 1);
    int other = dial(&f, 0);
    say(other, "PR", 2);
    turn(&f);
    assert_int_equal(stats(&f).pending, 1);
    say(other, "OPFIND", 6);
    turn(&f);
    assert_int_equal(f.n_http, 1);
    int gone = dial(&f, 0);
    turn(&f);
    close(gone);
    turn(&f);
    assert_int_equal(stats(&f).pending, 0);
    assert_int_equal(f.n_grpc + f.n_http, 2);
    close(slow), close(other);
    fixture_close(&f);
}

static void test_deadline(void **state)
{
    struct fixture f = {0};

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    int first = dial(&f, 0);
    turn(&f);
    f.now_ms += 4000;
    int second = dial(&f, 0);
    turn(&f);
    f.now_ms += LISTENER_FIRST_BYTES_MS - 4001;
    listener_turn(f.l, f.now_ms, 0);
    assert_int_equal(stats(&f).pending, 2);
    f.now_ms += 1;
    listener_turn(f.l, f.now_ms, 0);
    assert_int_equal(stats(&f).pending, 1);
    assert_true(is_closed(first));
    say(second, "GET", 3);
    turn(&f);
    assert_int_equal(f.n_http, 1);
    assert_int_equal(stats(&f).dropped, 1);
    close(first), close(second);
    fixture_close(&f);
}

static void test_pending_limit_drops_the_oldest(void **state)
{
    struct fixture f = {.limits = {100, 100, 3}};
    int fds[5];

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    for (size_t i = 0; i < 5; i++) {
        fds[i] = dial(&f, 0);
        turn(&f);
    }
    assert_int_equal(stats(&f).pending, 3);
    assert_int_equal(stats(&f).dropped, 2);
    assert_true(is_closed(fds[0]));
    assert_true(is_closed(fds[1]));
    say(fds[2], "GET", 3);
    turn(&f);
    assert_int_equal(f.n_http, 1);
    for (size_t i = 0; i < 5; i++)
        close(fds[i]);
    fixture_close(&f);
}

static void test_connection_limits(void **state)
{
    struct fixture f = {.limits = {3, 100, 100}};
    int fds[5];

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    for (size_t i = 0; i < 3; i++) {
        fds[i] = dial(&f, 0);
        say(fds[i], "GET", 3);
    }
    while (f.n_http < 3)
        turn(&f);
    fds[3] = dial(&f, 0);
    turn(&f);
    assert_true(is_closed(fds[3]));
    assert_int_equal(stats(&f).refused, 1);
    /*
     * The HTTP side closes one without a word; the next is let in, once a sweep is allowed again.
     */
    close(f.http[--f.n_http]);
    f.now_ms += CONN_SWEEP_MS;
    fds[4] = dial(&f, 0);
    say(fds[4], "GET", 3);
    while (f.n_http < 3)
        turn(&f);
    assert_int_equal(stats(&f).connections, 3);
    for (size_t i = 0; i < 5; i++)
        close(fds[i]);
    fixture_close(&f);
}

/* Of connections that are refused, a line a second; the next one counts those left out. */
static void test_log_is_bounded(void **state)
{
    enum { REFUSED = 40 };
    struct fixture f = {.limits = {1, 100, 100}};
    int fds[REFUSED + 1];

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    fds[0] = dial(&f, 0);
    say(fds[0], "GET", 3);
    while (f.n_http < 1)
        turn(&f);
    n_lines = 0;
    for (uint64_t i = 1; i <= REFUSED; i++) {
        f.now_ms += 50; /* two seconds in all */
        fds[i] = dial(&f, 0);
        while (stats(&f).refused < i)
            turn(&f);
        close(fds[i]);
    }
    assert_int_equal(n_lines, 2);
    assert_int_equal(n_suppressed, 1000 / 50 - 1);
    close(fds[0]);
    fixture_close(&f);
}

static void test_conn_limit_per_address(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};
    struct sockaddr_in6 mapped = {.sin6_family = AF_INET6};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct conn_limit *c = conn_limit_new(10, 2);
    int fds[6];

    inet_pton(AF_INET6, "::ffff:10.0.0.1", &mapped.sin6_addr);
    for (size_t i = 0; i < 6; i++)
        assert_true((fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    assert_true(conn_limit_add(c, fds[0], (struct sockaddr *)&a, 1000));
    assert_true(conn_limit_add(c, fds[1], (struct sockaddr *)&mapped, 1000));
    assert_false(conn_limit_add(c, fds[2], (struct sockaddr *)&a, 1000));
    assert_int_equal(conn_limit_count(c), 2);
    a.sin_addr.s_addr = htonl(0x0a000002);
    assert_true(conn_limit_add(c, fds[2], (struct sockaddr *)&a, 1000));
    for (size_t i = 3; i < 6; i++)
        assert_true(conn_limit_add(c, fds[i], (struct sockaddr *)&local, 1000));
    /* A descriptor that comes again was closed before. */
    close(fds[1]);
    assert_int_equal(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fds[1]);
    assert_true(conn_limit_add(c, fds[1], (struct sockaddr *)&mapped, 1001));
    assert_int_equal(conn_limit_count(c), 6);
    conn_limit_remove(c, fds[0]);
    conn_limit_remove(c, fds[0]);
    assert_int_equal(conn_limit_count(c), 5);
    for (size_t i = 0; i < 6; i++)
        close(fds[i]);
    conn_limit_sweep(c);
    assert_int_equal(conn_limit_count(c), 0);
    conn_limit_free(c);
}

static void test_http_split_off(void **state)
{
    struct fixture f = {0};

    fixture_open(&f, "http://127.0.0.1:0", "http://127.0.0.1:0", NULL);
    int grpc = dial(&f, 0), http_on_grpc = dial(&f, 0), http = dial(&f, 1),
        grpc_on_http = dial(&f, 1);
    say(grpc, preface, sizeof(preface) - 1);
    say(http_on_grpc, "GET", 3);
    say(http, "GET", 3);
    say(grpc_on_http, preface, sizeof(preface) - 1);
    while (stats(&f).accepted < 4 || f.n_grpc + f.n_http < 3)
        turn(&f);
    assert_int_equal(f.n_grpc, 1);
    assert_int_equal(f.n_http, 2);
    assert_true(is_closed(http_on_grpc));
    close(grpc), close(http_on_grpc), close(http), close(grpc_on_http);
    fixture_close(&f);
}

static void test_descriptors_run_out(void **state)
{
    struct rlimit before, tight;
    struct fixture f = {0};
    int fds[HANDED_MAX], n = 0, last;

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    int waiting = dial(&f, 0), next = dial(&f, 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    tight = before;
    assert_true((last = dup(0)) >= 0);
    tight.rlim_cur = (rlim_t)last + 8;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &tight), 0);
    while (n < HANDED_MAX && (fds[n] = dup(0)) >= 0)
        n++;
    assert_true(n < HANDED_MAX);
    turn(&f);
    /*
     * One was taken in on the spare descriptor and closed, the other waits until the pause is over.
     */
    assert_true(is_closed(waiting));
    assert_int_equal(stats(&f).accepted, 0);
    listener_turn(f.l, f.now_ms, 0);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    listener_turn(f.l, f.now_ms + 99, 0);
    listener_turn(f.l, f.now_ms + 99, 0);
    assert_int_equal(stats(&f).accepted, 0);
    say(next, "GET", 3);
    f.now_ms += 100;
    listener_turn(f.l, f.now_ms, 0);
    turn(&f);
    assert_int_equal(f.n_http, 1);
    close(last), close(waiting), close(next);
    fixture_close(&f);
}

static void test_bind_errors_and_unix(void **state)
{
    struct listener_handlers handlers = {take_grpc, take_http, NULL};
    char path[] = "/tmp/cairn-listener-test-XXXXXX";
    struct fixture f = {0}, second = {0};
    char *error = NULL;
    struct stat st;

    fixture_open(&f, "http://127.0.0.1:0", NULL, NULL);
    _cleanup_(mem_freep) char *taken = mem_printf("http://127.0.0.1:%u", listener_port(f.l, 0));
    assert_int_equal(url_list_parse(taken, &second.config.listen_client_urls, &error), 0);
    assert_int_equal(listener_open(&second.l, &second.config, &handlers, &f.limits), 1);
    assert_null(second.l);
    url_list_deinit(&second.config.listen_client_urls);
    fixture_close(&f);

    assert_non_null(mkdtemp(path));
    _cleanup_(mem_freep) char *file = mem_printf("%s/s", path),
                              *url = mem_printf("unix://%s/s", path);
    f = (struct fixture){0};
    fixture_open(&f, url, NULL, NULL);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, file, strlen(file) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    say(fd, preface, sizeof(preface) - 1);
    turn(&f);
    assert_int_equal(f.n_grpc, 1);
    close(fd);
    fixture_close(&f);
    assert_int_equal(stat(file, &st), -1);
    rmdir(path);
}

/* Every address means IPv4 too, whatever family the socket has. */
static void test_unspecified_address(void **state)
{
    struct fixture f = {0};

    fixture_open(&f, "http://0.0.0.0:0", NULL, "http://[::]:0");
    int first = dial(&f, 0), second = dial(&f, 1);
    say(first, "GET", 3);
    say(second, "GET", 3);
    while (f.n_http + f.n_metrics < 2)
        turn(&f);
    close(first), close(second);
    fixture_close(&f);
}

/* The thread: what it was given arrives, and stop joins it. */
static void test_thread(void **state)
{
    struct fixture f = {0};
    struct listener_handlers handlers = {take_grpc, take_http, &f};
    char *error = NULL;

    assert_int_equal(url_list_parse("http://127.0.0.1:0", &f.config.listen_client_urls, &error), 0);
    assert_int_equal(listener_start(&f.l, &f.config, &handlers), 0);
    int tls = dial(&f, 0), pending = dial(&f, 0);
    say(tls, "\x16", 1);
    assert_true(is_closed(tls));
    listener_stop(f.l);
    assert_true(is_closed(pending));
    close(tls), close(pending);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_first_bytes_in_pieces),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_pending_limit_drops_the_oldest),
        cmocka_unit_test(test_connection_limits),
        cmocka_unit_test(test_log_is_bounded),
        cmocka_unit_test(test_conn_limit_per_address),
        cmocka_unit_test(test_http_split_off),
        cmocka_unit_test(test_descriptors_run_out),
        cmocka_unit_test(test_bind_errors_and_unix),
        cmocka_unit_test(test_unspecified_address),
        cmocka_unit_test(test_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
