/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer port as a whole: any bytes on a connection to a transport that runs, with a server of
 * the test's behind it. Properties: the connection comes to its end once ours has; nothing of it is
 * left; and the next request is answered.
 */
#include "api/peer_test.h"
#include "tests/fuzz/fuzz.h"

static struct node *node;

static int dial(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(peer_port(node->peer, 0)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = TEST_PATIENCE_MS / 1000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    return fd;
}

/* Says it all, then reads to the end; the beginning of the answer is in ret. */
static void exchange(struct bytes request, char ret[16])
{
    int fd = dial();
    char dropped[4096];
    size_t len = 0;
    ssize_t n;

    (void)!send(fd, request.data, request.len, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    memset(ret, 0, 16);
    while ((n = recv(fd, dropped, sizeof(dropped), 0)) > 0) {
        size_t kept = len < 15 ? 15 - len : 0;
        memcpy(ret + (len < 15 ? len : 15), dropped, (size_t)n < kept ? (size_t)n : kept);
        len += (size_t)n;
    }
    check(n == 0 || errno == ECONNRESET); /* EAGAIN: it did not end */
    close(fd);
}

static void start(void)
{
    log_level_min = LOG_FATAL;
    node = node_new(1);
    node_start(node);
    node_knows(node, 2, mem_strdup("http://127.0.0.1:1"));
    node->server.keep_nothing = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char answer[16];

    if (!node)
        start();
    exchange(bytes_of(data, size), answer);
    exchange(BYTES_LIT("GET /raft/probing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
             answer);
    check(memcmp(answer, "HTTP/1.1 200 OK", 15) == 0);
    return 0;
}
