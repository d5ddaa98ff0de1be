/* SPDX-License-Identifier: Apache-2.0 */
/* The table of adopted connections, on real sockets. */
#include "api/cork.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct pair {
    int client, server;
    char peer[80]; /* of the server's end, as gRPC names it */
};

static struct pair pair_open(int family)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *address = family == AF_INET ? (void *)&in : (void *)&in6;
    socklen_t len = family == AF_INET ? sizeof(in) : sizeof(in6);
    int listener = socket(family, SOCK_STREAM, 0);
    struct pair p = {.client = socket(family, SOCK_STREAM, 0)};

    if (bind(listener, address, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, address, &len) < 0 || connect(p.client, address, len) < 0) {
        close(listener);
        close(p.client);
        p.client = -1;
        return p;
    }
    p.server = accept(listener, NULL, NULL);
    close(listener);
    assert_int_equal(getsockname(p.client, address, &len), 0);
    if (family == AF_INET)
        snprintf(p.peer, sizeof(p.peer), "ipv4:127.0.0.1:%u", ntohs(in.sin_port));
    else
        snprintf(p.peer, sizeof(p.peer), "ipv6:%%5B::1%%5D:%u", ntohs(in6.sin6_port));
    return p;
}

static void pair_close(const struct pair *p)
{
    close(p->client);
    close(p->server);
}

static int corked(int fd)
{
    int on = -1;
    socklen_t len = sizeof(on);

    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, &len), 0);
    return on;
}

static void test_find(void **state)
{
    struct cork *c = cork_new();
    struct pair a = pair_open(AF_INET), b = pair_open(AF_INET);

    assert_int_equal(cork_find(c, a.peer), -1);
    cork_add(c, a.server);
    cork_add(c, b.server);
    assert_int_equal(cork_find(c, a.peer), a.server);
    assert_int_equal(cork_find(c, b.peer), b.server);
    assert_int_equal(cork_find(c, "ipv4:127.0.0.1:1"), -1);
    assert_int_equal(cork_find(c, ""), -1);
    assert_int_equal(cork_find(c, "%"), -1);
    pair_close(&a);
    pair_close(&b);
    cork_free(c);
}

static void test_find_ipv6(void **state)
{
    struct pair a = pair_open(AF_INET6);
    if (a.client < 0)
        skip();
    struct cork *c = cork_new();

    cork_add(c, a.server);
    assert_int_equal(cork_find(c, a.peer), a.server);
    pair_close(&a);
    cork_free(c);
}

/* A number that is used again belongs to the new connection alone. */
static void test_reuse(void **state)
{
    struct cork *c = cork_new();
    struct pair a = pair_open(AF_INET), b = pair_open(AF_INET);

    cork_add(c, a.server);
    assert_int_equal(dup2(b.server, a.server), a.server);
    cork_add(c, a.server);
    assert_int_equal(cork_find(c, a.peer), -1);
    assert_int_equal(cork_find(c, b.peer), a.server);
    /* Not a connection any more. */
    int fresh = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(dup2(fresh, a.server), a.server);
    close(fresh);
    cork_add(c, a.server);
    assert_int_equal(cork_find(c, b.peer), -1);
    pair_close(&a);
    pair_close(&b);
    cork_free(c);
}

static void test_hold_and_release(void **state)
{
    struct pair a = pair_open(AF_INET);
    char text[8];

    cork_hold(a.server);
    assert_int_equal(corked(a.server), 1);
    assert_int_equal(write(a.server, "ab", 2), 2);
    assert_int_equal(write(a.server, "cd", 2), 2);
    cork_release(a.server);
    assert_int_equal(corked(a.server), 0);
    assert_int_equal(recv(a.client, text, sizeof(text), 0), 4);
    /* What is no TCP socket is left alone. */
    cork_hold(STDIN_FILENO);
    cork_release(-1);
    pair_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_find_ipv6),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_hold_and_release),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
