/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTP/1.x: heads of requests and of responses, the body's framing, the target. Strict where two
 * readings of the same bytes would be a danger (both framings, odd lengths, blanks before a colon,
 * folded lines), Go's rules and texts elsewhere.
 *
 * Outcomes: HTTP_MORE, the bytes end too early; HTTP_WRONG, *ret_error says what to answer, and the
 * connection is then to be closed. Thread: any; no state but the structs.
 */
#pragma once

#include "base/bytes.h"

enum { HTTP_MORE = 1, HTTP_WRONG = 2 };

enum {
    HTTP_HEAD_BYTES_MAX = 64 * 1024,
    HTTP_HEADERS_MAX = 100,
    HTTP_TRAILER_BYTES_MAX = 8 * 1024, /* and extensions of a chunk's size */
};

struct http_error {
    int status;
    const char *detail; /* behind the status text; "" if none */
};

/* All bytes lie in the input. */
struct http_head {
    struct bytes method;
    struct bytes path; /* not decoded, begins with '/' (or is "*") */
    struct bytes query;
    struct bytes host; /* with any port; the target's if it has one */
    struct bytes origin;
    bool is_http10;
    bool keep_alive;
    bool expect_continue;
    bool is_chunked;
    uint64_t content_length;
    struct bytes headers; /* the lines as they came, for http_header_find() */
    size_t len;           /* of the head, with the empty line */
};

/*
 * *scanned (0 at first) remembers how far the end of the head was looked for, so that a head that
 * comes byte by byte costs no more than one that comes at once.
 */
int http_head_parse(struct bytes in, size_t *scanned, struct http_head *ret,
                    struct http_error *ret_error);

/* All bytes lie in the input. */
struct http_response {
    int status; /* 100 to 999 */
    bool keep_alive;
    bool is_chunked;
    bool has_length; /* neither: the body ends with the connection */
    uint64_t content_length;
    struct bytes headers;
    size_t len;
};

/* As http_head_parse(); what is wrong with it nobody needs to be told. */
int http_response_parse(struct bytes in, size_t *scanned, struct http_response *ret);

/*
 * The value of the first header of that name, without the blanks around it, of a head that was
 * parsed. False: there is none.
 */
bool http_header_find(struct bytes headers, const char *name, struct bytes *ret);

/* Reads over a body. */
struct http_body {
    uint64_t left;   /* of the body or of the chunk */
    uint64_t total;  /* body bytes seen */
    size_t overhead; /* bytes of size lines and trailers */
    uint8_t state;
    bool is_chunked;
    bool has_digit;
    bool has_trailer; /* the trailer line at hand is not empty */
    bool ends_with_connection;
};

void http_body_init(struct http_body *b, const struct http_head *head);
void http_body_init_response(struct http_body *b, const struct http_response *head);
/*
 * Takes bytes from *in, appending the body's to out (NULL: they are dropped). 0: the body is
 * complete.
 */
int http_body_read(struct http_body *b, struct bytes *in, struct buf *out,
                   struct http_error *ret_error);
/* The connection ended: is the body complete? */
bool http_body_closed(const struct http_body *b);

/* Percent-decoding. False: an escape is broken; out then has garbage at its end. */
bool http_unescape(struct bytes in, bool plus_is_blank, struct buf *out);
/* What Go's ServeMux would redirect to: no empty, "." or ".." elements. */
void http_path_clean(struct bytes path, struct buf *out);

/*
 * Iterates over a query's pairs as url.ParseQuery: pairs with a semicolon or a broken escape are
 * passed over. *pos is 0 at first. The texts are NUL-terminated behind their length.
 */
bool http_query_next(struct bytes query, size_t *pos, struct buf *key, struct buf *value);

const char *http_status_text(int status);
/* Appends the line of the time now. */
void http_date_append(struct buf *out);
