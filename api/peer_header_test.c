/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads between members: ids, versions and clusters as etcd judges them, requests byte by byte, and
 * answers in pieces of any size.
 */
#include "api/peer_header.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"

static void test_ids(void **state)
{
    static const struct {
        const char *text;
        uint64_t id;
        bool valid, canonical;
    } cases[] = {
        {"f2fddd092557a67", 0x0f2fddd092557a67, true, true},
        {"0f2fddd092557a67", 0x0f2fddd092557a67, true, false},
        {"F2FDDD092557A67", 0x0f2fddd092557a67, true, false},
        {"0", 0, true, true},
        {"00000000000000000000001", 1, true, false},
        {"ffffffffffffffff", UINT64_MAX, true, true},
        {"10000000000000000", 0, false, false},
        {"", 0, false, false},
        {"0x1", 0, false, false},
        {"+1", 0, false, false},
        {"-1", 0, false, false},
        {"1_0", 0, false, false},
        {"g", 0, false, false},
        {" 1", 0, false, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(buf_deinit) struct buf out = BUF_NULL;
        struct bytes text = bytes_str(cases[i].text);
        uint64_t id = 77;
        assert_int_equal(peer_id_parse(text, &id), cases[i].valid);
        assert_true(id == (cases[i].valid ? cases[i].id : 77));
        assert_int_equal(peer_id_is(text, cases[i].id), cases[i].canonical);
        peer_id_append(&out, cases[i].id);
        if (cases[i].canonical)
            assert_string_equal(buf_cstr(&out), cases[i].text);
    }
}

/* ---- the check of a sender ---- */

static int check_headers(const char *headers, struct peer_sender *ret)
{
    _cleanup_(mem_freep) char *text = mem_printf("GET / HTTP/1.1\r\nHost: a\r\n%s\r\n", headers);
    struct http_head h;
    struct http_error error;
    size_t scanned = 0;

    assert_int_equal(http_head_parse(bytes_str(text), &scanned, &h, &error), 0);
    int outcome = peer_sender_check(h.headers, 0x1767c24805d0a3cc, ret);
    if (outcome == 0) {
        /* The texts lie in what is freed here. */
        assert_true(bytes_equal(ret->to, BYTES_LIT("f2fddd092557a67")));
        assert_true(bytes_equal(ret->peer_urls, BYTES_LIT("http://a:1,http://b:2")));
    }
    return outcome;
}

#define CLUSTER "X-Etcd-Cluster-Id: 1767c24805d0a3cc\r\n"
#define REST CLUSTER "X-Raft-To: f2fddd092557a67\r\nX-Peerurls: http://a:1,http://b:2\r\n"

static int check_versions(const char *server, const char *min)
{
    _cleanup_(mem_freep) char *headers =
        mem_printf("%s%s%s%s%s%s" REST, server ? "X-Server-Version: " : "", server ? server : "",
                   server ? "\r\n" : "", min ? "x-min-cluster-version: " : "", min ? min : "",
                   min ? "\r\n" : "");
    struct peer_sender sender;

    return check_headers(headers, &sender);
}

static void test_versions(void **state)
{
    static const struct {
        const char *server, *min;
        int outcome;
    } cases[] = {
        {"3.7.1", "3.0.0", 0},
        {"3.0.0", "3.0.0", 0},
        {"3.8.0", "3.0.0", 0},
        {"4.0.0", "3.7.9", 0},
        {"3.7.0-alpha.0", "3.0.0", 0},
        {"3.7.0-rc.1+git", "3.0.0", 0},
        {"3.7.0+a-b.c", "3.0.0", 0},
        {"3.7.0-", "3.0.0", 0},
        {"03.07.0", "3.0.0", 0},
        {"2.9.9", "3.0.0", PEER_HEADER_E_VERSION},
        {"3.7.1", "3.8.0", PEER_HEADER_E_VERSION},
        {"3.7.1", "4.0.0", PEER_HEADER_E_VERSION},
        {NULL, "3.0.0", PEER_HEADER_E_VERSION},
        {"", "3.0.0", PEER_HEADER_E_VERSION},
        {NULL, NULL, PEER_HEADER_E_VERSION},
        {"3.7.1", NULL, 0},
        {"3.7", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.1.0", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.x", "3.0.0", PEER_HEADER_E_TEXT},
        {"v3.7.1", "3.0.0", PEER_HEADER_E_TEXT},
        {"3..1", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.1 ", "3", PEER_HEADER_E_TEXT},
        {"3.7.1", "x", PEER_HEADER_E_TEXT},
        {"3.7.1-a..b", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.1-a.", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.1-a_b", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.1+a+b", "3.0.0", PEER_HEADER_E_TEXT},
        {"3.7.9223372036854775807", "3.0.0", 0},
        {"3.7.9223372036854775808", "3.0.0", PEER_HEADER_E_TEXT},
        {"99999999999999999999.0.0", "3.0.0", PEER_HEADER_E_TEXT},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (check_versions(cases[i].server, cases[i].min) != cases[i].outcome)
            fail_msg("case %zu: %s, %s", i, cases[i].server, cases[i].min);
}

#define VERSIONS "X-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\n"

static void test_sender(void **state)
{
    struct peer_sender sender = {.from = 77};

    assert_int_equal(check_headers(VERSIONS, &sender), PEER_HEADER_E_CLUSTER);
    assert_int_equal(check_headers(VERSIONS "X-Etcd-Cluster-ID: 01767c24805d0a3cc\r\n", &sender),
                     PEER_HEADER_E_CLUSTER);
    assert_int_equal(check_headers(VERSIONS "X-Etcd-Cluster-ID: 1767C24805D0A3CC\r\n", &sender),
                     PEER_HEADER_E_CLUSTER);
    assert_int_equal(sender.from, 0);
    assert_int_equal(check_headers(VERSIONS REST, &sender), 0);
    assert_int_equal(sender.from, 0);
    assert_int_equal(check_headers(VERSIONS REST "X-Server-From: zz\r\n", &sender), 0);
    assert_int_equal(sender.from, 0);
    /* Of two the first counts. */
    assert_int_equal(check_headers("X-Server-From: 1fcfdbb73019296f\r\nX-Server-From: 1\r\n"
                                   "X-Raft-To: f2fddd092557a67\r\nX-Raft-To: 1\r\n" VERSIONS REST,
                                   &sender),
                     0);
    assert_true(sender.from == 0x1fcfdbb73019296f);
}

/* ---- requests ---- */

static const struct peer_identity identity = {
    .member_id = 0x1fcfdbb73019296f,
    .cluster_id = 0x1767c24805d0a3cc,
    .peer_urls = {(const uint8_t *)"http://127.0.0.1:24381", 22},
};

static void assert_head(const struct peer_request *request, const char *expected)
{
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct http_head h;
    struct http_error error;
    size_t scanned = 0;

    assert_int_equal(peer_request_head(&out, request), 0);
    assert_string_equal(buf_cstr(&out), expected);
    assert_int_equal(http_head_parse(buf_bytes(&out), &scanned, &h, &error), 0);
    assert_int_equal(h.len, out.len);
    assert_int_equal(h.is_chunked, request->body == PEER_BODY_CHUNKED);
    assert_true(h.content_length == request->body_bytes);
}

#define IDENTITY                                                                                   \
    "X-Server-From: 1fcfdbb73019296f\r\n"                                                          \
    "X-Server-Version: 3.7.1\r\n"                                                                  \
    "X-Min-Cluster-Version: 3.0.0\r\n"                                                             \
    "X-Etcd-Cluster-ID: 1767c24805d0a3cc\r\n"                                                      \
    "X-PeerURLs: http://127.0.0.1:24381\r\n"

static void test_request_heads(void **state)
{
    struct peer_identity tables = identity;
    struct peer_request stream = {.method = "GET",
                                  .host = BYTES_LIT("127.0.0.1:24391"),
                                  .path = BYTES_LIT(PEER_STREAM_PATH_MSGAPP "1fcfdbb73019296f"),
                                  .identity = &identity,
                                  .to = 0x0f2fddd092557a67};
    struct peer_request post = {.method = "POST",
                                .host = BYTES_LIT("a:1"),
                                .path = BYTES_LIT("/raft"),
                                .identity = &identity,
                                .content_type = "application/protobuf",
                                .body = PEER_BODY_LENGTH,
                                .body_bytes = 38};
    struct peer_request promote = {.method = "POST",
                                   .host = BYTES_LIT("a:1"),
                                   .path = BYTES_LIT("/members/promote/17"),
                                   .authorization = BYTES_LIT("token.1"),
                                   .body = PEER_BODY_LENGTH};

    assert_head(&stream, "GET /raft/stream/msgapp/1fcfdbb73019296f HTTP/1.1\r\n"
                         "Host: 127.0.0.1:24391\r\n" IDENTITY "X-Raft-To: f2fddd092557a67\r\n\r\n");
    assert_head(&post, "POST /raft HTTP/1.1\r\nHost: a:1\r\n" IDENTITY
                       "Content-Type: application/protobuf\r\nContent-Length: 38\r\n\r\n");
    post.path = BYTES_LIT("/raft/snapshot");
    post.content_type = "application/octet-stream";
    post.body = PEER_BODY_CHUNKED;
    post.body_bytes = 0;
    tables.takes_tables = true;
    post.identity = &tables;
    assert_head(&post, "POST /raft/snapshot HTTP/1.1\r\nHost: a:1\r\n" IDENTITY
                       "X-Cairn-Tables: 1\r\nContent-Type: application/octet-stream\r\n"
                       "Transfer-Encoding: chunked\r\n\r\n");
    assert_head(&promote, "POST /members/promote/17 HTTP/1.1\r\nHost: a:1\r\n"
                          "Authorization: token.1\r\nContent-Length: 0\r\n\r\n");
}

static void test_tables(void **state)
{
    assert_true(peer_takes_tables(BYTES_LIT("A: b\r\nx-cairn-tables: 1\r\n\r\n")));
    assert_false(peer_takes_tables(BYTES_LIT("X-Cairn-Tables: 2\r\n\r\n")));
    assert_false(peer_takes_tables(BYTES_LIT("\r\n")));
}

/* No text of a member's URLs or of a client's token gets out of its line. */
static void test_request_texts(void **state)
{
    static const struct peer_request good = {
        .method = "GET", .host = {(const uint8_t *)"a:1", 3}, .path = {(const uint8_t *)"/", 1}};
    static const char *const lines[] = {"/a\r\nb", "/a\nb", "/a\rb", "/a\x7f", "/a\tb"};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct peer_identity who = identity;
    struct peer_request q;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct bytes line = bytes_str(lines[i]);
        q = good, q.host = line;
        assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
        q = good, q.path = line;
        assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
        q = good, q.authorization = line;
        assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
        q = good, q.identity = &who, who.peer_urls = line;
        assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
    }
    q = good, q.path = BYTES_LIT("a");
    assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
    q = good, q.path = BYTES_LIT("/a b");
    assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
    q = good, q.host = BYTES_NULL;
    assert_int_equal(peer_request_head(&out, &q), PEER_HEADER_E_TEXT);
    assert_int_equal(out.len, 0);
    assert_int_equal(peer_request_head(&out, &good), 0);
}

/* ---- answers ---- */

struct answer {
    int status;
    struct buf body;
    struct bytes rest;
    int outcome;
    bool closed;
};

/* Reads an answer in pieces of n bytes. */
static struct answer answer_read(struct bytes all, size_t n, uint64_t body_bytes_max)
{
    struct answer a = {.outcome = PEER_REPLY_MORE, .body = BUF_NULL, .rest = BYTES_NULL};
    struct peer_reply reply;

    peer_reply_init(&reply, body_bytes_max);
    for (size_t i = 0; i < all.len && a.outcome == PEER_REPLY_MORE; i += n) {
        size_t len = all.len - i < n ? all.len - i : n;
        uint8_t *exact = mem_alloc_raw(len);
        memcpy(exact, all.data + i, len);
        struct bytes in = bytes_of(exact, len);
        a.outcome = peer_reply_read(&reply, &in, &a.body);
        if (a.outcome == PEER_REPLY_HEAD)
            a.outcome = peer_reply_read(&reply, &in, &a.body);
        size_t left = in.len + (all.len - i - len);
        a.rest = bytes_of(all.data + all.len - left, left);
        free(exact);
    }
    a.status = reply.has_head ? reply.head.status : 0;
    a.closed = peer_reply_closed(&reply);
    peer_reply_deinit(&reply);
    return a;
}

static void test_answers(void **state)
{
    static const struct {
        const char *text;
        int outcome, status;
        const char *body, *rest;
        bool closed;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrueHTTP", 0, 200, "true", "HTTP", true},
        {"HTTP/1.1 204 No Content\r\nX-Etcd-Cluster-Id: 1\r\n\r\nHTTP", 0, 204, "", "HTTP", true},
        {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0, 200, "", "", true},
        {"HTTP/1.1 204\r\nContent-Length: 5\r\n\r\nHTTP", 0, 204, "", "HTTP", true},
        {"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nX", 0, 200, "abc",
         "X", true},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", PEER_REPLY_MORE, 200,
         "abc", "", false},
        {"HTTP/1.1 200 OK\r\n\r\nall of it", PEER_REPLY_MORE, 200, "all of it", "", true},
        {"HTTP/1.0 200 OK\nA: b\n\nall", PEER_REPLY_MORE, 200, "all", "", true},
        {"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 21\r\n\r\nincompatible version\n", 0,
         412, "incompatible version\n", "", true},
        {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n"
         "HTTP/1.1 204 No Content\r\n\r\n",
         0, 204, "", "", true},
        {"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\na", PEER_REPLY_MORE, 500, "a", "", false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n", PEER_REPLY_MORE, 0, "", "", false},
        {"HTTP/2.0 200 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 20 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 2000 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 099 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 -20 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1  200 OK\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
         PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL,
         false},
        {"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", PEER_REPLY_WRONG, 0, "", NULL, false},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz", PEER_REPLY_WRONG, 200, "", NULL,
         false},
        {"\x15\x03\x01\x01\x02\x02\x16\n\n", PEER_REPLY_WRONG, 0, "", NULL, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t n = 1; n < 100; n = 2 * n + 1) {
            struct answer a = answer_read(bytes_str(cases[i].text), n, PEER_REPLY_STREAM);
            bool same = a.outcome == cases[i].outcome && a.status == cases[i].status &&
                        bytes_equal(buf_bytes(&a.body), bytes_str(cases[i].body)) &&
                        a.closed == cases[i].closed &&
                        (!cases[i].rest || bytes_equal(a.rest, bytes_str(cases[i].rest)));
            buf_deinit(&a.body);
            if (!same)
                fail_msg("case %zu in pieces of %zu: outcome %d, status %d", i, n, a.outcome,
                         a.status);
        }
    }
}

static void test_answer_limits(void **state)
{
    static const char *const texts[] = {
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ntrue\r\n0\r\n\r\n",
    };
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct answer a;

    for (size_t i = 0; i < 2; i++) {
        for (uint64_t max = 3; max <= 4; max++) {
            a = answer_read(bytes_str(texts[i]), 7, max);
            assert_int_equal(a.outcome, max == 4 ? 0 : PEER_REPLY_WRONG);
            buf_deinit(&a.body);
        }
    }
    /* An answer that says that it is too long is refused before it comes. */
    a = answer_read(BYTES_LIT("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), 7, 4);
    assert_int_equal(a.outcome, PEER_REPLY_WRONG);
    /* A head without an end. */
    buf_append_str(&b, "HTTP/1.1 200 OK\r\nA: ");
    while (b.len < HTTP_HEAD_BYTES_MAX)
        buf_append_u8(&b, 'x');
    assert_int_equal(answer_read(bytes_of(b.data, b.len - 1), 4096, 0).outcome, PEER_REPLY_MORE);
    assert_int_equal(answer_read(buf_bytes(&b), 4096, 0).outcome, PEER_REPLY_WRONG);
    /* Answers before the answer. */
    for (int n = PEER_REPLY_INTERIM_MAX; n <= PEER_REPLY_INTERIM_MAX + 1; n++) {
        buf_clear(&b);
        for (int i = 0; i < n; i++)
            buf_append_str(&b, "HTTP/1.1 100 Continue\r\n\r\n");
        buf_append_str(&b, "HTTP/1.1 204 No Content\r\n\r\n");
        assert_int_equal(answer_read(buf_bytes(&b), 5, 0).outcome,
                         n == PEER_REPLY_INTERIM_MAX ? 0 : PEER_REPLY_WRONG);
    }
}

static struct http_response head_of(int status, const char *headers)
{
    return (struct http_response){.status = status, .headers = bytes_str(headers)};
}

static void test_answer_checks(void **state)
{
    static const char now[] = "A: b\r\nX-Server-Version: 3.7.1\r\n\r\n",
                      old[] = "X-Server-Version: 2.3.8\r\n\r\n",
                      next[] = "x-server-version: 3.8.0\r\n\r\n",
                      odd[] = "X-Server-Version: 3.7\r\n\r\n", none[] = "\r\n";
    static const struct {
        int status;
        const char *headers;
        int stream, post;
    } cases[] = {
        {200, now, 0, PEER_HEADER_E_REFUSED},
        {200, next, 0, PEER_HEADER_E_REFUSED},
        {200, none, PEER_HEADER_E_VERSION, PEER_HEADER_E_REFUSED},
        {200, old, PEER_HEADER_E_VERSION, PEER_HEADER_E_REFUSED},
        {200, odd, PEER_HEADER_E_VERSION, PEER_HEADER_E_REFUSED},
        {204, now, PEER_HEADER_E_REFUSED, 0},
        {410, now, PEER_HEADER_E_REMOVED, PEER_HEADER_E_REFUSED},
        {410, none, PEER_HEADER_E_VERSION, PEER_HEADER_E_REFUSED},
        {403, now, PEER_HEADER_E_REFUSED, PEER_HEADER_E_REMOVED},
        {404, now, PEER_HEADER_E_REFUSED, PEER_HEADER_E_REFUSED},
        {301, now, PEER_HEADER_E_REFUSED, PEER_HEADER_E_REFUSED},
        {412, now, PEER_HEADER_E_REFUSED, PEER_HEADER_E_REFUSED},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_response head = head_of(cases[i].status, cases[i].headers);
        assert_int_equal(peer_stream_reply_check(&head), cases[i].stream);
        assert_int_equal(peer_post_reply_check(&head), cases[i].post);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),           cmocka_unit_test(test_versions),
        cmocka_unit_test(test_sender),        cmocka_unit_test(test_request_heads),
        cmocka_unit_test(test_tables),        cmocka_unit_test(test_request_texts),
        cmocka_unit_test(test_answers),       cmocka_unit_test(test_answer_limits),
        cmocka_unit_test(test_answer_checks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
