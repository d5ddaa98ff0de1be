/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parser of the HTTP side. It sees a head only when it is complete, so it has no states; the
 * body's framing is a machine of one byte at a time around one bulk copy:
 *
 *   SIZE ──LF──> DATA ──all──> DATA_END ──LF──> SIZE          (chunked)
 *     └──0 LF──> TRAILER ──empty line──> DONE
 *   DATA ──all──> DONE                                        (content-length)
 *   DATA ──connection closed──> DONE                          (a response without either)
 *
 * Thread: any.
 */
#include "api/http_parse.h"

#include <strings.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"

enum { BODY_SIZE, BODY_EXTENSION, BODY_DATA, BODY_DATA_END, BODY_TRAILER, BODY_DONE };

static int wrong(struct http_error *ret_error, int status, const char *detail)
{
    *ret_error = (struct http_error){status, detail};
    return HTTP_WRONG;
}

const char *http_status_text(int status)
{
    switch (status) {
    case 100: return "Continue";
    case 200: return "OK";
    case 204: return "No Content";
    case 307: return "Temporary Redirect";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 410: return "Gone";
    case 412: return "Precondition Failed";
    case 413: return "Request Entity Too Large";
    case 417: return "Expectation Failed";
    case 421: return "Misdirected Request";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    }
    check(false);
    return "";
}

void http_date_append(struct buf *out)
{
    time_t now = (time_t)(clock_wall_ns() / 1000000000);
    char text[64];
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(text, sizeof(text), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    buf_append_str(out, text);
}

/* ---- the head ---- */

/*
 * The length of the head with its empty line; lines end with LF, with or without CR. 0: not
 * complete.
 */
static size_t head_end(struct bytes in, size_t *scanned)
{
    for (size_t i = *scanned; i < in.len; i++) {
        if (in.data[i] != '\n')
            continue;
        if (i + 1 < in.len && in.data[i + 1] == '\n')
            return i + 2;
        if (i + 2 < in.len && in.data[i + 1] == '\r' && in.data[i + 2] == '\n')
            return i + 3;
    }
    *scanned = in.len > 2 ? in.len - 2 : 0;
    return 0;
}

static struct bytes line_take(struct bytes *in)
{
    const uint8_t *end = memchr(in->data, '\n', in->len);
    struct bytes line = bytes_of(in->data, (size_t)(end - in->data));

    *in = bytes_of(end + 1, in->len - line.len - 1);
    if (line.len > 0 && line.data[line.len - 1] == '\r')
        line.len--;
    return line;
}

static bool is_token(struct bytes s)
{
    for (size_t i = 0; i < s.len; i++) {
        uint8_t c = s.data[i];
        bool alnum = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        if (!alnum && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c)))
            return false;
    }
    return s.len > 0;
}

static bool has_control(struct bytes s)
{
    for (size_t i = 0; i < s.len; i++) {
        if ((s.data[i] < 0x20 && s.data[i] != '\t') || s.data[i] == 0x7f)
            return true;
    }
    return false;
}

static bool equals_fold(struct bytes s, const char *word)
{
    return s.len == strlen(word) && strncasecmp((const char *)s.data, word, s.len) == 0;
}

static struct bytes trim(struct bytes s)
{
    while (s.len > 0 && (s.data[0] == ' ' || s.data[0] == '\t'))
        s = bytes_of(s.data + 1, s.len - 1);
    while (s.len > 0 && (s.data[s.len - 1] == ' ' || s.data[s.len - 1] == '\t'))
        s.len--;
    return s;
}

/* Path, query and, in the absolute form, host. */
static bool target_split(struct bytes target, struct http_head *h)
{
    static const struct bytes http = BYTES_LIT("http://");
    struct bytes rest = target;

    if (bytes_equal(target, BYTES_LIT("*"))) {
        h->path = target;
        return bytes_equal(h->method, BYTES_LIT("OPTIONS"));
    }
    if (target.len > http.len && strncasecmp((const char *)target.data, "http://", http.len) == 0) {
        rest = bytes_of(target.data + http.len, target.len - http.len);
        size_t n = 0;
        while (n < rest.len && rest.data[n] != '/' && rest.data[n] != '?')
            n++;
        h->host = bytes_of(rest.data, n);
        rest = bytes_of(rest.data + n, rest.len - n);
        if (rest.len == 0)
            rest = BYTES_LIT("/");
    }
    if (rest.len == 0 || rest.data[0] != '/' || has_control(rest))
        return false;
    const uint8_t *question = memchr(rest.data, '?', rest.len);
    h->path = bytes_of(rest.data, question ? (size_t)(question - rest.data) : rest.len);
    if (question)
        h->query = bytes_of(question + 1, rest.len - h->path.len - 1);
    return true;
}

static int request_line_parse(struct bytes line, struct http_head *h, struct http_error *ret_error)
{
    const uint8_t *first = memchr(line.data, ' ', line.len),
                  *last = line.len ? memrchr(line.data, ' ', line.len) : NULL;

    if (!first || first == last)
        return wrong(ret_error, 400, "malformed HTTP request");
    struct bytes version = bytes_of(last + 1, line.len - (size_t)(last + 1 - line.data));
    struct bytes target = bytes_of(first + 1, (size_t)(last - first) - 1);
    h->method = bytes_of(line.data, (size_t)(first - line.data));
    if (!is_token(h->method))
        return wrong(ret_error, 400, "invalid method");
    if (version.len != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.')
        return wrong(ret_error, 400, "malformed HTTP version");
    if (version.data[5] != '1' || version.data[7] < '0' || version.data[7] > '1')
        return wrong(ret_error, 505, "unsupported protocol version");
    h->is_http10 = version.data[7] == '0';
    h->keep_alive = !h->is_http10;
    return target_split(target, h) ? 0 : wrong(ret_error, 400, "");
}

static bool length_parse(struct bytes value, uint64_t *ret)
{
    uint64_t v = 0;

    for (size_t i = 0; i < value.len; i++) {
        if (value.data[i] < '0' || value.data[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(value.data[i] - '0'), &v))
            return false;
    }
    *ret = v;
    return value.len > 0 && v <= INT64_MAX;
}

/* Any element of a comma separated list. */
static bool list_has(struct bytes list, const char *word)
{
    while (list.len > 0) {
        const uint8_t *comma = memchr(list.data, ',', list.len);
        size_t n = comma ? (size_t)(comma - list.data) : list.len;
        if (equals_fold(trim(bytes_of(list.data, n)), word))
            return true;
        n += comma != NULL;
        list = bytes_of(list.data + n, list.len - n);
    }
    return false;
}

/* What the headers met so far say about the body and about what comes behind it. */
struct framing {
    bool has_length, is_chunked, close, keep_alive;
    uint64_t content_length;
};

static int length_header(struct bytes value, struct framing *f, struct http_error *ret_error)
{
    uint64_t length;

    if (!length_parse(value, &length) || (f->has_length && length != f->content_length))
        return wrong(ret_error, 400, "");
    f->content_length = length;
    f->has_length = true;
    return 0;
}

static int framing_apply(struct bytes name, struct bytes value, struct framing *f,
                         struct http_error *ret_error)
{
    if (equals_fold(name, "content-length"))
        return length_header(value, f, ret_error);
    if (equals_fold(name, "transfer-encoding")) {
        if (f->is_chunked || !equals_fold(value, "chunked"))
            return wrong(ret_error, 501, "unsupported transfer encoding");
        f->is_chunked = true;
    } else if (equals_fold(name, "connection")) {
        f->close |= list_has(value, "close");
        f->keep_alive |= list_has(value, "keep-alive");
    }
    return 0;
}

static int framing_check(const struct framing *f, bool is_http10, bool *ret_keep_alive,
                         struct http_error *ret_error)
{
    if (f->is_chunked && (f->has_length || is_http10))
        return wrong(ret_error, 400, "");
    *ret_keep_alive = !f->close && (!is_http10 || f->keep_alive);
    return 0;
}

/* Of a request, besides. */
struct seen {
    struct framing framing;
    bool host;
    struct bytes host_value;
};

static bool host_is_valid(struct bytes host)
{
    for (size_t i = 0; i < host.len; i++) {
        uint8_t c = host.data[i];
        if (c <= ' ' || c >= 0x7f || strchr("\"#/<>?@\\^`{|}", c))
            return false;
    }
    return true;
}

static int header_apply(struct bytes name, struct bytes value, struct http_head *h,
                        struct seen *seen, struct http_error *ret_error)
{
    if (equals_fold(name, "host")) {
        if (seen->host)
            return wrong(ret_error, 400, "too many Host headers");
        if (!host_is_valid(value))
            return wrong(ret_error, 400, "malformed Host header");
        seen->host = true;
        seen->host_value = value;
    } else if (equals_fold(name, "expect")) {
        if (!equals_fold(value, "100-continue"))
            return wrong(ret_error, 417, "");
        h->expect_continue = true;
    } else if (equals_fold(name, "origin")) {
        h->origin = value;
    } else {
        return framing_apply(name, value, &seen->framing, ret_error);
    }
    return 0;
}

static int header_split(struct bytes line, struct bytes *ret_name, struct bytes *ret_value,
                        struct http_error *ret_error)
{
    const uint8_t *colon = memchr(line.data, ':', line.len);

    if (!colon)
        return wrong(ret_error, 400, "malformed MIME header");
    struct bytes name = bytes_of(line.data, (size_t)(colon - line.data));
    struct bytes value = trim(bytes_of(colon + 1, line.len - name.len - 1));
    if (!is_token(name)) /* also a blank in front: a folded line */
        return wrong(ret_error, 400, "invalid header name");
    if (has_control(value))
        return wrong(ret_error, 400, "invalid header value");
    *ret_name = name;
    *ret_value = value;
    return 0;
}

static int headers_check(struct http_head *h, const struct seen *seen, struct http_error *ret_error)
{
    if (!seen->host && !h->is_http10)
        return wrong(ret_error, 400, "missing required Host header");
    if (h->host.len == 0)
        h->host = seen->host_value;
    h->is_chunked = seen->framing.is_chunked;
    h->content_length = seen->framing.content_length;
    return framing_check(&seen->framing, h->is_http10, &h->keep_alive, ret_error);
}

/*
 * The length of the head once it is there. The whole head, the last line of headers included, then
 * lies within the limit.
 */
static int head_find(struct bytes in, size_t *scanned, size_t *ret_len,
                     struct http_error *ret_error)
{
    *ret_len = head_end(in, scanned);
    if (*ret_len == 0)
        return in.len < HTTP_HEAD_BYTES_MAX ? HTTP_MORE : wrong(ret_error, 431, "");
    return *ret_len <= HTTP_HEAD_BYTES_MAX ? 0 : wrong(ret_error, 431, "");
}

/* The next header of a head; *ret_name is empty behind the last. */
static int header_next(struct bytes *rest, int n, struct bytes *ret_name, struct bytes *ret_value,
                       struct http_error *ret_error)
{
    struct bytes line = line_take(rest);

    *ret_name = BYTES_NULL;
    if (line.len == 0)
        return 0;
    return n < HTTP_HEADERS_MAX ? header_split(line, ret_name, ret_value, ret_error)
                                : wrong(ret_error, 431, "");
}

int http_head_parse(struct bytes in, size_t *scanned, struct http_head *ret,
                    struct http_error *ret_error)
{
    struct http_head h = {0};
    struct seen seen = {0};
    struct bytes name = BYTES_NULL, value = BYTES_NULL;
    int r = head_find(in, scanned, &h.len, ret_error);

    if (r != 0)
        return r;
    struct bytes rest = bytes_of(in.data, h.len);
    r = request_line_parse(line_take(&rest), &h, ret_error);
    h.headers = rest;
    for (int n = 0; r == 0; n++) {
        r = header_next(&rest, n, &name, &value, ret_error);
        if (r == 0 && name.len == 0)
            break;
        if (r == 0)
            r = header_apply(name, value, &h, &seen, ret_error);
    }
    if (r == 0)
        r = headers_check(&h, &seen, ret_error);
    if (r == 0)
        *ret = h;
    return r;
}

/* HTTP/1.1 200 OK; the words behind the number are optional and nobody's business. */
static bool status_line_parse(struct bytes line, struct http_response *h, bool *ret_is_http10)
{
    int status = 0;

    if (line.len < 12 || memcmp(line.data, "HTTP/1.", 7) != 0 || line.data[8] != ' ')
        return false;
    if ((line.data[7] != '0' && line.data[7] != '1') || (line.len > 12 && line.data[12] != ' '))
        return false;
    for (size_t i = 9; i < 12; i++) {
        if (line.data[i] < '0' || line.data[i] > '9')
            return false;
        status = status * 10 + line.data[i] - '0';
    }
    h->status = status;
    *ret_is_http10 = line.data[7] == '0';
    return status >= 100;
}

int http_response_parse(struct bytes in, size_t *scanned, struct http_response *ret)
{
    struct http_response h = {0};
    struct framing framing = {0};
    struct bytes name = BYTES_NULL, value = BYTES_NULL;
    struct http_error error;
    bool is_http10;
    int r = head_find(in, scanned, &h.len, &error);

    if (r != 0)
        return r;
    struct bytes rest = bytes_of(in.data, h.len);
    if (!status_line_parse(line_take(&rest), &h, &is_http10))
        return HTTP_WRONG;
    h.headers = rest;
    for (int n = 0; r == 0; n++) {
        r = header_next(&rest, n, &name, &value, &error);
        if (r == 0 && name.len == 0)
            break;
        if (r == 0)
            r = framing_apply(name, value, &framing, &error);
    }
    if (r == 0)
        r = framing_check(&framing, is_http10, &h.keep_alive, &error);
    if (r != 0)
        return r;
    h.is_chunked = framing.is_chunked;
    h.has_length = framing.has_length;
    h.content_length = framing.content_length;
    *ret = h;
    return 0;
}

bool http_header_find(struct bytes headers, const char *name, struct bytes *ret)
{
    struct http_error error;
    struct bytes name_found, value;

    while (headers.len > 0) {
        struct bytes line = line_take(&headers);
        if (line.len == 0 || header_split(line, &name_found, &value, &error) != 0)
            return false;
        if (equals_fold(name_found, name)) {
            *ret = value;
            return true;
        }
    }
    return false;
}

/* ---- the body ---- */

void http_body_init(struct http_body *b, const struct http_head *head)
{
    *b = (struct http_body){.is_chunked = head->is_chunked, .left = head->content_length};
    b->state = head->is_chunked ? BODY_SIZE : head->content_length ? BODY_DATA : BODY_DONE;
}

void http_body_init_response(struct http_body *b, const struct http_response *head)
{
    bool none = head->status < 200 || head->status == 204 || head->status == 304;

    *b = (struct http_body){.left = head->content_length};
    if (none || (head->has_length && head->content_length == 0)) {
        b->state = BODY_DONE;
    } else if (head->is_chunked) {
        b->is_chunked = true;
        b->state = BODY_SIZE;
    } else {
        b->ends_with_connection = !head->has_length;
        b->left = head->has_length ? head->content_length : UINT64_MAX;
        b->state = BODY_DATA;
    }
}

bool http_body_closed(const struct http_body *b)
{
    return b->state == BODY_DONE || b->ends_with_connection;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool size_end(struct http_body *b)
{
    b->state = b->left ? BODY_DATA : BODY_TRAILER;
    b->has_digit = false;
    b->has_trailer = false;
    return true;
}

/* False: the byte is wrong there. */
static bool size_byte(struct http_body *b, uint8_t c)
{
    int v = hex_value(c);

    if (v >= 0 && b->left <= UINT64_MAX >> 8) {
        b->left = b->left << 4 | (unsigned)v;
        b->has_digit = true;
        return true;
    }
    if (!b->has_digit || v >= 0)
        return false;
    if (c == '\n')
        return size_end(b);
    b->state = BODY_EXTENSION;
    return c == ';' || c == '\r' || c == ' ' || c == '\t';
}

static bool trailer_byte(struct http_body *b, uint8_t c)
{
    if (c == '\n' && !b->has_trailer)
        b->state = BODY_DONE;
    else if (c == '\n')
        b->has_trailer = false;
    else if (c != '\r')
        b->has_trailer = true;
    return true;
}

static bool framing_byte(struct http_body *b, uint8_t c)
{
    if (++b->overhead > HTTP_TRAILER_BYTES_MAX + 16 * b->total)
        return false;
    switch (b->state) {
    case BODY_SIZE: return size_byte(b, c);
    case BODY_EXTENSION: return c == '\n' ? size_end(b) : true;
    case BODY_DATA_END:
        if (c == '\n')
            b->state = BODY_SIZE;
        return c == '\n' || c == '\r';
    case BODY_TRAILER: return trailer_byte(b, c);
    }
    return false;
}

static void data_take(struct http_body *b, struct bytes *in, struct buf *out)
{
    size_t n = b->left < in->len ? (size_t)b->left : in->len;

    if (out)
        buf_append(out, in->data, n);
    *in = bytes_of(in->data + n, in->len - n);
    b->left -= n;
    b->total += n;
    if (b->left == 0)
        b->state = b->is_chunked ? BODY_DATA_END : BODY_DONE;
}

int http_body_read(struct http_body *b, struct bytes *in, struct buf *out,
                   struct http_error *ret_error)
{
    while (b->state != BODY_DONE) {
        if (in->len == 0)
            return HTTP_MORE;
        if (b->state == BODY_DATA) {
            data_take(b, in, out);
            continue;
        }
        if (!framing_byte(b, in->data[0]))
            return wrong(ret_error, 400, "");
        *in = bytes_of(in->data + 1, in->len - 1);
    }
    return 0;
}

/* ---- the target ---- */

bool http_unescape(struct bytes in, bool plus_is_blank, struct buf *out)
{
    for (size_t i = 0; i < in.len; i++) {
        uint8_t c = in.data[i];
        if (c == '%') {
            int high = i + 2 < in.len ? hex_value(in.data[i + 1]) : -1,
                low = i + 2 < in.len ? hex_value(in.data[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (uint8_t)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_blank) {
            c = ' ';
        }
        buf_append_u8(out, c);
    }
    return true;
}

void http_path_clean(struct bytes path, struct buf *out)
{
    size_t i = 0, start = out->len;

    while (i < path.len) {
        size_t from = i + 1, n = 0; /* path[i] is '/' */
        while (from + n < path.len && path.data[from + n] != '/')
            n++;
        struct bytes element = bytes_of(path.data + from, n);
        bool last = from + n >= path.len;
        if (bytes_equal(element, BYTES_LIT(".."))) {
            while (out->len > start && out->data[--out->len] != '/')
                continue;
        } else if (n > 0 && !bytes_equal(element, BYTES_LIT("."))) {
            buf_append_u8(out, '/');
            buf_append_bytes(out, element);
        }
        if (last && (n == 0 || out->len == start) &&
            !(out->len > start && out->data[out->len - 1] == '/'))
            buf_append_u8(out, '/');
        i = from + n;
    }
}

bool http_query_next(struct bytes query, size_t *pos, struct buf *key, struct buf *value)
{
    while (*pos < query.len) {
        struct bytes rest = bytes_of(query.data + *pos, query.len - *pos);
        const uint8_t *end = memchr(rest.data, '&', rest.len);
        struct bytes pair = bytes_of(rest.data, end ? (size_t)(end - rest.data) : rest.len);
        *pos += pair.len + 1;
        if (pair.len == 0 || memchr(pair.data, ';', pair.len))
            continue;
        const uint8_t *equals = memchr(pair.data, '=', pair.len);
        size_t key_len = equals ? (size_t)(equals - pair.data) : pair.len,
               skip = key_len + (equals != NULL);
        buf_clear(key);
        buf_clear(value);
        if (!http_unescape(bytes_of(pair.data, key_len), true, key) ||
            !http_unescape(bytes_of(pair.data + skip, pair.len - skip), true, value))
            continue;
        buf_cstr(key);
        buf_cstr(value);
        return true;
    }
    return false;
}
