/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What members say to each other in HTTP heads: who they are, of which version, of which cluster;
 * and the dialer's half of HTTP, requests and their answers. The server's half is http_parse.h.
 *
 * Pure functions. Thread: any.
 */
#pragma once

#include "api/http_parse.h"

#define PEER_VERSION "3.7.1"     /* X-Server-Version: the etcd that we stand in for */
#define PEER_VERSION_MIN "3.0.0" /* X-Min-Cluster-Version: etcd's */

/* Outcomes. */
enum {
    /* Too old, or too new for us. etcd answers 412 "incompatible version". */
    PEER_HEADER_E_VERSION = 1,
    PEER_HEADER_E_CLUSTER = 2, /* 412 "cluster ID mismatch" */
    /*
     * A request's version that is none: etcd cuts the connection. Or a text of our own that would
     * break out of its line.
     */
    PEER_HEADER_E_TEXT = 3,
    PEER_HEADER_E_REMOVED = 4, /* the answer: we are no member any more (stream 410, POST 403) */
    PEER_HEADER_E_REFUSED = 5, /* any other answer that is not the wanted one: try the next URL */
};

/* ---- ids: lower-case hexadecimal, without zeros in front ---- */

void peer_id_append(struct buf *out, uint64_t id);
bool peer_id_parse(struct bytes text, uint64_t *ret); /* as Go does: also zeros, upper case */
bool peer_id_is(struct bytes text, uint64_t id); /* the very text that peer_id_append() gives */

/* ---- what a request says of its sender ---- */

/* All bytes lie in the input; empty if the header is not there. */
struct peer_sender {
    uint64_t from;          /* X-Server-From; 0: not there, or not an id */
    struct bytes to;        /* X-Raft-To, as it came: etcd compares texts */
    struct bytes peer_urls; /* X-PeerURLs, separated by commas */
    /* For the log, as they came; a version that is not there is 2.0.0. */
    struct bytes name; /* X-Server-From */
    struct bytes version;
    struct bytes version_min;
    struct bytes cluster;
    bool version_too_low; /* PEER_HEADER_E_VERSION: theirs; false: ours */
};

/*
 * True: the other side, whose head these headers are of, takes a snapshot as the database's own
 * files. Members of etcd never say so.
 */
bool peer_takes_tables(struct bytes headers);
#define PEER_TABLES_HEADER "X-Cairn-Tables" /* its value: the form, 1 */

/*
 * May the sender of a request for /raft, /raft/snapshot or a stream talk to us? headers are those
 * of struct http_head. *ret is set for 0, PEER_HEADER_E_VERSION and PEER_HEADER_E_CLUSTER.
 */
int peer_sender_check(struct bytes headers, uint64_t cluster_id, struct peer_sender *ret);

/* ---- requests ---- */

enum peer_body { PEER_BODY_NONE, PEER_BODY_LENGTH, PEER_BODY_CHUNKED };

struct peer_identity {
    uint64_t member_id;
    uint64_t cluster_id;
    struct bytes peer_urls; /* advertised, separated by commas */
    bool takes_tables;
};

struct peer_request {
    const char *method;
    struct bytes host;                    /* of the peer's URL, with the port */
    struct bytes path;                    /* PEER_STREAM_PATH_... and the sender's id, and so on */
    const struct peer_identity *identity; /* NULL: the path wants no X- headers */
    uint64_t to;                          /* streams: X-Raft-To; 0: none */
    const char *content_type;             /* NULL: none */
    struct bytes authorization;           /* empty: none */
    enum peer_body body;
    uint64_t body_bytes; /* PEER_BODY_LENGTH */
};

#define PEER_STREAM_PATH_MESSAGE "/raft/stream/message/"
#define PEER_STREAM_PATH_MSGAPP "/raft/stream/msgapp/"

/* Appends the head. On PEER_HEADER_E_TEXT out is as it was. */
int peer_request_head(struct buf *out, const struct peer_request *request);

/* ---- answers ---- */

/* Outcomes of peer_reply_read(). */
enum {
    PEER_REPLY_MORE = 1,  /* the bytes are used up */
    PEER_REPLY_HEAD = 2,  /* once: head is there now; go on for the body */
    PEER_REPLY_WRONG = 3, /* not HTTP, or beyond a limit: the connection is to be closed */
};

enum {
    PEER_REPLY_INTERIM_MAX = 5, /* answers of class 1xx before the real one */
    PEER_REPLY_STREAM = 0,      /* body_bytes_max of a body without an end */
};

struct peer_reply {
    struct http_response head; /* its bytes lie in head_bytes */
    struct http_body body;
    struct buf head_bytes;
    size_t scanned;
    uint64_t body_bytes_max;
    unsigned n_interim;
    bool has_head;
};

void peer_reply_init(struct peer_reply *r, uint64_t body_bytes_max);
void peer_reply_deinit(struct peer_reply *r);
/* Takes bytes from *in, appending those of the body to out. 0: the answer is complete. */
int peer_reply_read(struct peer_reply *r, struct bytes *in, struct buf *out);
/* The connection ended: is the answer complete? */
bool peer_reply_closed(const struct peer_reply *r);

/*
 * What an answer means to etcd's dialer: 0, or PEER_HEADER_E_REMOVED, PEER_HEADER_E_REFUSED, and of
 * a stream PEER_HEADER_E_VERSION.
 */
int peer_stream_reply_check(const struct http_response *head);
int peer_post_reply_check(const struct http_response *head);
