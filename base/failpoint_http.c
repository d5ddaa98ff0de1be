/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The HTTP side of the failpoints, for test builds only: one thread, one connection at a time, one
 * request per connection, no chunked bodies. Texts and status codes are gofail's, because etcd's
 * test suites read them.
 *
 * Thread: its own. Invariants: (1) a request is at most REQUEST_LEN_MAX bytes and must arrive
 * within REQUEST_TIMEOUT_S, or the connection is closed. (2) failpoint_panic_lock is held from
 * evaluating a request until its answer is sent.
 */
#include "base/failpoint_http.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/err.h"
#include "base/mem.h"

enum { REQUEST_LEN_MAX = 64 * 1024, REQUEST_TIMEOUT_S = 5 };

static int listen_fd = -1;
static pthread_t http_thread;

static const char *status_text(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 500: return "Internal Server Error";
    default: return "Bad Request";
    }
}

static void answer(struct buf *out, int status, struct bytes body)
{
    buf_printf(out, "HTTP/1.1 %d %s\r\nConnection: close\r\n", status, status_text(status));
    if (status != 204)
        buf_printf(out, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: %zu\r\n",
                   body.len);
    if (status == 405)
        buf_append_str(out, "Allow: PUT\r\n");
    buf_append_str(out, "\r\n");
    if (status != 204)
        buf_append_bytes(out, body);
}

static void answer_error(struct buf *out, int status, const char *what,
                         enum failpoint_result result)
{
    static const char *const texts[] = {"", "failpoint: failpoint does not exist",
                                        "failpoint: failpoint is disabled",
                                        "failpoint: could not parse terms"};
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    buf_printf(&body, "%s%s\n", what, texts[result]);
    answer(out, status, buf_bytes(&body));
}

static void answer_put(struct buf *out, const char *key, const char *body)
{
    enum failpoint_result result = strcasecmp(key, "failpoints") == 0 ? failpoint_enable_many(body)
                                                                      : failpoint_enable(key, body);
    if (result == FAILPOINT_DONE)
        answer(out, 204, BYTES_NULL);
    else
        answer_error(out, 400, "fail to set failpoint: ", result);
}

static void answer_get(struct buf *out, char *key)
{
    static const char count_suffix[] = "/count";
    _cleanup_(buf_deinit) struct buf body = BUF_NULL;
    uint64_t count = 0;
    size_t len = strlen(key), suffix_len = sizeof(count_suffix) - 1;
    if (len == 0) {
        failpoint_list(&body);
        answer(out, 200, buf_bytes(&body));
        return;
    }
    bool wants_count = len > suffix_len && strcmp(key + len - suffix_len, count_suffix) == 0;
    if (wants_count)
        key[len - suffix_len] = '\0';
    enum failpoint_result result = failpoint_status(key, &body, &count);
    if (result != FAILPOINT_DONE) {
        int status = wants_count && result == FAILPOINT_DISABLED ? 500 : 404;
        answer_error(out, status, "failed to GET: ", result);
        return;
    }
    if (wants_count) {
        buf_clear(&body);
        buf_printf(&body, "%llu", (unsigned long long)count);
    } else {
        buf_append_u8(&body, '\n');
    }
    answer(out, 200, buf_bytes(&body));
}

static void answer_delete(struct buf *out, const char *key)
{
    enum failpoint_result result = failpoint_disable(key);
    if (result == FAILPOINT_DONE)
        answer(out, 204, BYTES_NULL);
    else
        answer_error(out, 400, "failed to delete failpoint ", result);
}

void failpoint_http_answer(char *request, struct buf *out)
{
    char *body = strstr(request, "\r\n\r\n");
    char *save = NULL;
    body = body ? body + 4 : request + strlen(request);
    char *line = strtok_r(request, "\r\n", &save);
    char *method = line ? strtok_r(line, " ", &save) : NULL;
    char *uri = method ? strtok_r(NULL, " ", &save) : NULL;
    if (!uri || uri[0] != '/') {
        answer(out, 400, BYTES_LIT("malformed request URI\n"));
        return;
    }
    if (strcmp(method, "PUT") == 0)
        answer_put(out, uri + 1, body);
    else if (strcmp(method, "GET") == 0)
        answer_get(out, uri + 1);
    else if (strcmp(method, "DELETE") == 0)
        answer_delete(out, uri + 1);
    else
        answer(out, 405, BYTES_LIT("Method not allowed\n"));
}

/* The bytes of the whole request, known once its head is there; 0 until then. */
static size_t request_len(struct buf *request)
{
    const char *text = buf_cstr(request);
    const char *end = strstr(text, "\r\n\r\n");
    if (!end)
        return 0;
    size_t len = (size_t)(end - text) + 4;
    const char *header = strcasestr(text, "\r\ncontent-length:");
    if (header && header < end)
        len += strtoul(header + sizeof("\r\ncontent-length:") - 1, NULL, 10);
    return len;
}

static bool request_read(int fd, struct buf *request)
{
    for (;;) {
        size_t len = request_len(request);
        if (len > 0 && request->len >= len)
            return true;
        if (len > REQUEST_LEN_MAX || request->len >= REQUEST_LEN_MAX)
            return false;
        buf_reserve(request, 4096);
        ssize_t n = recv(fd, request->data + request->len, 4096, 0);
        if (n <= 0)
            return false;
        request->len += (size_t)n;
    }
}

static void serve(int fd)
{
    _cleanup_(buf_deinit) struct buf request = BUF_NULL;
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct timeval timeout = {.tv_sec = REQUEST_TIMEOUT_S};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (!request_read(fd, &request))
        return;
    buf_cstr(&request);
    check(pthread_mutex_lock(&failpoint_panic_lock) == 0);
    failpoint_http_answer((char *)request.data, &out);
    for (size_t sent = 0; sent < out.len;) {
        ssize_t n = send(fd, out.data + sent, out.len - sent, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        sent += (size_t)n;
    }
    check(pthread_mutex_unlock(&failpoint_panic_lock) == 0);
}

static void *http_run(void *arg)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINVAL || errno == EBADF))
            return NULL; /* failpoint_http_stop() has shut the listener down */
        if (fd < 0)
            continue;
        serve(fd);
        close(fd);
    }
}

static int listen_at(const struct addrinfo *address)
{
    int one = 1;
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, address->ai_protocol);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, 16) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

int failpoint_http_start(const char *address)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(address, ':');
    if (!colon)
        return err_origin(-EINVAL);
    _cleanup_(mem_freep) char *host = mem_strndup(address, (size_t)(colon - address));
    if (getaddrinfo(host[0] ? host : NULL, colon + 1, &hints, &found) != 0)
        return err_origin(-EINVAL);
    int fd = listen_at(found);
    freeaddrinfo(found);
    if (fd < 0)
        return err_origin(fd);
    listen_fd = fd;
    check(pthread_create(&http_thread, NULL, http_run, NULL) == 0);
    return 0;
}

void failpoint_http_stop(void)
{
    shutdown(listen_fd, SHUT_RDWR);
    pthread_join(http_thread, NULL);
    close(listen_fd);
    listen_fd = -1;
}
