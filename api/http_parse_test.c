/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads and bodies of HTTP requests and responses: what is taken, what is refused and with which
 * words, and that pieces make no difference.
 */
#include "api/http_parse.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"

static const char host[] = "Host: a\r\n";

static void test_good_heads(void **state)
{
    static const struct {
        const char *text, *method, *path, *query, *host;
        bool keep_alive, chunked;
        uint64_t length;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", "", "a", true, false, 0},
        {"GET /a?b=c?d HTTP/1.1\nHost: a:1\n\n", "GET", "/a", "b=c?d", "a:1", true, false, 0},
        {"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", "", false, false, 0},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET", "/", "", "", true, false, 0},
        {"GET / HTTP/1.1\r\nhost:\ta \r\nConnection: upgrade, close\r\n\r\n", "GET", "/", "", "a",
         false, false, 0},
        {"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5\r\n\r\n", "POST",
         "/x", "", "a", true, false, 5},
        {"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", "POST", "/x", "", "a",
         true, true, 0},
        {"GET http://b:2/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/x", "y", "b:2", true, false, 0},
        {"GET HTTP://b HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/", "", "b", true, false, 0},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "*", "", "a", true, false, 0},
        {"FOO-1 / HTTP/1.1\r\nHost: \r\n\r\n", "FOO-1", "/", "", "", true, false, 0},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_head h;
        struct http_error error;
        size_t scanned = 0, len = strlen(cases[i].text);
        /* Every shorter piece asks for more, and remembering where the scan was changes nothing. */
        for (size_t n = 0; n < len; n++)
            assert_int_equal(http_head_parse(bytes_of(cases[i].text, n), &scanned, &h, &error),
                             HTTP_MORE);
        assert_int_equal(http_head_parse(bytes_of(cases[i].text, len), &scanned, &h, &error), 0);
        assert_true(bytes_equal(h.method, bytes_str(cases[i].method)));
        assert_true(bytes_equal(h.path, bytes_str(cases[i].path)));
        assert_true(bytes_equal(h.query, bytes_str(cases[i].query)));
        assert_true(bytes_equal(h.host, bytes_str(cases[i].host)));
        assert_int_equal(h.keep_alive, cases[i].keep_alive);
        assert_int_equal(h.is_chunked, cases[i].chunked);
        assert_int_equal(h.content_length, cases[i].length);
        assert_int_equal(h.len, len);
    }
}

static void expect_wrong(const char *text, size_t len, int status, const char *detail)
{
    struct http_head h;
    struct http_error error = {0, ""};
    size_t scanned = 0;
    int r = http_head_parse(bytes_of(text, len), &scanned, &h, &error);

    if (r != HTTP_WRONG || error.status != status || strcmp(error.detail, detail) != 0)
        fail_msg("%.*s: outcome %d, %d '%s' instead of %d '%s'", (int)(len < 200 ? len : 200), text,
                 r, error.status, error.detail, status, detail);
}

static void test_bad_heads(void **state)
{
    static const struct {
        const char *line;
        const char *headers;
        int status;
        const char *detail;
    } cases[] = {
        {"GET /", "", 400, "malformed HTTP request"},
        {"GET", "", 400, "malformed HTTP request"},
        {"", "", 400, "malformed HTTP request"},
        {"G@T / HTTP/1.1", "", 400, "invalid method"},
        {" / HTTP/1.1", "", 400, "invalid method"},
        {"GET / HTTP/1.12", "", 400, "malformed HTTP version"},
        {"GET / HTPT/1.1", "", 400, "malformed HTTP version"},
        {"GET / HTTP/2.0", "", 505, "unsupported protocol version"},
        {"GET / HTTP/1.2", "", 505, "unsupported protocol version"},
        {"GET x HTTP/1.1", "", 400, ""},
        {"GET * HTTP/1.1", "", 400, ""},
        {"GET https://a/ HTTP/1.1", "", 400, ""},
        {"GET /\x01 HTTP/1.1", "", 400, ""},
        {"GET / HTTP/1.1", "Host: b\r\n", 400, "too many Host headers"},
        {"GET / HTTP/1.1", "Foo : b\r\n", 400, "invalid header name"},
        {"GET / HTTP/1.1", " folded\r\n", 400, "malformed MIME header"},
        {"GET / HTTP/1.1", "A: b\r\n folded: c\r\n", 400, "invalid header name"},
        {"GET / HTTP/1.1", ": b\r\n", 400, "invalid header name"},
        {"GET / HTTP/1.1", "A: b\x01\r\n", 400, "invalid header value"},
        {"GET / HTTP/1.1", "A: b\rc\r\n", 400, "invalid header value"},
        {"POST / HTTP/1.1", "Content-Length: 5\r\nContent-Length: 6\r\n", 400, ""},
        {"POST / HTTP/1.1", "Content-Length: +5\r\n", 400, ""},
        {"POST / HTTP/1.1", "Content-Length: \r\n", 400, ""},
        {"POST / HTTP/1.1", "Content-Length: 5, 5\r\n", 400, ""},
        {"POST / HTTP/1.1", "Content-Length: 99999999999999999999\r\n", 400, ""},
        {"POST / HTTP/1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, ""},
        {"POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n", 400, ""},
        {"POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked\r\n", 501,
         "unsupported transfer encoding"},
        {"POST / HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501,
         "unsupported transfer encoding"},
        {"GET / HTTP/1.1", "Expect: 200-ok\r\n", 417, ""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        _cleanup_(mem_freep) char *text =
            mem_printf("%s\r\n%s%s\r\n", cases[i].line, host, cases[i].headers);
        expect_wrong(text, strlen(text), cases[i].status, cases[i].detail);
    }
    expect_wrong("GET / HTTP/1.1\r\n\r\n", 18, 400, "missing required Host header");
    expect_wrong("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 29, 400, "malformed Host header");
}

static void test_head_limits(void **state)
{
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct http_head h;
    struct http_error error;
    size_t scanned = 0;

    buf_append_str(&b, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    while (b.len < HTTP_HEAD_BYTES_MAX - 4)
        buf_append_u8(&b, 'x');
    assert_int_equal(http_head_parse(buf_bytes(&b), &scanned, &h, &error), HTTP_MORE);
    buf_append_str(&b, "\r\n\r\n");
    assert_int_equal(b.len, HTTP_HEAD_BYTES_MAX);
    assert_int_equal(http_head_parse(buf_bytes(&b), &scanned, &h, &error), 0);
    b.len -= 4;
    buf_append_str(&b, "xxxx");
    expect_wrong((const char *)b.data, b.len, 431, "");
    buf_append_str(&b, "\r\n\r\n");
    expect_wrong((const char *)b.data, b.len, 431, "");
    buf_clear(&b);
    buf_append_str(&b, "GET / HTTP/1.1\r\nHost: a\r\n");
    for (int i = 0; i < HTTP_HEADERS_MAX; i++)
        buf_append_str(&b, "A: b\r\n");
    buf_append_str(&b, "\r\n");
    expect_wrong((const char *)b.data, b.len, 431, "");
}

static void test_header_find(void **state)
{
    struct http_head h;
    struct http_error error;
    struct bytes value = BYTES_NULL, text = BYTES_LIT("GET / HTTP/1.1\r\nHost: a\r\nX-a:\t b \r\n"
                                                      "x-A: c\nEmpty:\r\n\r\nX-B: d\r\n");
    size_t scanned = 0;

    assert_int_equal(http_head_parse(text, &scanned, &h, &error), 0);
    assert_true(http_header_find(h.headers, "X-A", &value)); /* the first of two */
    assert_true(bytes_equal(value, BYTES_LIT("b")));
    assert_true(http_header_find(h.headers, "empty", &value));
    assert_int_equal(value.len, 0);
    assert_false(http_header_find(h.headers, "X-", &value));
    assert_false(http_header_find(h.headers, "X-B", &value)); /* the body's */
}

static void test_responses(void **state)
{
    static const struct {
        const char *text;
        int status;
        bool keep_alive, chunked, has_length, ends_with_connection;
    } cases[] = {
        {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, true, false, true, false},
        {"HTTP/1.1 200\nConnection: close\n\n", 200, false, false, false, true},
        {"HTTP/1.1 204 No Content\r\n\r\n", 204, true, false, false, false},
        {"HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", 304, true, false, true, false},
        {"HTTP/1.0 500 a b c\r\n\r\n", 500, false, false, false, true},
        {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, true, true, false, false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct http_response h;
        struct http_body b;
        size_t scanned = 0, len = strlen(cases[i].text);
        for (size_t n = 0; n < len; n++)
            assert_int_equal(http_response_parse(bytes_of(cases[i].text, n), &scanned, &h),
                             HTTP_MORE);
        assert_int_equal(http_response_parse(bytes_of(cases[i].text, len), &scanned, &h), 0);
        assert_int_equal(h.status, cases[i].status);
        assert_int_equal(h.keep_alive, cases[i].keep_alive);
        assert_int_equal(h.is_chunked, cases[i].chunked);
        assert_int_equal(h.has_length, cases[i].has_length);
        assert_int_equal(h.len, len);
        http_body_init_response(&b, &h);
        assert_int_equal(b.ends_with_connection, cases[i].ends_with_connection);
        assert_int_equal(http_body_closed(&b),
                         cases[i].ends_with_connection || h.status == 204 || h.status == 304);
    }
}

/* Reads a body in pieces of n bytes; returns the outcome, *ret_rest what is behind it. */
static int body_read(const char *text, const struct http_head *head, size_t n, struct buf *out,
                     struct bytes *ret_rest)
{
    struct bytes all = bytes_str(text);
    struct http_error error;
    struct http_body b;

    http_body_init(&b, head);
    for (size_t i = 0; i < all.len; i += n) {
        struct bytes piece = bytes_of(all.data + i, all.len - i < n ? all.len - i : n);
        int r = http_body_read(&b, &piece, out, &error);
        *ret_rest = bytes_of(piece.data, (size_t)(all.data + all.len - piece.data));
        if (r != HTTP_MORE)
            return r;
    }
    return HTTP_MORE;
}

static void test_bodies(void **state)
{
    static const struct {
        const char *text;
        const char *body;
        const char *rest;
        int outcome;
    } cases[] = {
        {"3\r\nabc\r\n0\r\n\r\nGET", "abc", "GET", 0},
        {"3;x=y\nabc\n0\n\nGET", "abc", "GET", 0},
        {"a\r\n0123456789\r\n1\r\nx\r\n0\r\nTrailer: a\r\nB: c\r\n\r\nG", "0123456789x", "G", 0},
        {"0\r\n\r\n", "", "", 0},
        {"3\r\nab", "ab", NULL, HTTP_MORE},
        {"3\r\nabcX", "abc", NULL, HTTP_WRONG},
        {"\r\nabc", "", NULL, HTTP_WRONG},
        {"x\r\n", "", NULL, HTTP_WRONG},
        {"-1\r\n", "", NULL, HTTP_WRONG},
        {"3x\r\n", "", NULL, HTTP_WRONG},
        {"fffffffffffffffff\r\n", "", NULL, HTTP_WRONG},
    };
    static const struct http_head chunked = {.is_chunked = true}, five = {.content_length = 5};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t n = 1; n < 8; n++) {
            _cleanup_(buf_deinit) struct buf out = BUF_NULL;
            struct bytes rest = BYTES_NULL;
            assert_int_equal(body_read(cases[i].text, &chunked, n, &out, &rest), cases[i].outcome);
            assert_true(bytes_equal(buf_bytes(&out), bytes_str(cases[i].body)));
            if (cases[i].rest)
                assert_true(bytes_equal(rest, bytes_str(cases[i].rest)));
        }
    }
    _cleanup_(buf_deinit) struct buf out = BUF_NULL;
    struct bytes rest;
    assert_int_equal(body_read("abcdeGET", &five, 3, &out, &rest), 0);
    assert_true(bytes_equal(rest, bytes_str("GET")));
}

/* A client may not keep us busy with framing alone. */
static void test_body_overhead_is_bounded(void **state)
{
    static const struct http_head chunked = {.is_chunked = true};
    _cleanup_(buf_deinit) struct buf b = BUF_NULL;
    struct http_error error;
    struct http_body body;

    buf_append_str(&b, "0\r\n");
    for (int i = 0; i < HTTP_TRAILER_BYTES_MAX; i++)
        buf_append_u8(&b, 'x');
    http_body_init(&body, &chunked);
    struct bytes in = buf_bytes(&b);
    assert_int_equal(http_body_read(&body, &in, NULL, &error), HTTP_WRONG);
}

static void test_targets(void **state)
{
    static const struct {
        const char *path;
        const char *clean;
    } cases[] = {
        {"/", "/"},          {"//", "/"},        {"/a", "/a"},      {"/a/", "/a/"},
        {"/a//b", "/a/b"},   {"/a/./b", "/a/b"}, {"/a/../b", "/b"}, {"/../../b/", "/b/"},
        {"/a/..", "/"},      {"/a/b/..", "/a"},  {"/a/.", "/a"},    {"/.a/..b", "/.a/..b"},
        {"/a/b/../", "/a/"},
    };
    _cleanup_(buf_deinit) struct buf out = BUF_NULL, key = BUF_NULL, value = BUF_NULL;
    size_t pos = 0;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        buf_clear(&out);
        http_path_clean(bytes_str(cases[i].path), &out);
        assert_string_equal(buf_cstr(&out), cases[i].clean);
    }
    struct bytes query = bytes_str("a=1&b&&c;d=2&e=%zz&f=%41+g&=h");
    static const char *const pairs[] = {"a", "1", "b", "", "f", "A g", "", "h"};
    for (size_t i = 0; i < 8; i += 2) {
        assert_true(http_query_next(query, &pos, &key, &value));
        assert_string_equal(buf_cstr(&key), pairs[i]);
        assert_string_equal(buf_cstr(&value), pairs[i + 1]);
    }
    assert_false(http_query_next(query, &pos, &key, &value));
    buf_clear(&out);
    assert_true(http_unescape(bytes_str("a%2Fb+c"), false, &out));
    assert_string_equal(buf_cstr(&out), "a/b+c");
    assert_false(http_unescape(bytes_str("a%2"), false, &out));
}

/*
 * Bytes from a seed, mostly of the kinds that matter: no reading past the end (the sanitizers
 * look), no outcome but the documented.
 */
static void test_random_bytes(void **state)
{
    static const char alphabet[] =
        "GET /HTP1.\r\n\r\n: ;,%0a5Content-Length:Transfer-Encoding: chunkedHost: a\x01\xff";
    uint64_t seed = 20261124, x = seed;

    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 20000; round++) {
        char text[96];
        size_t len = 0;
        if (round % 2)
            len = (size_t)snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\n");
        while (len < sizeof(text)) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            text[len++] = alphabet[(x >> 33) % (sizeof(alphabet) - 1)];
        }
        char *exact = malloc(len);
        assert_non_null(exact);
        memcpy(exact, text, len);
        struct http_head h;
        struct http_error error;
        struct http_body body;
        size_t scanned = 0;
        int r = http_head_parse(bytes_of(exact, len), &scanned, &h, &error);
        assert_in_range(r, 0, HTTP_WRONG);
        struct http_head chunked = {.is_chunked = true};
        http_body_init(&body, &chunked);
        struct bytes in = bytes_of(exact, len);
        assert_in_range(http_body_read(&body, &in, NULL, &error), 0, HTTP_WRONG);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_heads),
        cmocka_unit_test(test_bad_heads),
        cmocka_unit_test(test_head_limits),
        cmocka_unit_test(test_header_find),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_body_overhead_is_bounded),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_random_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
