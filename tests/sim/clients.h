/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Clients: each has one request under way at a time, at one member, through the doors that api/
 * uses. Every answer goes to history.c; a request whose member dies, or that the client gives up,
 * has an unknown outcome.
 */
#pragma once

#include "rpc.pb-c.h"

#include "server/request.h"
#include "tests/sim/machine.h"

/* Leases of holders.c have higher ids than that. */
#define LEASE_ID_TIMED INT64_C(1000000)
enum { LEASE_TTL_TIMED_MAX_S = 4 };

enum op_kind {
    OP_WRITE, /* an entry of the log */
    OP_RANGE,
    OP_RANGES, /* a transaction of ranges */
};

struct op {
    struct request request; /* of a write, or for the read index */
    enum op_kind kind;
    bool serializable;
    struct buf payload;
    Etcdserverpb__RangeRequest *range;
    Etcdserverpb__TxnRequest *ranges;
    uint64_t number;

    struct client *client; /* NULL: of the proof */
    struct machine *machine;
    unsigned life;
    struct server *server;
    bool waiting; /* at the member */
    bool done;
    bool unknown; /* its member died, or the client gave up */
    enum outcome outcome;

    int64_t floor;   /* revision that an answer must have seen */
    uint64_t lease;  /* that it grants */
    struct op *next; /* all of a run */
};

struct client;
struct rng;

void clients_init(void);
void clients_deinit(void);
void clients_start(void);
void clients_stop(void); /* no new requests */
/* The member's process is gone. */
void clients_lose(struct machine *m);

const struct op *clients_ops(void);

/* A request at m, not of a client. */
struct op *op_new(struct machine *m);
void op_send(struct op *op);

/* What the request is (op_make.c). */
void op_make_init(void);
void op_make_deinit(void);
void op_make_random(struct op *op, struct rng *rng);
void op_make_read(struct op *op, struct rng *rng); /* linearizable */
void op_make_put(struct op *op, const char *key, const char *value);
void op_make_grant(struct op *op, int64_t id, int64_t ttl_s);
void op_make_revoke(struct op *op, int64_t id);
void op_make_attach(struct op *op, int64_t lease, struct rng *rng); /* a key to that lease */
void op_lease_is_known(int64_t id); /* others may use it, and revoke it */
void op_make_range_all(struct op *op, bool serializable);

void op_text(const struct op *op, struct buf *out); /* op_text.c */

/* ---- history.c ---- */

void history_init(void);
void history_begin(struct op *op);
void history_end(struct op *op);
/* When all is over: what was refused has left no trace. */
void history_finish(const struct op *ops);
/* Numbers for the report. */
struct history_counts {
    uint64_t ok, refused, unknown, reads;
};
struct history_counts history_counts(void);
