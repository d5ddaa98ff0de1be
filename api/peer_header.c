/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads between members (see peer_header.h). etcd's rules, whose strangest are:
 *
 *  - No version at all is 2.0.0. Of a version only major and minor are compared: a member of 3.8
 *    may join, unless its X-Min-Cluster-Version is above ours.
 *  - The text of a version is strictly major.minor.patch, with semver's suffixes. etcd's dialer
 *    panics at any other in a stream's answer; ours refuses the stream.
 *  - The first of several headers of one name counts.
 *
 * Thread: any.
 */
#include "api/peer_header.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"

/* ---- ids ---- */

void peer_id_append(struct buf *out, uint64_t id)
{
    buf_printf(out, "%" PRIx64, id);
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool peer_id_parse(struct bytes text, uint64_t *ret)
{
    uint64_t id = 0;

    for (size_t i = 0; i < text.len; i++) {
        int v = hex_value(text.data[i]);
        if (v < 0 || id > UINT64_MAX >> 4)
            return false;
        id = id << 4 | (unsigned)v;
    }
    if (text.len > 0)
        *ret = id;
    return text.len > 0;
}

bool peer_id_is(struct bytes text, uint64_t id)
{
    char canonical[17];
    int len = snprintf(canonical, sizeof(canonical), "%" PRIx64, id);

    return bytes_equal(text, bytes_of(canonical, (size_t)len));
}

/* ---- versions ---- */

struct version {
    uint64_t major;
    uint64_t minor;
};

static bool number_take(struct bytes *s, uint64_t *ret)
{
    uint64_t v = 0;
    size_t n = 0;

    for (; n < s->len && s->data[n] >= '0' && s->data[n] <= '9'; n++) {
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s->data[n] - '0'), &v))
            return false;
    }
    *s = bytes_of(s->data + n, s->len - n);
    *ret = v;
    return n > 0 && v <= INT64_MAX;
}

static bool char_take(struct bytes *s, char c)
{
    if (s->len == 0 || s->data[0] != (uint8_t)c)
        return false;
    *s = bytes_of(s->data + 1, s->len - 1);
    return true;
}

static bool is_identifier_char(uint8_t c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-';
}

/* Words with dots between them, up to stop; or nothing at all. */
static bool identifiers_take(struct bytes *s, char stop)
{
    size_t n = 0, word = 0;
    bool ok = true;

    for (; n < s->len && s->data[n] != (uint8_t)stop; n++) {
        bool dot = s->data[n] == '.';
        ok &= dot ? word > 0 : is_identifier_char(s->data[n]);
        word = dot ? 0 : word + 1;
    }
    *s = bytes_of(s->data + n, s->len - n);
    return ok && (word > 0 || n == 0);
}

static bool version_parse(struct bytes text, struct version *ret)
{
    struct version v;
    uint64_t patch;

    if (!number_take(&text, &v.major) || !char_take(&text, '.') || !number_take(&text, &v.minor) ||
        !char_take(&text, '.') || !number_take(&text, &patch))
        return false;
    if (char_take(&text, '-') && !identifiers_take(&text, '+'))
        return false;
    if (char_take(&text, '+') && !identifiers_take(&text, '\0'))
        return false;
    *ret = v;
    return text.len == 0;
}

/* What is not said is etcd 2.0. */
static struct bytes version_text(struct bytes headers, const char *name)
{
    struct bytes text;

    return http_header_find(headers, name, &text) && text.len > 0 ? text : BYTES_LIT("2.0.0");
}

static bool version_find(struct bytes headers, const char *name, struct version *ret)
{
    return version_parse(version_text(headers, name), ret);
}

static bool version_below(struct version a, struct version b)
{
    return a.major != b.major ? a.major < b.major : a.minor < b.minor;
}

static struct version version_own(const char *text)
{
    struct version v;
    bool ok = version_parse(bytes_str(text), &v);

    check(ok);
    return v;
}

/* ---- requests that come ---- */

static struct bytes header_text(struct bytes headers, const char *name)
{
    struct bytes value;

    return http_header_find(headers, name, &value) ? value : BYTES_NULL;
}

int peer_sender_check(struct bytes headers, uint64_t cluster_id, struct peer_sender *ret)
{
    struct version server, min;
    struct peer_sender sender = {.to = header_text(headers, "X-Raft-To"),
                                 .peer_urls = header_text(headers, "X-PeerURLs"),
                                 .name = header_text(headers, "X-Server-From"),
                                 .version = version_text(headers, "X-Server-Version"),
                                 .version_min = version_text(headers, "X-Min-Cluster-Version"),
                                 .cluster = header_text(headers, "X-Etcd-Cluster-ID")};

    if (!version_parse(sender.version, &server) || !version_parse(sender.version_min, &min))
        return PEER_HEADER_E_TEXT;
    if (!peer_id_parse(sender.name, &sender.from))
        sender.from = 0;
    sender.version_too_low = version_below(server, version_own(PEER_VERSION_MIN));
    *ret = sender;
    if (sender.version_too_low || version_below(version_own(PEER_VERSION), min))
        return PEER_HEADER_E_VERSION;
    return peer_id_is(sender.cluster, cluster_id) ? 0 : PEER_HEADER_E_CLUSTER;
}

bool peer_takes_tables(struct bytes headers)
{
    return bytes_equal(header_text(headers, PEER_TABLES_HEADER), BYTES_LIT("1"));
}

/* ---- requests that go ---- */

static bool has_control(struct bytes s)
{
    for (size_t i = 0; i < s.len; i++)
        if (s.data[i] < ' ' || s.data[i] == 0x7f)
            return true;
    return false;
}

static bool has_blank(struct bytes s)
{
    return has_control(s) || (s.len > 0 && memchr(s.data, ' ', s.len));
}

static void header_append(struct buf *out, const char *name, struct bytes value)
{
    buf_append_str(out, name);
    buf_append_str(out, ": ");
    buf_append_bytes(out, value);
    buf_append_str(out, "\r\n");
}

static void id_header_append(struct buf *out, const char *name, uint64_t id)
{
    buf_printf(out, "%s: %" PRIx64 "\r\n", name, id);
}

static void identity_append(struct buf *out, const struct peer_identity *identity)
{
    id_header_append(out, "X-Server-From", identity->member_id);
    header_append(out, "X-Server-Version", bytes_str(PEER_VERSION));
    header_append(out, "X-Min-Cluster-Version", bytes_str(PEER_VERSION_MIN));
    id_header_append(out, "X-Etcd-Cluster-ID", identity->cluster_id);
    header_append(out, "X-PeerURLs", identity->peer_urls);
    if (identity->takes_tables)
        header_append(out, PEER_TABLES_HEADER, BYTES_LIT("1"));
}

int peer_request_head(struct buf *out, const struct peer_request *q)
{
    if (q->path.len == 0 || q->path.data[0] != '/' || has_blank(q->path) || q->host.len == 0 ||
        has_blank(q->host) || has_control(q->authorization) ||
        (q->identity && has_control(q->identity->peer_urls)))
        return PEER_HEADER_E_TEXT;
    buf_append_str(out, q->method);
    buf_append_u8(out, ' ');
    buf_append_bytes(out, q->path);
    buf_append_str(out, " HTTP/1.1\r\n");
    header_append(out, "Host", q->host);
    if (q->identity)
        identity_append(out, q->identity);
    if (q->to != 0)
        id_header_append(out, "X-Raft-To", q->to);
    if (q->content_type)
        header_append(out, "Content-Type", bytes_str(q->content_type));
    if (q->authorization.len > 0)
        header_append(out, "Authorization", q->authorization);
    if (q->body == PEER_BODY_LENGTH)
        buf_printf(out, "Content-Length: %" PRIu64 "\r\n", q->body_bytes);
    else if (q->body == PEER_BODY_CHUNKED)
        buf_append_str(out, "Transfer-Encoding: chunked\r\n");
    buf_append_str(out, "\r\n");
    return 0;
}

/* ---- answers ---- */

void peer_reply_init(struct peer_reply *r, uint64_t body_bytes_max)
{
    *r = (struct peer_reply){.body_bytes_max = body_bytes_max};
}

void peer_reply_deinit(struct peer_reply *r)
{
    buf_deinit(&r->head_bytes);
}

static bool over_limit(const struct peer_reply *r, uint64_t body_bytes)
{
    return r->body_bytes_max != PEER_REPLY_STREAM && body_bytes > r->body_bytes_max;
}

/* Of what follows the head nothing is taken. */
static int head_read(struct peer_reply *r, struct bytes *in)
{
    size_t had = r->head_bytes.len, room = HTTP_HEAD_BYTES_MAX - had;
    size_t used = in->len < room ? in->len : room;

    buf_append(&r->head_bytes, in->data, used);
    int outcome = http_response_parse(buf_bytes(&r->head_bytes), &r->scanned, &r->head);
    if (outcome == 0)
        used = r->head.len - had;
    r->head_bytes.len = had + used;
    if (used > 0)
        *in = bytes_of(in->data + used, in->len - used);
    return outcome;
}

static int reply_head(struct peer_reply *r, struct bytes *in)
{
    int outcome = head_read(r, in);

    while (outcome == 0 && r->head.status < 200) {
        if (++r->n_interim > PEER_REPLY_INTERIM_MAX)
            return PEER_REPLY_WRONG;
        buf_clear(&r->head_bytes);
        r->scanned = 0;
        outcome = head_read(r, in);
    }
    if (outcome != 0)
        return outcome == HTTP_MORE ? PEER_REPLY_MORE : PEER_REPLY_WRONG;
    if (over_limit(r, r->head.content_length))
        return PEER_REPLY_WRONG;
    r->has_head = true;
    http_body_init_response(&r->body, &r->head);
    return PEER_REPLY_HEAD;
}

int peer_reply_read(struct peer_reply *r, struct bytes *in, struct buf *out)
{
    struct http_error error;

    if (!r->has_head)
        return reply_head(r, in);
    int outcome = http_body_read(&r->body, in, out, &error);
    if (over_limit(r, r->body.total) || outcome == HTTP_WRONG)
        return PEER_REPLY_WRONG;
    return outcome == 0 ? 0 : PEER_REPLY_MORE;
}

bool peer_reply_closed(const struct peer_reply *r)
{
    return r->has_head && http_body_closed(&r->body);
}

int peer_stream_reply_check(const struct http_response *head)
{
    struct version theirs;

    if (!version_find(head->headers, "X-Server-Version", &theirs) ||
        version_below(theirs, version_own(PEER_VERSION_MIN)))
        return PEER_HEADER_E_VERSION;
    if (head->status == 410)
        return PEER_HEADER_E_REMOVED;
    return head->status == 200 ? 0 : PEER_HEADER_E_REFUSED;
}

int peer_post_reply_check(const struct http_response *head)
{
    if (head->status == 403)
        return PEER_HEADER_E_REMOVED;
    return head->status == 204 ? 0 : PEER_HEADER_E_REFUSED;
}
