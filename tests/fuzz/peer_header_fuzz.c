/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of any bytes: the first chooses what they are. Properties: an answer in pieces is the
 * answer as a whole; a request that is written is one request, with the path and the headers that
 * were given; ids are read as they are written.
 */
#include "api/peer_header.h"
#include "base/check.h"
#include "tests/fuzz/fuzz.h"

struct answer {
    struct buf body;
    uint64_t used;
    int status, outcome;
    bool closed;
};

static struct answer answer_read(struct bytes all, size_t piece, uint64_t body_bytes_max)
{
    struct answer a = {.outcome = PEER_REPLY_MORE};
    struct peer_reply reply;

    peer_reply_init(&reply, body_bytes_max);
    for (size_t i = 0, n; i < all.len && a.outcome == PEER_REPLY_MORE; i += n) {
        n = piece < all.len - i ? piece : all.len - i;
        struct bytes in = bytes_of(all.data + i, n);
        a.outcome = peer_reply_read(&reply, &in, &a.body);
        if (a.outcome == PEER_REPLY_HEAD) {
            check(reply.head.status >= 200 && reply.head.status <= 999);
            (void)peer_stream_reply_check(&reply.head);
            (void)peer_post_reply_check(&reply.head);
            a.outcome = peer_reply_read(&reply, &in, &a.body);
        }
        a.used += n - in.len;
    }
    a.status = reply.has_head ? reply.head.status : 0;
    a.closed = peer_reply_closed(&reply);
    peer_reply_deinit(&reply);
    return a;
}

static void check_answer(struct bytes all, size_t piece, uint64_t body_bytes_max)
{
    struct answer whole = answer_read(all, all.len + !all.len, body_bytes_max),
                  pieces = answer_read(all, piece, body_bytes_max);

    check(whole.outcome == pieces.outcome && whole.status == pieces.status);
    if (whole.outcome != PEER_REPLY_WRONG) {
        check(whole.used == pieces.used && whole.closed == pieces.closed);
        check(bytes_equal(buf_bytes(&whole.body), buf_bytes(&pieces.body)));
    }
    buf_deinit(&whole.body);
    buf_deinit(&pieces.body);
}

static void check_sender(struct bytes all)
{
    struct peer_sender sender;
    struct http_head h;
    struct http_error error;
    size_t scanned = 0;

    if (http_head_parse(all, &scanned, &h, &error) != 0)
        return;
    check(h.len <= all.len);
    check(peer_sender_check(h.headers, 0x1767c24805d0a3cc, &sender) <= PEER_HEADER_E_TEXT);
    (void)peer_takes_tables(h.headers);
}

static struct bytes part(struct bytes *rest, size_t share)
{
    struct bytes p = bytes_of(rest->data, rest->len / share);

    *rest = bytes_of(rest->data + p.len, rest->len - p.len);
    return p;
}

static void check_request(struct bytes texts)
{
    struct peer_identity identity = {.member_id = 1, .cluster_id = 2, .takes_tables = true};
    struct peer_request q = {.method = "POST",
                             .identity = &identity,
                             .to = 3,
                             .body = PEER_BODY_LENGTH,
                             .body_bytes = 5};
    _cleanup_(buf_deinit) struct buf out = BUF_NULL, path = BUF_NULL;
    struct http_head h;
    struct http_error error;
    struct bytes value;
    size_t scanned = 0;

    buf_append_u8(&path, '/');
    buf_append_bytes(&path, part(&texts, 4));
    q.path = buf_bytes(&path);
    q.host = part(&texts, 3);
    q.authorization = part(&texts, 2);
    identity.peer_urls = texts;
    if (peer_request_head(&out, &q) != 0)
        return;
    int r = http_head_parse(buf_bytes(&out), &scanned, &h, &error);
    check(r == 0 || r == HTTP_WRONG); /* a host may be no host, but the head is whole */
    if (r != 0)
        return;
    check(h.len == out.len && h.path.len + h.query.len + (h.path.len != path.len) == path.len);
    check(h.content_length == 5 && !h.is_chunked && bytes_equal(h.method, BYTES_LIT("POST")));
    check(http_header_find(h.headers, "X-Raft-To", &value) && peer_id_is(value, 3));
    check(peer_takes_tables(h.headers));
}

static void check_id(struct bytes text)
{
    _cleanup_(buf_deinit) struct buf canonical = BUF_NULL;
    uint64_t id, again;

    if (!peer_id_parse(text, &id))
        return;
    peer_id_append(&canonical, id);
    check(peer_id_parse(buf_bytes(&canonical), &again) && again == id);
    check(peer_id_is(buf_bytes(&canonical), id));
    check(peer_id_is(text, id) == bytes_equal(text, buf_bytes(&canonical)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct bytes rest = bytes_of(data + 2, size - 2);
    switch (data[0] % 4) {
    case 0: check_answer(rest, 1 + data[1] % 32, data[1] < 128 ? PEER_REPLY_STREAM : 100); break;
    case 1: check_sender(rest); break;
    case 2: check_request(rest); break;
    default: check_id(rest);
    }
    return 0;
}
