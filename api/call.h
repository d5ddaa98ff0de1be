/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a call:
 *
 *   arrives ─> decoded, checked ─> handler ─┬─> call_answer() ──────────────> answered, reused
 *                                           ├─> call_submit(): to the raft log, finish()
 *                                           └─> call_read(): [read index], local state
 *
 * finish() and scan threads bring the call back to its queue's thread, which answers it.
 *
 * A server stream goes on with call_send_message(), a bidirectional one as stream.h says; they end
 * with call_answer() like all others. Every call is answered exactly once.
 *
 * Thread: everything on the thread of the call's queue, except where it says otherwise. Between
 * call_submit() (or a job on the scan pool) and its resumption nothing but call_interrupt() and
 * call_watch() touches the call, and call_wake() may come at any time.
 */
#pragma once

#include <grpc/grpc.h>

#include "api/queue.h"
#include "api/status.h"
#include "api/table.h"
#include "base/arena.h"
#include "server/server.h"

enum {
    CALL_KEEP_BYTES_MAX = 8192,      /* a call object that needed more memory gives it back */
    CALL_RESPONSE_COPY_MAX = 1024,   /* longer responses are handed to gRPC without copying */
    CALL_UNSENT_BYTES_MAX = 1 << 30, /* with more that clients have not read, none is added */
    CALL_TEXT_BYTES_MAX = 160,
    CALL_FD_UNASKED = -2,
    CALL_MESSAGE_OPS_MAX = 2,
    CALL_DIRECT_MAX = 2, /* no more calls alive: the finishing thread answers itself */
};

/* Who has the call when it is not being run. From CALL_ANSWERED on it is answered; LINGERS: the
 * server has one request more. */
enum call_phase {
    CALL_RUNS,
    CALL_SUBMITTED,
    CALL_SCANS,
    CALL_SENDS,
    CALL_OPEN,
    CALL_ANSWERED,
    CALL_LINGERS,
    CALL_DONE
};

/* CLAIM_WATCH: the queue's thread asked for the event "closed" by itself. CLAIM_ANSWER: it is part
 * of the answer. */
enum call_claim { CLAIM_NONE, CLAIM_WATCH, CLAIM_ANSWER };

/* Runs on the queue's thread when the call goes on; call->outcome says how what it waited for
 * ended. */
typedef void (*call_step)(struct call *call);
/* A read from local state: the shape of server_range() and its like. Any thread. */
typedef enum outcome (*call_read_fn)(struct server *server, const void *request,
                                     struct buf *response);

struct stream;

struct call {
    struct request request; /* what the server sees; request.response is the message to be sent */
    struct queue *queue;
    const struct method *method;
    struct server *server;
    const void *message; /* the decoded request; in the arena */
    struct arena arena;
    enum call_phase phase;
    enum outcome outcome;
    call_step step; /* what call_resume() does */
    call_read_fn read;
    struct scan_job job;
    void (*work)(struct call *call); /* on a scan thread */
    void *state;                     /* the handler's own, freed by cleanup() when the call ends */
    void (*cleanup)(struct call *call);
    struct stream *stream; /* bidirectional streams only */
    bool last;             /* streams: the message leaves with the status */
    bool cancelled;        /* the client went away */
    bool is_old;           /* it was there when the queue was told to stop */
    bool needs_leader;     /* a stream that ends when there is no leader for long */
    bool late;             /* it came after its deadline */

    /* Of the transport. */
    grpc_call *grpc;
    grpc_metadata_array metadata;
    grpc_byte_buffer *received;
    grpc_byte_buffer *sent;
    struct bytes payload;
    bool headers_sent;
    bool collected;    /* by queue_answer() */
    int fd;            /* of its connection, for corks; -1: not known, CALL_FD_UNASKED */
    bool counted;      /* in the metrics */
    atomic_int claim;  /* enum call_claim: who may ask gRPC for the end of the call */
    int is_cancelled;  /* written by gRPC */
    unsigned n_events; /* events to come: answered, closed, delivered */
    struct status status;
    uint64_t arrived_ns;
    uint64_t lingers_ms; /* since when */
    struct queue_event answered, closed, delivered;
    struct queue_entry finished, woken;
    atomic_bool waking; /* woken is in the inbox */
    bool awaited;       /* a wake comes for certain */
    struct list link;   /* the queue's calls */
    struct call *next_spare;
};

/* ---- for handlers ---- */

/* Answers with the response in request.response (if OK) or with the outcome's status. */
void call_answer(struct call *call, enum outcome outcome);
/* The same with a status of the handler's own; text must live until the call ends. */
void call_answer_status(struct call *call, enum status_code code, const char *text);
/* Proposes the request as it came and answers with the result. */
void call_submit(struct call *call, enum request_kind kind);
/* The same with a payload of the handler's own, which must live as long as the call (its arena). */
void call_submit_payload(struct call *call, enum request_kind kind, struct bytes payload);
/* The same, but takes the step with the result instead of answering. */
void call_submit_then(struct call *call, enum request_kind kind, struct bytes payload,
                      call_step step);

/* From cleanup(): one more request, whose result nobody hears of. The call, answered already, is
 * kept until it is finished; a stop waits for that as queue.h says. The payload lives in the call's
 * arena. */
void call_linger(struct call *call, enum request_kind kind, struct bytes payload);

/* A request that goes to the server by another way, which submit() knows; it is finished and
 * answered as others are. */
void call_submit_by(struct call *call, enum request_kind kind, void (*submit)(struct call *call));

struct call_read_options {
    bool linearizable; /* wait for a read index first */
    bool scan;         /* may take long: run it on the scan pool */
};

void call_read(struct call *call, const struct call_read_options *options, call_read_fn read);
/* Waits for a read index, then takes the step with call->outcome set. */
void call_read_index(struct call *call, call_step step);
/* Runs work on the scan pool, which sets call->outcome, then takes the step. A full pool:
 * OUTCOME_TOO_MANY_REQUESTS at once. */
void call_scan(struct call *call, void (*work)(struct call *call), call_step step);
/* Streams: sends request.response as one message and takes the step when it has left (outcome OK)
 * or can't (OUTCOME_CANCELED). */
void call_send_message(struct call *call, call_step step);
/* Streams that stay open: takes no step, but ends with OUTCOME_CANCELED or OUTCOME_STOPPED when
 * client or server ends it. */
void call_stay_open(struct call *call);
/* The same, but call_wake() lets it take the step. A wake that came while the call did something
 * else is lost: look at what it stands for before waiting. */
void call_wait(struct call *call, call_step step);
/* Any thread, also from inside other functions of the call: wakes a call that waits; several at
 * once count as one. Not once cleanup() has returned. */
void call_wake(struct call *call);
/* The next wake is certain to come, and whoever makes it uses the call's state until then: it lives
 * at least as long. */
void call_await_wake(struct call *call);

/* ---- for queue.c, grpc.c and stream.c ---- */

struct call *call_new(struct queue *q);
struct call *call_free(struct call *call);
/* grpc, metadata and received are set. */
void call_start(struct call *call, const struct method *method);
/* The message in call->received becomes call->message. False: the call is answered. */
bool call_decode(struct call *call);
/* Sends what queue_answer() collected it for: the answer, or a stream's next message. */
void call_send(struct call *call);
int call_socket(struct call *call); /* -1: not known */
/* Instead of request.response: a message in pieces, whose references it takes. */
void call_set_message(struct call *call, grpc_slice *pieces, size_t n);
/* What a batch with request.response as its message consists of; counts the event to come. Without
 * flush gRPC may wait for the next message with its write. */
size_t call_message_ops(struct call *call, grpc_op *ops, bool flush);
/* Asks for the notice that the call is over. If it comes at once, a call that waits is answered. */
void call_watch(struct call *call);
void call_interrupt(struct call *call, bool cancel);
/* The server stops: takes back what a call lingers for, if it has done so for that long. */
void call_end_lingering(struct call *call, uint64_t now_ms, uint64_t patience_ms);
/* For a stream that needs one: there has been no leader for long. */
void call_lose_leader(struct call *call);
/* Empties the arena, and gives back what is too much to be kept. */
void call_trim(struct call *call);
/* Ends a call that waits; others end themselves. */
void call_end_early(struct call *call, enum outcome outcome);
/* Reuses the object if nothing holds it any more. */
void call_let_go(struct call *call);
