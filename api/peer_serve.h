/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection that came in on the peer port, as peer_serve.c (bytes and time), peer_route.c (what
 * is answered) and peer_receive.c (snapshots) share it. Thread: the loop.
 */
#pragma once

#include "api/http_parse.h"
#include "api/peer_private.h"
#include "server/request.h"

/*
 *   HEAD ──> BODY ──> WAITING ──> SENDING ──sent──> HEAD
 *    │         └─────────────────────▲  └──last answer──> LINGERING ──> closed
 *    └──> taken over: a stream, a snapshot
 */
enum peer_serve_state {
    PEER_SERVE_HEAD,
    PEER_SERVE_BODY,
    PEER_SERVE_WAITING, /* for the server */
    PEER_SERVE_SENDING,
    PEER_SERVE_LINGERING
};

/* What an endpoint does with a request. */
enum peer_step {
    PEER_STEP_BODY,     /* it wants the body, then finish() */
    PEER_STEP_ANSWERED, /* the answer is in out */
    PEER_STEP_WAIT,     /* the server is asked; peer_serve_resume() comes from any thread */
    PEER_STEP_TAKEN,    /* the connection is somebody else's now */
    PEER_STEP_CUT,      /* closed without an answer */
};

struct peer_serve;

struct peer_endpoint {
    const char *path;
    bool is_prefix;
    const char *method; /* NULL: any */
    bool no_allow;      /* the refusal of another method does not name this one */
    size_t body_bytes_max;
    const char *body_error; /* what is answered to a body that does not come */
    bool says_too_large;    /* to one that is too long: 413 */
    enum peer_step (*head)(struct peer_serve *s);   /* NULL: PEER_STEP_BODY */
    enum peer_step (*finish)(struct peer_serve *s); /* the body is in body_bytes */
    void (*resume)(struct peer_serve *s);           /* answers after PEER_STEP_WAIT */
};

struct peer_serve {
    struct peer *peer;
    struct peer_conn *conn;
    const struct url *url; /* of the listener */
    struct list link;      /* in peer->served, the longest unchanged first */
    struct peer_timer timer;
    enum peer_serve_state state;
    bool answered; /* a request, before the one at hand */
    bool gone;     /* the connection, while the server is asked */

    struct buf in;
    size_t in_used;
    size_t scanned;

    /* The request at hand. */
    struct buf head_bytes; /* head lies in it */
    struct http_head head;
    struct buf path; /* decoded */
    struct http_body body;
    struct buf body_bytes;
    const struct peer_endpoint *endpoint;
    bool keep_alive;
    bool cut; /* after the answer the connection is closed at once */
    size_t dropped_bytes;

    /* What the server is asked. */
    struct peer_task task;
    struct request request;
    struct scan_job job;
    int64_t revision;
    enum outcome outcome;
    struct buf result;
};

/* In peer_route.c. */
enum peer_step peer_route_head(struct peer_serve *s);
enum peer_step peer_route_body_too_long(struct peer_serve *s);
enum peer_step peer_route_body_stalled(struct peer_serve *s);
void peer_route_wrong(struct peer_serve *s, const struct http_error *error);

/* In peer_ask.c. */
#define PEER_PROMOTE_PREFIX "/members/promote/"
enum peer_step peer_ask_hash_head(struct peer_serve *s);
enum peer_step peer_ask_hash_finish(struct peer_serve *s);
void peer_ask_hash_resume(struct peer_serve *s);
enum peer_step peer_ask_downgrade_finish(struct peer_serve *s);
void peer_ask_downgrade_resume(struct peer_serve *s);
enum peer_step peer_ask_promote_finish(struct peer_serve *s);
void peer_ask_promote_resume(struct peer_serve *s);

/* In peer_lease.c. */
enum peer_step peer_lease_renew_finish(struct peer_serve *s);
void peer_lease_renew_resume(struct peer_serve *s);
enum peer_step peer_lease_left_finish(struct peer_serve *s);
void peer_lease_left_resume(struct peer_serve *s);

/* For the endpoints. */
void peer_serve_resume(struct peer_serve *s); /* any thread: the server has answered */
/* The connection without anything around it, for PEER_STEP_TAKEN; rest: bytes behind the head. */
struct peer_conn *peer_serve_take(struct peer_serve *s, struct buf *ret_rest);

/* ---- answers (peer_answer.c) ---- */

struct peer_answer {
    int status;
    const char *content_type;
    const char *allow;
    const char *location;
    bool nosniff;
    bool with_cluster; /* X-Etcd-Cluster-Id */
    bool with_version; /* X-Server-Version */
    bool endless;      /* the body has no end: chunks follow */
    bool close;
    bool no_body; /* of an answer to HEAD */
    bool is_http10;
    struct bytes body;
};

void peer_answer_write(const struct peer *p, struct buf *out, const struct peer_answer *a);
/* As Go's http.Error(). */
struct peer_answer peer_answer_error(int status, const char *text);

/* The answer to the request at hand; the next three are the forms that most have. */
enum peer_step peer_serve_answer(struct peer_serve *s, struct peer_answer a);
enum peer_step peer_serve_error(struct peer_serve *s, int status, const char *text);
enum peer_step peer_serve_cluster_error(struct peer_serve *s, int status, const char *text);
enum peer_step peer_serve_json(struct peer_serve *s, const struct buf *body, bool with_cluster);

/* ---- snapshots that come in (peer_receive.c) ---- */

enum peer_step peer_receive_begin(struct peer_serve *s, const struct peer_sender *sender);
