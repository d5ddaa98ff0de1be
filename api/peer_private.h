/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the transport share: the transport itself, and a link, which is all that goes
 * to and comes from one other member.
 *
 *   link ── writers    the two streams that the other member dials; what we say goes there
 *        ── readers    the two streams that we dial; what it says comes from there
 *        ── pipeline   POST /raft, while there is no stream
 *        ── probe      GET /raft/probing
 *
 * A link whose member the table does not have yet is a "remote", in etcd's word: it has a pipeline
 * and nothing else, and lets a new member answer before it knows who is there.
 *
 * Thread: the loop, but for what says otherwise.
 */
#pragma once

#include "api/peer.h"
#include "api/peer_call.h"
#include "api/peer_metrics.h"
#include "api/peer_refusal.h"
#include "api/peer_stream.h"
#include "base/map.h"
#include "server/peer_door.h"
#include "server/transport.h"

enum {
    PEER_LINKS_MAX = 256,
    PEER_REMOTES_MAX = 16,
    PEER_STREAMS = 2,                  /* kinds of streams: message and msgapp */
    PEER_QUEUE_BYTES_MAX = 64 << 20,   /* that wait for a stream's socket, or a message more */
    PEER_DIRECT_BYTES_MAX = 256 << 10, /* that raft's thread writes to a socket itself in one go */
    PEER_POSTS_MAX = 64,               /* messages that wait for the pipeline */
    PEER_POSTS_AT_ONCE = 4,
    PEER_SERVED_MAX = 1024,            /* connections that came in */
    PEER_BODIES_BYTES_MAX = 256 << 20, /* of requests, in memory */
    PEER_SENDS_MAX = 16,               /* snapshots on their way out, */
    PEER_RECEIVES_MAX = 4,             /* and in */
    PEER_FETCHES_MAX = 4096, /* about: threads that come at the same time may each add one */
};

/* All in milliseconds; etcd's values, which tests make shorter. */
struct peer_timing {
    uint64_t heartbeat; /* between two link heartbeats on a stream */
    uint64_t silence;   /* after which a stream is given up, either way */
    uint64_t redial;    /* between two attempts for one stream */
    uint64_t probe;
    uint64_t post;    /* for the answer to a POST /raft */
    uint64_t request; /* served connections: for the first byte and between a request's bytes, */
    uint64_t idle;    /* and between requests */
    uint64_t snapshot_answer; /* after the last byte of a snapshot */
};
extern const struct peer_timing peer_timing_default;

/* ---- the streams that we write (peer_writer.c) ---- */

struct peer_writer {
    struct peer_link *link;
    enum peer_stream_kind kind;
    pthread_mutex_t lock;
    /* Under the lock. */
    struct peer_conn *conn; /* NULL: no stream */
    struct peer_stream_writer codec;
    size_t chunk;         /* of the batch at hand */
    uint64_t progress_ms; /* when last nothing waited or something went out */
    int error;            /* a write failed; the loop has yet to clean up */
    /* The loop's. */
    struct peer_timer heartbeat;
};

void peer_writer_init(struct peer_writer *w, struct peer_link *link, enum peer_stream_kind kind);
void peer_writer_deinit(struct peer_writer *w); /* closes the stream */
/* Takes a connection that has the answer's head in out; one that was there before is closed. */
void peer_writer_attach(struct peer_writer *w, struct peer_conn *conn);

/*
 * A batch, from raft's thread: begin, add the messages, end. False: there is no stream now. The
 * lock is held in between.
 */
bool peer_writer_begin(struct peer_writer *w);
enum { PEER_WRITER_E_FULL = 16 }; /* beside PEER_MESSAGE_E_UNSAFE: dropped */
int peer_writer_add(struct peer_writer *w, const struct raft_message *m);
void peer_writer_end(struct peer_writer *w);

/* ---- the streams that we read (peer_reader.c) ---- */

struct peer_reader {
    struct peer_link *link;
    enum peer_stream_kind kind;
    struct peer_call call;
    struct peer_stream_reader codec;
    bool streaming;
    struct peer_timer redial;
    uint64_t dialled_ms;
    char *dialled; /* the URL's text */
    char why[PEER_ERROR_BYTES_MAX];
};

void peer_reader_init(struct peer_reader *r, struct peer_link *link, enum peer_stream_kind kind);
void peer_reader_start(struct peer_reader *r);
void peer_reader_deinit(struct peer_reader *r);

/* ---- the pipeline (peer_pipeline.c) ---- */

struct peer_post {
    struct inbox_item item;
    enum raft_message_type type;
    struct buf body;
};

struct peer_poster {
    struct peer_pipeline *pipeline;
    struct peer_call call;
    struct peer_post *post; /* NULL: idle */
    char *url;
};

struct peer_pipeline {
    struct peer_link *link;
    struct inbox inbox;
    struct peer_task task;
    atomic_uint queued;       /* in the inbox and in the queue */
    struct inbox_item *first; /* the queue, the loop's */
    struct inbox_item **last;
    struct peer_poster posters[PEER_POSTS_AT_ONCE];
    bool stopped;
};

void peer_pipeline_init(struct peer_pipeline *p, struct peer_link *link);
void peer_pipeline_stop(struct peer_pipeline *p);
void peer_pipeline_deinit(struct peer_pipeline *p); /* after what was posted to the loop has run */
/* From raft's thread. 0, PEER_WRITER_E_FULL or PEER_MESSAGE_E_UNSAFE: dropped. */
int peer_pipeline_send(struct peer_pipeline *p, const struct raft_message *m);

/* ---- probes (peer_probe.c) ---- */

struct peer_probe {
    struct peer_link *link;
    struct peer_call call;
    struct peer_timer next;
    struct peer_timer report;
    uint64_t sent_ns;
    uint64_t round_trip_ns; /* smoothed; 0: none yet */
    int64_t clock_ahead_ns; /* ours before theirs */
    bool healthy;
    char *url;
    char why[PEER_ERROR_BYTES_MAX];
};

void peer_probe_init(struct peer_probe *p, struct peer_link *link);
void peer_probe_start(struct peer_probe *p);
void peer_probe_deinit(struct peer_probe *p);

/* ---- a link (peer_link.c) ---- */

struct peer_link {
    struct peer *peer;
    uint64_t id;
    bool is_member;       /* false: a remote; changed under the links' lock */
    struct url_list urls; /* never empty */
    size_t picked;
    struct peer_metrics *metrics;
    _Atomic uint64_t active_since_ms;         /* 0: inactive; read from any thread */
    atomic_bool takes_tables;                 /* likewise */
    struct peer_writer writers[PEER_STREAMS]; /* by enum peer_stream_kind */
    struct peer_reader readers[PEER_STREAMS];
    struct peer_pipeline pipeline;
    struct peer_probe probe;
    struct peer_task free_task;
    uint64_t logged_ms; /* of what can come often, once a second */
    uint64_t heard;     /* a remote's last request, in the order of all of them */
    bool seen;          /* while the table is read */
};

/* urls: taken. */
struct peer_link *peer_link_new(struct peer *p, uint64_t id, struct url_list *urls);
void peer_link_start(struct peer_link *link);                         /* a member's: dials it */
void peer_link_update(struct peer_link *link, struct url_list *urls); /* takes them */
/* Ends all that goes on; nobody else knows it any more. Frees it later, on the loop. */
void peer_link_remove(struct peer_link *link);

const struct url *peer_link_url(const struct peer_link *link);
/* That URL did not work: the next one's turn, unless it has come already. */
void peer_link_url_failed(struct peer_link *link, const char *text);

void peer_link_activate(struct peer_link *link);
struct peer_failure {
    const char *source; /* etcd's words: "stream Message", "pipeline" */
    const char *action;
    const char *error;
};
void peer_link_deactivate(struct peer_link *link, struct peer_failure failure);
/* True once a second: for lines that could come with each message. */
bool peer_link_may_log(struct peer_link *link);

const char *peer_stream_name(enum peer_stream_kind kind); /* "stream Message" */

/* ---- the transport (peer.c) ---- */

struct peer_listener;

struct peer {
    struct transport transport;
    const struct config *config;
    struct server *server; /* from peer_start() on */
    struct peer_timing timing;
    struct peer_loop loop;
    struct peer_pool pool;
    struct peer_identity identity; /* from peer_start() on; it does not change then */
    struct buf own_urls;
    int stop_fd; /* an eventfd that becomes readable, for the threads that move snapshots */
    atomic_bool stopped;

    /* The loop changes the links under the write lock; other threads look them up under the read
     * lock. The loop itself needs none to look. */
    pthread_rwlock_t links_lock;
    struct map_u64 links;
    size_t n_remotes;
    uint64_t n_heard; /* requests of remotes */
    struct peer_refusals refusals;

    struct peer_task start_task;
    bool started; /* the loop's */
    struct peer_task members_task;
    struct peer_task stop_task;
    bool stopping; /* the loop's: nothing new is begun */

    struct list served; /* connections that came in, the longest idle first */
    size_t n_served;
    size_t bodies_bytes;
    struct peer_listener *listeners;
    size_t n_listeners;

    struct list fetches; /* the loop's */
    atomic_size_t n_fetches;
    struct list sends; /* snapshots; the loop's */
    atomic_size_t n_sends;
    struct list receives;
    size_t n_receives;
};

struct peer_link *peer_link_find(const struct peer *p, uint64_t id); /* on the loop; NULL: none */
/* Reads "http://a:1,http://b:2"; false: no usable URL. What is none is passed over, with a line in
 * the log. */
bool peer_urls_read(char *const *texts, size_t n, struct url_list *ret);
/* A sender that the member table does not know: keeps its URLs, so that it can be answered. */
void peer_remote_add(struct peer *p, uint64_t id, struct bytes urls);
/* A message that came, from the stream or the pipeline of link (NULL: unknown). */
enum peer_verdict peer_deliver(struct peer *p, struct peer_link *link,
                               const struct peer_message *m);
/* Another member says that we are none any more. */
void peer_removed(struct peer *p);
uint64_t peer_dial_ms(const struct peer *p);

/* ---- what comes in (peer_serve.c) ---- */

int peer_listen_open(struct peer *p); /* the root's thread; as peer_start() */
void peer_listen_start(struct peer *p);
void peer_listen_close(struct peer *p); /* the root's thread, after the loop has ended */
void peer_serve_stop(struct peer *p);   /* no connection comes any more, those there are close */
bool peer_serve_idle(const struct peer *p); /* no connection is left */
/* The loop: something that kept it from ending is over. */
void peer_stop_go_on(struct peer *p);

/* ---- requests of the server (peer_fetch.c) and snapshots out (peer_send.c) ---- */

void peer_fetch(struct transport *t, struct transport_fetch *f);
void peer_fetch_stop(struct peer *p);
void peer_send_snapshot(struct transport *t, struct transport_snapshot *s);
/* Asks the threads to end; the transfers leave the lists when they have. */
void peer_snapshots_stop(struct peer *p);
